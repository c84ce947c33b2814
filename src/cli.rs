//! The command line: `ipcfs [options] [SOURCE] MOUNTPOINT`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Parser;
use fuser::MountOption;

use crate::kind::{Namespace, Options};
use crate::number;
use crate::quota::Limits;

/// Mounts IPC objects as files.
///
/// The files are the kernel's own objects: POSIX message queues, shared memory and semaphores, named
/// pipes, System V queues, semaphore sets and segments. The daemon stays in the background; it ends
/// with `umount MOUNTPOINT`, `fusermount3 -u MOUNTPOINT`, SIGTERM, SIGINT or SIGHUP. Run by root the
/// tree is for everybody, run by a user it is theirs.
#[derive(Clone, Debug, Parser)]
#[command(name = "ipcfs", version, max_term_width = 100, about = "mounts IPC objects as files")]
#[command(override_usage = "ipcfs [OPTIONS] [SOURCE] MOUNTPOINT
       ipcfs --check [OPTIONS] [MOUNTPOINT]")]
pub struct Arguments {
    /// Stay in the foreground; as `mount.ipcfs`: look at the command line, mount nothing
    #[arg(short, long)]
    foreground: bool,

    /// Log every request to standard error, unless `RUST_LOG` says what to log; implies -f
    #[arg(short, long)]
    pub debug: bool,

    /// Tell what this machine allows, one line each, and what to do about what is missing; exit
    /// status 0 if a mount would work, which is tried
    #[arg(long)]
    pub check: bool,

    #[arg(
        short = 'o',
        value_name = "OPTIONS",
        help = "Mount options, separated by commas: allow_other, ro, mq_maxmsg=N, mq_msgsize=N, \
                fifo_dir=PATH, link_dir=PATH, max_handles=N, max_blocked=N, no_passthrough, and \
                what mount(8) passes on"
    )]
    options: Vec<OsString>,

    /// What mount(8) hands to `mount.ipcfs` besides (`-n`, `-s`, `-v`); nothing follows from it
    #[arg(short = 'n', short_aliases = ['s', 'v'], hide = true, action = clap::ArgAction::Count)]
    _from_mount: u8,

    /// The type that mount(8) hands to `mount.ipcfs`
    #[arg(short = 't', value_name = "TYPE", hide = true)]
    _type: Option<OsString>,

    /// The mount namespace that mount(8) hands to `mount.ipcfs`, by a process or a path
    #[arg(short = 'N', value_name = "NAMESPACE", hide = true)]
    mount_namespace: Option<OsString>,

    /// Mount the objects of another IPC namespace, a container's say: of the process PID, or by
    /// the path of the namespace's file
    #[arg(long, value_name = "PID|PATH", value_hint = clap::ValueHint::FilePath)]
    ipc_ns: Option<OsString>,

    /// SOURCE is what findmnt(8) and df(1) show for the mount, "ipcfs" unless it is given;
    /// MOUNTPOINT is the directory to mount on
    #[arg(
        value_name = "MOUNTPOINT",
        required_unless_present = "check",
        num_args = 1..=2,
        value_hint = clap::ValueHint::DirPath
    )]
    places: Vec<PathBuf>,

    /// The name by which the command has been called.
    #[arg(skip = PathBuf::from(std::env::args_os().next().unwrap_or_default()))]
    called: PathBuf,
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

    /// Whether it is mount(8) that calls, by the name that it gives a helper.
    fn is_helper(&self) -> bool {
        self.called.file_name().is_some_and(|name| name.as_bytes().starts_with(b"mount."))
    }

    /// Whether the daemon is not to go to the background.
    pub fn stays_in_foreground(&self) -> bool {
        self.debug || (self.foreground && !self.is_helper())
    }

    /// Whether nothing is to be mounted: `mount -f` calls its helper with that `-f` (mount(8)).
    pub fn is_fake(&self) -> bool {
        self.foreground && self.is_helper()
    }

    /// The mount namespace that mount(8) wants the mount in.
    pub fn mount_namespace(&self) -> Option<PathBuf> {
        self.mount_namespace.as_ref().map(|given| {
            let process = given.to_str().and_then(|text| text.parse::<u32>().ok());
            process.map_or_else(|| given.into(), |pid| format!("/proc/{pid}/ns/mnt").into())
        })
    }

    /// All `-o` together; the error is a sentence.
    pub fn mount_options(&self) -> Result<MountOptions, String> {
        let mut all = MountOptions::default();
        for options in &self.options {
            all.add(MountOptions::parse(options)?);
        }
        all.kinds.namespace = self.ipc_ns.as_ref().map(Namespace::new);
        Ok(all)
    }
}

