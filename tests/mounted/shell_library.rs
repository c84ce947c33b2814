//! scripts/ipcfs.sh, in each shell; `ipc_lock` has a file of its own.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{Running, World, eventually};

/// The shells that the library is for.
pub const SHELLS: [&str; 5] = ["dash", "bash", "busybox sh", "zsh -f", "zsh --emulate sh -f"];

/// Starts a script that has the library, in one of the shells.
pub fn start(world: &World, shell: &str, script: &str) -> Running {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/ipcfs.sh");
    let mut words = shell.split(' ');
    let mut command = world.command(words.next().unwrap());
    command.args(words).arg("-c").arg(format!(". {}\n{script}", library.display()));
    command.env("IPCFS", world.path()).env("TMPDIR", world.scratch());
    Running::start(command)
}

/// Runs it to its end and returns what it has printed, errors behind the rest.
pub fn run(world: &World, shell: &str, script: &str) -> String {
    let output = start(world, shell, script).output();
    format!("{}{}", output.text(), output.errors)
}

/// Runs a script in each of the shells, which are all to print this.
fn all_print(world: &World, script: &str, expected: &str) {
    for shell in SHELLS {
        assert_eq!(run(world, shell, script), expected, "{shell}: {script}");
    }
}

#[test]
fn messages_are_sent_and_received_byte_for_byte() {
    let world = World::new();
    world.run(
        "touch mq/q; seq 0 255 | while read -r i; do printf \"\\\\x$(printf %x $i)\"; done \
             > $SCRATCH/bytes
         head -c 1024 /dev/urandom > $SCRATCH/long; : > $SCRATCH/empty; echo > $SCRATCH/newline
         printf '\\n\\n' > $SCRATCH/newlines; printf 'no end' > $SCRATCH/words",
    );
    for queue in ["mq/q", "sysv/msg/77"] {
        let script = format!(
            "for file in bytes long empty newline newlines words; do
                 for flags in '' -n '-w 9'; do
                     eval \"ipc_send $flags {queue}\" < $SCRATCH/$file || echo $?
                     eval \"ipc_recv $flags {queue}\" > $SCRATCH/got || echo $?
                     cmp $SCRATCH/$file $SCRATCH/got
                 done
             done"
        );
        all_print(&world, &script, "");
    }
    let script = "text='a \\n \\0 %s  $x
-n

'
        for text in \"$text\" '' -n -e -- '*' 'a\\c'; do
            ipc_send mq/q \"$text\"; printf %s \"$text\" > $SCRATCH/text
            ipc_recv mq/q > $SCRATCH/got; cmp $SCRATCH/text $SCRATCH/got
        done";
    all_print(&world, script, "");
}

#[test]
fn priorities_and_types_are_those_asked_for() {
    let world = World::new();
    let script = "ipc_send mq/q low; ipc_send -p 032767 mq/q high; ipc_send -p 5 mq/q ''
        cat ctl/mq/q/tagged & sleep 0.2; kill $!; rm mq/q";
    for shell in SHELLS {
        assert_eq!(run(&world, shell, &format!("{script} 2>&1")), "32767\thigh\n5\t\n0\tlow\n");
    }
    let script = "ipc_send sysv/msg/77 one; ipc_send -t 7 sysv/msg/0x4d seven
        ipc_send -t 3 sysv/msg/77 three; ipc_send -t 09 sysv/msg/77 ''; cat ctl/sysv/msg/77/peek
        for type in 07 -05 0 9; do ipc_recv -t $type -w 5 sysv/msg/77; echo; done
        ipc_recv -n -t 7 sysv/msg/77; echo $?; rm sysv/msg/77";
    all_print(&world, script, "1\tone\n7\tseven\n3\tthree\n9\t\nseven\none\nthree\n\n75\n");
}

#[test]
fn a_queue_is_found_wherever_it_is_and_whatever_its_name_is() {
    let world = World::new();
    world.run("ln -s $M/mq/q $SCRATCH/link; ln -s 0x4d sysv/msg/jobs");
    let script = "odd='-a  b
        *'
        cd $M/mq; for place in q ./q ../mq/q $M/mq/q $M//mq/../mq/q $SCRATCH/link \\
            ../sysv/msg/77 ../sysv/msg/jobs \"$odd\" \"./$odd\" \"$M/mq/$odd\"; do
            ipc_send -- \"$place\" here; ipc_wait -w 9 -- \"$place\" || echo $?
            ipc_recv -w 9 -- \"$place\" || echo $?
        done; rm -- \"$odd\"
        cd $M/sysv/msg; ipc_send -t 5 jobs type; ipc_recv -t 5 77
        cd /; CDPATH=$M; ipc_send mq/q elsewhere; echo $?";
    let sentence = "ipc_send: mq/q: this is no message queue in a mount of ipcfs\n";
    all_print(&world, script, &format!("{}type69\n{sentence}", "here".repeat(11)));
}

