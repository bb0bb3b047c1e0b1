//! What bytes from the disk must keep to, whatever they are: one function for each boundary of the crate.
//!
//! libFuzzer calls them with inputs it makes up (`fuzz/`), the tests with those it has found worth keeping.

use std::collections::BTreeMap;

use prost::Message as _;
use proto::internal::JournalBody;

use crate::Sealer;
use crate::log::RecordsOnly;
use crate::session::{DeltasOnly, Merge};
use crate::sqlite::stamp::Stamp;

/// The body of a row of the journal.
///
/// Both readers, of events and of changes, see in it what the whole message holds. The changes, merged, leave the sessions that began
/// last and were not removed after that.
pub fn journal_row(bytes: &[u8]) {
    let Ok(body) = JournalBody::decode(bytes) else { return };
    let records = RecordsOnly::decode(bytes).expect("what is a row has records");
    let deltas = DeltasOnly::decode(bytes).expect("what is a row has deltas");
    assert_eq!((&records.records, &deltas.deltas), (&body.records, &body.deltas));
    assert_eq!(JournalBody::decode(body.encode_to_vec().as_slice()).as_ref(), Ok(&body));

    let mut merge = Merge::default();
    let mut living: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    for delta in body.deltas {
        let key = (delta.dev_eui, delta.session_id);
        match &delta.sealed_keys {
            _ if delta.removed && delta.session_id == 0 => living.retain(|(dev_eui, _), _| *dev_eui != key.0),
            _ if delta.removed => drop(living.remove(&key)),
            Some(sealed_keys) => drop(living.insert(key, sealed_keys.clone())),
            None => {}
        }
        merge.add(delta);
    }
    let rows = merge.into_rest().map(|row| ((row.dev_eui, row.session_id), row.sealed_keys));
    assert!(rows.eq(living));
}

/// The file `stamp` of a data directory, and the same bytes as a sealed secret.
///
/// A stamp that is read is written as the same stamp and is not older than itself. Nothing opens that was not sealed.
pub fn stamp_file(bytes: &[u8]) {
    assert!(Sealer::new(&[7; 32]).open("app-key", 1, bytes).is_err());
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some(stamp) = Stamp::parse(text) else { return };
    assert_eq!(Stamp::parse(&stamp.print()).as_ref(), Some(&stamp));
    assert_eq!(stamp.behind(&stamp), None);
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
replay::replayed! {
    journal_row,
    stamp_file,
}
