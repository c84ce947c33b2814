//! Names, paths and options are the same word everywhere: on the command line, in its help, in the
//! completions, the manual pages, the README, the tree, its own pages, its reports and errors.

use std::collections::BTreeSet;
use std::process::Command;

use clap::CommandFactory;
use clap_complete::{Shell, generate};
use ipcfs::cli::{Arguments, MountOptions};
use ipcfs::kind::KINDS;

use super::read;
use crate::common::{BINARY, World};

type Words = BTreeSet<String>;

const PAGES: [&str; 6] = [
    "README.md",
    "docs/semantics.md",
    "docs/cookbook.md",
    "docs/security.md",
    "docs/man/ipcfs.5",
    "docs/man/ipcfs.8.roff",
];

/// What stands between two texts, each time.
fn between<'text>(text: &'text str, before: &str, after: char) -> impl Iterator<Item = &'text str> {
    text.split(before).skip(1).filter_map(move |rest| Some(rest.split_once(after)?.0))
}

/// The code spans of a table's first column, in the tables whose head begins so.
fn first_column(text: &str, head: &str) -> Words {
    let mut words = Words::new();
    let mut within = false;
    for line in text.lines() {
        within = line.starts_with(head) || (within && line.starts_with('|'));
        if within && line.starts_with("| `") {
            let cell = line[1..].split(" | ").next().unwrap();
            words.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    assert!(!words.is_empty(), "{head}");
    words
}

/// A mount option without its value.
fn name(option: &str) -> String {
    option.split('=').next().unwrap().to_owned()
}

fn help() -> String {
    let output = Command::new(BINARY).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn options_are_the_same_on_the_command_line_and_wherever_they_are_listed() {
    let command = Arguments::command();
    let help = help();
    let readme = first_column(&read("README.md"), "| option |");
    let mut listed = Words::new();
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let short = argument.get_short().map(|letter| format!("-{letter}"));
        let long = argument.get_long().map(|long| format!("--{long}"));
        let Some(option) = short.clone().or(long.clone()) else { continue };
        // The README has one spelling of each, the short one.
        assert!(readme.contains(&option), "README.md: {option}");
        listed.insert(option);
        for spelling in [&short, &long].into_iter().flatten() {
            assert!(
                help.contains(&format!("{spelling} ")) || help.contains(&format!("{spelling},"))
            );
            for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                let mut completions = Vec::new();
                generate(shell, &mut Arguments::command(), "ipcfs", &mut completions);
                let completions = String::from_utf8(completions).unwrap();
                // fish names them without their dashes.
                let word =
                    if shell == Shell::Fish { spelling.trim_start_matches('-') } else { spelling };
                assert!(completions.contains(word), "{shell}: {spelling}");
            }
        }
    }
    // Those that clap adds.
    listed.extend(["-h".into(), "-V".into()]);
    let readme: Words = readme.into_iter().filter(|word| word.starts_with('-')).collect();
    assert_eq!(readme, listed);
    // Whatever is called an option of ipcfs's in text is one.
    for page in PAGES {
        let text = read(page).replace("\\-", "-");
        for option in between(&text, "ipcfs --", ' ')
            .map(|rest| rest.split(['`', '\\', '\n']).next().unwrap())
        {
            let option = option.trim_end_matches(|end: char| !end.is_ascii_alphanumeric());
            assert!(help.contains(&format!("--{option}")), "{page}: --{option}");
        }
    }
}

#[test]
fn mount_options_are_the_same_on_the_command_line_and_wherever_they_are_listed() {
    let readme = read("README.md");
    let readme: Words = between(&readme, "| `-o ", '`').map(name).collect();
    let help = help();
    let listed = between(&help, "separated by commas: ", ':').next().unwrap();
    let listed = listed.split(", and what").next().unwrap();
    let listed: Words = listed.split(", ").map(|option| name(option.trim_matches('`'))).collect();
    assert_eq!(readme, listed, "README.md and --help");
    let manual = read("docs/man/ipcfs.8.roff");
    let manual = between(&manual, "\"MOUNT OPTIONS\"\n", '\0').next().unwrap_or(&manual);
    let manual =
        manual.split(".SH").find(|section| section.contains(".TP\n\\fBallow_other")).unwrap();
    let manual: Words = between(manual, ".TP\n\\fB", '\\').map(name).collect();
    assert_eq!(manual, listed, "ipcfs(8) and --help");
    for option in &listed {
        // One with a value is refused without, by its name; one without is taken.
        let takes_value = help.contains(&format!("{option}="));
        match MountOptions::parse(option) {
            Ok(_) => assert!(!takes_value, "{option}"),
            Err(sentence) => assert!(takes_value && sentence.contains(&format!("\"{option}\""))),
        }
        if takes_value {
            let wrong = MountOptions::parse(format!("{option}="));
            assert!(wrong.unwrap_err().contains(option.as_str()), "{option}");
        }
    }
    for page in PAGES {
        for option in between(&read(page), "`-o ", '`').flat_map(|options| options.split(',')) {
            assert!(listed.contains(&name(option)), "{page}: -o {option}");
        }
    }
}

/// The files of ctl/ and of the objects' directories in it; those in JSON, and numbers, left out.
fn control_files(world: &World) -> Words {
    let files = world.run(
        "printf 'mq/q\\nshm/m size=1\\nsem/s\\nfifo/f\\nsysv/msg/1\\nsysv/sem/2\\nsysv/shm/3 size=1' > ctl/create
         cd ctl; find -maxdepth 1 -type f -printf '%f\\n'
         find mq/q shm/m sem/s fifo/f sysv/*/0x* -mindepth 1 -maxdepth 1 -printf '%f\\n'",
    );
    files.lines().filter(|name| *name != "README").map(control_name).collect()
}

/// `priority/P` is `priority`; what is in JSON is the same.
fn control_name(word: &str) -> String {
    word.split('/').next().unwrap().trim_end_matches(".json").to_owned()
}

#[test]
fn the_files_of_ctl_are_the_same_in_the_tree_and_wherever_they_are_listed() {
    let world = World::new();
    let files = control_files(&world);
    let text = read("docs/semantics.md");
    let semantics: Words = ["| file | | |", "| file | of | |"]
        .iter()
        .flat_map(|head| first_column(&text, head))
        .map(|word| control_name(&word))
        .collect();
    assert_eq!(semantics, files, "docs/semantics.md and the tree");

    let manual = read("docs/man/ipcfs.5");
    let manual = between(&manual, ".Ss ctl/\n", '\0')
        .next()
        .unwrap_or_else(|| manual.split(".Ss ctl/\n").nth(1).unwrap());
    let manual = manual.split(".Ss ").next().unwrap();
    let items = manual.lines().filter_map(|line| line.strip_prefix(".It "));
    let items = items.flat_map(|item| {
        item.split("Pa ").skip(1).map(|word| word.split([' ', ',']).next().unwrap())
    });
    let manual: Words = items.map(control_name).filter(|name| name != "README").collect();
    assert_eq!(manual, files, "ipcfs(5) and the tree");

    let page = world.run("cat ctl/README");
    // What is listed there stands before two blanks.
    let names = page.lines().filter_map(|line| Some(line.trim_start().split_once("  ")?.0));
    let names = names.flat_map(|names| names.split(", ")).map(control_name);
    let names: Words = names.filter(|name| !name.contains([' ', ':']) && name != "KIND").collect();
    assert_eq!(names, files, "ctl/README and the tree");

    // What the README warns of, and all paths below ctl/ that are given anywhere.
    let readme = read("README.md");
    let taking = readme.split("Which reads take").nth(1).unwrap().split("Keep ").next().unwrap();
    for word in taking.split('`').skip(1).step_by(2).filter(|word| !word.contains(' ')) {
        let kinds = KINDS.iter().any(|kind| format!("{}/", kind.path) == word);
        assert!(
            kinds || word == "ctl/" || files.contains(&control_name(word)),
            "README.md: {word}"
        );
    }
    for page in PAGES {
        let text = read(page);
        for path in between(&text, "ctl/", ' ')
            .map(|rest| rest.split(['`', '\n', '\t', '"', ')', ';', '|', ',']).next().unwrap())
        {
            let path = path.trim_end_matches(|end: char| !end.is_ascii_alphanumeric());
            let kind = KINDS.iter().find_map(|kind| path.strip_prefix(&format!("{}/", kind.path)));
            let file = match kind {
                // The object, and its file if one is named.
                Some(rest) => rest.split('/').nth(1).unwrap_or("status"),
                None => path,
            };
            let known = ["", "README"].contains(&file) || files.contains(&control_name(file));
            assert!(
                known || KINDS.iter().any(|kind| kind.path.starts_with(file)),
                "{page}: ctl/{path}"
            );
        }
    }
}

/// What the items of a section of ipcfs(5) are about, all macros left out.
fn items(manual: &str, section: &str) -> Words {
    let text = manual.split(&format!("{section}\n")).nth(1).unwrap_or_else(|| panic!("{section}"));
    let text = text.split("\n.Ss ").next().unwrap().split("\n.Sh ").next().unwrap();
    let words = text.lines().filter_map(|line| line.strip_prefix(".It "));
    words.flat_map(str::split_whitespace).map(|word| word.trim_end_matches('=').into()).collect()
}

/// Everything of `needed` that the section lacks.
fn lacking(manual: &str, section: &str, needed: impl IntoIterator<Item = String>) -> Words {
    let items = items(manual, section);
    needed.into_iter().filter(|word| !items.contains(word)).collect()
}

#[test]
fn the_manual_page_of_the_tree_has_all_attributes_fields_limits_and_samples() {
    let world = World::new();
    control_files(&world);
    let manual = read("docs/man/ipcfs.5");
    let none = Words::new();
    let words = |script: &str| -> Vec<String> {
        let words: Vec<_> = world.run(script).split_whitespace().map(str::to_owned).collect();
        assert!(!words.is_empty(), "{script}");
        words
    };
    let attributes = KINDS.iter().flat_map(|kind| kind.attributes).map(|name| (*name).into());
    let attributes = attributes.chain(["mode".into()]);
    assert_eq!(lacking(&manual, ".Ss What create takes", attributes), none);
    let fields = words("cat ctl/*/*/status ctl/sysv/*/*/status | cut -d= -f1");
    assert_eq!(lacking(&manual, ".Ss Fields of status", fields), none);
    world.run("[ -z \"$(cut -d= -f1 ctl/limits | sort | uniq -d)\" ]");
    let limits = words("sed 's/=.*//; s/_max$//' ctl/limits");
    assert_eq!(lacking(&manual, ".Ss Fields of limits", limits), none);
    let columns = words("head -n 1 ctl/summary");
    assert_eq!(lacking(&manual, ".Ss Columns of summary", columns), none);
    let keys = words("jq -r '.[]|keys[]' ctl/summary.json");
    for key in keys {
        let section = manual.split(".Ss Columns of summary\n").nth(1).unwrap();
        assert!(section.split(".Ss ").next().unwrap().contains(&key), "{key}");
    }
    let samples = words("sed -n 's/^# TYPE \\([^ ]*\\).*/\\1/p' ctl/metrics");
    assert_eq!(lacking(&manual, ".Ss Samples of metrics", samples), none);
}

/// The Rust sources below a directory, without their tests.
fn sources(directory: &std::path::Path, into: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            into.push_str(text.split("#[cfg(test)]").next().unwrap());
        }
    }
}

