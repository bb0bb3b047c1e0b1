//! Root keys, nonces and answers, in SQL.

use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use super::bridge::write_audit;
use super::{Join, sql};
use crate::{AuditRow, JoinCommit, JoinCommitted, JoinDevice, JoinDeviceRow, NonceRule, StoreError};

impl Join<'_> {
    pub(crate) async fn put_devices(
        &self,
        devices: Vec<JoinDeviceRow>,
        audit: AuditRow,
    ) -> Result<(), StoreError> {
        self.db.write(move |connection| Box::pin(put_devices(connection, devices, audit))).await
    }

    pub(crate) async fn device(&self, dev_eui: u64) -> Result<Option<JoinDevice>, StoreError> {
        let query = sqlx::query(
            "SELECT join_eui, mac_version, sealed_app_key, sealed_nwk_key, join_nonce, last_dev_nonce, nonces_used \
             FROM join_device WHERE dev_eui = ?1",
        )
        .bind(sql::key(dev_eui));
        let row = self.db.fetch_optional("read a device", query).await?;
        Ok(row.map(|row| JoinDevice {
            row: JoinDeviceRow {
                dev_eui,
                join_eui: sql::id(row.get(0)),
                mac_version: row.get(1),
                sealed_app_key: row.get(2),
                sealed_nwk_key: row.get(3),
            },
            join_nonce: sql::uint32(row.get(4)),
            last_dev_nonce: row.get::<Option<i64>, _>(5).map(nonce),
            nonces_used: sql::uint32(row.get(6)),
        }))
    }

    pub(crate) async fn delete_device(&self, dev_eui: u64, audit: AuditRow) -> Result<bool, StoreError> {
        self.db.write(move |connection| Box::pin(delete_device(connection, dev_eui, audit))).await
    }

    pub(crate) async fn commit_join(&self, join: JoinCommit) -> Result<JoinCommitted, StoreError> {
        self.db.write(move |connection| Box::pin(commit_join(connection, join))).await
    }

    pub(crate) async fn last_answer(&self, dev_eui: u64) -> Result<Option<([u8; 32], Vec<u8>)>, StoreError> {
        let query = sqlx::query("SELECT request_hash, answer FROM join_answer WHERE dev_eui = ?1")
            .bind(sql::key(dev_eui));
        let Some(row) = self.db.fetch_optional("read the last join", query).await? else {
            return Ok(None);
        };
        let hash = <[u8; 32]>::try_from(row.get::<&[u8], _>(0));
        let hash = hash.map_err(|_| StoreError::Damaged { what: "the last join of a device" })?;
        Ok(Some((hash, row.get(1))))
    }
}

async fn put_devices(
    connection: &mut SqliteConnection,
    devices: Vec<JoinDeviceRow>,
    audit: AuditRow,
) -> Result<(), StoreError> {
    let mut devices = devices.into_iter();
    for size in [128, 1] {
        while devices.len() >= size {
            let mut query =
                QueryBuilder::<Sqlite>::new("WITH v(dev_eui, join_eui, mac_version, app_key, nwk_key) AS (");
            query.push_values(devices.by_ref().take(size), |mut values, device| {
                values
                    .push_bind(sql::key(device.dev_eui))
                    .push_bind(sql::key(device.join_eui))
                    .push_bind(device.mac_version)
                    .push_bind(device.sealed_app_key)
                    .push_bind(device.sealed_nwk_key);
            });
            query.push(PUT_DEVICES);
            query.build().execute(&mut *connection).await.map_err(StoreError::sql("write devices"))?;
        }
    }
    write_audit(connection, audit).await
}

