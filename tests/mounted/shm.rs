//! shm/: POSIX shared memory.

use std::os::unix::process::ExitStatusExt;

use crate::common::{BINARY, World, eventually, long};

/// The arguments of both ways in which the data goes.
const WAYS: [&[&str]; 2] = [&[], &["-o", "no_passthrough"]];

/// Everything that a file does, printed.
const FILE: &str = r"
    umask 027; show() { stat -c '%n %F %s %b %a %u %g %h' -- *; }
    echo hello > a; echo world >> a; cat a; show
    printf %s 0123456789 > b; printf XX | dd of=b bs=1 seek=4 conv=notrunc status=none; cat b; echo
    truncate -s 1M c; du -k c; du -k --apparent-size c; printf end >> c; tail -c 5 c | od -c
    dd if=/dev/urandom of=d bs=64k count=20 status=none; cp d e; cmp d e && rm d
    mv e f; mv -n f a; [ -e f ] && echo kept; mv f b; show
    : > a; cat a; stat -c %s a
    fallocate -l 64K g; stat -c '%s %b' g; fallocate -p -o 4K -l 8K g; stat -c '%s %b' g
    chmod 604 g; chown 12:34 g; touch -m -d @1000 g; touch -a -d @2000.5 g; stat -c '%a %u:%g %X %Y' g
    truncate -s 100 g; stat -c %s g; truncate -s +100 g; od -c g | tail -1
    cat none; ln a hard; mkdir dir; echo > x/y; rm none; dd if=a of=/dev/null iflag=directory status=none
    exec 3<> open; rm open; echo unlinked >&3; cat < /proc/self/fd/3; exec 3<&-
    rm *; ls -A; rmdir ../${PWD##*/} 2> /dev/null || echo stays";

#[test]
fn they_are_files_like_those_of_dev_shm() {
    for way in WAYS {
        let world = World::with(way);
        let run = |place: &str| {
            let output = world.attempt(&format!("cd {place}; exec 2>&1; {FILE}"));
            output.text()
        };
        // With the sticky bit, fs.protected_regular may keep root from writing to what is another's.
        world.run("chmod -t /dev/shm");
        let native = run("/dev/shm");
        assert!(native.contains("kept") && native.contains("unlinked"), "{native}");
        let mounted = run("shm");
        // Hard links and directories have no meaning here.
        assert!(mounted.contains("failed to create hard link 'hard'"), "{mounted}");
        assert!(mounted.contains("cannot create directory"), "{mounted}");
        let alike = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.contains("dir") && !line.contains("hard"));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(alike(&mounted), alike(&native), "{way:?}");
    }
}

/// What Python can ask of a file descriptor, printed.
const DESCRIPTOR: &str = r"
import errno, fcntl, mmap, os, sys
os.chdir(sys.argv[1])
def attempt(what, *arguments):
    try: print(what.__name__, what(*arguments))
    except OSError as error: print(what.__name__, errno.errorcode[error.errno])
