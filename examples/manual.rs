//! Writes what is installed beside the binary to a directory: man pages and the shells'
//! completions. `cargo run --release --example manual -- DIRECTORY`.
//!
//! Pages and completions are made from the command line's own description, so that they cannot
//! differ from it.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, CommandFactory};
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use ipcfs::cli::MOUNT_OPTIONS;

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
        let (name, text) = completions(shell)?;
        fs::write(directory.join(name), text)?;
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man/ipcfs.5");
    fs::copy(page, directory.join("ipcfs.5"))?;
    Ok(())
}

/// A shell's completions, and what their file is called.
fn completions(shell: Shell) -> Result<(&'static str, String), Box<dyn Error>> {
    // What only mount(8) gives is not offered; the names of mount options are.
    let whole = ipcfs::cli::Arguments::command();
    let shown = whole.get_arguments().filter(|argument| !argument.is_hide_set()).cloned();
    let options = |argument: Arg| match argument.get_short() {
        Some('o') => argument.value_parser(PossibleValuesParser::new(MOUNT_OPTIONS)),
        _ => argument,
    };
    let version = env!("CARGO_PKG_VERSION");
    let mut command = Command::new("ipcfs").version(version).args(shown.map(options));
    let mut text = Vec::new();
    generate(shell, &mut command, "ipcfs", &mut text);
    let text = String::from_utf8(text)?;
    Ok(match shell {
        Shell::Bash => ("ipcfs.bash", bash(&text)?),
        Shell::Zsh => ("_ipcfs", text),
        _ => ("ipcfs.fish", text),
    })
}

/// What `clap_complete`'s script for bash lacks: directories for what is no option, and mount options
/// behind a comma.
fn bash(text: &str) -> Result<String, Box<dyn Error>> {
    let replace = |text: &str, from: &str, to: &str| match text.matches(from).count() {
        1 => Ok(text.replace(from, to)),
        _ => Err(format!("clap_complete has another script for bash, without {from}")),
    };
    let text = replace(
        text,
        "if [[ ${cur} == -* || ${COMP_CWORD} -eq 1 ]] ; then",
        "if [[ ${cur} == -* ]] ; then",
    )?;
    let end = "esac\n            COMPREPLY=( $(compgen -W \"${opts}\" -- \"${cur}\") )\n";
    let directories = "esac
            local IFS=$'\\n'
            COMPREPLY=( $(compgen -d -- \"${cur}\") )
            compopt -o filenames 2> /dev/null
";
    let text = replace(&text, end, directories)?;
    let names = MOUNT_OPTIONS.join(" ");
    let first = format!("COMPREPLY=($(compgen -W \"{names}\" -- \"${{cur}}\"))\n");
    let each = format!(
        "local before=
                    [[ ${{cur}} != *,* ]] || before=${{cur%,*}},
                    COMPREPLY=($(compgen -P \"${{before}}\" -W \"{names}\" -- \"${{cur##*,}}\"))
                    compopt -o nospace 2> /dev/null
"
    );
    Ok(replace(&text, &first, &each)?)
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
