//! fifo/: named pipes.

use crate::common::{BINARY, World, eventually};

/// What fifo(7) and pipe(7) promise, printed.
const PIPE: &str = r"
import errno, fcntl, os, select, signal, struct, sys, termios, threading, time
os.chdir(sys.argv[1])
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
def attempt(what, *arguments):
    try: return what(*arguments)
    except OSError as error: return errno.errorcode[error.errno]
NOW = os.O_NONBLOCK
os.mkfifo('p', 0o600)
print('type', oct(os.stat('p').st_mode))
print('write, nobody reads', attempt(os.open, 'p', os.O_WRONLY | NOW))
r = os.open('p', os.O_RDONLY | NOW)
print('read, nobody writes', attempt(os.read, r, 10))
w = os.open('p', os.O_WRONLY | NOW)
print('read, empty', attempt(os.read, r, 10))
poll = select.poll(); poll.register(r, select.POLLIN)
print('poll, empty', poll.poll(0))
print('written', os.write(w, b'hello'))
print('poll, filled', [events for _, events in poll.poll(0)])
print('FIONREAD', struct.unpack('i', fcntl.ioctl(r, termios.FIONREAD, b'0000'))[0])
print('F_SETPIPE_SZ', fcntl.fcntl(w, 1031, 1 << 18), fcntl.fcntl(r, 1032))
print('read', os.read(r, 3), os.read(r, 10))
print('full', attempt(os.write, w, b'x' * (1 << 20)), attempt(os.write, w, b'x'))
os.close(w)
print('rest', len(os.read(r, 1 << 20)), 'then', os.read(r, 10))
print('poll, closed', [events for _, events in poll.poll(0)])
w = os.open('p', os.O_WRONLY | NOW); os.close(r)
print('nobody reads', attempt(os.write, w, b'x'))
pid = os.fork()
if pid == 0:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.write(w, b'x')
    os._exit(0)
print('SIGPIPE', os.waitpid(pid, 0)[1] == signal.SIGPIPE)
os.close(w)
# Opening waits for the other side.
order = []
def reader():
    with open('p', 'rb') as file: order.append('open'); order.append(file.read())
thread = threading.Thread(target=reader); thread.start()
def sleeps():
    me = threading.get_native_id()
    tasks = [task for task in os.listdir('/proc/self/task') if int(task) != me]
    return all(open(f'/proc/self/task/{task}/stat').read().rsplit(')')[1].split()[0] == 'S' for task in tasks)
while not sleeps(): pass
print('waits', order)
with open('p', 'wb') as file: file.write(b'came')
thread.join()
print(order)
both = os.open('p', os.O_RDWR)
print('read and write', os.write(both, b'self'), os.read(both, 10)); os.close(both)
# Ten writers of whole pages at once.
def writer(number):
    with open('p', 'wb', buffering=0) as file:
        for _ in range(200): file.write(bytes([number]) * 4096)
writers = []
for number in range(10):
    pid = os.fork()
    if pid == 0: writer(number); os._exit(0)
    writers.append(pid)
count = {}
with open('p', 'rb') as file:
    while page := file.read(4096):
        assert len(set(page)) == 1 and len(page) == 4096, 'torn'
        count[page[0]] = count.get(page[0], 0) + 1
print('whole', sorted(count.items()), all(os.waitpid(pid, 0)[1] == 0 for pid in writers))
# Its name gone, the pipe goes on; a new one of that name is another.
r = os.open('p', os.O_RDONLY | NOW); w = os.open('p', os.O_WRONLY)
os.rename('p', 'q'); print('renamed', os.listdir())
os.unlink('q'); os.mkfifo('q')
print('another', attempt(os.open, 'q', os.O_WRONLY | NOW))
os.write(w, b'old'); print('old', os.read(r, 10))
print('seek', attempt(os.lseek, r, 0, 0), 'truncate', attempt(os.truncate, 'q', 0))
os.chmod('q', 0o622); os.utime('q', (5, 6)); os.chown('q', 12, 34)
stat = os.stat('q'); print(oct(stat.st_mode), stat.st_mtime, stat.st_uid, stat.st_gid)
print('exists', attempt(os.mkfifo, 'q'))
os.unlink('q'); print(os.listdir(), attempt(os.unlink, 'q'))
";

#[test]
fn they_are_pipes_like_those_of_a_tmpfs() {
    let world = World::new();
    world.run("mkdir /run/native");
    let run =
        |place: &str| world.python(&format!("import sys; sys.argv = ['', {place:?}]\n{PIPE}"));
    let native = run("/run/native");
    assert!(
        native.contains("write, nobody reads ENXIO") && native.contains("(9, 200)"),
        "{native}"
    );
    assert_eq!(run("fifo"), native);
}

