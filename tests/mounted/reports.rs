//! ctl/: status, limits, summary, metrics.

use crate::common::{World, eventually};

const EACH: &str = "mq/q maxmsg=9 msgsize=64\\nshm/m size=5000\\nsem/s value=3\\nfifo/f\\n\
                    sysv/msg/1\\nsysv/sem/2 nsems=2\\nsysv/shm/3 size=8K";

#[test]
fn the_readme_is_one_screen_and_names_every_file() {
    let world = World::new();
    world.run(&format!("printf '{EACH}' > ctl/create"));
    world.run("[ $(wc -l < ctl/README) -le 24 ] && [ $(wc -L < ctl/README) -le 80 ]");
    // Whatever can be found below ctl/ but for the objects' own names.
    let files = world.run(
        "cd ctl; { find -maxdepth 1 -type f; find mq/q shm/m sem/s fifo/f sysv/*/0x* -mindepth 1; } \
         | sed 's|/[0-9-]*$||; s|.*/||; s|\\.json$||' | sort -u",
    );
    for file in files.lines().filter(|file| *file != "README") {
        world.run(&format!("grep -qw -e '{file}' ctl/README"));
    }
}

#[test]
fn status_is_the_same_for_sh_and_jq() {
    let world = World::new();
    world.run(&format!("printf '{EACH}' > ctl/create; echo hello > mq/q; echo x > sysv/msg/1"));
    world.run(
        "for d in ctl/mq/q ctl/shm/m ctl/sem/s ctl/fifo/f ctl/sysv/*/0x*; do
            # To look into some moves their times.
            jq -r 'to_entries[] | select(.key | IN(\"atime\", \"ctime\") | not) | \"[ \\\"$\\(.key)\\\" = \\(.value | if type == \"array\" then map(tostring) | join(\" \") else . end | tostring | @sh) ] || exit 1\"' $d/status.json > $SCRATCH/check
            (. $d/status; . $SCRATCH/check) || { echo $d >&2; cat $d/status $SCRATCH/check >&2; exit 1; }
        done",
    );
}

#[test]
fn limits_are_the_kernels_and_their_use_is_counted() {
    let world = World::new();
    world.run(&format!("printf '{EACH}' > ctl/create"));
    let script = ". ctl/limits
        [ $mq_queues = 1 ] && [ $mq_queues_max = $(cat /proc/sys/fs/mqueue/queues_max) ] || exit 1
        [ $mq_maxmsg_max = $(cat /proc/sys/fs/mqueue/msg_max) ] || exit 1
        [ $sysv_msg_queues = 1 ] && [ $sysv_msg_queues_max = $(cat /proc/sys/kernel/msgmni) ] || exit 1
        [ $sysv_shm_segments = 1 ] && [ $sysv_shm_pages = 2 ] || exit 1
        [ $sysv_sem_sets = 1 ] && [ $sysv_sem_semaphores = 2 ] || exit 1
        [ $sem_value_max = 2147483647 ] || exit 1
        [ $daemon_descriptors -lt $daemon_descriptors_max ] || exit 1
        echo $mq_bytes";
    // 9 * (64 + 2 * 48)
    assert_eq!(world.run(script), "1440\n");
    assert_eq!(world.run("jq .mq_queues ctl/limits.json"), "1\n");
    // The same in each, and each once.
    let names = "cut -d= -f1 ctl/limits | sed 's/_max$//' | uniq | sort";
    let names = world.run(names);
    let unique: std::collections::BTreeSet<_> = names.lines().collect();
    assert_eq!(unique.len(), names.lines().count(), "{names}");
    for name in ["daemon_waiting", "daemon_open_files", "daemon_listing_bytes", "daemon_mappings"] {
        assert!(unique.contains(name), "{name}");
    }
    let metrics = "sed -n 's/^ipcfs_limit{name=\"\\(.*\\)\"} .*/\\1/p' ctl/metrics | sort";
    assert_eq!(world.run(metrics), names);
    assert_eq!(world.run("jq -r 'keys[]' ctl/limits.json | sed 's/_max$//' | uniq | sort"), names);
    let user = "setpriv --reuid=4242 --regid=4242 --clear-groups prlimit --msgqueue=12345";
    assert_eq!(
        world.run(&format!("{user} grep ^mq_bytes ctl/limits")),
        "mq_bytes_max=12345\nmq_bytes=0\n"
    );
}

