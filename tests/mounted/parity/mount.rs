//! The mount's side.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;

use super::calls::Result;
use super::{Access, Kind, Side, Step, errno, files, not_here, shown};

/// An object, by its file.
pub struct Mounted {
    kind: Kind,
    root: PathBuf,
    name: Vec<u8>,
    file: Option<File>,
}

impl Mounted {
    pub fn new(kind: Kind, root: PathBuf) -> Self {
        Self { kind, root, name: kind.name().to_vec(), file: None }
    }

    fn path(&self) -> PathBuf {
        self.root.join(self.kind.dir()).join(OsStr::from_bytes(&self.name))
    }

    /// One of the object's files in ctl/.
    fn control(&self, name: &str) -> PathBuf {
        let object = self.root.join("ctl").join(self.kind.dir());
        object.join(OsStr::from_bytes(&self.name)).join(name)
    }

    fn make(&self, mode: u32, exclusive: bool) -> Result<()> {
        if self.kind == Kind::Fifo {
            let mode = nix::sys::stat::Mode::from_bits_truncate(mode);
            return nix::unistd::mkfifo(&self.path(), mode);
        }
        let exclusive = if exclusive { libc::O_EXCL } else { 0 };
        files::open(&self.path(), libc::O_CREAT | libc::O_RDWR | exclusive, mode).map(drop)
    }

    fn make_with(&self, attributes: &[(&str, u64)]) -> Result<()> {
        let name = String::from_utf8_lossy(&self.name);
        let mut line = format!("{}/{name} mode=0600", self.kind.dir());
        for (attribute, value) in attributes {
            line.push_str(&format!(" {attribute}={value}"));
        }
        line.push('\n');
        write(&files::open(&self.root.join("ctl/create"), libc::O_WRONLY, 0)?, &line)
    }

    fn opened(&self) -> Result<&File> {
        self.file.as_ref().ok_or(Errno::EBADF)
    }

    /// Writes to one of the object's files in ctl/.
    fn command(&self, name: &str, text: &str) -> Result<()> {
        write(&files::open(&self.control(name), libc::O_WRONLY, 0)?, text)
    }

    fn send(&self, tag: i64, data: &[u8]) -> Result<()> {
        let (dir, default) = if self.kind == Kind::Mq { ("priority", 0) } else { ("type", 1) };
        if tag == default {
            return nix::unistd::write(self.opened()?, data).map(drop);
        }
        let file = files::open(&self.control(&format!("{dir}/{tag}")), libc::O_WRONLY, 0)?;
        nix::unistd::write(file, data).map(drop)
    }

    fn receive_from(&self, name: &str) -> Result<String> {
        receive(&files::open(&self.control(name), libc::O_RDONLY, 0)?, 64)
    }
}

fn write(mut file: &File, text: &str) -> Result<()> {
    file.write_all(text.as_bytes()).map_err(|error| errno(&error))
}

/// Reads a message: up to the end of file.
fn receive(file: &File, room: usize) -> Result<String> {
    let (mut message, mut piece) = (Vec::new(), vec![0; room]);
    loop {
        match nix::unistd::read(file, &mut piece)? {
            0 => return Ok(shown(&message)),
            length => message.extend_from_slice(&piece[..length]),
        }
    }
}

impl Side for Mounted {
    fn step(&mut self, step: &Step) -> Result<String> {
        let nothing = |()| String::new();
        match *step {
            Step::Named(name) => {
                self.name = name.to_vec();
                Ok(String::new())
            }
            Step::Make(mode) => self.make(mode, false).map(nothing),
            Step::MakeNew(mode) => self.make(mode, true).map(nothing),
            Step::MakeWith(attributes) => self.make_with(attributes).map(nothing),
            Step::Open(access) => {
                self.file = Some(files::open(&self.path(), access.flags(), 0)?);
                Ok(String::new())
            }
            Step::Try(access) => {
                files::open(&self.path(), access.flags(), 0).map(|_| String::new())
            }
            Step::Remove => nix::unistd::unlink(&self.path()).map(nothing),

            Step::Send(tag, text) => self.send(tag, text.as_bytes()).map(nothing),
            Step::SendLong(length) => {
                nix::unistd::write(self.opened()?, &vec![b'x'; length]).map(|_| String::new())
            }
            Step::Receive => receive(self.opened()?, 64),
            Step::ReceiveInto(room) => receive(self.opened()?, room),
            Step::ReceiveOf(number) => self.receive_from(&format!("type/{number}")),
            Step::ReceiveExcept(number) => self.receive_from(&format!("except/{number}")),
            Step::Qbytes(qbytes) => self.command("qbytes", &qbytes.to_string()).map(nothing),

            Step::Post => write(self.opened()?, "+1").map(nothing),
            Step::TryWait => self.command("try", "-1").map(nothing),
            Step::Value => {
                let mut text = [0; 32];
                let file = files::open(&self.path(), Access::R.flags(), 0)?;
                let length = nix::unistd::read(file, &mut text)?;
                Ok(String::from_utf8_lossy(&text[..length]).trim().into())
            }
            Step::Operate(steps) => {
                let step = |(index, change): &(u16, i16)| match change {
                    0 => format!("{index} 0"),
                    change => format!("{index} {change:+}"),
                };
                let text: Vec<_> = steps.iter().map(step).collect();
                self.command("try", &text.join(",")).map(nothing)
            }
            Step::OperateMany(count) => {
                self.command("try", &vec!["0 +1"; count].join(",")).map(nothing)
            }
            Step::SetValue(index, value) => {
                write(self.opened()?, &format!("{index} = {value}")).map(nothing)
            }
            Step::SetValues(values) => {
                let text: Vec<_> = values.iter().map(ToString::to_string).collect();
                write(self.opened()?, &format!("= {}", text.join(" "))).map(nothing)
            }
            Step::Values => {
                let text = std::fs::read_to_string(self.path()).map_err(|error| errno(&error))?;
                Ok(format!("[{}]", text.trim().replace(' ', ", ")))
            }

            Step::By(_) | Step::Umask(_) => not_here(self.kind, step),
            _ if step.is_by_name() => files::by_name(self.kind, &self.path(), step),
            _ => files::by_descriptor(self.kind, self.opened()?, step),
        }
    }
}
