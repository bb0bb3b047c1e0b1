//! Root keys that are no secret.

use mac::ids::{DevEui, JoinEui};

/// Why a root key is refused. Shows nothing of the key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WeakKey {
    /// Not a key but a placeholder.
    #[error("is all zeros: this is a placeholder, not a key")]
    AllZero,
    /// Anybody who reads the label or listens to one join can make it.
    #[error("is made of the device's own EUIs, which everybody within radio range hears")]
    FromEuis,
    /// Tried first by whoever wants in.
    #[error("is one of the keys printed in specifications and examples, which everybody knows")]
    Published,
    /// One byte, or one half, over and over.
    #[error("repeats one pattern and is easily guessed")]
    Repeated,
}

/// Refuses keys that others know: zeros, published ones, patterns, and those made of the device's EUIs.
///
/// # Errors
/// Says which of these it is.
pub fn check_root_key(key: &[u8; 16], dev_eui: DevEui, join_eui: JoinEui) -> Result<(), WeakKey> {
    if *key == [0; 16] {
        return Err(WeakKey::AllZero);
    }
    let mut reversed = *key;
    reversed.reverse();
    if PUBLISHED.iter().any(|known| known == key || *known == reversed) {
        return Err(WeakKey::Published);
    }
    let (front, back) = key.split_at(8);
    let euis = [dev_eui.value(), join_eui.value()];
    let parts = euis.map(u64::to_be_bytes).into_iter().chain(euis.map(u64::to_le_bytes)).chain([[0; 8]]);
    let is_part = |half: &[u8]| parts.clone().any(|part| part.as_slice() == half);
    if is_part(front) && is_part(back) {
        return Err(WeakKey::FromEuis);
    }
    if front == back || key.windows(2).all(|pair| pair.first() == pair.last()) {
        return Err(WeakKey::Repeated);
    }
    Ok(())
}

/// From specifications, reference stacks and quick-start guides; each also counts in reverse.
const PUBLISHED: &[[u8; 16]] = &[
    // FIPS 197 and RFC 4493; the default of many device stacks.
    0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c_u128.to_be_bytes(),
    // FIPS 197.
    0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f_u128.to_be_bytes(),
    0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes(),
    // Examples of network servers.
    0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10_u128.to_be_bytes(),
    0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes(),
    0xfedc_ba98_7654_3210_fedc_ba98_7654_3210_u128.to_be_bytes(),
    0x0123_4567_89ab_cdef_fedc_ba98_7654_3210_u128.to_be_bytes(),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: u128) -> Result<(), WeakKey> {
        let (dev_eui, join_eui) = (DevEui::new(0x70b3_d57e_d005_1122), JoinEui::new(0x0102_0304_0506_0709));
        check_root_key(&key.to_be_bytes(), dev_eui, join_eui)
    }

    /// API-005
    #[test]
    fn keys_that_others_know_are_refused() {
        assert_eq!(check(0), Err(WeakKey::AllZero));
        assert_eq!(check(0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c), Err(WeakKey::Published));
        assert_eq!(check(0x3c4f_cf09_8815_f7ab_a6d2_ae28_1615_7e2b), Err(WeakKey::Published));
        assert_eq!(check(u128::MAX), Err(WeakKey::Repeated));
        assert_eq!(check(0x0a0a_0a0a_0a0a_0a0a_0a0a_0a0a_0a0a_0a0a), Err(WeakKey::Repeated));
        assert_eq!(check(0x8123_4567_89ab_cdef_8123_4567_89ab_cdef), Err(WeakKey::Repeated));
        assert_eq!(check(0x70b3_d57e_d005_1122_70b3_d57e_d005_1122), Err(WeakKey::FromEuis));
        assert_eq!(check(0x0102_0304_0506_0709_70b3_d57e_d005_1122), Err(WeakKey::FromEuis));
        assert_eq!(check(0x2211_05d0_7ed5_b370_0000_0000_0000_0000), Err(WeakKey::FromEuis));
    }

    /// API-005
    #[test]
    fn a_drawn_key_is_taken() {
        assert_eq!(check(0x9b1f_02c4_77d0_5e36_a1e8_4c5d_b3f0_6a92), Ok(()));
    }
}