#[test]
fn summary_has_every_object_in_a_line() {
    let world = World::new();
    world.run(&format!("printf '{EACH}' > ctl/create; echo hello > mq/q; chown 4242 sem/s"));
    world.run("touch 'sem/a b' $'sem/c\\nd'");
    let sender = world.start("echo x > sysv/msg/1; exec sleep 1000");
    eventually("a message is there", || world.run("cat ctl/sysv/msg/1/peek") == "1\tx\n");
    let summary = world.run("cat ctl/summary");
    let lines: Vec<Vec<&str>> =
        summary.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
    assert_eq!(lines[0], ["KIND", "NAME", "MODE", "OWNER", "SIZE", "CONTENT", "LAST"]);
    assert!(lines.contains(&vec!["mq", "q", "0644", "root", "6", "1", "-"]), "{summary}");
    assert!(lines.contains(&vec!["shm", "m", "0644", "root", "5000", "-", "-"]), "{summary}");
    assert!(lines.contains(&vec!["sem", "s", "0644", "4242", "0", "3", "-"]), "{summary}");
    assert!(
        lines.contains(&vec!["sysv/sem", "0x00000002", "0644", "root", "0", "0,0", "-"]),
        "{summary}"
    );
    assert!(summary.contains("sem       'a b'") && summary.contains("$'c\\nd'"), "{summary}");
    assert_eq!(lines.len(), 10);
    let last = lines.iter().find(|line| line[0] == "sysv/msg").unwrap()[6];
    assert_eq!(last, sender.id().to_string());
    let json =
        world.run("jq -c '.[] | [.kind, .name, .messages // .values // .size]' ctl/summary.json");
    assert!(
        json.contains(r#"["mq","q",1]"#) && json.contains(r#"["sysv/sem","0x00000002",[0,0]]"#),
        "{json}"
    );
    assert!(json.contains(r#"["sem","c\nd",[0]]"#), "{json}");
    // What is in an object is for those who may read it.
    world.run("chmod 600 mq/q");
    let user = "setpriv --reuid=4244 --regid=4244 --clear-groups";
    let theirs = world.run(&format!("{user} grep '^mq ' ctl/summary"));
    assert!(theirs.trim_end().ends_with("0600  root      6  -        -"), "{theirs}");
}

#[test]
fn metrics_are_accepted_and_agree_with_status() {
    let world = World::new();
    world.run(&format!("printf '{EACH}' > ctl/create; echo hello > mq/q; echo y > sysv/msg/1"));
    world.run("touch $'sem/a\"b\\\\c\\nd'");
    let _reader = world.start("exec 3<sem/s; printf -- -4 > sem/s");
    eventually("it waits", || world.waiting() == 1);
    assert_eq!(world.run("promtool check metrics < ctl/metrics 2>&1"), "");
    let metrics = world.run("grep -v '^#' ctl/metrics");
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is missing: {metrics}")).trim().to_owned()
    };
    let status =
        |path: &str, field: &str| world.run(&format!(". ctl/{path}/status; printf %s ${field}"));
    let pairs = [
        ("messages", "mq", "q", "mq/q", "curmsgs"),
        ("bytes", "mq", "q", "mq/q", "bytes"),
        ("max_messages", "mq", "q", "mq/q", "maxmsg"),
        ("bytes", "shm", "m", "shm/m", "size"),
        ("messages", "sysv/msg", "0x00000001", "sysv/msg/1", "qnum"),
        ("bytes", "sysv/msg", "0x00000001", "sysv/msg/1", "cbytes"),
        ("max_bytes", "sysv/msg", "0x00000001", "sysv/msg/1", "qbytes"),
        ("attached", "sysv/shm", "0x00000003", "sysv/shm/3", "nattch"),
    ];
    for (metric, kind, name, path, field) in pairs {
        let sample = value(&format!("ipcfs_object_{metric}{{kind=\"{kind}\",name=\"{name}\"}}"));
        assert_eq!(sample, status(path, field), "{metric} of {path}");
    }
    assert_eq!(value("ipcfs_object_value{kind=\"sem\",name=\"s\",index=\"0\"}"), "3");
    assert_eq!(value("ipcfs_object_waiters{kind=\"sem\",name=\"s\",what=\"wait\"}"), "1");
    assert_eq!(value("ipcfs_object_users{kind=\"sem\",name=\"s\"}"), "1");
    assert_eq!(value("ipcfs_blocked_requests"), "1");
    assert_eq!(value("ipcfs_limit_used{name=\"mq_queues\"}"), "1");
    assert!(value("ipcfs_requests_total{operation=\"write\"}").parse::<u64>().unwrap() > 0);
    assert_eq!(value("ipcfs_object_users{kind=\"sem\",name=\"a\\\"b\\\\c\\nd\"}"), "0");
}

#[test]
fn names_full_of_commands_are_sourced_safely_for_every_kind() {
    let world = World::new();
    let script = r#"
import os
name = 'a\'b"c$(touch pwned)`touch pwned`;x\ny\\'
for kind in ('sem', 'shm', 'fifo'):
    os.mknod(kind + '/' + name, 0o644 | (0o010000 if kind == 'fifo' else 0))
import subprocess
for kind in ('sem', 'shm', 'fifo'):
    out = subprocess.run(['sh', '-c', '. "$1"; printf %s "$name"', 'sh', f'ctl/{kind}/{name}/status'],
        stdout=subprocess.PIPE, cwd=os.environ['M'], check=True).stdout
    assert out.decode() == name, out
assert not os.path.exists('pwned')"#;
    world.python(script);
}

#[test]
fn reading_goes_on_while_objects_come_and_go() {
    let world = World::new();
    world.run(&format!("printf '{EACH}' > ctl/create"));
    let script = "import os, posix_ipc, sysv_ipc, threading, time
end = False
def churn():
    n = 0
    while not end:
        n += 1
        name = '/churn%d' % (n % 5)
        q = posix_ipc.MessageQueue(name, posix_ipc.O_CREAT, max_messages=1, max_message_size=1)
        s = posix_ipc.Semaphore(name, posix_ipc.O_CREAT)
        m = sysv_ipc.SharedMemory(None, sysv_ipc.IPC_CREX, size=1)
        k = sysv_ipc.MessageQueue(100 + n % 5, sysv_ipc.IPC_CREAT)
        z = sysv_ipc.Semaphore(100 + n % 5, sysv_ipc.IPC_CREAT)
        q.close(); q.unlink(); s.unlink(); s.close(); m.detach(); m.remove(); k.remove(); z.remove()
        time.sleep(0.0005)
threads = [threading.Thread(target=churn, daemon=True)]
for t in threads: t.start()
quick, slow = [], []
for top in ('limits', 'limits.json', 'summary', 'summary.json', 'orphans', 'orphans.json', 'errors', 'metrics'):
    slow.append('ctl/' + top)
for kind in ('mq', 'shm', 'sem', 'sysv/msg', 'sysv/sem', 'sysv/shm'):
    for i in range(5):
        for name in ('churn%d' % i, '0x%08x' % (100 + i)):
            quick += ['ctl/%s/%s/status' % (kind, name), 'ctl/%s/%s/status.json' % (kind, name)]
            slow.append('ctl/%s/%s/users' % (kind, name))
            if kind == 'sysv/sem': quick += ['ctl/sysv/sem/%s/%s/' % (name, d) for d in ('hold', 'tryhold')]
daemon = int(os.environ['DAEMON'])
def rss():
    return int(open('/proc/%d/status' % daemon).read().split('VmRSS:')[1].split()[0])
def read(path):
    try:
        if path[-1] == '/': return os.listdir(path)
        with open(path, 'rb') as f: return f.read()
    except FileNotFoundError:
        pass
for n in range(1000): read(quick[n % len(quick)]); n % 15 or read(slow[n // 15 % len(slow)])
before, fds = rss(), len(os.listdir('/proc/%d/fd' % daemon))
for n in range(10000): read(quick[n % len(quick)]); n % 50 or read(slow[n // 50 % len(slow)])
assert threads[0].is_alive()
end = True
for t in threads: t.join()
assert rss() < before + 4096, (before, rss())
assert len(os.listdir('/proc/%d/fd' % daemon)) <= fds + 4";
    let script = script.replace("os.environ['DAEMON']", &format!("'{}'", world.daemon()));
    world.python(&script);
}
