//! The daemon's life: into the background, mount, say that it works, wait, unmount.
//!
//! Next to the daemon runs a small [`guard`] process, which does nothing but wait for the daemon's
//! end and unmount what it has left behind.

mod guard;
mod limits;
mod prepare;
mod unmount;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Parser;
use fuser::{Config, MountOption, Session, SessionACL};
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid, pipe2, setsid};

use self::guard::Guard;
use self::limits::open_descriptors;
pub(crate) use self::limits::{patience, raise_limits};
use self::prepare::sentence;
pub(crate) use self::prepare::{Prepared, check_device, check_fusermount, enter};
pub(crate) use self::unmount::unmount;
use crate::block::Blocker;
use crate::caller;
use crate::cli::{Arguments, MountOptions};
use crate::fuse::passthrough::Passthrough;
use crate::fuse::{Adapter, interrupt, lanes};
use crate::quota::Quota;
use crate::tree::Tree;
use crate::{check, journal, memory, monitor, notify, privilege, proc};

/// How long SIGTERM lets open files be closed before the daemon ends regardless.
const GRACE: Duration = Duration::from_millis(300);

/// One sentence for the user.
pub(crate) type Complaint = String;

/// The command. Exit status 0 once the mount works, 1 if it does not, 2 for a wrong command line.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    journal::start(arguments.debug);
    let options = match arguments.mount_options() {
        Ok(options) => options,
        Err(complaint) => return complain(&complaint),
    };
    if arguments.is_fake() {
        return ExitCode::SUCCESS;
    }
    if arguments.check {
        return check::run(arguments.mountpoint(), arguments.source(), &options);
    }
    if let Some(namespace) = arguments.mount_namespace() {
        if let Err(complaint) = prepare::enter_mounts(&namespace) {
            return complain(&complaint);
        }
    }
    let mountpoint = arguments.mountpoint().unwrap_or(Path::new(""));
    let prepared = match Prepared::new(mountpoint, arguments.source(), options) {
        Ok(prepared) => prepared,
        Err(complaint) => return complain(&complaint),
    };
    if arguments.stays_in_foreground() {
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

/// Starts the daemon in the background; returns when it says that it works, or why not.
fn background(prepared: Prepared) -> ExitCode {
    // Whoever waits for a lock or for the end of a pipe does not wait for the daemon.
    sys::close_from(3);
    let (reader, writer) = match pipe2(OFlag::O_CLOEXEC) {
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
    // The guard is to know of the daemon's end, which is that of all that is here.
    let Mounted { mountpoint, session, passthrough, guard: _guard, blocker, serving, signals } =
        mount(prepared)?;
    report(passthrough, asked);
    journal::release();

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
    std::thread::Builder::new()
        .name("watchdog".into())
        .stack_size(128 * 1024)
        .spawn(|| lanes::Lanes::get().watch())
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
    guard: Guard,
    blocker: Arc<Blocker>,
    serving: Arc<AtomicBool>,
    signals: SigSet,
}

/// Mounts.
pub(crate) fn mount(prepared: Prepared) -> Result<Mounted, Complaint> {
    let Prepared { mountpoint, source, options } = prepared;
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
    let handles = Quota::handles(&options.limits, raise_limits(), open_descriptors());
    limits::check_descriptors(&handles)?;
    let refused =
        |error: crate::error::Error| error.what().unwrap_or(error.errno().desc()).to_owned();
    options.kinds.check().map_err(refused)?;
    let signals = block_signals();
    let guard = Guard::start(&mountpoint)?;

    let tree = Arc::new(Tree::new(&options.kinds, handles));
    let blocker =
        Arc::new(Blocker::new(Quota::blocked(&options.limits), patience().map(|(wait, _)| wait)));
    interrupt::arm(Arc::clone(&blocker));
    monitor::get().connect(Arc::clone(&blocker), Arc::clone(&tree) as _);
    let notifier = Arc::new(OnceLock::new());
    let passthrough = Arc::new(Passthrough::new(!options.no_passthrough));
    let serving = Arc::new(AtomicBool::new(false));
    let at_end = end_of_service(&serving, &blocker);
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
    if let Some(root) = proc::file_id(&mountpoint) {
        monitor::get().set_device(root.device);
        guard.watch(root.device);
    }
    let passthrough = passthrough.probe(session.as_fd());
    Ok(Mounted { mountpoint, session, passthrough, guard, blocker, serving, signals })
}

/// What is done once the connection has ended: the process ends here. Where the mount is there
/// still (`umount -f` of a busy one), the guard unmounts it.
///
/// It must not come to the end of fuser's session, which unmounts what is at the mountpoint by
/// then, another mount perhaps (fuser 0.18 takes a connection that has ended for a mount).
fn end_of_service(
    serving: &Arc<AtomicBool>,
    blocker: &Arc<Blocker>,
) -> Arc<dyn Fn() + Send + Sync> {
    let (serving, blocker) = (Arc::clone(serving), Arc::clone(blocker));
    Arc::new(move || {
        if serving.load(Ordering::SeqCst) {
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

/// Says who moves the data of shared memory; root, who could have it otherwise and has not asked
/// for this, is told aloud.
fn report(passthrough: crate::error::Result<()>, asked: bool) {
    let expected = asked || !caller::privileged();
    let level = if expected { log::Level::Info } else { log::Level::Warn };
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
    config.n_threads = Some(lanes::THREADS);
    config
}

fn explain_mount(mountpoint: &Path, error: &std::io::Error) -> Complaint {
    let text = error.to_string().trim().replace('\n', " ");
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
        false => {
            // fuser quotes all that it has called mount(2) with.
            let call = text.strip_prefix("Error calling mount()");
            let why = call.and_then(|call| call.rsplit(": ").next()).unwrap_or(&text);
            format!("mounting on {place} has failed: {}", why.to_lowercase())
        }
    }
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

#[allow(unsafe_code)]
pub(crate) mod sys {
    use std::fs::File;
    use std::os::fd::{AsRawFd, OwnedFd};

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

    /// Closes all descriptors from `first` on, of which the caller has none in use.
    pub(super) fn close_from(first: u32) {
        // SAFETY: close_range takes two numbers; the caller has nothing that would use one of these.
        unsafe { libc::close_range(first, u32::MAX, 0) };
    }

    /// Closes all descriptors but the standard ones and this.
    pub(super) fn keep_only(kept: &OwnedFd) {
        let kept = kept.as_raw_fd() as u32;
        if kept > 3 {
            // SAFETY: as above.
            unsafe { libc::close_range(3, kept - 1, 0) };
        }
        close_from(kept + 1);
    }

    /// Ends a forked child without what the parent has registered for its own end.
    pub(crate) fn exit_now() -> ! {
        // SAFETY: _exit may be called at any time.
        unsafe { libc::_exit(0) }
    }
}
