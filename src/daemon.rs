//! The daemon's life: into the background, mount, say that it works, wait, unmount.
//!
//! Next to the daemon runs a small guard process, which does nothing but wait for the daemon's end
//! and unmounts what a killed daemon has left behind.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Parser;
use fuser::{Config, MountOption, Session, SessionACL};
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid, pipe, setsid};

use crate::block::Blocker;
use crate::caller;
use crate::cli::{Arguments, MountOptions};
use crate::error::Errno;
use crate::fuse::passthrough::Passthrough;
use crate::fuse::{Adapter, interrupt};
use crate::kind::Namespace;
use crate::quota::Quota;
use crate::tree::Tree;
use crate::{check, journal, memory, monitor, notify, privilege, proc};

/// Threads that serve requests. None of them ever waits, and a second one costs more than it gives:
/// the kernel wakes both in turn, so that they take each other's processor and find each other's
/// request gone, and answers overtake each other.
const LOOPS: usize = 1;

/// How long SIGTERM lets open files be closed before the daemon ends regardless.
const GRACE: Duration = Duration::from_millis(300);

/// One sentence for the user.
pub(crate) type Complaint = String;

/// The command. Exit status 0 once the mount works, 1 if it does not, 2 for a wrong command line.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let foreground = arguments.foreground || arguments.debug;
    let filter = if arguments.debug { "debug" } else { "warn" };
    journal::start(filter);

    let options = arguments.mount_options();
    if arguments.check {
        return check::run(arguments.mountpoint(), arguments.source(), &options);
    }
    let mountpoint = arguments.mountpoint().unwrap_or(Path::new(""));
    let prepared = match Prepared::new(mountpoint, arguments.source(), options) {
        Ok(prepared) => prepared,
        Err(complaint) => return complain(&complaint),
    };
    if foreground {
        return match run(prepared, notify::ready) {
            Ok(()) => ExitCode::SUCCESS,
            Err(complaint) => complain(&complaint),
        };
    }
    background(prepared)
}

fn complain(complaint: &str) -> ExitCode {
    if journal::is_in_background() {
        log::error!("{complaint}");
    } else {
        eprintln!("ipcfs: {complaint}");
    }
    ExitCode::FAILURE
}

/// A mount whose requirements have been looked at.
pub(crate) struct Prepared {
    pub(crate) mountpoint: PathBuf,
    source: String,
    options: MountOptions,
}

impl Prepared {
    pub(crate) fn new(
        given: &Path,
        source: String,
        options: MountOptions,
    ) -> Result<Self, Complaint> {
        clear_dead_mount(given)?;
        let mountpoint = match given.canonicalize() {
            Ok(path) => path,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                return Err(format!(
                    "{0} does not exist; make it first: mkdir -p {0}",
                    given.display()
                ));
            }
            Err(error) => return Err(format!("{}: {}", given.display(), sentence(&error))),
        };
        if !mountpoint.is_dir() {
            return Err(format!("{} is not a directory; give one", given.display()));
        }
        check_device()?;
        if !caller::privileged() {
            check_fusermount()?;
        }
        Ok(Self { mountpoint, source, options })
    }
}

pub(crate) fn sentence(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(raw) => Errno::from_raw(raw).desc().to_lowercase(),
        None => error.to_string(),
    }
}

pub(crate) fn check_device() -> Result<(), Complaint> {
    match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => "/dev/fuse is missing; load the \
                kernel's FUSE module as root (modprobe fuse), or in a container pass the device in"
                .into(),
            Some(libc::EACCES | libc::EPERM) => "no permission to open /dev/fuse; ask the \
                administrator for access to it, or run ipcfs as root"
                .into(),
            _ => format!("/dev/fuse cannot be opened: {}", sentence(&error)),
        }),
    }
}

/// What a user's mount needs; it is to go away again as well.
pub(crate) fn check_fusermount() -> Result<PathBuf, Complaint> {
    let Some(fusermount) = fusermount() else {
        return Err(
            "fusermount3 is not installed, without which only root can mount; install the \
                    package fuse3"
                .into(),
        );
    };
    if !Path::new("/etc/mtab").exists() {
        return Err(
            "there is no /etc/mtab, without which fusermount3 unmounts nothing; as root: ln \
                    -s ../proc/self/mounts /etc/mtab"
                .into(),
        );
    }
    Ok(fusermount)
}

