//! See `crate::fuzz`.

use std::collections::BTreeSet;

use mac::keys::{AppKey, AppSKey, Key, NetworkKeys, NwkKey};
use mac::phy::{DecodeKeys, MicVerdict};

use super::explain;

/// A PHYPayload that a person wants explained, with keys and without.
///
/// Each field is there once, each has words for people and a value for programs, and no key is among them.
pub fn explained_frame(phy: &[u8]) {
    let known = DecodeKeys {
        network: Some(NetworkKeys::from_nwk_s_key(&Key::new(KEY))),
        app_s_key: Some(AppSKey::new(KEY)),
        app_key: Some(AppKey::new(KEY)),
        nwk_key: Some(NwkKey::new(KEY)),
        version_1_1: phy.len().is_multiple_of(2),
        fcnt: Some(phy.get(6).copied().unwrap_or(0).into()),
        ..DecodeKeys::default()
    };
    for keys in [known, DecodeKeys::default()] {
        let knows = keys.network.is_some();
        let Ok((report, verdict)) = explain(phy, &keys) else { return };
        assert!(knows || verdict == MicVerdict::NotChecked);
        let mut seen = BTreeSet::new();
        for row in &report.rows {
            let [name, value, meaning] = row.as_slice() else { panic!("three columns: {row:?}") };
            let is_list = report.object.get(name).is_some_and(|value| value.is_array());
            assert!(seen.insert(name) || is_list, "{name} stands twice");
            assert!(report.object.contains_key(name) && !meaning.is_empty(), "{row:?}");
            assert!(!value.contains(&hex::encode(KEY)));
        }
    }
}

const KEY: [u8; 16] =
    [0x9a, 0x17, 0x3c, 0x58, 0xe2, 0x04, 0xbb, 0x6f, 0x21, 0xd9, 0x70, 0x8e, 0x45, 0xc3, 0x1a, 0xf6];
