//! `lines` and `tagged`: a queue as a stream of lines.
//!
//! | operation | effect |
//! | --- | --- |
//! | `write` | each line is one message, without its newline, however the writes are cut; an unfinished last line is sent at the last close |
//! | `read` | see [`super::gather`]; never ends |
//!
//! A full queue blocks. `O_NONBLOCK` or interrupted, the count written tells what has been sent:
//! the lines that end in it. A line that is too long is `EMSGSIZE`, the lines before it having been
//! sent; it is dropped as a whole, the part that earlier writes have brought and the rest that later
//! ones bring included.
//!
//! An unfinished line for which there is no room waits for it when the file is closed, until the
//! queue is removed. `O_NONBLOCK`, the close is `EAGAIN` and the line is dropped.
//!
//! In `tagged`, each line begins with the message's tag and a tab; `EINVAL` where it does not.

use std::ops::RangeInclusive;

use parking_lot::Mutex;

use super::gather::Gather;
use super::message::Messages;
use crate::caller::Caller;
use crate::error::{Errno, Error, Result};
use crate::number;
use crate::proc;
use crate::quota::Kept;
use crate::turn::Turn;
use crate::vfs::{Attr, Cx, Handle, How, Wait};

/// The most lines that one attempt in a request loop sends; a worker goes on.
const MOST: usize = 4096;
/// A tag and a tab.
const TAG: usize = 21;

/// The tags that a queue's messages can have.
#[derive(Clone, Debug)]
pub struct Tags {
    /// What a tag is called: `priority`.
    pub name: &'static str,
    /// The tags that a message can be sent with.
    pub valid: RangeInclusive<i64>,
    /// The tag of a line without one.
    pub default: i64,
}

/// An open `lines` or `tagged`.
pub struct LinesFile<Q> {
    queue: Q,
    tags: &'static Tags,
    tagged: bool,
    /// Who opened it: what is unfinished at the end is theirs.
    opener: Caller,
    /// Whether it was opened for writing with `O_NONBLOCK`.
    hasty: bool,
    reader: Gather,
    /// Whose turn it is to write: one waits for the queue, the others for their turn.
    turn: Turn,
    unfinished: Mutex<Unfinished>,
}

/// The line that no newline has ended yet.
struct Unfinished {
    text: Kept,
    /// It has been refused: the rest of it is passed over.
    refused: bool,
    /// The thread that has written last.
    writer: u32,
}

impl<Q: Messages> LinesFile<Q> {
    /// Opens `queue` as lines, or as `tagged` lines.
    pub fn new(queue: Q, tags: &'static Tags, tagged: bool, cx: &Cx, how: &How) -> Self {
        Self {
            queue,
            tags,
            tagged,
            opener: cx.caller,
            hasty: how.write && cx.nonblock,
            reader: Gather::new(tagged, !how.write).charged_to(cx.caller.uid),
            turn: Turn::default(),
            unfinished: Mutex::new(Unfinished {
                text: Kept::new(cx.caller.uid),
                refused: false,
                writer: cx.caller.pid,
            }),
        }
    }

    /// Sends one line, given without its newline.
    fn send(&self, cx: &Cx, line: &[u8]) -> Result<()> {
        let (tag, message) = self.split(line)?;
        self.queue.send(cx, tag, message)
    }

    /// The tag and the message of a line.
    fn split<'line>(&self, line: &'line [u8]) -> Result<(i64, &'line [u8])> {
        if !self.tagged {
            return Ok((self.tags.default, line));
        }
        let parts = line.iter().position(|byte| *byte == b'\t');
        let parts = parts.map(|tab| (&line[..tab], &line[tab + 1..]));
        let valid = parts.and_then(|(tag, message)| {
            let tag = number::decimal(std::str::from_utf8(tag).ok()?)?.try_into().ok()?;
            self.tags.valid.contains(&tag).then_some((tag, message))
        });
        valid.ok_or_else(|| {
            // Nothing of the line itself, which is somebody's message, gets into a log.
            let Tags { name, valid, .. } = self.tags;
            let (first, last) = valid.clone().into_inner();
            let what =
                format!("a tagged line begins with its {name} ({first} to {last}) and a tab");
            Error::because(Errno::EINVAL, what)
        })
    }

    /// Adds the beginning of a line to `line`, unless it gets too long for this queue.
    fn keep(&self, line: &mut Kept, more: &[u8]) -> Result<()> {
        let longest = self.queue.longest()?;
        let length = line.len() + more.len();
        if length > longest + if self.tagged { TAG } else { 0 } {
            line.clear();
            return Err(Error::because(
                Errno::EMSGSIZE,
                format!("the line has {length} bytes or more, a message of this queue {longest}"),
            ));
        }
        line.extend(more)
    }
}

