//! Reading messages as lines.
//!
//! Each message is followed by a newline, unless it ends with one; tagged, it comes after its tag
//! and a tab. A read gives at most one message, so that nothing is taken that another reader should
//! have had; one that asks for [`MANY`] bytes or more gets as many as there are at once. What has
//! been read last is kept for shells that read ahead and seek back; a read ahead of the position is
//! end of file and takes nothing.

use parking_lot::Mutex;

use super::message::{MESSAGE_MAX, Messages, give_back};
use crate::error::Result;
use crate::memory;
use crate::quota::Charge;
use crate::vfs::{Cx, Wait};

/// A read that asks for this much may get several messages: `cat` asks for 128 KiB, what reads
/// line by line for 4 KiB.
const MANY: usize = 64 * 1024;
/// The most messages that one read takes: what one caller may keep a request loop busy with.
const MOST: usize = 4096;
/// A tag, a tab and a newline.
const EXTRA: usize = 22;

/// The reading side of an open file.
pub struct Gather {
    tagged: bool,
    /// Whether the file has a position.
    seekable: bool,
    state: Mutex<State>,
}

/// Where the reader is. Positions are those of the file.
#[derive(Default)]
struct State {
    /// What has been taken and is not read yet, and what was read last.
    text: Vec<u8>,
    /// The position of the text's first byte.
    start: u64,
    /// The position of the next byte to be read.
    position: u64,
    /// How many bytes the last read gave.
    last: usize,
    /// The messages in the text; those that the last read began are among them.
    taken: Vec<Taken>,
    /// For the text; of the opener, or of whoever reads first.
    charge: Option<Charge>,
}

impl Drop for State {
    fn drop(&mut self) {
        memory::freed(self.text.capacity());
    }
}

/// Where a message stands.
#[derive(Clone, Copy)]
struct Taken {
    tag: i64,
    /// Where its line begins, the message itself, and what comes after the line.
    begin: u64,
    message: u64,
    end: u64,
    length: usize,
}

/// Messages as lines, not placed yet: their positions count from 0.
#[derive(Default)]
pub struct Batch {
    /// The lines.
    pub text: Vec<u8>,
    taken: Vec<Taken>,
}

impl Batch {
    /// Adds a message as a line.
    pub fn push(&mut self, tagged: bool, tag: i64, message: &[u8]) {
        let begin = self.text.len() as u64;
        self.text.reserve(message.len() + EXTRA);
        if tagged {
            self.text.extend_from_slice(tag.to_string().as_bytes());
            self.text.push(b'\t');
        }
        let at = self.text.len() as u64;
        self.text.extend_from_slice(message);
        if message.last() != Some(&b'\n') {
            self.text.push(b'\n');
        }
        let end = self.text.len() as u64;
        self.taken.push(Taken { tag, begin, message: at, end, length: message.len() });
    }
}

impl State {
    fn end(&self) -> u64 {
        self.start + self.text.len() as u64
    }

    /// Serves a read from what has been taken; `false` if a message is to be taken first.
    fn serve(&mut self, at: u64, size: usize, out: &mut Vec<u8>) -> bool {
        if at > self.position || at < self.start {
            // Nothing has come there yet, or nothing is there any more.
            return true;
        }
        let rest = &self.text[(at - self.start) as usize..];
        if rest.is_empty() {
            return false;
        }
        let rest = &rest[..rest.len().min(size)];
        out.extend_from_slice(rest);
        let reached = at + rest.len() as u64;
        if reached > self.position {
            // What lies behind has been delivered by an earlier read.
            self.taken.retain(|taken| taken.end > at);
            self.position = reached;
        }
        self.last = rest.len();
        true
    }

    /// Adds what has been taken, behind what is there.
    fn add(&mut self, batch: Batch) {
        let end = self.end();
        if end == self.position {
            self.text.clear();
            self.taken.clear();
            self.start = end;
        }
        self.taken.extend(batch.taken.iter().map(|taken| Taken {
            begin: taken.begin + end,
            message: taken.message + end,
            end: taken.end + end,
            ..*taken
        }));
        if self.text.is_empty() {
            self.text = batch.text;
        } else {
            self.text.extend_from_slice(&batch.text);
        }
    }

