//! The commands that are printed within text, the manual pages' examples and the tree's own pages.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{COOKBOOK, README, SEMANTICS, read, run_script};
use crate::common::World;

/// Commands that do not work as they stand, or show nothing so: what is run instead, `{}` being the
/// command as it is printed. It is run in the mount, where mq/jobs has a message and F is no object.
/// Whatever is in no line here has to succeed as it stands, or to be in a script below tests/.
const COMPLETED: &[(&str, &str)] = &[
    // A part of a command.
    ("cd /mnt/ipc", "cd /; {}; ls mq"),
    ("dd if=mq/jobs iflag=nonblock status=none", "[ \"$({})\" = hello ]"),
    ("echo +1 >", "{} sem/s; [ $(cat sem/s) = 1 ]"),
    ("echo +2 >", "{} sem/s; [ $(cat sem/s) = 2 ]"),
    ("echo +N >", "N=2; {} sem/s || N=; echo +2 > sem/s; [ $(cat sem/s) = 2 ]"),
    ("echo -1 >", "echo 2 > sem/s; {} sem/s; [ $(cat sem/s) = 1 ]"),
    ("echo -N >", "echo 2 > sem/s; ! {} sem/s; echo -2 > sem/s; [ $(cat sem/s) = 0 ]"),
    ("echo 3 >", "{} sem/s; [ $(cat sem/s) = 3 ]"),
    ("echo 5 > /mnt/ipc/sem/downloads", "{}; [ $(cat sem/downloads) = 5 ]"),
    (
        "echo \"0 -1, 1 +2\" >",
        "{SET}; echo '= 1 0 3' > sysv/sem/9; {} sysv/sem/9; [ \"$(cat sysv/sem/9)\" = '0 2 3' ]",
    ),
    ("echo \"= 1 0 3\" >", "{SET}; {} sysv/sem/9; [ \"$(cat sysv/sem/9)\" = '1 0 3' ]"),
    ("echo \"2 = 5\" >", "{SET}; {} sysv/sem/9; [ \"$(cat sysv/sem/9)\" = '0 0 5' ]"),
    ("echo >", "{} mq/jobs; [ $(stat -c %s mq/jobs) = 7 ]"),
    // It takes what it finds, as the page says.
    ("grep -r", "{} none mq || [ $(stat -c %s mq/jobs) = 0 ]"),
    ("head -c 9000", "rm mq/jobs; {} /dev/zero > mq/jobs; . ctl/mq/jobs/status; [ $curmsgs = 2 ]"),
    ("ipc_ftok PATH ID", "{LIBRARY}; ! {}; ipc_ftok /etc/hosts A"),
    ("ipc_lock -n", "{LIBRARY}; {} lock true"),
    (
        "kill -9",
        "cat sem/none 2> /dev/null || true; rm mq/jobs; touch mq/jobs; cat mq/jobs & {} $!; ! wait $!",
    ),
    ("ls -l", "{} mq | grep -q ' 6 .* jobs$'"),
    ("ln -s 0x4d2 sysv/msg/jobs", "{}; echo x > sysv/msg/jobs; ls sysv/msg | grep -qx 0x000004d2"),
    ("printf %s", "{} x > mq/jobs; [ $(stat -c %s mq/jobs) = 7 ]"),
    // Why it is not to be used: the time is over, and it waits.
    (
        "read -t",
        "rm mq/jobs; touch mq/jobs; [ $(timeout 1.5 bash -c '{} 0.1 x < mq/jobs'; echo $?) = 124 ]",
    ),
    ("test -s", "{} mq/jobs"),
    ("truncate -s 0", "{} mq/jobs; [ $(stat -c %s mq/jobs) = 0 ]"),
    (
        "truncate -s 64K F",
        "cd sysv/shm; F=0x77; ! {} 2> /dev/null; truncate -s 64K $F; [ $(stat -c %s $F) = 65536 ]",
    ),
    // F stands for a file.
    ("touch F", "cd mq; {}; [ -e F ]"),
    ("cat F", "cd sem; echo 3 > F; [ $({}) = 3 ]"),
    ("rm F", "cd sem; echo 3 > F; {}; ! [ -e F ]"),
    ("echo ... > F", "cd mq; {}; [ \"$(cat F)\" = ... ]"),
    // Of the mount itself.
    (
        "fusermount3 -u",
        "mkdir $SCRATCH/own; ipcfs $SCRATCH/own; {} $SCRATCH/own; ! mountpoint -q $SCRATCH/own",
    ),
    ("ipcfs [OPTIONS] [SOURCE] MOUNTPOINT", "ipcfs --help | grep -qF ' {}'"),
    ("[ -s there/mq/jobs ]", "cd /mnt; ln -s ipc there; {}; rm there"),
    // Goes on until Ctrl-C.
    (
        "seq 9 >lines; cat lines",
        "cd ctl/mq/jobs; ! timeout 0.5 bash -c '{}' > ~/out; [ $(wc -l < ~/out) = 10 ]",
    ),
    // Said of the cookbook's examples, where they are run.
    (
        "grep -vxFf done todo > /mnt/ipc/ctl/mq/jobs/lines",
        "cd ~; seq 3 > todo; seq 2 > done; {}; [ \"$(cat /mnt/ipc/ctl/mq/jobs/drain)\" = \"hello
3\" ]",
    ),
];

/// What shells have built in, as far as it is used.
const BUILTINS: &[&str] =
    &[".", "[", "cd", "echo", "exec", "kill", "printf", "read", "test", "trap", "umask", "wait"];

