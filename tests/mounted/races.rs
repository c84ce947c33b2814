//! Names that come and go while they are being used.

use crate::common::World;

#[test]
fn who_makes_what_another_removes_gets_it() {
    let world = World::new();
    world.run("echo 128 > /proc/sys/fs/mqueue/msgsize_default");
    let script = "import errno, os
for path in ('shm/x', 'sem/x', 'mq/x', 'sysv/msg/5', 'sysv/sem/5'):
    remover = os.fork()
    if remover == 0:
        while True:
            try: os.unlink(path)
            except OSError: pass
    refused = {}
    for n in range(1500):
        try: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError as e: refused[errno.errorcode[e.errno]] = refused.get(errno.errorcode[e.errno], 0) + 1
    os.kill(remover, 9)
    os.waitpid(remover, 0)
    # The kernel looks twice; what goes twice in that moment is refused all the same.
    assert sum(refused.values()) <= 15, (path, refused)";
    world.python(script);
}

#[test]
fn a_pipe_whose_name_is_gone_goes_on_for_those_who_have_it_open() {
    let world = World::new();
    let script = "exec 3<>$PIPE; rm $PIPE; echo hi >&3; timeout 1 head -n 1 <&3
        stat -Lc '%A %h' /proc/self/fd/3; timeout 1 cat <&3; echo $?; ls $(dirname $PIPE)";
    let outcome = |pipe: &str| world.run(&format!("PIPE={pipe}; mkfifo -m 640 $PIPE; {script}"));
    world.run("mkdir /run/pipes");
    let native = outcome("/run/pipes/p");
    assert_eq!(native, "hi\nprw-r----- 0\n124\n");
    assert_eq!(outcome("fifo/p"), native);
}
