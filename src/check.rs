//! `ipcfs --check`: what this machine allows, and whether a mount would work.
//!
//! Everything is asked of the code that the daemon itself goes by, and tried out rather than
//! concluded from versions: a mount is made and taken away again, by root in a mount namespace of
//! its own. Like a mount it makes the state directories where they are missing.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, pipe};

use crate::caller::{self, Caller};
use crate::cli::MountOptions;
use crate::ctl::limits;
use crate::daemon::{self, Complaint, Mounted, Prepared, sys};
use crate::error::Error;
use crate::kind::{KINDS, Limit};

/// Where the administrator says what users may do.
const FUSE_CONF: &str = "/etc/fuse.conf";

/// How things stand with one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Ok,
    /// Missing; a mount works without.
    No,
    /// A limit that is nearly reached.
    Low,
    /// Missing, and without it there is no mount.
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::No => "no",
            Self::Low => "low",
            Self::Fail => "FAIL",
        })
    }
}

/// What has been found, a line for each point.
#[derive(Default)]
struct Findings(Vec<(String, Verdict, String)>);

impl Findings {
    fn add(&mut self, point: impl Into<String>, verdict: Verdict, text: impl Into<String>) {
        // What the system says may have line breaks.
        let text: String = text.into();
        self.0.push((point.into(), verdict, text.replace('\n', " ")));
    }

    fn works(&self) -> bool {
        self.0.iter().all(|(_, verdict, _)| *verdict != Verdict::Fail)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(point, ..)| point.len()).max().unwrap_or(0);
        for (point, verdict, text) in &self.0 {
            writeln!(f, "{point:width$}  {verdict:4}  {text}")?;
        }
        writeln!(f, "\nA mount would {}.", if self.works() { "work" } else { "not work" })
    }
}

