//! The channel list a Join-Accept may carry.

use super::ChannelMask;
use crate::command::WireFrequency;

/// Length of a channel list in bytes.
pub const CF_LIST_LEN: usize = 16;

/// Number of frequencies in a list of type 0.
pub const CF_LIST_FREQUENCIES: usize = 5;

/// The optional channel list of a Join-Accept (RP002-1.0.5 §3.3.1.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CfList {
    /// Type 0, dynamic plans: the channels that follow the default ones; zero where one is unused.
    Frequencies([WireFrequency; CF_LIST_FREQUENCIES]),
    /// Type 1, fixed plans: the channels that are on.
    Masks(ChannelMask),
}

impl CfList {
    /// Writes the list as the Join-Accept carries it.
    pub fn to_bytes(self) -> [u8; CF_LIST_LEN] {
        let mut bytes = [0; CF_LIST_LEN];
        match self {
            Self::Frequencies(frequencies) => {
                for (field, freq) in bytes.chunks_exact_mut(FREQUENCY_LEN).zip(frequencies) {
                    field.copy_from_slice(&freq.to_wire_bytes());
                }
            }
            Self::Masks(mask) => {
                for (field, word) in bytes.chunks_exact_mut(MASK_LEN).zip(mask.words()) {
                    field.copy_from_slice(&word.to_le_bytes());
                }
            }
        }
        let [.., list_type] = &mut bytes;
        *list_type = self.list_type();
        bytes
    }

    /// Reads a list; `None` for a type other than 0 and 1.
    pub fn from_bytes(bytes: [u8; CF_LIST_LEN]) -> Option<Self> {
        let [.., list_type] = bytes;
        match list_type {
            TYPE_FREQUENCIES => {
                let mut frequencies = [WireFrequency::DISABLED; CF_LIST_FREQUENCIES];
                let (fields, _) = bytes.as_chunks::<FREQUENCY_LEN>();
                for (freq, field) in frequencies.iter_mut().zip(fields) {
                    *freq = WireFrequency::from_wire_bytes(*field);
                }
                Some(Self::Frequencies(frequencies))
            }
            TYPE_MASKS => {
                let mut mask = ChannelMask::EMPTY;
                let (fields, _) = bytes.as_chunks::<MASK_LEN>();
                for (index, field) in fields.iter().enumerate() {
                    mask.set_word(index, u16::from_le_bytes(*field));
                }
                Some(Self::Masks(mask))
            }
            _ => None,
        }
    }

    const fn list_type(self) -> u8 {
        match self {
            Self::Frequencies(_) => TYPE_FREQUENCIES,
            Self::Masks(_) => TYPE_MASKS,
        }
    }
}

const TYPE_FREQUENCIES: u8 = 0;
const TYPE_MASKS: u8 = 1;
const FREQUENCY_LEN: usize = 3;
const MASK_LEN: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_survives_its_bytes() {
        let masks = CfList::Masks([8, 15, 65, 95].into_iter().collect());
        let frequencies = CfList::Frequencies([1, 2, 3, 4, 0x00ff_ffff].map(WireFrequency::from_raw));

        assert_eq!(CfList::from_bytes(masks.to_bytes()), Some(masks));
        assert_eq!(CfList::from_bytes(frequencies.to_bytes()), Some(frequencies));
    }

    #[test]
    fn an_unknown_type_is_no_list() {
        let mut bytes = [0; CF_LIST_LEN];
        let [.., list_type] = &mut bytes;
        *list_type = 2;

        assert_eq!(CfList::from_bytes(bytes), None);
    }
}
