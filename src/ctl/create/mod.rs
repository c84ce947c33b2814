//! `create`: makes objects with attributes, one a line.
//!
//! [`grammar`] says what a line looks like. What is made is the opener's, whoever writes: a program
//! of another user's that has inherited the open file (a setuid one's messages, say) makes nothing,
//! `EPERM`. The default mode is 0666 without the umask that the opener had at the open.
//!
//! A line is done when its newline is written, however the writes are cut; the last one needs none
//! and is done at the close. A line with something wrong makes nothing, the lines before it are
//! done, and the count written says so. A line that is wrong whatever comes after it is refused
//! before its end has come, and the rest of it is passed over.
//!
//! What is written first and by itself without a newline, `printf 'mq/jobs maxmsg=5'`, is done at
//! once if it can be a whole line, so that its writer is told what is wrong. If it goes on all the
//! same, what it has made is removed, and it is done anew when it ends.

pub mod grammar;

use std::sync::Arc;

use parking_lot::Mutex;

use super::Kinds;
use crate::caller::Caller;
use crate::error::{Errno, Error, Result, fail};
use crate::escape;
use crate::kind::control::as_opener;
use crate::proc;
use crate::quota::Kept;
use crate::vfs::{Attr, Change, Cx, Handle, How, Io, Object, Opened, Wait};

/// The longest line that is kept until its end comes.
const LONGEST: usize = 64 * 1024;
const TOO_LONG: &str = "a line of more than 65536 bytes is too long to be written in pieces";

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

    fn change(&self, _cx: &Cx, change: &Change) -> Result<()> {
        // `>` and touch(1) are no reason to fail.
        let fixed = change.mode.is_some() || change.uid.is_some() || change.gid.is_some();
        if fixed { fail(Errno::EPERM) } else { Ok(()) }
    }

    fn open(&self, cx: &Cx, how: &How) -> Result<Opened> {
        if how.read {
            return Err(Error::because(Errno::EACCES, "this is to be written"));
        }
        let handle = Open::new(Arc::clone(&self.kinds), cx.caller, umask(cx.caller));
        Ok(Opened { handle: Arc::new(handle), io: Io::Direct })
    }
}

/// The file, open.
struct Open {
    kinds: Kinds,
    opener: Caller,
    umask: u32,
    state: Mutex<State>,
}

struct State {
    /// The line that no newline has ended yet.
    begun: Kept,
    /// Who has written to it last; they have the opener's ids.
    writer: Caller,
    /// The line that is being written has been refused: the rest of it is passed over.
    refused: bool,
    /// How many lines there have been.
    lines: usize,
    /// The last line, if it was done before its newline had come.
    early: Option<Early>,
}

/// A line that was done before its newline had come, and what it has made.
struct Early {
    line: Kept,
    kind: usize,
    name: Vec<u8>,
}

impl Open {
    fn new(kinds: Kinds, opener: Caller, umask: u32) -> Self {
        let begun = Kept::new(opener.uid);
        let state = State { begun, writer: opener, refused: false, lines: 0, early: None };
        Self { kinds, opener, umask, state: Mutex::new(state) }
    }

    /// Makes what a line asks for.
    fn make(&self, state: &mut State, caller: Caller, line: &[u8]) -> Result<()> {
        let number = state.lines + 1;
        make(&self.kinds, caller, self.umask, line).map_err(|error| at_line(number, &error))?;
        state.lines = number;
        Ok(())
    }

    /// Does what is written by itself without a newline, if it can be a whole line; `false` if not.
    fn make_early(&self, state: &mut State, caller: Caller, line: &[u8]) -> Result<bool> {
        let profiles = self.kinds.iter().map(|(profile, _)| *profile);
        let Ok(Some(order)) = grammar::parse(line, profiles) else { return Ok(false) };
        let mut kept = Kept::new(self.opener.uid);
        kept.extend(line)?;
        self.make(state, caller, line)?;
        state.early = Some(Early { line: kept, kind: order.kind, name: order.name });
        Ok(true)
    }

    /// Takes back what a line has made that goes on after all.
    fn go_on(&self, state: &mut State, caller: Caller, early: Early) -> Result<()> {
        let Early { line, kind, name } = early;
        if let Some((_, kind)) = self.kinds.get(kind) {
            kind.remove(caller, &name)?;
        }
        state.lines -= 1;
        state.begun = line;
        Ok(())
    }

