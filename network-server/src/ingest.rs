//! From the sockets to the owners: parse, find the session, check the MIC.
//!
//! Runs on the receivers' threads. Nothing is changed here but counters of refusals; what passes has a proof.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mac::drop_reason::DropReason;
use mac::ids::{DevEui, FCntUp};
use mac::phy::{DataUp, Frame, parse_uplink};
use mac::verify::{Outcome, Proof, forward_gap, verify, verify_replay};
use parking_lot::Mutex;
use store::Readiness;
use tokio::sync::{mpsc, watch};

use crate::budget::{INGRESS_FRAMES_MAX, OWNER_QUEUE_FULL};
use crate::clock::wall_clock;
use crate::drops::{DropLog, Refusal, refusal_of};
use crate::gateway::{GatewayEvent, GatewayUplink, Ingress};
use crate::index::{Candidate, DevAddrIndex};
use crate::join::JoinCopy;
use crate::metrics::{Metrics, Sizes};
use crate::owner::{OwnerMessage, VerifiedCopy};
use crate::owner_queue::{OwnerQueue, owner_of};

/// Where verified frames and gateway news go.
pub(crate) struct Ingest {
    pub(crate) index: Arc<DevAddrIndex>,
    pub(crate) drops: Arc<DropLog>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sizes: Arc<Sizes>,
    pub(crate) owners: Vec<OwnerQueue>,
    pub(crate) news: mpsc::Sender<GatewayEvent>,
    pub(crate) readiness: watch::Receiver<Readiness>,
    pub(crate) verdicts: Verdicts,
    pub(crate) replays: ReplayBudget,
    /// The server is ending: nothing more is taken.
    pub(crate) stopping: AtomicBool,
}

impl Ingress for Ingest {
    fn deliver(&self, event: GatewayEvent) {
        match event {
            GatewayEvent::Uplinks(uplinks) => self.take(uplinks),
            GatewayEvent::Dropped { gateway, reason, detail, phy, source } => {
                let mut refusal = Refusal::new(wall_clock(), reason);
                refusal.gateway = gateway;
                refusal.detail = if detail.is_empty() {
                    format!("from {source}")
                } else {
                    format!("{detail}, from {source}")
                };
                refusal.phy = phy.map(Arc::from);
                self.drops.refuse(refusal);
            }
            GatewayEvent::DroppedMany { reason, count } => self.drops.count_many(reason, count),
            news @ (GatewayEvent::AutoRegistered { .. }
            | GatewayEvent::Offline { .. }
            | GatewayEvent::Online { .. }
            | GatewayEvent::PathMoved { .. }
            | GatewayEvent::PathMoveRefused { .. }) => {
                // A queue of news that is full loses news, never frames.
                if self.news.try_send(news).is_err() {
                    tracing::warn!("news of a gateway was lost: too much of it at once");
                }
            }
        }
    }

    fn ready(&self) -> bool {
        matches!(*self.readiness.borrow(), Readiness::Ready)
    }

    fn is_full(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
            || self.sizes.ingress_frames.load(Ordering::Relaxed) >= INGRESS_FRAMES_MAX
            || self.owners.iter().any(|owner| owner.len() >= OWNER_QUEUE_FULL)
    }
}

impl Ingest {
    fn take(&self, uplinks: Vec<GatewayUplink>) {
        self.tell_when_not_ready(&uplinks);
        let mut batches: Vec<Batch> = self.owners.iter().map(|_| Batch::default()).collect();
        for copy in uplinks {
            match self.look_at(copy) {
                Looked::At(dev_eui, item) => {
                    if let Some(batch) = batches.get_mut(owner_of(dev_eui, self.owners.len())) {
                        match item {
                            Item::Join(join) => batch.joins.push(join),
                            Item::Uplink(uplink) => batch.uplinks.push(uplink),
                        }
                    }
                }
                Looked::Refused(refusal) => self.drops.refuse(*refusal),
            }
        }
        for (owner, batch) in self.owners.iter().zip(batches) {
            if !batch.uplinks.is_empty() {
                let count = batch.uplinks.len() as u64;
                self.metrics.copies.fetch_add(count, Ordering::Relaxed);
                self.sizes.ingress_frames.fetch_add(count, Ordering::Relaxed);
                // The queue is bounded; before it is full the sockets stop acknowledging, see `is_full`.
                if owner.try_send(OwnerMessage::Uplinks(batch.uplinks)).is_err() {
                    self.sizes.ingress_frames.fetch_sub(count, Ordering::Relaxed);
                    self.drops.count_many(DropReason::QueueFull, count);
                }
            }
            if !batch.joins.is_empty() {
                let count = batch.joins.len() as u64;
                self.sizes.ingress_frames.fetch_add(count, Ordering::Relaxed);
                if owner.try_send(OwnerMessage::Joins(batch.joins)).is_err() {
                    self.sizes.ingress_frames.fetch_sub(count, Ordering::Relaxed);
                    self.drops.count_many(DropReason::QueueFull, count);
                }
            }
        }
    }

