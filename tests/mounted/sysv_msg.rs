//! sysv/msg/: System V message queues.

use std::time::{Duration, Instant};

use crate::common::{World, eventually};

/// The keys that `ls`, `ipcs` and `lsipc` show have to be the same; returns them.
fn agreed(world: &World) -> String {
    let listed = world.run("ls sysv/msg | grep ^0x | sort");
    let ipcs = world.run("ipcs -q | grep -o ^0x[0-9a-f]* | grep -v 0x00000000 | sort; :");
    let lsipc =
        world.run("lsipc -q -n -o KEY --noheadings 2>/dev/null | grep -o 0x[0-9a-f]* | sort; :");
    assert_eq!(listed, ipcs);
    assert_eq!(listed, lsipc);
    listed
}

/// As another user, in the mount.
fn user(uid: u32, script: &str) -> String {
    format!("setpriv --reuid={uid} --regid={uid} --clear-groups bash -c '{script}'")
}

#[test]
fn a_key_in_any_spelling_is_one_file_and_the_rest_is_refused() {
    let world = World::new();
    for (name, listed) in [
        ("1234", "0x000004d2"),
        ("0x4D2", "0x000004d2"),
        ("-1", "0xffffffff"),
        ("0xffffffff", "0xffffffff"),
        ("4294967295", "0xffffffff"),
        ("0x80000000", "0x80000000"),
    ] {
        world.run(&format!("touch ./sysv/msg/{name}"));
        assert_eq!(world.run("ls sysv/msg"), format!("{listed}\n"), "{name}");
        world.run(&format!("rm sysv/msg/{listed}"));
    }
    for name in [
        "0",
        "0x0",
        "-0",
        "0X4d2",
        "0x0000004d2",
        "0x1ffffffff",
        "01234",
        "+1",
        " 1",
        "1 ",
        "0x",
        "4294967296",
        "-2147483649",
        "id-0",
        "id-x",
        "jobs",
        "0x4d2.bak",
        "12 34",
    ] {
        let errors = world.fail(&format!("touch 'sysv/msg/{name}'"));
        assert!(errors.contains("Invalid argument"), "{name:?}: {errors}");
        let errors = world.fail(&format!("stat 'sysv/msg/{name}'"));
        assert!(errors.contains("No such file"), "{name:?}: {errors}");
    }
    assert_eq!(world.run("ls sysv/msg"), "");
    // The same file by its identifier, and by no other queue's.
    world.run("touch sysv/msg/7; echo by id > sysv/msg/id-$(ipcs -q | awk '/^0x/ {print $2}')");
    assert_eq!(world.run("cat sysv/msg/0x7"), "by id\n");
    world.fail("stat sysv/msg/id-99");
    // An identifier is one queue's for life, though its place in the kernel's table is given out
    // again.
    let stale = world.run("cd sysv/msg; rm 7; touch 7; stale=$(awk 'NR == 2 {print $2}' /proc/sysvipc/msg)
        rm 7; touch 8; ! [ -e id-$stale ] && ! [ -e 7 ] && [ $(awk 'NR == 2 {print $2}' /proc/sysvipc/msg) != $stale ] && ls");
    assert_eq!(stale, "0x00000008\n");
}

#[test]
fn a_queue_made_anew_under_the_same_key_is_never_taken_for_the_one_before() {
    let world = World::new();
    let turns = |umask: &str, text: &str, uid: u32| {
        let script = format!(
            "umask {umask}; for ((i = 0; i < 300; i++)); do
                if ( set -C; : > sysv/msg/1 ) 2>/dev/null; then
                    echo {text} 2>/dev/null > sysv/msg/1; rm -f sysv/msg/1
                fi
            done; :"
        );
        world.start(&user(uid, &script))
    };
    let mut makers = [turns("077", "secret", 1001), turns("000", "public", 1002)];
    let reader = "for ((i = 0; i < 1500; i++)); do
            dd if=sysv/msg/1 iflag=nonblock status=none 2>/dev/null
            dd if=ctl/sysv/msg/1/type/0 iflag=nonblock status=none 2>/dev/null
        done; :";
    let read = world.run(&user(1003, reader));
    for maker in &mut makers {
        assert!(maker.wait().success());
    }
    assert!(!read.contains("secret"), "{read}");
}

#[test]
fn shell_and_c_see_the_same_queue_and_the_tools_agree_after_each_step() {
    let world = World::new();
    world.run("umask 027; touch sysv/msg/1234");
    assert_eq!(agreed(&world), "0x000004d2\n");
    let stat = world.c("sysv_msg", &["stat", "1234"]);
    assert!(stat.starts_with("mode=0640 uid=0 gid=0 cuid=0 cgid=0 qnum=0"), "{stat}");
    world.c("sysv_msg", &["create", "0x99", "0660"]);
    assert_eq!(agreed(&world), "0x00000099\n0x000004d2\n");
    assert_eq!(world.run("stat -c %A sysv/msg/0x99"), "-rw-rw----\n");

    world.run("echo from the shell > sysv/msg/0x4d2");
    assert_eq!(world.c("sysv_msg", &["receive", "1234", "0"]), "1:from the shell\n");
    world.c("sysv_msg", &["send", "0x99", "42", "from C"]);
    assert_eq!(world.run("stat -c %s sysv/msg/0x99; cat sysv/msg/0x99"), "6\nfrom C");
    agreed(&world);

    world.run("chmod 600 sysv/msg/0x99; chown 1234:4321 sysv/msg/0x99");
    let stat = world.c("sysv_msg", &["stat", "0x99"]);
    assert!(stat.starts_with("mode=0600 uid=1234 gid=4321 cuid=0 cgid=0"), "{stat}");
    assert_eq!(world.run("ipcs -q | awk '/^0x00000099/ {print $3, $4}'"), "1234 600\n");

    world.run("rm sysv/msg/0x99");
    assert_eq!(agreed(&world), "0x000004d2\n");
    world.run("ipcrm -Q 0x4d2");
    assert_eq!(agreed(&world), "");
    // One without a key is there by its identifier.
    let id = world.c("sysv_msg", &["create", "0", "0600"]);
    assert_eq!(world.run("ls sysv/msg"), format!("id-{id}"));
    world.run("rm sysv/msg/id-*");
    assert_eq!(world.run("ls sysv/msg; ipcs -q | grep -c 600; :"), "0\n");
}

#[test]
fn python_and_perl_see_the_same_queue() {
    let world = World::new();
    world.run("echo -n to Python > sysv/msg/0x4d2");
    let script = "import sysv_ipc
q = sysv_ipc.MessageQueue(0x4d2)
print(q.receive())
q.send(b'from Python', type=2**31 - 1)
n = sysv_ipc.MessageQueue(None, sysv_ipc.IPC_CREX, mode=0o640)
n.send('x')
print(n.id)";
    let printed = world.python(script);
    let id = printed.lines().nth(1).unwrap();
    assert_eq!(printed.lines().next().unwrap(), "(b'to Python', 1)");
    assert_eq!(world.run("cat ctl/sysv/msg/0x4d2/type/2147483647"), "from Python");
    assert_eq!(world.run(&format!("stat -c '%a %s' sysv/msg/id-{id}")), "640 1\n");

    world.run("echo -n to perl > ctl/sysv/msg/0x4d2/type/7");
    let printed = world.run(
        "perl -MIPC::SysV -MIPC::Msg -e '$q = IPC::Msg->new(0x4d2, 0) or die $!;
         print $q->rcv($m, 100, 7), \":$m\\n\"; $q->snd(9, \"from perl\") or die $!;
         print $q->stat->qnum, \"\\n\"; $q->set(mode => 0660)'",
    );
    assert_eq!(printed, "7:to perl\n1\n");
    assert_eq!(world.run("stat -c %a sysv/msg/1234; cat sysv/msg/1234"), "660\nfrom perl");
}

#[test]
fn every_type_passes_and_is_selected_as_msgrcv_selects() {
    let world = World::new();
    world.run("touch sysv/msg/1");
    for tag in ["1", "2", "2147483647", "2147483648", "9223372036854775806", "9223372036854775807"]
    {
        world.run(&format!("echo -n out > ctl/sysv/msg/1/type/{tag}"));
        assert_eq!(world.c("sysv_msg", &["receive", "1", tag]), format!("{tag}:out"));
        world.c("sysv_msg", &["send", "1", tag, "in"]);
        assert_eq!(world.run(&format!("cat ctl/sysv/msg/1/type/{tag}")), "in");
    }
    for tag in ["0", "-1", "-9223372036854775808"] {
        let errors = world.fail(&format!("echo x > ctl/sysv/msg/1/type/{tag}"));
        assert!(errors.contains("Invalid argument"), "{tag}: {errors}");
    }
    for tag in ["9223372036854775808", "-9223372036854775809", "x", "01", "+1", "1.0"] {
        world.fail(&format!("stat ctl/sysv/msg/1/type/{tag}"));
    }
    world.run("for t in 5 3 9 3 7; do echo $t > ctl/sysv/msg/1/type/$t; done");
    let read = |file: &str| world.run(&format!("cat ctl/sysv/msg/1/{file}"));
    assert_eq!(read("peek"), "5\t5\n3\t3\n9\t9\n3\t3\n7\t7\n");
    assert_eq!(read("except/5"), "3\n");
    assert_eq!(read("type/-8"), "3\n");
    assert_eq!(read("type/-8"), "5\n");
    assert_eq!(read("type/7"), "7\n");
    world.fail("dd if=ctl/sysv/msg/1/type/-8 iflag=nonblock");
    world.fail("dd if=ctl/sysv/msg/1/except/9 iflag=nonblock");
    assert_eq!(read("type/0"), "9\n");
    // Lines and tags.
    world.run("printf '4\\tfour\\n8\\teight\\n' | cat > ctl/sysv/msg/1/tagged");
    world.run("printf 'a\\nb' | cat > ctl/sysv/msg/1/lines");
    assert_eq!(read("peek"), "4\tfour\n8\teight\n1\ta\n1\tb\n");
    assert_eq!(world.run("head -n1 ctl/sysv/msg/1/tagged"), "4\tfour\n");
    assert_eq!(read("drain"), "eight\na\nb\n");
    world.fail("printf '0\\tx\\n' > ctl/sysv/msg/1/tagged");
}

#[test]
fn a_message_of_any_length_passes_whole_or_not_at_all() {
    let world = World::new();
    world.run(
        "touch sysv/msg/1; cd $SCRATCH; head -c 8193 /dev/urandom > long; head -c 8192 long > fits",
    );
    world.run("printf 'a\\0b\\nc\\n\\n' > $SCRATCH/binary");
    for file in ["fits", "binary"] {
        let script = format!(
            "dd if=$SCRATCH/{file} of=sysv/msg/1 bs=1M status=none; cat sysv/msg/1 | cmp - $SCRATCH/{file}"
        );
        world.run(&script);
    }
    let errors = world.fail("dd if=$SCRATCH/long of=sysv/msg/1 bs=1M");
    assert!(errors.contains("Message too long"), "{errors}");
    let errors = world.fail("dd if=/dev/zero of=sysv/msg/1 bs=2M count=1");
    assert!(errors.contains("Message too long"), "{errors}");
    assert_eq!(world.run("stat -c %s sysv/msg/1"), "0\n");
    // An empty message, both ways.
    world.c("sysv_msg", &["zeros", "1", "5", "0"]);
    assert_eq!(
        world.run("cat ctl/sysv/msg/1/peek; cat sysv/msg/1; cat ctl/sysv/msg/1/peek"),
        "5\t\n"
    );
    world.run("echo > ctl/sysv/msg/1/lines");
    assert_eq!(world.c("sysv_msg", &["length", "1"]), "1:0\n");
    world.run("echo -n x > sysv/msg/1");
    assert_eq!(world.c("sysv_msg", &["length", "1"]), "1:1\n");
    // The limit goes up and down under the daemon's feet; what is queued can be read all the same.
    world.run("echo 100000 > /proc/sys/kernel/msgmax; echo 200000 > /proc/sys/kernel/msgmnb");
    world.run("echo 200000 > ctl/sysv/msg/1/qbytes");
    world.run("head -c 100000 /dev/zero | dd of=sysv/msg/1 bs=100000 iflag=fullblock status=none");
    assert_eq!(world.run("cat ctl/sysv/msg/1/peek | wc -c"), "100003\n");
    world.run("echo 8192 > /proc/sys/kernel/msgmax");
    assert!(world.fail("cat ctl/sysv/msg/1/peek").contains("Message too long"));
    assert_eq!(world.run("cat sysv/msg/1 | wc -c"), "100000\n");
    // A small buffer gets it in pieces.
    world.run("echo abcdef > sysv/msg/1");
    assert_eq!(world.run("dd if=sysv/msg/1 bs=4 status=none"), "abcdef\n");
}

#[test]
fn names_for_keys_are_links_that_stay() {
    let mut world = World::new();
    world.run("cd sysv/msg; ln -s 0x4d2 jobs; ln -s 77 other");
    // The key need not exist yet.
    assert_eq!(world.run("readlink sysv/msg/jobs; [ -e sysv/msg/jobs ] || echo no"), "0x4d2\nno\n");
    world.run("echo by name > sysv/msg/jobs");
    assert_eq!(world.run("ls sysv/msg; cat sysv/msg/1234"), "0x000004d2\njobs\nother\nby name\n");
    assert_eq!(
        world.run("ls -l sysv/msg/jobs | cut -c1; . ctl/sysv/msg/jobs/status; echo $key"),
        "l\n0x000004d2\n"
    );
    for (target, name) in [
        ("0", "a"),
        ("nix", "a"),
        ("../shm/1", "a"),
        ("/etc/passwd", "a"),
        ("id-1", "a"),
        ("1", "2"),
        ("1", "id-3"),
    ] {
        let errors = world.fail(&format!("ln -s {target} sysv/msg/{name}"));
        assert!(errors.contains("Invalid argument"), "{target} {name}: {errors}");
    }
    world.fail("ln -s 5 sysv/msg/jobs");
    world.run("mv sysv/msg/other sysv/msg/more; ln -sfn 88 sysv/msg/more; [ $(readlink sysv/msg/more) = 88 ]");
    // Others make their own and leave these alone.
    world.run(&user(
        1001,
        "ln -s 99 sysv/msg/mine && ! rm -f sysv/msg/jobs && ! mv sysv/msg/jobs sysv/msg/stolen",
    ));
    assert_eq!(world.run("stat -c %u sysv/msg/mine sysv/msg/jobs"), "1001\n0\n");
    world.fail(&user(1002, "rm -f sysv/msg/mine"));
    world.run(&user(1001, "rm sysv/msg/mine"));
    world.fail("mv sysv/msg/0x000004d2 sysv/msg/7");
    world.fail("ln sysv/msg/0x000004d2 sysv/msg/hard; mkdir sysv/msg/dir");
    // They outlive the daemon; removing the name leaves the queue.
    let mut daemon = world.take_daemon();
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success());
    world.mount(&[]);
    assert_eq!(world.run("readlink sysv/msg/jobs sysv/msg/more"), "0x4d2\n88\n");
    world.run("rm sysv/msg/jobs");
    assert_eq!(
        world.run("ls sysv/msg sysv/sem sysv/shm"),
        "sysv/msg:\n0x000004d2\nmore\n\nsysv/sem:\n\nsysv/shm:\n"
    );
}

