//! The registry of devices, in SQL.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use crate::sqlite::{Bridge, sql};
use crate::{BridgeDeviceRow, StoreError, Written};

impl Bridge<'_> {
    pub(crate) async fn insert_devices(&self, rows: Vec<BridgeDeviceRow>) -> Result<Written, StoreError> {
        self.db.write(move |connection| Box::pin(insert(connection, rows))).await
    }

    pub(crate) async fn update_device(&self, row: BridgeDeviceRow) -> Result<Written, StoreError> {
        self.db.write(move |connection| Box::pin(update(connection, row))).await
    }

    pub(crate) async fn delete_device(&self, dev_eui: u64) -> Result<bool, StoreError> {
        let query = sqlx::query("DELETE FROM device WHERE dev_eui = ?1").bind(sql::key(dev_eui));
        Ok(self.db.execute("delete a device", query).await? > 0)
    }

    pub(crate) async fn device(&self, dev_eui: u64) -> Result<Option<BridgeDeviceRow>, StoreError> {
        let query = sqlx::query(
            "SELECT dev_eui, join_eui, application_id, profile_id, name, tags, codec_id, flags, created_at_us \
             FROM device WHERE dev_eui = ?1",
        )
        .bind(sql::key(dev_eui));
        self.db.fetch_optional("read a device", query).await?.as_ref().map(device).transpose()
    }

    pub(crate) async fn devices(
        &self,
        application_id: Option<&str>,
        after: Option<u64>,
        limit: u32,
    ) -> Result<Vec<BridgeDeviceRow>, StoreError> {
        let Some(from) = after.map_or(Some(0), |after| after.checked_add(1)) else {
            return Ok(Vec::new());
        };
        let query = match application_id {
            Some(application) => sqlx::query(
                "SELECT dev_eui, join_eui, application_id, profile_id, name, tags, codec_id, flags, created_at_us \
                 FROM device WHERE dev_eui >= ?1 AND application_id = ?3 ORDER BY dev_eui LIMIT ?2",
            )
            .bind(sql::key(from))
            .bind(limit)
            .bind(application.to_owned()),
            None => sqlx::query(
                "SELECT dev_eui, join_eui, application_id, profile_id, name, tags, codec_id, flags, created_at_us \
                 FROM device WHERE dev_eui >= ?1 ORDER BY dev_eui LIMIT ?2",
            )
            .bind(sql::key(from))
            .bind(limit),
        };
        self.db.fetch_all("read the devices", query).await?.iter().map(device).collect()
    }

    pub(crate) async fn unprovisioned_devices(&self, limit: u32) -> Result<Vec<BridgeDeviceRow>, StoreError> {
        let query = sqlx::query(
            "SELECT dev_eui, join_eui, application_id, profile_id, name, tags, codec_id, flags, created_at_us \
             FROM device WHERE flags & 4 = 0 ORDER BY dev_eui LIMIT ?1",
        )
        .bind(limit);
        self.db.fetch_all("read the devices", query).await?.iter().map(device).collect()
    }

    pub(crate) async fn set_provisioned(&self, dev_euis: Vec<u64>) -> Result<(), StoreError> {
        self.db
            .write(move |connection| {
                Box::pin(async move {
                    for dev_eui in dev_euis {
                        sqlx::query("UPDATE device SET flags = flags | 4 WHERE dev_eui = ?1")
                            .bind(sql::key(dev_eui))
                            .execute(&mut *connection)
                            .await
                            .map_err(StoreError::sql("write a device"))?;
                    }
                    Ok(())
                })
            })
            .await
    }

    pub(crate) async fn device_count(&self) -> Result<u64, StoreError> {
        let row = self.db.fetch_optional("count devices", sqlx::query("SELECT count(*) FROM device")).await?;
        Ok(row.map_or(0, |row| sql::uint(row.get(0))))
    }
}

