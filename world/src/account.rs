//! What must be true: the reference model, and the checks against it.
//!
//! The account knows every frame that was on air, every datagram that reached a server and everything the servers let out. From
//! that it says what they may have accepted, must have accepted, and must never do. It is written from the specification and the
//! promises, and shares no code with what it judges.

mod consumers;
mod downlinks;
mod joins;
mod log;

use std::collections::{BTreeMap, BTreeSet};

use crate::schedule::Kind;

pub(crate) use consumers::Delivered;
pub(crate) use downlinks::{Identity, Order};

/// A promise of reliability.md that was broken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// The invariant.
    pub invariant: Invariant,
    /// What was seen.
    pub detail: String,
    /// When, milliseconds.
    pub at_ms: u64,
}

/// What has to hold in every world.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[allow(missing_docs, reason = "`words` tells each")]
pub enum Invariant {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    I8,
    I9,
    I10,
    I11,
    I12,
    Liveness,
    NoPanic,
}

impl Invariant {
    /// The promise in words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::I1 => "no accepted uplink is lost, and nothing leaves before its commit",
            Self::I2 => "no FCntUp is accepted twice in a session, and none that was not sent",
            Self::I3 => "no (session, FCntDown) seals two frames",
            Self::I4 => "no DevNonce is accepted twice, and JoinNonce rises",
            Self::I5 => "every consumer gets every event in order, or is told of the gap",
            Self::I6 => "every downlink item ends in exactly one true terminal state",
            Self::I7 => "at most one downlink for an uplink, and none outside its windows",
            Self::I8 => "nobody reads or acknowledges for somebody else",
            Self::I9 => "a live session survives joins that fail",
            Self::I10 => "what is loaded after a crash is what the log says",
            Self::I11 => "queues keep their bounds, and nothing is acknowledged while the disk refuses",
            Self::I12 => "one seed gives one trace",
            Self::NoPanic => "nothing panics",
            Self::Liveness => "when the faults stop, everything is reachable and drains",
        }
    }
}

/// A frame of data that some device made.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) device: usize,
    /// The session it belongs to, in the device's own count.
    pub(crate) session: u64,
    pub(crate) fcnt: u32,
    pub(crate) confirmed: bool,
    /// Port and bytes, before encryption.
    pub(crate) payload: Option<(u8, Vec<u8>)>,
    /// The log has it.
    pub(crate) committed: bool,
}

/// A frame on air, once.
#[derive(Clone, Debug)]
pub(crate) struct Transmission {
    pub(crate) device: usize,
    /// `None`: a Join-Request.
    pub(crate) frame: Option<usize>,
    pub(crate) dev_nonce: u16,
    pub(crate) phy: Vec<u8>,
    pub(crate) at_ms: u64,
    /// RX1 and RX2 as the device opens them: delay in microseconds, frequency, data rate.
    pub(crate) windows: Vec<(u32, u32, String)>,
    pub(crate) loose: bool,
}

/// A session of a device, as the account knows it.
#[derive(Clone, Debug, Default)]
struct Session {
    /// The server's number for it.
    id: Option<u64>,
    /// The highest counter in the log.
    committed: Option<u32>,
    /// The highest counter each life of a server has taken, in its memory.
    taken: BTreeMap<usize, Option<u32>>,
    /// A newer session of the device has been used; old frames may be refused now.
    retired: bool,
    /// Joins committed after this one's, before it was used.
    newer_joins: u64,
    used: bool,
}

/// An uplink that must come into the log unless the server's life ends first.
#[derive(Clone, Copy, Debug)]
struct Expected {
    frame: usize,
    life: usize,
    at_ms: u64,
}

/// A copy of a frame that reached a server.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    life: usize,
    gateway_eui: u64,
    at_ms: u64,
}