#[test]
fn they_are_made_by_mkfifo_touch_and_redirection() {
    let world = World::new();
    world.run("umask 027; mkfifo fifo/a; mkfifo -m 604 fifo/b; touch fifo/c");
    let listed = world.run("stat -c '%n %F %a %s' fifo/*");
    assert_eq!(listed, "fifo/a fifo 640 0\nfifo/b fifo 604 0\nfifo/c fifo 640 0\n");
    assert_eq!(
        world.run("echo made > fifo/d & until [ -p fifo/d ]; do :; done; cat fifo/d"),
        "made\n"
    );
    assert_eq!(world.run("echo again > fifo/a & cat fifo/a; wait"), "again\n");
    // An open with O_EXCL could not be answered with a pipe: nothing is made.
    let made = world.python(
        "import errno, os\n\
         for how in (lambda: os.open('fifo/x', os.O_CREAT | os.O_EXCL | os.O_WRONLY),\n\
         \x20           lambda: os.mknod('fifo/x'), lambda: os.mkfifo('shm/x'),\n\
         \x20           lambda: os.mkdir('fifo/x'), lambda: os.symlink('a', 'fifo/x')):\n\
         \x20   try: how()\n\
         \x20   except OSError as error: print(errno.errorcode[error.errno], end=' ')\n\
         print(os.path.lexists('fifo/x'), os.listdir('shm'))",
    );
    assert_eq!(made, "EPERM EPERM EPERM EPERM EPERM False []\n");
    assert!(world.fail("mv fifo/a shm/a").contains("Operation not permitted"));
    assert_eq!(
        world.run("mv fifo/a fifo/b; mv -n fifo/c fifo/b; ls fifo; rm fifo/*; ls fifo"),
        "b\nc\nd\n"
    );
}

/// Kills the daemon and mounts again.
fn remount(world: &mut World, arguments: &[&str]) {
    let mut daemon = world.take_daemon();
    daemon.signal(libc::SIGKILL);
    daemon.wait();
    world.run("cd /; until ! mountpoint -q $M && [ -d $M ]; do :; done");
    world.mount(arguments);
}

const NAMES: &str = "stat -c '%n %F %a %u %g %X %Y' fifo/* | sort";

#[test]
fn names_modes_and_owners_outlive_the_daemon() {
    let mut world = World::new();
    world.run(
        "mkfifo fifo/a 'fifo/b c' $'fifo/\\xff\\n'; chmod 604 fifo/a; chown 12:34 'fifo/b c'
         touch -d @12345 fifo/a; mkfifo fifo/x; mv fifo/x fifo/y",
    );
    let before = world.run(NAMES);
    assert_eq!(before.lines().count(), 5);
    remount(&mut world, &[]);
    assert_eq!(world.run(NAMES), before);
    assert_eq!(world.run("echo works > fifo/y & cat fifo/y"), "works\n");
    // Not in a directory of one's own.
    world.run("mkdir /run/elsewhere");
    let arguments = ["-o", "fifo_dir=/run/elsewhere"];
    remount(&mut world, &arguments);
    assert_eq!(world.run("ls fifo; mkfifo fifo/there; ls /run/elsewhere"), "there\n");
    remount(&mut world, &arguments);
    assert_eq!(world.run("ls fifo"), "there\n");
    remount(&mut world, &[]);
    assert_eq!(world.run(NAMES), before);
}

#[test]
fn a_kill_at_any_moment_leaves_each_name_as_it_was_or_as_it_was_to_be() {
    let mut world = World::new();
    for round in 0..10 {
        world.run("mkfifo -m 600 fifo/a; echo > $SCRATCH/round");
        let _storm = world.start(
            "while mv fifo/a fifo/b && chmod 640 fifo/b && mv fifo/b fifo/a && chmod 600 fifo/a
             do echo >> $SCRATCH/round; done",
        );
        let rounds = || world.run("wc -l < $SCRATCH/round").trim().parse::<u32>().unwrap();
        eventually("it goes round", || rounds() > round + 1);
        remount(&mut world, &[]);
        let left = world.run("stat -c '%F %a' fifo/*");
        assert!(["fifo 600\n", "fifo 640\n"].contains(&left.as_str()), "{left}");
        world.run("rm fifo/*");
    }
}