async fn insert(connection: &mut SqliteConnection, rows: Vec<BridgeDeviceRow>) -> Result<Written, StoreError> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = rows.iter().find(|row| !seen.insert(row.dev_eui)) {
        return Ok(Written::Exists(format!("{:016x}", twice.dev_eui)));
    }
    if let Some(missing) = missing_parent(connection, &rows).await? {
        return Ok(Written::Missing(missing));
    }
    for chunk in rows.chunks(128) {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT dev_eui FROM device WHERE dev_eui IN (");
        let mut list = query.separated(", ");
        for row in chunk {
            list.push_bind(sql::key(row.dev_eui));
        }
        query.push(") ORDER BY dev_eui LIMIT 1");
        let found: Option<i64> = query
            .build_query_scalar()
            .fetch_optional(&mut *connection)
            .await
            .map_err(StoreError::sql("look for devices"))?;
        if let Some(found) = found {
            return Ok(Written::Exists(format!("{:016x}", sql::id(found))));
        }
    }
    let mut rows = rows.into_iter();
    for size in [128, 1] {
        while rows.len() >= size {
            let mut query = QueryBuilder::<Sqlite>::new(
                "INSERT INTO device (dev_eui, join_eui, application_id, profile_id, name, tags, codec_id, flags, created_at_us) ",
            );
            query.push_values(rows.by_ref().take(size), |mut values, row| {
                values
                    .push_bind(sql::key(row.dev_eui))
                    .push_bind(sql::key(row.join_eui))
                    .push_bind(row.application_id)
                    .push_bind(row.profile_id)
                    .push_bind(row.name)
                    .push_bind(Tags { tags: row.tags }.encode_to_vec())
                    .push_bind(row.codec_id)
                    .push_bind(flags(row.disabled, row.allow_fcnt_reset, row.provisioned))
                    .push_bind(row.created_at_us);
            });
            query.build().execute(&mut *connection).await.map_err(StoreError::sql("write devices"))?;
        }
    }
    Ok(Written::Done)
}

async fn update(connection: &mut SqliteConnection, row: BridgeDeviceRow) -> Result<Written, StoreError> {
    if let Some(missing) = missing_parent(connection, std::slice::from_ref(&row)).await? {
        return Ok(Written::Missing(missing));
    }
    let done = sqlx::query(
        "UPDATE device SET join_eui = ?2, application_id = ?3, profile_id = ?4, name = ?5, tags = ?6, codec_id = ?7, \
         flags = ?8 WHERE dev_eui = ?1",
    )
    .bind(sql::key(row.dev_eui))
    .bind(sql::key(row.join_eui))
    .bind(row.application_id)
    .bind(row.profile_id)
    .bind(row.name)
    .bind(Tags { tags: row.tags }.encode_to_vec())
    .bind(row.codec_id)
    .bind(flags(row.disabled, row.allow_fcnt_reset, row.provisioned))
    .execute(connection)
    .await
    .map_err(StoreError::sql("write a device"))?;
    let missing = || Written::Missing(format!("device {:016x}", row.dev_eui));
    Ok(if done.rows_affected() > 0 { Written::Done } else { missing() })
}

/// The first application or profile the rows name that is not there.
async fn missing_parent(
    connection: &mut SqliteConnection,
    rows: &[BridgeDeviceRow],
) -> Result<Option<String>, StoreError> {
    let applications: BTreeSet<&str> = rows.iter().map(|row| row.application_id.as_str()).collect();
    let profiles: BTreeSet<&str> = rows.iter().map(|row| row.profile_id.as_str()).collect();
    let parents = [
        ("application", "SELECT EXISTS (SELECT 1 FROM application WHERE id = ?1)", applications),
        ("profile", "SELECT EXISTS (SELECT 1 FROM profile WHERE id = ?1)", profiles),
    ];
    for (what, query, ids) in parents {
        for id in ids {
            let there: bool = sqlx::query_scalar(query)
                .bind(id.to_owned())
                .fetch_one(&mut *connection)
                .await
                .map_err(StoreError::sql("look for what a device names"))?;
            if !there {
                return Ok(Some(format!("{what} {id}")));
            }
        }
    }
    Ok(None)
}

fn flags(disabled: bool, allow_fcnt_reset: bool, provisioned: bool) -> i64 {
    i64::from(disabled) | i64::from(allow_fcnt_reset) << 1 | i64::from(provisioned) << 2
}

pub(super) fn device(row: &SqliteRow) -> Result<BridgeDeviceRow, StoreError> {
    let flags: i64 = row.get(7);
    let tags = Tags::decode(row.get::<&[u8], _>(5))
        .map_err(|_| StoreError::Damaged { what: "the tags of a device" })?;
    Ok(BridgeDeviceRow {
        dev_eui: sql::id(row.get(0)),
        join_eui: sql::id(row.get(1)),
        application_id: row.get(2),
        profile_id: row.get(3),
        name: row.get(4),
        tags: tags.tags,
        codec_id: row.get(6),
        disabled: flags & 1 != 0,
        allow_fcnt_reset: flags & 2 != 0,
        provisioned: flags & 4 != 0,
        created_at_us: row.get(8),
    })
}

#[derive(Clone, PartialEq, Message)]
struct Tags {
    #[prost(btree_map = "string, string", tag = "1")]
    tags: BTreeMap<String, String>,
}
