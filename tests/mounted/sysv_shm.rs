//! sysv/shm/: System V shared memory segments.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

use crate::common::{World, compiled, eventually};

/// The keys and sizes that `ls`, `ipcs` and `lsipc` show have to be the same; returns them.
fn agreed(world: &World) -> String {
    let listed = world.run("cd sysv/shm; stat -c '%n %s' 0x* 2>/dev/null | sort; :");
    let ipcs = world.run("ipcs -m | awk '/^0x/ && $1 != \"0x00000000\" {print $1, $5}' | sort");
    let lsipc = world
        .run("lsipc -m -b -o KEY,SIZE --noheadings 2>/dev/null | awk '$1 ~ /^0x/ && $1 != \"0x00000000\" {print $1, $2}' | sort");
    assert_eq!(listed, ipcs);
    assert_eq!(listed, lsipc);
    listed
}

/// As another user, in the mount.
fn user(uid: u32, script: &str) -> String {
    format!("setpriv --reuid={uid} --regid={uid} --clear-groups bash -c '{script}'")
}

#[test]
fn each_way_of_making_one_gives_it_its_size_and_the_tools_agree() {
    let world = World::new();
    let size = |key: u32| world.run(&format!("stat -c %s sysv/shm/{key}"));
    world.run("umask 027; touch sysv/shm/1");
    assert_eq!(agreed(&world), "0x00000001 4096\n");
    assert_eq!(world.c("sysv_shm", &["stat", "1"]), "mode=0640 uid=0 gid=0 size=4096 nattch=0\n");
    world.run("truncate -s 64K sysv/shm/2");
    assert_eq!(size(2), "65536\n");
    agreed(&world);
    world.run("echo hello > sysv/shm/3");
    assert_eq!(world.c("sysv_shm", &["read", "3", "0", "6"]), "hello\n");
    assert_eq!(size(3), "6\n");
    agreed(&world);
    world.run("dd if=/dev/urandom of=sysv/shm/4 bs=100000 count=1 status=none");
    assert_eq!(size(4), "100000\n");
    world.run("dd if=/dev/null of=sysv/shm/5 bs=1M seek=3 status=none");
    assert_eq!(size(5), "3145728\n");
    world.run("fallocate -l 10000 sysv/shm/6");
    assert_eq!(size(6), "10000\n");
    agreed(&world);
    // A write that the kernel cuts in pieces is one all the same.
    world.run("head -c 5000000 /dev/urandom > $SCRATCH/big");
    world.run(
        "dd if=$SCRATCH/big of=sysv/shm/7 bs=5000000 status=none; cmp $SCRATCH/big sysv/shm/7",
    );
    world.run("dd if=/dev/zero of=sysv/shm/8 bs=4M count=1 status=none");
    assert_eq!(size(8), "4194304\n");
    assert_eq!(agreed(&world).lines().count(), 8);
    // So is what is copied there.
    for (key, copy) in [(10, "cp $SCRATCH/big $f"), (11, "cat $SCRATCH/big > $f")] {
        world.run(&format!("f=sysv/shm/{key}; {copy}; cmp $SCRATCH/big $f"));
    }
    let copied = "f=sysv/shm/12; dd if=$SCRATCH/big of=$f bs=64K count=16 status=none";
    world.run(&format!("{copied}; [ $(stat -c %s $f) = 1048576 ]; cmp -n 1048576 $SCRATCH/big $f"));
    agreed(&world);
    // In C and away by ipcrm.
    world.c("sysv_shm", &["create", "9", "12345", "0604"]);
    assert_eq!(world.run("stat -c '%a %s' sysv/shm/0x9"), "604 12345\n");
    world.run("ipcrm -M 9; rm sysv/shm/0x0*");
    assert_eq!(agreed(&world), "");
    assert_eq!(world.run("ls sysv/shm; ipcs -m | grep -c 0x; :"), "0\n");
    // Nothing can be made of nothing, or of more than there may be.
    world.run("echo 100000 > /proc/sys/kernel/shmmax");
    for size in ["0", "100001"] {
        let errors = world.fail(&format!("truncate -s {size} sysv/shm/1"));
        assert!(errors.contains("Invalid argument"), "{size}: {errors}");
        world.run("! [ -e sysv/shm/1 ]; [ -z \"$(ls sysv/shm)\" ]");
    }
    world.run("touch sysv/shm/1; echo 1 > /proc/sys/kernel/shmmni");
    assert!(world.fail("touch sysv/shm/2").contains("No space left"));
    world.fail("set -C; echo x > sysv/shm/1");
}

