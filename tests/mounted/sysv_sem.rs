//! sysv/sem/: System V semaphore sets.

use std::time::{Duration, Instant};

use crate::common::{World, eventually};

fn values(world: &World, name: &str) -> String {
    world.run(&format!("cat sysv/sem/{name}")).trim().to_owned()
}

fn field(world: &World, name: &str, field: &str) -> String {
    world.run(&format!(". ctl/sysv/sem/{name}/status; echo ${field}")).trim().to_owned()
}

/// Waits until so many wait in the kernel for semaphore 0 to rise and to be zero.
fn waiters(world: &World, name: &str, rise: u64, zero: u64) {
    let (rise, zero) = (rise.to_string(), zero.to_string());
    eventually("they all wait", || {
        let first = |name_of| {
            field(world, name, name_of).split(' ').next()
                == Some(match name_of {
                    "semncnt" => &rise,
                    _ => &zero,
                })
        };
        first("semncnt") && first("semzcnt")
    });
}

#[test]
fn c_and_the_shell_share_one_set() {
    let world = World::new();
    world.c("sysv_sem", &["create", "0x4d2", "3", "640"]);
    assert_eq!(world.run("ls sysv/sem; stat -c %A sysv/sem/1234"), "0x000004d2\n-rw-r-----\n");
    world.run("echo '= 1 0 3' > sysv/sem/0x4d2");
    assert_eq!(world.c("sysv_sem", &["values", "1234"]), "1 0 3\n");
    world.run("echo '0 -1, 1 +2' > sysv/sem/1234; echo '2 = 5' > sysv/sem/1234");
    assert_eq!(world.c("sysv_sem", &["values", "1234"]), "0 2 5\n");
    assert_eq!(world.c("sysv_sem", &["try", "1234", "1", "-2", "2", "-5", "0", "0"]), "done\n");
    assert_eq!(values(&world, "0x000004d2"), "0 0 0");

    let shell = world.start("echo '0 -1, 1 -1' > sysv/sem/1234 && echo has them");
    waiters(&world, "1234", 1, 0);
    assert_eq!(world.c("sysv_sem", &["counts", "1234", "0"]), "1 0\n");
    assert_eq!(world.c("sysv_sem", &["op", "1234", "0", "1"]), "done\n");
    // Half of it is there, and none is taken.
    assert_eq!(values(&world, "1234"), "1 0 0");
    assert_eq!(world.c("sysv_sem", &["op", "1234", "1", "1"]), "done\n");
    assert_eq!(shell.output().text(), "has them\n");
    assert_eq!(values(&world, "1234"), "0 0 0");

    world.run("echo '0 +1' > sysv/sem/1234");
    std::thread::scope(|scope| {
        let c = scope.spawn(|| world.c("sysv_sem", &["op", "1234", "0", "0"]));
        waiters(&world, "1234", 0, 1);
        world.run("echo '0 -1' > sysv/sem/1234");
        assert_eq!(c.join().unwrap(), "done\n");
    });
    let zero = world.start("echo '0 +1' > sysv/sem/1234; echo '0 0' > sysv/sem/1234; echo zero");
    waiters(&world, "1234", 0, 1);
    world.c("sysv_sem", &["op", "1234", "0", "-1"]);
    assert_eq!(zero.output().text(), "zero\n");
    world.run("rm sysv/sem/0x4D2; ! ipcs -s | grep 0x000004d2");
}