#[test]
fn the_place_of_the_names_can_be_given() {
    let mut world = World::unmounted();
    let option = format!("link_dir={}/links", world.scratch().display());
    world.mount(&["-o", &option]);
    world.run(
        "ln -s 5 sysv/msg/five; [ -L $SCRATCH/links/sysv/msg/five ]; ! [ -e /run/ipcfs/sysv ]",
    );
    // What is no name for a key is not shown.
    world.run("cd $SCRATCH/links/sysv/msg; ln -s /etc/passwd evil; ln -s 6 0x7; mkdir dir; echo x > file; mkfifo fifo");
    assert_eq!(world.run("ls sysv/msg"), "five\n");
    world.fail("cat sysv/msg/evil; cat sysv/msg/file; cat sysv/msg/fifo");
}

#[test]
fn owner_and_creator_alone_change_and_remove() {
    let world = World::new();
    world.run(&user(1001, "umask 022; touch sysv/msg/1"));
    assert_eq!(world.run("stat -c '%u %g %a' sysv/msg/1"), "1001 1001 644\n");
    world.fail(&user(1002, "rm -f sysv/msg/1"));
    world.fail(&user(1002, "chmod 666 sysv/msg/1"));
    world.fail(&user(1002, "echo x > sysv/msg/1"));
    world.fail(&user(1002, "cat ctl/sysv/msg/1/type/1 < /dev/null > ctl/sysv/msg/1/type/1"));
    world.fail(&user(1002, "echo 5 > ctl/sysv/msg/1/qbytes"));
    world.run(&user(1001, "chmod 620 sysv/msg/1; echo 5000 > ctl/sysv/msg/1/qbytes"));
    assert_eq!(world.run("cat ctl/sysv/msg/1/qbytes; stat -c %a sysv/msg/1"), "5000\n620\n");
    let errors = world.fail(&user(1001, "echo 99999999 > ctl/sysv/msg/1/qbytes"));
    assert!(errors.contains("Operation not permitted"), "{errors}");
    // A supplementary group counts.
    world.run("chgrp 5000 sysv/msg/1");
    world.run("setpriv --reuid=1003 --regid=1003 --groups=5000 bash -c 'echo x > sysv/msg/1'");
    world.fail("setpriv --reuid=1003 --regid=1003 --groups=5001 bash -c 'echo x > sysv/msg/1'");
    world.fail("setpriv --reuid=1003 --regid=1003 --groups=5000 cat sysv/msg/1");
    // The creator may still remove what belongs to another by now, as in C.
    world.run("chown 1004 sysv/msg/1");
    world.run(&user(1001, "rm -f sysv/msg/1"));
    assert_eq!(world.run("ls sysv/msg"), "");
}

