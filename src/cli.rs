//! The command line: `ipcfs [options] [SOURCE] MOUNTPOINT`.

use std::path::{Path, PathBuf};

use clap::Parser;
use fuser::MountOption;

use crate::kind::{Namespace, Options};
use crate::number;
use crate::quota::Limits;

/// Mounts every IPC mechanism of the running kernel as files.
///
/// The files are the kernel's own objects: POSIX message queues, shared memory and semaphores, named
/// pipes, System V queues, semaphore sets and segments. The daemon stays in the background; it ends
/// with `umount MOUNTPOINT`, `fusermount3 -u MOUNTPOINT` or SIGTERM. Run by root the tree is for
/// everybody, run by a user it is theirs.
#[derive(Clone, Debug, Parser)]
#[command(name = "ipcfs", version, max_term_width = 100)]
#[command(override_usage = "ipcfs [OPTIONS] [SOURCE] MOUNTPOINT
       ipcfs --check [OPTIONS] [MOUNTPOINT]")]
pub struct Arguments {
    /// Stay in the foreground
    #[arg(short, long)]
    pub foreground: bool,

    /// Log every request to standard error; implies -f
    #[arg(short, long)]
    pub debug: bool,

    /// Tell what this machine allows, one line each, and what to do about what is missing; exit
    /// status 0 if a mount would work, which is tried
    #[arg(long)]
    pub check: bool,

    #[arg(
        short = 'o',
        value_name = "OPTIONS",
        value_parser = MountOptions::parse,
        help = "Mount options, separated by commas: allow_other, ro, mq_maxmsg=N, mq_msgsize=N, \
                fifo_dir=PATH, link_dir=PATH, max_handles=N, max_blocked=N, no_passthrough, and \
                what mount(8) passes on"
    )]
    options: Vec<MountOptions>,

    /// What mount(8) hands to `mount.ipcfs` besides (`-n`, `-s`, `-v`); nothing follows from it
    #[arg(short = 'n', short_aliases = ['s', 'v'], hide = true, action = clap::ArgAction::Count)]
    _from_mount: u8,

    /// Mount the objects of another IPC namespace, a container's say: of the process PID, or by
    /// the path of the namespace's file
    #[arg(long, value_name = "PID|PATH")]
    ipc_ns: Option<String>,

    /// What to show as the mount's source ("ipcfs" by default), and where to mount
    #[arg(
        value_name = "MOUNTPOINT",
        required_unless_present = "check",
        num_args = 1..=2,
        value_hint = clap::ValueHint::DirPath
    )]
    places: Vec<PathBuf>,
}

impl Arguments {
    /// Where to mount; none may be given with `--check`.
    pub fn mountpoint(&self) -> Option<&Path> {
        self.places.last().map(PathBuf::as_path)
    }

    /// What `findmnt` is to show as the source.
    pub fn source(&self) -> String {
        match self.places.as_slice() {
            [source, _] => source.to_string_lossy().into_owned(),
            _ => "ipcfs".into(),
        }
    }

    /// All `-o` together.
    pub fn mount_options(&self) -> MountOptions {
        let mut all = MountOptions::default();
        for options in self.options.iter().cloned() {
            all.add(options);
        }
        all.kinds.namespace = self.ipc_ns.as_deref().map(Namespace::new);
        all
    }
}

/// What `-o` said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// For the kernel.
    pub flags: Vec<MountOption>,
    /// Whether others may see the tree; root's is for everybody anyhow.
    pub allow_other: bool,
    /// Whether shared memory is to be forwarded by the daemon even where the kernel could pass it
    /// through.
    pub no_passthrough: bool,
    /// What one user may take of the daemon.
    pub limits: Limits,
    /// For the kinds.
    pub kinds: Options,
}

/// Options that mean something to mount(8) or that ipcfs does in any case.
const IGNORED: &[&str] = &[
    "rw",
    "defaults",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "nousers",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "silent",
    "loud",
    "mand",
    "nomand",
    "diratime",
    "nodiratime",
    "dev",
    "suid",
    "nodev",
    "nosuid",
    "default_permissions",
    "auto_unmount",
];

impl MountOptions {
    fn add(&mut self, other: Self) {
        self.flags.extend(other.flags);
        self.allow_other |= other.allow_other;
        self.no_passthrough |= other.no_passthrough;
        self.limits.max_handles = other.limits.max_handles.or(self.limits.max_handles);
        self.limits.max_blocked = other.limits.max_blocked.or(self.limits.max_blocked);
        self.kinds.mq_maxmsg = other.kinds.mq_maxmsg.or(self.kinds.mq_maxmsg);
        self.kinds.mq_msgsize = other.kinds.mq_msgsize.or(self.kinds.mq_msgsize);
        self.kinds.link_dir = other.kinds.link_dir.or(self.kinds.link_dir.take());
        self.kinds.fifo_dir = other.kinds.fifo_dir.or(self.kinds.fifo_dir.take());
    }