/// Whether this is the path of such a file, of whatever queue.
fn is_one(path: &std::path::Path) -> bool {
    path.ends_with("lines") || path.ends_with("tagged")
}

/// What an interrupted or non-blocking writer may do again with the same bytes.
fn can_be_repeated(error: &Error) -> bool {
    matches!(error.errno(), Errno::EAGAIN | Errno::EINTR)
}

impl<Q: Messages> Handle for LinesFile<Q> {
    fn attr(&self) -> Option<Result<Attr>> {
        // As often as not the number of bytes to come is not known; there is always more to come.
        None
    }

    fn read(&self, cx: &Cx, at: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        let longest = self.queue.longest()?;
        let receive = |cx: &Cx, message: &mut Vec<u8>| self.queue.receive(cx, message);
        self.reader.read(cx, at, size, out, longest, receive)
    }

    fn unread(&self, bytes: &[u8]) {
        self.reader.unread(&self.queue, bytes);
    }

    fn write(&self, cx: &Cx, _at: u64, data: &[u8], done: &mut usize) -> Result<()> {
        // A worker that goes on for one who may not wait does not wait either.
        let cx = Cx { wait: if cx.nonblock { Wait::Try } else { cx.wait }, ..*cx };
        let _turn = self.turn.take(cx.wait)?;
        // Nobody else has it during this turn.
        let mut unfinished = self.unfinished.lock();
        let Unfinished { text, refused, writer } = &mut *unfinished;
        *writer = cx.caller.pid;
        if *refused {
            let end = data[*done..].iter().position(|byte| *byte == b'\n');
            *refused = end.is_none();
            *done = end.map_or(data.len(), |end| *done + end + 1);
        }
        let mut sent = 0;
        while let Some(length) = data[*done..].iter().position(|byte| *byte == b'\n') {
            if sent == MOST && cx.wait == Wait::Try && !cx.nonblock {
                return Err(Error::deferred());
            }
            let line = &data[*done..*done + length];
            if text.is_empty() {
                self.send(&cx, line)?;
            } else {
                let before = text.len();
                self.keep(text, line)?;
                let outcome = self.send(&cx, text);
                match &outcome {
                    Err(error) if can_be_repeated(error) => text.truncate(before),
                    _ => text.clear(),
                }
                outcome?;
            }
            *done += length + 1;
            sent += 1;
        }
        let rest = &data[*done..];
        if !rest.is_empty() {
            let kept = self.keep(text, rest);
            // Where something has been written, that is what the writer is told, who then comes
            // again with this line.
            *refused = *done == 0 && kept.as_ref().is_err_and(|e| e.errno() == Errno::EMSGSIZE);
            kept?;
            *done = data.len();
        }
        Ok(())
    }

    fn poll(&self, events: i16) -> i16 {
        let readable = libc::POLLIN | libc::POLLRDNORM;
        if events & readable != 0 && self.reader.is_ready() {
            return events & readable | self.queue.poll(events & !readable);
        }
        self.queue.poll(events)
    }

    fn wait_ready(&self, events: i16) -> Result<()> {
        self.queue.wait_ready(events)
    }

    fn flushes(&self) -> bool {
        self.hasty
    }

    fn flush(&self, cx: &Cx) -> Result<()> {
        // Who writes at this moment has the file still.
        let unfinished = || self.unfinished.try_lock().filter(|line| !line.text.is_empty());
        let Some(writer) = unfinished().map(|line| line.writer) else { return Ok(()) };
        if cx.wait == Wait::Try {
            return Err(Error::deferred());
        }
        if proc::goes_on(writer, cx.caller.pid, is_one) {
            return Ok(());
        }
        let Some(mut unfinished) = unfinished() else { return Ok(()) };
        let cx = Cx { caller: self.opener, wait: Wait::Try, ..*cx };
        let outcome = self.send(&cx, &unfinished.text);
        unfinished.text.clear();
        match outcome {
            Err(error) if error.would_block() => Err(Error::not_now()),
            outcome => outcome,
        }
    }

