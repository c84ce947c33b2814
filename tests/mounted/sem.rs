//! sem/: POSIX named semaphores, and the locks made of them.

use std::time::{Duration, Instant};

use crate::common::{THREADS, World, eventually};

fn value(world: &World, name: &str) -> String {
    world.run(&format!("cat sem/{name}")).trim().to_owned()
}

/// What `status` says.
fn field(world: &World, name: &str, field: &str) -> u64 {
    world.run(&format!(". ctl/sem/{name}/status; echo ${field}")).trim().parse().unwrap()
}

/// Waits until so many wait in the kernel for a semaphore.
fn waiters(world: &World, name: &str, count: u64) {
    eventually("they all wait", || field(world, name, "nwaiters") == count);
}

#[test]
fn the_shell_sets_posts_takes_and_shows() {
    let world = World::new();
    assert_eq!(world.run("echo 3 > sem/a; cat sem/a"), "3\n");
    assert_eq!(world.run("echo +2 > sem/a; cat sem/a"), "5\n");
    assert_eq!(world.run("echo -4 > sem/a; cat sem/a"), "1\n");
    assert_eq!(world.run("touch sem/a sem/b; cat sem/a sem/b; ls sem"), "1\n0\na\nb\n");
    assert_eq!(world.run("cp sem/a $SCRATCH/a; cat $SCRATCH/a; wc -c < sem/a"), "1\n2\n");
    assert_eq!(world.run("exec 8<>sem/a; echo +1 >&8; echo +1 >&8; cat <&8"), "3\n");
    assert!(world.fail("dd oflag=nonblock of=sem/a <<< -4").contains("unavailable"));
    assert!(world.fail("echo -4 > ctl/sem/a/try").contains("unavailable"));
    assert_eq!(world.run("echo -3 > ctl/sem/a/try; cat sem/a"), "0\n");
    assert_eq!(world.run("echo 4 > sem/a; : > sem/a; touch sem/a; cat sem/a"), "4\n");
    assert!(world.fail("truncate -s 0 sem/a").contains("Invalid argument"));
    world.run("rm sem/a; ! [ -e sem/a ]; ! ls /dev/shm/sem.a 2>/dev/null");
}

#[test]
fn c_and_the_shell_share_one_semaphore() {
    let world = World::new();
    world.c("sem", &["create", "/s", "2", "0640"]);
    assert_eq!(world.run("cat sem/s; stat -c '%A %U' sem/s"), "2\n-rw-r----- root\n");
    world.run("echo +3 > sem/s");
    assert_eq!(world.c("sem", &["value", "/s"]), "5\n");
    world.c("sem", &["wait", "/s", "5"]);
    assert_eq!(value(&world, "s"), "0");
    assert_eq!(world.c("sem", &["trywait", "/s"]), "Resource temporarily unavailable\n");
    assert_eq!(world.c("sem", &["timedwait", "/s", "20"]), "Connection timed out\n");

    let shell = world.start("echo -1 > sem/s && echo has it");
    waiters(&world, "s", 1);
    world.c("sem", &["post", "/s", "1"]);
    assert_eq!(shell.output().text(), "has it\n");

    std::thread::scope(|scope| {
        let c = scope.spawn(|| world.c("sem", &["timedwait", "/s", "60000"]));
        waiters(&world, "s", 1);
        world.run("echo 1 > sem/s");
        assert_eq!(c.join().unwrap(), "taken\n");
    });
    assert_eq!(value(&world, "s"), "0");

    world.run("echo 4 > sem/mine");
    assert_eq!(world.c("sem", &["value", "/mine"]), "4\n");
    world.c("sem", &["unlink", "/mine"]);
    world.run("! [ -e sem/mine ]");
}

#[test]
fn python_and_the_shell_share_one_semaphore() {
    let world = World::new();
    world.run("echo 2 > sem/p");
    let script = "import posix_ipc
s = posix_ipc.Semaphore('/p')
s.acquire(); s.acquire()
print(s.value)
t = posix_ipc.Semaphore('/q', posix_ipc.O_CREX, initial_value=7, mode=0o600)
import subprocess
print(subprocess.run(['sh', '-c', 'cat sem/q; echo +1 > sem/p; echo -7 > sem/q'],
    capture_output=True, text=True).stdout, end='')
s.acquire()
print(t.value)";
    assert_eq!(world.python(script), "0\n7\n0\n");
}

