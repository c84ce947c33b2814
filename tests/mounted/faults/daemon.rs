//! The daemon killed, stopped, told to end; unmounted while somebody waits; short of descriptors.

use std::time::{Duration, Instant};

use super::prompt;
use crate::common::{BINARY, Running, World, eventually, long, python};

#[test]
fn few_descriptors_are_an_error_to_the_client_and_not_the_daemons_end() {
    let world = World::unmounted();
    world.run("chmod 755 $SCRATCH");
    let mut daemon = world.start(&format!("cd /; ulimit -n 64; exec {BINARY} -f $M"));
    eventually("it works", || world.path().join("mq").exists());
    world.run(
        "umask 0; touch mq/q; echo 1 > sem/s; : > shm/m; touch sysv/msg/1 sysv/shm/1 mq/other",
    );
    // As many as they get, of every kind, by one user and then by root.
    let hoard = "import errno, os, time
paths = ('mq/q', 'sem/s', 'shm/m', 'sysv/msg/1', 'sysv/shm/1', 'ctl/mq/q/lines')
files, refused = [], set()
for i in range(200):
    try: files.append(os.open(paths[i % 6], os.O_RDWR if i % 5 else os.O_RDONLY))
    except OSError as error: refused.add(errno.errorcode[error.errno])
print(len(files) > 5, refused, flush=True)
if os.getuid(): place = os.environ['SCRATCH']; open(place + '/full', 'w').close(); open(place + '/go').read()
for file in files: os.close(file)";
    world.run("chmod 777 $SCRATCH; mkfifo -m 666 $SCRATCH/go");
    let full = world.scratch().join("full");
    let user = "import os; os.setgroups([]); os.setgid(99); os.setuid(1234)";
    let mut command = world.command(python());
    command.arg("-c").arg(format!("{user}\n{hoard}"));
    let hoarder = Running::start(command);
    eventually("one has all that they may have", || full.exists());
    // The others have what they need.
    let others = "import os, time
slowest = 0
for i in range(200):
    start = time.monotonic()
    os.stat('mq/q'); os.listdir('mq'); os.close(os.open('mq/other', os.O_WRONLY))
    slowest = max(slowest, time.monotonic() - start)
print(slowest)";
    let slowest: f64 = world.python(others).trim().parse().unwrap();
    assert!(slowest < prompt().as_secs_f64(), "{slowest} s");
    assert_eq!(world.run("echo x > mq/other; cat mq/other"), "x\n");
    world.run("echo > $SCRATCH/go");
    assert_eq!(hoarder.output().text(), "True {'EMFILE'}\n");
    // All there are: look-ups need none that are the clients'.
    assert_eq!(world.python(hoard), "True {'EMFILE'}\n");
    eventually("it has recovered", || {
        world.attempt("for i in {1..10}; do echo x > mq/q && cat mq/q; done").status.success()
    });
    let kept = format!("ls /proc/{}/fd | wc -l", daemon.id());
    eventually("all is closed", || world.run(&kept).trim().parse::<u32>().unwrap() < 20);
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success());
}

#[test]
fn unmounting_while_somebody_waits() {
    let mut world = World::new();
    world.run("touch mq/q");
    let mut reader = world.start("exec cat mq/q");
    eventually("it waits", || world.waiting() == 1);
    let error = world.fail("cd /; umount $M");
    assert!(error.contains("busy"), "{error}");
    assert!(reader.ended().is_none());
    let mut daemon = world.take_daemon();
    world.run("cd /; umount -l $M");
    assert!(reader.ended().is_none());
    reader.signal(libc::SIGTERM);
    reader.wait();
    assert!(daemon.wait().success(), "the daemon ends with the last client");
}