    fn finish(&self, cx: &Cx) -> Result<()> {
        let mut unfinished = self.unfinished.lock();
        if unfinished.text.is_empty() {
            return Ok(());
        }
        let cx = Cx { caller: self.opener, ..*cx };
        let send = |(tag, message)| self.queue.send_left(&cx, tag, message);
        let outcome = self.split(&unfinished.text).and_then(send);
        if !outcome.as_ref().is_err_and(can_be_repeated) {
            unfinished.text.clear();
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::message::fake::{CX, Fake};
    use super::*;

    static TAGS: Tags = Tags { name: "priority", valid: 0..=9, default: 0 };

    fn file(queue: Fake, tagged: bool) -> LinesFile<Fake> {
        let how = How::new(libc::O_RDWR, Attr::file(1, 0o600));
        LinesFile::new(queue, &TAGS, tagged, &CX, &how)
    }

    fn write(file: &LinesFile<Fake>, data: &[u8]) -> (usize, Option<Errno>) {
        let mut done = 0;
        let outcome = file.write(&Cx { nonblock: true, ..CX }, 0, data, &mut done);
        (done, outcome.err().map(|error| error.errno()))
    }

    fn queued(file: &LinesFile<Fake>) -> Vec<(i64, String)> {
        let queued = file.queue.queued.lock();
        queued.iter().map(|(tag, data)| (*tag, String::from_utf8_lossy(data).into())).collect()
    }

    fn lines(file: &LinesFile<Fake>) -> Vec<String> {
        queued(file).into_iter().map(|(_, line)| line).collect()
    }

    #[test]
    fn lines_are_messages_wherever_the_writes_are_cut() {
        let text = b"one\n\ntwo and more\nlast";
        for cut in 0..=text.len() {
            for second in cut..=text.len() {
                let file = file(Fake::default(), false);
                for part in [&text[..cut], &text[cut..second], &text[second..]] {
                    assert_eq!(write(&file, part), (part.len(), None));
                }
                file.finish(&CX).unwrap();
                assert_eq!(lines(&file), ["one", "", "two and more", "last"]);
                file.finish(&CX).unwrap();
                assert_eq!(lines(&file).len(), 4, "only once");
            }
        }
    }

    #[test]
    fn the_count_tells_which_lines_were_sent() {
        let file = file(Fake { room: 2, ..Fake::default() }, false);
        assert_eq!(write(&file, b"a"), (1, None));
        assert_eq!(write(&file, b"b\nc\nd\ne"), (4, Some(Errno::EAGAIN)));
        assert_eq!(lines(&file), ["ab", "c"]);
        assert_eq!(write(&file, b"d\ne"), (0, Some(Errno::EAGAIN)));
        file.queue.queued.lock().clear();
        assert_eq!(write(&file, b"d\ne"), (3, None));
        assert_eq!(write(&file, b"f\n"), (2, None));
        assert_eq!(lines(&file), ["d", "ef"]);
    }

    #[test]
    fn a_full_queue_keeps_the_beginning_of_a_line() {
        let file = file(Fake { room: 0, ..Fake::default() }, false);
        assert_eq!(write(&file, b"a"), (1, None));
        assert_eq!(write(&file, b"b\n"), (0, Some(Errno::EAGAIN)));
        let file = LinesFile { queue: Fake::default(), ..file };
        assert_eq!(write(&file, b"c\n"), (2, None));
        assert_eq!(lines(&file), ["ac"]);
    }

    #[test]
    fn a_long_line_is_refused_whole_and_the_lines_before_it_are_sent() {
        let file = file(Fake { longest: 5, ..Fake::default() }, false);
        assert_eq!(write(&file, b"a\n1234"), (6, None));
        assert_eq!(write(&file, b"56\nb\n"), (0, Some(Errno::EMSGSIZE)));
        assert_eq!(write(&file, b"b\n"), (2, None));
        assert_eq!(write(&file, b"c\n123456"), (2, Some(Errno::EMSGSIZE)));
        assert_eq!(write(&file, b"12345\n"), (6, None));
        assert_eq!(lines(&file), ["a", "b", "c", "12345"]);
    }

    #[test]
    fn the_rest_of_a_long_line_is_no_line() {
        let file = file(Fake { longest: 5, ..Fake::default() }, false);
        assert_eq!(write(&file, b"123456"), (0, Some(Errno::EMSGSIZE)));
        assert_eq!(write(&file, b"7890"), (4, None));
        assert_eq!(write(&file, b"12\nnext\n"), (8, None));
        assert_eq!(write(&file, b"a\n123456"), (2, Some(Errno::EMSGSIZE)), "not told of yet");
        assert_eq!(write(&file, b"123456"), (0, Some(Errno::EMSGSIZE)));
        assert_eq!(write(&file, b"\nb"), (2, None));
        file.finish(&CX).unwrap();
        assert_eq!(lines(&file), ["next", "a", "b"]);
    }

    #[test]
    fn a_hurried_close_says_that_there_is_no_room() {
        let how = How::new(libc::O_WRONLY, Attr::file(1, 0o600));
        let cx = Cx { nonblock: true, wait: Wait::Block, ..CX };
        let file = |room| {
            // A process that has none of these files open.
            let me = Caller { pid: std::process::id(), ..CX.caller };
            let cx = Cx { caller: me, ..cx };
            (LinesFile::new(Fake { room, ..Fake::default() }, &TAGS, false, &cx, &how), cx)
        };
        let (full, cx) = file(0);
        assert!(full.flushes());
        full.write(&cx, 0, b"left", &mut 0).unwrap();
        assert!(full.flush(&Cx { wait: Wait::Try, ..cx }).unwrap_err().is_deferred());
        let error = full.flush(&cx).unwrap_err();
        assert_eq!((error.errno(), error.would_block()), (Errno::EAGAIN, false));
        full.finish(&cx).unwrap();
        let (free, cx) = file(1);
        free.write(&cx, 0, b"left", &mut 0).unwrap();
        // Another who has written to it may go on.
        free.unfinished.lock().writer = 1;
        free.flush(&cx).unwrap();
        assert_eq!(lines(&free), Vec::<String>::new());
        free.unfinished.lock().writer = cx.caller.pid;
        free.flush(&cx).unwrap();
        assert_eq!(lines(&free), ["left"]);
    }

    #[test]
    fn tagged_lines_begin_with_their_tag() {
        let file = file(Fake { longest: 5, ..Fake::default() }, true);
        assert_eq!(write(&file, b"3\tabc\n0\t\n9\t12345\n1\tla"), (21, None));
        assert_eq!(write(&file, b"st\n"), (3, None));
        let expected = [(3, "abc"), (0, ""), (9, "12345"), (1, "last")];
        assert_eq!(queued(&file), expected.map(|(tag, text)| (tag, text.to_owned())));
        for wrong in ["abc\n", "x\tabc\n", "10\tabc\n", "-1\tabc\n", "\tabc\n", "\n"] {
            let text = format!("2\tok\n{wrong}");
            assert_eq!(write(&file, text.as_bytes()), (5, Some(Errno::EINVAL)), "{wrong:?}");
        }
        let error = file.send(&CX, b"my secret").unwrap_err();
        assert_eq!(error.what(), Some("a tagged line begins with its priority (0 to 9) and a tab"));
    }

    #[test]
    fn a_crowd_of_lines_leaves_the_request_loop() {
        let file = file(Fake::default(), false);
        let (text, mut done) = (vec![b'\n'; MOST + 10], 0);
        let error = file.write(&CX, 0, &text, &mut done).unwrap_err();
        assert!(error.is_deferred());
        assert_eq!(done, MOST);
        file.write(&Cx { wait: Wait::Block, ..CX }, 0, &text, &mut done).unwrap();
        assert_eq!(done, text.len());
    }

    /// A line: any bytes but a newline, with a tag like those that there are, or without.
    fn line() -> impl Strategy<Value = Vec<u8>> {
        let bytes = vec(any::<u8>(), 0..10).prop_map(|mut bytes| {
            bytes.retain(|byte| *byte != b'\n');
            bytes
        });
        prop_oneof![
            bytes.clone(),
            ("[0-9]\t", bytes.clone()).prop_map(|(tag, bytes)| [tag.as_bytes(), &bytes].concat()),
            ("[+-]?[0-9a]{0,3}\t", bytes)
                .prop_map(|(tag, bytes)| [tag.as_bytes(), &bytes].concat()),
        ]
    }

    /// What is to be sent for a line, or why it is refused.
    fn expected(
        line: &[u8],
        tagged: bool,
        longest: usize,
    ) -> std::result::Result<(i64, Vec<u8>), Errno> {
        let (tag, message) = if tagged {
            let tab = line.iter().position(|byte| *byte == b'\t').ok_or(Errno::EINVAL)?;
            let tag = std::str::from_utf8(&line[..tab]).map_err(|_| Errno::EINVAL)?;
            // A number of one digit, however many zeros precede it.
            let zeros = tag.trim_start_matches('0');
            let value = if zeros.is_empty() && !tag.is_empty() { "0" } else { zeros };
            let tag = (0..=9_i64).find(|tag| tag.to_string() == value).ok_or(Errno::EINVAL)?;
            (tag, &line[tab + 1..])
        } else {
            (0, line)
        };
        if message.len() > longest { Err(Errno::EMSGSIZE) } else { Ok((tag, message.to_vec())) }
    }

    proptest! {
        #[test]
        fn every_line_is_sent_or_refused_whole_wherever_the_writes_are_cut(
            lines in vec(line(), 0..8), sizes in vec(1..12_usize, 1..10), tagged: bool,
            room in 1..4_usize, longest in prop_oneof![0..8_usize, Just(100)], ended: bool,
        ) {
            let file = file(Fake { room, longest, ..Fake::default() }, tagged);
            let mut text = lines.join(&b'\n');
            text.extend(ended.then_some(b'\n'));
            let (mut sent, mut refused, mut at) = (Vec::new(), 0, 0);
            let mut sizes = sizes.into_iter().cycle();
            while at < text.len() {
                let piece = &text[at..text.len().min(at + sizes.next().unwrap_or(1))];
                let (done, errno) = write(&file, piece);
                at += done;
                match errno {
                    None => prop_assert_eq!(done, piece.len()),
                    // Somebody reads.
                    Some(Errno::EAGAIN) => {
                        prop_assert_eq!(file.queue.queued.lock().len(), room);
                        sent.extend(file.queue.queued.lock().pop_front());
                    }
                    // Something has been written: the writer comes again with the rest.
                    Some(_) if done > 0 => {}
                    // The writer gives this line up, as far as it knows it.
                    Some(_) => {
                        refused += 1;
                        let end = piece.iter().position(|byte| *byte == b'\n');
                        at += end.map_or(piece.len(), |end| end + 1);
                    }
                }
            }
            while let Err(error) = file.finish(&CX) {
                match error.errno() {
                    Errno::EAGAIN => sent.extend(file.queue.queued.lock().pop_front()),
                    _ => refused += 1,
                }
            }
            sent.extend(file.queue.queued.lock().drain(..));
            // No newline ends what is not there.
            let unended = if ended { None } else { lines.last().filter(|line| line.is_empty()) };
            let there = &lines[..lines.len() - unended.map_or(0, |_| 1)];
            // A newline alone is an empty line.
            let alone = [vec![]];
            let there = if lines.is_empty() && ended { &alone } else { there };
            let all: Vec<_> = there.iter().map(|line| expected(line, tagged, longest)).collect();
            prop_assert_eq!(refused, all.iter().filter(|line| line.is_err()).count());
            prop_assert_eq!(sent, all.into_iter().flatten().collect::<Vec<_>>());
        }

        #[test]
        fn what_is_written_is_read(
            lines in vec(vec(any::<u8>(), 0..10), 0..8), tagged: bool,
            writes in vec(1..12_usize, 1..10), reads in vec(1..12_usize, 1..10),
        ) {
            let mut text = Vec::new();
            for (number, line) in lines.iter().enumerate() {
                if tagged {
                    text.extend(format!("{number}\t").bytes());
                }
                text.extend(line.iter().copied().filter(|byte| *byte != b'\n').chain([b'\n']));
            }
            let file = file(Fake::default(), tagged);
            let (mut rest, mut writes) = (&text[..], writes.into_iter().cycle());
            while !rest.is_empty() {
                let (piece, later) = rest.split_at(rest.len().min(writes.next().unwrap_or(1)));
                prop_assert_eq!(write(&file, piece), (piece.len(), None));
                rest = later;
            }
            let (mut read, mut reads) = (Vec::new(), reads.into_iter().cycle());
            while file.read(&CX, 0, reads.next().unwrap_or(1), &mut read).is_ok() {}
            prop_assert_eq!(read, text);
        }
    }
}
