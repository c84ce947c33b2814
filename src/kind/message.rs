//! What POSIX and System V message queues have in common: reading and writing by the message.
//!
//! One `write` is one message. A read gives one message, in pieces if the reader's buffer is
//! small, then end of file once; the next read takes the next message. The message read last is
//! kept, so that a shell that reads ahead and seeks back (bash's `read`) finds it again; a read
//! ahead of the position is end of file and takes nothing (`wc -c`, `tail`).

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::caller::Caller;
use crate::error::{Errno, Error, Result};
use crate::memory;
use crate::quota::Charge;
use crate::vfs::{Attr, Cx, Handle, Wait};

/// The longest message that passes through the mount, in bytes: the kernel cuts a longer `write`
/// into several requests (fs/fuse/file.c, `fuse_direct_io`: 256 pages, of which an unaligned buffer
/// wastes one), and a torn message is none.
pub const MESSAGE_MAX: usize = 255 * 4096;

/// As much room as a message that is kept may have for nothing.
const SMALL: usize = 4096;

/// A queue of tagged messages: what a kind has to provide. The tag is the priority of a POSIX
/// message and the type of a System V one.
pub trait Messages: Send + Sync + 'static {
    /// Sends one message. `EAGAIN` if the queue is full and `cx` may not wait; `EMSGSIZE` if the
    /// message is too long.
    fn send(&self, cx: &Cx, tag: i64, data: &[u8]) -> Result<()>;

    /// Sends what a file that is closed has left, as [`Messages::send`] does, but waits only as long
    /// as anybody might still make room: `EIDRM` once the queue has been removed.
    fn send_left(&self, cx: &Cx, tag: i64, data: &[u8]) -> Result<()> {
        self.send(cx, tag, data)
    }

    /// Takes one message into `message`, which is emptied first, and returns its tag. `EAGAIN` if
    /// there is none and `cx` may not wait.
    fn receive(&self, cx: &Cx, message: &mut Vec<u8>) -> Result<i64>;

    /// The queue's attributes.
    fn attr(&self) -> Result<Attr>;

    /// How long a message of this queue can be, in bytes.
    fn longest(&self) -> Result<usize> {
        Ok(MESSAGE_MAX)
    }

    /// How many messages are queued.
    fn queued(&self) -> Result<u64> {
        Ok(u64::MAX)
    }

    /// Which of `events` hold now.
    fn poll(&self, events: i16) -> i16;

    /// Waits until one of `events` holds; `EINTR` after a signal.
    fn wait_ready(&self, events: i16) -> Result<()>;
}

/// Refuses what could not be delivered in one piece.
pub fn check_length(length: usize) -> Result<()> {
    if length <= MESSAGE_MAX {
        return Ok(());
    }
    Err(Error::because(
        Errno::EMSGSIZE,
        format!(
            "a message of {length} bytes or more is over the {MESSAGE_MAX} that pass through the mount in one piece"
        ),
    ))
}

/// Sends a message again that a killed reader has taken. It goes behind the messages of its
/// priority that have come meanwhile: late, not lost.
pub(super) fn give_back(queue: &impl Messages, tag: i64, data: &[u8]) {
    let nobody = Caller { uid: 0, gid: 0, pid: 0 };
    let cx = Cx { caller: nobody, wait: Wait::Block, nonblock: false };
    while let Err(error) = queue.send_left(&cx, tag, data) {
        if error.errno() != Errno::EINTR {
            log::error!("a message taken by a killed reader could not be given back: {error}");
            return;
        }
    }
}

/// A queue's own file, open.
pub struct MessageFile<Q> {
    queue: Q,
    /// The tag that `write` sends with.
    tag: i64,
    /// Whether the file has a position: it is open for reading alone.
    seekable: bool,
    /// Whether it is the object's own file.
    own: bool,
    reader: Mutex<Reader>,
}

impl<Q: Messages> MessageFile<Q> {
    /// Opens `queue` as the object's own file; what is written is sent with `tag`.
    pub fn new(queue: Q, tag: i64, seekable: bool) -> Self {
        Self { queue, tag, seekable, own: true, reader: Mutex::default() }
    }

    /// The same as a file of ctl/, which has attributes of its own.
    pub fn control(queue: Q, tag: i64, seekable: bool) -> Self {
        Self { own: false, ..Self::new(queue, tag, seekable) }
    }
}

/// A message that has been taken, with its tag.
struct Taken {
    tag: i64,
    data: Vec<u8>,
}