    /// Understands `a,b=c`; the error is a sentence that names the option.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            match (name, value) {
                ("allow_other", None) => options.allow_other = true,
                ("no_passthrough", None) => options.no_passthrough = true,
                ("ro", None) => options.flags.push(MountOption::RO),
                ("exec", None) => options.flags.push(MountOption::Exec),
                ("noexec", None) => options.flags.push(MountOption::NoExec),
                ("atime", None) => options.flags.push(MountOption::Atime),
                ("noatime", None) => options.flags.push(MountOption::NoAtime),
                ("sync", None) => options.flags.push(MountOption::Sync),
                ("async", None) => options.flags.push(MountOption::Async),
                ("dirsync", None) => options.flags.push(MountOption::DirSync),
                ("max_handles", Some(value)) => {
                    options.limits.max_handles = Some(count(name, value)? as usize);
                }
                ("max_blocked", Some(value)) => {
                    options.limits.max_blocked = Some(count(name, value)? as usize);
                }
                ("mq_maxmsg", Some(value)) => {
                    options.kinds.mq_maxmsg = Some(count(name, value)?);
                }
                ("mq_msgsize", Some(value)) => {
                    options.kinds.mq_msgsize = Some(count(name, value)?);
                }
                ("link_dir", Some(value)) => {
                    let path =
                        std::path::absolute(value).map_err(|error| format!("{word}: {error}"))?;
                    options.kinds.link_dir = Some(path);
                }
                ("fifo_dir", Some(value)) => {
                    // In the background the daemon's current directory is the root.
                    let path = std::path::absolute(value).map_err(|error| {
                        format!("mount option fifo_dir: \"{value}\" is no path: {error}")
                    })?;
                    options.kinds.fifo_dir = Some(path);
                }
                ("remount", None) => {
                    return Err("remounting is not possible; umount it and mount it again".into());
                }
                ("fsname" | "subtype" | "comment", Some(_)) => {}
                (name, _) if name.starts_with("x-") || name.starts_with("X-") => {}
                (name, None) if IGNORED.contains(&name) => {}
                _ => {
                    return Err(format!(
                        "unknown mount option \"{word}\"; ipcfs --help lists them"
                    ));
                }
            }
        }
        Ok(options)
    }
}