#[test]
fn what_one_has_made_and_another_uses_stays_as_it_is() {
    let world = World::new();
    let script = "import os, sysv_ipc
fd = os.open('sysv/shm/1', os.O_RDWR | os.O_CREAT)
assert os.fstat(fd).st_size == 0 and os.read(fd, 9) == b''
other = sysv_ipc.SharedMemory(1)
other.write(b'mine')
assert os.fstat(fd).st_size == os.stat('sysv/shm/1').st_size == 4096
try: os.ftruncate(fd, 8192); raise SystemExit('it has been replaced')
except OSError as error: print(error.errno)
print(os.pread(fd, 4, 0))
fd = os.open('sysv/shm/2', os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 8192)
os.pwrite(fd, b'x', 8191)
assert os.fstat(fd).st_size == os.stat('sysv/shm/2').st_size == 8192
try: os.ftruncate(fd, 4096); raise SystemExit('it has been replaced')
except OSError as error: print(error.errno)
os.fchmod(fd, 0o600)
print(oct(os.stat('sysv/shm/2').st_mode))
try: os.open('sysv/shm/2', os.O_RDWR | os.O_CREAT | os.O_EXCL)
except OSError as error: print(error.errno)";
    assert_eq!(world.python(script), "22\nb'mine'\n22\n0o100600\n17\n");
}

#[test]
fn many_make_the_same_one_while_others_read_and_nobody_fails() {
    let world = World::new();
    let script = "import os
def create():
    for key in range(1, 101):
        fd = os.open(f'sysv/shm/{key}', os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 8192)
        os.close(fd)
        assert os.stat(f'sysv/shm/{key}').st_size == 8192, key
children = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        create(); os._exit(0)
    children.append(pid)
print([os.waitpid(pid, 0)[1] for pid in children])";
    assert_eq!(world.python(script), "[0, 0, 0, 0]\n");
    assert_eq!(world.run("stat -c %s sysv/shm/* | uniq -c | tr -s ' '"), " 100 8192\n");
    world.run("rm sysv/shm/*");
    let mut reader = world.start("while :; do cat sysv/shm/* > /dev/null 2>&1; done");
    world.run("for i in {1..100}; do truncate -s 8192 sysv/shm/$i; echo hello > sysv/shm/$((i + 100)); done");
    reader.signal(libc::SIGKILL);
    reader.wait();
    assert_eq!(world.run("stat -c %s sysv/shm/* | uniq -c | tr -s ' '"), " 100 8192\n 100 6\n");
}

#[test]
fn it_is_empty_until_its_size_is_said() {
    let world = World::new();
    world.run("echo hello >> sysv/shm/1; truncate -s +10 sysv/shm/2");
    assert_eq!(world.run("cat sysv/shm/1; stat -c %s sysv/shm/2"), "hello\n10\n");
    let script = "import os
def ends(fd):
    return os.fstat(fd).st_size, os.lseek(fd, 0, os.SEEK_END)
fd = os.open('sysv/shm/3', os.O_RDWR | os.O_CREAT)
other = os.open('sysv/shm/3', os.O_RDWR)
print(ends(fd), ends(other), os.stat('sysv/shm/3').st_size, os.read(other, 10))
os.ftruncate(other, 100)
print(ends(fd), ends(other), len(os.pread(fd, 200, 0)))
os.ftruncate(fd, 100)
print(open('ctl/sysv/shm/3/users').read().split()[0] == str(os.getpid()))
os.close(os.open('sysv/shm/4', os.O_RDWR | os.O_CREAT))
print(os.stat('sysv/shm/4').st_size)
fd = os.open('sysv/shm/5', os.O_RDWR | os.O_CREAT)
os.remove('sysv/shm/5')
for use in (os.fstat, lambda fd: os.ftruncate(fd, 9), lambda fd: os.write(fd, b'x'),
            lambda fd: os.read(fd, 1), lambda fd: os.fchmod(fd, 0o600)):
    try: use(fd)
    except OSError as error: print(error.errno, end=' ')";
    let expected = "(0, 0) (0, 0) 0 b''\n(100, 100) (100, 100) 100\nTrue\n4096\n43 43 43 43 43 ";
    assert_eq!(world.python(script), expected);
}

