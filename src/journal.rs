//! Where the log goes: to standard error, and once the daemon is in the background to the system's
//! log (syslog(3)), which is the journal where there is systemd.
//!
//! The system's log is written without waiting: what it cannot take at once is lost rather than a
//! request kept waiting, which syslog(3) itself would do.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use log::{Level, Record};
use parking_lot::Mutex;

/// Where the system's log is listened for.
const SOCKET: &str = "/dev/log";

static BACKGROUND: AtomicBool = AtomicBool::new(false);

/// What is not to be said unless the mount works.
static HELD: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// To be called once at the start. `RUST_LOG` says what is logged, else warnings, or with `debug`
/// everything.
///
/// Warnings that nobody has asked for wait for [`release`]: beside the reason why there is no mount
/// they would only be in the way.
pub fn start(debug: bool) {
    if !debug && std::env::var_os("RUST_LOG").is_none() {
        *HELD.lock() = Some(Vec::new());
    }
    let filter = if debug { "debug" } else { "warn" };
    let environment = env_logger::Env::default().default_filter_or(filter);
    env_logger::Builder::from_env(environment)
        .format(|line, record| {
            if is_in_background() {
                return write!(line, "{}", system_line(record));
            }
            let (time, level) = (line.timestamp(), record.level());
            writeln!(line, "[{time} {level:<5} {}] {}", record.target(), record.args())
        })
        .target(env_logger::Target::Pipe(Box::new(Output)))
        .init();
}

/// The mount works: what has been held back is said, and all from now on at once.
pub fn release() {
    if let Some(held) = HELD.lock().take() {
        let _ = io::stderr().write_all(&held);
    }
}

/// From now on nobody is there to read standard error.
pub fn to_background() {
    BACKGROUND.store(true, Ordering::Relaxed);
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
}

/// Whether [`to_background`] has been called.
pub fn is_in_background() -> bool {
    BACKGROUND.load(Ordering::Relaxed)
}

/// A line as /dev/log wants it: facility `daemon` and severity, who, what. The time is added there.
fn system_line(record: &Record) -> String {
    const DAEMON: u8 = 3 << 3;
    let severity = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let text = record.args().to_string().replace('\n', " ");
    format!("<{}>ipcfs[{}]: {text}", DAEMON | severity, std::process::id())
}

/// What a record has become goes to whichever it was made for.
struct Output;

impl Write for Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if is_in_background() {
            let _ = send(Path::new(SOCKET), line);
            return Ok(line.len());
        }
        match &mut *HELD.lock() {
            Some(held) => held.write(line),
            None => io::stderr().write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Connects anew for each line: they are few, and who listens may be another by now.
fn send(socket: &Path, line: &[u8]) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to(line, socket).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_syslog_sends_and_is_lost_where_nobody_takes_it() {
        let arguments = format_args!("one\ntwo");
        let record = Record::builder().level(Level::Warn).args(arguments).build();
        let line = system_line(&record);
        assert_eq!(line, format!("<28>ipcfs[{}]: one two", std::process::id()));

        let path = std::env::temp_dir().join(format!("ipcfs-log-{}", std::process::id()));
        assert!(send(&path, line.as_bytes()).is_err());
        let listener = UnixDatagram::bind(&path).unwrap();
        send(&path, line.as_bytes()).unwrap();
        let mut told = [0; 64];
        let length = listener.recv(&mut told).unwrap();
        assert_eq!(&told[..length], line.as_bytes());
        // A listener that does not listen is not waited for.
        let refused = (0..100_000).find_map(|_| send(&path, line.as_bytes()).err());
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::WouldBlock);
        std::fs::remove_file(path).unwrap();
    }
}
