//! ctl/create and ctl/errors: objects with attributes, and why there are none.

use crate::common::World;

#[test]
fn an_object_has_exactly_the_attributes_that_were_asked_for() {
    let world = World::new();
    world.run(
        "umask 027; cat > ctl/create <<'END'
mq/jobs maxmsg=5 msgsize=64 mode=0640
shm/buf size=1M mode=600
sem/pool value=4
# a comment, and nothing

fifo/x mode=0622
sysv/msg/0x4d2 qbytes=5K
sysv/sem/0x99 nsems=4 mode=0660
sysv/shm/119 size=64K
END",
    );
    let attr = world.c("mq", &["attr", "/jobs"]);
    assert_eq!(attr, "maxmsg=5 msgsize=64 curmsgs=0 mode=0640 uid=0 gid=0\n");
    assert_eq!(world.c("sem", &["value", "/pool"]).trim(), "4");
    let seen = world.python(
        "import posix_ipc, sysv_ipc, os
m = posix_ipc.SharedMemory('/buf'); print(m.size, oct(os.fstat(m.fd).st_mode & 0o7777))
q = sysv_ipc.MessageQueue(0x4d2); print(q.max_size, oct(q.mode))
s = sysv_ipc.SharedMemory(119); print(s.size, oct(s.mode))
print([oct(os.stat(p).st_mode) for p in ('sem/pool', 'fifo/x', 'sysv/sem/0x99')])",
    );
    assert_eq!(
        seen,
        "1048576 0o600\n5120 0o640\n65536 0o640\n['0o100640', '0o10622', '0o100660']\n"
    );
    assert_eq!(world.run("cat sysv/sem/0x99"), "0 0 0 0\n");
}

#[test]
fn what_is_made_is_the_writers() {
    let world = World::new();
    let user = "setpriv --reuid=4242 --regid=4243 --clear-groups";
    let lines =
        "mq/a maxmsg=1 msgsize=1\\nshm/a\\nsem/a\\nfifo/a\\nsysv/msg/1\\nsysv/sem/1\\nsysv/shm/1";
    world.run(&format!("{user} bash -c 'umask 077; printf \"{lines}\" > ctl/create'"));
    let objects = "mq/a shm/a sem/a fifo/a sysv/msg/1 sysv/sem/1 sysv/shm/1";
    let owners = world.run(&format!("stat -c '%u %g %a' {objects} | sort -u"));
    assert_eq!(owners, "4242 4243 600\n");
}

#[test]
fn what_another_writes_to_an_open_file_makes_and_changes_nothing() {
    let world = World::new();
    world.run("echo 'sysv/msg/7 qbytes=100 mode=0666' > ctl/create");
    // As root's setuid programs, whose messages go where their user has them go.
    let script = "
import os
def act(uid, gid):
    os.seteuid(0); os.setegid(gid); os.seteuid(uid)
def outcome(file, text):
    try: return os.write(file, text)
    except OSError as error: return os.strerror(error.errno)
user = (4242, 4243)
for opener, writer in ((user, (0, 0)), (user, (4242, 0)), ((0, 0), user)):
    for path, text in (('ctl/create', b'mq/evil maxmsg=1 msgsize=1\\n'), ('ctl/sysv/msg/7/qbytes', b'50\\n')):
        act(*opener)
        file = os.open(path, os.O_WRONLY)
        act(*writer)
        print(outcome(file, text))
        act(*opener)
        os.close(file)
act(*user)
os.umask(0o077)
file = os.open('ctl/create', os.O_WRONLY)
os.umask(0)
print(outcome(file, b'mq/mine maxmsg=1 msgsize=1\\n'))";
    let refused = "Operation not permitted\n".repeat(6);
    assert_eq!(world.python(script), format!("{refused}27\n"));
    assert_eq!(world.run("ls mq; cat ctl/sysv/msg/7/qbytes"), "mine\n100\n");
    assert_eq!(world.run("stat -c '%u %g %a' mq/mine"), "4242 4243 600\n", "umask at the open");
    let last = world.run("grep -c 'EPERM: it was opened by uid 4242 and gid 4243' ctl/errors");
    assert_eq!(last, "4\n");
}