#[test]
fn thousands_of_empty_messages_are_discarded_and_a_file_of_a_removed_queue_says_so() {
    let world = World::new();
    world.run("touch sysv/msg/1; yes '' | head -n 10000 > ctl/sysv/msg/1/lines");
    assert_eq!(world.run("(. ctl/sysv/msg/1/status; echo $qnum)"), "10000\n");
    world.run("truncate -s 0 sysv/msg/1");
    assert_eq!(world.run("(. ctl/sysv/msg/1/status; echo $qnum)"), "0\n");
    let script = "import os
read = os.open('ctl/sysv/msg/1/qbytes', os.O_RDONLY)
write = os.open('ctl/sysv/msg/1/qbytes', os.O_WRONLY)
os.remove('sysv/msg/1')
for use in lambda: os.read(read, 9), lambda: os.write(write, b'9'):
    try: print(use())
    except OSError as error: print(error.errno)";
    assert_eq!(world.python(script), "43\n43\n");
}

#[test]
fn what_might_be_taken_for_a_key_is_no_name_for_one() {
    let world = World::new();
    let alike = ["0", "0x", "+5", "-5", "' 5'", "0X5", "0x123456789", "007", "id-", "id-x", "5a"];
    for name in alike {
        let errors = world.fail(&format!("ln -s 1 sysv/msg/{name}"));
        assert!(errors.contains("Invalid argument") || name == "-5", "{name}: {errors}");
        world.run("ln -sfn 1 sysv/msg/jobs");
        assert!(world.fail(&format!("mv sysv/msg/jobs sysv/msg/{name}")).contains("mv: "));
    }
    assert_eq!(world.run("ls sysv/msg"), "jobs\n");
}