#[test]
fn forced_unmounting_ends_the_waiting_and_the_daemon() {
    let mut world = World::new();
    world.run("touch mq/q");
    let mut reader = world.start("exec cat mq/q");
    eventually("it waits", || world.waiting() == 1);
    let mut daemon = world.take_daemon();
    let start = Instant::now();
    world.attempt("cd /; umount -f $M");
    assert!(!reader.wait().success());
    assert!(start.elapsed() < long(Duration::from_secs(2), Duration::from_millis(100)));
    let errors = reader.errors();
    assert!(errors.contains("Software caused connection abort"), "{errors}");
    assert!(daemon.wait().success());
    eventually("the guard has unmounted it", || !is_in_the_table(&world));
}

fn is_in_the_table(world: &World) -> bool {
    world.attempt("cd /; grep -q \" $M \" /proc/self/mountinfo").status.success()
}

#[test]
fn a_killed_daemons_mount_goes_wherever_it_has_got_to() {
    let mut world = World::new();
    // Under another one: it goes when that does.
    let mut lower = world.take_daemon();
    world.mount(&[]);
    lower.signal(libc::SIGKILL);
    lower.wait();
    world.run("echo still > mq/q; cat mq/q");
    let mut upper = world.take_daemon();
    world.run("cd /; umount $M");
    assert!(upper.wait().success());
    eventually("the lower one is unmounted", || !is_in_the_table(&world));
    // Moved elsewhere, and bound; another at its old place stays.
    world.mount(&[]);
    let mut moved = world.take_daemon();
    world.run(
        "cd /; mkdir $SCRATCH/there $SCRATCH/bound; mount --move $M $SCRATCH/there
         mount --bind $SCRATCH/there/mq $SCRATCH/bound",
    );
    world.mount(&[]);
    moved.signal(libc::SIGKILL);
    moved.wait();
    eventually("one is left", || {
        world.run("cd /; grep -c $SCRATCH/ /proc/self/mountinfo; true") == "1\n"
    });
    world.run("ls mq/q");
}

#[test]
fn mounting_again_at_once_leaves_one_mount_however_the_last_one_ended() {
    let world = World::unmounted();
    world.run(&format!(
        "cd /; for i in {{0..15}}; do
             {BINARY} $M 2> /dev/null || exit
             case $((i % 4)) in
             0) kill -9 $(pgrep -of '^{BINARY} '$M) ;;
             1) umount $M ;;
             2) exec 9< $M/README; umount -l $M; exec 9<&- ;;
             3) exec 9< $M/README; ! umount -f $M 2> /dev/null || exit; exec 9<&- ;;
             esac
         done
         {BINARY} $M && ls $M/mq && grep -q \" $M \" /proc/self/mountinfo
         umount $M"
    ));
    eventually("nothing is left", || {
        !is_in_the_table(&world)
            && !world.attempt(&format!("pgrep -f '^{BINARY} '$M")).status.success()
    });
}

#[test]
fn the_guard_reaches_a_mount_below_a_directory_that_is_closed_to_root() {
    let world = World::unmounted();
    world.run(&format!(
        "cd /; mkdir -m 700 $SCRATCH/home; mkdir $SCRATCH/home/ipc; chown -R 4242 $SCRATCH/home
         {BINARY} $SCRATCH/home/ipc; kill -9 $(pgrep -of '^{BINARY} '$SCRATCH)
         while grep -q $SCRATCH/home /proc/self/mountinfo; do :; done"
    ));
}

/// Ten who wait for something, in each way that there is.
fn ten_blocked(world: &World) -> Vec<Running> {
    world.run(
        "touch mq/q mq/full sysv/msg/1 sysv/sem/1; echo 0 > sem/s; mkfifo fifo/p
         for i in {1..10}; do echo kept$i > mq/full; done; echo kept > sysv/msg/2; echo 7 > sem/kept",
    );
    let scripts = [
        "exec cat mq/q",
        "exec cat ctl/mq/q/lines",
        "exec cat ctl/mq/q/wait",
        "exec /usr/bin/printf 11 > mq/full",
        "exec cat sysv/msg/1",
        "exec cat ctl/sysv/msg/1/type/5",
        "exec /usr/bin/printf -- -1 > sem/s",
        "exec cat ctl/sem/s/hold",
        "exec /usr/bin/printf '0 -1' > sysv/sem/1",
        "exec cat ctl/sysv/sem/1/hold/0",
    ];
    let blocked: Vec<_> = scripts.iter().map(|script| world.start(script)).collect();
    eventually("ten wait", || world.waiting() == 10);
    blocked
}