#[test]
fn a_line_is_a_line_wherever_the_writes_are_cut() {
    let world = World::new();
    world.run("(printf 'shm/cut'; sleep .2; printf 'ter size=4096\n') | cat > ctl/create");
    assert_eq!(world.run("stat -c '%n %s' shm/*"), "shm/cutter 4096\n");
    world.run("seq -f 'fifo/%03.0f mode=0600' 300 | dd bs=1000 of=ctl/create status=none");
    world.run("seq -f 'sem/%g value=2' 5 | dd bs=1 of=ctl/create status=none");
    assert_eq!(world.run("ls fifo | wc -l; cat sem/* | sort | uniq -c | tr -s ' '"), "300\n 5 2\n");
    // What a shell closes and has open still is no end of a line.
    world.run("exec 3>ctl/create; printf 'shm/a' >&3; /bin/printf 'b size=' >&3; printf '7\n' >&3");
    assert_eq!(world.run("stat -c %s shm/ab; ls shm | wc -l"), "7\n2\n");
}

#[test]
fn a_line_without_a_newline_is_made_when_the_command_returns() {
    let world = World::new();
    let ways = [
        "printf '{} maxmsg=1 msgsize=1' > ctl/create",
        "/bin/printf '{} maxmsg=1 msgsize=1' > ctl/create",
        "{ /bin/printf '{} maxmsg=1'; printf ' msgsize=1'; } > ctl/create",
        "{ printf '{} maxmsg=1'; /bin/printf ' msgsize=1'; } > ctl/create",
        "printf '{} maxmsg=1 msgsize=1' | cat > ctl/create",
        "exec 3>ctl/create; printf '{} maxmsg=1 msgsize=1' >&3; exec 3>&-",
        "(exec 3>ctl/create; printf '{} maxmsg=1 msgsize=1' >&3)",
    ];
    for (number, way) in ways.iter().enumerate() {
        let made = format!("mq/{number}");
        let way = way.replace("{}", &made);
        let again =
            format!("for i in {{1..20}}; do {way}; [ -e {made} ] && rm {made} || exit; done");
        world.run(&again);
    }
    // The close says what is wrong with one that came in pieces, where anybody asks.
    let script = "import os
file = os.open('ctl/create', os.O_WRONLY)
print(os.write(file, b'mq/x max') + os.write(file, b'msg=0'))
try: os.close(file)
except OSError as error: print(os.strerror(error.errno))";
    assert_eq!(world.python(script), "13\nInvalid argument\n");
    assert!(world.run("tail -n1 ctl/errors").contains("EINVAL: line 1: mq/x: maxmsg=0 must be"));
    assert!(world.fail("printf nonsense | dd of=ctl/create").contains("Invalid argument"));
    world.run("touch mq/there");
    for write in
        ["echo nonsense", "printf nonsense", "printf 'mq/x maxmsg=y'", "printf 'mq/x maxmsg=0'"]
    {
        let error = world.fail(&format!("{write} > ctl/create"));
        assert!(error.contains("write error: Invalid argument"), "{error}");
    }
    assert!(world.fail("printf mq/there > ctl/create").contains("File exists"));
    assert_eq!(world.run("ls mq"), "there\n");
}

#[test]
fn a_malformed_line_makes_nothing_and_the_error_says_where() {
    let world = World::new();
    let bad = [
        ("jobs", "is in none of"),
        ("mq/jobs maxmsg=x", "no number"),
        ("mq/jobs maxmsg=5 colour=red", "the attributes of mq are mode, maxmsg, msgsize"),
        ("mq/jobs mode=9", "octal"),
        ("sysv/sem/0x99 value=4", "the attributes of sysv/sem"),
        ("sysv/msg/jobs", "is no key"),
        ("sem/s value=99999999999", "99999999999"),
        ("mq/", "is no name"),
    ];
    for (line, sentence) in bad {
        let error = world
            .fail(&format!("printf 'fifo/before\\n{line}\\nfifo/after\\n' | cat > ctl/create"));
        assert!(error.contains("Invalid argument"), "{line}: {error}");
        let last = world.run("tail -n1 ctl/errors");
        let expected = "\tctl/create\tEINVAL: ";
        assert!(last.contains(expected) && last.contains(sentence), "{line}: {last}");
        assert!(last.contains("line 2: "), "{last}");
        assert_eq!(world.run("find mq shm sem fifo sysv -type f -o -type p"), "fifo/before\n");
        world.run("rm fifo/before");
    }
    world.run("touch sem/there");
    assert!(world.fail("echo sem/there > ctl/create").contains("File exists"));
}

