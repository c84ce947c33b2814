//! Containers: `--ipc-ns`, and a mount that is used inside of one.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::{BINARY, Output, Running, World, eventually, python};

/// A container's first process, in IPC, mount and process namespaces of its own.
struct Container {
    pid: u32,
    /// What its root is outside: root, or with a user namespace somebody who may do nothing.
    root: u32,
    /// What goes with it.
    _kept: Vec<Running>,
}

/// The root of a container with a user namespace.
const NOBODY: u32 = 100_000;

/// What each container does first: a /dev/shm of its own, small queues.
const BEGIN: &str = "mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    echo 1024 > /proc/sys/fs/mqueue/msgsize_default; echo > $SCRATCH/begun; exec sleep 1000";

impl Container {
    fn new(world: &World, user_namespace: bool) -> Self {
        let mut kept = Vec::new();
        let mut enter = String::new();
        if user_namespace {
            let mut holder = world.start("cd /; exec unshare --user sleep 1000");
            let pid = holder.id();
            let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
            eventually("there is a user namespace", || {
                assert!(holder.ended().is_none(), "no user namespace: {}", holder.errors());
                namespace(&pid.to_string()) != namespace("self")
            });
            for map in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{pid}/{map}"), format!("0 {NOBODY} 65536")).unwrap();
            }
            enter = format!("nsenter -t {pid} --user -S 0 -G 0");
            kept.push(holder);
        }
        world.run("cd /; rm -f $SCRATCH/begun; chmod 777 $SCRATCH");
        let unshare = "unshare --ipc --mount --pid --fork --kill-child --mount-proc";
        let mut unshare = world.start(&format!("cd /; exec {enter} {unshare} sh -c '{BEGIN}'"));
        eventually("the container has begun", || {
            assert!(unshare.ended().is_none(), "no container: {}", unshare.errors());
            world.scratch().join("begun").exists()
        });
        let pid = world.run(&format!("cd /; pgrep -P {}", unshare.id()));
        kept.push(unshare);
        let root = if user_namespace { NOBODY } else { 0 };
        Self { pid: pid.trim().parse().unwrap(), root, _kept: kept }
    }

    /// Runs a script inside as its root, which has to succeed.
    fn run(&self, world: &World, script: &str) -> String {
        let output = self.attempt(world, script);
        assert!(output.status.success(), "{script}\n{}: {}", output.status, output.errors);
        output.text()
    }

    fn attempt(&self, world: &World, script: &str) -> Output {
        let mut command = world.command("nsenter");
        command.args(["-t", &self.pid.to_string(), "-a", "bash", "-c", script]);
        Running::start(command).output()
    }

    /// Runs Python inside as its root, with one letter for each library.
    fn python(&self, world: &World, script: &str) -> String {
        let (pid, root) = (self.pid, self.root);
        // By way of the outer root, who can read where Python is.
        let begin = "import os, mmap, posix_ipc as p, sysv_ipc as v";
        let script = format!("{begin}\nos.setgid({root}); os.setuid({root})\n{script}");
        let mut command = world.command("nsenter");
        command.args(["-t", &pid.to_string(), "--ipc", "--mount", "--pid"]).arg(python());
        command.args(["-c", &script]);
        let output = Running::start(command).output();
        assert!(output.status.success(), "{script}\n{}: {}", output.status, output.errors);
        output.text()
    }

    /// A command line that its root would type outside.
    fn outside(&self, script: &str) -> String {
        let root = self.root;
        let script = script.replace('\'', "'\\''");
        format!("setpriv --reuid={root} --regid={root} --clear-groups bash -c '{script}'")
    }

    /// Kills all that is in it.
    fn end(&self, world: &World) {
        world.run(&format!("cd /; kill -9 {}", self.pid));
        eventually("it has ended", || !fs::exists(format!("/proc/{}", self.pid)).unwrap());
    }
}

