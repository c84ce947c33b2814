//! mq/: POSIX message queues.

use crate::common::World;

#[test]
fn a_message_goes_from_the_shell_to_the_shell() {
    let world = World::new();
    world.run("echo hello > mq/jobs");
    assert_eq!(world.run("cat mq/jobs"), "hello\n");
}