#[test]
fn the_exit_status_tells_what_was_not_to_be_had_from_what_cannot_be() {
    let world = World::new();
    world
        .run("touch mq/q; echo 'mq/full maxmsg=1' > ctl/create; echo > mq/full; mkdir $SCRATCH/mq; mkfifo $SCRATCH/pipe");
    for (calls, status) in [
        (["ipc_recv -n mq/q", "ipc_recv -w 0.1 mq/q", "ipc_wait -n mq/q"], 75),
        (["ipc_wait -w 0.1 mq/q", "ipc_send -n mq/full x", "ipc_send -w 0.1 mq/full x"], 75),
        (
            [
                "ipc_send -n -p 3 mq/full ''",
                "ipc_send -w 0.1 mq/q <> $SCRATCH/pipe",
                "ipc_recv -w 0 mq/q",
            ],
            75,
        ),
        (["ipc_recv mq/none", "ipc_wait mq/none", "ipc_each mq/none true"], 69),
        (["ipc_send $SCRATCH/mq/q x", "ipc_recv shm/q", "ipc_send mq/ x"], 69),
        (["head -c 1025 /dev/zero | ipc_send mq/q", "ipc_send sysv/msg/x y", "ipc_recv /"], 69),
        (["ipc_recv", "ipc_recv mq/q more", "ipc_recv -x mq/q"], 64),
        (["ipc_recv -w x mq/q", "ipc_recv -w 1.2.3 mq/q", "ipc_recv -t 5 mq/q"], 64),
        (["ipc_recv -t x sysv/msg/7", "ipc_send -t '' sysv/msg/7 x", "ipc_send -p -1 mq/q x"], 64),
        (["ipc_send -t 1 mq/q x", "ipc_send -p 1 sysv/msg/7 x", "ipc_wait -t 1 mq/q"], 64),
        (["ipc_each mq/q", "ipc_each -r x mq/q true", "ipc_each -x mq/q true"], 64),
        (["ipc_each -w x -n mq/q true", "ipc_recv -n -w . mq/q", "ipc_send -p 8x mq/q x"], 64),
    ] {
        for call in calls {
            let script = format!("{call} 2> $SCRATCH/errors; echo $?; wc -l < $SCRATCH/errors");
            let sentences = i32::from(status != 75);
            all_print(&world, &script, &format!("{status}\n{sentences}\n"));
        }
    }
    assert_eq!(world.run("stat -c %s mq/q; cat ctl/mq/full/drain"), "0\n\n");
}