/// An object of each kind with `NAME` in it.
const MAKE: &str = "p.MessageQueue('/q', p.O_CREX, max_message_size=1024).send(b'NAME')
os.write(p.SharedMemory('/m', p.O_CREX, size=3).fd, b'NAME')
p.Semaphore('/s', p.O_CREX, initial_value=3)
v.MessageQueue(0x4d2, v.IPC_CREX).send(b'NAME')
v.Semaphore(0x4d2, v.IPC_CREX, initial_value=3)
v.SharedMemory(0x4d2, v.IPC_CREX, size=4096).write(b'NAME')";

/// Shows them in the mount.
const SHOW: &str = "echo mq/* shm/* sem/* sysv/*/*; stat -c %u mq/q shm/m sem/s sysv/*/* | uniq
    cat mq/q shm/m sem/s sysv/msg/1234 sysv/sem/1234; head -c 3 sysv/shm/1234";

fn shown(name: &str, owner: u32) -> String {
    format!(
        "mq/q shm/m sem/s sysv/msg/0x000004d2 sysv/sem/0x000004d2 sysv/shm/0x000004d2\n{owner}\n\
         {name}{name}3\n{name}3\n{name}"
    )
}

#[test]
fn several_namespaces_are_mounted_side_by_side() {
    let world = World::new();
    world.run("echo mine > mq/q");
    let containers =
        [("one", Container::new(&world, false)), ("two", Container::new(&world, true))];
    for (name, container) in &containers {
        container.python(&world, &MAKE.replace("NAME", name));
        // By a process, and by the namespace's file.
        let by = match *name {
            "one" => container.pid.to_string(),
            _ => format!("/proc/{}/ns/ipc", container.pid),
        };
        world.run(&format!("cd /; mkdir $SCRATCH/{name}; {BINARY} --ipc-ns {by} $SCRATCH/{name}"));
    }
    for (name, container) in &containers {
        let printed = world.run(&format!("cd $SCRATCH/{name}; {SHOW}"));
        assert_eq!(printed, shown(name, container.root));
        // What is done through the mount, the programs inside see.
        let write = format!(
            "cd $SCRATCH/{name}; printf back > mq/q; printf back > shm/m; echo +1 > sem/s
             printf back > sysv/msg/1234; echo 0 +1 > sysv/sem/1234; printf b 1<> sysv/shm/1234"
        );
        world.run(&container.outside(&write));
        let read = "print(p.MessageQueue('/q').receive()[0], p.Semaphore('/s').value,
    os.read(p.SharedMemory('/m').fd, 9), v.MessageQueue(0x4d2).receive()[0],
    v.Semaphore(0x4d2).value, v.SharedMemory(0x4d2).read(1))";
        assert_eq!(container.python(&world, read), "b'back' 4 b'back' b'back' 4 b'b'\n");
    }
    // And the machine's own is a third one.
    assert_eq!(world.run("cat mq/q; echo shm/* sem/* sysv/*/*"), "mine\nshm/* sem/* sysv/*/*\n");
    world.run("umount $SCRATCH/one $SCRATCH/two");
}