#[test]
fn sysv_ipc_and_perl_share_one_set_with_the_shell() {
    let world = World::new();
    world.run("touch sysv/sem/0x77; echo '0 +2' > sysv/sem/0x77");
    let script = "import sysv_ipc, subprocess
s = sysv_ipc.Semaphore(0x77)
s.acquire(); s.acquire()
print(s.value)
s.release()
t = sysv_ipc.Semaphore(0x78, sysv_ipc.IPC_CREX, mode=0o600, initial_value=4)
print(subprocess.run('cat sysv/sem/0x77 sysv/sem/0x78; echo \"0 -3\" > sysv/sem/0x78',
    shell=True, capture_output=True, text=True).stdout, end='')
print(t.value)";
    assert_eq!(world.python(script), "0\n1\n4\n1\n");
    let script = r#"perl -MIPC::Semaphore -MIPC::SysV=IPC_CREAT,IPC_NOWAIT -e '
        $s = IPC::Semaphore->new(0x99, 2, IPC_CREAT | 0600); $s->setall(1, 2);
        print `cat sysv/sem/0x99`; `echo "0 -1, 1 +1" > sysv/sem/0x99`;
        print join(" ", $s->getall), "\n"; $s->op(0, 2, 0, 1, -3, IPC_NOWAIT);
        print `cat sysv/sem/0x99`; `rm sysv/sem/0x99`; print defined $s->stat ? "there" : "gone", "\n"'"#;
    assert_eq!(world.run(script), "1 2\n0 3\n2 0\ngone\n");
}

#[test]
fn names_modes_and_owners_are_the_real_ones() {
    let world = World::new();
    let id = world.c("sysv_sem", &["create", "0", "2", "600"]);
    let private = format!("id-{}", id.trim());
    assert_eq!(world.run("ls sysv/sem"), format!("{private}\n"));
    world.run(&format!("echo '= 7 8' > sysv/sem/{private}"));
    world.run("touch sysv/sem/1234; ln -s 0x4d2 sysv/sem/pool; echo '0 = 3' > sysv/sem/pool");
    assert_eq!(values(&world, "pool"), "3");
    let numbers =
        world.run("ls -i sysv/sem/1234 sysv/sem/0x4d2 | awk '{print $1}' | sort -u | wc -l");
    assert_eq!(numbers, "1\n");
    world.run("chmod 604 sysv/sem/pool; chown 12:34 sysv/sem/pool");
    assert_eq!(field(&world, "pool", "mode"), "0604");
    let seen = world.run("awk '$1 == 1234 { print $3, $5, $6 }' /proc/sysvipc/sem");
    assert_eq!(seen, "604 12 34\n");
    world.run("umask 027; setpriv --reuid=4242 --regid=4243 --clear-groups touch sysv/sem/0x55");
    assert_eq!(world.run("stat -c '%a %u %g' sysv/sem/0x55"), "640 4242 4243\n");
    assert_eq!(field(&world, "0x55", "cuid"), "4242");
    let other = "setpriv --reuid=4343 --regid=4344 --clear-groups";
    world.fail(&format!("{other} rm -f sysv/sem/0x55"));
    world.fail(&format!("{other} cat sysv/sem/0x55"));
    world.fail(&format!("{other} bash -c ': < ctl/sysv/sem/0x55/hold/0'"));
    world.fail(&format!("{other} chmod 666 sysv/sem/0x55"));
    world.run("rm sysv/sem/pool; cat sysv/sem/0x4d2; rm sysv/sem/0x4d2");
    for refused in ["touch sysv/sem/jobs", "touch sysv/sem/0", "touch sysv/sem/id-99"] {
        assert!(world.fail(refused).contains("Invalid argument"), "{refused}");
    }
    assert!(world.fail("mv sysv/sem/0x55 sysv/sem/0x56").contains("not permitted"));
    assert!(world.fail("truncate -s 0 sysv/sem/0x55").contains("Invalid argument"));
    world.run("touch sysv/sem/0x55; [ $(ls sysv/sem | wc -l) = 2 ]");
}

