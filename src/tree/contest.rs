//! Writers that have been sent away, to look the name up once more and get an id of their own.
//!
//! The kernel comes back once. It must not meet another writer then, so there is a contest for the
//! object, in which every look-up gets an id of its own, until all who were sent away are back: a
//! crowd on a machine with much to do takes its time.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::nodes::NodeId;

/// How long a contest goes on in any case: a crowd comes in waves.
const LEAST: Duration = Duration::from_secs(1);
/// How long it goes on for one who does not come back, having been killed on the way.
const MOST: Duration = Duration::from_secs(60);
/// As many contests are kept without looking which are over.
const FEW: usize = 64;
/// As many of those who were sent away are remembered.
const CROWD: usize = 4096;

struct Contest {
    /// When somebody was sent away last.
    since: Instant,
    /// By which ids they came, and which threads they are.
    sent: Vec<(NodeId, u32)>,
}

impl Contest {
    fn is_over(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.since);
        age >= MOST || age >= LEAST && self.sent.is_empty()
    }
}

/// The contests, by what stands for an object: not the ids, which the kernel may have forgotten
/// before the writer comes back.
pub(super) struct Contests<Place> {
    all: HashMap<Place, Contest>,
}

impl<Place: Copy + Eq + Hash> Contests<Place> {
    pub(super) fn new() -> Self {
        Self { all: HashMap::new() }
    }

    /// Whether look-ups of an object get ids of their own.
    pub(super) fn is_on(&self, place: &Place) -> bool {
        let on = |contest: &Contest| !contest.is_over(Instant::now());
        !self.all.is_empty() && self.all.get(place).is_some_and(on)
    }

    /// Whether the thread `pid`, which comes by an `id` that has a writer, is sent away.
    ///
    /// Not if it was already and has the same id again. So it has not looked the name up, but goes by
    /// an open file (/dev/stdout, /proc/self/fd/N), and shares the id and its lock.
    pub(super) fn sends_away(&mut self, place: Place, id: NodeId, pid: u32) -> bool {
        let now = Instant::now();
        if self.all.len() > FEW {
            self.all.retain(|_, contest| !contest.is_over(now));
        }
        let contest =
            self.all.entry(place).or_insert_with(|| Contest { since: now, sent: Vec::new() });
        if contest.is_over(now) {
            contest.sent.clear();
        }
        if contest.sent.contains(&(id, pid)) {
            return false;
        }
        contest.since = now;
        if contest.sent.len() < CROWD {
            contest.sent.push((id, pid));
        }
        true
    }

    /// Notes that a writer has got in.
    pub(super) fn let_in(&mut self, place: &Place, pid: u32) {
        if self.all.is_empty() {
            return;
        }
        let Some(contest) = self.all.get_mut(place) else { return };
        if pid != 0 {
            contest.sent.retain(|(_, sent)| *sent != pid);
        } else if let Some(index) = contest.sent.iter().position(|(_, sent)| *sent == 0) {
            // In a pid namespace that the daemon does not see, all threads are 0.
            contest.sent.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: NodeId = NodeId(7);

    fn is_on_after(contests: &Contests<&str>, seconds: u64) -> bool {
        let contest = &contests.all["a"];
        !contest.is_over(contest.since + Duration::from_secs(seconds))
    }

    #[test]
    fn it_goes_on_until_all_are_back() {
        let mut contests = Contests::new();
        assert!(!contests.is_on(&"a"));
        assert!(contests.sends_away("a", ID, 1));
        assert!(contests.sends_away("a", ID, 2));
        assert!(contests.is_on(&"a") && !contests.is_on(&"b"));
        contests.let_in(&"a", 1);
        assert!(is_on_after(&contests, 30), "2 is still on its way");
        assert!(!is_on_after(&contests, 60), "2 is dead");
        contests.let_in(&"a", 2);
        assert!(is_on_after(&contests, 0) && !is_on_after(&contests, 1));
    }

    #[test]
    fn who_comes_back_with_the_same_id_is_let_in() {
        let mut contests = Contests::new();
        assert!(contests.sends_away("a", ID, 1));
        assert!(contests.sends_away("a", ID, 2));
        assert!(!contests.sends_away("a", ID, 1));
        assert!(contests.sends_away("a", NodeId(8), 2));
        contests.let_in(&"a", 1);
        assert!(contests.sends_away("a", ID, 1), "another time");
    }

    #[test]
    fn threads_without_a_number_come_back_one_by_one() {
        let mut contests = Contests::new();
        assert!(contests.sends_away("a", ID, 0));
        assert!(contests.sends_away("a", NodeId(8), 0));
        contests.let_in(&"a", 0);
        assert!(is_on_after(&contests, 30));
        contests.let_in(&"a", 0);
        assert!(!is_on_after(&contests, 30));
    }

    #[test]
    fn contests_that_are_over_are_forgotten() {
        let mut contests = Contests::new();
        for object in 0..1000 {
            contests.sends_away(object, ID, 1);
            let contest = contests.all.get_mut(&object).unwrap();
            contest.since = contest.since.checked_sub(MOST).unwrap_or(contest.since);
        }
        assert!(contests.all.len() <= FEW + 1);
        for pid in 0..10_000 {
            contests.sends_away(0, ID, pid);
        }
        assert_eq!(contests.all[&0].sent.len(), CROWD);
    }
}