/// Takes away what a killed daemon has left at the mountpoint.
fn clear_dead_mount(mountpoint: &Path) -> Result<(), Complaint> {
    // One on top of the other, if the guard was killed as well, several times.
    for _ in 0..64 {
        if !is_dead(mountpoint) {
            return Ok(());
        }
        log::info!("{}: unmounting what a dead daemon has left", mountpoint.display());
        if detach_dead(mountpoint).is_err() {
            break;
        }
    }
    if !is_dead(mountpoint) {
        return Ok(());
    }
    Err(format!(
        "{0} is the mount of a daemon that is dead; unmount it first: umount -l {0}",
        mountpoint.display()
    ))
}

fn is_dead(mountpoint: &Path) -> bool {
    // The root's attributes may be cached; this is asked for each time.
    matches!(nix::sys::statfs::statfs(mountpoint), Err(Errno::ENOTCONN | Errno::ECONNABORTED))
}

/// Unmounts what is at the mountpoint if it is dead, and nothing that is mounted there meanwhile.
fn detach_dead(mountpoint: &Path) -> Result<(), Errno> {
    // A descriptor stands for one mount, whatever comes on top of it.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let pin = nix::fcntl::open(mountpoint, flags, Mode::empty())?;
    if !matches!(nix::sys::statfs::fstatfs(&pin), Err(Errno::ENOTCONN | Errno::ECONNABORTED)) {
        return Ok(());
    }
    let path = format!("/proc/self/fd/{}", pin.as_raw_fd());
    match umount2(&*path, MntFlags::MNT_DETACH) {
        Err(Errno::EPERM) => unmount(mountpoint, true),
        done => done,
    }
}

/// Unmounts, by way of fusermount3 where the rights are missing.
pub(crate) fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), Errno> {
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(mountpoint, flags) {
        Err(Errno::EPERM) => {
            let Some(fusermount) = fusermount() else { return Err(Errno::EPERM) };
            let mut command = Command::new(fusermount);
            command.arg("-u").arg("-q").args(lazy.then_some("-z")).arg("--").arg(mountpoint);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            match command.status() {
                Ok(status) if status.success() => Ok(()),
                _ => Err(Errno::EBUSY),
            }
        }
        done => done,
    }
}

