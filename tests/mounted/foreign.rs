//! The tests of others beside a mount that is being listed all the time: `posix_ipc`'s and
//! `sysv_ipc`'s own. They come out as without it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::common::{Running, World, eventually, python};

/// The releases; `scripts/test` leaves their sources, which the tests are part of, beside the Python.
const PINNED: &str = include_str!("../requirements.txt");

/// Runs the tests below a directory as a user, whose limits are not shared with other tests, and
/// prints a line for each.
const RUN: &str = r"
import os, sys, unittest
class Lines(unittest.TestResult):
    def say(self, test, outcome):
        print(test.id(), outcome.replace('\n', ' | '), sep='\t')
    def addSuccess(self, test):
        self.say(test, 'passed')
    def addSkip(self, test, reason):
        self.say(test, 'skipped: ' + reason)
    def addFailure(self, test, error):
        self.say(test, 'failed: ' + self._exc_info_to_string(error, test))
    addError = addUnexpectedSuccess = addFailure
sys.path.insert(0, '.')
suite = unittest.defaultTestLoader.discover('tests', top_level_dir='.')
uid = int(sys.argv[1])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
suite.run(Lines())
";

fn sources(package: &str) -> PathBuf {
    let release = PINNED.lines().find_map(|line| line.strip_prefix(&format!("{package}==")));
    let version = release.expect("pinned").split(' ').next().unwrap();
    let venv = python().ancestors().nth(2).unwrap().to_path_buf();
    let dir = venv.join(format!("src/{package}-{version}"));
    assert!(dir.exists(), "{} is missing; scripts/test fetches it", dir.display());
    dir
}

/// Starts a package's tests behind a command that leads to where they are to run.
fn start(world: &World, through: &str, package: &str, uid: u32) -> Running {
    let mut command = world.command("bash");
    command.args(["-c", &format!("{through} \"$@\""), "bash"]).arg(python());
    command.args(["-B", "-c", RUN, &uid.to_string()]).current_dir(sources(package));
    Running::start(command)
}

/// The outcome of each test.
fn outcomes(tests: Running) -> BTreeMap<String, String> {
    let output = tests.output();
    assert!(output.status.success(), "{}: {}", output.status, output.errors);
    let text = output.text();
    let lines = text.lines().map(|line| line.split_once('\t').expect("a test and its outcome"));
    lines.map(|(test, outcome)| (test.to_owned(), outcome.to_owned())).collect()
}

/// Runs a package's tests beside the mount and where there is none; `skipped` are those that it
/// does not run on Linux itself.
fn compare(package: &str, tests: usize, skipped: &[&str], uid: u32) {
    let world = World::new();
    let mut lister = world.start(
        "while [ ! -e $SCRATCH/stop ]; do
            ls -lR 2>> $SCRATCH/errors > $SCRATCH/list
            cat ctl/summary > $SCRATCH/summary || exit 1
            sed 1d $SCRATCH/summary >> $SCRATCH/seen
            echo >> $SCRATCH/rounds
        done",
    );
    eventually("it is being listed", || world.scratch().join("rounds").exists());
    let beside = start(&world, "", package, uid);
    let elsewhere = "unshare --ipc --mount --propagation private bash -c \
                     'mount -t tmpfs -o mode=1777 tmpfs /dev/shm && exec \"$@\"' bash";
    let without = start(&world, elsewhere, package, uid + 1);
    let (beside, without) = (outcomes(beside), outcomes(without));

    assert_eq!(without.len(), tests, "{without:#?}");
    for (test, outcome) in &without {
        let expected = if skipped.contains(&&**test) { "skipped" } else { "passed" };
        assert!(outcome.starts_with(expected), "without the mount, {test}: {outcome}");
    }
    assert_eq!(beside, without);
    fs::write(world.scratch().join("stop"), "").unwrap();
    assert!(lister.wait().success(), "{}", lister.errors());
    // The listings saw the tests' objects, and missed nothing but what was removed meanwhile.
    world.run("[ $(wc -l < $SCRATCH/rounds) -ge 5 ] && [ -s $SCRATCH/seen ]");
    world.fail("grep -v 'No such file or directory' $SCRATCH/errors");
}

#[test]
fn posix_ipcs_own_tests() {
    compare("posix_ipc", 93, &[], 4210);
}

#[test]
fn sysv_ipcs_own_tests() {
    // msgrcv(2) with a negative type takes the lowest type and not, as this test wants it, the
    // oldest message; sysv_ipc skips it on Linux.
    let skipped = [
        "tests.test_message_queues.TestMessageQueueSendReceive.test_message_type_receive_specific_order",
    ];
    compare("sysv_ipc", 137, &skipped, 4220);
}