#[test]
fn where_there_is_room_for_one_there_is_room_for_it() {
    let world = World::new();
    let sizes = "cat sysv/shm/* | wc -c; rm sysv/shm/*";
    world.run("echo 1 > /proc/sys/kernel/shmmni; truncate -s 64K sysv/shm/1");
    assert_eq!(world.run(sizes), "65536\n");
    world.run("echo hello > sysv/shm/1");
    assert_eq!(world.run(sizes), "6\n");
    world.run("echo 4096 > /proc/sys/kernel/shmmni; echo 2 > /proc/sys/kernel/shmall");
    world.run("truncate -s 8192 sysv/shm/1");
    assert_eq!(world.run(sizes), "8192\n");
    // What is too large for it leaves nothing behind.
    assert!(world.fail("truncate -s 8193 sysv/shm/1").contains("No space left"));
    assert!(
        world
            .fail("dd if=/dev/zero of=sysv/shm/1 bs=9000 count=1 status=none")
            .contains("No space left")
    );
    assert_eq!(world.run("ls sysv/shm"), "");
    world.run("echo 1000 > /proc/sys/kernel/shmmax; echo hello > sysv/shm/1");
    assert_eq!(world.run(sizes), "6\n");
    world.run("touch sysv/shm/1");
    assert_eq!(world.run(sizes), "1000\n");
    assert!(world.fail("truncate -s 1001 sysv/shm/1").contains("Invalid argument"));
    assert!(world.run("tail -n 1 ctl/errors").contains("kernel.shmmax"));
}

#[test]
fn what_comes_piece_by_piece_becomes_one_segment() {
    let world = World::new();
    world.run("head -c 100000001 /dev/urandom > $SCRATCH/big");
    world.run("cp $SCRATCH/big sysv/shm/1; cmp $SCRATCH/big sysv/shm/1; ! ls sysv/shm | grep id-");
    assert_eq!(agreed(&world), "0x00000001 100000001\n");
    // From a buffer that is no page's: the kernel cuts each of its writes in two.
    let script = "import ctypes, os
data = open(os.environ['SCRATCH'] + '/big', 'rb').read(5 << 20)
buffer = ctypes.create_string_buffer(b'x' * 100 + data)
libc = ctypes.CDLL(None)
fd = os.open('sysv/shm/2', os.O_RDWR | os.O_CREAT)
for at in range(0, len(data), 1 << 20):
    assert libc.write(fd, ctypes.byref(buffer, 100 + at), ctypes.c_size_t(1 << 20)) == 1 << 20
# Who reads it now sees all of it, and hinders nothing.
assert open('sysv/shm/2', 'rb').read() == data and os.pread(fd, 9, len(data) - 4) == data[-4:]
assert os.fstat(fd).st_size == len(data) == os.stat('sysv/shm/2').st_size
os.write(fd, b'end')
os.pwrite(fd, b'BEGIN', 0)
try: os.pwrite(fd, b'x', len(data) + 9)
except OSError as error: print(error.errno)
os.close(fd)
print(open('sysv/shm/2', 'rb').read() == b'BEGIN' + data[5:] + b'end')";
    assert_eq!(world.python(script), "28\nTrue\n");
    // Once somebody has it attached, it cannot become longer, and the close says so.
    let script = "import os, sysv_ipc
fd = os.open('sysv/shm/3', os.O_RDWR | os.O_CREAT)
os.write(fd, b'x' * 100000); os.write(fd, b'y')
other = sysv_ipc.SharedMemory(3)
print(other.size)
try: os.close(fd)
except OSError as error: print(error.errno)
print(os.stat('sysv/shm/3').st_size)";
    assert_eq!(world.python(script), "100000\n28\n100000\n");
    // A small first write says the size.
    assert!(world.fail("(echo a; cat $SCRATCH/big) > sysv/shm/4").contains("No space left"));
}

