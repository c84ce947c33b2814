//! ctl/mq/NAME/: lines, tagged, drain, wait, priority.

use crate::common::{THREADS, World, eventually};

/// With a queue `q` of so many messages of up to 64 bytes.
fn world(maxmsg: u32) -> World {
    let world = World::new();
    world.run(&format!("echo 'mq/q maxmsg={maxmsg} msgsize=64 mode=0666' > ctl/create"));
    world
}

#[test]
fn a_hundred_thousand_lines_go_through_a_small_queue_in_order() {
    let world = world(5);
    let writer = world.start("seq 100000 > ctl/mq/q/lines");
    let reader = "n=0; while read -r line; do n=$((n+1)); [ $line = $n ] || exit 1
        [ $n = 100000 ] && break; done < ctl/mq/q/lines; echo $n";
    assert_eq!(world.run(reader), "100000\n");
    assert!(writer.output().status.success());
    assert_eq!(world.run("cat ctl/mq/q/drain"), "");
}

#[test]
fn a_hundred_thousand_tagged_lines_come_by_priority() {
    let world = world(5);
    let writer = world.start("seq 100000 | awk '{ print $1 % 3 \"\\t\" $1 }' > ctl/mq/q/tagged");
    // Within a priority they keep their order, and none is missing.
    let reader = "head -n 100000 < ctl/mq/q/tagged > $SCRATCH/got
        awk -F'\\t' '$2 % 3 != $1 || $2 <= last[$1] { exit 1 } { last[$1] = $2 }' $SCRATCH/got
        cut -f2 $SCRATCH/got | sort -n | cmp - <(seq 100000) && echo same";
    assert_eq!(world.run(reader), "same\n");
    assert!(writer.output().status.success());
    world.run(
        "echo 'mq/r maxmsg=9 msgsize=64' > ctl/create
        for i in 1 2 3; do printf '%s\\t'$i'\\n' 0 2 1; done > ctl/mq/r/tagged",
    );
    let expected = "2\t1\n2\t2\n2\t3\n1\t1\n1\t2\n1\t3\n0\t1\n0\t2\n0\t3\n";
    assert_eq!(world.run("head -n 9 < ctl/mq/r/tagged"), expected);
}

#[test]
fn lines_are_messages_wherever_the_writes_are_cut() {
    let world = world(10);
    let script = "import os, posix_ipc
text = b'one\\n\\ntwo and more\\nlast'
q = posix_ipc.MessageQueue('/q')
def taken():
    return [q.receive()[0] for _ in range(q.current_messages)]
for cut in range(len(text) + 1):
    fd = os.open('ctl/mq/q/lines', os.O_WRONLY)
    for part in (text[:cut], text[cut:]):
        assert os.write(fd, part) == len(part)
    assert taken() == [b'one', b'', b'two and more'], cut
    os.close(fd)
    while q.current_messages == 0: pass
    assert taken() == [b'last'], cut
fd = os.open('ctl/mq/q/lines', os.O_WRONLY)
for byte in text: os.write(fd, bytes([byte]))
assert taken() == [b'one', b'', b'two and more']";
    world.python(script);
}

#[test]
fn an_unfinished_line_is_sent_at_the_last_close_and_is_there_for_what_comes_next() {
    let world = world(10);
    world.run(
        "for i in {1..300}; do printf $i > ctl/mq/q/lines
        [ $(cat ctl/mq/q/drain) = $i ] || exit 1; done",
    );
    world.run(
        "for i in {1..100}; do /bin/printf $i > ctl/mq/q/lines
        [ $(cat ctl/mq/q/drain) = $i ] || exit 1; done",
    );
    let shared = "exec 3>ctl/mq/q/lines; printf a >&3; (printf b >&3); /bin/printf c >&3
        cat ctl/mq/q/drain; echo -; exec 3>&-; cat ctl/mq/q/drain";
    assert_eq!(world.run(shared), "-\nabc\n");
    assert_eq!(world.run("printf '7\\tx' > ctl/mq/q/tagged; head -n1 ctl/mq/q/tagged"), "7\tx\n");
}