/// One process, from its start to its end.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) server: usize,
    pub(crate) dead: bool,
    /// Another one has taken over, or is about to.
    pub(crate) contested: bool,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Account {
    kinds: Vec<Kind>,
    pub(crate) frames: Vec<Frame>,
    frame_by_phy: BTreeMap<Vec<u8>, usize>,
    pub(crate) transmissions: Vec<Transmission>,
    /// Which transmission a gateway heard at which value of its counter, since which boot.
    heard: BTreeMap<(usize, u64, u32), usize>,
    sessions: BTreeMap<(usize, u64), Session>,
    session_of_id: BTreeMap<u64, (usize, u64)>,
    expected: Vec<Expected>,
    pub(crate) lives: Vec<Life>,
    /// Nobody has to commit before then: the disk has trouble, milliseconds.
    pub(crate) trouble_until_ms: u64,
    log: log::LogAccount,
    downlinks: downlinks::DownlinkAccount,
    joins: joins::JoinAccount,
    consumers: consumers::ConsumerAccount,
    pub(crate) violations: Vec<Violation>,
    now_ms: u64,
    /// Devices that are registered, by DevEUI.
    devices: BTreeMap<u64, usize>,
    refused_replays: BTreeSet<usize>,
    /// The copies of each frame that reached a server, in the order they came.
    copies: BTreeMap<usize, Vec<Arrival>>,
    /// From when to when each activation of a device was under way, milliseconds.
    activations: BTreeMap<usize, Vec<(u64, u64)>>,
    /// When a copy of each Join-Request last reached a server, by its bytes.
    join_arrived_ms: BTreeMap<Vec<u8>, u64>,
}

impl Account {
    pub(crate) fn new(devices: Vec<(u64, Kind)>) -> Self {
        let kinds = devices.iter().map(|(_, kind)| *kind).collect();
        let devices = devices.iter().enumerate().map(|(index, (dev_eui, _))| (*dev_eui, index)).collect();
        Self { kinds, devices, ..Self::default() }
    }