#[test]
fn sizes_times_and_who_did_it() {
    let world = World::new();
    world.run("touch sysv/msg/1; ! [ -s sysv/msg/1 ]; echo one > sysv/msg/1; [ -s sysv/msg/1 ]; echo two > sysv/msg/1");
    let shown = world.run("bash -c 'echo $$; echo x > sysv/msg/1'; (. ctl/sysv/msg/1/status; echo $lspid $lrpid $qnum $cbytes)");
    let pid = shown.lines().next().unwrap();
    assert_eq!(shown.lines().nth(1).unwrap(), format!("{pid} 0 3 10"));
    world.fail("truncate -s 3 sysv/msg/1");
    world.run("truncate -s 0 sysv/msg/1; ! [ -s sysv/msg/1 ]; touch sysv/msg/1");
    let script = "(. ctl/sysv/msg/1/status; [ $rtime -ge $stime ] && [ $stime -ge $ctime ] &&
        stat -c '%X %Y %Z' sysv/msg/1 && echo $rtime $stime $ctime)";
    let times = world.run(script);
    assert_eq!(times.lines().next(), times.lines().nth(1));
    let by_c = world.run("jq -r .qnum,.name < ctl/sysv/msg/1/status.json");
    assert_eq!(by_c, "0\n0x00000001\n");
    world.c("sysv_msg", &["send", "1", "1", "x"]);
    let native = world
        .run("(. ctl/sysv/msg/1/status; echo $lspid); awk 'NR == 2 {print $6}' /proc/sysvipc/msg");
    assert_eq!(native.lines().next(), native.lines().nth(1));
}

