//! Many rows at once, in SQL.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite};

use super::device::device;
use super::stream::app_session;
use crate::sqlite::{Bridge, sql};
use crate::{AppSessionRow, BridgeDeviceRow, StoreError};

impl Bridge<'_> {
    pub(crate) async fn devices_by_eui(&self, dev_euis: Vec<u64>) -> Result<Vec<BridgeDeviceRow>, StoreError> {
        let columns = "SELECT dev_eui, join_eui, application_id, profile_id, name, tags, codec_id, flags, created_at_us \
                       FROM device WHERE dev_eui IN (";
        self.by_keys("read devices", columns, dev_euis).await?.iter().map(device).collect()
    }

    pub(crate) async fn app_sessions_by_id(
        &self,
        session_ids: Vec<u64>,
    ) -> Result<Vec<AppSessionRow>, StoreError> {
        let columns =
            "SELECT session_id, dev_eui, sealed_key, started_at_us FROM app_session WHERE session_id IN (";
        Ok(self.by_keys("read session keys", columns, session_ids).await?.iter().map(app_session).collect())
    }

    async fn by_keys(
        &self,
        doing: &'static str,
        columns: &'static str,
        keys: Vec<u64>,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        self.db
            .read(move |connection| {
                Box::pin(async move {
                    let mut rows = Vec::with_capacity(keys.len());
                    for chunk in keys.chunks(KEYS_PER_QUERY) {
                        let mut query = QueryBuilder::<Sqlite>::new(columns);
                        let mut list = query.separated(", ");
                        for &key in chunk {
                            list.push_bind(sql::key(key));
                        }
                        query.push(")");
                        let found = query.build().fetch_all(&mut *connection).await;
                        rows.extend(found.map_err(StoreError::sql(doing))?);
                    }
                    Ok(rows)
                })
            })
            .await
    }
}

/// Statements are cached by their text, so the usual page of a reader should be one statement.
const KEYS_PER_QUERY: usize = 256;