#[test]
fn a_hostile_state_directory_is_refused_and_what_is_foreign_ignored() {
    let world = World::unmounted();
    world.run(
        "cd /; mkdir -m 1777 /run/good /run/others; mkdir -m 777 /run/open; mkfifo /run/good/kept",
    );
    world.run("cd /; ln -s good /run/link; chown nobody /run/others; echo > /run/file");
    for (path, said) in [
        ("/run/link", "symbolic link"),
        ("/run/others", "belongs to somebody else"),
        ("/run/open", "chmod go-w"),
        ("/run/file", "cannot be opened"),
        ("/run/none/at/all", "cannot be made"),
    ] {
        let error = world.fail(&format!("cd /; {BINARY} -o fifo_dir={path} $M"));
        assert!(error.starts_with("ipcfs: mount option fifo_dir: "), "{error}");
        assert!(error.contains(path) && error.contains(said), "{error}");
    }
    // The default one as well, and the one above it; who has not asked for it does without.
    for hostile in [
        "ln -s good /run/ipcfs",
        "mkdir -m 777 /run/ipcfs",
        "mkdir /run/ipcfs; ln -s ../good /run/ipcfs/fifo",
    ] {
        let script = format!(
            "cd /; {hostile}; {BINARY} $M 2>&1; ls $M/fifo; mkfifo $M/fifo/a 2>&1
             echo works > $M/shm/a; umount $M; rm -r /run/ipcfs"
        );
        let text = world.run(&script);
        assert!(text.contains("the state directory") && !text.contains("kept"), "{text}");
        assert!(text.contains("Operation not supported"), "{text}");
    }
    let foreign = format!(
        "cd /run/good; echo precious > file; ln -s file link; mkdir dir; mknod null c 1 3
         cd /; {BINARY} -o fifo_dir=/run/good $M 2>&1; cd $M/fifo; ls; cat link file null 2>&1; rm file 2>&1
         mkfifo link 2>&1; mv kept dir 2>&1; mv -T kept file 2>&1; cd /; umount $M; cat /run/good/file; ls /run/good"
    );
    let text = world.run(&foreign);
    assert!(text.contains("4 entries of the state directory are no FIFOs"), "{text}");
    assert!(text.contains("\nkept\ncat: link: No such file"), "{text}");
    assert!(text.ends_with("precious\ndir\nfile\nkept\nlink\nnull\n"), "{text}");
}

#[test]
fn pipes_belong_to_their_makers() {
    let world = World::new();
    let user = |uid: u32, script: &str| {
        format!("setpriv --reuid={uid} --regid={uid} --clear-groups bash -c '{script}'")
    };
    world.run(&user(1001, "umask 026; mkfifo fifo/a"));
    assert_eq!(world.run("stat -c '%u %g %a' fifo/a"), "1001 1001 640\n");
    assert!(world.fail(&user(1002, "cat fifo/a")).contains("Permission denied"));
    for script in ["rm -f fifo/a", "mv fifo/a fifo/b", "chmod 666 fifo/a", "touch -d @5 fifo/a"] {
        let errors = world.fail(&user(1002, script));
        assert!(errors.contains("not permitted") || errors.contains("denied"), "{errors}");
    }
    // What is kept can be reached through the mount alone.
    assert!(world.fail(&user(1001, "ls /run/ipcfs/fifo")).contains("Permission denied"));
    world.run("mv fifo/a fifo/b; chmod 604 fifo/b");
    let talk = format!("{} & {}", user(1001, "echo hello > fifo/b"), user(1002, "cat fifo/b"));
    assert_eq!(world.run(&talk), "hello\n");
    world.run(&user(1001, "rm fifo/b"));
}

#[test]
fn users_fill_no_more_than_half_of_where_the_names_are_kept() {
    let world = World::unmounted();
    world.run("mount -t tmpfs -o nr_inodes=60,mode=755 tmpfs /run");
    let mut world = world;
    world.mount(&[]);
    world.run("ln -s 1 sysv/msg/first; touch fifo/first");
    let user = "setpriv --reuid=1001 --regid=1001 --clear-groups bash -c";
    let errors =
        world.fail(&format!("{user} 'for i in {{1..60}}; do touch fifo/$i || exit; done'"));
    assert!(errors.contains("No space left"), "{errors}");
    assert!(world.fail(&format!("{user} 'ln -s 2 sysv/msg/second'")).contains("No space left"));
    assert!(world.run("tail -n 1 ctl/errors").contains("the second half is not for users"));
    world.run("touch /run/{1..20}; ln -s 2 sysv/msg/second; mkfifo fifo/second");
    world.run(&format!("{user} 'rm fifo/[0-9]*; touch fifo/again'"));
}

#[test]
fn its_status_can_be_sourced() {
    let world = World::new();
    world.run("mkfifo -m 640 fifo/a; touch -d @5 fifo/a");
    assert_eq!(world.run("(. ctl/fifo/a/status; echo $name $mode $uid $mtime)"), "a 0640 0 5\n");
    assert_eq!(world.run("jq -r .mode < ctl/fifo/a/status.json"), "0640\n");
}