/// Where fusermount3 is.
fn fusermount() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = std::env::split_paths(&path).collect();
    places.extend(["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    places.into_iter().map(|place| place.join("fusermount3")).find(|file| file.is_file())
}

/// Starts the daemon in the background; returns when it says that it works, or why not.
fn background(prepared: Prepared) -> ExitCode {
    let (reader, writer) = match pipe() {
        Ok(ends) => ends,
        Err(errno) => return complain(&format!("no pipe is to be had: {}", errno.desc())),
    };
    match sys::fork() {
        Err(errno) => complain(&format!("no process is to be had: {}", errno.desc())),
        Ok(ForkResult::Parent { child }) => {
            drop(writer);
            wait_until_ready(reader, child)
        }
        Ok(ForkResult::Child) => {
            drop(reader);
            let _ = setsid();
            let _ = std::env::set_current_dir("/");
            let mut writer = Some(File::from(writer));
            let done = run(prepared, || {
                sys::leave_terminal();
                journal::to_background();
                // The parent reads a byte: it works.
                if let Some(mut writer) = writer.take() {
                    let _ = writer.write_all(b"\0");
                }
            });
            match done {
                Ok(()) => ExitCode::SUCCESS,
                Err(complaint) => complain(&complaint),
            }
        }
    }
}

/// The complaint, if any, is the child's own, on the standard error that both share.
fn wait_until_ready(reader: OwnedFd, child: Pid) -> ExitCode {
    let mut word = [0];
    if matches!(File::from(reader).read(&mut word), Ok(1)) {
        return ExitCode::SUCCESS;
    }
    match nix::sys::wait::waitpid(child, None) {
        Ok(nix::sys::wait::WaitStatus::Exited(_, _)) => ExitCode::FAILURE,
        _ => complain("the daemon has died before the mount worked; ipcfs -d shows how far it got"),
    }
}

/// Mounts, calls `ready`, serves until it is unmounted.
fn run(prepared: Prepared, ready: impl FnOnce()) -> Result<(), Complaint> {
    let asked = prepared.options.no_passthrough;
    let Mounted { mountpoint, session, passthrough, blocker, serving, signals, .. } =
        mount(prepared)?;
    report(passthrough, asked);

    // Before there are other threads, which have capabilities of their own.
    privilege::drop_unneeded();
    blocker
        .start_canceller()
        .map_err(|error| format!("no thread is to be had: {}", error.errno().desc()))?;
    if let Some((_, sentence)) = patience() {
        log::warn!("{sentence}");
    }
    std::thread::Builder::new()
        .name("signals".into())
        .stack_size(128 * 1024)
        .spawn(move || end_on_signal(&signals, &mountpoint, &blocker))
        .map_err(|error| format!("no thread is to be had: {}", sentence(&error)))?;
    serving.store(true, Ordering::SeqCst);
    ready();
    privilege::forbid_unneeded();
    let outcome = session.run();
    outcome.map_err(|error| format!("serving has ended: {}", sentence(&error)))
}

/// A mount that works, though nobody serves it yet.
pub(crate) struct Mounted {
    mountpoint: PathBuf,
    session: Session<Adapter>,
    /// Whether the kernel moves the data of shared memory, or why not.
    pub(crate) passthrough: crate::error::Result<()>,
    pub(crate) guard: Arc<Guard>,
    blocker: Arc<Blocker>,
    serving: Arc<AtomicBool>,
    signals: SigSet,
}

/// Mounts.
pub(crate) fn mount(prepared: Prepared) -> Result<Mounted, Complaint> {
    let Prepared { mountpoint, source, options } = prepared;
    if let Some(namespace) = &options.kinds.namespace {
        enter(namespace)?;
    }
    crate::born();
    crate::owner();
    memory::keep_small();
    nix::sys::stat::umask(Mode::empty());
    if caller::privileged() {
        // Or root's groups would be everybody's whom the daemon acts for.
        let _ = nix::unistd::setgroups(&[]);
    }
    if options.flags.contains(&MountOption::RO) {
        crate::set_read_only();
    }
    let descriptors = raise_limits();
    let signals = block_signals();
    let guard = Arc::new(Guard::start(&mountpoint)?);

    let handles = Quota::handles(&options.limits, descriptors, open_descriptors());
    let tree = Arc::new(Tree::new(&options.kinds, handles));
    let blocker =
        Arc::new(Blocker::new(Quota::blocked(&options.limits), patience().map(|(wait, _)| wait)));
    interrupt::arm(Arc::clone(&blocker));
    monitor::get().connect(Arc::clone(&blocker), Arc::clone(&tree) as _);
    let notifier = Arc::new(OnceLock::new());
    let passthrough = Arc::new(Passthrough::new(!options.no_passthrough));
    let serving = Arc::new(AtomicBool::new(false));
    let at_end = end_of_service(&serving, &guard, &blocker);
    let adapter = Adapter::new(
        tree,
        Arc::clone(&blocker),
        Arc::clone(&passthrough),
        Arc::clone(&notifier),
        at_end,
    );
    let session = Session::new(adapter, &mountpoint, &config(source, &options))
        .map_err(|error| explain_mount(&mountpoint, &error))?;
    if !interrupt::is_connected() {
        return Err("the requests do not come through ipcfs's own read(2), so that Ctrl-C would \
                    not work; this build is broken"
            .into());
    }
    let _ = notifier.set(session.notifier());
    if let Some(root) = mountpoint.to_str().and_then(proc::file_id) {
        monitor::get().set_device(root.device);
    }
    let passthrough = passthrough.probe(session.as_fd());
    Ok(Mounted { mountpoint, session, passthrough, guard, blocker, serving, signals })
}

/// What is done once the mount is gone: the process ends here.
///
/// It must not come to the end of fuser's session, which unmounts what is at the mountpoint by
/// then, another mount perhaps (fuser 0.18 takes a connection that has ended for a mount).
fn end_of_service(
    serving: &Arc<AtomicBool>,
    guard: &Arc<Guard>,
    blocker: &Arc<Blocker>,
) -> Arc<dyn Fn() + Send + Sync> {
    let (serving, guard, blocker) = (Arc::clone(serving), Arc::clone(guard), Arc::clone(blocker));
    Arc::new(move || {
        if serving.load(Ordering::SeqCst) {
            guard.dismiss();
            blocker.close();
            // For what is lost with the daemon to be logged.
            let end = Instant::now() + GRACE;
            while blocker.in_flight() > 0 && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::process::exit(0);
        }
    })
}

/// Enters an IPC namespace, for good; before there are threads, which would stay outside.
pub(crate) fn enter(namespace: &Namespace) -> Result<(), Complaint> {
    let path = namespace.file.display();
    let refused = || format!("no permission to enter the IPC namespace {path}; be root there");
    let file = File::open(&namespace.file).map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => refused(),
        _ => format!(
            "the IPC namespace {path} cannot be opened: {}; is the process there?",
            sentence(&error)
        ),
    })?;
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWIPC).map_err(|errno| match errno {
        Errno::EPERM => refused(),
        Errno::EINVAL => {
            format!("{path} is no IPC namespace; give a process id or /proc/PID/ns/ipc")
        }
        errno => format!("the IPC namespace {path} cannot be entered: {}", errno.desc()),
    })
}