/// All of them have been told that the connection is gone; and what there was is there still.
fn aborted(blocked: Vec<Running>) {
    for mut one in blocked {
        assert!(!one.wait().success());
        let errors = one.errors();
        assert!(errors.contains("Software caused connection abort"), "{errors}");
    }
}

fn is_whole(world: &World) {
    let kept = world.run(
        "for i in {1..10}; do cat mq/full; done | tr '\\n' ' '; cat sysv/msg/2 sem/kept sem/s sysv/sem/1
         ls mq sysv/msg sysv/sem sem fifo | tr '\\n' ' '",
    );
    let expected = "kept1 kept2 kept3 kept4 kept5 kept6 kept7 kept8 kept9 kept10 kept\n7\n0\n0\n";
    let listed = "mq: full q  sysv/msg: 0x00000001 0x00000002  sysv/sem: 0x00000001 ";
    assert!(kept.starts_with(expected), "{kept}");
    for part in listed.split("  ") {
        assert!(kept.contains(part.trim()), "{part}: {kept}");
    }
}

#[test]
fn after_a_kill_ten_blocked_clients_get_their_error_at_once() {
    let mut world = World::new();
    let mut blocked = ten_blocked(&world);
    let mut daemon = world.take_daemon();
    let start = Instant::now();
    daemon.signal(libc::SIGKILL);
    for one in &mut blocked {
        one.wait();
    }
    let took = start.elapsed();
    println!("killed: {took:?}");
    assert!(took < long(Duration::from_secs(2), Duration::from_millis(100)), "{took:?}");
    daemon.wait();
    aborted(blocked);
    // The guard leaves no stale mount.
    eventually("it is unmounted", || {
        world.attempt("cd /; mountpoint -q $M").status.code() == Some(32)
    });
    world.mount(&[]);
    is_whole(&world);
}

#[test]
fn sigterm_answers_ten_who_wait_unmounts_and_ends_with_0() {
    let mut world = World::new();
    let mut blocked = ten_blocked(&world);
    let mut daemon = world.take_daemon();
    let start = Instant::now();
    daemon.signal(libc::SIGTERM);
    for one in &mut blocked {
        one.wait();
    }
    assert!(daemon.wait().success());
    let took = start.elapsed();
    println!("ended: {took:?}");
    assert!(took < long(Duration::from_secs(5), Duration::from_secs(1)), "{took:?}");
    aborted(blocked);
    world.run("cd /; ! mountpoint -q $M");
    world.mount(&[]);
    is_whole(&world);
}

#[test]
fn a_stopped_daemon_goes_on_where_it_was() {
    let world = World::new();
    world.run("touch mq/q sysv/msg/1; echo 1 > sem/s");
    let mut reader = world.start("exec cat mq/q");
    eventually("it waits", || world.waiting() == 1);
    let daemon = world.daemon();
    world.run(&format!("kill -STOP {daemon}"));
    let mut clients = [
        world.start("exec bash -c 'echo late > mq/q'"),
        world.start("exec cat sem/s"),
        world.start("exec ls sysv/msg"),
        world.start("exec rm sysv/msg/1"),
    ];
    for client in &mut clients {
        eventually("it waits for the daemon", || client.is_asleep());
    }
    // It is the daemon's stop that lasts, not a test's sleep.
    std::thread::sleep(long(Duration::ZERO, Duration::from_secs(5)));
    for client in &mut clients {
        assert!(client.ended().is_none());
    }
    world.run(&format!("kill -CONT {daemon}"));
    for client in &mut clients {
        assert!(client.wait().success());
    }
    assert!(reader.wait().success());
    assert_eq!(reader.output().text(), "late\n");
}