#[test]
fn the_manual_page_of_the_tree_has_all_errors() {
    let mut code = String::new();
    sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut code);
    let code: String = code.split_whitespace().collect();
    let errno = |rest: &str| {
        rest.split(|end: char| !end.is_ascii_uppercase() && !end.is_ascii_digit())
            .next()
            .unwrap()
            .to_owned()
    };
    let given = ["fail(Errno::", "because(Errno::", "fuser::Errno::"];
    let given: Words =
        given.iter().flat_map(|before| code.split(before).skip(1)).map(errno).collect();
    // What others make of them: `ENOSYS` is `EOPNOTSUPP` to the caller.
    let given = given.into_iter().filter(|name| name.len() > 2 && name != "ENOSYS");
    assert_eq!(lacking(&read("docs/man/ipcfs.5"), ".Sh ERROR NUMBERS", given), Words::new());
}

#[test]
fn kinds_are_called_by_their_paths_everywhere() {
    let world = World::new();
    control_files(&world);
    for kind in &KINDS {
        let path = kind.path;
        for page in ["README.md", "docs/semantics.md"] {
            assert!(read(page).contains(&format!("`{path}/")), "{page}: {path}");
        }
        assert!(read("docs/man/ipcfs.5").contains(&format!(".It Pa {path}/")), "ipcfs(5): {path}");
        // In the tree's own page, in reports, in errors.
        world.run(&format!(
            "grep -q '^  {path}/' README; grep -q '^{path} ' ctl/summary
             ! mkdir {path}/new 2> /dev/null; cut -f 3 ctl/errors | grep -qx {path}/new
             jq -e 'any(.[]; .kind == \"{path}\")' ctl/summary.json > /dev/null
             grep -q 'kind=\"{path}\"' ctl/metrics; cut -d/ -f 1-2 ctl/orphans | grep -q '^{path}'"
        ));
    }
}