/// Where the reader of an open file is.
#[derive(Default)]
struct Reader {
    /// The message being read or read last.
    current: Vec<u8>,
    current_tag: i64,
    /// The file position of its first byte.
    start: u64,
    /// The position of the next byte that has not been read yet.
    position: u64,
    /// The message has been read to its end, and the end of file that follows it is still to come.
    end_due: bool,
    /// Messages that others who share the file have taken in the meantime, oldest first.
    next: VecDeque<Taken>,
    /// For all of them; of whoever has read first.
    charge: Option<Charge>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        memory::freed(self.kept());
    }
}

impl Reader {
    /// Serves a read from what has been taken; `false` if the next message is to be taken first.
    fn serve(&mut self, at: u64, size: usize, out: &mut Vec<u8>) -> bool {
        let end = self.start + self.current.len() as u64;
        if at > self.position {
            return true;
        }
        if at < end {
            // Ahead of the kept message there is nothing any more.
            let Some(from) = at.checked_sub(self.start) else { return true };
            let rest = &self.current[from as usize..];
            out.extend_from_slice(&rest[..rest.len().min(size)]);
            let reached = at + rest.len().min(size) as u64;
            if reached > self.position {
                self.position = reached;
                self.end_due = reached == end;
            }
            return true;
        }
        if self.end_due {
            self.end_due = false;
            return true;
        }
        match self.next.pop_front() {
            Some(taken) => {
                self.begin(taken);
                self.serve(at, size, out)
            }
            None => false,
        }
    }

    /// Makes a message the current one, from the position on.
    fn begin(&mut self, taken: Taken) {
        self.start = self.position;
        self.current = taken.data;
        self.current_tag = taken.tag;
        // An empty message is an end of file by itself.
        self.end_due = self.current.is_empty();
    }

    /// The charge for what is kept, of `uid` if nobody has been charged yet.
    fn charge(&mut self, uid: u32) -> &mut Charge {
        self.charge.get_or_insert_with(|| Charge::new(uid))
    }

    /// How many bytes are kept.
    fn kept(&self) -> usize {
        self.current.capacity() + self.next.iter().map(|next| next.data.capacity()).sum::<usize>()
    }

    /// Whether a read would be answered without taking a message.
    fn is_ready(&self) -> bool {
        self.end_due
            || self.position < self.start + self.current.len() as u64
            || !self.next.is_empty()
    }

    /// Takes back the last read, if it has begun a message: returns that message.
    fn take_back(&mut self, bytes: &[u8]) -> Option<Taken> {
        // Those who share the file may have read on since.
        let is_last = self.position == self.start + bytes.len() as u64;
        if !is_last || !self.current.starts_with(bytes) {
            return None;
        }
        self.position = self.start;
        self.end_due = false;
        Some(Taken { tag: self.current_tag, data: std::mem::take(&mut self.current) })
    }
}

impl<Q: Messages> Handle for MessageFile<Q> {
    fn attr(&self) -> Option<Result<Attr>> {
        self.own.then(|| self.queue.attr())
    }

    fn read(&self, cx: &Cx, at: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        let mut reader = self.reader.lock();
        let at = if self.seekable { at } else { reader.position };
        if reader.serve(at, size, out) {
            return Ok(());
        }
        let uid = cx.caller.uid;
        let mut charge = Charge::new(reader.charge(uid).uid());
        // Nobody is to wait for the lock while this waits for a message.
        drop(reader);
        charge.set(self.queue.longest()?.min(MESSAGE_MAX))?;
        let mut data = Vec::new();
        let tag = self.queue.receive(cx, &mut data)?;
        // Room has been made for the longest.
        data.shrink_to(data.len().max(SMALL));
        let mut reader = self.reader.lock();
        reader.next.push_back(Taken { tag, data });
        let at = if self.seekable { at } else { reader.position };
        reader.serve(at, size, out);
        let kept = reader.kept();
        let kept_charge = reader.charge(uid);
        kept_charge.absorb(charge);
        // What little more it may be has been taken already.
        let _ = kept_charge.set(kept);
        Ok(())
    }

    fn unread(&self, bytes: &[u8]) {
        let taken = self.reader.lock().take_back(bytes);
        if let Some(taken) = taken {
            give_back(&self.queue, taken.tag, &taken.data);
        }
    }

    /// Gives back what was taken for one of several who shared the file and had it no more.
    fn finish(&self, cx: &Cx) -> Result<()> {
        let mut reader = self.reader.lock();
        while let Some(taken) = reader.next.pop_front() {
            if let Err(error) = self.queue.send_left(cx, taken.tag, &taken.data) {
                reader.next.push_front(taken);
                return Err(error);
            }
        }
        Ok(())
    }