#[test]
fn its_bounds_are_kept() {
    let world = World::new();
    world.run("truncate -s 10 sysv/shm/1");
    world.run("printf 0123456789 > sysv/shm/1");
    assert_eq!(
        world.run(
            "cat sysv/shm/1; tail -c 3 sysv/shm/1; dd if=sysv/shm/1 bs=1 skip=8 count=9 status=none"
        ),
        "012345678978989"
    );
    let script = "import os
fd = os.open('sysv/shm/1', os.O_RDWR)
print(os.pwrite(fd, b'abcdef', 7), os.pread(fd, 100, 5), os.pread(fd, 5, 10), os.pread(fd, 5, 2**60))
for at in 10, 11, 2**40, 2**62:
    try: os.pwrite(fd, b'x', at)
    except OSError as error: print(error.errno, end=' ')
print(os.pwrite(fd, b'', 10))
print(os.lseek(fd, 0, os.SEEK_END), os.fstat(fd).st_size)";
    assert_eq!(world.python(script), "3 b'56abc' b'' b''\n28 28 28 28 0\n10 10\n");
    for size in ["0", "9", "11", "1G"] {
        assert!(world.fail(&format!("truncate -s {size} sysv/shm/1")).contains("Invalid argument"));
    }
    world.run("truncate -s 10 sysv/shm/1; touch sysv/shm/1");
    assert!(world.fail("echo x >> sysv/shm/1").contains("No space left"));
    assert!(world.fail("fallocate -l 20 sysv/shm/1").contains("not supported"));
    // What has been cut is not in the segment, nor behind it.
    assert_eq!(world.c("sysv_shm", &["read", "1", "0", "12"]), "0123456abc\0\0");
    // `>` leaves the size and what is not written over.
    world.run("echo -n XY > sysv/shm/1");
    assert_eq!(world.run("cat sysv/shm/1"), "XY23456abc");
}

#[test]
fn a_mapping_through_the_mount_and_shmat_share_their_pages() {
    let world = World::new();
    world.run("truncate -s 1M sysv/shm/1");
    let file = "sysv/shm/1";
    world.c("sysv_shm", &["map", file, "1048576", "5000", "from mmap"]);
    assert_eq!(world.c("sysv_shm", &["read", "1", "5000", "9"]), "from mmap");
    world.c("sysv_shm", &["write", "1", "1048570", "shmat"]);
    assert_eq!(world.c("sysv_shm", &["show", file, "1048576", "1048570", "5"]), "shmat");
    assert_eq!(
        world.run("tail -c 6 sysv/shm/1 | head -c 5; head -c 5009 sysv/shm/1 | tail -c 9"),
        "shmatfrom mmap"
    );
    // At the same time, in one process.
    let script = "import mmap, os, sysv_ipc
fd = os.open('sysv/shm/1', os.O_RDWR)
m, s = mmap.mmap(fd, 1 << 20), sysv_ipc.SharedMemory(1)
os.close(fd)
for i in range(0, 1 << 20, 4097):
    m[i] = i % 251; assert s.read(1, i)[0] == i % 251
    s.write(bytes([7]), i); assert m[i] == 7
os.remove('sysv/shm/1'); s.detach()
m[:4] = b'kept'; print(m[:4])";
    assert_eq!(world.python(script), "b'kept'\n");
    assert_eq!(world.run("ls sysv/shm"), "");
}

#[test]
fn without_passthrough_or_the_right_to_the_file_it_is_forwarded_and_not_mapped() {
    let world = World::with(&["-o", "no_passthrough"]);
    world.run("truncate -s 64K sysv/shm/1; echo forwarded > sysv/shm/1");
    assert_eq!(world.c("sysv_shm", &["read", "1", "0", "9"]), "forwarded");
    let mut command = world.command(compiled("sysv_shm"));
    let refused = crate::common::Running::start({
        command.args(["show", "sysv/shm/1", "65536", "0", "4"]);
        command
    });
    assert_eq!(refused.output().errors, "mmap: ENODEV\n");
    drop(world);

    // A user's own daemon may not open /proc/self/map_files.
    let world = World::unmounted();
    let binary = crate::common::BINARY;
    let script = format!(
        "cp {binary} $SCRATCH/ipcfs; chmod 755 $SCRATCH $SCRATCH/mnt $SCRATCH/ipcfs
        cd /; export XDG_RUNTIME_DIR=$SCRATCH/run; mkdir -m 700 $SCRATCH/run; chown nobody $SCRATCH/run $SCRATCH/mnt
        setpriv --reuid=nobody --clear-groups $SCRATCH/ipcfs $M || exit
        cat > $SCRATCH/steps <<'EOF'
        cd $M/sysv/shm && truncate -s 8000 1 && echo mine > 1 && printf end | dd of=1 bs=1 seek=7997 conv=notrunc status=none &&
        head -c 4 1 && tail -c 3 1 && stat -c ' %U %s' 1 && echo x > ../msg/5 && cat ../msg/5 && rm 1 ../msg/5 && ln -s 7 seven && readlink seven && ls . ../msg
        touch 0 2>/dev/null || echo refused
EOF
        setpriv --reuid=nobody --clear-groups bash $SCRATCH/steps; umount -l $M"
    );
    let printed = world.run(&script);
    assert!(printed.starts_with("mineend"), "{printed}");
    assert!(printed.ends_with(" 8000\nx\n7\n.:\nseven\n\n../msg:\nrefused\n"), "{printed}");
}