#[test]
fn the_scripts_take_the_options_that_their_help_shows() {
    for script in ["bench", "fresh-check", "install", "quickstart", "soak", "test"] {
        let path = format!("scripts/{script}");
        let text = read(&path);
        let full = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(&path);
        let output = Command::new(full).arg("-h").output().unwrap();
        assert!(output.status.success(), "{path} -h: {output:?}");
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(!help.trim().is_empty(), "{path} -h");
        let code =
            text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<String>();
        // What is not its own it hands on.
        let code =
            if script == "bench" { code + &read("benches/compare/__main__.py") } else { code };
        let words = help.split(|end: char| end.is_whitespace() || "[]|()`,;".contains(end));
        for option in words.filter(|word| word.starts_with("--") && word.len() > 2) {
            let option = option.trim_end_matches(['.', ':']);
            assert!(code.contains(option), "{path}: {option}");
        }
    }
}

#[test]
fn the_library_is_called_as_the_manual_page_says() {
    let library = read("scripts/ipcfs.sh");
    let manual = read("docs/man/ipcfs.5");
    let mut functions = 0;
    for synopsis in manual.lines().filter_map(|line| line.strip_prefix(".It Ic ipc_")) {
        functions += 1;
        // As mdoc(7) shows it.
        let mut words: Vec<String> = Vec::new();
        let (mut open, mut option) = (false, false);
        for word in synopsis.split_whitespace() {
            match word {
                "Oo" | "Op" => open = true,
                "Oc" => words.last_mut().unwrap().push(']'),
                "Ar" | "Ic" => {}
                "Fl" => option = true,
                "|" | "..." => words.push(word.into()),
                word => {
                    let dash = if option { "-" } else { "" };
                    let bracket = if open { "[" } else { "" };
                    words.push(format!("{bracket}{dash}{word}"));
                    (open, option) = (false, false);
                }
            }
        }
        let mut shown = format!("ipc_{}", words.join(" "));
        // `Op` closes at the end of its line.
        if synopsis.contains(" Op ") {
            shown.push(']');
        }
        let shown = shown.replace("[ARGUMENT ...]", "[ARGUMENT]...");
        assert!(library.contains(&format!("# {shown}\n")), "ipcfs.sh: {shown}");
        // And as it says itself when it is called wrongly, where the lines may be cut.
        let code = library.lines().filter(|line| !line.starts_with('#')).collect::<String>();
        let code: String = code.split(['\'', '\\', '\t', ' ']).collect();
        let arguments = shown.split_once(' ').unwrap().1.replace(' ', "");
        assert!(code.contains(&arguments), "ipcfs.sh: usage: {shown}");
    }
    assert_eq!(functions, 6);
}
