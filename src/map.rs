//! Tables by numbers that the daemon or the kernel has given out: node ids, handles, inodes.
//!
//! Each request looks into several. The standard library's hash function is made for keys that an
//! attacker chooses freely, and takes as long as a short system call; nobody chooses these, and with
//! a secret to begin from, one multiplication mixes them well enough.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A table by such numbers.
pub type Map<K, V> = HashMap<K, V, Secret>;

/// What a table's hash values begin from.
#[derive(Clone, Debug)]
pub struct Secret(u64);

impl Default for Secret {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for Secret {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        Mixer(self.0)
    }
}

/// Multiplies, and folds the upper half of the product into the lower one, so that each bit of the
/// number changes all of the hash value.
#[derive(Debug)]
pub struct Mixer(u64);

impl Hasher for Mixer {
    fn write_u64(&mut self, number: u64) {
        /// The golden ratio: odd, and without a pattern in its bits.
        const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(self.0 ^ number) * FACTOR;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_in_a_row_and_far_apart_are_spread_over_a_table() {
        let secret = Secret::default();
        for step in [1, 2, 4096, 1 << 20, 1 << 32, 1 << 52, 0x1_0001] {
            let hashes: Vec<_> =
                (0..4096_u64).map(|n| secret.hash_one(n.wrapping_mul(step))).collect();
            // The table takes its place from the lower bits and a tag from the upper seven.
            let places: HashSet<_> = hashes.iter().map(|hash| hash % 4096).collect();
            let tags: HashSet<_> = hashes.iter().map(|hash| hash >> 57).collect();
            assert!(places.len() > 2000, "{} places for steps of {step}", places.len());
            assert!(tags.len() > 100, "{} tags for steps of {step}", tags.len());
        }
    }

    #[test]
    fn the_order_of_two_numbers_matters() {
        let secret = Secret::default();
        assert_ne!(secret.hash_one((1_u64, 2_u64)), secret.hash_one((2_u64, 1_u64)));
    }
}
