//! The AppSKeys, by session: sealed in the store, a bounded number of them open in memory.

use std::sync::Arc;

use aes_kw::KwAes128;
use aes_kw::cipher::KeyInit;
use mac::keys::AppSKey;
use parking_lot::Mutex;
use seam::{Bug, planted};
use store::{AppSessionRow, BridgeTables, Sealer};
use zeroize::Zeroizing;

use crate::cache::Cache;
use crate::error::BridgeError;

/// Keys held open at most.
const KEYS_MAX: usize = 200_000;
/// What the keys are sealed for.
const PURPOSE: &str = "app-s-key";

/// Session keys.
pub(crate) struct Keys {
    tables: BridgeTables,
    sealer: Sealer,
    transport: KwAes128,
    open: Mutex<Cache<u64, Arc<AppSKey>>>,
}

impl Keys {
    /// `transport_kek` opens the keys that come from the join server (RFC 3394).
    pub(crate) fn new(tables: BridgeTables, sealer: Sealer, transport_kek: &[u8; 16]) -> Self {
        Self {
            tables,
            sealer,
            transport: KwAes128::new(transport_kek.into()),
            open: Mutex::new(Cache::new(KEYS_MAX)),
        }
    }

    /// The keys of sessions, in the order asked for. One that does not open is as good as not there, and logged.
    pub(crate) async fn of_sessions(
        &self,
        session_ids: &[u64],
    ) -> Result<Vec<Option<Arc<AppSKey>>>, BridgeError> {
        let last = session_ids.last().copied();
        let all_alike: Vec<u64>;
        let session_ids = if planted(Bug::KeyOfAnotherSession) {
            all_alike = session_ids.iter().filter_map(|_| last).collect();
            &all_alike
        } else {
            session_ids
        };
        let (mut found, version) = {
            let mut open = self.open.lock();
            let found: Vec<_> = session_ids.iter().map(|&session_id| open.find(session_id)).collect();
            (found, open.version())
        };
        let mut missing: Vec<u64> = session_ids
            .iter()
            .zip(&found)
            .filter(|(_, key)| key.is_none())
            .map(|(&session_id, _)| session_id)
            .collect();
        if missing.is_empty() {
            return Ok(found);
        }
        missing.sort_unstable();
        missing.dedup();
        let rows = self.tables.app_sessions_by_id(missing).await?;
        let mut read: Vec<(u64, Arc<AppSKey>)> =
            rows.iter().filter_map(|row| self.unseal(row).map(|key| (row.session_id, Arc::new(key)))).collect();
        read.sort_unstable_by_key(|(session_id, _)| *session_id);
        for (session_id, place) in session_ids.iter().zip(&mut found) {
            if place.is_none()
                && let Ok(index) = read.binary_search_by_key(session_id, |(session_id, _)| *session_id)
            {
                *place = read.get(index).map(|(_, key)| Arc::clone(key));
            }
        }
        self.open.lock().fill(version, read.into_iter());
        Ok(found)
    }

    /// The key of one session.
    pub(crate) async fn of_session(&self, session_id: u64) -> Result<Option<Arc<AppSKey>>, BridgeError> {
        Ok(self.of_sessions(&[session_id]).await?.pop().flatten())
    }

    /// Opens a key that came wrapped; `None` when it was wrapped with another key or changed on the way.
    pub(crate) fn unwrap(&self, wrapped: &[u8]) -> Option<AppSKey> {
        let mut buffer = Zeroizing::new([0_u8; 16]);
        let key = self.transport.unwrap_key(wrapped, buffer.as_mut_slice()).ok()?;
        <[u8; 16]>::try_from(key).ok().map(AppSKey::new)
    }

    /// The row that keeps a key.
    pub(crate) fn seal(
        &self,
        session_id: u64,
        dev_eui: u64,
        key: &AppSKey,
        started_at_us: i64,
    ) -> AppSessionRow {
        let sealed_key = self.sealer.seal(PURPOSE, session_id, key.expose());
        AppSessionRow { session_id, dev_eui, sealed_key, started_at_us }
    }

    fn unseal(&self, row: &AppSessionRow) -> Option<AppSKey> {
        match self.sealer.open(PURPOSE, row.session_id, &row.sealed_key) {
            Ok(plain) => <[u8; 16]>::try_from(plain.as_slice()).ok().map(AppSKey::new),
            Err(error) => {
                tracing::error!(%error, dev_eui = format_args!("{:016x}", row.dev_eui), "a session key cannot be opened; its payloads are delivered raw");
                None
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) const TRANSPORT_KEK: [u8; 16] = [0x42; 16];

    /// Wraps a key as a join server does.
    pub(crate) fn wrap(key: &[u8; 16]) -> Vec<u8> {
        let mut buffer = [0; 24];
        KwAes128::new(&TRANSPORT_KEK.into()).wrap_key(key, &mut buffer).unwrap().to_vec()
    }

    /// AS-001, CRYPTO-023.
    #[tokio::test]
    async fn a_key_is_wrapped_on_its_way_and_sealed_at_rest() {
        let store = store::Store::open(store::Location::Memory, store::StoreOptions::default()).await.unwrap();
        let keys = Keys::new(store.bridge(), store.sealer(), &TRANSPORT_KEK);
        let wrapped = wrap(&[7; 16]);
        assert!(!wrapped.windows(4).any(|window| window == [7; 4]));

        let key = keys.unwrap(&wrapped).unwrap();
        assert_eq!(key.expose(), &[7; 16]);
        let row = keys.seal(9, 1, &key, 0);
        assert!(!row.sealed_key.windows(4).any(|window| window == [7; 4]));

        assert!(keys.of_session(9).await.unwrap().is_none());
        store.bridge().put_app_session(row.clone()).await.unwrap();
        let found = keys.of_sessions(&[8, 9, 9]).await.unwrap();
        assert!(found[0].is_none());
        assert_eq!(found[1].as_ref().unwrap().expose(), &[7; 16]);
        assert_eq!(found[2].as_ref().unwrap().expose(), &[7; 16]);

        // A key in another session's row does not open.
        store.bridge().put_app_session(AppSessionRow { session_id: 10, ..row }).await.unwrap();
        assert!(keys.of_session(10).await.unwrap().is_none());
        assert!(keys.unwrap(&[0; 24]).is_none());
        assert!(keys.unwrap(&wrapped[..16]).is_none());
        assert!(keys.unwrap(&[]).is_none());
        store.close().await.unwrap();
    }
}