#[test]
fn what_ends_in_time_has_lost_and_doubled_nothing() {
    let world = World::new();
    world.run("echo 'mq/q maxmsg=2' > ctl/create");
    let mut readers: Vec<_> = SHELLS
        .iter()
        .map(|shell| {
            let script = "while :; do
                job=$(ipc_recv -w 0.01 mq/q) || { [ $? -eq 75 ] && continue; exit 1; }
                [ \"$job\" != end ] || exit 0; echo \"$job\"; done";
            start(&world, shell, script)
        })
        .collect();
    let writers: Vec<_> = SHELLS
        .iter()
        .enumerate()
        .map(|(index, shell)| {
            let script = format!(
                "i=0; while [ $i -lt 40 ]; do i=$((i + 1))
                 until ipc_send -w 0.01 mq/q {index}-$i; do [ $? -eq 75 ] || exit; done; done"
            );
            start(&world, shell, &script)
        })
        .collect();
    for mut writer in writers {
        assert!(writer.wait().success(), "{}", writer.errors());
    }
    for _ in &readers {
        world.run("printf end > mq/q");
    }
    let mut got: Vec<_> = readers
        .drain(..)
        .flat_map(|reader| reader.output().text().lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    got.sort();
    let mut sent: Vec<_> = (0..5).flat_map(|i| (1..=40).map(move |n| format!("{i}-{n}"))).collect();
    sent.sort();
    assert_eq!(got, sent);
}

#[test]
fn what_waits_ends_at_once_on_ctrl_c_and_has_taken_and_sent_nothing() {
    let world = World::new();
    world.run("touch mq/q sysv/msg/7; echo 'mq/full maxmsg=1' > ctl/create; echo x > mq/full");
    for shell in SHELLS {
        for call in [
            "ipc_recv mq/q",
            "ipc_recv -w 100 mq/q",
            "ipc_recv -t 5 sysv/msg/7",
            "ipc_send mq/full more",
            "ipc_send -w 100 mq/full more",
            "ipc_wait mq/q",
            "ipc_wait -w 100 mq/q",
            "ipc_each mq/q true",
            "ipc_each -w 100 -t 5 sysv/msg/7 true",
        ] {
            let mut running = start(&world, shell, &format!("{call}; echo went on"));
            eventually("it waits", || world.waiting() == 1);
            let begun = Instant::now();
            running.signal(libc::SIGINT);
            running.wait();
            assert!(begun.elapsed() < Duration::from_secs(2), "{shell}: {call}");
            eventually("nobody waits", || world.waiting() == 0);
        }
        assert_eq!(world.run("stat -c %s mq/q mq/full"), "0\n2\n", "{shell}");
    }
}

#[test]
fn who_is_killed_while_waiting_leaves_nobody_who_takes_a_message() {
    let world = World::new();
    world.run("touch mq/q");
    for shell in SHELLS {
        for call in ["ipc_recv mq/q", "ipc_recv -w 100 mq/q", "ipc_each mq/q cat"] {
            let script = format!("echo $$ > $SCRATCH/pid; {call}; :");
            let mut running = start(&world, shell, &script);
            eventually("it waits", || world.waiting() == 1);
            // Not what it has started.
            world.run("kill -9 $(cat $SCRATCH/pid)");
            running.wait();
            world.run("echo message > mq/q");
            eventually("nobody waits", || world.waiting() == 0);
            assert_eq!(running.output().text(), "");
            assert_eq!(world.run("timeout 5 cat mq/q"), "message\n", "{shell}: {call}");
        }
    }
}

#[test]
fn a_worker_runs_a_command_for_each_message() {
    let world = World::new();
    let script = "set -eu; name=mine; i=7; f() { printf '%s:' \"$name$i\" \"$@\"; cat; echo; }
        printf 'a\\0b' | ipc_send mq/q; ipc_send mq/q ''; ipc_send mq/q 'c
'
        ipc_each -n mq/q f 1 '2 3' | od -An -c; ipc_send mq/q 'x y'; ipc_each -n mq/q cat
        ipc_each -w 0.1 mq/q cat; echo \" $?\"; ipc_each -n mq/q false; echo $?; rm mq/q";
    let expected = "   m   i   n   e   7   :   1   :   2       3   :   a  \\0   b  \\n
   m   i   n   e   7   :   1   :   2       3   :  \\n   m   i   n
   e   7   :   1   :   2       3   :   c  \\n  \\n
x y 0
0
";
    all_print(&world, script, expected);
    // Under `set -e`, a function ends where it fails.
    let script = "set -e; f() { false; echo went on; }
        ipc_send mq/q x; ipc_each -n mq/q f 2>&1; echo not reached";
    all_print(&world, script, "");
    world.run("rm mq/q");
}

#[test]
fn a_message_whose_command_fails_is_given_back_or_a_dead_letter() {
    let world = World::new();
    let script = "ipc_send mq/q bad; ipc_send mq/q good; f() { cat; return 3; }
        ipc_each mq/q f; echo \" $?\"
        ipc_each -n -d mq/dead mq/q grep -v bad; echo $?; ipc_recv -n mq/dead; ipc_recv -n mq/q; echo $?
        ipc_send mq/q again; ipc_each -n -r 2 mq/q f; echo \" $?\"
        ipc_each -n -d mq/dead mq/q ./no-such-command 2> /dev/null; echo $?; ipc_recv -n mq/q; echo
        ipc_recv -n mq/dead; echo $?; rm mq/q mq/dead";
    let expected = "bad 3\ngood\n0\nbad75\nagainagainagain 3\n127\nagain\n75\n";
    all_print(&world, script, expected);
    // With its type, where that is known.
    let script = "ipc_send -t 5 sysv/msg/7 five; ipc_send sysv/msg/7 one
        ipc_each -n -t 5 sysv/msg/7 false; echo $?
        ipc_each -n -t 5 -d sysv/msg/8 sysv/msg/7 false; echo $?
        cat ctl/sysv/msg/7/peek ctl/sysv/msg/8/peek; rm sysv/msg/7 sysv/msg/8";
    all_print(&world, script, "1\n0\n1\tone\n5\tfive\n");
    // Nor are there dead letters without end.
    let script = "echo 'mq/dead maxmsg=1' > ctl/create; ipc_send mq/dead x; ipc_send mq/q again
        ipc_each -d mq/dead mq/q false; echo $?; ipc_recv mq/q; rm mq/q mq/dead";
    for shell in SHELLS {
        let output = start(&world, shell, script).output();
        assert_eq!(output.text(), "1\nagain", "{shell}");
        assert!(output.errors.ends_with("mq/dead: the queue is full\n"), "{}", output.errors);
    }
    // One that nowhere is room for is not lost.
    let script = "echo 'mq/q maxmsg=1' > ctl/create; ipc_send mq/q first
        f() { ipc_send mq/q second; return 1; }
        ipc_each mq/q f 2> $SCRATCH/errors; echo $?; grep -c 'not be had\\|unavailable' $SCRATCH/errors
        cat \"$(sed -n 's/.* the message is in //p' $SCRATCH/errors)\"; echo; ipc_recv mq/q; rm mq/q
        rm -r \"$(dirname \"$(sed -n 's/.* the message is in //p' $SCRATCH/errors)\")\"";
    all_print(&world, script, "1\n0\nfirst\nsecond");
}

#[test]
fn a_worker_ends_after_its_message_on_sigterm_and_gives_it_back_on_ctrl_c() {
    let world = World::new();
    world.run("touch mq/q sem/go");
    for shell in SHELLS {
        world.run("printf 1 > mq/q; printf 2 > mq/q");
        let script = "f() { echo +1 > sem/go; echo -1 > sem/end; cat; }
            echo 0 > sem/end; ipc_each -j $SCRATCH/journal mq/q f; echo \" $?\"";
        let running = start(&world, shell, script);
        world.run("echo -1 > sem/go");
        let worker = world.run("ls $SCRATCH/journal");
        world.run(&format!("kill {}; echo +1 > sem/end", worker.split('.').next().unwrap()));
        assert_eq!(running.output().text(), "1 0\n", "{shell}");
        assert_eq!(world.run("cat mq/q; ls $SCRATCH/journal"), "2", "{shell}");

        world.run("printf 1 > mq/q; printf 2 > mq/q");
        // By a process that says so itself: in the moment of a fork a shell may lose a Ctrl-C.
        let script = "f() { sh -c 'echo +1 > sem/go; exec sleep 1000'; echo went on; }
            ipc_each -d mq/dead mq/q f; echo went on";
        let running = start(&world, shell, script);
        world.run("echo -1 > sem/go");
        running.signal(libc::SIGINT);
        let output = running.output();
        assert!(!output.status.success() && output.text().is_empty(), "{shell}: {output:?}");
        assert_eq!(world.run("cat mq/q; cat mq/q; ls mq"), "21q\n", "{shell}");
    }
    let left = fs::read_dir(world.scratch()).unwrap().flatten().map(|file| file.file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("tmp.")).collect();
    assert!(left.is_empty(), "a worker cleans up: {left:?}");
}

#[test]
fn what_a_killed_worker_had_in_work_another_takes_up() {
    let world = World::new();
    world.run("touch mq/q sem/go");
    for shell in SHELLS {
        world.run("printf 'job\\0 1' > mq/q");
        let each = "ipc_each -j $SCRATCH/journal -w 60 mq/q";
        let script = format!("f() {{ echo +1 > sem/go; sleep 1000; }}; {each} f");
        let killed = start(&world, shell, &script);
        world.run("echo -1 > sem/go");
        killed.signal(libc::SIGKILL);
        killed.output();
        let left = world.run("cat $SCRATCH/journal/* | tr '\\0' 0");
        assert_eq!(left, "job0 1", "{shell}: it is named");
        // One that is alive keeps its own.
        world.run("printf 2 > mq/q");
        let script =
            format!("f() {{ printf '<%s>' \"$(tr '\\0' 0)\"; echo +1 > sem/go; }}; {each} f");
        let other = start(&world, shell, &script);
        world.run("echo -2 > sem/go");
        let third = start(&world, shell, "ipc_each -j $SCRATCH/journal -n mq/q cat");
        assert_eq!(third.output().text(), "");
        other.signal(libc::SIGTERM);
        assert_eq!(other.output().text(), "<job0 1><2>", "{shell}");
        assert_eq!(world.run("ls $SCRATCH/journal; rmdir $SCRATCH/journal"), "", "{shell}");
    }
}

#[test]
fn a_message_that_the_disk_is_too_full_for_stays_in_the_queue() {
    let world = World::new();
    world.run("mkdir $SCRATCH/disk; mount -t tmpfs -o size=1200k tmpfs $SCRATCH/disk");
    for (shell, options) in SHELLS
        .into_iter()
        .flat_map(|shell| ["", "-j $SCRATCH/disk"].map(|options| (shell, options)))
    {
        // Full from the beginning; and then, from the first message on, for one of two pages.
        let script = format!(
            "TMPDIR=$SCRATCH/disk; fill() {{ cat; head -c 2M /dev/zero 2> /dev/null >> $TMPDIR/fill; :; }}
            ipc_send sysv/msg/7 first; head -c 5000 /dev/zero | ipc_send sysv/msg/7
            fill < /dev/null; ipc_each {options} sysv/msg/7 cat; echo $?; stat -c %s sysv/msg/7
            rm $TMPDIR/fill; ipc_each {options} sysv/msg/7 fill; echo \" $?\"
            rm $TMPDIR/fill; ls -A $TMPDIR
            ipc_each -n {options} sysv/msg/7 wc -c"
        );
        let output = start(&world, shell, &script).output();
        let told = output.errors.matches("no room for a message").count();
        assert_eq!(
            (output.text().as_str(), told),
            ("69\n5005\nfirst 69\n5000\n", 2),
            "{shell} {options}: {output:?}"
        );
    }
    world.run("umount $SCRATCH/disk");
}

#[test]
fn ifs_and_zsh_s_err_return_are_the_caller_s() {
    let world = World::new();
    let script = r#"for IFS in "
	" , "" / 0 "a b"; do
            before=$IFS; each() { [ "$IFS" = "$before" ] && cat; }
            ipc_send -w 1 mq/q one; ipc_wait -w 1 mq/q; ipc_recv -w 1 mq/q; ipc_send mq/q two
            ipc_each -n mq/q each; ipc_lock -w 1 lock each < /dev/null || echo "$?"
            echo " three" | ipc_lock lock each; ipc_ftok / 1 > "$SCRATCH/key"; grep -c '^0x' "$SCRATCH/key"
        done
        unset IFS; each() { echo "${IFS-unset}"; }; ipc_lock lock each
        set | grep '^ipc_[a-z_]*='; :"#;
    all_print(
        &world,
        script,
        &format!(
            "{}unset
",
            "onetwo three
1
"
            .repeat(6)
        ),
    );
    let script = "setopt errreturn; f() { false; echo went on; }
        ipc_send mq/q x; ipc_wait -w 1 mq/q; ipc_recv -w 1 mq/q; ipc_send mq/q y; ipc_each -n mq/q cat
        ipc_lock -w 1 lock true; g() { ipc_lock lock f; echo went on; }; g || echo $?";
    assert_eq!(
        run(&world, "zsh -f", script),
        "xy1
"
    );
}

#[test]
fn sigterm_for_a_worker_in_the_background_ends_it_after_its_message() {
    let world = World::new();
    world.run("touch mq/q sem/go sem/end");
    for shell in SHELLS {
        for (signal, status) in [("TERM", 0), ("HUP", 0), ("TERM", 3)] {
            world.run("printf 1 > mq/q; printf 2 > mq/q");
            let script = format!(
                "f() {{ echo +1 > sem/go; echo -1 > sem/end; cat; return {status}; }}
                ipc_each mq/q f & worker=$!; echo -1 > sem/go
                kill -{signal} $worker; echo +1 > sem/end; wait $worker; echo \" $?\"; ipc_recv mq/q"
            );
            assert_eq!(
                run(&world, shell, &script),
                format!(
                    "1 {status}
2"
                ),
                "{shell} {signal}"
            );
            world.run("cat ctl/mq/q/drain");
        }
        // While it waits, and in what would begin another; also if the shell loses the first.
        for lost in [
            "",
            "kill() { if [ -e $SCRATCH/lost ]; then command kill $*; else : > $SCRATCH/lost; fi; }",
        ] {
            world.run("rm -f $SCRATCH/lost");
            let script = format!(
                "{lost}
                {{ until ipc_each mq/q cat; do :; done; echo over; }} & echo $! > $SCRATCH/pid
                wait $!; echo $?"
            );
            let running = start(&world, shell, &script);
            eventually("it waits", || world.waiting() == 1);
            world.run("kill $(cat $SCRATCH/pid)");
            assert_eq!(running.output().text(), "over\n0\n", "{shell} {lost}");
            assert_eq!(world.run("ls $SCRATCH").contains("lost"), !lost.is_empty(), "{shell}");
        }
    }
}
