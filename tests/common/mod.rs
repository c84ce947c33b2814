//! The harness: a world of its own for each test.
//!
//! ```ignore
//! let world = World::new();
//! world.run("echo hello > mq/jobs");
//! assert_eq!(world.run("cat mq/jobs"), "hello\n");
//! ```

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

/// `short` of something, or the `whole` of it where `IPCFS_LONG` is 1: for the figures that take
/// their time or a machine with nothing else to do.
pub fn long<T>(short: T, whole: T) -> T {
    if std::env::var_os("IPCFS_LONG").is_some_and(|value| value == "1") { whole } else { short }
}

/// What takes longer hangs.
pub fn deadline() -> Duration {
    Duration::from_secs(long(120, 600))
}

/// The daemon's threads when nothing waits: the first, those that handle requests, the one for
/// signals, the one that ends waits and the watchdog.
pub const THREADS: u64 = 1 + 16 + 3;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_ipcfs");

/// A private IPC and mount namespace for this thread and all that it starts, a fresh /dev/shm and
/// /run, and ipcfs mounted on a directory of its own.
pub struct World {
    dir: PathBuf,
    daemon: Option<Running>,
    environment: Vec<(&'static str, PathBuf)>,
    turn: Turn,
}

/// `RLIMIT_MSGQUEUE` counts what a user has in all namespaces together, about 800 KiB: a test that
/// wants much of it goes alone, the others make small queues.
static QUEUES: RwLock<()> = RwLock::new(());

enum Turn {
    Shared(#[allow(dead_code)] RwLockReadGuard<'static, ()>),
    Alone(#[allow(dead_code)] RwLockWriteGuard<'static, ()>),
}

impl World {
    /// With ipcfs mounted without options.
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// With ipcfs mounted with these arguments.
    pub fn with(arguments: &[&str]) -> Self {
        let mut world = Self::unmounted();
        world.mount(arguments);
        world
    }

    /// With ipcfs mounted without options and the limit on message queues for itself.
    pub fn alone() -> Self {
        let turn = Turn::Alone(QUEUES.write().unwrap_or_else(PoisonError::into_inner));
        let mut world = Self::in_turn(turn);
        world.mount(&[]);
        world
    }

    /// Without a mount.
    pub fn unmounted() -> Self {
        Self::in_turn(Turn::Shared(QUEUES.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn in_turn(turn: Turn) -> Self {
        assert!(
            nix::unistd::geteuid().is_root() && Path::new("/dev/fuse").exists(),
            "the mounted tests need root and /dev/fuse; run scripts/test as root"
        );
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("ipcfs-test-{}-{number}", std::process::id()));
        fs::create_dir_all(dir.join("mnt")).unwrap();
        separate();
        Self { dir, daemon: None, environment: Vec::new(), turn }
    }

    /// Gives all that is started from now on a variable that holds a path, the daemon included.
    pub fn set(&mut self, name: &'static str, path: PathBuf) {
        self.environment.push((name, path));
    }

    /// Mounts ipcfs and waits until the daemon says that it works, as it says it to systemd: what is seen
    /// at the path may still be the mount of one that was killed.
    pub fn mount(&mut self, arguments: &[&str]) {
        let path = self.dir.join("ready");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut command = self.command(BINARY);
        command.arg("-f").args(arguments).arg(self.path());
        command.current_dir("/").env("NOTIFY_SOCKET", &path);
        let mut daemon = Running::start(command);
        eventually("the mount works", || {
            if let Some(status) = daemon.ended() {
                panic!("ipcfs has ended with {status}: {}", daemon.errors());
            }
            socket.recv(&mut [0; 32]).is_ok()
        });
        assert!(self.path().join("README").exists());
        fs::remove_file(path).unwrap();
        self.daemon = Some(daemon);
    }

    /// Where ipcfs is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// A directory for whatever a test needs.
    pub fn scratch(&self) -> &Path {
        &self.dir
    }

    /// The daemon's process id.
    pub fn daemon(&self) -> u32 {
        self.daemon.as_ref().expect("mounted").id()
    }

    /// Takes the daemon out of the harness's care: the test ends it itself.
    pub fn take_daemon(&mut self) -> Running {
        self.daemon.take().expect("mounted")
    }

    /// A number of the daemon's, from `/proc/PID/status`: `VmRSS` (in KiB), `Threads`.
    pub fn daemon_status(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.daemon())).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// How many requests are waiting: the daemon's workers that wait in a system call other than
    /// that of an idle worker.
    pub fn waiting(&self) -> usize {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.daemon())) else { return 0 };
        // An idle worker waits on a condition variable. Those who wait for a semaphore or for their
        // turn use the futex call with a mask of bits.
        const IDLE: &str = "0x80";
        let is_waiting = |task: &fs::DirEntry| {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let call = read("syscall");
            let mut words = call.split_ascii_whitespace();
            let (call, operation) = (words.next(), words.nth(1));
            let futex = libc::SYS_futex.to_string();
            read("comm").trim() == "worker"
                && call.is_some_and(|call| call != "running")
                && (call != Some(&*futex) || operation != Some(IDLE))
        };
        tasks.flatten().filter(is_waiting).count()
    }

    /// How many descriptors the daemon has open.
    pub fn daemon_descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.daemon())).unwrap().count()
    }

    /// A command in the mount's directory, in a process group of its own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        // Whoever runs the tests in the background may have had signals ignored.
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP,INT,QUIT,TERM").arg(program);
        command.current_dir(self.path()).env("M", self.path()).env("SCRATCH", &self.dir);
        command.env("LC_ALL", "C").env_remove("RUST_LOG").process_group(0);
        command.envs(self.environment.iter().map(|(name, path)| (name, path)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a bash script.
    pub fn start(&self, script: &str) -> Running {
        let mut command = self.command("bash");
        command.arg("-c").arg(script);
        Running::start(command)
    }

    /// Runs a bash script to its end.
    pub fn attempt(&self, script: &str) -> Output {
        self.start(script).output()
    }

    /// Runs a bash script that has to succeed and returns what it printed.
    pub fn run(&self, script: &str) -> String {
        let output = self.attempt(script);
        assert!(output.status.success(), "{script}\n{}: {}", output.status, output.errors);
        output.text()
    }

    /// Runs a bash script that has to fail and returns its standard error.
    pub fn fail(&self, script: &str) -> String {
        let output = self.attempt(script);
        assert!(!output.status.success(), "{script}\nhas succeeded: {}", output.text());
        output.errors
    }

    /// Runs a C client of `tests/clients`, which has to succeed, and returns what it printed.
    pub fn c(&self, client: &str, arguments: &[&str]) -> String {
        let output = self.client(client, arguments).output();
        assert!(output.status.success(), "{client} {arguments:?}: {}", output.errors);
        output.text()
    }

    /// Starts a C client of `tests/clients`.
    pub fn client(&self, client: &str, arguments: &[&str]) -> Running {
        let mut command = self.command(compiled(client));
        command.args(arguments);
        Running::start(command)
    }

    /// Runs a Python script with `posix_ipc` and `sysv_ipc` at hand, which has to succeed.
    pub fn python(&self, script: &str) -> String {
        let mut command = self.command(python());
        command.arg("-c").arg(script);
        let output = Running::start(command).output();
        assert!(output.status.success(), "{script}\n{}: {}", output.status, output.errors);
        output.text()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Turn::Alone(_) = self.turn {
            // The kernel takes its time to charge back what ends with its namespace.
            let queues = fs::read_dir(self.path().join("mq"));
            for queue in queues.into_iter().flatten().flatten() {
                let _ = fs::remove_file(queue.path());
            }
        }
        // The namespaces end with this thread and its children; the daemon has to go first.
        if let Some(mut daemon) = self.daemon.take() {
            daemon.signal(libc::SIGTERM);
            daemon.wait_or_kill();
        }
        let _ = nix::mount::umount2(&self.path(), nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Namespaces for this thread alone.
fn separate() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::stat::{Mode, SFlag};
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC).expect("namespaces of its own");
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    fs::write("/proc/sys/fs/mqueue/msgsize_default", "1024").unwrap();
    for place in ["/dev/shm", "/run"] {
        mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), Some("mode=1777")).unwrap();
    }
    // Where there is one, as with systemd: what is missing elsewhere is to be missing here.
    let _ = nix::mount::umount2("/dev/mqueue", nix::mount::MntFlags::MNT_DETACH);
    // For everybody, as udev makes it; without udev it is root's alone.
    let (own, device) = ("/run/fuse", "/dev/fuse");
    let number = nix::sys::stat::stat(device).unwrap().st_rdev;
    nix::sys::stat::mknod(own, SFlag::S_IFCHR, Mode::empty(), number).unwrap();
    fs::set_permissions(own, fs::Permissions::from_mode(0o666)).unwrap();
    mount(Some(own), device, none, MsFlags::MS_BIND, none).unwrap();
}

