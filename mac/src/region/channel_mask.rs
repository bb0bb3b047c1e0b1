//! The set of channels a device may use.

use std::fmt;

/// A set of up to 96 uplink channels, as six words of 16 the way `LinkADRReq` and the CFList carry them.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ChannelMask([u16; CHANNEL_MASK_WORDS]);

/// Number of 16-channel words in a mask.
pub const CHANNEL_MASK_WORDS: usize = 6;

impl ChannelMask {
    /// No channel.
    pub const EMPTY: Self = Self([0; CHANNEL_MASK_WORDS]);

    /// The mask of these words; bit 0 of the first word is channel 0.
    pub const fn from_words(words: [u16; CHANNEL_MASK_WORDS]) -> Self {
        Self(words)
    }

    /// The six words; bit 0 of the first word is channel 0.
    pub const fn words(self) -> [u16; CHANNEL_MASK_WORDS] {
        self.0
    }

    /// Whether the channel is in the set; false for an index above 95.
    pub fn contains(self, index: u8) -> bool {
        self.word(usize::from(index / WORD_BITS)) & bit(index) != 0
    }

    /// Adds the channel; an index above 95 changes nothing.
    pub fn insert(&mut self, index: u8) {
        if let Some(word) = self.0.get_mut(usize::from(index / WORD_BITS)) {
            *word |= bit(index);
        }
    }

    /// Takes the channel out; an index above 95 changes nothing.
    pub fn remove(&mut self, index: u8) {
        if let Some(word) = self.0.get_mut(usize::from(index / WORD_BITS)) {
            *word &= !bit(index);
        }
    }

    /// Number of channels in the set.
    pub fn count(self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether no channel is in the set.
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// The channels of the set, lowest first.
    pub fn channels(self) -> impl Iterator<Item = u8> {
        (0..CHANNELS_MAX).filter(move |&index| self.contains(index))
    }

    /// Channels `16 * index` to `16 * index + 15`; 0 for an index above 5.
    pub fn word(self, index: usize) -> u16 {
        self.0.get(index).copied().unwrap_or(0)
    }

    /// Replaces channels `16 * index` to `16 * index + 15`; an index above 5 changes nothing.
    pub fn set_word(&mut self, index: usize, channels: u16) {
        if let Some(word) = self.0.get_mut(index) {
            *word = channels;
        }
    }

    /// The channels that are in both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        let mut both = self;
        for (word, other_word) in both.0.iter_mut().zip(other.0) {
            *word &= other_word;
        }
        both
    }
}

impl FromIterator<u8> for ChannelMask {
    /// Gathers channel indices; those above 95 are left out.
    fn from_iter<I: IntoIterator<Item = u8>>(indices: I) -> Self {
        let mut mask = Self::EMPTY;
        for index in indices {
            mask.insert(index);
        }
        mask
    }
}

impl fmt::Debug for ChannelMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.channels()).finish()
    }
}

const fn bit(index: u8) -> u16 {
    1 << (index % WORD_BITS)
}

const WORD_BITS: u8 = 16;
const CHANNELS_MAX: u8 = 96;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_that_was_added_is_in_the_set_and_no_other() {
        for index in 0..CHANNELS_MAX {
            let mut mask = ChannelMask::EMPTY;
            mask.insert(index);

            assert_eq!(mask.channels().collect::<Vec<_>>(), [index]);
            assert_eq!(mask.count(), 1);
            mask.remove(index);
            assert!(mask.is_empty());
        }
    }

    #[test]
    fn an_index_beyond_the_mask_changes_nothing() {
        let mut mask: ChannelMask = [0, 95].into_iter().collect();
        let before = mask;

        mask.insert(96);
        mask.remove(255);
        mask.set_word(6, 0xffff);

        assert_eq!(mask, before);
        assert!(!mask.contains(96));
        assert_eq!(mask.word(6), 0);
    }
}