#[test]
fn a_list_that_a_buffer_cuts_is_made_whole() {
    let world = World::new();
    world.run("seq -f 'fifo/%05.0f mode=0600' 2000 > ctl/create");
    assert_eq!(world.run("ls fifo | wc -l; ls fifo | sed -n '1p;$p'"), "2000\n00001\n02000\n");
}

#[test]
fn a_name_that_is_no_word_is_written_as_summary_writes_it() {
    let world = World::new();
    let name = "a b'c$(x)\nd\\e";
    world.run(&format!("touch \"$(printf '%s' {})\"", "sem/plain"));
    world.python(&format!(
        "open('fifo/' + {name:?}, 'w') if 0 else __import__('os').mkfifo('fifo/' + {name:?})"
    ));
    let shown = world.run("awk '/^fifo/' ctl/summary");
    let quoted =
        shown.strip_prefix("fifo  ").unwrap().split("  ").next().unwrap().trim().to_owned();
    assert_eq!(quoted, r"$'a b\'c$(x)\nd\\e'");
    world.run(&format!("rm fifo/{quoted}; ! ls -A fifo | grep ."));
    let line = format!("fifo/{quoted} mode=0600\n");
    std::fs::write(world.path().join("ctl/create"), line).unwrap();
    world.run(&format!("[ -p fifo/{quoted} ]"));
}

#[test]
fn a_name_is_written_as_bash_prints_it() {
    let world = World::new();
    world.run(
        r#"for name in plain 'a b' $'\r\a\b\e\f\v\001x' $'it\'s "?\\' $'n\nt\t' $'\xff\377' 'ä ö'; do
            for LC_ALL in C C.UTF-8; do
                printf 'fifo/%q mode=0600\n' "$name" > ctl/create && rm "fifo/$name" || exit 1
            done
        done; ! ls -A fifo | grep ."#,
    );
    for wrong in [r"$'\z'", r"$'\0'", r"$'\cA'", "a\0b"] {
        let error = std::fs::write(world.path().join("ctl/create"), format!("fifo/{wrong}\n"));
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EINVAL), "{wrong:?}");
    }
    assert_eq!(world.run("ls fifo"), "");
}

