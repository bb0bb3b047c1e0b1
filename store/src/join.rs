//! The join server's tables: sealed root keys, nonces, and the last answer to each device.

use crate::StoreError;
use crate::bridge::AuditRow;
use crate::db::{Db, on_engine};

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
        let subject = match devices.as_slice() {
            [] => return Ok(()),
            [device] => format!("{:016x}", device.dev_eui),
            [first, ..] => format!("{} devices from {:016x}", devices.len(), first.dev_eui),
        };
        let keyed = devices.iter().filter(|d| d.sealed_app_key.is_some() || d.sealed_nwk_key.is_some()).count();
        let audit = audit("join_device_put", subject, format!("wrote the root keys of {keyed}"));
        on_engine!(&self.db, db => db.join().put_devices(devices, audit).await)
    }

    /// One device.
    pub async fn device(&self, dev_eui: u64) -> Result<Option<JoinDevice>, StoreError> {
        on_engine!(&self.db, db => db.join().device(dev_eui).await)
    }

    /// Destroys a device's keys, its DevNonces and its last answer; tells whether it was there.
    ///
    /// The JoinNonce outlives it: a device that is registered again continues the count, so that no pair of nonces comes twice.
    pub async fn delete_device(&self, dev_eui: u64) -> Result<bool, StoreError> {
        let audit = audit("join_device_delete", format!("{dev_eui:016x}"), "destroyed its root keys".into());
        on_engine!(&self.db, db => db.join().delete_device(dev_eui, audit).await)
    }

    /// Accepts a DevNonce and keeps the answer, in one transaction.
    pub async fn commit_join(&self, join: JoinCommit) -> Result<JoinCommitted, StoreError> {
        on_engine!(&self.db, db => db.join().commit_join(join).await)
    }

    /// The last answer to a device with the hash of the request it answered.
    pub async fn last_answer(&self, dev_eui: u64) -> Result<Option<([u8; 32], Vec<u8>)>, StoreError> {
        on_engine!(&self.db, db => db.join().last_answer(dev_eui).await)
    }
}

fn audit(action: &str, subject: String, detail: String) -> AuditRow {
    AuditRow {
        id: 0,
        at_us: seam::wall_us(),
        actor: "join-server".into(),
        action: action.into(),
        subject,
        detail,
    }
}
