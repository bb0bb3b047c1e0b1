//! The network session keys as they lie in the database: sealed, written at activation only.

use mac::ids::SessionId;
use mac::keys::{FNwkSIntKey, NetworkKeys, NwkSEncKey, SNwkSIntKey};
use store::{Sealer, StoreError};

const PURPOSE: &str = "network session keys";

/// Seals the keys of a session to its id.
pub(crate) fn seal_keys(sealer: &Sealer, id: SessionId, keys: &NetworkKeys) -> Vec<u8> {
    let mut plain = zeroize::Zeroizing::new(Vec::with_capacity(3 * 16));
    plain.extend_from_slice(keys.f_nwk_s_int.expose());
    plain.extend_from_slice(keys.s_nwk_s_int.expose());
    plain.extend_from_slice(keys.nwk_s_enc.expose());
    sealer.seal(PURPOSE, id.value(), &plain)
}

/// Opens what [`seal_keys`] made; `None` inside when it has another length.
pub(crate) fn open_keys(
    sealer: &Sealer,
    id: SessionId,
    sealed: &[u8],
) -> Result<Option<NetworkKeys>, StoreError> {
    let plain = sealer.open(PURPOSE, id.value(), sealed)?;
    let (keys, rest) = plain.as_chunks::<16>();
    Ok(match (keys, rest) {
        ([f_nwk_s_int, s_nwk_s_int, nwk_s_enc], []) => Some(NetworkKeys {
            f_nwk_s_int: FNwkSIntKey::new(*f_nwk_s_int),
            s_nwk_s_int: SNwkSIntKey::new(*s_nwk_s_int),
            nwk_s_enc: NwkSEncKey::new(*nwk_s_enc),
        }),
        _ => None,
    })
}