#[test]
fn modes_owners_and_names_are_the_real_ones() {
    let world = World::new();
    world.run("umask 027; touch sem/a; chown 12:34 sem/a");
    assert_eq!(world.run("stat -c '%a %u %g' /dev/shm/sem.a"), "640 12 34\n");
    world.run("chmod 604 sem/a");
    assert_eq!(world.run("stat -c '%a %u %g' /dev/shm/sem.a sem/a | uniq"), "604 12 34\n");
    world.run("umask 002; setpriv --reuid=4242 --regid=4243 --clear-groups touch sem/u");
    assert_eq!(world.run("stat -c '%a %u %g' /dev/shm/sem.u sem/u | uniq"), "664 4242 4243\n");
    let other = "setpriv --reuid=4343 --regid=4344 --clear-groups";
    assert!(world.fail(&format!("{other} rm -f sem/u")).contains("not permitted"));
    world.fail(&format!("{other} bash -c 'echo +1 > sem/u'"));
    world.fail(&format!("{other} mv sem/u sem/v"));
    world.fail(&format!("{other} bash -c ': < ctl/sem/u/hold'"));
    assert_eq!(world.run(&format!("{other} cat sem/u")), "0\n");
    assert_eq!(world.run("touch -d @1000000000 sem/u; stat -c %Y sem/u"), "1000000000\n");

    world.run("echo 5 > sem/u; mv sem/u sem/v; ! [ -e sem/u ]; echo 1 > sem/w");
    assert_eq!(world.run("mv -n sem/w sem/v; mv -f sem/v sem/w; ls sem; cat sem/w"), "a\nw\n5\n");
    for refused in ["mkdir sem/d", "ln sem/w sem/x", "mv sem/w mq/", "mv sem/w shm/x"] {
        assert!(world.fail(refused).contains("not permitted"), "{refused}");
    }
    assert_eq!(value(&world, "w"), "5");
    assert_eq!(world.run("stat -c '%a %U' sem"), "777 root\n");
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    let world = World::new();
    world.run("echo 7 > sem/a");
    let script = r"import os, errno
for text in [b'abc', b'+', b'-', b'1 2', b'1\0', b'\0', b'\n', b'0x1', b'1' * (1 << 20), b' ' * (3 << 20),
             b'9' * 20, b'2147483648', b'+2147483641', b'-2147483648']:
    for path in ['sem/a', 'ctl/sem/a/try']:
        f = os.open(path, os.O_WRONLY)
        try:
            print('written', os.write(f, text))
        except OSError as error:
            print(errno.errorcode[error.errno], end=' ')
        os.close(f)
f = os.open('sem/a', os.O_WRONLY)
print(os.write(f, b''))";
    let expected = "EINVAL ".repeat(20) + &"EOVERFLOW ".repeat(8) + "0\n";
    assert_eq!(world.python(script), expected);
    assert_eq!(value(&world, "a"), "7");
    assert_eq!(world.run("echo 2147483647 > sem/a; cat sem/a"), "2147483647\n");
    world.fail("echo +1 > sem/a");
}

#[test]
fn several_are_taken_together_or_not_at_all() {
    let world = World::new();
    world.run("echo 2 > sem/a");
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        let mut taker = world.start("echo -3 > sem/a");
        waiters(&world, "a", 1);
        taker.signal(signal);
        assert!(!taker.wait().success());
        assert_eq!((value(&world, "a"), field(&world, "a", "nwaiters")), ("2".into(), 0));
    }
    // Who wants few passes who wants many; who wants many gets them once they are there.
    let many = world.start("echo -5 > sem/a && echo many");
    waiters(&world, "a", 1);
    world.run("echo -1 > sem/a; echo +1 > sem/a; echo +2 > sem/a");
    let more = world.start("echo -2 > sem/a && echo more");
    eventually("the second waits for its turn", || world.waiting() == 2);
    assert_eq!((value(&world, "a"), field(&world, "a", "nwaiters")), ("4".into(), 2));
    // Who does not wait takes what is there, whoever waits for more.
    world.run(
        "echo -3 > ctl/sem/a/try; dd oflag=nonblock of=sem/a status=none <<< -1; echo +4 > sem/a",
    );
    world.run("echo +1 > sem/a");
    assert_eq!(many.output().text(), "many\n");
    world.run("echo +2 > sem/a");
    assert_eq!(more.output().text(), "more\n");
    assert_eq!((value(&world, "a"), field(&world, "a", "nwaiters")), ("0".into(), 0));
}

