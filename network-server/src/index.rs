//! The DevAddr index: which sessions a frame may belong to, and the key that decides.
//!
//! Shared and read-mostly. Receivers look frames up; the owner of a device puts and removes its sessions and moves the
//! counter hint. Many devices on one DevAddr are normal: a DevAddr has only 25 bits for a private network.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hashbrown::HashMap;
use mac::ids::{DevAddr, DevEui, FCntUp, SessionId};
use mac::keys::{FNwkSIntKey, SNwkSIntKey};
use mac::region::{Channel, Modulation, RegionId, region};
use mac::session::{Profile, Session};
use mac::units::Hz;
use mac::verify::{self, Proof, SentWith};
use mac::version::{MacVersion, RegionalRevision};
use parking_lot::RwLock;

const LOCKS: usize = 64;

/// What is needed to try a frame against one session, without touching the session.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) dev_eui: DevEui,
    session_id: SessionId,
    f_nwk_s_int: FNwkSIntKey,
    /// Last accepted FCntUp + 1; 0: none yet. A hint: the owner decides.
    fcnt_up_plus_1: AtomicU64,
    version: MacVersion,
    allow_fcnt_reset: bool,
    /// Only for 1.1 sessions.
    v1_1: Option<Box<Candidate11>>,
}

/// What the MIC of a 1.1 uplink needs besides.
#[derive(Debug)]
struct Candidate11 {
    s_nwk_s_int: SNwkSIntKey,
    region: RegionId,
    revision: RegionalRevision,
    extra_channels: Vec<Channel>,
    /// Low 16 bits of the confirmed downlink a set ACK bit would mean.
    conf_fcnt: AtomicU32,
}

impl Candidate {
    /// The session as the receivers see it.
    pub(crate) fn new(session: &Session, profile: &Profile, allow_fcnt_reset: bool) -> Self {
        let v1_1 = session.version.is_1_1().then(|| {
            Box::new(Candidate11 {
                s_nwk_s_int: session.keys.s_nwk_s_int.clone(),
                region: profile.region().id(),
                revision: profile.revision,
                extra_channels: session.extra_channels(profile),
                conf_fcnt: AtomicU32::new(u32::from(session.conf_fcnt())),
            })
        });
        let candidate = Self {
            dev_eui: session.dev_eui,
            session_id: session.id,
            f_nwk_s_int: session.keys.f_nwk_s_int.clone(),
            fcnt_up_plus_1: AtomicU64::new(0),
            version: session.version,
            allow_fcnt_reset,
            v1_1,
        };
        candidate.move_to(session.fcnt_up);
        candidate
    }

    /// The session in the words of `mac::verify`.
    pub(crate) fn to_verify(&self) -> verify::Candidate<'_> {
        let conf_fcnt = self.v1_1.as_ref().map_or(0, |v| v.conf_fcnt.load(Ordering::Acquire));
        verify::Candidate {
            session: self.session_id,
            version: self.version,
            f_nwk_s_int: &self.f_nwk_s_int,
            s_nwk_s_int: self.v1_1.as_ref().map(|v| &v.s_nwk_s_int),
            conf_fcnt: u16::try_from(conf_fcnt).unwrap_or(0),
            last: self.last(),
            allow_fcnt_reset: self.allow_fcnt_reset,
        }
    }

    /// Whether a proof is of this session and its counter is still read in the same way.
    pub(crate) fn made(&self, proof: &Proof) -> bool {
        proof.session() == self.session_id && proof.may_reset() == self.allow_fcnt_reset
    }

    /// How a frame was sent in the device's own numbers; only a 1.1 device signs them.
    pub(crate) fn sent_with(&self, freq: Hz, modulation: Modulation) -> SentWith {
        let Some(v1_1) = &self.v1_1 else {
            return SentWith { dr: mac::region::DataRate::new(0), channel: None };
        };
        let plan = region(v1_1.region);
        match plan.data_rate_up(modulation, v1_1.revision) {
            Some(dr) => SentWith { dr, channel: plan.uplink_channel(freq, dr, &v1_1.extra_channels) },
            None => SentWith { dr: mac::region::DataRate::new(0), channel: None },
        }
    }

    /// The last accepted counter, as far as the receivers know.
    pub(crate) fn last(&self) -> Option<FCntUp> {
        let plus_1 = self.fcnt_up_plus_1.load(Ordering::Acquire);
        plus_1.checked_sub(1).and_then(|v| u32::try_from(v).ok()).map(FCntUp::new)
    }

    fn move_to(&self, last: Option<FCntUp>) {
        let plus_1 = last.map_or(0, |fcnt| u64::from(fcnt.value()) + 1);
        self.fcnt_up_plus_1.store(plus_1, Ordering::Release);
    }
}