/// A device that comes back continues the JoinNonce it had.
const PUT_DEVICES: &str = ") INSERT INTO join_device \
     (dev_eui, join_eui, mac_version, sealed_app_key, sealed_nwk_key, join_nonce, nonces_used) \
     SELECT v.dev_eui, v.join_eui, v.mac_version, v.app_key, v.nwk_key, coalesce(f.join_nonce, 0), 0 \
     FROM v LEFT JOIN join_nonce_floor AS f ON f.dev_eui = v.dev_eui WHERE true \
     ON CONFLICT (dev_eui) DO UPDATE SET mac_version = excluded.mac_version, \
     sealed_app_key = coalesce(excluded.sealed_app_key, sealed_app_key), \
     sealed_nwk_key = coalesce(excluded.sealed_nwk_key, sealed_nwk_key), \
     last_dev_nonce = iif(join_eui = excluded.join_eui, last_dev_nonce, NULL), \
     dev_nonce_floor = iif(join_eui = excluded.join_eui, dev_nonce_floor, NULL), \
     join_eui = excluded.join_eui";

async fn delete_device(
    connection: &mut SqliteConnection,
    dev_eui: u64,
    audit: AuditRow,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT OR REPLACE INTO join_nonce_floor (dev_eui, join_nonce) \
         SELECT dev_eui, join_nonce FROM join_device WHERE dev_eui = ?1; \
         DELETE FROM join_nonce_used WHERE dev_eui = ?1; DELETE FROM join_answer WHERE dev_eui = ?1",
    )
    .bind(sql::key(dev_eui))
    .execute(&mut *connection)
    .await;
    done.map_err(StoreError::sql("delete a device"))?;
    let done = sqlx::query("DELETE FROM join_device WHERE dev_eui = ?1")
        .bind(sql::key(dev_eui))
        .execute(&mut *connection)
        .await
        .map_err(StoreError::sql("delete a device"))?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    write_audit(connection, audit).await?;
    Ok(true)
}

async fn commit_join(connection: &mut SqliteConnection, join: JoinCommit) -> Result<JoinCommitted, StoreError> {
    let failed = || StoreError::sql("commit a join");
    let device = sqlx::query(
        "SELECT join_nonce, dev_nonce_floor, EXISTS (SELECT 1 FROM join_nonce_used \
         WHERE dev_eui = ?1 AND join_eui = ?2 AND dev_nonce = ?3) FROM join_device WHERE dev_eui = ?1 AND join_eui = ?2",
    )
    .bind(sql::key(join.dev_eui))
    .bind(sql::key(join.join_eui))
    .bind(i64::from(join.dev_nonce))
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed())?;
    let Some(device) = device else {
        return Ok(JoinCommitted::DeviceUnknown);
    };
    let floor = device.get::<Option<i64>, _>(1).map(nonce);
    if let (NonceRule::StrictlyRising, Some(last)) = (join.rule, floor)
        && join.dev_nonce <= last
    {
        return Ok(JoinCommitted::NonceNotRising { last });
    }
    // Under both rules, so that a device whose version was corrected cannot be joined with what was heard before.
    if device.get::<bool, _>(2) {
        return Ok(JoinCommitted::NonceUsed);
    }
    let last = sql::uint32(device.get(0));
    if join.join_nonce <= last {
        return Ok(JoinCommitted::JoinNonceStale { last });
    }
    let rising = (join.rule == NonceRule::StrictlyRising).then_some(i64::from(join.dev_nonce));
    sqlx::query(
        "INSERT INTO join_nonce_used (dev_eui, join_eui, dev_nonce) VALUES (?1, ?2, ?3); \
         UPDATE join_device SET join_nonce = ?4, last_dev_nonce = ?3, nonces_used = nonces_used + 1, \
         dev_nonce_floor = coalesce(?5, dev_nonce_floor) WHERE dev_eui = ?1; \
         INSERT OR REPLACE INTO join_answer (dev_eui, request_hash, answer) VALUES (?1, ?6, ?7)",
    )
    .bind(sql::key(join.dev_eui))
    .bind(sql::key(join.join_eui))
    .bind(i64::from(join.dev_nonce))
    .bind(i64::from(join.join_nonce))
    .bind(rising)
    .bind(join.request_hash.as_slice())
    .bind(join.answer)
    .execute(connection)
    .await
    .map_err(failed())?;
    Ok(JoinCommitted::Committed)
}

/// DevNonces are written from 16 bits; anything else is read as the highest, which refuses rather than accepts.
fn nonce(value: i64) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}
