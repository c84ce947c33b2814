//! `orphans`: the objects that no living process uses.
//!
//! What the kernel records of an object has to say that nobody uses it ([`Object::unused`]), nobody
//! may have it open, mapped or attached, and nobody may wait for it. /proc is walked twice, so that
//! what is passed from one process to another in the meantime is seen once. As long as any process
//! holds open files that are not shown, on their way through a socket or registered with an
//! `io_uring`, any file may be among them, and no POSIX object and no pipe is an orphan.
//!
//! Where the daemon cannot look into every process (it is not root, or in a pid namespace of its
//! own), only what the kernel counts by itself is certain: System V segments without attachment.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use super::Kinds;
use super::listing::{Found, objects};
use crate::caller::{self, Caller};
use crate::error::Result;
use crate::escape;
use crate::kind::control::json_list;
use crate::proc::{self, Targets, users, waiters};
use crate::vfs::{FileType, Object};

/// An object that nobody uses, and why one may think so.
pub(super) struct Orphan {
    path: Vec<u8>,
    reason: &'static str,
}

/// The inode number of the first pid namespace (`PROC_PID_INIT_INO`).
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// How long a close may take to become known.
const CLOSING: Duration = Duration::from_millis(20);

/// Whether /proc shows this process everybody.
fn sees_everybody() -> bool {
    let namespace = std::fs::read_link("/proc/self/ns/pid");
    caller::privileged()
        && namespace.is_ok_and(|namespace| namespace.as_os_str() == FIRST_NAMESPACE)
}

/// All of them.
pub(super) fn find(kinds: &Kinds) -> Result<Vec<Orphan>> {
    let everybody = sees_everybody();
    let gone = |pid| proc::is_gone(pid);
    let mut candidates: Vec<(Found, &'static str)> = Vec::new();
    for found in objects(kinds) {
        // What is not certain is no orphan, and what is gone neither.
        let Ok(Some(reason)) = found.object.unused(&gone) else { continue };
        if everybody || found.object.traces().is_ok_and(|traces| traces.segment.is_some()) {
            candidates.push((found, reason));
        }
    }
    for _ in 0..2 {
        let used = in_use(&candidates)?;
        let mut index = 0..;
        candidates.retain(|_| index.next().is_some_and(|index| !used.contains(&index)));
    }
    let is_pipe = |(found, _): &(Found, _)| {
        found.object.attr().map_or(true, |attr| attr.file_type == FileType::Fifo)
    };
    if candidates.iter().any(is_pipe) && waiters::somebody_opens()? {
        candidates.retain(|candidate| !is_pipe(candidate));
    }
    // Somebody may have come in the meantime.
    candidates.retain(|(found, _)| matches!(found.object.unused(&gone), Ok(Some(_))));
    let orphan = |(found, reason): (Found, _)| Orphan { path: found.path(), reason };
    Ok(candidates.into_iter().map(orphan).collect())
}

/// Which of the candidates somebody has open, mapped or attached or waits for.
fn in_use(candidates: &[(Found, &'static str)]) -> Result<HashSet<usize>> {
    let targets = Targets::new(candidates.iter().map(|(found, _)| &*found.object as &dyn Object));
    let me = Caller::daemon();
    let users::Found { users, hidden } = users::find(&targets)?;
    let waiters = waiters::find(&targets, me)?;
    let used: Vec<bool> = users
        .iter()
        .zip(&waiters)
        .map(|(users, waiters)| !users.is_empty() || !waiters.is_empty())
        .collect();
    let mut open = targets.open();
    if open.iter().zip(&used).any(|(open, used)| *open && !used) {
        // No process has it open, but the kernel does: a descriptor is on its way through a socket,
        // or the kernel is just about to say that it has been closed.
        std::thread::sleep(CLOSING);
        open = targets.open();
    }
    let is_used = |index: &usize| open[*index] || used[*index] || hidden && targets.is_file(*index);
    Ok((0..targets.len()).filter(is_used).collect())
}

/// A path a line, as it is, for `xargs -d '\n'`. One that would not be a line is written as
/// `$'...'`, which no path begins with, so that nothing else is removed in its place.
pub(super) fn text(orphans: &[Orphan]) -> Vec<u8> {
    let mut text = Vec::new();
    for Orphan { path, .. } in orphans {
        if path.contains(&b'\n') {
            text.extend_from_slice(escape::dollar(path).as_bytes());
        } else {
            text.extend_from_slice(path);
        }
        text.push(b'\n');
    }
    text
}

/// With the reasons.
pub(super) fn json(orphans: &[Orphan]) -> Vec<u8> {
    let orphan = |Orphan { path, reason }: &Orphan| json!({ "path": String::from_utf8_lossy(path), "reason": reason });
    json_list(orphans.iter().map(orphan))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_path_or_no_path_at_all() {
        let orphan = |path: &[u8]| Orphan { path: path.into(), reason: "open nowhere" };
        let orphans = [orphan(b"mq/a b\\n"), orphan(b"mq/a\nsem/b"), orphan(b"mq/\xff")];
        assert_eq!(text(&orphans), b"mq/a b\\n\n$'mq/a\\nsem/b'\nmq/\xff\n");
    }
}