    /// The charge for what is kept, of `uid` if nobody has been charged yet.
    fn charge(&mut self, uid: u32) -> &mut Charge {
        self.charge.get_or_insert_with(|| Charge::new(uid))
    }

    /// Takes out the messages whose lines begin at `from` or later.
    fn cut(&mut self, from: u64) -> Vec<(i64, Vec<u8>)> {
        let Some(first) = self.taken.iter().position(|taken| taken.begin >= from) else {
            return Vec::new();
        };
        let messages = self.taken.split_off(first);
        let data = |taken: &Taken| {
            let at = (taken.message - self.start) as usize;
            (taken.tag, self.text[at..at + taken.length].to_vec())
        };
        let back = messages.iter().map(data).collect();
        self.text.truncate((messages[0].begin - self.start) as usize);
        back
    }
}

impl Gather {
    /// For a file with or without a position.
    pub fn new(tagged: bool, seekable: bool) -> Self {
        Self { tagged, seekable, state: Mutex::default() }
    }

    /// The same, with what it keeps charged to this user, and not to whoever reads first.
    #[must_use]
    pub fn charged_to(self, uid: u32) -> Self {
        self.state.lock().charge(uid);
        self
    }

    /// Reads. `receive` takes a message as [`Messages::receive`] does; `longest` is the longest
    /// that may come. `ENOMEM`, and no message has been taken, if the user has no memory left for
    /// that ([`Quota::memory`](crate::quota::Quota::memory)).
    pub fn read(
        &self,
        cx: &Cx,
        at: u64,
        size: usize,
        out: &mut Vec<u8>,
        longest: usize,
        mut receive: impl FnMut(&Cx, &mut Vec<u8>) -> Result<i64>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        let here = if self.seekable { at } else { state.position };
        if state.serve(here, size, out) {
            return Ok(());
        }
        let mut charge = Charge::new(state.charge(cx.caller.uid).uid());
        // Nobody is to wait for the lock while this waits for a message.
        drop(state);
        charge.set(longest.min(MESSAGE_MAX) + EXTRA)?;
        let (mut batch, mut message) = (Batch::default(), Vec::new());
        let tag = receive(cx, &mut message)?;
        batch.push(self.tagged, tag, &message);
        if size >= MANY {
            let at_once = Cx { wait: Wait::Try, ..*cx };
            while batch.taken.len() < MOST && batch.text.len() + longest + EXTRA <= size {
                if charge.set(batch.text.len() + longest.min(MESSAGE_MAX) + EXTRA).is_err() {
                    break;
                }
                // What goes wrong here, the next read will say.
                let Ok(tag) = receive(&at_once, &mut message) else { break };
                batch.push(self.tagged, tag, &message);
            }
        }
        let mut state = self.state.lock();
        state.add(batch);
        let kept = state.text.capacity() + state.taken.capacity() * size_of::<Taken>();
        let kept_charge = state.charge(cx.caller.uid);
        kept_charge.absorb(charge);
        // What little more it may be has been taken already.
        let _ = kept_charge.set(kept);
        let here = if self.seekable { at } else { state.position };
        state.serve(here, size, out);
        Ok(())
    }

    /// Whether a read would be answered without taking a message.
    pub fn is_ready(&self) -> bool {
        let state = self.state.lock();
        state.position < state.end()
    }