    /// Frames that come while nothing can be made durable wait for their commit, unacknowledged: the operator has to see it.
    fn tell_when_not_ready(&self, uplinks: &[GatewayUplink]) {
        let Readiness::NotReady { reason, .. } = &*self.readiness.borrow() else { return };
        let Some((first, others)) = uplinks.split_first() else { return };
        let mut refusal = refusal_of(first, DropReason::NotReady);
        refusal.detail.clone_from(reason);
        self.drops.refuse(refusal);
        self.drops.count_many(DropReason::NotReady, others.len() as u64);
    }

    fn look_at(&self, copy: GatewayUplink) -> Looked {
        match parse_uplink(&copy.phy) {
            Ok(Frame::DataUp(frame)) => match self.verdict(&frame, &copy) {
                Verdict::Genuine { dev_eui, proof } => {
                    Looked::At(dev_eui, Item::Uplink(VerifiedCopy { dev_eui, proof, uplink: copy }))
                }
                Verdict::Refused { reason, dev_eui, fcnt } => {
                    let mut refusal = refusal_of(&copy, reason);
                    refusal.dev_eui = dev_eui;
                    refusal.dev_addr = Some(frame.dev_addr);
                    refusal.fcnt = Some(fcnt.map_or_else(|| u32::from(frame.fcnt.value()), FCntUp::value));
                    Looked::Refused(Box::new(refusal))
                }
            },
            Ok(Frame::JoinRequest(request)) => {
                Looked::At(request.dev_eui, Item::Join(JoinCopy { request, uplink: copy }))
            }
            Ok(Frame::Rejoin(rejoin)) => {
                let mut refusal = refusal_of(&copy, DropReason::RejoinUnsupported);
                refusal.dev_eui = Some(rejoin.dev_eui);
                Looked::Refused(Box::new(refusal))
            }
            Ok(Frame::Proprietary(_)) => Looked::Refused(Box::new(refusal_of(&copy, DropReason::Proprietary))),
            Err(reason) => Looked::Refused(Box::new(refusal_of(&copy, reason))),
        }
    }

    fn verdict(&self, frame: &DataUp<'_>, copy: &GatewayUplink) -> Verdict {
        let known = self.verdicts.known(&copy.phy);
        let verdict = self.index.with(frame.dev_addr, |candidates| {
            // A verdict holds as long as the session does, with the same rule for its counter.
            if let Some((dev_eui, proof)) = known
                && candidates.iter().any(|candidate| candidate.made(&proof))
            {
                return Verdict::Genuine { dev_eui, proof };
            }
            self.try_all(frame, copy, candidates)
        });
        if let Verdict::Genuine { dev_eui, proof } = &verdict
            && known.is_none_or(|(_, before)| before != *proof)
        {
            self.verdicts.remember(&copy.phy, *dev_eui, *proof);
        }
        verdict
    }

    fn try_all(&self, frame: &DataUp<'_>, copy: &GatewayUplink, candidates: &[&Candidate]) -> Verdict {
        match candidates {
            [] => return Verdict::refused(DropReason::UnknownDevAddr),
            [only] => {
                if let Some(verdict) = try_one(frame, copy, only) {
                    return verdict;
                }
            }
            many => {
                let mut order: Vec<(u32, &Candidate)> =
                    many.iter().map(|c| (forward_gap(frame.fcnt, c.last()), *c)).collect();
                order.sort_unstable_by_key(|(gap, _)| *gap);
                for (_, candidate) in order {
                    if let Some(verdict) = try_one(frame, copy, candidate) {
                        return verdict;
                    }
                }
            }
        }
        self.try_replay(frame, copy, candidates)
    }