    /// Keeps a line, or more of it, that goes on in the next write, if it can become one.
    fn begin(&self, state: &mut State, more: &[u8]) -> Result<()> {
        if state.begun.len() + more.len() > LONGEST {
            return Err(Error::because(Errno::EINVAL, TOO_LONG));
        }
        state.begun.extend(more)?;
        grammar::may_become(&state.begun, self.kinds.iter().map(|(profile, _)| *profile))
    }

    /// Makes what the line that has no newline asks for.
    fn end(&self, state: &mut State) -> Result<()> {
        if state.begun.is_empty() {
            return Ok(());
        }
        let line = state.begun.to_vec();
        state.begun.clear();
        // The limits are those of a process: of one that is there still.
        let [writer, opener] = [state.writer, self.opener];
        let there =
            [writer, opener].into_iter().find(|one| one.pid == 0 || proc::is_there(one.pid));
        let caller = there.ok_or_else(|| {
            let reason = "a line without a newline, and whoever has written it is gone";
            at_line(state.lines + 1, &Error::because(Errno::EPERM, reason))
        })?;
        self.make(state, caller, &line)
    }
}

/// Whether this is the path of such a file, in whatever mount.
fn is_one(path: &std::path::Path) -> bool {
    path.ends_with("ctl/create")
}

impl Handle for Open {
    fn write(&self, cx: &Cx, _at: u64, data: &[u8], done: &mut usize) -> Result<()> {
        as_opener(cx.caller, self.opener)?;
        if cx.wait == Wait::Try {
            // There may be thousands of lines.
            return Err(Error::deferred());
        }
        let mut state = self.state.lock();
        let state = &mut *state;
        state.writer = cx.caller;
        if state.refused {
            let end = data.iter().position(|byte| *byte == b'\n');
            state.refused = end.is_none();
            *done = end.map_or(data.len(), |end| end + 1);
        }
        if let Some(early) = state.early.take().filter(|_| !data.is_empty()) {
            match data[0] {
                b'\n' => *done = 1,
                _ => self.go_on(state, cx.caller, early)?,
            }
        }
        let is_first = state.lines == 0 && state.begun.is_empty();
        while *done < data.len() {
            let rest = &data[*done..];
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                if is_first && *done == 0 && self.make_early(state, cx.caller, rest)? {
                    *done = data.len();
                    return Ok(());
                }
                if let Err(error) = self.begin(state, rest) {
                    // Where something has been made, that is what the writer is told, who then
                    // comes again with this line.
                    state.refused = *done == 0;
                    state.begun.clear();
                    return Err(at_line(state.lines + 1, &error));
                }
                *done = data.len();
                return Ok(());
            };
            if state.begun.is_empty() {
                self.make(state, cx.caller, &rest[..length])?;
            } else {
                let line = [&state.begun[..], &rest[..length]].concat();
                state.begun.clear();
                self.make(state, cx.caller, &line)?;
            }
            *done += length + 1;
        }
        Ok(())
    }

    fn flushes(&self) -> bool {
        true
    }

    fn flush(&self, cx: &Cx) -> Result<()> {
        let (begun, writer) = {
            let state = self.state.lock();
            (!state.begun.is_empty(), state.writer.pid)
        };
        if !begun {
            return Ok(());
        }
        if cx.wait == Wait::Try {
            return Err(Error::deferred());
        }
        // More of the line may come.
        if proc::goes_on(writer, cx.caller.pid, is_one) {
            return Ok(());
        }
        self.end(&mut self.state.lock())
    }

    fn finish(&self, cx: &Cx) -> Result<()> {
        let mut state = self.state.lock();
        if cx.wait == Wait::Try && !state.begun.is_empty() {
            return Err(Error::deferred());
        }
        self.end(&mut state)
    }
}

fn at_line(number: usize, error: &Error) -> Error {
    let sentence = error.what().unwrap_or(error.errno().desc());
    Error::because(error.errno(), format!("line {number}: {sentence}"))
}

/// Makes what a line asks for.
fn make(kinds: &Kinds, caller: Caller, umask: u32, line: &[u8]) -> Result<()> {
    let Some(order) = grammar::parse(line, kinds.iter().map(|(profile, _)| *profile))? else {
        return Ok(());
    };
    let Some((profile, kind)) = kinds.get(order.kind) else { return fail(Errno::EINVAL) };
    let mode = order.mode.unwrap_or(0o666 & !umask);
    kind.make(caller, &order.name, mode, &order.attributes).map_err(|error| {
        let (directory, name) = (profile.path, escape::line(&order.name));
        let sentence = error.what().unwrap_or(error.errno().desc());
        Error::because(error.errno(), format!("{directory}/{name}: {sentence}"))
    })
}

