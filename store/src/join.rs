//! The join server's tables: sealed root keys, nonces, and the last answer to each device.

use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use crate::bridge::{AuditRow, write_audit};
use crate::db::Db;
use crate::{StoreError, sql};

/// A device that joins over the air, as it is written.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct JoinDeviceRow {
    /// The device.
    pub dev_eui: u64,
    /// Its JoinEUI.
    pub join_eui: u64,
    /// loam.v1.MacVersion.
    pub mac_version: i32,
    /// Sealed by the caller; `None` keeps what is stored.
    pub sealed_app_key: Option<Vec<u8>>,
    /// Sealed by the caller; `None` keeps what is stored.
    pub sealed_nwk_key: Option<Vec<u8>>,
}

/// A device that joins over the air, as it is read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct JoinDevice {
    /// What was written.
    pub row: JoinDeviceRow,
    /// The last JoinNonce handed out; 0: none. 24 bits.
    pub join_nonce: u32,
    /// The last DevNonce accepted; `None`: none under this JoinEUI.
    pub last_dev_nonce: Option<u16>,
    /// How many DevNonces were accepted.
    pub nonces_used: u32,
}

/// Which DevNonces are new.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NonceRule {
    /// Up to 1.0.3: random values, each accepted once (TS001-1.0.3 §6.2.4).
    UnusedEver,
    /// From 1.0.4: a counter that rises with each request (TS001-1.0.4 §6.2.5).
    StrictlyRising,
}

/// What one accepted Join-Request makes durable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JoinCommit {
    /// The device.
    pub dev_eui: u64,
    /// The JoinEUI of the request.
    pub join_eui: u64,
    /// The DevNonce of the request.
    pub dev_nonce: u16,
    /// What the device's version asks of it.
    pub rule: NonceRule,
    /// The JoinNonce of the answer: above the last one.
    pub join_nonce: u32,
    /// SHA-256 of the request, by which a repeated one is known.
    pub request_hash: [u8; 32],
    /// The whole answer, sealed by the caller.
    pub answer: Vec<u8>,
}

/// What became of a [`JoinCommit`]. All but the first have changed nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum JoinCommitted {
    /// Nonces and answer are durable; the answer may leave.
    Committed,
    /// The device is not there any more, or has another JoinEUI.
    DeviceUnknown,
    /// Another join of the device took this JoinNonce or a later one; take the next and try again.
    JoinNonceStale {
        /// The last JoinNonce handed out.
        last: u32,
    },
    /// The DevNonce is not above the last one.
    NonceNotRising {
        /// The highest DevNonce accepted.
        last: u16,
    },
    /// The DevNonce was accepted before.
    NonceUsed,
}

/// The join server's tables. Cheap to clone. Writes are durable when they return.
#[derive(Clone)]
pub struct JoinTables {
    pub(crate) db: Db,
}

impl std::fmt::Debug for JoinTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinTables")
    }
}

impl JoinTables {
    /// Creates or replaces a device; nonces stay. Another JoinEUI begins a count of its own.
    pub async fn put_device(&self, device: JoinDeviceRow) -> Result<(), StoreError> {
        self.put_devices(vec![device]).await
    }

    /// Creates or replaces devices in one transaction. Call it with up to some thousands at a time: the journal waits meanwhile.
    pub async fn put_devices(&self, devices: Vec<JoinDeviceRow>) -> Result<(), StoreError> {
        self.db.write(move |connection| Box::pin(put_devices(connection, devices))).await
    }

    /// One device.
    pub async fn device(&self, dev_eui: u64) -> Result<Option<JoinDevice>, StoreError> {
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

    /// Destroys a device's keys, its DevNonces and its last answer; tells whether it was there.
    ///
    /// The JoinNonce outlives it: a device that is registered again continues the count, so that no pair of nonces comes twice.
    pub async fn delete_device(&self, dev_eui: u64) -> Result<bool, StoreError> {
        self.db.write(move |connection| Box::pin(delete_device(connection, dev_eui))).await
    }

    /// Accepts a DevNonce and keeps the answer, in one transaction.
    pub async fn commit_join(&self, join: JoinCommit) -> Result<JoinCommitted, StoreError> {
        self.db.write(move |connection| Box::pin(commit_join(connection, join))).await
    }

    /// The last answer to a device with the hash of the request it answered.
    pub async fn last_answer(&self, dev_eui: u64) -> Result<Option<([u8; 32], Vec<u8>)>, StoreError> {
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

async fn put_devices(connection: &mut SqliteConnection, devices: Vec<JoinDeviceRow>) -> Result<(), StoreError> {
    let subject = match devices.as_slice() {
        [] => return Ok(()),
        [device] => format!("{:016x}", device.dev_eui),
        [first, ..] => format!("{} devices from {:016x}", devices.len(), first.dev_eui),
    };
    let keyed = devices.iter().filter(|d| d.sealed_app_key.is_some() || d.sealed_nwk_key.is_some()).count();
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
    audit(connection, "join_device_put", subject, format!("wrote the root keys of {keyed}")).await
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

async fn delete_device(connection: &mut SqliteConnection, dev_eui: u64) -> Result<bool, StoreError> {
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
    let subject = format!("{dev_eui:016x}");
    audit(connection, "join_device_delete", subject, "destroyed its root keys".into()).await?;
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

async fn audit(
    connection: &mut SqliteConnection,
    action: &str,
    subject: String,
    detail: String,
) -> Result<(), StoreError> {
    let row = AuditRow {
        id: 0,
        at_us: sql::now_us(),
        actor: "join-server".into(),
        action: action.into(),
        subject,
        detail,
    };
    write_audit(connection, row).await
}

/// DevNonces are written from 16 bits; anything else is read as the highest, which refuses rather than accepts.
fn nonce(value: i64) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}
