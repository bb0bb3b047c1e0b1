//! Many rows at once, for readers of the event log.

use super::{AppSessionRow, BridgeDeviceRow, BridgeTables};
use crate::StoreError;
use crate::db::on_engine;

impl BridgeTables {
    /// The devices of these DevEUIs that are there, in no order.
    pub async fn devices_by_eui(&self, dev_euis: Vec<u64>) -> Result<Vec<BridgeDeviceRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().devices_by_eui(dev_euis).await)
    }

    /// The keys of these sessions that are there, in no order.
    pub async fn app_sessions_by_id(&self, session_ids: Vec<u64>) -> Result<Vec<AppSessionRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().app_sessions_by_id(session_ids).await)
    }
}
