//! What all who use the same object at a time have in common.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Below this it is not worth looking for what nobody uses any more.
const FEW: usize = 64;

/// One `T` for each object that somebody uses; it goes with its last user.
pub struct Shared<K, T>(Mutex<Table<K, T>>);

struct Table<K, T> {
    known: HashMap<K, Weak<T>>,
    /// As many entries as there may be before those without users are dropped.
    limit: usize,
}

impl<K, T> Default for Shared<K, T> {
    fn default() -> Self {
        Self(Mutex::new(Table { known: HashMap::new(), limit: FEW }))
    }
}

impl<K: Eq + Hash, T> Shared<K, T> {
    /// What the users of an object have in common; `None` if it has none.
    pub fn get(&self, key: &K) -> Option<Arc<T>> {
        self.0.lock().known.get(key).and_then(Weak::upgrade)
    }

    /// As [`Shared::get`] where that is `usable`, else `new`, which is the object's from now on.
    pub fn get_or(&self, key: K, new: T, usable: impl Fn(&T) -> bool) -> Arc<T> {
        let new = Arc::new(new);
        let mut table = self.0.lock();
        // Not dropped before the table is free again.
        let known = table.known.get(&key).and_then(Weak::upgrade);
        if let Some(known) = known.as_ref().filter(|known| usable(known)) {
            return Arc::clone(known);
        }
        table.known.insert(key, Arc::downgrade(&new));
        if table.known.len() > table.limit {
            table.known.retain(|_, known| known.strong_count() > 0);
            table.limit = FEW.max(2 * table.known.len());
        }
        drop(table);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_users_have_one_and_the_next_ones_another() {
        let shared = Shared::default();
        assert!(shared.get(&1).is_none());
        let first = shared.get_or(1, "a", |_| true);
        assert_eq!(*shared.get_or(1, "b", |_| true), "a");
        assert_eq!(*shared.get_or(1, "c", |known| *known == "c"), "c");
        drop(first);
        assert!(shared.get(&1).is_none());
    }

    #[test]
    fn nothing_is_kept_of_what_nobody_uses() {
        let shared = Shared::default();
        for key in 0..100_000 {
            shared.get_or(key, key, |_| true);
        }
        assert!(shared.0.lock().known.len() <= FEW + 1);
    }
}