/// The command; exit status 0 if a mount would work, 1 if not.
pub(crate) fn run(mountpoint: Option<&Path>, source: String, options: &MountOptions) -> ExitCode {
    nix::sys::stat::umask(Mode::empty());
    // What the daemon would warn of is said here in lines.
    log::set_max_level(log::LevelFilter::Off);
    let mut findings = Findings::default();
    fuse(&mut findings);
    mounting(&mut findings, mountpoint, source, options);
    match daemon::patience() {
        Some((_, sentence)) => findings.add("request timeout", Verdict::No, sentence),
        None => findings.add("request timeout", Verdict::Ok, "the kernel lets requests wait"),
    }
    objects(&mut findings, options);
    let printed = write!(std::io::stdout(), "{findings}");
    match printed {
        Ok(()) if findings.works() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// The kernel, the device, and what users need.
fn fuse(findings: &mut Findings) {
    if let Ok(system) = nix::sys::utsname::uname() {
        let release = system.release().to_string_lossy();
        findings.add("kernel", Verdict::Ok, format!("Linux {release}"));
    }
    match daemon::check_device() {
        Ok(()) => findings.add("/dev/fuse", Verdict::Ok, "can be opened"),
        Err(complaint) => findings.add("/dev/fuse", Verdict::Fail, complaint),
    }
    let absent = if caller::privileged() { Verdict::No } else { Verdict::Fail };
    match daemon::check_fusermount() {
        Ok(path) => findings.add("fusermount3", Verdict::Ok, path.display().to_string()),
        Err(complaint) => findings.add("fusermount3", absent, complaint),
    }
    let conf = std::fs::read_to_string(FUSE_CONF).unwrap_or_default();
    if conf.lines().any(|line| line.trim() == "user_allow_other") {
        let text = format!("users may give it, since {FUSE_CONF} has user_allow_other");
        findings.add("allow_other", Verdict::Ok, text);
    } else {
        let text = format!(
            "root alone may give it; for users, as root: echo user_allow_other >> {FUSE_CONF}"
        );
        findings.add("allow_other", Verdict::No, text);
    }
}

/// Mounts, and unmounts.
fn mounting(
    findings: &mut Findings,
    mountpoint: Option<&Path>,
    source: String,
    options: &MountOptions,
) {
    let scratch = match mountpoint {
        Some(_) => None,
        None => match nix::unistd::mkdtemp(&std::env::temp_dir().join("ipcfs-check-XXXXXX")) {
            Ok(path) => Some(path),
            Err(errno) => {
                let text = format!(
                    "there is no directory to try it on ({}: {}); give a MOUNTPOINT",
                    std::env::temp_dir().display(),
                    errno.desc()
                );
                return findings.add("mount", Verdict::Fail, text);
            }
        },
    };
    let place: PathBuf = mountpoint.or(scratch.as_deref()).unwrap_or(Path::new("")).into();
    match trial(&place, source, options) {
        Err(complaint) => findings.add("mount", Verdict::Fail, complaint),
        Ok(passthrough) => {
            let place = mountpoint.map_or("a directory of its own".into(), Path::to_string_lossy);
            findings.add("mount", Verdict::Ok, format!("tried on {place}"));
            match passthrough {
                Ok(()) => findings.add("passthrough", Verdict::Ok, "shared memory at native speed"),
                Err(why) => {
                    let text = format!(
                        "the daemon moves the data of shared memory, and mmap with MAP_SHARED is \
                         refused: {why}"
                    );
                    findings.add("passthrough", Verdict::No, text);
                }
            }
        }
    }
    if let Some(scratch) = scratch {
        let _ = std::fs::remove_dir(scratch);
    }
}

/// Mounts in a child process as the daemon does, and unmounts. The inner result is that of
/// passthrough.
fn trial(
    place: &Path,
    source: String,
    options: &MountOptions,
) -> Result<Result<(), Complaint>, Complaint> {
    let none = |errno: nix::Error| format!("it cannot be tried: {}", errno.desc());
    let (reader, writer) = pipe().map_err(none)?;
    match sys::fork().map_err(none)? {
        ForkResult::Child => {
            drop(reader);
            attempt(place, source, options.clone(), writer);
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut told = Vec::new();
            let _ = File::from(reader).read_to_end(&mut told);
            let _ = nix::sys::wait::waitpid(child, None);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            match told.as_slice() {
                [MOUNTED] => Ok(Ok(())),
                [MOUNTED, why @ ..] => Ok(Err(text(why))),
                [NOT_MOUNTED, why @ ..] => Err(text(why)),
                _ => {
                    Err("the process that tried it has died; ipcfs -d shows how far it gets".into())
                }
            }
        }
    }
}

/// The first byte of what the child tells; a reason may follow.
const MOUNTED: u8 = b'+';
const NOT_MOUNTED: u8 = b'-';

/// The child.
fn attempt(place: &Path, source: String, options: MountOptions, tell: OwnedFd) -> ! {
    let mut tell = File::from(tell);
    let mut say = |word: u8, why: &str| {
        let _ = tell.write_all(&[&[word], why.as_bytes()].concat());
    };
    match mounted(place, source, options) {
        Err(complaint) => say(NOT_MOUNTED, &complaint),
        Ok((place, mounted)) => {
            match &mounted.passthrough {
                Ok(()) => say(MOUNTED, ""),
                Err(error) => say(MOUNTED, &reason(error)),
            }
            if daemon::unmount(&place, false).is_err() {
                let _ = daemon::unmount(&place, true);
            }
        }
    }
    // What fuser would do at the end has been done.
    sys::exit_now()
}

fn mounted(
    place: &Path,
    source: String,
    options: MountOptions,
) -> Result<(PathBuf, Mounted), Complaint> {
    // Who may not do that may not mount either, and is told so.
    if caller::privileged() && unshare(CloneFlags::CLONE_NEWNS).is_ok() {
        let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        mount(none, "/", none, private, none)
            .map_err(|errno| format!("no privacy to try it in: {}", errno.desc()))?;
    }
    let prepared = Prepared::new(place, source, options)?;
    let place = prepared.mountpoint.clone();
    Ok((place, daemon::mount(prepared)?))
}

fn reason(error: &Error) -> String {
    error.what().unwrap_or(error.errno().desc()).into()
}

/// The kinds of object, what they do better with, and the limits.
fn objects(findings: &mut Findings, options: &MountOptions) {
    if let Some(namespace) = &options.kinds.namespace {
        // What follows is about that namespace.
        if daemon::enter(namespace).is_err() {
            return;
        }
    }
    daemon::raise_limits();
    let mut all = Vec::new();
    for profile in &KINDS {
        match (profile.open)(&options.kinds) {
            Ok(kind) => {
                findings.add(profile.path, Verdict::Ok, profile.about);
                all.extend(kind.limits(Caller::daemon()));
            }
            Err(error) => findings.add(profile.path, Verdict::No, reason(&error)),
        }
    }
    for feature in KINDS.iter().flat_map(|profile| profile.features) {
        match (feature.probe)() {
            Ok(()) => findings.add(feature.name, Verdict::Ok, feature.about),
            Err(error) => {
                let text = format!("{}: {}", reason(&error), feature.without);
                findings.add(feature.name, Verdict::No, text);
            }
        }
    }
    all.extend(limits::own());
    for limit in &all {
        findings.add(limit.name, fullness(limit), describe(limit));
    }
}

/// Nine tenths of a limit are too much.
fn fullness(limit: &Limit) -> Verdict {
    match (limit.max, limit.used) {
        (Some(max), Some(used)) if used >= max - max / 10 => Verdict::Low,
        _ => Verdict::Ok,
    }
}

fn describe(limit: &Limit) -> String {
    let max = limit.max.map_or_else(|| "unlimited".into(), |max| max.to_string());
    let state = limit.used.map_or_else(|| max.clone(), |used| format!("{used} of {max}"));
    match limit.raise {
        "" => state,
        _ if limit.max.is_none() => state,
        raise => format!("{state}; to raise it: {raise}"),
    }
}
