//! A handler that panics.

use crate::common::World;
#[cfg(debug_assertions)]
use crate::common::{THREADS, eventually};

/// A handler and what makes the kernel call it; and whether who asked sees the error.
#[cfg(debug_assertions)]
const HANDLERS: [(&str, &str, bool); 24] = [
    // By a name that the kernel does not know yet: else it asks once more.
    ("lookup", "stat sysv/msg/id-0", true),
    ("getattr", "exec 3< mq/q; stat -L /dev/fd/3", true),
    ("setattr", "chmod 640 mq/q", true),
    ("mknod", "mkfifo fifo/new", true),
    ("unlink", "rm mq/gone", true),
    ("symlink", "ln -s 0x77 sysv/msg/new", true),
    ("readlink", "readlink -v sysv/msg/name", true),
    ("rename", "mv shm/s shm/t", true),
    ("create", "touch sem/new", true),
    ("create-late", "setpriv --reuid=1234 --regid=99 --clear-groups touch mq/new", true),
    ("open", "cat sem/s", true),
    ("open-late", "cat ctl/mq/q/users", true),
    ("read", "cat ctl/limits", true),
    ("read-late", "cat mq/q", true),
    ("write", "echo +1 > sem/s", true),
    ("write-late", "echo x > mq/full", true),
    ("fallocate", "fallocate -l 8K shm/s", true),
    ("fallocate-late", "fallocate -l 8K shm/s", true),
    ("opendir", "ls mq", true),
    ("readdir", "ls mq", true),
    (
        "poll",
        "python3 -c 'import os, select; select.select([os.open(\"mq/q\", os.O_RDWR)], [], [], 0)'",
        false,
    ),
    ("flush", "touch sysv/shm/9; rm sysv/shm/9", false),
    ("release", "echo +1 > sem/s", false),
    ("releasedir", "ls mq", false),
];

#[test]
#[cfg(debug_assertions)]
fn a_handler_that_panics_is_an_error_to_who_asked_and_to_nobody_else() {
    let mut world = World::unmounted();
    let flags = world.scratch().join("panic");
    std::fs::create_dir(&flags).unwrap();
    world.set("IPCFS_PANIC", flags.clone());
    world.mount(&[]);
    let works = "touch mq/q mq/gone mq/full shm/s sysv/msg/1; truncate -s 8K shm/s; echo 1 > sem/s
        ln -sf 1 sysv/msg/name; rm -f fifo/new sem/new mq/new sysv/msg/new; truncate -s 0 mq/full mq/gone
        for i in {1..10}; do echo x > mq/full; done
        ls -lR . > /dev/null; cat ctl/summary > /dev/null; echo y > mq/q; [ $(timeout 10 cat mq/q) = y ]";
    world.run(works);
    let settled = |world: &World| {
        eventually("nothing is under way", || world.waiting() == 0);
        eventually("the workers are gone", || world.daemon_status("Threads") == THREADS);
        world.daemon_status("Threads")
    };
    let threads = settled(&world);
    for (handler, script, is_seen) in HANDLERS {
        let flag = flags.join(handler);
        std::fs::write(&flag, "").unwrap();
        // The very handler and not one before it: the script comes to it in any case.
        let output = world.attempt(&format!("timeout 10 bash -c {}", quoted(script)));
        eventually(&format!("{handler} has panicked"), || !flag.exists());
        assert_ne!(output.status.code(), Some(124), "{handler}: {script} hangs");
        let refused = output.errors.contains("Input/output error");
        assert!(refused || !is_seen, "{handler}: {script}: {}", output.errors);
        world.run(works);
    }
    assert_eq!(settled(&world), threads);
    let mut daemon = world.take_daemon();
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success());
    assert_eq!(daemon.errors().matches("panics on purpose").count(), HANDLERS.len());
}

#[cfg(debug_assertions)]
fn quoted(script: &str) -> String {
    format!("'{}'", script.replace('\'', "'\\''"))
}

#[test]
#[cfg(not(debug_assertions))]
fn a_release_build_does_not_panic_on_purpose() {
    let mut world = World::unmounted();
    let flags = world.scratch().join("panic");
    std::fs::create_dir(&flags).unwrap();
    world.set("IPCFS_PANIC", flags.clone());
    world.mount(&[]);
    std::fs::write(flags.join("lookup"), "").unwrap();
    world.run("touch mq/q; stat mq/q; ls -l mq");
    assert!(flags.join("lookup").exists());
    let binary = std::fs::read(crate::common::BINARY).unwrap();
    let variable = b"IPCFS_PANIC";
    assert!(!binary.windows(variable.len()).any(|window| window == variable));
}