    fn write(&self, cx: &Cx, at: u64, data: &[u8], done: &mut usize) -> Result<()> {
        // The rest of a write that the kernel has cut (more than 256 pieces in one writev): what
        // has gone cannot be called back, the count tells the caller.
        if !self.seekable && at != 0 {
            return Err(Error::because(
                Errno::EMSGSIZE,
                "a writev of more than 256 pieces does not pass through the mount as one message",
            ));
        }
        check_length(data.len())?;
        self.queue.send(cx, self.tag, data)?;
        *done = data.len();
        Ok(())
    }

    fn poll(&self, events: i16) -> i16 {
        let readable = libc::POLLIN | libc::POLLRDNORM;
        if events & readable != 0 && self.reader.lock().is_ready() {
            return events & readable | self.queue.poll(events & !readable);
        }
        self.queue.poll(events)
    }

    fn wait_ready(&self, events: i16) -> Result<()> {
        self.queue.wait_ready(events)
    }
}

#[cfg(test)]
pub(super) mod fake {
    //! A queue in memory.
    use super::*;
    use crate::error::fail;

    /// Room for so many messages, of so many bytes each.
    pub struct Fake {
        pub queued: Mutex<VecDeque<(i64, Vec<u8>)>>,
        pub room: usize,
        pub longest: usize,
    }

    impl Default for Fake {
        fn default() -> Self {
            Self { queued: Mutex::default(), room: usize::MAX, longest: MESSAGE_MAX }
        }
    }

    impl Messages for Fake {
        fn send(&self, _cx: &Cx, tag: i64, data: &[u8]) -> Result<()> {
            let mut queued = self.queued.lock();
            if data.len() > self.longest {
                return fail(Errno::EMSGSIZE);
            }
            if queued.len() >= self.room {
                return fail(Errno::EAGAIN);
            }
            queued.push_back((tag, data.to_vec()));
            Ok(())
        }
        fn receive(&self, _cx: &Cx, message: &mut Vec<u8>) -> Result<i64> {
            let Some((tag, data)) = self.queued.lock().pop_front() else {
                return fail(Errno::EAGAIN);
            };
            *message = data;
            Ok(tag)
        }
        fn attr(&self) -> Result<Attr> {
            Ok(Attr::file(1, 0o600))
        }
        fn longest(&self) -> Result<usize> {
            Ok(self.longest)
        }
        fn queued(&self) -> Result<u64> {
            Ok(self.queued.lock().len() as u64)
        }
        fn poll(&self, events: i16) -> i16 {
            if self.queued.lock().is_empty() { events & libc::POLLOUT } else { events }
        }
        fn wait_ready(&self, _events: i16) -> Result<()> {
            Ok(())
        }
    }

    pub const CX: Cx =
        Cx { caller: Caller { uid: 0, gid: 0, pid: 1 }, wait: Wait::Try, nonblock: false };
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::fake::{CX, Fake};
    use super::*;

    fn file(messages: &[&[u8]], seekable: bool) -> MessageFile<Fake> {
        let file = MessageFile::new(Fake::default(), 0, seekable);
        for message in messages {
            let mut done = 0;
            file.write(&CX, 0, message, &mut done).unwrap();
            assert_eq!(done, message.len());
        }
        file
    }

    fn read(file: &MessageFile<Fake>, at: u64, size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        file.read(&CX, at, size, &mut out).unwrap();
        out
    }

    #[test]
    fn a_message_then_end_of_file_then_the_next() {
        let file = file(&[b"one", b"two"], true);
        assert_eq!(read(&file, 0, 100), b"one");
        assert_eq!(read(&file, 3, 100), b"");
        assert_eq!(read(&file, 3, 100), b"two");
        assert_eq!(read(&file, 6, 100), b"");
        let mut out = Vec::new();
        assert_eq!(file.read(&CX, 6, 100, &mut out).unwrap_err().errno(), Errno::EAGAIN);
    }

    #[test]
    fn a_small_buffer_gets_pieces_and_nothing_is_cut_off() {
        let file = file(&[b"abcdef"], true);
        assert_eq!(read(&file, 0, 4), b"abcd");
        assert_eq!(read(&file, 4, 4), b"ef");
        assert_eq!(read(&file, 6, 4), b"");
    }

