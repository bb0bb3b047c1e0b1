//! The DevAddr index: which sessions a frame may belong to, and the key that decides.
//!
//! Shared and read-mostly. Receivers look frames up; the owner of a device puts and removes its sessions and moves the
//! counter hint. Many devices on one DevAddr are normal: a DevAddr has only 25 bits for a private network.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hashbrown::HashTable;
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
    dev_addr: DevAddr,
    /// Last accepted FCntUp, if there was one. A hint: the owner decides.
    fcnt_up: AtomicU32,
    was_heard: AtomicBool,
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
            dev_addr: session.dev_addr,
            fcnt_up: AtomicU32::new(0),
            was_heard: AtomicBool::new(false),
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
        let was_heard = self.was_heard.load(Ordering::Acquire);
        was_heard.then(|| FCntUp::new(self.fcnt_up.load(Ordering::Acquire)))
    }

    fn move_to(&self, last: Option<FCntUp>) {
        self.fcnt_up.store(last.map_or(0, FCntUp::value), Ordering::Release);
        self.was_heard.store(last.is_some(), Ordering::Release);
    }

    fn is(&self, dev_addr: DevAddr, dev_eui: DevEui, session_id: SessionId) -> bool {
        self.dev_addr == dev_addr && self.dev_eui == dev_eui && self.session_id == session_id
    }
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct DevAddrIndex {
    /// Sessions are found by their DevAddr; a table takes several under one.
    shards: Vec<RwLock<HashTable<Box<Candidate>>>>,
}

impl Default for DevAddrIndex {
    fn default() -> Self {
        Self { shards: (0..LOCKS).map(|_| RwLock::default()).collect() }
    }
}

impl DevAddrIndex {
    /// Runs `look` on the sessions of a DevAddr; an empty slice when there are none. Keep it short: a lock is held.
    pub(crate) fn with<R>(&self, dev_addr: DevAddr, look: impl FnOnce(&[&Candidate]) -> R) -> R {
        let shard = self.shard(dev_addr).read();
        let all = shard.iter_hash(hash(dev_addr)).map(Box::as_ref);
        let mut found = all.filter(|candidate| candidate.dev_addr == dev_addr);
        let Some(first) = found.next() else { return look(&[]) };
        let Some(second) = found.next() else { return look(&[first]) };
        let many: Vec<&Candidate> = [first, second].into_iter().chain(found).collect();
        look(&many)
    }

    /// Adds a session, in place of the same session's older entry.
    pub(crate) fn put(&self, candidate: Candidate) {
        let dev_addr = candidate.dev_addr;
        let mut shard = self.shard(dev_addr).write();
        let (dev_eui, session_id) = (candidate.dev_eui, candidate.session_id);
        match shard.find_mut(hash(dev_addr), |known| known.is(dev_addr, dev_eui, session_id)) {
            Some(known) => **known = candidate,
            None => {
                shard.insert_unique(hash(dev_addr), Box::new(candidate), |known| hash(known.dev_addr));
            }
        }
    }

    /// Takes a session out; nothing happens when it is not there.
    pub(crate) fn remove(&self, session: &Session) {
        let mut shard = self.shard(session.dev_addr).write();
        let (dev_addr, dev_eui, id) = (session.dev_addr, session.dev_eui, session.id);
        if let Ok(entry) = shard.find_entry(hash(dev_addr), |known| known.is(dev_addr, dev_eui, id)) {
            entry.remove();
        }
    }

    /// Tells the receivers the session's last accepted counter.
    pub(crate) fn move_counter(&self, session: &Session) {
        let shard = self.shard(session.dev_addr).read();
        let (dev_addr, dev_eui, id) = (session.dev_addr, session.dev_eui, session.id);
        if let Some(candidate) = shard.find(hash(dev_addr), |known| known.is(dev_addr, dev_eui, id)) {
            candidate.move_to(session.fcnt_up);
        }
    }

    #[allow(clippy::indexing_slicing, reason = "the remainder is below the number of shards")]
    fn shard(&self, dev_addr: DevAddr) -> &RwLock<HashTable<Box<Candidate>>> {
        // The low bits are NwkAddr and spread well.
        &self.shards[dev_addr.value() as usize % LOCKS]
    }
}

fn hash(dev_addr: DevAddr) -> u64 {
    u64::from(dev_addr.value()).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use mac::ids::SessionId;
    use mac::keys::{Key, NetworkKeys};
    use mac::session::AbpParams;
    use mac::units::Timestamp;

    use super::*;

    fn session(dev_eui: u64, session_id: u64, dev_addr: u32) -> Session {
        let params = AbpParams {
            id: SessionId::new(session_id),
            dev_eui: DevEui::new(dev_eui),
            dev_addr: DevAddr::new(dev_addr),
            version: MacVersion::V1_0_3,
            keys: NetworkKeys::from_nwk_s_key(&Key::new([1; 16])),
            fcnt_up: None,
            fcnt_down: 0,
        };
        Session::new_abp(&Profile::default(), params, Timestamp::from_us(0))
    }

    #[test]
    fn many_sessions_share_a_dev_addr_and_each_is_put_once_and_removed_alone() {
        let index = DevAddrIndex::default();
        let shared: Vec<Session> = (1..=500).map(|n| session(n, n, 0x0100_0007)).collect();
        for session in shared.iter().chain([&session(1, 900, 0x0100_0008)]) {
            index.put(Candidate::new(session, &Profile::default(), false));
            index.put(Candidate::new(session, &Profile::default(), false));
        }
        assert_eq!(index.with(DevAddr::new(0x0100_0007), |all| all.len()), 500);
        index.remove(&shared[3]);
        index.remove(&shared[3]);
        let left = index.with(DevAddr::new(0x0100_0007), |all| {
            all.iter().map(|candidate| candidate.dev_eui.value()).collect::<std::collections::BTreeSet<_>>()
        });
        assert_eq!(left.len(), 499);
        assert!(!left.contains(&4));
        assert_eq!(index.with(DevAddr::new(0x0100_0008), |all| all.len()), 1);
        assert_eq!(index.with(DevAddr::new(0x0100_0009), |all| all.len()), 0);
    }

    #[test]
    fn the_counter_hint_moves_with_its_session_only() {
        let index = DevAddrIndex::default();
        let (mut first, second) = (session(1, 1, 7), session(2, 2, 7));
        index.put(Candidate::new(&first, &Profile::default(), false));
        index.put(Candidate::new(&second, &Profile::default(), false));
        first.fcnt_up = Some(FCntUp::new(u32::MAX));
        index.move_counter(&first);
        index.with(DevAddr::new(7), |all| {
            for candidate in all {
                let expected = (candidate.dev_eui == DevEui::new(1)).then_some(FCntUp::new(u32::MAX));
                assert_eq!(candidate.last(), expected);
            }
        });
    }
}
