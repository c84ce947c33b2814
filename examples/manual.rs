//! Writes what is installed beside the binary to a directory: man pages and the shells'
//! completions. `cargo run --release --example manual -- DIRECTORY`.
//!
//! Pages and completions are made from the command line's own description, so that they cannot
//! differ from it.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

/// When the pages were last revised.
const DATE: &str = "2026-11-20";

/// The sections of ipcfs(8) behind the options.
const SECTIONS: &str = include_str!("../docs/man/ipcfs.8.roff");

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.ok_or("the directory to write to is missing")?;
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("ipcfs.8"), command_page()?)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut command = ipcfs::cli::Arguments::command();
        generate_to(shell, &mut command, "ipcfs", &directory)?;
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man/ipcfs.5");
    fs::copy(page, directory.join("ipcfs.5"))?;
    Ok(())
}

/// ipcfs(8).
fn command_page() -> Result<Vec<u8>, Box<dyn Error>> {
    let version = env!("CARGO_PKG_VERSION");
    let man = Man::new(ipcfs::cli::Arguments::command())
        .title("IPCFS")
        .section("8")
        .date(DATE)
        .source(format!("ipcfs {version}"))
        .manual("System Manager's Manual");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut page: String = String::from_utf8(page)?.lines().map(code).map(|it| fold(&it)).collect();
    page += SECTIONS;
    Ok(page.into_bytes())
}

/// What is between backquotes in the command's own description is bold in a manual page.
fn code(line: &str) -> String {
    let mut pieces = line.split('`');
    let mut text: String = pieces.next().unwrap_or_default().into();
    for (index, piece) in pieces.enumerate() {
        text += if index % 2 == 0 { r"\fB" } else { r"\fR" };
        text += piece;
    }
    text
}

/// Breaks a line of text, which roff(7) joins again; requests stay as they are.
fn fold(line: &str) -> String {
    if line.starts_with(['.', '\'']) {
        return format!("{line}\n");
    }
    let mut folded = String::new();
    let mut width = 0;
    for word in line.split(' ') {
        let fits = width + word.len() < 80 || word.starts_with(['.', '\'']);
        if width > 0 {
            folded.push(if fits { ' ' } else { '\n' });
            width = if fits { width + 1 } else { 0 };
        }
        folded += word;
        width += word.len();
    }
    folded + "\n"
}
