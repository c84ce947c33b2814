//! What stat(2) says is true at that moment, whatever is remembered of the last time.

use crate::common::World;

/// Sends, receives and looks, again and again; the queue is at rest whenever `rest` has been called.
fn sizes(rest: &str, rounds: u32) -> String {
    format!(
        "import os, posix_ipc, time
q, expected = posix_ipc.MessageQueue('/q'), 0
size = lambda: os.stat('mq/q').st_size
def rest():
    {rest}
for round in range({rounds}):
    if round % 2: rest()
    assert [size() for _ in range(3)] == [expected] * 3
    if round % 4 == 3:
        while q.current_messages: expected -= len(q.receive()[0])
    else:
        q.send(b'x' * (round + 1)); expected += round + 1
    assert size() == expected
    if round % 5 == 0:
        open('mq/q', 'w').write('by the mount'); expected += 12
        assert size() == expected
print('true')"
    )
}

#[test]
fn the_size_of_a_queue_is_true_in_the_midst_of_things_and_after_a_rest() {
    let world = World::new();
    world.run("touch mq/q");
    assert_eq!(world.python(&sizes("pass", 40)), "true\n");
    world.run("rm mq/q; touch mq/q");
    assert_eq!(world.python(&sizes("os.utime('mq/q', (5, 5))", 40)), "true\n");
    world.run("rm mq/q; touch mq/q");
    let wait = "while time.time() - os.stat('mq/q').st_mtime < 1.1: time.sleep(0.01)";
    assert_eq!(world.python(&sizes(wait, 6)), "true\n");
}

#[test]
fn another_queue_of_the_same_name_has_a_size_of_its_own() {
    let world = World::new();
    let script = "import os, posix_ipc, time
for round in range(10):
    q = posix_ipc.MessageQueue('/q', posix_ipc.O_CREX, max_messages=2, max_message_size=10)
    if round % 2: q.send(b'four')
    os.utime('mq/q', (5, 5))
    assert [os.stat('mq/q').st_size for _ in range(3)] == [round % 2 * 4] * 3
    q.unlink()
    assert not os.path.exists('mq/q')
print('true')";
    assert_eq!(world.python(script), "true\n");
}

#[test]
fn looking_again_at_a_queue_at_rest_does_not_even_touch_its_times() {
    let world = World::new();
    world.run("echo message > mq/q; touch -d @5 mq/q; stat mq/q");
    let script = "import os, time
times = lambda: [os.stat('mq/q').st_size, os.stat('mq/q').st_atime, os.stat('mq/q').st_ctime]
first = times()
while time.time() - first[1] < 1.1: time.sleep(0.01)
os.listdir('mq')
print(times() == first, first[0])";
    assert_eq!(world.python(script), "True 8\n");
}