/// What `-o` said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// For the kernel; of two that contradict each other the last one.
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

/// The mount options that are ipcfs's own, those with a value with the `=`.
pub const MOUNT_OPTIONS: [&str; 9] = [
    "allow_other",
    "ro",
    "mq_maxmsg=",
    "mq_msgsize=",
    "fifo_dir=",
    "link_dir=",
    "max_handles=",
    "max_blocked=",
    "no_passthrough",
];

/// Options that mean something to mount(8) or that ipcfs does in any case, or that say nothing to a
/// file system without inodes of its own. As to `nosymfollow`: the only links there are lead from a
/// name to a key in the same directory.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
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
    "iversion",
    "noiversion",
    "symfollow",
    "nosymfollow",
    "dev",
    "suid",
    "nodev",
    "nosuid",
    "default_permissions",
    "auto_unmount",
];

/// Options with a value of which the same is true. Security labels are those of what a
/// file system stores, which this one does not.
const IGNORED_VALUES: &[&str] =
    &["fsname", "subtype", "comment", "user", "context", "fscontext", "defcontext", "rootcontext"];

/// What is passed to the kernel, in pairs of which the last one given counts.
const FLAGS: &[(&str, MountOption)] = &[
    ("ro", MountOption::RO),
    ("rw", MountOption::RW),
    ("exec", MountOption::Exec),
    ("noexec", MountOption::NoExec),
    ("atime", MountOption::Atime),
    ("noatime", MountOption::NoAtime),
    ("sync", MountOption::Sync),
    ("async", MountOption::Async),
    ("dirsync", MountOption::DirSync),
];

impl MountOptions {
    fn add(&mut self, other: Self) {
        other.flags.into_iter().for_each(|flag| self.set(flag));
        self.allow_other |= other.allow_other;
        self.no_passthrough |= other.no_passthrough;
        self.limits.max_handles = other.limits.max_handles.or(self.limits.max_handles);
        self.limits.max_blocked = other.limits.max_blocked.or(self.limits.max_blocked);
        self.kinds.mq_maxmsg = other.kinds.mq_maxmsg.or(self.kinds.mq_maxmsg);
        self.kinds.mq_msgsize = other.kinds.mq_msgsize.or(self.kinds.mq_msgsize);
        self.kinds.link_dir = other.kinds.link_dir.or(self.kinds.link_dir.take());
        self.kinds.fifo_dir = other.kinds.fifo_dir.or(self.kinds.fifo_dir.take());
    }

    fn set(&mut self, flag: MountOption) {
        let pair = |flag: &MountOption| {
            FLAGS.iter().position(|(_, known)| known == flag).map(|place| place / 2)
        };
        self.flags.retain(|other| pair(other) != pair(&flag));
        self.flags.push(flag);
    }

    /// Understands `a,b=c`; the error is a sentence that names the option.
    pub fn parse(text: impl AsRef<OsStr>) -> Result<Self, String> {
        let mut options = Self::default();
        for word in words(text.as_ref().as_bytes()) {
            let equals = word.iter().position(|byte| *byte == b'=');
            let (name, value) = match equals {
                Some(place) => (&word[..place], Some(OsStr::from_bytes(&word[place + 1..]))),
                None => (&*word, None),
            };
            let name = String::from_utf8_lossy(name);
            options.understand(&name, value)?;
        }
        Ok(options)
    }