fn count(name: &str, value: &str) -> Result<i64, String> {
    match number::decimal(value).map(i64::try_from) {
        Some(Ok(count @ 1..)) => Ok(count),
        _ => Err(format!("mount option {name}: \"{value}\" is not a number above 0")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_last_of_one_or_two_places_is_the_mountpoint() {
        let one = Arguments::try_parse_from(["ipcfs", "/mnt/ipc"]).unwrap();
        let mountpoint = Some(Path::new("/mnt/ipc"));
        assert_eq!((one.source().as_str(), one.mountpoint()), ("ipcfs", mountpoint));
        let two = Arguments::try_parse_from(["ipcfs", "src", "/mnt/ipc"]).unwrap();
        assert_eq!((two.source().as_str(), two.mountpoint()), ("src", mountpoint));
        let helper = ["mount.ipcfs", "src", "/mnt/ipc", "-nv", "-s", "-o", "rw"];
        assert_eq!(Arguments::try_parse_from(helper).unwrap().mountpoint(), two.mountpoint());
        assert!(Arguments::try_parse_from(["ipcfs"]).is_err());
        assert!(Arguments::try_parse_from(["ipcfs", "--check"]).unwrap().mountpoint().is_none());
        assert!(Arguments::try_parse_from(["ipcfs", "a", "b", "c"]).is_err());
    }

    #[test]
    fn options_are_taken_as_mount_hands_them() {
        let text = "rw,noexec,allow_other,mq_maxmsg=20,x-systemd.automount,_netdev,nofail";
        let options = MountOptions::parse(text).unwrap();
        assert!(options.allow_other);
        assert_eq!(options.flags, [MountOption::NoExec]);
        assert_eq!(options.kinds.mq_maxmsg, Some(20));
    }

    #[test]
    fn unknown_and_malformed_options_are_named() {
        assert!(MountOptions::parse("frobnicate").unwrap_err().contains("\"frobnicate\""));
        assert!(MountOptions::parse("mq_maxmsg=x").unwrap_err().contains("mq_maxmsg"));
        assert!(MountOptions::parse("mq_maxmsg=0").is_err());
        assert!(MountOptions::parse("mq_maxmsg").is_err());
        assert!(MountOptions::parse("fifo_dir=").unwrap_err().contains("fifo_dir"));
        assert!(MountOptions::parse("remount,ro").unwrap_err().contains("umount"));
    }

    /// An option, and what it says.
    fn option() -> impl Strategy<Value = (String, MountOptions)> {
        let none = MountOptions::default;
        let flag = |flag| MountOptions { flags: vec![flag], ..none() };
        let kinds = move |kinds| MountOptions { kinds, ..none() };
        let limits = move |limits| MountOptions { limits, ..none() };
        let simple = vec![
            ("allow_other", MountOptions { allow_other: true, ..none() }),
            ("no_passthrough", MountOptions { no_passthrough: true, ..none() }),
            ("ro", flag(MountOption::RO)),
            ("exec", flag(MountOption::Exec)),
            ("noexec", flag(MountOption::NoExec)),
            ("atime", flag(MountOption::Atime)),
            ("noatime", flag(MountOption::NoAtime)),
            ("sync", flag(MountOption::Sync)),
            ("async", flag(MountOption::Async)),
            ("dirsync", flag(MountOption::DirSync)),
            ("fsname=ipcfs#a=b", none()),
            ("x-systemd.requires=a", none()),
            ("", none()),
        ];
        let ignored = IGNORED.iter().map(|name| (*name, none()));
        let simple = simple.into_iter().chain(ignored).collect::<Vec<_>>();
        let number = prop_oneof![1..9_i64, 1..=i64::MAX];
        let path = "/[a-z=: ]{1,9}";
        prop_oneof![
            prop::sample::select(simple).prop_map(|(text, options)| (text.to_owned(), options)),
            (0..4, number).prop_map(move |(which, number)| {
                let (some, size) = (Some(number), Some(number as usize));
                let (name, options) = match which {
                    0 => ("mq_maxmsg", kinds(Options { mq_maxmsg: some, ..Options::default() })),
                    1 => ("mq_msgsize", kinds(Options { mq_msgsize: some, ..Options::default() })),
                    2 => ("max_handles", limits(Limits { max_handles: size, ..Limits::default() })),
                    _ => ("max_blocked", limits(Limits { max_blocked: size, ..Limits::default() })),
                };
                (format!("{name}={number}"), options)
            }),
            (any::<bool>(), path).prop_map(move |(links, path)| {
                let place = Some(PathBuf::from(&path));
                let (name, options) = match links {
                    true => ("link_dir", Options { link_dir: place, ..Options::default() }),
                    false => ("fifo_dir", Options { fifo_dir: place, ..Options::default() }),
                };
                (format!("{name}={path}"), kinds(options))
            }),
        ]
    }

    proptest! {
        #[test]
        fn all_options_hold_and_of_the_same_the_last(options in vec(option(), 1..9), cut: prop::sample::Index) {
            let (words, each): (Vec<_>, Vec<_>) = options.into_iter().unzip();
            let mut all = MountOptions::default();
            each.into_iter().for_each(|one| all.add(one));
            let together = MountOptions::parse(&words.join(","));
            prop_assert_eq!(together.as_ref(), Ok(&all));
            // However many `-o` they are given by.
            let (first, second) = words.split_at(cut.index(words.len()));
            let (first, second) = (first.join(","), second.join(","));
            let command = ["ipcfs", "-o", &first, "-o", &second, "/mnt"];
            prop_assert_eq!(Arguments::try_parse_from(command).unwrap().mount_options(), all);
        }

        #[test]
        fn an_option_that_says_nothing_is_refused_by_its_name(
            options in vec(option(), 0..4), place: prop::sample::Index,
            wrong in "(mq_maxmsg|max_blocked)(=[+-]?[a-z]|=0|=\\+[1-9]|=-[1-9]|=[1-9][0-9]{19}|=)?|(ro|allow_other|remount)=[a-z]{0,3}|[A-WYZ][a-z]{0,5}(=1)?",
        ) {
            let mut words: Vec<_> = options.into_iter().map(|(word, _)| word).collect();
            words.insert(place.index(words.len() + 1), wrong.clone());
            let sentence = MountOptions::parse(&words.join(",")).unwrap_err();
            let name = wrong.split('=').next().unwrap();
            prop_assert!(sentence.contains(name), "{sentence}");
        }

        #[test]
        fn any_text_is_understood_or_refused(text in "\\PC{0,20}", values in "[a-z_,=0-9/]{0,20}") {
            let _ = (MountOptions::parse(&text), MountOptions::parse(&values), Namespace::new(&text));
        }
    }
}