#[test]
fn the_count_written_is_the_count_sent() {
    let world = world(5);
    let script = "import os, posix_ipc, signal
q = posix_ipc.MessageQueue('/q')
def taken():
    return [q.receive()[0] for _ in range(q.current_messages)]
lines = b''.join(b'line %d\\n' % n for n in range(20))
fd = os.open('ctl/mq/q/lines', os.O_WRONLY)
class Alarm(Exception): pass
def alarm(*_): raise Alarm
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.2)
count = os.write(fd, lines)
assert count == len(b'line 0\\n' * 5), count
assert taken() == [b'line %d' % n for n in range(5)]
# Full, and nothing can be sent: interrupted with nothing written.
for n in range(5): q.send('full')
signal.signal(signal.SIGALRM, alarm)
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    os.write(fd, b'x\\n')
    assert False
except Alarm:
    pass
assert taken() == [b'full'] * 5
# And without waiting.
fd = os.open('ctl/mq/q/lines', os.O_WRONLY | os.O_NONBLOCK)
assert os.write(fd, b'ab') == 2
assert os.write(fd, b'c\\n' + lines) == 2 + 7 * 4
try:
    os.write(fd, b'd\\n')
    assert False
except BlockingIOError:
    pass
assert taken() == [b'abc'] + [b'line %d' % n for n in range(4)]";
    world.python(script);
}

#[test]
fn a_long_line_is_refused_and_those_before_it_are_sent() {
    let world = world(10);
    let long = "x".repeat(65);
    let error = world.fail(&format!("printf 'a\\nb\\n{long}\\nc\\n' | cat > ctl/mq/q/lines"));
    assert!(error.contains("Message too long"), "{error}");
    assert_eq!(world.run("cat ctl/mq/q/drain"), "a\nb\n");
    let errors = world.run("tail -n1 ctl/errors");
    assert!(errors.contains("ctl/mq/q/lines\tEMSGSIZE: ") && errors.contains("65"), "{errors}");
    assert!(errors.contains("64"), "{errors}");
    let error = world.fail("printf '1\\ta\\n40000\\tb\\n' > ctl/mq/q/tagged");
    assert!(error.contains("Invalid argument"), "{error}");
    assert_eq!(world.run("cat ctl/mq/q/drain"), "a\n");
    world.run(&format!("printf '%s\\n' {} > ctl/mq/q/lines", "y".repeat(64)));
    assert_eq!(world.run("cat ctl/mq/q/drain | wc -c"), "65\n");
}

#[test]
fn the_rest_of_a_long_line_is_no_message() {
    let world = world(10);
    let script = "import os
file = os.open('ctl/mq/q/lines', os.O_WRONLY)
def outcome(text):
    try: return os.write(file, text)
    except OSError as error: return os.strerror(error.errno)
print([outcome(text) for text in (b'x' * 65, b'more of it', b'and its end\\nnext\\n')])";
    assert_eq!(world.python(script), "['Message too long', 10, 17]\n");
    assert_eq!(world.run("cat ctl/mq/q/drain"), "next\n");
}

#[test]
fn an_unfinished_line_waits_for_room_as_long_as_there_can_be_any() {
    let world = world(1);
    let idle = || world.daemon_status("Threads") <= THREADS;
    eventually("no worker is left", idle);
    let leave = "printf full > mq/q; for i in 1 2 3; do printf $i > ctl/mq/q/lines; done";
    world.run(leave);
    assert!(!idle(), "they wait");
    world.run("[ $(head -n4 ctl/mq/q/lines | sort | tr -d '\n') = 123full ]");
    // Somebody has the removed queue still.
    world.run(&format!(
        "exec 4<mq/q; {leave}; rm mq/q; sleep 2; cat <&4; cat <&4; cat <&4; cat <&4"
    ));
    eventually("the queue has been emptied", idle);
    assert_eq!(world.run("cat ctl/errors"), "");
    world.run("echo 'mq/q maxmsg=1 msgsize=64' > ctl/create");
    world.run(&format!("{leave}; rm mq/q"));
    eventually("nobody can read it any more", idle);
    let lost = "\tEIDRM: the queue was full, has been removed, and nobody reads it\n";
    let errors = world.run("cut -f 3- ctl/errors");
    assert_eq!(errors, format!("ctl/mq/q/lines{lost}").repeat(3));
}