#[test]
fn what_is_no_semaphore_is_not_touched() {
    let world = World::new();
    world.run(
        "cd /dev/shm; echo secret > $SCRATCH/target; ln -s $SCRATCH/target sem.link
        mkfifo sem.fifo; mkdir sem.dir; touch sem. sem.. sem... other
        python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sem.socket\")'
        touch sem.mount; mount --bind $SCRATCH/target sem.mount
        for n in 0 16 31 33 4096; do head -c $n /dev/urandom > sem.$n; done
        head -c 32 /dev/zero | tr '\\0' '\\377' > sem.forged; touch sem.good; rm sem.good",
    );
    assert_eq!(world.run("ls sem | paste -sd ' '"), "0 16 31 33 4096 forged mount\n");
    for name in ["link", "fifo", "dir", "socket", "mount", ".", ".."] {
        let start = Instant::now();
        world.fail(&format!("cat sem/{name}"));
        world.fail(&format!("echo +1 > sem/{name}"));
        world.fail(&format!("echo x > ctl/sem/{name}/try"));
        if !name.starts_with('.') {
            world.fail(&format!("rm sem/{name}"));
            world.fail(&format!("mv sem/0 sem/{name}"));
            world.fail(&format!("chmod 777 sem/{name}"));
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{name}");
    }
    assert_eq!(
        world.run("cat $SCRATCH/target; stat -c %A /dev/shm/sem.fifo"),
        "secret\nprw-r--r--\n"
    );
    for name in ["0", "16", "31", "33", "4096", "forged"] {
        let errno = if name == "forged" { "Input/output" } else { "Invalid argument" };
        for command in [
            "cat sem/N",
            "bash -c 'echo +1 > sem/N'",
            "bash -c 'echo 0 > sem/N'",
            "bash -c 'echo -1 > ctl/sem/N/try'",
            "cat ctl/sem/N/hold",
            "cat ctl/sem/N/tryhold",
            "cat ctl/sem/N/status",
        ] {
            let said = world.fail(&command.replace('N', name));
            assert!(said.contains(errno), "{command} {name}: {said}");
        }
        world.run(&format!("chmod 600 sem/{name} && rm sem/{name}"));
    }
    // Whatever stands behind the value is ignored: the C library would abort on it.
    world.run("{ printf '\\2\\0\\0\\0\\0\\0\\0\\0'; head -c 24 /dev/zero | tr '\\0' '\\377'; } > /dev/shm/sem.junk");
    assert_eq!(world.run("echo +1 > sem/junk; echo -2 > sem/junk; cat sem/junk; : < ctl/sem/junk/hold; cat sem/junk"), "1\n1\n");
}

#[test]
fn a_semaphore_cut_short_while_in_use_is_an_error_and_the_daemon_lives() {
    let world = World::new();
    world.run("echo 0 > sem/cut; echo 1 > sem/whole");
    let daemon = world.daemon();
    std::thread::scope(|scope| {
        let cut = scope.spawn(|| world.c("sem", &["cut", "/cut", "300000"]));
        while !cut.is_finished() {
            world.attempt(
                "exec 8<>sem/cut; for i in {1..50}; do echo +2 >&8; timeout 0.2 bash -c 'echo -1 >&8'; read -t 1 <&8; done
                 exec 9<ctl/sem/cut/hold & sleep 0.01; kill -9 $!; cat ctl/sem/cut/status
                 echo -1000 > sem/cut & sleep 0.01; kill -9 $!",
            );
        }
        cut.join().unwrap();
    });
    assert_eq!(world.daemon(), daemon);
    assert_eq!(world.run("echo 3 > sem/cut; cat sem/cut; cat sem/whole"), "3\n1\n");
    // Deterministically: the file is cut while it is open.
    world.run(
        "exec 8<>sem/cut; truncate -s 0 /dev/shm/sem.cut; ! echo +1 >&8; ! read <&8
        truncate -s 32 /dev/shm/sem.cut; ! echo +1 >&8; echo 5 > sem/cut; [ $(cat sem/cut) = 5 ]",
    );
}

#[test]
fn a_full_file_system_is_enospc_and_a_lease_ebusy() {
    let world = World::new();
    world.run("mount -o remount,size=64k /dev/shm; echo 1 > sem/first; dd if=/dev/zero of=/dev/shm/fill bs=4k status=none || true");
    assert!(world.fail("touch sem/second").contains("No space left"));
    assert_eq!(world.run("ls sem; echo +1 > sem/first; cat sem/first"), "first\n2\n");
    // A hole has no memory yet, and there is none to be had.
    world.run("truncate -s 32 /dev/shm/sem.hole");
    assert!(world.fail("echo +1 > sem/hole").contains("No space left"));
    assert_eq!(world.run("rm /dev/shm/fill; echo +1 > sem/hole; cat sem/hole"), "1\n");
    let script = "import fcntl, os, signal, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
f = os.open('/dev/shm/sem.leased', os.O_RDWR | os.O_CREAT)
os.ftruncate(f, 32)
fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)
start = time.monotonic()
try: os.open('sem/leased', os.O_WRONLY)
except OSError as error: print(error.strerror)
assert time.monotonic() - start < 2
print(os.path.exists('sem/leased'))";
    assert_eq!(world.python(script), "Device or resource busy\nTrue\n");
}