    #[test]
    fn seeking_back_finds_the_message_again_and_takes_none() {
        let file = file(&[b"line\nrest", b"next"], true);
        assert_eq!(read(&file, 0, 4096), b"line\nrest");
        assert_eq!(read(&file, 5, 4096), b"rest");
        assert_eq!(read(&file, 9, 4096), b"");
        assert_eq!(read(&file, 9, 4096), b"next");
    }

    #[test]
    fn a_read_ahead_of_the_position_is_end_of_file_and_takes_nothing() {
        let file = file(&[b"abc"], true);
        assert_eq!(read(&file, 3, 100), b"");
        assert_eq!(read(&file, 0, 100), b"abc");
    }

    #[test]
    fn a_stream_ignores_the_position() {
        let file = file(&[b"one", b"two"], false);
        assert_eq!(read(&file, 0, 2), b"on");
        assert_eq!(read(&file, 0, 2), b"e");
        assert_eq!(read(&file, 0, 2), b"");
        assert_eq!(read(&file, 0, 9), b"two");
    }

    #[test]
    fn an_empty_message_is_one_end_of_file() {
        let file = file(&[b"", b"x"], true);
        assert_eq!(read(&file, 0, 9), b"");
        assert_eq!(read(&file, 0, 9), b"x");
    }

    #[test]
    fn a_killed_readers_message_goes_back() {
        let file = file(&[b"job"], true);
        let bytes = read(&file, 0, 100);
        file.unread(&bytes);
        assert_eq!(read(&file, 0, 100), b"job");
    }

    #[test]
    fn what_nobody_has_read_goes_back_at_the_last_close() {
        let file = file(&[b"one", b"two"], true);
        // Two who share the file, waiting at the same position.
        let mut first = Vec::new();
        file.read(&CX, 0, 100, &mut first).unwrap();
        let data = file.queue.queued.lock().pop_front().unwrap();
        file.reader.lock().next.push_back(Taken { tag: data.0, data: data.1 });
        file.finish(&CX).unwrap();
        assert_eq!(file.queue.queued.lock().front().unwrap().1, b"two");
        file.finish(&CX).unwrap();
        assert_eq!(file.queue.queued.lock().len(), 1, "only once");
    }

    #[test]
    fn a_later_piece_of_a_message_does_not_go_back() {
        let file = file(&[b"abcdef"], true);
        read(&file, 0, 3);
        let bytes = read(&file, 3, 3);
        file.unread(&bytes);
        assert_eq!(file.queue.queued.lock().len(), 0);
    }

    #[test]
    fn what_would_be_torn_is_refused() {
        assert!(check_length(MESSAGE_MAX).is_ok());
        assert_eq!(check_length(MESSAGE_MAX + 1).unwrap_err().errno(), Errno::EMSGSIZE);
    }

    #[test]
    fn poll_tells_of_what_a_read_would_give() {
        let file = file(&[b"ab"], true);
        assert_eq!(file.poll(libc::POLLIN), libc::POLLIN);
        read(&file, 0, 1);
        assert_eq!(file.poll(libc::POLLIN), libc::POLLIN, "the rest of the message");
        read(&file, 1, 1);
        assert_eq!(file.poll(libc::POLLIN), libc::POLLIN, "the end of file");
        read(&file, 2, 1);
        assert_eq!(file.poll(libc::POLLIN | libc::POLLOUT), libc::POLLOUT);
    }

    proptest! {
        #[test]
        fn reads_of_any_size_give_each_message_once_and_its_end(
            messages in vec(vec(any::<u8>(), 0..9), 0..5), seekable: bool,
            reads in vec((1..6_usize, prop::bool::weighted(0.2)), 1..40),
        ) {
            let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            let file = file(&messages, seekable);
            let mut queued: VecDeque<_> = messages.into_iter().collect();
            // What is left of the message being read, its end of file being still to come.
            let (mut current, mut at) = (None::<&[u8]>, 0);
            for (size, killed) in reads {
                let mut out = Vec::new();
                let outcome = file.read(&CX, at, size, &mut out);
                let begins = current.is_none();
                let Some(rest) = current.take().or_else(|| queued.pop_front()) else {
                    prop_assert_eq!(outcome.unwrap_err().errno(), Errno::EAGAIN);
                    continue;
                };
                let (now, later) = rest.split_at(rest.len().min(size));
                prop_assert_eq!(&out, now);
                if begins && killed {
                    // The reader has never got it: it goes back, whole.
                    file.unread(&out);
                    queued.push_back(rest);
                    continue;
                }
                at += now.len() as u64;
                current = (!now.is_empty()).then_some(later);
            }
        }
    }
}