/// The code spans of a text, its blocks left out.
fn spans(text: &str) -> BTreeSet<String> {
    let mut within = false;
    let lines = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        within ^= fence;
        !fence && !within
    });
    // A span may go on in the next line, but not in the next paragraph.
    let text = lines.collect::<Vec<_>>().join("\n");
    let paragraphs = text.split("\n\n");
    let odd = |paragraph: &str| {
        let pieces = paragraph.split('`').map(|piece| piece.replace('\n', " "));
        pieces.skip(1).step_by(2).collect::<Vec<_>>()
    };
    paragraphs.flat_map(odd).collect()
}

/// Whether a span is a command: more than a name, and its first word can be run.
fn is_command(span: &str) -> bool {
    let mut words = span.split_whitespace();
    let (Some(first), Some(_)) = (words.next(), words.next()) else { return false };
    let path = std::env::var("PATH").unwrap_or_default();
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    BUILTINS.contains(&first)
        || first == "ipcfs"
        || first.starts_with("ipc_")
        || (first.starts_with("scripts/") && project.join(first).exists())
        || (!first.contains('/')
            && path.split(':').any(|place| Path::new(place).join(first).is_file()))
}

/// Whether a script below tests/ has it.
fn is_in_a_script(command: &str) -> bool {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let files = fs::read_dir(tests).unwrap().flatten().map(|file| file.path());
    let scripts = files.filter(|file| file.extension().is_some_and(|kind| kind == "sh"));
    scripts.map(|file| fs::read_to_string(file).unwrap()).any(|text| text.contains(command))
}

fn run(world: &World, command: &str) {
    let completed = COMPLETED.iter().find(|(known, _)| *known == command);
    if completed.is_none() && is_in_a_script(command) {
        return;
    }
    let script = completed.map_or("{}", |(_, script)| script).replace("{}", command);
    let script = script
        .replace("{SET}", "echo 'sysv/sem/9 nsems=3' > ctl/create")
        .replace("{LIBRARY}", ". /usr/local/share/ipcfs/ipcfs.sh");
    let before = format!("{}cd /mnt/ipc; echo hello > mq/jobs\n", COOKBOOK.before);
    println!("{command}");
    run_script(world, command, &before, &script, None);
    world
        .run("cd /mnt/ipc; rm -f mq/* shm/* sem/* fifo/* sysv/*/0x* sysv/msg/jobs $SCRATCH/home/*");
}

#[test]
fn the_commands_within_the_text_work() {
    let mut commands = BTreeSet::new();
    for page in [README, SEMANTICS, COOKBOOK] {
        commands.extend(spans(&read(page.file)).into_iter().filter(|span| is_command(span)));
    }
    let count = commands.len();
    assert!(count > 30, "{commands:?}");
    // The tree's own pages print commands between two blanks, or behind a colon.
    for page in ["src/tree/readme.txt", "src/tree/readme-ctl.txt"] {
        let text = read(page);
        let parts =
            text.lines().flat_map(|line| line.split("  ")).flat_map(|part| part.split(": "));
        let parts = parts.filter(|part| is_command(part) && part.contains(['/', '>', '[']));
        commands.extend(parts.map(|part| part.trim().to_owned()));
    }
    assert!(commands.len() > count + 5, "{commands:?}");
    for (known, _) in COMPLETED {
        assert!(commands.contains(*known), "nobody says {known:?} any more");
    }
    COOKBOOK.apart(&[], |world| {
        for command in &commands {
            run(world, command);
        }
    });
}

#[test]
fn lines_for_create_make_what_they_say() {
    let mut lines = BTreeSet::new();
    for page in [README, SEMANTICS, COOKBOOK] {
        lines.extend(spans(&read(page.file)).into_iter().filter(|span| {
            let (path, rest) = span.split_once(' ').unwrap_or_default();
            path.contains('/') && rest.split(' ').all(|word| word.contains('='))
        }));
    }
    assert!(lines.len() >= 6, "{lines:?}");
    let world = World::new();
    for line in lines {
        world
            .run(&format!("echo '{line}' > ctl/create; ls -d {}", line.split(' ').next().unwrap()));
    }
}

/// The literal blocks of a manual page's examples.
fn examples(page: &str) -> Vec<String> {
    let text = page.split("EXAMPLES").nth(1).unwrap();
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        match (&mut open, line) {
            (None, line) if line == ".EX" || line.starts_with(".Bd -literal") => {
                open = Some(String::new());
            }
            (Some(_), ".EE" | ".Ed") => blocks.extend(open.take()),
            (Some(block), line) => {
                *block += &format!("{}\n", line.replace("\\&", "").replace("\\-", "-"));
            }
            // The next section.
            (None, line) if line.to_ascii_lowercase().starts_with(".sh") => break,
            (None, _) => {}
        }
    }
    assert!(!blocks.is_empty());
    blocks
}

#[test]
fn the_examples_of_the_manual_pages_work() {
    let page = "docs/man/ipcfs.5";
    COOKBOOK.apart(&[], |world| {
        let script = examples(&read(page)).concat();
        let before = format!("{}cd /mnt/ipc\n", COOKBOOK.before);
        run_script(world, page, &before, &script, Some("there is work\nhello\n...\n"));
    });
    let page = "docs/man/ipcfs.8.roff";
    README.apart(&[], |world| {
        run_script(world, page, README.before, &examples(&read(page)).concat(), Some("hello\n"));
    });
}

#[test]
fn what_is_printed_within_text_is_found() {
    let found = spans("Say `a b`, `c\nd`.\n\n```sh\n`e f`\n```\n| `g h` | `` |\n");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["", "a b", "c d", "g h"]);
    assert!(is_command("cat F") && is_command("[ -s mq/jobs ]") && is_command("echo >"));
    assert!(!is_command("cat") && !is_command("mq/jobs maxmsg=5") && !is_command("INDEX OP"));
    assert!(is_in_a_script("scripts/quickstart") && !is_in_a_script("scripts/no-such-script"));
}
