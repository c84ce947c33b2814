//! The C calls' side.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::calls::{self, Result, Semaphore};
use super::system_v::{self, Object};
use super::{Access, Kind, Side, Step, files, not_here, shown};

/// An object, by the C calls.
pub struct Native {
    kind: Kind,
    /// Where `mqueue/` and `fifo/` are.
    place: PathBuf,
    name: Vec<u8>,
    open: Option<Open>,
}

enum Open {
    Queue(OwnedFd),
    File(File),
    Semaphore(Semaphore),
    SystemV(Object),
}

impl Native {
    pub fn new(kind: Kind, place: &Path) -> Self {
        Self { kind, place: place.to_path_buf(), name: kind.name().to_vec(), open: None }
    }

    /// The object as a file.
    fn path(&self) -> PathBuf {
        let name = OsStr::from_bytes(&self.name);
        match self.kind {
            Kind::Mq => self.place.join("mqueue").join(name),
            Kind::Fifo => self.place.join("fifo").join(name),
            Kind::Shm => Path::new("/dev/shm").join(name),
            _ => {
                let file = [b"sem.", &*self.name].concat();
                Path::new("/dev/shm").join(OsStr::from_bytes(&file))
            }
        }
    }

    fn c_name(&self) -> CString {
        CString::new([b"/", &*self.name].concat()).unwrap()
    }

    fn key(&self) -> i32 {
        std::str::from_utf8(&self.name).unwrap().parse().unwrap()
    }

    /// The object that is open, if it is a System V one, or else by its key.
    fn object(&self) -> Result<Object> {
        match &self.open {
            Some(Open::SystemV(object)) => Ok(*object),
            _ => Object::get(self.kind, self.key(), 0),
        }
    }

    fn make(&self, mode: u32, exclusive: bool) -> Result<()> {
        let create = libc::O_CREAT | if exclusive { libc::O_EXCL } else { 0 };
        let (name, flags) = (self.c_name(), create | libc::O_RDWR);
        match self.kind {
            Kind::Mq => calls::mq_open(&name, flags, mode, Some((2, 16))).map(drop),
            Kind::Shm => calls::shm_open(&name, flags, mode).map(drop),
            Kind::Sem => Semaphore::open(&name, create, mode, 0).map(drop),
            Kind::Fifo => {
                let mode = nix::sys::stat::Mode::from_bits_truncate(mode);
                nix::unistd::mkfifo(&self.path(), mode)
            }
            kind => {
                let exclusive = if exclusive { libc::IPC_EXCL } else { 0 };
                Object::make(kind, self.key(), libc::IPC_CREAT | exclusive | mode as i32, &[])
            }
        }
    }

    fn make_with(&self, attributes: &[(&str, u64)]) -> Result<()> {
        let get = |name, default| {
            attributes.iter().find(|(key, _)| *key == name).map_or(default, |(_, value)| *value)
        };
        let (name, flags) = (self.c_name(), libc::O_CREAT | libc::O_EXCL);
        match self.kind {
            Kind::Mq => {
                let size = (get("maxmsg", 2) as i64, get("msgsize", 16) as i64);
                calls::mq_open(&name, flags | libc::O_RDWR, 0o600, Some(size)).map(drop)
            }
            Kind::Shm => {
                let file = calls::shm_open(&name, flags | libc::O_RDWR, 0o600)?;
                nix::unistd::ftruncate(file, get("size", 0) as i64)
            }
            Kind::Sem => Semaphore::open(&name, flags, 0o600, get("value", 0) as u32).map(drop),
            Kind::Fifo => not_here(self.kind, &Step::MakeWith(&[])),
            kind => {
                let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
                Object::make(kind, self.key(), flags, attributes)
            }
        }
    }

    fn open(&self, access: Access) -> Result<Open> {
        let name = self.c_name();
        let flags = access.flags();
        Ok(match self.kind {
            Kind::Mq => Open::Queue(calls::mq_open(&name, flags | libc::O_NONBLOCK, 0, None)?),
            Kind::Shm => Open::File(File::from(calls::shm_open(&name, flags, 0)?)),
            Kind::Sem => Open::Semaphore(Semaphore::open(&name, 0, 0, 0)?),
            Kind::Fifo => Open::File(files::open(&self.path(), flags, 0)?),
            kind => {
                let object = Object::get(kind, self.key(), bits(access))?;
                object.attach(access)?;
                Open::SystemV(object)
            }
        })
    }

    fn remove(&self) -> Result<()> {
        match self.kind {
            Kind::Mq => calls::mq_unlink(&self.c_name()),
            Kind::Shm => calls::shm_unlink(&self.c_name()),
            Kind::Sem => calls::sem_unlink(&self.c_name()),
            Kind::Fifo => nix::unistd::unlink(&self.path()),
            _ => self.object()?.remove(),
        }
    }

