//! The app-bridge follows the event log: what it concludes and how far it came become durable together.

use super::downlink::apply_update;
use super::stream::put_app_session;
use super::{AppSessionRow, BridgeTables, DownlinkUpdate};
use crate::{StoreError, sql};

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
        self.db
            .write(move |connection| {
                Box::pin(async move {
                    let moved = sqlx::query("UPDATE follower SET seq = ?1 WHERE id = 1 AND seq < ?1")
                        .bind(sql::int(seq))
                        .execute(&mut *connection)
                        .await
                        .map_err(StoreError::sql("move the follower"))?;
                    if moved.rows_affected() == 0 {
                        return Ok(false);
                    }
                    for change in changes {
                        match change {
                            Followed::AppSession(row) => put_app_session(connection, row).await?,
                            Followed::Downlink(update) => {
                                apply_update(connection, update).await?;
                            }
                        }
                    }
                    Ok(true)
                })
            })
            .await
    }
}