/// The umask of a process, which an open does not tell (proc(5)); 022 if it is not to be seen.
fn umask(caller: Caller) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", caller.pid));
    let status = status.unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    umask.and_then(|umask| u32::from_str_radix(umask.trim(), 8).ok()).unwrap_or(0o022)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::kind::{Attributes, Kind, Profile};
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
        fn list(&self, _wait: Wait) -> Result<Vec<DirEntry>> {
            Ok(Vec::new())
        }
        fn remove(&self, _: Caller, name: &[u8]) -> Result<()> {
            let (last, ..) = self.0.lock().pop().unwrap();
            assert_eq!(last.as_bytes(), name);
            Ok(())
        }
    }

    static QUEUES: Profile = Profile {
        path: "mq",
        about: "queues",
        texts: false,
        children: Children::Stable,
        attributes: &["maxmsg", "msgsize"],
        features: &[],
        open: |_| fail(Errno::EOPNOTSUPP),
    };

    const ME: Caller = Caller { uid: 0, gid: 0, pid: 0 };

    fn open() -> (Arc<Fake>, Open) {
        let fake = Arc::new(Fake::default());
        let kinds: Kinds = Arc::new([(&QUEUES, Arc::clone(&fake) as _)]);
        (fake, Open::new(kinds, ME, 0o022))
    }

    fn write(open: &Open, text: &str) -> (usize, Option<Error>) {
        write_bytes(open, text.as_bytes())
    }

    fn write_bytes(open: &Open, text: &[u8]) -> (usize, Option<Error>) {
        let mut done = 0;
        let outcome = open.write(&cx(), 0, text, &mut done);
        (done, outcome.err())
    }

    fn cx() -> Cx {
        Cx { caller: ME, wait: Wait::Block, nonblock: false }
    }

    fn names(fake: &Fake) -> Vec<String> {
        fake.0.lock().iter().map(|(name, ..)| name.clone()).collect()
    }

    #[test]
    fn a_line_makes_an_object_with_its_attributes() {
        let (fake, open) = open();
        let text = "mq/jobs maxmsg=5 msgsize=1K mode=0640\n\n# nothing\n  mq/a\\ b\nmq/last";
        assert_eq!(write(&open, text).0, text.len());
        assert_eq!(names(&fake), ["jobs", "a b"]);
        open.finish(&cx()).unwrap();
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
        write(&open, &format!("#{}\nmq/last", "x".repeat(5000)));
        open.finish(&cx()).unwrap();
        assert_eq!(names(&fake).last().unwrap(), "last");
    }

    #[test]
    fn a_line_that_gets_too_long_makes_nothing() {
        let (fake, open) = open();
        assert_eq!(write(&open, &format!("{:60000}", "mq/a")).0, 60000);
        // Together that would be a line, but there may be more of it to come.
        let (done, error) = write(&open, &" ".repeat(60000));
        assert_eq!((done, error.unwrap().errno()), (0, Errno::EINVAL));
        assert_eq!((names(&fake), open.state.lock().begun.len()), (vec![], 0));
        // The rest of it is no line.
        assert_eq!(write(&open, "mq/rest").0, 7);
        assert_eq!(write(&open, "\nmq/b\n").0, 6);
        assert_eq!(names(&fake), ["b"]);
        // Nobody has been told of what follows a line that was made.
        let (done, error) = write(&open, &format!("mq/c\nmq/d{}", " ".repeat(70_000)));
        assert_eq!((done, error.unwrap().errno()), (5, Errno::EINVAL));
        assert_eq!(write(&open, "mq/e\n").0, 5);
        assert_eq!(names(&fake), ["b", "c", "e"]);
    }

    #[test]
    fn only_the_opener_makes_something() {
        let (fake, open) = open();
        for caller in [Caller { uid: 1, ..ME }, Caller { gid: 1, ..ME }] {
            let error = open.write(&Cx { caller, ..cx() }, 0, b"mq/a\n", &mut 0).unwrap_err();
            assert_eq!(error.errno(), Errno::EPERM);
        }
        assert_eq!(names(&fake), Vec::<String>::new());
    }

    #[test]
    fn a_line_without_a_newline_is_made_at_the_close_and_says_what_is_wrong() {
        let (fake, open) = open();
        write(&open, "mq/a\nmq/b mo");
        assert_eq!(names(&fake), ["a"]);
        let error = open.finish(&cx()).unwrap_err();
        assert_eq!(error.errno(), Errno::EINVAL);
        assert!(error.to_string().contains("line 2: "), "{error}");
        open.finish(&cx()).unwrap();
        // What is wrong in any case is said at once.
        let (done, error) = write(&open, "mq/b mode=8");
        assert_eq!((done, error.unwrap().errno()), (0, Errno::EINVAL));
        assert_eq!(write(&open, " maxmsg=1\n").0, 10);
        open.finish(&cx()).unwrap();
        // Whoever might have written it is gone, and so are their limits.
        let gone = Open { opener: Caller { pid: u32::MAX, ..ME }, ..open };
        gone.state.lock().begun.extend(b"mq/c").unwrap();
        gone.state.lock().writer.pid = u32::MAX;
        assert_eq!(gone.finish(&cx()).unwrap_err().errno(), Errno::EPERM);
        assert_eq!(names(&fake), ["a"]);
    }

    #[test]
    fn what_is_written_by_itself_is_a_line_unless_it_goes_on() {
        let (fake, open) = open();
        assert_eq!(write(&open, "mq/a maxmsg=5").0, 13);
        assert_eq!(names(&fake), ["a"]);
        assert_eq!(write(&open, "0 msgsize=7\n").0, 12);
        let (name, _, attributes) = fake.0.lock()[0].clone();
        assert_eq!((name.as_str(), names(&fake).len()), ("a", 1));
        assert_eq!((attributes.get("maxmsg"), attributes.get("msgsize")), (Some(50), Some(7)));
        open.finish(&cx()).unwrap();

        let (fake, open) = self::open();
        write(&open, "mq/b");
        write(&open, "\nmq/c\n");
        open.finish(&cx()).unwrap();
        assert_eq!(names(&fake), ["b", "c"]);
    }

    proptest! {
        #[test]
        fn the_lines_before_the_first_bad_one_are_done_and_no_other(
            good in 0..5_usize, bad: Vec<u8>, after in 0..3_usize,
        ) {
            let bad: Vec<u8> = bad.into_iter().filter(|byte| *byte != b'\n').collect();
            let refused = grammar::parse(&bad, [&QUEUES].into_iter()).is_err();
            let lines = (0..good).map(|number| format!("mq/{number}\n").into_bytes());
            let before: Vec<u8> = lines.flatten().collect();
            let later: Vec<u8> = (0..after).flat_map(|_| b"mq/later\n".to_vec()).collect();
            let text = [&before[..], &bad, b"\n", &later].concat();
            let (fake, open) = open();
            let (done, error) = write_bytes(&open, &text);
            let count = if refused { before.len() } else { text.len() };
            prop_assert_eq!((done, error.is_some()), (count, refused));
            let expected: Vec<_> = (0..good).map(|number| number.to_string()).collect();
            let made = names(&fake);
            let (first, rest) = made.split_at(good);
            prop_assert_eq!(first, &expected[..]);
            prop_assert!(!refused || rest.is_empty());
        }

        #[test]
        fn writes_may_cut_the_lines_anywhere(
            lines in vec((0..300_usize, any::<bool>()), 1..12), sizes in vec(1..600_usize, 1..9), ended: bool,
        ) {
            let mut text = Vec::new();
            let mut expected = Vec::new();
            for (number, (padding, comment)) in lines.iter().enumerate() {
                let name = if *comment { format!("#mq/{number}") } else { format!("mq/{number}") };
                text.push(format!("{name} {:padding$}", ""));
                expected.extend((!comment).then(|| number.to_string()));
            }
            let mut text = text.join("\n");
            text.extend(ended.then_some('\n'));
            let (fake, open) = open();
            let mut rest = text.as_str();
            for size in sizes.into_iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, later) = rest.split_at(rest.len().min(size));
                prop_assert_eq!(write(&open, piece).0, piece.len());
                rest = later;
            }
            {
                let state = open.state.lock();
                prop_assert_eq!(state.begun.is_empty() && state.early.is_none(), ended);
            }
            open.finish(&cx()).unwrap();
            prop_assert_eq!(names(&fake), expected);
        }
    }
}
