//! `create`: makes objects with attributes, one a line.
//!
//! ```text
//! mq/jobs maxmsg=100 msgsize=512 mode=0660
//! shm/buf size=1M
//! sysv/sem/0x99 nsems=4
//! # a comment
//! ```
//!
//! The first word is the path, the others are attributes: `mode=`, octal, and those of the kind
//! ([`Profile::attributes`]), numbers with `K`, `M`, `G` or `T` for powers of 1024. Words are quoted
//! as in a shell ([`escape::words`]). The default mode is 0666 without the writer's umask.
//!
//! A write holds whole lines; lines that a larger one cuts (4096 bytes or more, what programs write
//! at once from their buffers) go on in the next. A line with something wrong makes nothing, the
//! lines before it are done, and the count written says so.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Kinds, OneKind};
use crate::caller::Caller;
use crate::error::{Errno, Error, Result, fail};
use crate::escape;
use crate::kind::{Attributes, Profile};
use crate::vfs::{Attr, Change, Cx, Handle, How, Io, Object, Opened, Wait};

/// What is shorter than this is written on purpose (`PIPE_BUF`).
const BUFFER: usize = 4096;
/// The longest line.
const LONGEST: usize = 64 * 1024;

/// The file.
pub(super) struct Create {
    kinds: Kinds,
}

impl Create {
    pub(super) fn new(kinds: Kinds) -> Self {
        Self { kinds }
    }
}

impl Object for Create {
    fn attr(&self) -> Result<Attr> {
        Ok(Attr::file(0, 0o222))
    }

    fn change(&self, _caller: Caller, change: &Change) -> Result<()> {
        // `>` and touch(1) are no reason to fail.
        let fixed = change.mode.is_some() || change.uid.is_some() || change.gid.is_some();
        if fixed { fail(Errno::EPERM) } else { Ok(()) }
    }

    fn open(&self, cx: &Cx, how: &How) -> Result<Opened> {
        if how.read {
            return Err(Error::because(Errno::EACCES, "this is to be written"));
        }
        let handle =
            Open { kinds: Arc::clone(&self.kinds), opener: cx.caller, state: Mutex::default() };
        Ok(Opened { handle: Arc::new(handle), io: Io::Direct })
    }
}

/// The file, open.
struct Open {
    kinds: Kinds,
    opener: Caller,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The beginning of a line that goes on in the next write.
    begun: Vec<u8>,
    /// How many lines there have been.
    lines: usize,
}

impl Handle for Open {
    fn write(&self, cx: &Cx, _at: u64, data: &[u8], done: &mut usize) -> Result<()> {
        if cx.wait == Wait::Try {
            // There may be thousands of lines.
            return Err(Error::deferred());
        }
        let mut state = self.state.lock();
        while *done < data.len() {
            let rest = &data[*done..];
            let length = rest.iter().position(|byte| *byte == b'\n');
            if length.is_none() && data.len() >= BUFFER && state.begun.len() + rest.len() <= LONGEST
            {
                state.begun.extend_from_slice(rest);
                *done = data.len();
                return Ok(());
            }
            let mut line = std::mem::take(&mut state.begun);
            line.extend_from_slice(&rest[..length.unwrap_or(rest.len())]);
            make(&self.kinds, cx.caller, &line)
                .map_err(|error| at_line(state.lines + 1, &error))?;
            state.lines += 1;
            *done += length.map_or(rest.len(), |length| length + 1);
        }
        Ok(())
    }

    fn finishes(&self) -> Option<bool> {
        Some(!self.state.lock().begun.is_empty())
    }

    fn finish(&self, cx: &Cx) -> Result<()> {
        if cx.wait == Wait::Try && !self.state.lock().begun.is_empty() {
            return Err(Error::deferred());
        }
        let mut state = self.state.lock();
        let line = std::mem::take(&mut state.begun);
        make(&self.kinds, self.opener, &line).map_err(|error| at_line(state.lines + 1, &error))
    }
}

fn at_line(number: usize, error: &Error) -> Error {
    let sentence = error.what().unwrap_or(error.errno().desc());
    Error::because(error.errno(), format!("line {number}: {sentence}"))
}

fn wrong<T>(what: impl std::fmt::Display) -> Result<T> {
    Err(Error::because(Errno::EINVAL, what.to_string()))
}