#[test]
fn a_thousand_wait_and_each_post_wakes_one() {
    let world = World::new();
    world.run("echo 0 > sem/q");
    let path = world.path().join("sem/q");
    let descriptors = world.daemon_descriptors();
    let mut left_behind = Vec::new();
    for _ in 0..3 {
        let before = world.daemon_status("VmRSS");
        std::thread::scope(|scope| {
            let crowd = scope.spawn(|| world.c("crowd", &[path.to_str().unwrap(), "1000", "-1"]));
            waiters(&world, "q", 1000);
            let per_waiter = world.daemon_status("VmRSS").saturating_sub(before) / 1000;
            eprintln!("memory per waiter: {per_waiter} KiB");
            assert!(per_waiter < 64);
            for step in 1..=10 {
                world.run("echo +1 > sem/q");
                waiters(&world, "q", 1000 - step);
                assert_eq!(value(&world, "q"), "0");
            }
            let start = Instant::now();
            world.run("echo +990 > sem/q");
            assert_eq!(crowd.join().unwrap(), "1000\n");
            eprintln!("990 woken and ended in {:?}", start.elapsed());
        });
        assert_eq!((value(&world, "q"), field(&world, "q", "nwaiters")), ("0".into(), 0));
        eventually("nothing is left", || {
            world.daemon_descriptors() <= descriptors
                && world.daemon_status("Threads") < THREADS + 6
        });
        left_behind.push(world.daemon_status("VmRSS"));
    }
    eprintln!("memory after each crowd: {left_behind:?} KiB");
    assert!(left_behind[2] < left_behind[0] + 2048, "{left_behind:?}");
}

#[test]
fn a_thousand_who_wait_are_killed_at_once_and_have_taken_nothing() {
    let world = World::new();
    world.run("echo 0 > sem/q");
    let path = world.path().join("sem/q");
    let mut crowd = world.client("crowd", &[path.to_str().unwrap(), "1000", "-1"]);
    waiters(&world, "q", 1000);
    let start = Instant::now();
    crowd.signal(libc::SIGKILL);
    crowd.wait();
    waiters(&world, "q", 0);
    eprintln!("1000 killed in {:?}", start.elapsed());
    world.run("echo +5 > sem/q");
    assert_eq!(value(&world, "q"), "5");
}