#[test]
fn the_objects_of_a_namespace_that_has_ended_are_there_until_it_is_unmounted() {
    for user_namespace in [false, true] {
        let world = World::unmounted();
        let container = Container::new(&world, user_namespace);
        container.python(&world, &MAKE.replace("NAME", "old"));
        let file = fs::metadata(format!("/proc/{}/ns/ipc", container.pid)).unwrap();
        let namespace = std::os::unix::fs::MetadataExt::ino(&file);
        let mount = format!("{BINARY} --ipc-ns {}", container.pid);
        world.run(&format!("cd /; mkdir $SCRATCH/c; {mount} $SCRATCH/c"));
        world.run(&container.outside("cd $SCRATCH/c; touch mq/empty"));
        let mut reader = world.start("cat $SCRATCH/c/mq/empty");
        eventually("it waits", || !world.run("cat $SCRATCH/c/ctl/mq/empty/waiters").is_empty());
        container.end(&world);

        let start = Instant::now();
        let printed = world.run(&format!("cd $SCRATCH/c; rm -f mq/empty; {SHOW}"));
        assert_eq!(printed, shown("old", container.root));
        // Who waits is not let down, and can be ended.
        assert!(reader.ended().is_none());
        reader.signal(libc::SIGINT);
        assert!(!reader.wait().success());
        let script = "cd $SCRATCH/c; touch mq/new shm/new sem/new sysv/msg/1
             echo more > mq/new; cat mq/new; timeout .1 cat mq/new; echo $?
             rm mq/* shm/* sem/* sysv/*/*; cat ctl/limits ctl/orphans ctl/summary > /dev/null";
        assert_eq!(world.run(&container.outside(script)), "more\n124\n");
        assert!(start.elapsed() < Duration::from_secs(30));
        // The process is gone, so that it cannot be mounted once more.
        let complaint = world.fail(&format!("cd /; mkdir $SCRATCH/d; {mount} $SCRATCH/d"));
        assert!(complaint.contains("is the process there?"), "{complaint}");
        world.run("umount $SCRATCH/c");
        eventually("nobody is in the namespace", || {
            let count = format!("cd /; lsns -no NS -t ipc | grep -c {namespace}; true");
            world.run(&count) == "0\n"
        });
    }
}

#[test]
fn what_a_namespace_does_not_allow_is_said() {
    let world = World::unmounted();
    let container = Container::new(&world, true);
    let pid = container.pid;
    world.run(&format!("cd /; mkdir $SCRATCH/c; {BINARY} --ipc-ns {pid} $SCRATCH/c"));
    // The machine's root is nobody in there.
    for make in ["touch mq/x", "touch shm/x", "touch sem/x"] {
        let error = world.fail(&format!("cd $SCRATCH/c; {make}"));
        assert!(error.contains("Value too large"), "{error}");
        let why = world.run("tail -n 1 $SCRATCH/c/ctl/errors");
        assert!(why.contains("does not know uid 0 or gid 0"), "{why}");
    }
    // A namespace's file says nothing of /dev/shm; the rest is there.
    world.run("umount $SCRATCH/c; touch $SCRATCH/ns");
    let script = format!(
        "cd /; mount --bind /proc/{pid}/ns/ipc $SCRATCH/ns
         {BINARY} --ipc-ns $SCRATCH/ns $SCRATCH/c 2>&1"
    );
    let warnings = world.run(&script);
    assert!(warnings.contains("give --ipc-ns the id of a process"), "{warnings}");
    let script = "cd $SCRATCH/c; touch mq/x; echo mq/* shm/* sem/*; ! touch shm/x 2>&1";
    let printed = world.run(&container.outside(script));
    assert!(printed.starts_with("mq/x shm/* sem/*\n"), "{printed}");
    assert!(printed.contains("Operation not supported"), "{printed}");
    world.run("umount $SCRATCH/c $SCRATCH/ns");

    for (before, arguments, complaint) in [
        ("", "--ipc-ns 4194305", "is the process there?"),
        ("", "--ipc-ns /etc/passwd", "is no IPC namespace"),
        ("", "--ipc-ns /proc/self/ns/net", "is no IPC namespace"),
        ("setpriv --bounding-set=-sys_admin", "--ipc-ns 1", "no permission to enter"),
    ] {
        let error = world.fail(&format!("cd /; {before} {BINARY} {arguments} $SCRATCH/c"));
        assert!(error.contains(complaint), "{error}");
    }
}

