//! What events mean and how far they were read, in one transaction.

use super::downlink::apply_update;
use super::stream::put_app_session;
use crate::sqlite::{Bridge, sql};
use crate::{Followed, StoreError};

impl Bridge<'_> {
    pub(crate) async fn follow(&self, seq: u64, changes: Vec<Followed>) -> Result<bool, StoreError> {
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