#[test]
fn ten_thousand_queues_are_listed_quickly_and_not_remembered() {
    let world = World::new();
    world.run("echo 20000 > /proc/sys/kernel/msgmni");
    world.c("sysv_msg", &["queues", "1", "10000"]);
    let before = world.daemon_status("VmRSS");
    assert_eq!(
        world.run("ls sysv/msg | wc -l; ls -l sysv/msg | tail -n +2 | sort -u | wc -l"),
        "10000\n10000\n"
    );
    let time = |script: &str| {
        let best = (0..3).map(|_| {
            let start = Instant::now();
            world.run(script);
            start.elapsed()
        });
        best.min().unwrap()
    };
    let (ls, ipcs) = (time("ls sysv/msg > $SCRATCH/ls"), time("ipcs -q > $SCRATCH/ipcs"));
    let long = time("ls -l sysv/msg > $SCRATCH/long");
    println!("10,000 queues: ls {ls:?}, ls -l {long:?}, ipcs -q {ipcs:?}");
    assert!(ls < 3 * ipcs + Duration::from_millis(100), "ls {ls:?}, ipcs -q {ipcs:?}");
    assert!(long < Duration::from_secs(10), "{long:?}");
    // The kernel forgets the names that it has looked up, and with it the daemon.
    world.run("echo 2 > /proc/sys/vm/drop_caches");
    eventually("it is small again", || world.daemon_status("VmRSS") < before + 2048);
}