    pub(crate) fn at(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    pub(crate) fn violate(&mut self, invariant: Invariant, detail: String) {
        // The first ones tell the story; a broken world could break a million.
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { invariant, detail, at_ms: self.now_ms });
        }
    }

    /// A new life begins; answers its number.
    pub(crate) fn begin_life(&mut self, server: usize) -> usize {
        self.lives.push(Life { server, dead: false, contested: false });
        self.lives.len() - 1
    }

    /// A life takes no further part: nothing has to come of what it took.
    pub(crate) fn end_life(&mut self, life: usize, why: End) {
        match why {
            End::Contested => self.lives[life].contested = true,
            End::Dead => self.lives[life].dead = true,
        }
        self.expected.retain(|expected| expected.life != life);
    }

    /// A device has sent something; answers the transmission's number.
    pub(crate) fn on_air(&mut self, transmission: Transmission, heard: &[(usize, u64, u32)]) -> usize {
        let number = self.transmissions.len();
        for place in heard {
            self.heard.insert(*place, number);
        }
        self.transmissions.push(transmission);
        number
    }

    /// A frame was made; the same bytes are the same frame.
    pub(crate) fn made(&mut self, phy: &[u8], frame: Frame) -> usize {
        if let Some(known) = self.frame_by_phy.get(phy) {
            return *known;
        }
        let number = self.frames.len();
        self.frame_by_phy.insert(phy.to_vec(), number);
        self.frames.push(frame);
        number
    }

    /// The frame these bytes are; `None` for a Join-Request.
    pub(crate) fn frame_of_bytes(&self, phy: &[u8]) -> Option<usize> {
        self.frame_by_phy.get(phy).copied()
    }

    /// A frame of data reached a living server.
    pub(crate) fn arrived(&mut self, life: usize, gateway_eui: u64, phy: &[u8]) {
        let Some(&number) = self.frame_by_phy.get(phy) else {
            self.join_arrived_ms.insert(phy.to_vec(), self.now_ms);
            return;
        };
        let Life { dead, contested, .. } = self.lives[life];
        if dead || contested {
            return;
        }
        self.copies.entry(number).or_default().push(Arrival { life, gateway_eui, at_ms: self.now_ms });
        let frame = self.frames[number].clone();
        let Some(session) = self.sessions.get_mut(&(frame.device, frame.session)) else { return };
        if session.retired || session.newer_joins >= PENDING_KEPT {
            return;
        }
        let committed = session.committed;
        let last = session.taken.entry(life).or_insert(committed);
        let fresh = last.is_none_or(|last| frame.fcnt > last);
        let old_version = matches!(self.kinds[frame.device], Kind::Abp | Kind::Otaa103);
        let too_far = old_version && last.is_some_and(|last| frame.fcnt.saturating_sub(last) >= 16_384);
        if fresh && !too_far {
            *last = Some(frame.fcnt);
            self.expected.push(Expected { frame: number, life, at_ms: self.now_ms });
        } else if frame.committed && last.is_some_and(|last| frame.fcnt < last) {
            self.refused_replays.insert(number);
        }
    }

    /// Somebody begins to personalise a device again.
    pub(crate) fn activating(&mut self, device: usize) {
        self.activations.entry(device).or_default().push((self.now_ms, u64::MAX));
    }

    /// The last activation of a device was answered.
    pub(crate) fn activated(&mut self, device: usize) {
        let now_ms = self.now_ms;
        let of_device = self.activations.get_mut(&device).into_iter().flatten();
        of_device.for_each(|(_, until_ms)| *until_ms = now_ms.min(*until_ms));
    }

    /// A personalised device has its session at the server.
    pub(crate) fn personalised(&mut self, device: usize, last: Option<u32>) {
        self.sessions.insert((device, 1), Session { committed: last, ..Session::default() });
    }

    /// Nothing that had to come is missing any more, or is late without a reason.
    pub(crate) fn check_expected(&mut self, patience_ms: u64) {
        let now_ms = self.now_ms;
        let frames = &self.frames;
        self.expected.retain(|expected| !frames[expected.frame].committed);
        if now_ms < self.trouble_until_ms {
            return;
        }
        let late_since = self.trouble_until_ms;
        let lost: Vec<Expected> = self
            .expected
            .extract_if(.., |expected| now_ms.saturating_sub(expected.at_ms.max(late_since)) >= patience_ms)
            .collect();
        for Expected { frame, life, at_ms } in lost {
            let Frame { device, session, fcnt, .. } = self.frames[frame];
            let detail = format!(
                "FCntUp {fcnt} of device {device} (its session {session}) reached server {} at {at_ms} ms and is not in the log",
                self.lives[life].server
            );
            self.violate(Invariant::I1, detail);
        }
    }

    /// Devices that have no uplink in the log after a sequence.
    pub(crate) fn silent_since(&self, seq: u64, devices: usize) -> Vec<usize> {
        let heard: BTreeSet<usize> = self.log.uplinks_after(seq, &self.devices);
        (0..devices).filter(|device| !heard.contains(device) && !self.is_used_up(*device)).collect()
    }

    /// Whether a device has sent with the last counter there is.
    fn is_used_up(&self, device: usize) -> bool {
        self.frames.iter().any(|frame| frame.device == device && frame.fcnt == u32::MAX)
    }

    /// Frames played back that were refused, since the last time somebody asked.
    pub(crate) fn take_refused_replays(&mut self) -> usize {
        std::mem::take(&mut self.refused_replays).len()
    }

    /// The highest counter of a session that the log holds.
    pub(crate) fn committed_of(&self, session_id: u64) -> Option<Option<u32>> {
        let key = self.session_of_id.get(&session_id)?;
        self.sessions.get(key).map(|session| session.committed)
    }
}

/// Why a life ends for the account.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    Contested,
    Dead,
}

/// Copies that come within this long of each other are one event's.
const TOGETHER_MS: u64 = 150;
const VIOLATIONS_MAX: usize = 8;
/// Sessions offered and not used that a server keeps for a device.
const PENDING_KEPT: u64 = 2;