#[test]
fn bad_input_is_refused_as_the_c_call_does_and_changes_nothing() {
    let world = World::new();
    world.c("sysv_sem", &["create", "1", "3", "600"]);
    world.run("echo '= 1 2 3' > sysv/sem/1");
    let script = r"import os, errno
def attempt(text):
    for path in ['sysv/sem/1', 'ctl/sysv/sem/1/try']:
        f = os.open(path, os.O_WRONLY)
        try:
            print('written', os.write(f, text))
        except OSError as error:
            print(errno.errorcode[error.errno], end=' ')
        os.close(f)
for text in [b'\n', b'abc', b'+', b'-', b'1 2', b'0 +', b'0 +1\0', b'= 1 2', b'= 1 2 3 4', b'3 = 1',
             b'0 +1, ', b'0 +0']:
    attempt(text)
print()
for text in [b'3 +1', b'0 +1, 3 -1', b'99999 +1']: attempt(text)
print()
for text in [b','.join([b'0 +1'] * 501), b'0 +1, ' * 200000, b' ' * (1 << 20), b' ' * (3 << 20)]: attempt(text)
print()
for text in [b'0 +32767', b'0 +99999999999999999999', b'= 1 2 32768', b'0 = 32768', b'0 -1, 1 +32767']: attempt(text)
print()";
    let expected =
        ["EINVAL ".repeat(24), "EFBIG ".repeat(6), "E2BIG ".repeat(8), "ERANGE ".repeat(10)];
    assert_eq!(world.python(script), expected.join("\n") + "\n");
    assert_eq!(values(&world, "1"), "1 2 3");
    world.run(
        "for i in {1..500}; do echo '2 +1'; done > $SCRATCH/many; cat $SCRATCH/many > sysv/sem/1",
    );
    assert_eq!(values(&world, "1"), "1 2 503");
    assert!(world.fail("exec 9< ctl/sysv/sem/1/hold/3").contains("too large"));
    world.fail("exec 9< ctl/sysv/sem/1/hold/x");
}

#[test]
fn what_waits_is_all_or_nothing_and_ends_with_the_set() {
    let world = World::new();
    world.c("sysv_sem", &["create", "1", "2", "600"]);
    world.run("echo '= 5 0' > sysv/sem/1");
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        let mut taker = world.start("echo '0 -3, 1 -1' > sysv/sem/1");
        eventually("it waits", || field(&world, "1", "semncnt") == "0 1");
        taker.signal(signal);
        assert!(!taker.wait().success());
        eventually("it has left", || field(&world, "1", "semncnt") == "0 0");
        assert_eq!(values(&world, "1"), "5 0");
    }
    assert!(world.fail("dd oflag=nonblock of=sysv/sem/1 <<< '1 -1'").contains("unavailable"));
    assert!(world.fail("echo '0 -1, 1 -1' > ctl/sysv/sem/1/try").contains("unavailable"));
    assert_eq!(values(&world, "1"), "5 0");

    let waiting: Vec<_> = ["1 -1", "0 0", "0 -6"]
        .map(|operation| world.start(&format!("echo '{operation}' > sysv/sem/1")))
        .into_iter()
        .chain([
            world.start("exec 9<ctl/sysv/sem/1/hold/1"),
            world.start("exec 9<ctl/sysv/sem/1/hold/1"),
        ])
        .collect();
    eventually("all wait", || world.waiting() == 5);
    let mut open = world.start("exec 8<>sysv/sem/1; echo '1 -1' >&8; cat <&8");
    eventually("it waits too", || world.waiting() == 6);
    let start = Instant::now();
    world.run("rm sysv/sem/1");
    eventually("all have ended", || world.waiting() == 0);
    eprintln!("all told of the removal in {:?}", start.elapsed());
    for waiter in waiting {
        let output = waiter.output();
        assert!(output.errors.contains("Identifier removed"), "{}", output.errors);
    }
    open.wait();
    assert_eq!(open.errors().matches("Identifier removed").count(), 2);
}