/// The candidates of one DevAddr; nearly always one.
#[derive(Debug)]
enum Bucket {
    One(Candidate),
    Many(Vec<Candidate>),
}

impl Bucket {
    fn as_slice(&self) -> &[Candidate] {
        match self {
            Self::One(candidate) => std::slice::from_ref(candidate),
            Self::Many(candidates) => candidates,
        }
    }
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct DevAddrIndex {
    shards: Vec<RwLock<HashMap<DevAddr, Bucket>>>,
}

impl Default for DevAddrIndex {
    fn default() -> Self {
        Self { shards: (0..LOCKS).map(|_| RwLock::default()).collect() }
    }
}

impl DevAddrIndex {
    /// Runs `look` on the sessions of a DevAddr; an empty slice when there are none. Keep it short: a lock is held.
    pub(crate) fn with<R>(&self, dev_addr: DevAddr, look: impl FnOnce(&[Candidate]) -> R) -> R {
        let shard = self.shard(dev_addr).read();
        look(shard.get(&dev_addr).map_or(&[], Bucket::as_slice))
    }

    /// Adds a session, in place of the same session's older entry.
    pub(crate) fn put(&self, dev_addr: DevAddr, candidate: Candidate) {
        let mut shard = self.shard(dev_addr).write();
        let bucket = match shard.remove(&dev_addr) {
            None => Bucket::One(candidate),
            Some(Bucket::One(first)) if same(&first, &candidate) => Bucket::One(candidate),
            Some(Bucket::One(first)) => Bucket::Many(vec![first, candidate]),
            Some(Bucket::Many(mut candidates)) => {
                candidates.retain(|c| !same(c, &candidate));
                candidates.push(candidate);
                Bucket::Many(candidates)
            }
        };
        shard.insert(dev_addr, bucket);
    }

    /// Takes a session out; nothing happens when it is not there.
    pub(crate) fn remove(&self, dev_addr: DevAddr, dev_eui: DevEui, session_id: SessionId) {
        let mut shard = self.shard(dev_addr).write();
        let left = match shard.remove(&dev_addr) {
            None => None,
            Some(Bucket::One(c)) if c.dev_eui == dev_eui && c.session_id == session_id => None,
            Some(Bucket::One(c)) => Some(Bucket::One(c)),
            Some(Bucket::Many(mut candidates)) => {
                candidates.retain(|c| c.dev_eui != dev_eui || c.session_id != session_id);
                match candidates.len() {
                    0 => None,
                    1 => candidates.pop().map(Bucket::One),
                    _ => Some(Bucket::Many(candidates)),
                }
            }
        };
        if let Some(bucket) = left {
            shard.insert(dev_addr, bucket);
        }
    }

    /// Tells the receivers the session's last accepted counter.
    pub(crate) fn move_counter(
        &self,
        dev_addr: DevAddr,
        dev_eui: DevEui,
        session_id: SessionId,
        last: Option<FCntUp>,
    ) {
        self.with(dev_addr, |candidates| {
            if let Some(c) = candidates.iter().find(|c| c.dev_eui == dev_eui && c.session_id == session_id) {
                c.move_to(last);
            }
        });
    }

    fn shard(&self, dev_addr: DevAddr) -> &RwLock<HashMap<DevAddr, Bucket>> {
        // The low bits are NwkAddr and spread well.
        &self.shards[dev_addr.value() as usize % LOCKS]
    }
}

fn same(a: &Candidate, b: &Candidate) -> bool {
    a.dev_eui == b.dev_eui && a.session_id == b.session_id
}