#[test]
fn a_held_lock_is_given_back_and_handed_on_in_the_order_of_asking() {
    let world = World::new();
    world.run("echo 1 > sem/lock");
    let mut holder = world.start("exec 9<ctl/sem/lock/hold; echo +1 > sem/go; sleep 1000; :");
    world.run("touch sem/go; echo -1 > sem/go");
    assert_eq!(value(&world, "lock"), "0");
    let holders = world.run("cat ctl/sem/lock/holders");
    assert_eq!(holders, format!("{}\tbash\n", holder.id()));
    assert!(world.fail(": < ctl/sem/lock/tryhold").contains("unavailable"));
    assert!(world.fail("dd iflag=nonblock if=ctl/sem/lock/hold").contains("unavailable"));
    let mut waiting = Vec::new();
    for number in 1..=20 {
        let script =
            format!("exec 9<ctl/sem/lock/hold; echo {number} >> $SCRATCH/order; sleep 1000");
        waiting.push(world.start(&script));
        eventually("it waits", || world.waiting() == number);
    }
    waiters(&world, "lock", 20);
    // Everybody keeps their place while the daemon is stopped.
    let daemon = nix::unistd::Pid::from_raw(world.daemon() as i32);
    nix::sys::signal::kill(daemon, nix::sys::signal::Signal::SIGSTOP).unwrap();
    nix::sys::signal::kill(daemon, nix::sys::signal::Signal::SIGCONT).unwrap();
    // One who gives up leaves it.
    let mut quitter = waiting.remove(4);
    quitter.signal(libc::SIGKILL);
    quitter.wait();
    eventually("it has left", || world.waiting() == 19);
    let order = world.scratch().join("order");
    let mut times = Vec::new();
    for (turn, next) in waiting.into_iter().enumerate() {
        let start = Instant::now();
        holder.signal(libc::SIGKILL);
        eventually("the next has it", || {
            std::fs::read_to_string(&order).unwrap_or_default().lines().count() == turn + 1
        });
        times.push(start.elapsed());
        holder.wait();
        holder = next;
    }
    times.sort();
    eprintln!("handed on in {times:?}");
    assert!(times[times.len() / 2] < Duration::from_millis(100), "{times:?}");
    let expected: Vec<_> = (1..=20).filter(|number| *number != 5).map(|n| n.to_string()).collect();
    assert_eq!(std::fs::read_to_string(&order).unwrap(), expected.join("\n") + "\n");
    drop(holder);
    eventually("it is free", || value(&world, "lock") == "1");
    assert_eq!(world.run("cat ctl/sem/lock/holders"), "");
    assert_eq!(
        world.run("exec 9<ctl/sem/lock/tryhold; cat sem/lock; exec 9<&-; cat sem/lock"),
        "0\n1\n"
    );
    world.run("exec 9<ctl/sem/lock/hold; rm sem/lock; exec 9<&-; ! [ -e sem/lock ]");
}

#[test]
fn fifty_processes_count_under_a_lock_though_one_in_ten_is_killed() {
    let world = World::new();
    world.run("echo 1 > sem/lock; echo 0 > $SCRATCH/counter");
    let script = r"
        : > $SCRATCH/log
        worker() {
            for ((i = 0; i < 20; i++)); do (
                exec 9<ctl/sem/lock/hold || exit
                echo $BASHPID > $SCRATCH/inside
                (( ($1 + i) % 20 == 3 )) && kill -9 $BASHPID
                read n < $SCRATCH/counter; echo $((n + 1)) > $SCRATCH/counter
                echo made >> $SCRATCH/log
                read p < $SCRATCH/inside; [ $p = $BASHPID ] || echo two at once
                (( ($1 + i) % 20 == 7 )) && kill -9 $BASHPID
                exit 0
            ) 2>/dev/null; done
        }
        for w in {1..50}; do worker $w & done 2>/dev/null
        wait
        wc -l < $SCRATCH/log; cat $SCRATCH/counter sem/lock";
    // Of 1000, 50 are killed before they count and 50 after.
    assert_eq!(world.run(script), "950\n950\n1\n");
}

#[test]
fn opens_that_are_killed_at_any_moment_leave_the_value_as_it_was() {
    let world = World::new();
    world.run("echo 2 > sem/lock");
    world.run(
        "for i in {1..400}; do
            (exec 9<ctl/sem/lock/hold; exec 9<&-) & (exec 9<ctl/sem/lock/hold; exec 9<&-) &
            (exec 9<ctl/sem/lock/hold; exec 9<&-) &
            kill -9 $! %+ 2>/dev/null; ((i % 20)) || wait
        done 2>/dev/null; wait; true",
    );
    eventually("all is given back", || value(&world, "lock") == "2");
    assert_eq!(field(&world, "lock", "nwaiters"), 0);
    assert_eq!(world.run("cat ctl/sem/lock/holders"), "");
}

#[test]
fn nothing_is_given_back_when_the_daemon_dies() {
    let mut world = World::new();
    world.run("echo 1 > sem/lock; echo 0 > sem/never");
    let _holder = world.start("exec 9<ctl/sem/lock/hold; sleep 1000");
    eventually("it is held", || value(&world, "lock") == "0");
    let mut blocked = world.start("echo -1 > sem/never");
    waiters(&world, "never", 1);
    let mut daemon = world.take_daemon();
    daemon.signal(libc::SIGKILL);
    daemon.wait();
    assert!(!blocked.wait().success());
    assert_eq!(world.c("sem", &["value", "/lock"]), "0\n");
}