#[test]
fn many_of_the_largest_sets_are_set_and_shown_without_keeping_others_waiting() {
    let world = World::new();
    // More than there may be before the daemon looks which of them have gone.
    world.run("for i in {1..70}; do echo sysv/sem/$i nsems=32000; done > ctl/create");
    let script = "import os, threading, time
text = b'= ' + b' '.join([b'32767'] * 32000)
worst, done = 0, False
def others():
    global worst
    while not done:
        start = time.monotonic(); os.path.exists('mq/none'); worst = max(worst, time.monotonic() - start)
        time.sleep(0.001)
thread = threading.Thread(target=others); thread.start()
for key in range(1, 71):
    fd = os.open(f'sysv/sem/{key}', os.O_WRONLY | os.O_NONBLOCK)
    assert os.write(fd, text) == len(text)
    os.close(fd)
assert open('sysv/sem/70', 'rb').read() == text[2:] + b'\\n'
assert len(os.listdir('sysv/sem')) == 70
done = True; thread.join()
print(int(worst * 1000))";
    let start = Instant::now();
    let worst = world.python(script);
    eprintln!("70 sets of 32000 in {:?}, another waited for {} ms", start.elapsed(), worst.trim());
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let shown = world.run("(. ctl/sysv/sem/7/status; echo ${sempid%% *}); rm sysv/sem/*");
    assert_ne!(shown.trim(), world.daemon().to_string());
}

#[test]
fn what_is_refused_is_refused_with_numbers() {
    let world = World::new();
    world.run("echo sysv/sem/1 nsems=3 > ctl/create; echo '1 = 32760' > sysv/sem/1");
    let refused = [
        ("echo '1 +8' > sysv/sem/1", "ERANGE: semaphore 1 is 32760; 8 more is over 32767"),
        ("echo '3 +1' > sysv/sem/1", "EFBIG: there is no semaphore 3 among 3"),
        ("echo '3 = 1' > sysv/sem/1", "EINVAL: there is no semaphore 3 among 3"),
        ("echo '65536 = 9' > sysv/sem/1", "EINVAL: there is no semaphore 65536"),
        (": < ctl/sysv/sem/1/hold/3", "EFBIG: there is no semaphore 3 among 3"),
        ("echo sysv/sem/2 nsems=32001 > ctl/create", "from 1 to 32000 semaphores, not 32001"),
        ("echo sysv/sem/2 nsems=0 > ctl/create", "from 1 to 32000 semaphores, not 0"),
        (
            "echo 500 > /proc/sys/kernel/shmmax; echo sysv/shm/2 size=501 > ctl/create",
            "from 1 to 500 bytes (kernel.shmmax), not 501",
        ),
        (
            "echo 100 > /proc/sys/kernel/msgmax; head -c 101 /dev/zero > sysv/msg/2",
            "EMSGSIZE: the message has 101 bytes; kernel.msgmax is 100",
        ),
    ];
    for (script, sentence) in refused {
        world.fail(script);
        let errors = world.run("tail -n 1 ctl/errors");
        assert!(errors.contains(sentence), "{script}: {errors}");
    }
}

#[test]
fn status_names_who_was_the_last_through_the_mount() {
    let world = World::new();
    world.run("touch sysv/sem/1");
    let script = "echo '0 +1' > sysv/sem/1; echo $$; . ctl/sysv/sem/1/status; echo $sempid";
    let lines = world.run(script);
    let (shell, last) = lines.trim().split_once('\n').unwrap();
    assert_eq!(shell, last);
    world.c("sysv_sem", &["op", "1", "0", "1"]);
    assert_ne!(field(&world, "1", "sempid"), last);
    assert_ne!(field(&world, "1", "sempid"), world.daemon().to_string());
    assert_eq!(
        world.run("jq -c '.semval, .nsems, .key' ctl/sysv/sem/1/status.json"),
        "[2]\n1\n\"0x00000001\"\n"
    );
}

