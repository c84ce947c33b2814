//! ctl/: what is not a plain read or write.

use crate::common::World;

#[test]
fn there_is_a_directory_for_each_object_with_its_status() {
    let world = World::new();
    world.c("mq", &["create", "/jobs", "5", "64", "0640"]);
    world.run("echo hello > mq/jobs");
    let fields = "(. ctl/mq/jobs/status; echo $name $mode $maxmsg $msgsize $curmsgs $bytes)";
    assert_eq!(world.run(fields), "jobs 0640 5 64 1 6\n");
    assert_eq!(world.run("jq -r .maxmsg < ctl/mq/jobs/status.json"), "5\n");
    assert_eq!(world.run("ls ctl/mq; stat -c %A ctl/mq/jobs/status"), "jobs\n-r--r-----\n");
    world.fail("chmod 666 ctl/mq/jobs/status");
    world.run("rm mq/jobs; ! [ -e ctl/mq/jobs ]");
}

#[test]
fn a_name_full_of_quotes_and_commands_is_sourced_safely() {
    let world = World::new();
    let name = "a'b\"c$(touch pwned)`touch pwned`;x y";
    world.python(&format!(
        "import posix_ipc; posix_ipc.MessageQueue('/' + {name:?}, posix_ipc.O_CREX)"
    ));
    let script = "for d in ctl/mq/*/; do . \"$d/status\"; printf '%s' \"$name\"; done; ! [ -e pwned ]; cd $SCRATCH; ! [ -e pwned ]".to_string();
    assert_eq!(world.run(&script), name);
}

#[test]
fn the_control_files_go_with_an_object_that_is_renamed() {
    let world = World::new();
    for kind in ["shm", "sem", "fifo"] {
        let script = format!(
            "touch {kind}/a; grep name= ctl/{kind}/a/status
             mv {kind}/a {kind}/b; grep name= ctl/{kind}/b/status; ! [ -e ctl/{kind}/a ]
             mv {kind}/b {kind}/a; grep name= ctl/{kind}/a/status"
        );
        assert_eq!(world.run(&script), "name=a\nname=b\nname=a\n");
    }
    world.run("touch sem/a; echo +1 > ctl/sem/a/try; mv sem/a sem/b; echo +1 > ctl/sem/b/try");
    assert_eq!(world.run("cat sem/b; exec 9< ctl/sem/b/tryhold; cat sem/b"), "2\n1\n");
}

#[test]
fn two_may_have_a_file_open_and_its_mode_follows_the_object() {
    let world = World::new();
    world.run("touch mq/q sem/s; echo x > sysv/msg/1; echo = 1 > sysv/sem/1");
    for file in [
        "sysv/msg/1/except/7",
        "sysv/msg/1/type/-7",
        "sysv/msg/1/wait",
        "sysv/msg/1/status",
        "mq/q/lines",
        "mq/q/status",
        "sem/s/status",
    ] {
        let object =
            file.rsplit_once('/').unwrap().0.trim_end_matches("/except").trim_end_matches("/type");
        let modes = world.run(&format!(
            "chmod 644 {object}; exec 3< ctl/{file}; stat -c %a ctl/{file}; exec 4< ctl/{file}
             chmod 600 {object}; stat -c %a ctl/{file}; exec 5< ctl/{file}; stat -Lc %a /dev/fd/3 | tail -c 4"
        ));
        let modes: Vec<_> = modes.lines().collect();
        let expected = if file.contains("type") || file.ends_with("lines") {
            ["644", "600", "600"]
        } else {
            ["444", "400", "400"]
        };
        assert_eq!(modes, expected, "{file}");
    }
    // What is open of an object that is gone has attributes still.
    world.run("exec 3< ctl/mq/q/status; rm mq/q; [ $(stat -Lc %s /dev/fd/3) -gt 100 ]; grep -q name=q <&3");
}

#[test]
fn a_directory_of_what_has_been_removed_is_empty() {
    let world = World::new();
    // find(1) takes for a loop what vanishes while it is read and has something in it all the same.
    let script = "import os
for kind, name in [('mq', 'q'), ('shm', 's'), ('sem', 's'), ('sysv/msg', '5'), ('sysv/sem', '5'), ('sysv/shm', '5')]:
    path = f'{kind}/{name}'
    subs = ['', 'type'] if kind == 'sysv/msg' else ['']
    def make(): os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    def opened(): return [os.scandir(f'ctl/{path}/{sub}') for sub in subs]
    make()
    assert all(list(entries) for entries in opened()), kind
    gone, replaced = opened(), opened()
    os.unlink(path)
    assert not any(list(entries) for entries in gone), kind
    make()
    assert not any(list(entries) for entries in replaced), kind
    os.unlink(path)";
    world.python(script);
}