#[test]
fn a_close_that_may_not_wait_says_that_there_is_no_room() {
    let world = world(1);
    world.run("printf full > mq/q");
    let script = "import os
def left(then=lambda file: None):
    file = os.open('ctl/mq/q/lines', os.O_WRONLY | os.O_NONBLOCK)
    os.write(file, b'left')
    then(file)
    try: os.close(file); return 'closed'
    except OSError as error: return os.strerror(error.errno)
print(left())
os.read(os.open('mq/q', os.O_RDONLY), 99)
print(left())
os.read(os.open('mq/q', os.O_RDONLY), 99)
# It goes on by another descriptor.
print(left(os.dup))";
    let expected = "Resource temporarily unavailable\nclosed\nclosed\n";
    assert_eq!(world.python(script), expected);
    assert_eq!(world.run("cat ctl/mq/q/drain"), "left\n");
}

#[test]
fn what_is_unfinished_when_the_daemon_ends_is_logged() {
    let mut world = world(1);
    world.run("printf full > mq/q; printf left > ctl/mq/q/lines");
    let mut daemon = world.take_daemon();
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success());
    let errors = daemon.errors();
    assert!(errors.contains("ctl/mq/q/lines: lost at the end: what was unfinished"), "{errors}");
    assert!(!errors.contains("left"), "{errors}");
}

#[test]
fn who_reads_little_takes_one_message() {
    let world = world(10);
    world.run("seq 4 > ctl/mq/q/lines; read -r line < ctl/mq/q/lines; [ $line = 1 ]");
    assert_eq!(world.run("stat -c %s mq/q; head -n1 < ctl/mq/q/lines"), "3\n2\n");
    world.run("truncate -s 0 mq/q; printf 'no newline' > mq/q; echo newline > mq/q");
    assert_eq!(world.run("head -n2 < ctl/mq/q/lines"), "no newline\nnewline\n");
}

#[test]
fn drain_ends_and_takes_what_was_there() {
    let world = world(10);
    assert_eq!(world.run("cat ctl/mq/q/drain"), "");
    world.run("echo low > mq/q; echo high > ctl/mq/q/priority/9");
    assert_eq!(world.run("cat ctl/mq/q/drain; stat -c %s mq/q"), "high\nlow\n0\n");
    // It ends although somebody goes on writing.
    let writer = world.start("yes > ctl/mq/q/lines");
    eventually("the queue is full", || world.run("stat -c %s mq/q").trim() == "10");
    let drained: usize = world.run("cat ctl/mq/q/drain | wc -l").trim().parse().unwrap();
    assert!((10..=10).contains(&drained), "{drained}");
    writer.signal(libc::SIGTERM);
}

#[test]
fn wait_ends_with_a_message_and_takes_none() {
    let world = world(10);
    let waiting = world.start("cat ctl/mq/q/wait; echo there");
    eventually("it waits", || world.waiting() == 1);
    world.c("mq", &["send", "/q", "0", "hello"]);
    assert_eq!(waiting.output().text(), "there\n");
    assert_eq!(world.run("cat ctl/mq/q/wait; cat mq/q"), "hello");
    let mut waiting = world.start("exec timeout 1 cat ctl/mq/q/wait");
    assert_eq!(waiting.wait().code(), Some(124));
}