#[test]
fn a_thousand_wait_and_each_is_woken_once() {
    let world = World::new();
    world.run("touch sysv/sem/1");
    let path = world.path().join("sysv/sem/1");
    let path = path.to_str().unwrap();
    std::thread::scope(|scope| {
        let crowd = scope.spawn(|| world.c("crowd", &[path, "1000", "0 -1"]));
        waiters(&world, "1", 1000, 0);
        for step in 1..=10 {
            world.run("echo '0 +1' > sysv/sem/1");
            waiters(&world, "1", 1000 - step, 0);
        }
        let start = Instant::now();
        world.run("echo '0 +990' > sysv/sem/1");
        assert_eq!(crowd.join().unwrap(), "1000\n");
        eprintln!("990 woken and ended in {:?}", start.elapsed());
    });
    assert_eq!(values(&world, "1"), "0");
    let mut crowd = world.client("crowd", &[path, "1000", "0 -1"]);
    waiters(&world, "1", 1000, 0);
    let start = Instant::now();
    crowd.signal(libc::SIGKILL);
    crowd.wait();
    waiters(&world, "1", 0, 0);
    eprintln!("1000 killed in {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10));
    world.run("echo '0 +5' > sysv/sem/1");
    assert_eq!(values(&world, "1"), "5");
}

#[test]
fn fifty_processes_count_under_a_held_semaphore_though_one_in_ten_is_killed() {
    let world = World::new();
    world.run("touch sysv/sem/1; echo '0 = 1' > sysv/sem/1; ln -s 1 sysv/sem/lock; echo 0 > $SCRATCH/counter");
    let script = r"
        : > $SCRATCH/log
        worker() {
            for ((i = 0; i < 20; i++)); do (
                exec 9<ctl/sysv/sem/lock/hold/0 || exit
                (( ($1 + i) % 20 == 3 )) && kill -9 $BASHPID
                read n < $SCRATCH/counter; echo $((n + 1)) > $SCRATCH/counter
                echo made >> $SCRATCH/log
                (( ($1 + i) % 20 == 7 )) && kill -9 $BASHPID
                exit 0
            ) 2>/dev/null; done
        }
        for w in {1..50}; do worker $w & done 2>/dev/null
        wait
        wc -l < $SCRATCH/log; cat $SCRATCH/counter sysv/sem/lock";
    assert_eq!(world.run(script), "950\n950\n1\n");
    let script = "exec 9<ctl/sysv/sem/lock/tryhold/0; cat sysv/sem/1; ! : < ctl/sysv/sem/1/tryhold/0; exec 9<&-; cat sysv/sem/1";
    assert_eq!(world.run(script), "0\n1\n");
    world.run("exec 9<ctl/sysv/sem/lock/hold/0; rm sysv/sem/1; exec 9<&-; ! [ -e sysv/sem/1 ]");
}

#[test]
fn a_stop_of_the_daemon_ends_no_wait_and_changes_no_order() {
    let world = World::new();
    world.run("touch sysv/sem/1; : > $SCRATCH/order");
    let waiting: Vec<_> = (1..=5)
        .map(|number| {
            let script = format!("exec 9<ctl/sysv/sem/1/hold/0; echo {number} >> $SCRATCH/order");
            let waiting = world.start(&script);
            eventually("it waits", || world.waiting() == number);
            waiting
        })
        .collect();
    let daemon = nix::unistd::Pid::from_raw(world.daemon() as i32);
    for _ in 0..20 {
        for signal in [nix::sys::signal::SIGSTOP, nix::sys::signal::SIGCONT] {
            nix::sys::signal::kill(daemon, signal).unwrap();
        }
        waiters(&world, "1", 1, 0);
    }
    world.run("echo '0 +1' > sysv/sem/1");
    for waiting in waiting {
        assert!(waiting.output().status.success());
    }
    assert_eq!(world.run("cat $SCRATCH/order"), "1\n2\n3\n4\n5\n");
    eventually("it is given back", || values(&world, "1") == "1");
}