#[test]
fn a_containers_dev_shm_does_not_lead_out_of_it() {
    let world = World::unmounted();
    let container = Container::new(&world, false);
    world.run("mkdir $SCRATCH/c $SCRATCH/there; echo > $SCRATCH/there/the-machines");
    // A root directory of its own, where /dev/shm is a link to what the machine has as well.
    container.run(
        &world,
        "mount -t tmpfs tmpfs /mnt; cd /mnt; mkdir -p dev old ./$SCRATCH/there
         echo > ./$SCRATCH/there/the-containers; ln -s $SCRATCH/there dev/shm
         pivot_root . old",
    );
    world.run(&format!("cd /; {BINARY} --ipc-ns {} $SCRATCH/c", container.pid));
    assert_eq!(world.run("cd /; ls $SCRATCH/c/shm; umount $SCRATCH/c"), "the-containers\n");
}

#[test]
fn a_mount_that_is_bound_into_a_container_is_used_from_inside() {
    for user_namespace in [false, true] {
        let world = World::new();
        world.run("mkdir -p $SCRATCH/bound; mount --bind $M $SCRATCH/bound; umask 0; touch mq/q");
        let container = Container::new(&world, user_namespace);
        let inside = |script: &str| container.run(&world, &format!("cd $SCRATCH/bound; {script}"));

        inside("echo hello > mq/q");
        assert_eq!(world.run("cat mq/q"), "hello\n");
        world.run("echo there > mq/q");
        assert_eq!(inside("cat mq/q"), "there\n");
        // Objects are the mount's, not those of the container's own namespace.
        world.run("umask 0; touch sysv/msg/77; echo 2 > sem/s");
        assert_eq!(inside("echo -1 > sem/s; cat sem/s; ipcs -q | grep -c 0x; true"), "1\n0\n");
        let map = "file = os.open(os.environ['SCRATCH'] + '/bound/shm/m', os.O_CREAT | os.O_RDWR)
os.ftruncate(file, 4096); mmap.mmap(file, 4096)[0:6] = b'mapped'";
        container.python(&world, map);
        assert_eq!(world.run("head -c 6 /dev/shm/m"), "mapped");
        let mut pipe = world.start("mkfifo -m 666 fifo/p; cat fifo/p");
        eventually("the pipe is there", || world.path().join("fifo/p").exists());
        inside("echo through the pipe > fifo/p");
        assert!(pipe.wait().success());

        // What its root makes belongs to whoever that is outside, who is refused what root alone may.
        assert_eq!(
            inside("touch mq/mine sysv/msg/78; stat -c %u mq/mine sysv/msg/78 | uniq"),
            "0\n"
        );
        let owner = world.run("stat -c %u mq/mine sysv/msg/78 shm/m | uniq");
        assert_eq!(owner, format!("{}\n", container.root));
        world.run("umask 077; echo secret > mq/secret");
        let secret = container.attempt(&world, "cd $SCRATCH/bound; cat mq/secret; rm -f mq/secret");
        if user_namespace {
            assert!(secret.errors.contains("Permission denied"), "{}", secret.errors);
            assert_eq!(world.run("cat mq/secret"), "secret\n");
        } else {
            assert_eq!(secret.text(), "secret\n");
        }

        // A wait ends by a signal inside, and the machine sees who waits.
        assert_eq!(inside("timeout .1 cat mq/q; echo $?"), "124\n");
        let script =
            "cd $SCRATCH/bound; cat mq/q & until [ \"$(cat ctl/mq/q/waiters)\" ]; do :; done
             cat ctl/mq/q/waiters; kill -9 $!; wait $!; true";
        let waiter = container.run(&world, script);
        assert!(waiter.ends_with("\treceive\tcat\n"), "{waiter}");
        // A unit is given back however its holder ends.
        world.run("umask 0; echo 1 > sem/lock");
        let holder = "cd $SCRATCH/bound; exec 9< ctl/sem/lock/hold; cat sem/lock; kill -9 $$";
        assert_eq!(container.attempt(&world, holder).text(), "0\n");
        eventually("it is given back", || world.run("cat sem/lock") == "1\n");
    }
}
