//! A bounded map in two generations.
//!
//! New and used entries live in the young one; when it is full it becomes the old one, and what was in the old one and not
//! used since is gone. No list to keep in order, no lock per entry.

use std::hash::Hash;

use hashbrown::HashMap;

/// A cache of at most `entries_max` entries.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    entries_max: usize,
    /// Rises with each invalidation.
    version: u64,
}

impl<K: Copy + Eq + Hash, V: Clone> Cache<K, V> {
    /// Holds nothing yet, and takes memory only as it fills.
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), entries_max: entries_max.max(2), version: 0 }
    }

    /// The entry of a key.
    pub(crate) fn find(&mut self, key: K) -> Option<V> {
        if let Some(value) = self.young.get(&key) {
            return Some(value.clone());
        }
        let value = self.old.remove(&key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    /// What to hand to [`Self::fill`] after reading from the store.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Takes what was read from the store, unless something was invalidated since `version`: then what was read may be the
    /// past already.
    pub(crate) fn fill(&mut self, version: u64, entries: impl Iterator<Item = (K, V)>) {
        if version == self.version {
            for (key, value) in entries {
                self.insert(key, value);
            }
        }
    }

    /// Forgets the entry of a key.
    pub(crate) fn invalidate(&mut self, key: K) {
        self.version = self.version.wrapping_add(1);
        self.young.remove(&key);
        self.old.remove(&key);
    }

    /// Forgets everything.
    pub(crate) fn invalidate_all(&mut self) {
        self.version = self.version.wrapping_add(1);
        self.young.clear();
        self.old.clear();
    }

    fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.entries_max / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_stays_within_its_bound_and_keeps_what_is_used() {
        let mut cache = Cache::new(10);
        cache.fill(0, std::iter::once((0, "used")));
        for key in 1..100 {
            cache.fill(0, std::iter::once((key, "new")));
            assert_eq!(cache.find(0), Some("used"));
            assert!(cache.young.len() + cache.old.len() <= 10);
        }
        assert_eq!(cache.find(1), None);
    }

    #[test]
    fn what_was_read_before_an_invalidation_is_not_kept() {
        let mut cache = Cache::new(10);
        let version = cache.version();
        cache.invalidate(1);
        cache.fill(version, [(1, "past"), (2, "past")].into_iter());
        assert_eq!(cache.find(1), None);
        assert_eq!(cache.find(2), None);

        cache.fill(cache.version(), std::iter::once((1, "present")));
        assert_eq!(cache.find(1), Some("present"));
        cache.invalidate_all();
        assert_eq!(cache.find(1), None);
    }
}
