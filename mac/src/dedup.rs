//! Merges the copies of one transmission that several gateways heard.
//!
//! A poll machine: [`Dedup::handle`] takes a copy, [`Dedup::poll_timeout`] tells when to call [`Dedup::handle_timeout`],
//! which gives out the frames whose window has closed. Only copies whose MIC was verified may enter, so a stranger cannot
//! fill it. Whether a counter is new is decided by the session, before; what is decided here is whether a copy belongs
//! to a transmission that is still being collected, came late, or is a transmission of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ids::{DevEui, DevNonce, FCntUp, GatewayEui, SessionId};
use crate::units::Mono;

/// One gateway's reception of a frame, as far as merging needs it.
pub trait Reception {
    /// The gateway that received it.
    fn gateway_eui(&self) -> GatewayEui;
    /// The gateway's own counter at the end of the reception, in microseconds, modulo 2^32.
    fn tmst_us(&self) -> u32;
    /// Whether this reception is the stronger of two that one gateway has of one transmission.
    fn is_stronger_than(&self, other: &Self) -> bool;
}

/// What makes two copies the same frame.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum FrameId {
    /// A data frame of a session. The content is hashed without its MIC: a 1.1 device that repeats a frame on another
    /// channel signs it anew (TS001-1.1 §4.4).
    Data {
        /// The session it was verified with.
        session: SessionId,
        /// Its full counter.
        fcnt: FCntUp,
        /// Hash of its content, from the verified uplink.
        content: u64,
    },
    /// A Join-Request.
    Join {
        /// The device that asks.
        dev_eui: DevEui,
        /// Its nonce.
        dev_nonce: DevNonce,
        /// Hash of the whole frame; a forged one does not join the genuine one.
        content: u64,
    },
}

/// What the session says about the counter of a copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Counter {
    /// Never seen: this copy opens a window.
    Fresh,
    /// The last one again, and the device may send it once more.
    Repeat,
    /// The last one again, and the device has sent it as often as it may.
    RepeatExhausted,
}

/// What became of a copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Handled {
    /// Nothing it could tell: a reception that is known already (delivered twice), or one more gateway than are kept.
    Absorbed,
    /// Refused: so many frames are being collected that there is no room for another.
    Full,
    /// One more gateway for a window that is open.
    Joined,
    /// It belongs to a transmission whose window has closed: it may only complete the list of receptions.
    Late,
    /// The first copy of a frame; a window is open. The session has to count the frame as received.
    Opened,
    /// The first copy of a repetition; a window is open. The session has to count the repetition.
    OpenedRepeat,
    /// A repetition that the device may not send.
    RepeatRefused,
}

/// A transmission whose window has closed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Closed<R> {
    /// The frame.
    pub frame: FrameId,
    /// Whether it is a repetition of a frame that was given out before.
    pub repeat: bool,
    /// When the first copy came.
    pub opened_at: Mono,
    /// One reception of each gateway, in the order they came; never empty.
    pub receptions: Vec<R>,
}

/// Bounds of a [`Dedup`].
#[derive(Clone, Copy, Debug)]
pub struct DedupLimits {
    /// How long copies are collected, milliseconds from the first one.
    pub window_ms: u64,
    /// Frames remembered, open and closed. Closed ones make room for new ones, the oldest first.
    pub frames_max: usize,
    /// Gateways remembered of one frame.
    pub gateways_max: usize,
}

impl Default for DedupLimits {
    fn default() -> Self {
        Self { window_ms: WINDOW_MS, frames_max: 262_144, gateways_max: 64 }
    }
}

/// The deduplication window. See the module's text for how it is driven.
#[derive(Debug)]
pub struct Dedup<R> {
    limits: DedupLimits,
    frames: BTreeMap<FrameId, Frame<R>>,
    /// Open windows. Each stays open equally long, so they close in the order they were opened.
    closing: VecDeque<(Mono, FrameId)>,
    /// Closed frames, by the time until which late copies are recognised.
    forgetting: BTreeSet<(Mono, FrameId)>,
}

#[derive(Debug)]
struct Frame<R> {
    opened_at: Mono,
    repeat: bool,
    /// Copies from further gateways belong to this transmission until then.
    late_until: Mono,
    /// Receptions that are reported again are recognised until then.
    kept_until: Mono,
    /// While the window is open: the receptions. Empty after that.
    receptions: Vec<R>,
    /// Who has reported it, and with which tmst.
    heard: Vec<(GatewayEui, u32)>,
    /// The same of earlier transmissions of the frame.
    heard_before: Vec<(GatewayEui, u32)>,
    open: bool,
}