#[test]
fn priorities_are_files() {
    let world = world(10);
    world.run("for p in 0 32767 5; do echo $p > ctl/mq/q/priority/$p; done");
    assert_eq!(world.run("cat ctl/mq/q/drain; ls ctl/mq/q/priority"), "32767\n5\n0\n0\n");
    world.run("cd ctl/mq/q/priority; ! [ -e 32768 ] && ! [ -e -1 ] && ! [ -e 05 ] && ! [ -e x ]");
    assert_eq!(world.run("stat -c %A ctl/mq/q/priority/7"), "--w--w--w-\n");
    // What is no priority cannot be made either.
    world.run("touch sysv/msg/1 sysv/sem/1");
    for file in
        ["mq/q/priority/32768", "mq/q/priority/x", "sysv/msg/1/type/abc", "sysv/sem/1/hold/5x"]
    {
        let error = world.fail(&format!("echo x > ctl/{file}"));
        assert!(error.contains("Invalid argument"), "{file}: {error}");
    }
}

#[test]
fn poll_tells_when_lines_can_be_read_and_written() {
    let world = world(2);
    let script = "import os, select, threading, time
fd = os.open('ctl/mq/q/lines', os.O_RDWR)
p = select.poll(); p.register(fd, select.POLLIN | select.POLLOUT)
assert p.poll(0) == [(fd, select.POLLOUT)], p.poll(0)
os.write(fd, b'abc\\nd\\n')
assert p.poll(0) == [(fd, select.POLLIN)]
assert os.read(fd, 2) == b'ab'
assert p.poll(0) == [(fd, select.POLLIN | select.POLLOUT)]
assert os.read(fd, 9) == b'c\\n' and os.read(fd, 9) == b'd\\n'
p.modify(fd, select.POLLIN)
assert p.poll(50) == []
other = os.open('mq/q', os.O_WRONLY)
threading.Timer(0.1, lambda: os.write(other, b'x')).start()
assert p.poll(10000) == [(fd, select.POLLIN)]";
    world.python(script);
}

#[test]
fn a_killed_reader_takes_nothing_with_it() {
    let world = world(10);
    for _ in 0..20 {
        let mut reader = world.start("exec cat ctl/mq/q/lines");
        eventually("it waits", || world.waiting() == 1);
        world.run("seq 3 > ctl/mq/q/lines");
        reader.signal(libc::SIGKILL);
        reader.wait();
        world.run("seq 4 6 > ctl/mq/q/lines");
        let left = world.run("cat ctl/mq/q/drain");
        // What it was given before it was killed is gone, what it was not given is there.
        assert!("1\n2\n3\n4\n5\n6\n".ends_with(&left) && left.ends_with("4\n5\n6\n"), "{left}");
    }
}

#[test]
fn writers_who_share_a_file_take_turns_and_can_be_stopped() {
    let world = world(2);
    world.run("seq 2 > ctl/mq/q/lines");
    let mut writers =
        world.start("exec 3>ctl/mq/q/lines; echo a >&3 & echo b >&3 & echo c >&3 & wait");
    eventually("one waits for the queue", || world.waiting() >= 1);
    writers.signal(libc::SIGTERM);
    writers.wait();
    assert_eq!(world.run("cat ctl/mq/q/drain"), "1\n2\n");
}

#[test]
fn the_files_have_the_objects_permissions() {
    let world = world(10);
    world.run("chmod 620 mq/q; chown 4242:4243 mq/q; echo x > mq/q");
    assert_eq!(
        world.run("stat -c '%A %u %g' ctl/mq/q/lines ctl/mq/q/drain ctl/mq/q/priority/0"),
        "-rw--w---- 4242 4243\n-r-------- 4242 4243\n--w--w---- 4242 4243\n"
    );
    let group = "setpriv --reuid=4300 --regid=4300 --groups=4243";
    world.fail(&format!("{group} cat ctl/mq/q/drain"));
    world.fail(&format!("{group} cat ctl/mq/q/status"));
    world.run(&format!("{group} bash -c 'echo y > ctl/mq/q/lines'"));
    let other = "setpriv --reuid=4300 --regid=4300 --clear-groups";
    world.fail(&format!("{other} bash -c 'echo y > ctl/mq/q/lines'"));
    let owner = "setpriv --reuid=4242 --regid=4242 --clear-groups";
    assert_eq!(world.run(&format!("{owner} cat ctl/mq/q/drain")), "x\ny\n");
}