    /// What is left: mode, owner, content.
    pub fn left(&mut self) -> String {
        self.look().unwrap_or_else(|errno| match errno {
            Errno::ENOENT
            | Errno::EINVAL
            | Errno::EIDRM
            | Errno::EACCES
            | Errno::EISDIR
            | Errno::ENAMETOOLONG
            | Errno::ELOOP => "nothing".into(),
            errno => panic!("{:?}: {errno}", self.kind),
        })
    }

    fn look(&self) -> Result<String> {
        if self.kind.is_system_v() {
            return match self.key() {
                libc::IPC_PRIVATE => Ok(format!("{} without a key", system_v::count(self.kind))),
                _ => self.object()?.look(),
            };
        }
        if self.kind != Kind::Sem && matches!(&*self.name, b"" | b"." | b"..") {
            return Err(Errno::EISDIR);
        }
        let stat = nix::sys::stat::stat(&self.path())?;
        let owner = format!("{:04o},{}:{}", stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
        let content = match (self.kind, stat.st_mode & libc::S_IFMT) {
            (Kind::Mq, _) => {
                let flags = libc::O_RDWR | libc::O_NONBLOCK;
                let queue = calls::mq_open(&self.c_name(), flags, 0, None)?;
                let mut text = String::new();
                while let Ok((priority, data)) = calls::mq_receive(queue.as_fd(), 8192) {
                    text.push_str(&format!(" {priority}:{}", shown(&data)));
                }
                text
            }
            (Kind::Shm, libc::S_IFREG) => {
                let data = std::fs::read(self.path()).unwrap();
                format!(" {}", shown(&data))
            }
            (Kind::Sem, _) => {
                format!(" {}", Semaphore::open(&self.c_name(), 0, 0, 0)?.value()?)
            }
            (_, libc::S_IFIFO) => " pipe".into(),
            _ => " no object".into(),
        };
        Ok(owner + &content)
    }
}

/// What semget(2) and the like check.
fn bits(access: Access) -> i32 {
    match access {
        Access::R => 0o444,
        Access::W => 0o222,
        Access::RW => 0o666,
    }
}

impl Side for Native {
    fn step(&mut self, step: &Step) -> Result<String> {
        let nothing = |()| String::new();
        let kind = self.kind;
        match *step {
            Step::Named(name) => {
                self.name = name.to_vec();
                return Ok(String::new());
            }
            Step::Make(mode) => return self.make(mode, false).map(nothing),
            Step::MakeNew(mode) => return self.make(mode, true).map(nothing),
            Step::MakeWith(attributes) => return self.make_with(attributes).map(nothing),
            Step::Open(access) => {
                self.open = Some(self.open(access)?);
                return Ok(String::new());
            }
            Step::Try(access) if kind == Kind::Sem => {
                // sem_open(3) wants both in any case.
                return files::open(&self.path(), access.flags(), 0).map(|_| String::new());
            }
            Step::Try(access) => return self.open(access).map(|_| String::new()),
            Step::Remove => return self.remove().map(nothing),
            _ => {}
        }
        match (&self.open, *step) {
            (Some(Open::Queue(queue)), Step::Send(priority, text)) => {
                calls::mq_send(queue.as_fd(), text.as_bytes(), priority as u32).map(nothing)
            }
            (Some(Open::Queue(queue)), Step::SendLong(length)) => {
                calls::mq_send(queue.as_fd(), &vec![b'x'; length], 0).map(nothing)
            }
            (Some(Open::Queue(queue)), Step::Receive) => {
                calls::mq_receive(queue.as_fd(), 16).map(|(_, data)| shown(&data))
            }
            (Some(Open::Queue(queue)), Step::ReceiveInto(room)) => {
                calls::mq_receive(queue.as_fd(), room).map(|(_, data)| shown(&data))
            }
            (Some(Open::Semaphore(semaphore)), Step::Post) => semaphore.post().map(nothing),
            (Some(Open::Semaphore(semaphore)), Step::TryWait) => semaphore.try_wait().map(nothing),
            (Some(Open::Semaphore(semaphore)), Step::Value) => {
                semaphore.value().map(|value| value.to_string())
            }
            _ if kind.is_system_v() => self.object()?.step(step),
            (_, step) if step.is_by_name() => files::by_name(kind, &self.path(), &step),
            (Some(Open::File(file)), step) => files::by_descriptor(kind, file, &step),
            // It could not be opened.
            (None, _) => Err(Errno::EBADF),
            (_, step) => not_here(kind, &step),
        }
    }
}