#[test]
fn limits_are_those_of_the_c_call() {
    let world = World::new();
    world.run("echo 2 > /proc/sys/kernel/msgmni; touch sysv/msg/1 sysv/msg/2");
    assert!(world.fail("touch sysv/msg/3").contains("No space left"));
    world.run("rm sysv/msg/1; touch sysv/msg/3");
    assert!(world.fail("set -C; : > sysv/msg/3").contains("exist"));
    world.fail("cp sysv/msg/2 sysv/msg/9/x; mkdir sysv/msg/5");
}

#[test]
fn the_key_that_ftok_makes() {
    let world = World::new();
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/ipcfs.sh");
    for path in ["/etc/passwd", "/etc", "/dev/shm", "/bin/sh"] {
        for id in ["1", "65", "255", "256", "0x41"] {
            let key = world.python(&format!(
                "import sysv_ipc; print('0x%08x' % (sysv_ipc.ftok('{path}', {id}, silence_warning=True) & 0xffffffff))"
            ));
            for shell in ["sh", "bash"] {
                let made = world.run(&format!("{shell} -c '. {library}; ipc_ftok {path} {id}'"));
                assert_eq!(made, key, "{path} {id}");
            }
        }
    }
    let script = format!("sh -c '. {library}; ipc_ftok /etc A; ipc_ftok /etc 65'");
    let keys = world.run(&script);
    assert_eq!(keys.lines().next(), keys.lines().nth(1));
    for wrong in ["/etc AB", "/etc 1+1", "/nix 1", "/etc 0x", "/etc 09", "/etc \"\"", "/etc"] {
        world.fail(&format!("sh -c '. {library}; ipc_ftok {wrong}'"));
    }
}