    fn understand(&mut self, name: &str, value: Option<&OsStr>) -> Result<(), String> {
        if let Some((_, flag)) = FLAGS.iter().find(|(known, _)| *known == name) {
            without(name, value)?;
            self.set(flag.clone());
            return Ok(());
        }
        match name {
            "allow_other" => {
                without(name, value)?;
                self.allow_other = true;
            }
            "no_passthrough" => {
                without(name, value)?;
                self.no_passthrough = true;
            }
            "max_handles" => self.limits.max_handles = Some(count(name, value)? as usize),
            "max_blocked" => self.limits.max_blocked = Some(count(name, value)? as usize),
            "mq_maxmsg" => self.kinds.mq_maxmsg = Some(count(name, value)?),
            "mq_msgsize" => self.kinds.mq_msgsize = Some(count(name, value)?),
            "link_dir" => self.kinds.link_dir = Some(directory(name, value)?),
            "fifo_dir" => self.kinds.fifo_dir = Some(directory(name, value)?),
            "remount" => {
                return Err(
                    "mount option remount: remounting is not possible; umount it and mount \
                            it again"
                        .into(),
                );
            }
            _ if name.starts_with("x-") || name.starts_with("X-") => {}
            _ if value.is_some() && IGNORED_VALUES.contains(&name) => {}
            _ if IGNORED.contains(&name) => without(name, value)?,
            _ => return Err(format!("unknown mount option \"{name}\"; ipcfs --help lists them")),
        }
        Ok(())
    }
}

/// The options of a list. A comma parts them unless it is in a value that begins with a quotation
/// mark and goes on to the next, as mount(8) has it for security labels.
fn words(text: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut word = Vec::new();
    let mut quoted = false;
    for byte in text {
        match byte {
            b'"' if quoted || word.last() == Some(&b'=') => quoted = !quoted,
            b',' if !quoted => all.push(std::mem::take(&mut word)),
            byte => word.push(*byte),
        }
    }
    all.push(word);
    all.retain(|word| !word.is_empty());
    all
}

fn without(name: &str, value: Option<&OsStr>) -> Result<(), String> {
    match value {
        None => Ok(()),
        Some(value) => {
            Err(format!("mount option {name} takes no value; it has {value:?}, leave that out"))
        }
    }
}

fn count(name: &str, value: Option<&OsStr>) -> Result<i64, String> {
    let Some(value) = value else {
        return Err(format!("mount option \"{name}\" wants a value: {name}=N"));
    };
    match value.to_str().and_then(number::decimal).map(i64::try_from) {
        Some(Ok(count @ 1..)) => Ok(count),
        _ => Err(format!("mount option {name}: {value:?} is not a number above 0")),
    }
}