/// Makes what a line asks for.
fn make(kinds: &Kinds, caller: Caller, line: &[u8]) -> Result<()> {
    if line.trim_ascii_start().starts_with(b"#") {
        return Ok(());
    }
    let words = match escape::words(line) {
        Ok(words) => words,
        Err(what) => return wrong(what),
    };
    let Some((path, attributes)) = words.split_first() else { return Ok(()) };
    let ((profile, kind), name) = split(kinds, path)?;
    let (mode, attributes) = parse(profile, attributes)?;
    let mode = mode.unwrap_or_else(|| 0o666 & !umask(caller));
    kind.make(caller, name, mode, &attributes).map_err(|error| {
        let path = escape::line(path);
        let sentence = error.what().unwrap_or(error.errno().desc());
        Error::because(error.errno(), format!("{path}: {sentence}"))
    })
}

/// The kind that a path names, and the name in it.
fn split<'a>(kinds: &'a Kinds, path: &'a [u8]) -> Result<(&'a OneKind, &'a [u8])> {
    for kind in kinds.iter() {
        let rest = path.strip_prefix(kind.0.path.as_bytes());
        let Some(name) = rest.and_then(|rest| rest.strip_prefix(b"/")) else { continue };
        if name.len() > 255 {
            return Err(Error::because(
                Errno::ENAMETOOLONG,
                format!("the name has {} bytes; 255 are the most", name.len()),
            ));
        }
        if name.contains(&b'/') || matches!(name, b"" | b"." | b"..") {
            return wrong(format!("\"{}\" is no name", escape::line(name)));
        }
        return Ok((kind, name));
    }
    let known: Vec<_> = kinds.iter().map(|(profile, _)| format!("{}/", profile.path)).collect();
    wrong(format!("\"{}\" is in none of {}", escape::line(path), known.join(", ")))
}

/// The mode and the attributes of a kind.
fn parse(profile: &'static Profile, words: &[Vec<u8>]) -> Result<(Option<u32>, Attributes)> {
    let (mut mode, mut attributes) = (None, Attributes::default());
    for word in words {
        let shown = escape::line(word);
        let text = std::str::from_utf8(word).unwrap_or_default();
        let Some((name, value)) = text.split_once('=') else {
            return wrong(format!("\"{shown}\" is not NAME=VALUE"));
        };
        if name == "mode" {
            let octal =
                !value.is_empty() && value.bytes().all(|digit| (b'0'..b'8').contains(&digit));
            mode = u32::from_str_radix(value, 8).ok().filter(|mode| octal && *mode <= 0o777);
            if mode.is_none() {
                return wrong(format!("\"{shown}\": a mode is octal, 0 to 0777"));
            }
            continue;
        }
        let Some(known) = profile.attributes.iter().find(|known| **known == name) else {
            let mut known = vec!["mode"];
            known.extend(profile.attributes);
            let (path, known) = (profile.path, known.join(", "));
            return wrong(format!("\"{shown}\": the attributes of {path} are {known}"));
        };
        match number(value) {
            Some(value) => attributes.set(known, value),
            None => return wrong(format!("\"{shown}\": that is no number (123, 64K, 1M)")),
        }
    }
    Ok((mode, attributes))
}

