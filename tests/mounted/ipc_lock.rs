//! `ipc_lock` of scripts/ipcfs.sh, in each shell.

use std::time::{Duration, Instant};

use crate::common::{World, eventually};
use crate::shell_library::{SHELLS, run, start};

fn value(world: &World) -> String {
    world.run("cat sem/lock").trim().to_owned()
}

#[test]
fn a_command_runs_under_the_lock_with_its_input_output_and_status() {
    let world = World::new();
    for shell in SHELLS {
        world.run("echo 1 > sem/lock");
        for options in ["", "-n", "-w 30", "-w 0.01", "-w 0"] {
            let script = format!(
                "f() {{ cat $IPCFS/sem/lock; cat; printf '<%s>' \"$@\"; return 7; }}
                echo in | ipc_lock {options} lock f a 'b c'; echo $?"
            );
            assert_eq!(run(&world, shell, &script), "0\nin\n<a><b c>7\n", "{shell} {options}");
            for (signal, status) in [("KILL", "137\n"), ("ALRM", "142\n")] {
                let killed = format!("ipc_lock {options} lock sh -c 'kill -{signal} $$'; echo $?");
                assert_eq!(run(&world, shell, &killed), status, "{shell} {options}");
            }
            let absent = format!("ipc_lock {options} lock ./no-such-command 2>/dev/null; echo $?");
            assert_eq!(run(&world, shell, &absent), "127\n", "{shell} {options}");
        }
        for options in ["", "-n", "-w 30"] {
            let script = format!(
                "set -eu; name=mine; f() {{ echo $name; false; echo went on; }}
                ipc_lock {options} \"a\\nb '
 c\" f; echo went on"
            );
            assert_eq!(run(&world, shell, &script), "mine\n", "{shell} {options}");
            world.run("rm sem/a*b*c; ls sem/* | grep -x sem/lock");
        }
        assert_eq!(value(&world), "1");
        let error = start(&world, shell, "ipc_lock -w 9 lock sh -c 'echo it says >&2'").output();
        assert_eq!(error.errors, "it says\n", "{shell}");
    }
}

#[test]
fn a_lock_that_is_not_to_be_had_in_time_is_75() {
    let world = World::new();
    world.run("echo 0 > sem/lock");
    for shell in SHELLS {
        assert_eq!(run(&world, shell, "ipc_lock -n lock echo has it; echo $?"), "75\n");
        let begun = Instant::now();
        assert_eq!(run(&world, shell, "ipc_lock -w 0.3 lock echo has it; echo $?"), "75\n");
        assert!(begun.elapsed() >= Duration::from_millis(300));
        eventually("nobody waits", || world.waiting() == 0);
        for wrong in ["-w . lock true", "-w 1.2.3 lock true"] {
            let script = format!("ipc_lock {wrong} 2>/dev/null; echo $?");
            assert_eq!(run(&world, shell, &script), "64\n", "{shell} {wrong}");
        }
        for wrong in ["-w x lock true", "lock", "-x lock true", "a/b true", "'' true", ".. true"] {
            let script = format!("ipc_lock {wrong} 2>/dev/null; echo $?");
            assert_eq!(run(&world, shell, &script), "64\n", "{shell} {wrong}");
        }
        let denied = "IPCFS=/nowhere; ipc_lock lock true; echo $?";
        let output = start(&world, shell, denied).output();
        assert_eq!((output.text().as_str(), output.errors.lines().count()), ("69\n", 1));
    }
    assert_eq!(value(&world), "0");
}

#[test]
fn a_missing_lock_is_made_once_and_a_crash_gives_it_back() {
    let world = World::new();
    world.run("echo 0 > $SCRATCH/counter");
    let script = "command='read n < $SCRATCH/counter; echo $((n + 1)) > $SCRATCH/counter
            [ $((n % 7)) != 0 ] || kill -9 $$'
        i=0; while [ $i -lt 20 ]; do i=$((i + 1))
            eval \"ipc_lock $OPTIONS lock sh -c \\\"\\$command\\\"\"
        done 2>/dev/null";
    let all: Vec<_> = ["", "-w 50"]
        .iter()
        .flat_map(|options| SHELLS.map(|shell| (shell, options)))
        .map(|(shell, options)| start(&world, shell, &format!("OPTIONS='{options}'\n{script}")))
        .collect();
    for shell in all {
        shell.output();
    }
    assert_eq!(world.run("cat $SCRATCH/counter"), "200\n");
    assert_eq!(value(&world), "1");
    for shell in SHELLS {
        // The whole group at once, shells and command.
        let mut holder = start(&world, shell, "ipc_lock -w 50 lock sleep 1000; :");
        eventually("it is held", || value(&world) == "0");
        let waiting = start(&world, shell, "ipc_lock -w 50 lock echo mine");
        eventually("the other waits", || world.waiting() == 1);
        holder.signal(libc::SIGKILL);
        assert_eq!(waiting.output().text(), "mine\n");
        holder.wait();
        eventually("it is free", || value(&world) == "1");
        // The shell alone: the lock stays with the command that is still at work.
        let script = "ipc_lock lock sh -c 'kill -9 $PPID; echo +1 > $M/sem/go; sleep 1000'; :";
        let holder = start(&world, shell, script);
        world.run("touch sem/go; echo -1 > sem/go");
        assert_eq!(value(&world), "0");
        holder.signal(libc::SIGKILL);
        eventually("it is free", || value(&world) == "1");
    }
    assert_eq!(world.run("cat ctl/sem/lock/holders"), "");
}

#[test]
fn a_lock_that_cannot_be_had_at_all_is_69_with_the_reason() {
    let mut world = World::new();
    world.run("echo 1 > sem/lock; echo 0 > sem/taken");
    let again = |world: &mut World, arguments: &[&str]| {
        drop(world.take_daemon());
        world.command("umount").arg("-l").arg(world.path()).current_dir("/").output().unwrap();
        world.mount(arguments);
    };
    again(&mut world, &["-o", "ro"]);
    for shell in SHELLS {
        for call in ["lock", "-n lock", "-w 30 lock", "missing", "-n missing"] {
            let output =
                start(&world, shell, &format!("ipc_lock {call} echo begun; echo $?")).output();
            assert_eq!(output.text(), "69\n", "{shell} {call}");
            assert!(output.errors.ends_with("ead-only file system\n") || shell.starts_with("zsh"));
            assert_eq!(output.errors.lines().count(), 1, "{shell} {call}: {}", output.errors);
        }
    }
    for shell in SHELLS {
        for options in ["", "-w 30"] {
            again(&mut world, &[]);
            let script = format!("ipc_lock {options} taken echo begun; echo $?");
            let waiting = start(&world, shell, &script);
            eventually("it waits", || world.waiting() == 1);
            world.run(&format!("kill -9 {}", world.daemon()));
            let output = waiting.output();
            assert_eq!(output.text(), "69\n", "{shell} {options}");
            assert_eq!(output.errors.lines().count(), 1, "{shell} {options}: {}", output.errors);
        }
    }
}