#[test]
fn a_removed_segment_lives_to_the_last_detach_and_close() {
    let world = World::new();
    world.c("sysv_shm", &["create", "1", "5000", "0600"]);
    let mut command = world.command(compiled("sysv_shm"));
    command.args(["hold", "1"]).stdin(Stdio::piped());
    let mut holder = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    world.c("sysv_shm", &["write", "1", "0", "alive"]);
    world.run("rm sysv/shm/1; ! [ -e sysv/shm/1 ]");
    let name = world.run("ls sysv/shm");
    assert!(name.starts_with("id-"), "{name}");
    assert_eq!(world.run("ipcs -m | awk '$6 == 1 {print $7}'"), "dest\n");
    let status = "(. ctl/sysv/shm/id-*/status; echo $status $nattch $key)";
    assert_eq!(world.run(status), "dest 1 0x00000000\n");
    // It can be used still; the key is free.
    assert_eq!(world.run("head -c 5 sysv/shm/id-*"), "alive");
    world.run("touch sysv/shm/1; [ $(ls sysv/shm | wc -l) = 2 ]; rm sysv/shm/1");
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    eventually("it is gone", || world.run("ls sysv/shm").is_empty());
    // The same with a file that is open through the mount.
    world.run(
        "echo alive > sysv/shm/1; exec 3<> sysv/shm/1; rm sysv/shm/1
        ls sysv/shm | grep -q id- && [ $(cat <&3) = alive ]",
    );
    eventually("it is gone", || world.run("ls sysv/shm").is_empty());
}

#[test]
fn only_an_open_file_counts_as_an_attachment() {
    let world = World::new();
    world.run("for i in {1..50}; do touch sysv/shm/$i; done; ls -lR sysv/shm ctl/sysv/shm");
    world.run("stat sysv/shm/*; cat ctl/sysv/shm/*/status");
    let attached = || world.run("awk 'NR > 1 {sum += $7} END {print sum}' /proc/sysvipc/shm");
    assert_eq!(attached(), "0\n");
    let mut open = world.start("exec 3< sysv/shm/7 4<> sysv/shm/8; sleep 60");
    eventually("two are open", || attached() == "2\n");
    open.signal(libc::SIGKILL);
    open.wait();
    eventually("all are closed", || attached() == "0\n");
    let shown = world.run(
        "bash -c 'echo $$; echo x > sysv/shm/99; cat sysv/shm/99 > /dev/null'
        (. ctl/sysv/shm/99/status; echo $cpid $size)",
    );
    let pid = shown.lines().next().unwrap();
    assert_eq!(shown.lines().nth(1).unwrap(), format!("{pid} 2"));
    world.run("jq -e '.nattch == 0 and .mode == \"0644\"' < ctl/sysv/shm/99/status.json");
}

#[test]
fn one_whose_making_thread_has_ended_belongs_to_a_process_that_lives() {
    let world = World::new();
    let script = "import os, threading
def make():
    fd = os.open('sysv/shm/1', os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 100); os.close(fd)
thread = threading.Thread(target=make); thread.start(); thread.join()
print(open('ctl/orphans').read() == '')
print('cpid=%d' % os.getpid() in open('ctl/sysv/shm/1/status').read())";
    assert_eq!(world.python(script), "True\nTrue\n");
    assert_eq!(world.run("cat ctl/orphans"), "sysv/shm/0x00000001\n");
}

#[test]
fn python_and_perl_see_the_same_segment() {
    let world = World::new();
    world.run("printf 'to Python' > sysv/shm/0x4d2");
    let script = "import sysv_ipc
s = sysv_ipc.SharedMemory(1234)
print(s.read(), s.size, oct(s.mode))
s.write(b'from'); s.mode = 0o660; s.uid = 1001
n = sysv_ipc.SharedMemory(None, sysv_ipc.IPC_CREX, size=333, mode=0o604)
print(n.id)";
    let printed = world.python(script);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[0], "b'to Python' 9 0o644");
    let seen = world.run("cat sysv/shm/0x4d2; stat -c ' %a %u' sysv/shm/0x4d2");
    assert_eq!(seen, "fromython 660 1001\n");
    assert_eq!(world.run(&format!("stat -c '%a %s' sysv/shm/id-{}", lines[1])), "604 333\n");
    let printed = world.run(
        "perl -MIPC::SysV -MIPC::SharedMem -e '$s = IPC::SharedMem->new(0x4d2, 9, 0) or die $!;
         print $s->read(0, 9), \" \", $s->stat->segsz, \"\\n\"; $s->write(\"perl\", 0, 4) or die $!'",
    );
    assert_eq!(printed, "fromython 9\n");
    assert_eq!(world.run("cat sysv/shm/1234"), "perlython");
}