impl<R: Reception> Dedup<R> {
    /// An empty window with these bounds.
    pub fn new(limits: DedupLimits) -> Self {
        Self { limits, frames: BTreeMap::new(), closing: VecDeque::new(), forgetting: BTreeSet::new() }
    }

    /// Takes a verified copy. `late_ms` is the device's RX2 delay: a copy from another gateway that comes within it after
    /// the first one is a late copy, since a device does not repeat a frame before its windows have passed.
    ///
    /// After this the answer of [`Self::poll_timeout`] may have changed.
    pub fn handle(&mut self, id: FrameId, counter: Counter, copy: R, late_ms: u64, now: Mono) -> Handled {
        if let Some(frame) = self.frames.get_mut(&id) {
            if frame.heard_before.iter().any(|heard| is_reported_again(*heard, &copy)) {
                return Handled::Absorbed;
            }
            if frame.open {
                return join(frame, copy, self.limits.gateways_max);
            }
            if let Some(handled) = late(frame, &copy, self.limits.gateways_max, now) {
                #[cfg(feature = "planted")]
                if handled == Handled::Late && seam::planted(seam::Bug::CopyAfterWindowIsNew) {
                    return self.open(id, false, copy, late_ms, now);
                }
                return handled;
            }
        }
        match counter {
            // A fresh counter with a closed frame is a Join-Request that came again after its late time.
            Counter::Fresh => self.open(id, false, copy, late_ms, now),
            Counter::Repeat => self.open(id, true, copy, late_ms, now),
            Counter::RepeatExhausted => Handled::RepeatRefused,
        }
    }

    /// When [`Self::handle_timeout`] has something to do; `None`: nothing before the next copy.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let closing = self.closing.front().map(|(at, _)| *at);
        let forgetting = self.forgetting.first().map(|(at, _)| *at);
        match (closing, forgetting) {
            (Some(closing), Some(forgetting)) => Some(closing.min(forgetting)),
            (one, other) => one.or(other),
        }
    }

    /// Gives out the frames whose window has closed, in the order they were opened, and forgets old ones. Calling it
    /// early or twice does no harm.
    pub fn handle_timeout(&mut self, now: Mono) -> Vec<Closed<R>> {
        while let Some(&(at, id)) = self.forgetting.first() {
            if at > now {
                break;
            }
            self.forgetting.pop_first();
            self.frames.remove(&id);
        }
        let mut closed = Vec::new();
        while let Some(&(at, id)) = self.closing.front() {
            if at > now {
                break;
            }
            self.closing.pop_front();
            closed.extend(self.close(id, now));
        }
        closed
    }

    /// Closes the open windows of a session at once, in the order they were opened, because the session is about to end.
    pub fn close_session(&mut self, session: SessionId, now: Mono) -> Vec<Closed<R>> {
        self.close_where(|id| matches!(id, FrameId::Data { session: of, .. } if *of == session), now)
    }

    /// Closes every open window at once, for the end of the process.
    pub fn close_all(&mut self, now: Mono) -> Vec<Closed<R>> {
        self.close_where(|_| true, now)
    }

    /// How many windows are open.
    pub fn open_count(&self) -> usize {
        self.closing.len()
    }

    /// How many frames are remembered, open and closed.
    pub fn frame_count(&self) -> usize {
        self.frames.len()
    }

    fn open(&mut self, id: FrameId, repeat: bool, copy: R, late_ms: u64, now: Mono) -> Handled {
        let mut heard_before = Vec::new();
        if let Some(before) = self.frames.remove(&id) {
            self.forgetting.remove(&(before.kept_until, id));
            heard_before = before.heard;
            heard_before.extend(before.heard_before);
            heard_before.truncate(self.limits.gateways_max);
        } else if self.frames.len() >= self.limits.frames_max {
            let Some((_, oldest)) = self.forgetting.pop_first() else {
                return Handled::Full;
            };
            self.frames.remove(&oldest);
        }
        let heard = vec![(copy.gateway_eui(), copy.tmst_us())];
        let late_ms = late_ms.max(self.limits.window_ms);
        let frame = Frame {
            opened_at: now,
            repeat,
            late_until: now.plus_ms(late_ms),
            kept_until: now.plus_ms(late_ms.max(REPORTED_AGAIN_MS)),
            receptions: vec![copy],
            heard,
            heard_before,
            open: true,
        };
        self.frames.insert(id, frame);
        self.closing.push_back((now.plus_ms(self.limits.window_ms), id));
        if repeat { Handled::OpenedRepeat } else { Handled::Opened }
    }

    fn close_where(&mut self, ends: impl Fn(&FrameId) -> bool, now: Mono) -> Vec<Closed<R>> {
        let open = std::mem::take(&mut self.closing);
        let (ending, staying): (VecDeque<_>, _) = open.into_iter().partition(|(_, id)| ends(id));
        self.closing = staying;
        ending.into_iter().filter_map(|(_, id)| self.close(id, now)).collect()
    }

    fn close(&mut self, id: FrameId, now: Mono) -> Option<Closed<R>> {
        let frame = self.frames.get_mut(&id)?;
        frame.open = false;
        // A process that was held up closes late, and what was under way meanwhile comes as late.
        let late_ms = now.saturating_ms_since(frame.opened_at.plus_ms(self.limits.window_ms));
        frame.late_until = frame.late_until.plus_ms(late_ms);
        frame.kept_until = frame.kept_until.plus_ms(late_ms);
        self.forgetting.insert((frame.kept_until, id));
        let receptions = std::mem::take(&mut frame.receptions);
        Some(Closed { frame: id, repeat: frame.repeat, opened_at: frame.opened_at, receptions })
    }
}

