//! What files are for and objects are not: refused at once, never with EIO, and nothing is lost.

use crate::common::World;

/// What may come of it, whichever file it is done to. `ok` where it simply works.
const TABLE: [(&str, &str); 42] = [
    // Attributes: there are none. Of a pipe the kernel says so before it asks.
    ("setxattr", "EOPNOTSUPP EPERM"),
    ("getxattr", "EOPNOTSUPP ENODATA"),
    ("listxattr", "EOPNOTSUPP"),
    ("removexattr", "EOPNOTSUPP EPERM"),
    ("acl", "EOPNOTSUPP"),
    // Names: an object has one, and nothing else is there. Where there are names for keys, a link to
    // anything else is no valid one.
    ("mkdir", "EPERM"),
    ("rmdir", "ENOTDIR"),
    ("link", "EPERM"),
    ("symlink", "EPERM EINVAL"),
    ("device", "EPERM"),
    ("bind", "EPERM"),
    ("exchange", "EINVAL"),
    ("whiteout", "EINVAL"),
    ("rename-out", "EPERM"),
    ("exec", "EACCES"),
    ("chroot", "ENOTDIR"),
    ("O_DIRECTORY", "ENOTDIR"),
    ("O_TMPFILE", "ENOTDIR"),
    ("open", "ok"),
    // Mapped is shared memory alone. A private mapping of another file the kernel makes without
    // asking; there is nothing in it.
    ("mmap-shared", "ENODEV EACCES ok"),
    ("mmap-private", "ENODEV EACCES ok"),
    ("mapped", "BUS ok"),
    // Locks on the file are the kernel's own affair and work; leases on what is no pipe as well.
    ("flock", "ok"),
    ("fcntl-lock", "ok"),
    ("lease", "ok EINVAL EAGAIN"),
    // Room is for shared memory; ESPIPE is a pipe's, EBADF that of a file that is read alone.
    ("fallocate", "EOPNOTSUPP ESPIPE EBADF ok"),
    ("punch", "EOPNOTSUPP ESPIPE EBADF ok"),
    // From one file system to another the kernel does not copy; within this one it reads and
    // writes (splice), which for messages is one or none.
    ("copy-from", "EXDEV EINVAL EBADF"),
    ("copy-to", "EXDEV EINVAL EBADF"),
    ("copy-itself", "ok EINVAL EBADF EAGAIN"),
    ("clone", "EXDEV"),
    ("splice-from", "ok EINVAL EAGAIN EBADF"),
    ("splice-to", "ok EINVAL EBADF EAGAIN"),
    ("sendfile", "ok EINVAL EBADF EAGAIN"),
    ("readahead", "ok EINVAL EBADF"),
    ("fadvise", "ok ESPIPE"),
    ("fsync", "ok EINVAL"),
    ("sync_file_range", "ok ESPIPE"),
    // No terminal, no flags of a disk's file.
    ("TCGETS", "ENOTTY"),
    ("GETFLAGS", "ENOTTY EACCES"),
    ("connect", "ENOTSOCK"),
    // Nothing is cached in any case.
    ("O_DIRECT", "ok EINVAL"),
];

/// Of shared memory alone.
const ITS_OWN: [&str; 3] = ["mmap-shared", "fallocate", "punch"];

#[test]
fn what_makes_no_sense_is_refused_at_once_on_every_file() {
    let world = World::new();
    world.run(
        "touch mq/o shm/o sysv/msg/1 sysv/shm/1; echo content > shm/o; mkfifo fifo/o
         echo 100 > sem/o; echo '= 100' > sysv/sem/1; printf content > sysv/shm/1",
    );
    let before = world.run("ls -AR .");
    let files = world.run(
        "find mq shm sem fifo sysv ctl -not -type d
         echo ctl/mq/o/priority/7 ctl/sysv/msg/1/type/-7 ctl/sysv/msg/1/except/7 | tr ' ' '\\n'",
    );
    let files: Vec<_> = files.lines().collect();
    assert!(files.len() > 60, "{files:?}");
    for line in world.c("meaningless", &files).lines() {
        let (file, outcomes) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
        let shared = ["shm/o", "sysv/shm/0x00000001"].contains(&file);
        for outcome in outcomes.split(' ') {
            let (operation, outcome) = outcome.split_once('=').unwrap();
            let (_, expected) = TABLE
                .into_iter()
                .find(|(known, _)| *known == operation)
                .unwrap_or_else(|| panic!("{operation}"));
            let mut expected = expected.split(' ');
            let as_expected = expected.any(|expected| expected == outcome);
            let stolen = ITS_OWN.contains(&operation) && outcome == "ok" && !shared;
            assert!(as_expected && !stolen, "{file}: {operation}: {outcome}");
        }
    }
    assert_eq!(world.run("ls -AR ."), before);
    assert_eq!(world.run("cat sem/o; echo works > mq/o; truncate -s 0 mq/o"), "100\n");
    assert_eq!(world.run("cut -f4 ctl/errors | grep -c EIO; :"), "0\n");
}