#[test]
fn permissions_are_the_segments_own() {
    let world = World::new();
    world.run(&user(1001, "umask 027; echo secret > sysv/shm/1"));
    let stat = world.c("sysv_shm", &["stat", "1"]);
    assert_eq!(stat, "mode=0640 uid=1001 gid=1001 size=7 nattch=0\n");
    world.fail(&user(1002, "cat sysv/shm/1"));
    world.fail(&user(1002, "rm -f sysv/shm/1"));
    world.fail(&user(1002, "chmod 777 sysv/shm/1"));
    world.fail("setpriv --reuid=1002 --regid=1002 --groups=1001 bash -c 'echo x > sysv/shm/1'");
    let read = "setpriv --reuid=1002 --regid=1002 --groups=1001 cat sysv/shm/1";
    assert_eq!(world.run(read), "secret\n");
    world.run(&user(1001, "chmod 600 sysv/shm/1"));
    world.fail(read);
    world.run("chown 1002 sysv/shm/1");
    world.fail(&user(1001, "cat sysv/shm/1"));
    world.run(&user(1001, "rm -f sysv/shm/1"));
    assert_eq!(world.run("ls sysv/shm"), "");
}

#[test]
fn a_key_can_have_a_name() {
    let world = World::new();
    world.run("ln -s 0x77 sysv/shm/buffer; truncate -s 20000 sysv/shm/buffer");
    world.run("ln -s 0x78 sysv/msg/buffer");
    let seen = world.run("ls sysv/shm; stat -Lc %s sysv/shm/buffer");
    assert_eq!(seen, "0x00000077\nbuffer\n20000\n");
    world.run("mv sysv/shm/buffer sysv/shm/renamed");
    assert!(world.fail("mv sysv/shm/renamed sysv/msg/").contains("not permitted"));
    assert!(world.fail("mv sysv/shm/0x00000077 sysv/shm/0x78").contains("not permitted"));
    world.run("rm sysv/shm/renamed; [ $(ls sysv/shm) = 0x00000077 ]");
}

#[test]
fn segments_of_huge_pages_can_be_read_and_written() {
    let world = World::new();
    let script = "import ctypes
libc = ctypes.CDLL(None, use_errno=True)
SHM_HUGETLB = 0o4000
print(libc.shmget(5, ctypes.c_size_t(1 << 21), 0o1600 | SHM_HUGETLB))";
    world.run("echo 4 > /proc/sys/vm/nr_hugepages");
    let made = world.python(script) != "-1\n";
    let there = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap();
    assert!(made || there.trim() == "0", "there are huge pages, but no segment could be made");
    if made {
        world.run("printf huge | dd of=sysv/shm/5 bs=4 oflag=seek_bytes seek=2097148 conv=notrunc status=none");
        assert_eq!(world.run("tail -c 4 sysv/shm/5; stat -c ' %s' sysv/shm/5"), "huge 2097152\n");
        assert_eq!(world.c("sysv_shm", &["read", "5", "2097148", "4"]), "huge");
        world.run("rm sysv/shm/5");
    }
    world.run("echo 0 > /proc/sys/vm/nr_hugepages");
}

#[test]
fn four_thousand_segments_are_listed_quickly_and_not_remembered() {
    let world = World::new();
    let script = "import sysv_ipc
for key in range(1, 4001): sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX, size=1)";
    world.python(script);
    let before = world.daemon_status("VmRSS");
    let start = Instant::now();
    assert_eq!(world.run("ls -l sysv/shm | tail -n +2 | sort -u | wc -l"), "4000\n");
    println!("4,000 segments: ls -l {:?}", start.elapsed());
    assert!(start.elapsed().as_secs() < 10);
    world.run("echo 2 > /proc/sys/vm/drop_caches");
    eventually("it is small again", || world.daemon_status("VmRSS") < before + 2048);
}
