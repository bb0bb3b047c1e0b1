//! The app-bridge follows the event log: what it concludes and how far it came become durable together.

use super::{AppSessionRow, BridgeTables, DownlinkUpdate};
use crate::StoreError;
use crate::db::on_engine;

/// What an event means for the app-bridge.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Followed {
    /// A join brought a session key.
    AppSession(AppSessionRow),
    /// A downlink came to another state.
    Downlink(DownlinkUpdate),
}

impl BridgeTables {
    /// Makes durable what the events up to `seq` mean, together with `seq`. A `seq` at or below the stored one changes nothing, so that an
    /// event followed twice counts once; then the answer is false.
    pub async fn follow(&self, seq: u64, changes: Vec<Followed>) -> Result<bool, StoreError> {
        on_engine!(&self.db, db => db.bridge().follow(seq, changes).await)
    }
}