fn directory(name: &str, value: Option<&OsStr>) -> Result<PathBuf, String> {
    let Some(value) = value else {
        return Err(format!("mount option \"{name}\" wants a value: {name}=PATH"));
    };
    // In the background the daemon's current directory is the root.
    std::path::absolute(value)
        .map_err(|error| format!("mount option {name}: {value:?} is no path: {error}"))
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
        assert_eq!(options.flags, [MountOption::RW, MountOption::NoExec]);
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
        assert!(MountOptions::parse("mq_maxmsg").unwrap_err().contains("mq_maxmsg=N"));
        assert!(MountOptions::parse("ro=1").unwrap_err().contains("ro takes no value"));
        assert!(MountOptions::parse("defaults=x").unwrap_err().contains("takes no value"));
    }

    #[test]
    fn the_help_lists_the_mount_options() {
        let help = Arguments::command().render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let listed = help.split("commas: ").nth(1).unwrap().split(", and what").next().unwrap();
        let names =
            |option: &str| option.trim_end_matches(|end: char| end.is_uppercase()).to_owned();
        assert_eq!(listed.split(", ").map(names).collect::<Vec<_>>(), MOUNT_OPTIONS);
    }

    #[test]
    fn of_opposites_the_last_one_counts() {
        let flags = |text| MountOptions::parse(text).unwrap().flags;
        assert_eq!(flags("ro,rw"), [MountOption::RW]);
        assert_eq!(
            flags("noexec,exec,noatime,atime,noatime,sync,dirsync,async"),
            [MountOption::Exec, MountOption::NoAtime, MountOption::DirSync, MountOption::Async]
        );
    }

    #[test]
    fn names_are_bytes() {
        let path = OsStr::from_bytes(b"fifo_dir=/run/\xff,ro");
        let options = MountOptions::parse(path).unwrap();
        assert_eq!(options.kinds.fifo_dir, Some(OsStr::from_bytes(b"/run/\xff").into()));
        let namespace = OsStr::from_bytes(b"/run/\xff");
        let command = [OsStr::new("ipcfs"), "--ipc-ns".as_ref(), namespace, "/mnt".as_ref()];
        let options = Arguments::try_parse_from(command).unwrap().mount_options().unwrap();
        assert_eq!(options.kinds.namespace.unwrap().file, namespace);
        let quoted = MountOptions::parse("fifo_dir=\"/a,b\",ro").unwrap();
        assert_eq!(quoted.kinds.fifo_dir, Some("/a,b".into()));
    }

    #[test]
    fn for_mount_it_is_a_helper() {
        let helper =
            ["mount.ipcfs", "ipcfs", "/mnt", "-sfnv", "-N", "12", "-o", "rw", "-t", "ipcfs"];
        let mut arguments = Arguments::try_parse_from(helper).unwrap();
        assert_eq!(arguments.mount_namespace(), Some("/proc/12/ns/mnt".into()));
        for (called, helper) in [("/sbin/mount.ipcfs", true), ("/bin/ipcfs", false), ("", false)] {
            arguments.called = called.into();
            assert_eq!((arguments.is_fake(), arguments.stays_in_foreground()), (helper, !helper));
        }
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
            ("rw", flag(MountOption::RW)),
            ("context=\"system_u:object_r:tmp_t:s0:c127,c456\"", none()),
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
            let together = MountOptions::parse(words.join(","));
            prop_assert_eq!(together.as_ref(), Ok(&all));
            // However many `-o` they are given by.
            let (first, second) = words.split_at(cut.index(words.len()));
            let (first, second) = (first.join(","), second.join(","));
            let command = ["ipcfs", "-o", &first, "-o", &second, "/mnt"];
            prop_assert_eq!(Arguments::try_parse_from(command).unwrap().mount_options(), Ok(all));
        }

        #[test]
        fn an_option_that_says_nothing_is_refused_by_its_name(
            options in vec(option(), 0..4), place: prop::sample::Index,
            wrong in "(mq_maxmsg|max_blocked)(=[+-]?[a-z]|=0|=\\+[1-9]|=-[1-9]|=[1-9][0-9]{19}|=)?|(ro|allow_other|remount)=[a-z]{0,3}|[A-WYZ][a-z]{0,5}(=1)?",
        ) {
            let mut words: Vec<_> = options.into_iter().map(|(word, _)| word).collect();
            words.insert(place.index(words.len() + 1), wrong.clone());
            let sentence = MountOptions::parse(words.join(",")).unwrap_err();
            let name = wrong.split('=').next().unwrap();
            prop_assert!(sentence.contains(name), "{sentence}");
        }

        #[test]
        fn any_text_is_understood_or_refused(text in "\\PC{0,20}", values in "[a-z_,=0-9/]{0,20}") {
            let _ = (MountOptions::parse(&text), MountOptions::parse(&values), Namespace::new(&text));
        }
    }
}
