//! Readers who are interrupted or killed while messages come: none is lost, none comes twice.

use std::time::{Duration, Instant};

use crate::common::{THREADS, World, eventually, long};
use crate::mq::crowd;

#[test]
fn a_signal_racing_a_message_loses_none() {
    let world = World::new();
    world.run("touch mq/q sysv/msg/1");
    let rounds = long("3000", "10000");
    for queue in ["mq/q", "sysv/msg/1"] {
        assert_eq!(world.c("race", &[queue, rounds]), format!("{rounds}\n"), "{queue}");
        world.run(&format!("! [ -s {queue} ]"));
    }
}

#[test]
fn a_thousand_blocked_readers_are_killed_at_once_and_leave_nothing_behind() {
    let world = World::new();
    world.run("touch mq/q; cat /dev/null > mq/q");
    let (memory, descriptors) = (world.daemon_status("VmRSS"), world.daemon_descriptors());
    let mut readers = crowd(&world, 1000);
    let start = Instant::now();
    readers.signal(libc::SIGKILL);
    readers.wait();
    eventually("nobody waits", || world.waiting() == 0);
    let took = start.elapsed();
    println!("a thousand readers are gone after {took:?}");
    assert!(took < long(Duration::from_secs(5), Duration::from_secs(1)), "{took:?}");
    world.run("echo still > mq/q");
    assert_eq!(world.run("cat mq/q"), "still\n");
    eventually("the workers are gone", || world.daemon_status("Threads") == THREADS);
    eventually("the files are closed", || world.daemon_descriptors() <= descriptors);
    let after = world.daemon_status("VmRSS");
    assert!(after < memory + 4 * 1024, "{memory} KiB before, {after} KiB after");
}

#[test]
fn readers_who_are_killed_while_messages_come_lose_none() {
    let world = World::new();
    world.run("touch mq/q sysv/msg/1");
    for queue in ["mq/q", "sysv/msg/1"] {
        for _ in 0..long(1, 10) {
            let said = world.c("killed", &[queue, long("200", "1000")]);
            println!("{queue}: {}", said.trim());
        }
    }
}