/// Says who moves the data of shared memory; one who has not asked for it is told aloud.
fn report(passthrough: crate::error::Result<()>, asked: bool) {
    let level = if asked { log::Level::Info } else { log::Level::Warn };
    match passthrough {
        Ok(()) => log::info!("shared memory: the kernel's passthrough"),
        Err(error) => log::log!(
            level,
            "shared memory: forwarded by the daemon, and mmap with MAP_SHARED is refused: {}",
            error.what().unwrap_or(error.errno().desc())
        ),
    }
}

fn config(source: String, options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.mount_options.clone_from(&options.flags);
    config.mount_options.extend([
        MountOption::FSName(source),
        // As an option of its own: fuser passes it to fusermount3, but not to mount(2).
        MountOption::CUSTOM("subtype=ipcfs".into()),
        MountOption::DefaultPermissions,
    ]);
    config.acl = if options.allow_other || caller::privileged() {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(LOOPS);
    config
}

fn explain_mount(mountpoint: &Path, error: &std::io::Error) -> Complaint {
    let text = error.to_string();
    let text = text.trim();
    // Which fusermount3 says in words.
    let refused = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
        || text.contains("Operation not permitted");
    if text.contains("user_allow_other") {
        return "allow_other is not permitted to users; the administrator permits it with the line \
                user_allow_other in /etc/fuse.conf"
            .into();
    }
    let place = mountpoint.display();
    match refused {
        true if caller::privileged() => format!(
            "no permission to mount on {place}, though ipcfs is run by root: that takes \
             CAP_SYS_ADMIN, which a container has only if it is privileged"
        ),
        true => format!(
            "no permission to mount on {place}; own the directory or run ipcfs as root ({text})"
        ),
        false => format!("mounting on {place} has failed: {text}"),
    }
}

/// As many descriptors and queues, and as large files, as the administrator permits.
///
/// Returns how many descriptors that is.
pub(crate) fn raise_limits() -> u64 {
    for resource in [Resource::RLIMIT_NOFILE, Resource::RLIMIT_MSGQUEUE, Resource::RLIMIT_FSIZE] {
        if let Ok((soft, hard)) = getrlimit(resource) {
            let unlimited = libc::RLIM_INFINITY;
            let msgqueue = resource == Resource::RLIMIT_MSGQUEUE;
            let raised = msgqueue && setrlimit(resource, unlimited, unlimited).is_ok();
            if !raised && soft < hard {
                let _ = setrlimit(resource, hard, hard);
            }
        }
    }
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// How many descriptors are open before there are clients, and some for what is still to come.
fn open_descriptors() -> u64 {
    const TO_COME: u64 = 12;
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64) + TO_COME
}

/// How long a request may wait, if the kernel has been told to end mounts that leave one waiting
/// for longer (`fuse_init_server_timeout` in fs/fuse/inode.c: the default unless the maximum is
/// less, and 15 s at least), and the sentence about it.
pub(crate) fn patience() -> Option<(Duration, Complaint)> {
    let [default, most] = ["default_request_timeout", "max_request_timeout"].map(|name| {
        let text = std::fs::read_to_string(format!("/proc/sys/fs/fuse/{name}")).ok()?;
        text.trim().parse().ok().filter(|seconds: &u64| *seconds > 0)
    });
    let seconds = default.into_iter().chain(most).min()?.max(15);
    let patience = Duration::from_secs(seconds) * 3 / 4;
    let sentence = format!(
        "the kernel ends FUSE mounts that leave a request waiting for {seconds} s, so that what \
         waits for {patience:?} is answered with EAGAIN; to let it wait, mount after: sysctl \
         fs.fuse.default_request_timeout=0 fs.fuse.max_request_timeout=0"
    );
    Some((patience, sentence))
}

/// Blocks the signals that end the daemon, the one that ends a worker's wait and the one that says
/// what an errno says as well, in this thread and all that it starts.
fn block_signals() -> SigSet {
    let mut ending = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        ending.add(signal);
    }
    let mut blocked = ending;
    blocked.add(Signal::SIGUSR1);
    // Shared memory above RLIMIT_FSIZE is to be EFBIG for its maker, not the daemon's end.
    blocked.add(Signal::SIGXFSZ);
    let _ = blocked.thread_block();
    ending
}