f = os.open('f', os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
attempt(os.open, 'f', os.O_RDWR | os.O_CREAT | os.O_EXCL)
os.pwrite(f, b'x' * 10000, 20000)
for at in 0, 5000, 20000, 29999, 30000, 40000:
    attempt(os.lseek, f, at, os.SEEK_DATA)
    attempt(os.lseek, f, at, os.SEEK_HOLE)
attempt(os.lseek, f, -10, os.SEEK_END)
attempt(os.read, f, 100)
attempt(os.read, f, 100)
attempt(os.posix_fallocate, f, 0, 50000)
print(os.fstat(f).st_size, os.fstat(f).st_blocks)
attempt(os.ftruncate, f, 30000)
attempt(os.truncate, 'f', 20000)
print(os.fstat(f).st_size)
attempt(os.preadv, f, [bytearray(10), bytearray(20)], 19990)
attempt(os.copy_file_range, f, f, 100, 0, 10000)
attempt(os.fsync, f)
r = os.open('f', os.O_RDONLY)
attempt(os.write, r, b'x')
attempt(os.ftruncate, r, 0)
w = os.open('f', os.O_WRONLY | os.O_TRUNC)
attempt(os.read, w, 1)
print(os.fstat(r).st_size)
a = [os.open('f', os.O_WRONLY | os.O_APPEND) for _ in range(2)]
for i in range(6): os.write(a[i % 2], b'%d' % i)
attempt(os.pread, r, 100, 0)
attempt(os.rename, 'f', 'g')
attempt(os.fchmod, r, 0o604)
attempt(os.utime, r, (5, 6))
print(oct(os.fstat(w).st_mode), os.stat('g').st_mtime)
attempt(os.unlink, 'g')
attempt(os.fchmod, r, 0o600)
attempt(os.ftruncate, w, 3)
attempt(os.pread, r, 100, 0)
print(oct(os.fstat(w).st_mode), os.fstat(r).st_size, os.fstat(r).st_nlink)
private = mmap.mmap(r, 3, mmap.MAP_PRIVATE, mmap.PROT_READ)
print(private[:])
attempt(os.open, 'x' * 256, os.O_RDWR | os.O_CREAT)
attempt(os.mkdir, 'd')
attempt(os.listdir)
";

#[test]
fn descriptors_do_what_those_of_dev_shm_do() {
    for way in WAYS {
        let world = World::with(way);
        let run = |place: &str| {
            let script = format!("import sys; sys.argv = ['', {place:?}]\n{DESCRIPTOR}");
            world.python(&script)
        };
        // A directory there is none of ours.
        let native = run("/dev/shm").replace("mkdir None", "mkdir EPERM").replace("['d']", "[]");
        world.run("rmdir /dev/shm/d");
        assert_eq!(run("shm"), native, "{way:?}");
    }
}

#[test]
fn c_and_the_shell_have_the_same_objects() {
    for way in WAYS {
        let world = World::with(way);
        world.c("shm", &["create", "shm:/made_in_c", "4096", "0640"]);
        world.c("shm", &["write", "shm:/made_in_c", "100", "hello from C"]);
        assert_eq!(
            world.run("dd if=shm/made_in_c bs=1 skip=100 count=12 status=none"),
            "hello from C"
        );
        assert_eq!(world.run("stat -c '%s %a' shm/made_in_c"), "4096 640\n");
        world.run("printf 'hello from sh' > shm/made_in_sh; truncate -s 8K shm/made_in_sh");
        assert_eq!(world.c("shm", &["read", "shm:/made_in_sh", "0", "13"]), "hello from sh");
        world.run("rm shm/made_in_c; ! [ -e /dev/shm/made_in_c ]; rm /dev/shm/made_in_sh");
        assert_eq!(world.run("ls shm"), "");
    }
}

#[test]
fn mappings_of_the_mount_of_another_mount_and_of_shm_open_are_the_same_pages() {
    let world = World::new();
    world.run("touch shm/a; mkdir $SCRATCH/two");
    let _second = world.start(&format!("cd /; exec {BINARY} -f $SCRATCH/two"));
    eventually("it is mounted twice", || world.scratch().join("two/shm/a").exists());
    let two = world.scratch().join("two/shm/a");
    let two = two.to_str().unwrap();
    for (one, other) in [
        ("shm/a", "shm:/a"),
        ("shm:/a", "shm/a"),
        ("shm/a", "shm/a"),
        ("shm/a", two),
        (two, "shm:/a"),
    ] {
        world.c("shm", &["same", one, other]);
    }
}

#[test]
fn without_passthrough_a_shared_mapping_is_refused_and_all_else_works() {
    let world = World::with(&["-o", "no_passthrough"]);
    world.c("shm", &["create", "shm:/a", "4096", "0600"]);
    let mut command = world.command(crate::common::compiled("shm"));
    let output = command.args(["read", "shm/a", "0", "1"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("No such device"));
    // Either side sees at once what the other has written.
    world.python(
        "import os\n\
         m, n = os.open('shm/a', os.O_RDWR), os.open('/dev/shm/a', os.O_RDWR)\n\
         for i in range(1000):\n\
         \x20   os.pwrite(m, b'%4d' % i, i); assert os.pread(n, 4, i) == b'%4d' % i\n\
         \x20   os.pwrite(n, b'%4d' % -i, i); assert os.pread(m, 4, i) == b'%4d' % -i\n\
         os.ftruncate(n, 10); assert os.pread(m, 100, 5) == os.pread(n, 100, 5)\n\
         os.ftruncate(m, 4000); assert os.fstat(n).st_size == 4000",
    );
}

#[test]
fn what_is_in_force_is_said() {
    let world = World::unmounted();
    let said = |options: &str| {
        let script = format!("cd /; RUST_LOG=info {BINARY} {options} $M 2>&1; umount $M");
        world.run(&script)
    };
    assert!(said("").contains("shared memory: the kernel's passthrough"));
    assert!(said("-o no_passthrough").contains("switched off by -o no_passthrough"));
    // A user, who has not asked for it, is told if they ask: theirs is never otherwise.
    for (environment, told) in [("RUST_LOG=info", true), ("", false)] {
        let script = format!(
            "cd /; mkdir -p $SCRATCH/m; chmod 755 $SCRATCH; chown nobody $SCRATCH/m
             {environment} setpriv --reuid=nobody --regid=nogroup --clear-groups {BINARY} \
             $SCRATCH/m 2>&1; umount $SCRATCH/m"
        );
        let output = world.attempt(&script);
        let text = output.text();
        let is_told = text.contains("needs CAP_SYS_ADMIN") && text.contains("refused");
        assert_eq!(is_told, told, "{output:?}");
    }
}

#[test]
fn python_shares_memory_through_it() {
    for way in WAYS {
        let world = World::with(way);
        world.python(
            "import mmap, posix_ipc, subprocess\n\
             from multiprocessing import shared_memory\n\
             run = lambda script: subprocess.run(script, shell=True, check=True, stdout=subprocess.PIPE).stdout\n\
             block = shared_memory.SharedMemory('block', create=True, size=1000)\n\
             block.buf[:5] = b'block'\n\
             assert run('head -c 5 shm/block') == b'block'\n\
             run('printf shell | dd of=shm/block conv=notrunc status=none')\n\
             assert bytes(block.buf[:5]) == b'shell'\n\
             block.close(); block.unlink()\n\
             assert run('ls shm') == b''\n\
             run('printf 0123456789 > shm/made')\n\
             made = posix_ipc.SharedMemory('/made')\n\
             assert made.size == 10 and mmap.mmap(made.fd, 10)[:] == b'0123456789'\n\
             run('rm shm/made')\n\
             try: posix_ipc.SharedMemory('/made'); raise SystemExit('it is still there')\n\
             except posix_ipc.ExistentialError: pass\n\
             posix_ipc.SharedMemory('/other', posix_ipc.O_CREX, mode=0o600, size=4096)\n\
             assert run('stat -c \"%s %a\" shm/other') == b'4096 600\\n'",
        );
    }
}

#[test]
fn a_full_file_system_is_enospc_and_the_daemon_goes_on() {
    for way in WAYS {
        let world = World::with(way);
        world.run("mount -o remount,size=1M /dev/shm");
        let errors = world.fail("dd if=/dev/zero of=shm/big bs=64K count=100");
        assert!(errors.contains("No space left on device"), "{errors}");
        assert_eq!(world.run("stat -c %s shm/big"), "1048576\n");
        let errors = world.fail("fallocate -l 4M shm/more");
        assert!(errors.contains("No space left on device"), "{errors}");
        if way.is_empty() {
            // The one who maps has the fault.
            world.run("truncate -s 4M shm/sparse");
            let output = world.attempt(
                "python3 -c 'import mmap
f = open(\"shm/sparse\", \"r+b\")
m = mmap.mmap(f.fileno(), 4 << 20)
for i in range(0, 4 << 20, 4096): m[i] = 1'",
            );
            let status = output.status;
            let signal = status.signal().or(status.code().map(|code| code - 128));
            assert_eq!(signal, Some(libc::SIGBUS), "{output:?}");
        }
        world.run("rm shm/*; echo goes on > shm/a; [ \"$(cat shm/a)\" = 'goes on' ]");
    }
}

#[test]
fn what_is_no_shared_memory_is_neither_seen_nor_touched() {
    for way in WAYS {
        let world = World::with(way);
        world.run(
            "cd /dev/shm; echo secret > $SCRATCH/secret; ln -s $SCRATCH/secret link; ln -s a dangling
             mkdir dir; mkfifo pipe; mknod null c 1 3; echo > sem.a; echo kept > a
             python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'
             touch over; mount --bind $SCRATCH/secret over",
        );
        assert_eq!(
            world.run("find shm -mindepth 1 | grep -v over; ls ctl/shm | grep -v over"),
            "shm/a\na\n"
        );
        for name in ["link", "dangling", "dir", "pipe", "null", "socket", "sem.a", "over"] {
            let fails = |script: &str, errno: &str| {
                let errors = world.fail(&format!("timeout 5 {script}"));
                assert!(errors.contains(errno), "{script}: {errors}");
            };
            let no = "No such file";
            fails(&format!("cat shm/{name}"), no);
            fails(&format!("stat shm/{name}"), no);
            fails(&format!("rm shm/{name}"), no);
            fails(&format!("mv shm/{name} shm/b"), no);
            fails(&format!("truncate -cs 0 shm/{name} && stat shm/{name}"), no);
            let made = world.fail(&format!("timeout 5 bash -c 'echo > shm/{name}'"));
            assert!(!made.is_empty());
            world.fail(&format!("mv -T shm/a shm/{name}"));
        }
        assert_eq!(
            world.run("cat $SCRATCH/secret; ls -A /dev/shm | wc -l; cat shm/a"),
            "secret\n9\nkept\n"
        );
        assert_eq!(world.fail("echo > shm/sem.b").matches("Invalid argument").count(), 1);
        world.run("umount /dev/shm/over");
    }
}

#[test]
fn a_leased_file_is_busy_at_once() {
    for way in WAYS {
        let world = World::with(way);
        world.run("echo leased > /dev/shm/a");
        let script = format!(
            "{} lease shm:/a > $SCRATCH/lease & wait",
            crate::common::compiled("shm").display()
        );
        let _holder = world.start(&script);
        let said = world.scratch().join("lease");
        eventually("it has the lease", || {
            std::fs::read_to_string(&said).is_ok_and(|said| said == "leased\n")
        });
        for script in ["cat shm/a", "echo > shm/a", "truncate -s 0 shm/a"] {
            let errors = world.fail(&format!("timeout 2 bash -c '{script}'"));
            assert!(errors.contains("Device or resource busy"), "{errors}");
        }
        assert_eq!(world.run("stat -c %s shm/a; ls shm"), "7\na\n");
    }
}

#[test]
fn what_takes_a_files_place_between_look_up_and_open_is_never_opened() {
    for way in WAYS {
        let world = World::with(way);
        world.run("echo secret > $SCRATCH/secret; echo > /dev/shm/a");
        let secret = world.scratch().join("secret");
        let script =
            format!("exec {} swap a $SCRATCH/secret", crate::common::compiled("shm").display());
        let mut swapping = world.start(&script);
        let script = "import errno, os\n\
             read, i, refused = 0, 0, set()\n\
             while read < 100 or i < TRIES:\n\
             \x20   i += 1\n\
             \x20   try:\n\
             \x20       file = os.open('shm/a', os.O_RDWR if i % 2 else os.O_RDONLY)\n\
             \x20       text = os.read(file, 100)\n\
             \x20       assert text == b'public\\n', text\n\
             \x20       os.close(file)\n\
             \x20       read += 1\n\
             \x20   except OSError as error:\n\
             \x20       refused.add(errno.errorcode[error.errno])\n\
             print(' '.join(sorted(refused - {'ENOENT', 'ESTALE'})))";
        let counts = world.python(&script.replace("TRIES", long("5000", "10000")));
        assert_eq!(counts, "\n");
        assert!(swapping.ended().is_none());
        assert_eq!(std::fs::read_to_string(secret).unwrap(), "secret\n");
    }
}

#[test]
fn opening_and_closing_leaves_nothing() {
    for way in WAYS {
        let world = World::with(way);
        let before = world.daemon_descriptors();
        world.run("echo > shm/a");
        // A file that the kernel holds as somebody's backing file keeps its room.
        let used = || world.run("df --output=iused,used /dev/shm");
        let room = used();
        world.c("shm", &["churn", "shm/a", "5000"]);
        world.run("for i in {1..100}; do echo $i > shm/b; rm shm/b; done");
        // The kernel tells of the last close afterwards.
        eventually("all is closed", || world.daemon_descriptors() == before);
        eventually("the removed are gone", || used() == room);
        let open = "exec 3< shm/a 4<> shm/a 5>> shm/a; ls /proc/$DAEMON/fd | wc -l";
        let count = world.run(&format!("export DAEMON={}; {open}", world.daemon()));
        assert_eq!(count.trim().parse::<usize>().unwrap(), before + 3);
        eventually("all is closed", || world.daemon_descriptors() == before);
    }
}

#[test]
fn objects_belong_to_their_makers_and_are_theirs_alone_to_remove() {
    let world = World::new();
    let user = |uid: u32, script: &str| {
        format!("setpriv --reuid={uid} --regid={uid} --clear-groups bash -c '{script}'")
    };
    world.run("chmod 755 $SCRATCH");
    world.run(&user(1001, "umask 026; echo mine > shm/a; mkfifo shm/p 2> /dev/null || true"));
    assert_eq!(world.run("stat -c '%u %g %a' /dev/shm/a; ls shm"), "1001 1001 640\na\n");
    assert!(world.fail(&user(1002, "cat shm/a")).contains("Permission denied"));
    assert!(world.fail(&user(1002, "rm -f shm/a")).contains("Operation not permitted"));
    assert!(world.fail(&user(1002, "mv shm/a shm/b")).contains("Operation not permitted"));
    assert!(world.fail(&user(1002, "chmod 666 shm/a")).contains("Operation not permitted"));
    assert!(world.fail(&user(1002, "truncate -s 0 shm/a")).contains("Permission denied"));
    world.run(&user(1001, "chmod 644 shm/a"));
    assert_eq!(world.run(&user(1002, "cat shm/a")), "mine\n");
    // A supplementary group is the caller's as well. Without O_CREAT, which fs.protected_regular
    // refuses in /dev/shm as much as here.
    world.run("chown 1001:4321 shm/a; chmod 660 shm/a");
    let member = "echo more | setpriv --reuid=1003 --regid=1003 --groups=4321 \
                  dd of=shm/a conv=nocreat,notrunc oflag=append status=none";
    world.run(member);
    assert_eq!(world.run("cat shm/a"), "mine\nmore\n");
    world.run(&user(1001, "rm shm/a"));
}

#[test]
fn the_set_group_id_bit_and_times_before_1970_are_set_as_in_dev_shm() {
    let world = World::new();
    let script = "import os
def act(uid, groups, work):
    pid = os.fork()
    if pid == 0:
        os.setgroups(groups); os.setgid(uid); os.setuid(uid); work(); os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
for place in 'shm', '/dev/shm':
    path = place + '/object'
    for uid, groups, gid in (1001, [2000], 2000), (1001, [], 2000), (1001, [], 1001), (0, [], 2000):
        open(path, 'w').close(); os.chown(path, uid, gid)
        act(uid, groups, lambda: os.chmod(path, 0o2770))
        print(oct(os.stat(path).st_mode & 0o7777), end=' ')
        os.remove(path)
    open(path, 'w').close()
    for time in -1, -1_200_000_000, -2_000_000_000, 1_200_000_000:
        os.utime(path, ns=(time, time + 10))
        print(os.stat(path).st_atime_ns, os.stat('/dev/shm/object').st_mtime_ns, end=' ')
    os.remove(path); print()";
    let printed = world.python(script);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[0], lines[1]);
    assert!(lines[0].starts_with("0o2770 0o770 0o2770 0o2770 -1 9 -1200000000 "), "{printed}");
}

#[test]
fn a_users_own_mount_works_without_passthrough() {
    let world = World::unmounted();
    let script = format!(
        "set -e; cd $SCRATCH; chmod 755 .; mkdir -m 755 m run; chown nobody m run; cp {BINARY} ipcfs
         exec setpriv --reuid=nobody --regid=nogroup --clear-groups bash -ec '
         export XDG_RUNTIME_DIR=$SCRATCH/run; cd /; $SCRATCH/ipcfs $SCRATCH/m 2> /dev/null; cd $SCRATCH/m
         echo hello > shm/a; cat shm/a /dev/shm/a; echo more >> shm/a; mv shm/a shm/b; stat -c %U:%s shm/b
         umask 0777; echo denied to all > shm/c; umask 022; stat -c %a:%s shm/c; rm -f shm/c
         mkfifo fifo/p; echo piped > fifo/p & cat fifo/p; ls -l $SCRATCH/run/ipcfs/fifo | grep -c ^p
         rm shm/* fifo/*; ls shm fifo; cd /; fusermount3 -u $SCRATCH/m'"
    );
    let printed = world.run(&script);
    assert_eq!(printed, "hello\nhello\nnobody:11\n0:14\npiped\n1\nfifo:\n\nshm:\n");
}

#[test]
fn a_limit_on_the_daemons_file_size_is_an_error_and_not_its_end() {
    let world = World::unmounted();
    for options in ["", "-o no_passthrough"] {
        world.run(&format!("cd /; (ulimit -f 100; {BINARY} {options} $M)"));
        let errors = world.fail("truncate -s 1M shm/a");
        assert!(errors.contains("File too large"), "{errors}");
        // The writer's own limit is the writer's own signal.
        let status = world.attempt("ulimit -f 50; dd if=/dev/zero of=shm/b bs=1M count=1").status;
        assert!(!status.success());
        assert_eq!(world.run("stat -c %s shm/b; echo works > shm/c; cat shm/c"), "51200\nworks\n");
        world.run("cd /; umount $M");
    }
}

#[test]
fn its_status_can_be_sourced() {
    let world = World::new();
    world.run("printf %s 12345 > shm/a; chmod 640 shm/a; truncate -s 10000 shm/a");
    let fields = "(. ctl/shm/a/status; echo $name $mode $uid $size $allocated)";
    assert_eq!(world.run(fields), "a 0640 0 10000 4096\n");
    assert_eq!(world.run("jq -r .size < ctl/shm/a/status.json"), "10000\n");
}