#[test]
fn a_limit_is_the_kernels_errno_and_a_sentence() {
    let world = World::new();
    // What queues cost is counted by user, whatever the namespace: nobody else's user.
    let user = "setpriv --reuid=48211 --regid=48211 --clear-groups";
    let attempt = |line: &str| {
        let output = world.attempt(&format!("{user} bash -c 'echo {line} > ctl/create'"));
        assert!(!output.status.success(), "{line}");
        (output.errors, world.run(&format!("{user} tail -n1 ctl/errors")))
    };
    let (errno, sentence) = attempt("mq/q maxmsg=11");
    assert!(errno.contains("Invalid argument"), "{errno}");
    assert!(sentence.contains("maxmsg=11 must be 1 to 10 (fs.mqueue.msg_max)"), "{sentence}");
    let (_, sentence) = attempt("mq/q msgsize=8193");
    assert!(sentence.contains("msgsize=8193 1 to 8192 (fs.mqueue.msgsize_max)"), "{sentence}");
    let (_, sentence) = attempt("mq/q maxmsg=0");
    assert!(sentence.contains("maxmsg=0 must be 1 to"), "{sentence}");
    let (errno, sentence) = attempt("sysv/shm/7 size=0");
    assert!(errno.contains("Invalid argument") && sentence.contains("shmmax"), "{sentence}");
    let (errno, sentence) = attempt("sysv/sem/7 nsems=100000");
    assert!(errno.contains("Invalid argument"), "{errno}");
    assert!(sentence.contains("sysv_sem_nsems_max is 32000"), "{sentence}");
    // Root may go further, where it has the capability to.
    let root = "1 to $([ -e mq/far ] && echo 65536 || echo 10) (fs.mqueue.msg_max)";
    world.run(&format!(
        "echo mq/far maxmsg=11 msgsize=1 2> /dev/null > ctl/create; ! echo mq/q maxmsg=70000 > ctl/create
         tail -n1 ctl/errors | grep -F \"maxmsg=70000 must be {root}\"; rm -f mq/far"
    ));
    world.run("touch sem/s; ! echo 2147483648 > sem/s; tail -n1 ctl/errors | grep -F 'is over 2147483647'");
    world
        .run("echo 2147483647 > sem/s; ! echo +1 > sem/s; tail -n1 ctl/errors | grep 'and 1 more'");
    world.run(
        "! truncate -s 3 sem/s; tail -n1 ctl/errors | grep 'EINVAL: a semaphore has no length'",
    );
    let long = "x".repeat(256);
    let (errno, sentence) = attempt(&format!("mq/{long}"));
    assert!(errno.contains("File name too long") && sentence.contains("256"), "{sentence}");
    // The limit of the user who asks.
    let many = format!(
        "{user} prlimit --msgqueue=200000 bash -c 'make() {{ echo mq/$1 msgsize=8K > ctl/create; }}
         make a && make b && ! make c'"
    );
    world.run(&many);
    let sentence = world.run(&format!("{user} tail -n1 ctl/errors"));
    let expected = "RLIMIT_MSGQUEUE of uid 48211 is 200000 bytes; this queue needs 82,880; 2 \
                    queues use 165,760\n";
    assert!(sentence.contains("\tEMFILE: ") && sentence.ends_with(expected), "{sentence}");
    world.run("echo 2 > /proc/sys/fs/mqueue/queues_max");
    world.fail(&format!("{user} touch mq/d"));
    let sentence = world.run(&format!("{user} tail -n1 ctl/errors"));
    let expected = "mq/d\tENOSPC: there are 2 queues; fs.mqueue.queues_max is 2\n";
    assert!(sentence.ends_with(expected), "{sentence}");
    world.run("echo 1 > /proc/sys/kernel/msgmni; touch sysv/msg/1; ! touch sysv/msg/2");
    let sentence = world.run("tail -n1 ctl/errors");
    assert!(sentence.contains("sysv_msg_queues is 1 of 1"), "{sentence}");
}

#[test]
fn errors_are_the_readers_and_roots_are_everybodys() {
    let world = World::new();
    let user = |uid: u32| format!("setpriv --reuid={uid} --regid={uid} --clear-groups");
    world.run("touch sem/root");
    world.fail("mkdir mq/x");
    world.fail(&format!("{} bash -c 'echo x > ctl/create'", user(4242)));
    world.fail(&format!("{} ln sem/root sem/other", user(4243)));
    let shown = |uid| world.run(&format!("{} cut -f3- ctl/errors", user(uid)));
    assert!(shown(4242).starts_with("ctl/create\tEINVAL: line 1: "), "{}", shown(4242));
    assert_eq!(shown(4242).lines().count(), 1);
    assert_eq!(shown(4244), "");
    assert_eq!(world.run("cut -f3 ctl/errors").lines().next(), Some("mq/x"));
    assert!(world.run("cut -f3 ctl/errors").contains("ctl/create\n"));
    // What is no failure: asking for what is not there, not waiting.
    world.run("! [ -e mq/none ]; dd if=sem/root iflag=nonblock status=none");
    let count = world.run("wc -l < ctl/errors");
    world.run("! cat mq/none 2>/dev/null; ! echo -1 > ctl/sem/root/try");
    assert_eq!(world.run("wc -l < ctl/errors"), count);
    // The last 64, newest last.
    world.run("for i in {1..100}; do ! echo bad$i > ctl/create || exit; done 2>/dev/null");
    assert_eq!(world.run("wc -l < ctl/errors; tail -n1 ctl/errors | grep -c bad100"), "64\n1\n");
}