/// A copy for an open window. One gateway that reports twice demodulated one transmission on two channels or antennas,
/// or its datagram was delivered twice: the stronger reception stays.
fn join<R: Reception>(frame: &mut Frame<R>, copy: R, gateways_max: usize) -> Handled {
    let gateway_eui = copy.gateway_eui();
    if let Some(known) = frame.receptions.iter_mut().find(|known| known.gateway_eui() == gateway_eui) {
        if copy.is_stronger_than(known) {
            frame.heard.retain(|(heard, _)| *heard != gateway_eui);
            frame.heard.push((gateway_eui, copy.tmst_us()));
            *known = copy;
        }
        return Handled::Absorbed;
    }
    if frame.receptions.len() >= gateways_max {
        return Handled::Absorbed;
    }
    frame.heard.push((gateway_eui, copy.tmst_us()));
    frame.receptions.push(copy);
    Handled::Joined
}

/// A copy for a closed frame; `None` when it is a transmission of its own.
fn late<R: Reception>(frame: &mut Frame<R>, copy: &R, gateways_max: usize, now: Mono) -> Option<Handled> {
    if frame.heard.iter().any(|heard| is_reported_again(*heard, copy)) {
        return Some(Handled::Absorbed);
    }
    if now > frame.late_until {
        return None;
    }
    let mut known = frame.heard.iter().filter(|(heard, _)| *heard == copy.gateway_eui()).peekable();
    // A gateway that has reported a later transmission tells of an earlier one: no repetition is to be answered.
    let is_new = known.peek().is_none() || known.any(|(_, tmst_us)| is_before(copy.tmst_us(), *tmst_us));
    if !is_new {
        return None;
    }
    if frame.heard.len() >= gateways_max {
        return Some(Handled::Absorbed);
    }
    frame.heard.push((copy.gateway_eui(), copy.tmst_us()));
    Some(Handled::Late)
}

/// A forwarder that got no PUSH_ACK sends the same reception again, however late: the device has not.
fn is_reported_again<R: Reception>((gateway_eui, tmst_us): (GatewayEui, u32), copy: &R) -> bool {
    gateway_eui == copy.gateway_eui() && is_same_reception(tmst_us, copy.tmst_us())
}

/// On a counter that runs modulo 2^32.
fn is_before(one_us: u32, other_us: u32) -> bool {
    one_us.wrapping_sub(other_us) > u32::MAX / 2
}

/// Two demodulators of one gateway stamp one transmission within milliseconds of each other; a repetition is at least a
/// receive delay away.
fn is_same_reception(one_us: u32, other_us: u32) -> bool {
    one_us.wrapping_sub(other_us) <= SAME_RECEPTION_US || other_us.wrapping_sub(one_us) <= SAME_RECEPTION_US
}

/// How long copies of a frame are collected.
pub const WINDOW_MS: u64 = 200;
const SAME_RECEPTION_US: u32 = 20_000;
/// A forwarder sends a reception again within seconds, where nobody acknowledged it.
const REPORTED_AGAIN_MS: u64 = 30_000;

#[cfg(test)]
#[path = "dedup_tests.rs"]
mod tests;