    /// Gives back the messages whose lines began in the last read, which gave `bytes`. The rest of a
    /// line that began earlier stays for those who share the file.
    pub fn unread(&self, queue: &impl Messages, bytes: &[u8]) {
        let mut state = self.state.lock();
        let from = state.position.checked_sub(bytes.len() as u64);
        // Those who share the file may have read on since; if they were given the same, one of the
        // two goes back, which of them is all one.
        let is_last = |from: &u64| {
            let at = from.checked_sub(state.start).map(|at| at as usize);
            let given = at.and_then(|at| state.text.get(at..at + bytes.len()));
            state.last == bytes.len() && given == Some(bytes)
        };
        let Some(from) = from.filter(is_last) else { return };
        state.position = from;
        let messages = state.cut(from);
        drop(state);
        for (tag, data) in messages {
            give_back(queue, tag, &data);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::message::fake::{CX, Fake};
    use super::*;
    use crate::error::Errno;
    use crate::quota::Quota;

    fn queue(messages: &[&[u8]]) -> Fake {
        let queue = Fake::default();
        for (tag, message) in messages.iter().enumerate() {
            queue.send(&CX, tag as i64, message).unwrap();
        }
        queue
    }

    fn read(gather: &Gather, queue: &Fake, at: u64, size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        gather
            .read(&CX, at, size, &mut out, 100, |cx, message| queue.receive(cx, message))
            .unwrap();
        out
    }

    #[test]
    fn each_message_ends_with_a_newline_and_none_gets_a_second() {
        let (gather, queue) = (Gather::new(false, true), queue(&[b"a", b"b\n", b"", b"c\nd"]));
        assert_eq!(read(&gather, &queue, 0, MANY), b"a\nb\n\nc\nd\n");
    }

    #[test]
    fn a_small_read_takes_one_message() {
        let (gather, queue) = (Gather::new(false, true), queue(&[b"a", b"b"]));
        assert_eq!(read(&gather, &queue, 0, MANY - 1), b"a\n");
        assert_eq!(queue.queued().unwrap(), 1);
        assert_eq!(read(&gather, &queue, 2, MANY - 1), b"b\n");
    }

    #[test]
    fn a_large_read_takes_no_message_that_might_not_fit() {
        let message = [b'x'; 100];
        let messages = vec![&message[..]; 1000];
        let (gather, queue) = (Gather::new(true, true), queue(&messages));
        let mut at = 0;
        while queue.queued().unwrap() > 0 {
            at += read(&gather, &queue, at, MANY).len() as u64;
            assert!(!gather.is_ready(), "all that was taken has been delivered");
        }
    }

    #[test]
    fn tags_come_first() {
        let (gather, queue) = (Gather::new(true, true), queue(&[b"a", b"b"]));
        assert_eq!(read(&gather, &queue, 0, MANY), b"0\ta\n1\tb\n");
    }

    #[test]
    fn small_pieces_and_seeking_back() {
        let (gather, queue) = (Gather::new(false, true), queue(&[b"one\ntwo", b"next"]));
        assert_eq!(read(&gather, &queue, 0, 2), b"on");
        assert_eq!(read(&gather, &queue, 2, 100), b"e\ntwo\n");
        assert_eq!(read(&gather, &queue, 4, 100), b"two\n", "seeked back");
        assert_eq!(read(&gather, &queue, 9, 100), b"", "ahead");
        assert_eq!(queue.queued().unwrap(), 1);
        assert_eq!(read(&gather, &queue, 8, 100), b"next\n");
        assert_eq!(read(&gather, &queue, 0, 100), b"", "nothing is there any more");
    }

    #[test]
    fn an_empty_queue_blocks_and_takes_nothing() {
        let (gather, queue) = (Gather::new(false, false), queue(&[]));
        let mut out = Vec::new();
        let outcome = gather.read(&CX, 7, MANY, &mut out, 100, |cx, m| queue.receive(cx, m));
        assert_eq!(outcome.unwrap_err().errno(), Errno::EAGAIN);
    }

    #[test]
    fn what_a_killed_reader_took_goes_back_whole() {
        let (gather, queue) = (Gather::new(true, false), queue(&[b"a", b"b", b"c"]));
        let bytes = read(&gather, &queue, 0, MANY);
        gather.unread(&queue, &bytes);
        assert_eq!(queue.queued().unwrap(), 3);
        assert_eq!(read(&gather, &queue, 0, MANY), bytes);
    }

    #[test]
    fn what_another_has_read_since_stays_read() {
        let (gather, queue) = (Gather::new(false, false), queue(&[b"a", b"b"]));
        let first = read(&gather, &queue, 0, 100);
        let second = read(&gather, &queue, 0, 100);
        gather.unread(&queue, &first);
        assert_eq!(queue.queued().unwrap(), 0);
        gather.unread(&queue, &second);
        assert_eq!(read(&gather, &queue, 0, 100), b"b\n");
    }

    #[test]
    fn a_line_whose_beginning_was_delivered_stays_and_the_next_goes_back() {
        let (gather, queue) = (Gather::new(false, false), queue(&[b"abc", b"d"]));
        assert_eq!(read(&gather, &queue, 0, 2), b"ab");
        let bytes = read(&gather, &queue, 0, 100);
        assert_eq!(bytes, b"c\n");
        gather.unread(&queue, &bytes);
        assert_eq!(queue.queued().unwrap(), 1);
        assert_eq!(read(&gather, &queue, 0, 100), b"c\n");
        let bytes = read(&gather, &queue, 0, 1);
        assert_eq!(bytes, b"d");
        gather.unread(&queue, &bytes);
        assert_eq!(queue.queued().unwrap(), 1);
    }

    #[test]
    fn what_is_kept_is_charged_and_nothing_is_taken_without_room_for_it() {
        const UID: u32 = 4_200_002;
        let used = || Quota::memory().of(UID).1;
        let queue = queue(&[&[b'a'; 10_000], b"b"]);
        let gather = Gather::new(false, true).charged_to(UID);
        assert_eq!(read(&gather, &queue, 0, 100), [b'a'; 100]);
        assert!((10_001..20_000).contains(&used()), "{}", used());
        let rest = Quota::memory().take_many(UID, Quota::memory().of(UID).0 - used()).unwrap();
        let mut out = Vec::new();
        let receive = |cx: &Cx, message: &mut Vec<u8>| queue.receive(cx, message);
        let error = gather.read(&CX, 100, 20_000, &mut out, 100, receive);
        assert!(error.is_ok() && out.len() == 9_901, "what has been taken needs no more");
        let error = gather.read(&CX, 10_001, 100, &mut out, 100, receive).unwrap_err();
        assert_eq!((error.errno(), queue.queued().unwrap()), (Errno::ENOMEM, 1));
        drop(rest);
        assert_eq!(read(&gather, &queue, 10_001, 100), b"b\n");
        assert!(used() < 10_000, "{}", used());
        drop(gather);
        assert_eq!(used(), 0);
    }

    proptest! {
        #[test]
        fn each_message_is_delivered_once_whoever_is_killed(
            messages in vec("[a-z]{0,9}", 0..9), seekable: bool,
            reads in vec((prop_oneof![1..9_usize, Just(MANY)], prop::bool::weighted(0.3)), 40..80),
        ) {
            let queue = queue(&messages.iter().map(String::as_bytes).collect::<Vec<_>>());
            let gather = Gather::new(true, seekable);
            let mut got = Vec::new();
            for (size, killed) in reads {
                let mut out = Vec::new();
                let receive = |cx: &Cx, message: &mut Vec<u8>| queue.receive(cx, message);
                let outcome = gather.read(&CX, got.len() as u64, size, &mut out, 100, receive);
                prop_assert!(out.len() <= size && (outcome.is_ok() || out.is_empty()));
                if killed {
                    gather.unread(&queue, &out);
                } else {
                    got.extend(out);
                }
            }
            // What is left over.
            let receive = |cx: &Cx, message: &mut Vec<u8>| queue.receive(cx, message);
            while gather.read(&CX, got.len() as u64, 100, &mut got, 100, receive).is_ok() {}
            let mut lines: Vec<_> = String::from_utf8(got).unwrap().lines().map(str::to_owned).collect();
            let number = |line: &String| line.split('\t').next().and_then(|tag| tag.parse::<usize>().ok());
            lines.sort_by_key(number);
            let tagged = |(tag, message)| format!("{tag}\t{message}");
            prop_assert_eq!(lines, messages.iter().enumerate().map(tagged).collect::<Vec<_>>());
        }

        #[test]
        fn any_position_is_served(
            messages in vec(vec(any::<u8>(), 0..9), 0..5),
            reads in vec((prop_oneof![0..60_u64, any::<u64>()], 0..20_usize, 0..3_u8), 0..30),
        ) {
            let queue = queue(&messages.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let gather = Gather::new(false, true);
            for (at, size, back) in reads {
                let mut out = Vec::new();
                let receive = |cx: &Cx, message: &mut Vec<u8>| queue.receive(cx, message);
                let _ = gather.read(&CX, at, size, &mut out, 100, receive);
                prop_assert!(out.len() <= size);
                if back == 0 {
                    gather.unread(&queue, &out);
                }
            }
        }
    }
}