/// Unmounts at the first signal and ends the daemon, whoever has files open.
fn end_on_signal(signals: &SigSet, mountpoint: &Path, blocker: &Arc<Blocker>) {
    let signal = loop {
        if let Ok(signal) = signals.wait() {
            break signal;
        }
    };
    log::info!("{}: unmounting after {signal}", mountpoint.display());
    blocker.close();
    if unmount(mountpoint, false).is_err() {
        let _ = unmount(mountpoint, true);
    }
    // The loops end with the last open file; nobody is to wait for that.
    std::thread::sleep(GRACE);
    std::process::exit(0);
}

/// The process that unmounts if the daemon is killed.
pub(crate) struct Guard {
    alive: File,
}

impl Guard {
    fn start(mountpoint: &Path) -> Result<Self, Complaint> {
        let none = |errno: Errno| format!("no guard process is to be had: {}", errno.desc());
        let (reader, writer) = pipe().map_err(none)?;
        match sys::fork().map_err(none)? {
            ForkResult::Parent { child } => {
                drop(reader);
                let _ = nix::sys::wait::waitpid(child, None);
                Ok(Self { alive: File::from(writer) })
            }
            ForkResult::Child => {
                drop(writer);
                // A child of the daemon's child belongs to init, which clears up after it.
                if !matches!(sys::fork(), Ok(ForkResult::Child)) {
                    sys::exit_now();
                }
                sys::leave_terminal();
                let _ = setsid();
                let _ = nix::sys::prctl::set_name(c"ipcfs-guard");
                privilege::keep_unmounting();
                let mut word = [0];
                // A word is a dismissal; the end of the pipe is the end of the daemon.
                let dismissed = matches!(File::from(reader).read(&mut word), Ok(1));
                if !dismissed {
                    let _ = detach_dead(mountpoint);
                }
                sys::exit_now();
            }
        }
    }

    /// What it is there for has been done.
    pub(crate) fn dismiss(&self) {
        let _ = (&self.alive).write_all(b"\0");
    }
}

#[allow(unsafe_code)]
pub(crate) mod sys {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use nix::unistd::ForkResult;

    use crate::error::Errno;

    /// fork(2).
    pub(crate) fn fork() -> Result<ForkResult, Errno> {
        // SAFETY: this process has one thread, so the child may do anything.
        unsafe { nix::unistd::fork() }
    }

    /// Standard input, output and error become /dev/null: whoever waits for the end of a pipe that
    /// the command was started with does not wait for the daemon.
    pub(super) fn leave_terminal() {
        let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return };
        for standard in 0..=2 {
            // SAFETY: dup2 takes two descriptors; whoever writes to these from now on writes to
            // nowhere, which is the purpose.
            unsafe { libc::dup2(null.as_raw_fd(), standard) };
        }
    }

    /// Ends a forked child without what the parent has registered for its own end.
    pub(crate) fn exit_now() -> ! {
        // SAFETY: _exit may be called at any time.
        unsafe { libc::_exit(0) }
    }
}
