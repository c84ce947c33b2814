//! What queues cost, and whose limit they count against.
//!
//! The kernel charges a queue's memory to the real user of the process that makes it, which is the
//! daemon's for queues made through the mount. So that nobody makes more of them than their own
//! limit (`RLIMIT_MSGQUEUE`) allows, the daemon keeps an account of the queues that it has made for
//! each user.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use crate::caller::Caller;
use crate::error::{Errno, Error, Result};

/// What the kernel keeps for each message beside its bytes (ipc/mqueue.c): a `struct msg_msg` and,
/// as long as there are no more than there are priorities, a `struct posix_msg_tree_node`.
const EACH: u64 = 48;
const PRIORITIES: u64 = 32_768;

/// What a queue for so many messages of so many bytes is charged.
pub(super) fn cost(maxmsg: u64, msgsize: u64) -> u64 {
    let nodes = maxmsg.min(PRIORITIES);
    maxmsg.saturating_mul(msgsize.saturating_add(EACH)).saturating_add(nodes * EACH)
}

/// The queues made through the mount, by inode number, and what each costs, by user.
#[derive(Default)]
pub(super) struct Account(Mutex<HashMap<u32, HashMap<u64, u64>>>);

impl Account {
    /// Adds a queue.
    pub(super) fn add(&self, uid: u32, queue: u64, cost: u64) {
        self.0.lock().entry(uid).or_default().insert(queue, cost);
    }

    /// What a user's queues cost, those that are gone by now included.
    fn known(&self, uid: u32) -> u64 {
        self.0.lock().get(&uid).map_or(0, |queues| queues.values().sum())
    }

    /// How many of a user's there are and what they cost. `there` are all queues that there are.
    pub(super) fn used(&self, uid: u32, there: &HashSet<u64>) -> (usize, u64) {
        let mut account = self.0.lock();
        let Some(queues) = account.get_mut(&uid) else { return (0, 0) };
        queues.retain(|queue, _| there.contains(queue));
        let used = (queues.len(), queues.values().sum());
        if queues.is_empty() {
            account.remove(&uid);
        }
        used
    }
}

/// The caller's own limit, if they have one (proc(5)).
pub(super) fn limit(caller: Caller) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/limits", caller.pid)).ok()?;
    parse_limit(&text)
}

/// Understands `Max msgqueue size         819200               819200               bytes`.
fn parse_limit(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max msgqueue size"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Why a queue cannot be had.
pub(super) fn exceeded(whose: &str, limit: u64, cost: u64, (count, used): (usize, u64)) -> Error {
    let (limit, cost, used) = (thousands(limit), thousands(cost), thousands(used));
    let queues = if count == 1 { "1 queue uses" } else { &format!("{count} queues use") };
    Error::because(
        Errno::EMFILE,
        format!(
            "RLIMIT_MSGQUEUE of {whose} is {limit} bytes; this queue needs {cost}; {queues} {used}"
        ),
    )
}

/// Refuses a queue that would take the caller over their own limit.
pub(super) fn check(
    account: &Account,
    caller: Caller,
    cost: u64,
    there: impl FnOnce() -> Result<HashSet<u64>>,
) -> Result<()> {
    // Root's is the daemon's own, which the kernel looks after.
    if caller.uid == 0 || !crate::caller::privileged() {
        return Ok(());
    }
    let Some(limit) = limit(caller) else { return Ok(()) };
    if account.known(caller.uid).saturating_add(cost) <= limit {
        return Ok(());
    }
    let used = account.used(caller.uid, &there()?);
    if used.1.saturating_add(cost) <= limit {
        return Ok(());
    }
    Err(exceeded(&format!("uid {}", caller.uid), limit, cost, used))
}

/// `819200` as `819,200`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_queue_costs_what_the_kernel_charges() {
        assert_eq!(cost(10, 8192), 82_880);
        assert_eq!(cost(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn the_kernels_line_is_understood() {
        let line =
            "Max msgqueue size         819200               819200               bytes     \n";
        assert_eq!(parse_limit(&format!("Max processes 1 2\n{line}")), Some(819_200));
        assert_eq!(parse_limit("Max msgqueue size  unlimited unlimited bytes"), None);
    }

    #[test]
    fn queues_that_are_gone_are_not_counted() {
        let account = Account::default();
        account.add(7, 1, 100);
        account.add(7, 2, 50);
        assert_eq!(account.used(7, &HashSet::from([1, 2])), (2, 150));
        assert_eq!(account.used(7, &HashSet::from([2, 3])), (1, 50));
        assert_eq!(account.used(8, &HashSet::new()), (0, 0));
        assert_eq!(account.used(7, &HashSet::new()), (0, 0));
        assert!(account.0.lock().is_empty());
    }

    #[test]
    fn the_sentence_has_all_numbers() {
        let error = exceeded("uid 1000", 819_200, 82_880, (9, 745_920));
        let expected = "EMFILE: RLIMIT_MSGQUEUE of uid 1000 is 819,200 bytes; this queue needs \
                        82,880; 9 queues use 745,920";
        assert_eq!(error.to_string(), expected);
    }
}
