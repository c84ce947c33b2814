//! The documentation's examples, run as they are printed.
//!
//! A block ` ```console ` is a session: a line that starts with `$ ` is a command, `> ` goes on
//! with it, and what follows is what it prints; `...` stands for any part of a line, alone on a line
//! for any lines. The commands of a block share a shell, which starts in the mount with no objects there. A block ` ```sh ` is a
//! script that has to succeed as a whole; a block ` ```text ` right behind it is what it prints. A
//! block ` ```c ` is the file that a comment before it names: `<!-- jobsd.c -->`; the blocks behind
//! it find it where they start. Behind `<!-- until Ctrl-C -->` is a script that goes on until then,
//! and what it shows. Blocks behind `<!-- fresh machine -->` are for `scripts/fresh-check`.
//!
//! What is printed in a line of text is in [`spans`], what takes more than running it in [`recipes`].

mod promises;
mod recipes;
mod spans;
mod words;

use std::fs;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use crate::common::{BINARY, Running, World, eventually, python};

/// What `scripts/fresh-check` runs: it takes a machine of its own.
const FRESH: &str = "<!-- fresh machine -->";
/// What does not end by itself.
const ENDLESS: &str = "<!-- until Ctrl-C -->";

/// A fenced block.
#[derive(Debug)]
struct Block {
    language: String,
    /// The number of its first line.
    line: usize,
    text: String,
    /// The line before it that is not blank.
    before: String,
}

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut before = String::new();
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                let before = std::mem::take(&mut before);
                let language = language.to_owned();
                open = Some(Block { language, line: number + 2, text: String::new(), before });
            }
            (Some(_), Some("")) => {
                blocks.extend(open.take());
                before = "```".into();
            }
            (Some(block), _) => block.text += &format!("{line}\n"),
            (None, None) if !line.trim().is_empty() => line.clone_into(&mut before),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed: {open:?}");
    blocks
}

/// A command of a session and what it is to print.
struct Step {
    command: String,
    expected: String,
}

fn steps(session: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in session.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: format!("{command}\n"), expected: String::new() });
            continue;
        }
        let step = steps.last_mut().expect("a session starts with a command");
        match line.strip_prefix("> ") {
            Some(more) if step.expected.is_empty() => step.command += &format!("{more}\n"),
            _ => step.expected += &format!("{line}\n"),
        }
    }
    steps
}

/// Whether a line is as expected, `...` standing for any part of it.
fn matches(expected: &str, line: &str) -> bool {
    let mut parts = expected.split("...");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The same for lines, a line `...` standing for any number of them.
fn all_match(expected: &[&str], lines: &[&str]) -> bool {
    match (expected.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((&"...", more)), _) => (0..=lines.len()).any(|from| all_match(more, &lines[from..])),
        (Some((first, more)), Some((line, rest))) => matches(first, line) && all_match(more, rest),
        _ => false,
    }
}

fn assert_prints(place: &str, command: &str, expected: &str, printed: &str) {
    let (wanted, got): (Vec<_>, Vec<_>) = (expected.lines().collect(), printed.lines().collect());
    let same = all_match(&wanted, &got);
    assert!(same, "{place}: {command}is to print\n{expected}but prints\n{printed}");
}

/// What a script begins with: the binary and the Python of the tests in PATH, one stream of output,
/// and the kernel's own default size of messages, which the other tests lower.
fn prelude() -> String {
    let directory = |path: &Path| path.parent().unwrap().display().to_string();
    let (binary, python) = (directory(Path::new(BINARY)), directory(&python()));
    let default = "echo 8192 > /proc/sys/fs/mqueue/msgsize_default";
    format!("exec 2>&1; PATH={binary}:{python}:$PATH TERM=xterm; export TERM; {default}\n")
}

const MARK: char = '\u{1e}';

fn run_session(world: &World, place: &str, before: &str, session: &str) {
    let steps = steps(session);
    let mut script = format!("{}{before}", prelude());
    for step in &steps {
        script += &format!("{}printf '{MARK}'\n", step.command);
    }
    let printed = world.attempt(&script).text();
    let mut printed = printed.split(MARK);
    for Step { command, expected } in &steps {
        let printed = printed.next().unwrap_or("(nothing, the shell having ended before)");
        assert_prints(place, command, expected, printed);
    }
}

fn run_script(world: &World, place: &str, before: &str, script: &str, expected: Option<&str>) {
    let output = world.attempt(&format!("{}{before}set -e\n{script}", prelude()));
    let printed = output.text();
    assert!(output.status.success(), "{place}: {script}{}\n{printed}", output.status);
    if let Some(expected) = expected {
        assert_prints(place, script, expected, &printed);
    }
}