/// A process and its process group, killed when it is dropped.
pub struct Running {
    child: Child,
    stdout: Option<thread::JoinHandle<Vec<u8>>>,
    stderr: Option<thread::JoinHandle<Vec<u8>>>,
}

/// What a process has left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub bytes: Vec<u8>,
    /// Standard error.
    pub errors: String,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

fn collect(source: Option<impl Read + Send + 'static>) -> Option<thread::JoinHandle<Vec<u8>>> {
    source.map(|mut source| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = source.read_to_end(&mut bytes);
            bytes
        })
    })
}

impl Running {
    /// Starts it.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        Self { child, stdout, stderr }
    }

    /// Its process id, which is its process group's as well.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the whole group, as Ctrl-C does.
    pub fn signal(&self, signal: i32) {
        let group = nix::unistd::Pid::from_raw(-(self.id() as i32));
        let _ = nix::sys::signal::kill(group, nix::sys::signal::Signal::try_from(signal).unwrap());
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            if start.elapsed() > deadline() {
                self.signal(libc::SIGKILL);
                let _ = self.child.wait();
                panic!("process {} hangs; it has said: {}", self.id(), self.errors());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn wait_or_kill(&mut self) {
        let start = Instant::now();
        while self.ended().is_none() {
            if start.elapsed() > Duration::from_secs(5) {
                self.signal(libc::SIGKILL);
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for its end and returns what it printed.
    pub fn output(mut self) -> Output {
        let status = self.wait();
        let bytes = read_to_end(&mut self.stdout);
        let errors = String::from_utf8_lossy(&read_to_end(&mut self.stderr)).into_owned();
        Output { status, bytes, errors }
    }

    /// Its standard error, once it has ended.
    pub fn errors(&mut self) -> String {
        String::from_utf8_lossy(&read_to_end(&mut self.stderr)).into_owned()
    }

    /// Whether it waits in a system call rather than running or having ended.
    pub fn is_asleep(&mut self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
        matches!(state, Some("S" | "D"))
    }
}

/// What was printed, once nobody has the pipe any more: what a script has left behind may.
fn read_to_end(reader: &mut Option<thread::JoinHandle<Vec<u8>>>) -> Vec<u8> {
    let Some(reader) = reader.take() else { return Vec::new() };
    eventually("its output ends", || reader.is_finished());
    reader.join().unwrap()
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(libc::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Waits for a condition; panics with its name at the deadline.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        let elapsed = start.elapsed();
        assert!(elapsed < deadline(), "it never happened that {what}");
        // To look may take more of the machine than what is waited for.
        thread::sleep((elapsed / 10).clamp(Duration::from_millis(1), Duration::from_millis(50)));
    }
}

/// Where the tests build what they need.
fn build_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).to_path_buf()
}

/// The Python of the test environment; `scripts/test` makes it.
pub fn python() -> PathBuf {
    let python = std::env::var_os("IPCFS_TEST_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python"),
        PathBuf::from,
    );
    assert!(
        python.exists(),
        "{} with posix_ipc and sysv_ipc is missing; scripts/test makes it",
        python.display()
    );
    python
}

/// Compiles `tests/clients/NAME.c`, once.
pub fn compiled(name: &str) -> PathBuf {
    static LOCK: Mutex<()> = Mutex::new(());
    let _one = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/clients/{name}.c"));
    let binary = build_dir().join(name);
    let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    if modified(&binary) <= modified(&source) {
        let status = Command::new("cc")
            .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-o"])
            .args([&binary, &source])
            .args(["-lrt", "-pthread"])
            .status()
            .expect("a C compiler; scripts/test installs one");
        assert!(status.success(), "{} does not compile", source.display());
    }
    binary
}