/// A number, `K`, `M`, `G` and `T` being powers of 1024.
fn number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        b'T' | b't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The umask of a process, which a write does not tell (proc(5)); 022 if it is not to be seen.
fn umask(caller: Caller) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", caller.pid));
    let status = status.unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    umask.and_then(|umask| u32::from_str_radix(umask.trim(), 8).ok()).unwrap_or(0o022)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;
    use crate::vfs::{Children, Dir, DirEntry, Item, Wait};

    /// A kind that remembers what was to be made.
    #[derive(Default)]
    struct Fake(Mutex<Vec<(String, u32, Attributes)>>);

    impl Kind for Fake {
        fn make(&self, _: Caller, name: &[u8], mode: u32, attributes: &Attributes) -> Result<()> {
            let name = String::from_utf8_lossy(name).into_owned();
            self.0.lock().push((name, mode, attributes.clone()));
            Ok(())
        }
    }

    impl Dir for Fake {
        fn attr(&self) -> Result<Attr> {
            Ok(Attr::directory(0, 0o755))
        }
        fn children(&self) -> Children {
            Children::Stable
        }
        fn find(&self, _name: &[u8]) -> Result<Attr> {
            fail(Errno::ENOENT)
        }
        fn item(self: Arc<Self>, _name: &[u8], _attr: &Attr) -> Result<Item> {
            fail(Errno::ENOENT)
        }
        fn list(&self) -> Result<Vec<DirEntry>> {
            Ok(Vec::new())
        }
    }

    static QUEUES: Profile = Profile {
        path: "mq",
        about: "queues",
        children: Children::Stable,
        attributes: &["maxmsg", "msgsize"],
        features: &[],
        open: |_| fail(Errno::EOPNOTSUPP),
    };

    const ME: Caller = Caller { uid: 0, gid: 0, pid: 0 };

    fn open() -> (Arc<Fake>, Open) {
        let fake = Arc::new(Fake::default());
        let kinds: Kinds = Arc::new([(&QUEUES, Arc::clone(&fake) as _)]);
        (fake, Open { kinds, opener: ME, state: Mutex::default() })
    }

    fn write(open: &Open, text: &str) -> (usize, Option<Error>) {
        let cx = Cx { caller: ME, wait: Wait::Block, nonblock: false };
        let mut done = 0;
        let outcome = open.write(&cx, 0, text.as_bytes(), &mut done);
        (done, outcome.err())
    }

    fn names(fake: &Fake) -> Vec<String> {
        fake.0.lock().iter().map(|(name, ..)| name.clone()).collect()
    }

    #[test]
    fn a_line_makes_an_object_with_its_attributes() {
        let (fake, open) = open();
        let text = "mq/jobs maxmsg=5 msgsize=1K mode=0640\n\n# nothing\n  mq/a\\ b\nmq/last";
        assert_eq!(write(&open, text).0, text.len());
        let objects = fake.0.lock();
        let (jobs, mode, attributes) = &objects[0];
        assert_eq!((jobs.as_str(), *mode), ("jobs", 0o640));
        assert_eq!((attributes.get("maxmsg"), attributes.get("msgsize")), (Some(5), Some(1024)));
        assert_eq!((objects[1].0.as_str(), objects[1].1), ("a b", 0o644));
        assert_eq!((objects[2].0.as_str(), objects.len()), ("last", 3));
    }

    #[test]
    fn a_bad_line_makes_nothing_and_says_where() {
        let long = format!("mq/{}", "x".repeat(256));
        let bad = [
            ("jobs", "is in none of"),
            ("mq", "is in none of"),
            ("mq/", "is no name"),
            ("mq/..", "is no name"),
            ("mq/a/b", "is no name"),
            ("mqx/a", "is in none of"),
            ("mq/a maxmsg", "NAME=VALUE"),
            ("mq/a maxmsg=", "no number"),
            ("mq/a maxmsg=x", "no number"),
            ("mq/a maxmsg=-1", "no number"),
            ("mq/a maxmsg=99999999999G", "no number"),
            ("mq/a size=5", "the attributes of mq are mode, maxmsg, msgsize"),
            ("mq/a mode=888", "octal"),
            ("mq/a mode=01777", "octal"),
            ("mq/a mode=+7", "octal"),
            ("mq/'a", "not closed"),
            (long.as_str(), "256 bytes"),
        ];
        for (line, sentence) in bad {
            let (fake, open) = open();
            let (done, error) = write(&open, &format!("mq/before\n{line}\nmq/after\n"));
            let error = error.unwrap().to_string();
            assert_eq!((done, names(&fake)), (10, vec!["before".to_owned()]), "{line}");
            assert!(error.contains("line 2: ") && error.contains(sentence), "{line}: {error}");
        }
    }

    #[test]
    fn a_line_that_a_full_buffer_cuts_goes_on_in_the_next_write() {
        let (fake, open) = open();
        let text = (0..1000).map(|number| format!("mq/{number} maxmsg=10\n")).collect::<Vec<_>>();
        let text = text.concat();
        for piece in text.as_bytes().chunks(4096) {
            let piece = std::str::from_utf8(piece).unwrap();
            assert_eq!(write(&open, piece).0, piece.len());
        }
        let expected: Vec<_> = (0..1000).map(|number| number.to_string()).collect();
        assert_eq!(names(&fake), expected);
        let cx = Cx { caller: ME, wait: Wait::Block, nonblock: false };
        write(&open, &format!("#{}\nmq/last", "x".repeat(5000)));
        assert_eq!(open.finishes(), Some(true));
        open.finish(&cx).unwrap();
        assert_eq!(names(&fake).last().unwrap(), "last");
    }
}