    /// Finds a name for what is refused anyway: an old frame played back, or a stranger's.
    fn try_replay(&self, frame: &DataUp<'_>, copy: &GatewayUplink, candidates: &[&Candidate]) -> Verdict {
        for candidate in candidates {
            if !self.replays.take(copy.received.us()) {
                break;
            }
            let sent_with = candidate.sent_with(copy.freq, copy.modulation);
            if let Outcome::Replayed(fcnt) = verify_replay(frame, &candidate.to_verify(), sent_with) {
                return Verdict::Refused {
                    reason: DropReason::FcntReplayed,
                    dev_eui: Some(candidate.dev_eui),
                    fcnt: Some(fcnt),
                };
            }
        }
        let dev_eui = match candidates {
            [only] => Some(only.dev_eui),
            _ => None,
        };
        Verdict::Refused { reason: DropReason::MicMismatch, dev_eui, fcnt: None }
    }
}

/// What goes to one owner.
#[derive(Default)]
struct Batch {
    uplinks: Vec<VerifiedCopy>,
    joins: Vec<JoinCopy>,
}

enum Looked {
    At(DevEui, Item),
    Refused(Box<Refusal>),
}

enum Item {
    Join(JoinCopy),
    Uplink(VerifiedCopy),
}

enum Verdict {
    Genuine { dev_eui: DevEui, proof: Proof },
    Refused { reason: DropReason, dev_eui: Option<DevEui>, fcnt: Option<FCntUp> },
}

impl Verdict {
    const fn refused(reason: DropReason) -> Self {
        Self::Refused { reason, dev_eui: None, fcnt: None }
    }
}

fn try_one(frame: &DataUp<'_>, copy: &GatewayUplink, candidate: &Candidate) -> Option<Verdict> {
    let dev_eui = candidate.dev_eui;
    let sent_with = candidate.sent_with(copy.freq, copy.modulation);
    match verify(frame, &candidate.to_verify(), sent_with) {
        Outcome::Fresh(proof) | Outcome::Repeat(proof) | Outcome::Reset(proof) => {
            Some(Verdict::Genuine { dev_eui, proof })
        }
        Outcome::TooFar(fcnt) => {
            Some(Verdict::Refused { reason: DropReason::FcntTooFar, dev_eui: Some(dev_eui), fcnt: Some(fcnt) })
        }
        Outcome::Exhausted | Outcome::NoMatch | Outcome::Replayed(_) => None,
    }
}

/// The last genuine frames, so that their further copies cost no MIC, and join their window although the device's next frame is here
/// already. Compared byte by byte.
pub(crate) struct Verdicts {
    /// The newest first.
    slots: Vec<Mutex<VecDeque<Known>>>,
}

/// A genuine frame.
struct Known {
    phy: Arc<[u8]>,
    dev_eui: DevEui,
    proof: Proof,
}

impl Default for Verdicts {
    fn default() -> Self {
        Self { slots: (0..VERDICTS).map(|_| Mutex::default()).collect() }
    }
}

impl Verdicts {
    fn known(&self, phy: &[u8]) -> Option<(DevEui, Proof)> {
        let slot = self.slot(phy)?.lock();
        slot.iter().find(|known| known.phy.as_ref() == phy).map(|known| (known.dev_eui, known.proof))
    }

    fn remember(&self, phy: &Arc<[u8]>, dev_eui: DevEui, proof: Proof) {
        if let Some(slot) = self.slot(phy) {
            let mut slot = slot.lock();
            slot.retain(|known| known.phy != *phy);
            slot.truncate(VERDICTS_A_SLOT - 1);
            slot.push_front(Known { phy: Arc::clone(phy), dev_eui, proof });
        }
    }

    /// By the MIC, which is as random as a hash.
    fn slot(&self, phy: &[u8]) -> Option<&Mutex<VecDeque<Known>>> {
        let mic = phy.last_chunk::<4>()?;
        self.slots.get(u32::from_le_bytes(*mic) as usize % VERDICTS)
    }
}

const VERDICTS: usize = 1_024;
/// When gateways that were cut off report all at once, frames whose windows are open meet in one slot.
const VERDICTS_A_SLOT: usize = 4;

/// Bounds the second try of frames that match nobody: it is worth a name in a list, not a processor.
#[derive(Default)]
pub(crate) struct ReplayBudget {
    second: AtomicU64,
    used: AtomicU64,
}

impl ReplayBudget {
    fn take(&self, now_us: u64) -> bool {
        let second = now_us / 1_000_000;
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.used.store(0, Ordering::Relaxed);
        }
        self.used.fetch_add(1, Ordering::Relaxed) < REPLAY_TRIES_PER_SECOND
    }
}

const REPLAY_TRIES_PER_SECOND: u64 = 2_000;