/// Runs a script until it shows what it is to show, and then presses Ctrl-C.
fn run_endless(world: &World, place: &str, before: &str, script: &str, expected: &str) {
    let screen = world.scratch().join("screen");
    let mut running =
        world.start(&format!("exec > {}; {}{before}{script}", screen.display(), prelude()));
    // Blanks may be on the screen without having been printed.
    let shows = |text: &str| {
        let mut rest = text;
        expected.split_whitespace().all(|word| {
            let found = rest.split_once(word);
            rest = found.map_or("", |(_, rest)| rest);
            found.is_some()
        })
    };
    eventually(&format!("{place}: {script} shows {expected}"), || {
        shows(&String::from_utf8_lossy(&fs::read(&screen).unwrap_or_default()))
    });
    assert!(running.ended().is_none(), "{place}: {script} has ended by itself");
    running.signal(libc::SIGINT);
    running.wait();
}

/// A page whose blocks are run.
struct Page {
    file: &'static str,
    /// What a script begins with.
    before: &'static str,
    /// Where it is run, and what runs there meanwhile.
    world: fn() -> (World, Vec<Running>),
}

const README: Page = Page {
    file: "README.md",
    // It mounts by itself, on /mnt/ipc, where nobody else is to see it.
    before: "trap 'cd /; umount -l /mnt/ipc 2> /dev/null || true' EXIT\n",
    world: || {
        let world = World::unmounted();
        world.run("mount -t tmpfs tmpfs /mnt");
        (world, Vec::new())
    },
};

const SEMANTICS: Page =
    Page { file: "docs/semantics.md", before: "", world: || (World::new(), Vec::new()) };

const COOKBOOK: Page = Page {
    file: "docs/cookbook.md",
    before: "cd $SCRATCH/home; export HOME=$PWD TMPDIR=$PWD\n",
    world: recipes::world,
};

impl Page {
    fn blocks(&self) -> Vec<Block> {
        blocks(&read(self.file))
    }

    /// Runs all blocks, each in a world of its own.
    fn run(&self) {
        let blocks = self.blocks();
        let mut files: Vec<(&str, &str)> = Vec::new();
        let mut count = 0;
        for (index, block) in blocks.iter().enumerate() {
            let place = format!("{}:{}", self.file, block.line);
            let output = blocks.get(index + 1).filter(|next| next.language == "text");
            let output = output.filter(|next| next.before == "```").map(|next| next.text.as_str());
            // Shown if it hangs.
            println!("{place}");
            let Block { text, before, .. } = block;
            match block.language.as_str() {
                _ if before == FRESH => continue,
                "sh" if before == ENDLESS => {
                    let shown = output.unwrap_or_else(|| panic!("{place}: what does it show?"));
                    self.apart(&files, |world| {
                        run_endless(world, &place, self.before, text, shown);
                    });
                }
                "sh" => {
                    self.apart(&files, |world| {
                        run_script(world, &place, self.before, text, output);
                    });
                }
                "console" => {
                    self.apart(&files, |world| run_session(world, &place, self.before, text));
                }
                "c" => {
                    let name = before.strip_prefix("<!-- ");
                    let name = name.and_then(|name| name.strip_suffix(" -->"));
                    files.push((name.unwrap_or_else(|| panic!("{place}: its name?")), text));
                    continue;
                }
                "text" if before == "```" => continue,
                other => panic!("{place}: nobody tests a block of {other:?}"),
            }
            count += 1;
        }
        assert!(count > 0, "{} shows nothing", self.file);
    }

    /// Runs something in a world of its own, and in a thread: a thread's second world would be
    /// within its first.
    fn apart(&self, files: &[(&str, &str)], run: impl FnOnce(&World) + Send) {
        let run = || {
            let (world, _others) = (self.world)();
            for (name, text) in files {
                fs::write(world.scratch().join("home").join(name), text).unwrap();
            }
            run(&world);
        };
        let ended = thread::scope(|scope| scope.spawn(run).join());
        ended.unwrap_or_else(|panic| resume_unwind(panic));
    }
}

#[test]
fn the_readme_shows_what_works_when_pasted() {
    README.run();
}

#[test]
fn what_the_semantics_show_is_what_happens() {
    SEMANTICS.run();
}

#[test]
fn the_recipes_work_as_printed() {
    COOKBOOK.run();
}

#[test]
fn the_two_commands_of_the_readme_are_there() {
    let blocks = blocks(&read("README.md"));
    let fresh = blocks.iter().filter(|block| block.before == FRESH);
    let commands: Vec<_> = fresh.flat_map(|block| block.text.lines()).collect();
    assert_eq!(commands.len(), 2);
    for command in commands {
        let script = command.split_whitespace().find(|word| word.contains('/')).unwrap();
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(script).exists(), "{command}");
    }
}

#[test]
fn expectations_may_leave_parts_of_a_line_open() {
    assert!(matches("a", "a") && !matches("a", "ab") && !matches("a", "b"));
    assert!(matches("-rw-... jobs", "-rw-r--r-- 1 root jobs") && matches("...", ""));
    assert!(matches("a...b...c", "axbyc") && !matches("a...b...c", "axc"));
    assert!(!matches("a...", "b") && !matches("...a", "b"));
    assert!(all_match(&["a", "...", "z"], &["a", "z"]) && all_match(&["..."], &["a", "b"]));
    assert!(!all_match(&["a", "...", "z"], &["a", "b"]) && !all_match(&["a"], &[]));
}
