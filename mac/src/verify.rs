//! Whether an uplink is genuine, and which counter it carries. Nothing changes here.
//!
//! Many sessions share a DevAddr. The caller tries them by the smallest forward gap ([`forward_gap`]) with [`verify`], and
//! when none matches, rarely and last, with [`verify_replay`], which only finds a name for what is refused anyway. A match
//! yields a [`Proof`]; only with it a [`VerifiedUplink`] can be made, and only that can change a session.

use crate::crypto::{self, Mic, UplinkMicContext11};
use crate::fcnt::{guess_fcnt_up, is_gap_too_wide, replayed_fcnt_up};
use crate::ids::{DevAddr, FCntUp, SessionId, WireFCnt};
use crate::keys::{FNwkSIntKey, NetworkKeys, NwkSEncKey, SNwkSIntKey};
use crate::phy::{DataUp, Frame, parse_uplink};
use crate::region::DataRate;
use crate::session::Fnv;
use crate::version::MacVersion;

/// What is known of a session that may have sent a frame.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The session.
    pub session: SessionId,
    /// The version it speaks.
    pub version: MacVersion,
    /// Its uplink key; the NwkSKey of a 1.0.x session.
    pub f_nwk_s_int: &'a FNwkSIntKey,
    /// The second uplink key of a 1.1 session; not read for 1.0.x.
    pub s_nwk_s_int: Option<&'a SNwkSIntKey>,
    /// What the ACK bit of a 1.1 uplink stands for, from `Session::conf_fcnt`.
    pub conf_fcnt: u16,
    /// The last counter taken, perhaps a little behind the session's own.
    pub last: Option<FCntUp>,
    /// Whether the device may start its counter again.
    pub allow_fcnt_reset: bool,
}

/// How a frame was sent, which a 1.1 device signs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SentWith {
    /// Data rate.
    pub dr: DataRate,
    /// The device's number of the channel; `None`: not one of its channels.
    pub channel: Option<u8>,
}

/// What a frame is to a candidate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The session has used all its counters, so this frame cannot be its own.
    Exhausted,
    /// Genuine, and its counter is above the last one.
    Fresh(Proof),
    /// Not of this session.
    NoMatch,
    /// Genuine, and its counter is the last one.
    Repeat(Proof),
    /// Genuine once: its counter is below the last one.
    Replayed(FCntUp),
    /// Genuine, with a counter below the last one, of a device that may start again.
    Reset(Proof),
    /// Genuine, but its counter jumped further than a device of this version may.
    TooFar(FCntUp),
}

/// That a frame is genuine. It names the frame by its content and holds no reference, so that it can wait in a window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Proof {
    session: SessionId,
    dev_addr: DevAddr,
    fcnt: FCntUp,
    content: u64,
    may_reset: bool,
}

impl Proof {
    /// The session that sent the frame.
    pub const fn session(self) -> SessionId {
        self.session
    }

    /// The frame's full counter.
    pub const fn fcnt(self) -> FCntUp {
        self.fcnt
    }

    /// A hash of the frame without its MIC.
    pub const fn content(self) -> u64 {
        self.content
    }

    /// Whether the device might have started its counter again when the frame was verified.
    pub const fn may_reset(self) -> bool {
        self.may_reset
    }

    /// The verified uplink of a proof and its frame; `None` when the bytes are not those that were verified.
    pub fn open(self, phy: &[u8]) -> Option<VerifiedUplink<'_>> {
        match parse_uplink(phy) {
            Ok(Frame::DataUp(frame)) if frame.dev_addr == self.dev_addr && content(&frame) == self.content => {
                Some(VerifiedUplink { proof: self, frame })
            }
            _ => None,
        }
    }
}

/// A frame together with its proof. Only [`Proof::open`] makes it.
#[derive(Clone, Copy, Debug)]
pub struct VerifiedUplink<'a> {
    proof: Proof,
    frame: DataUp<'a>,
}

impl<'a> VerifiedUplink<'a> {
    /// The frame.
    pub const fn frame(&self) -> &DataUp<'a> {
        &self.frame
    }

    /// The session that sent it.
    pub const fn session(&self) -> SessionId {
        self.proof.session
    }

    /// Its full counter.
    pub const fn fcnt(&self) -> FCntUp {
        self.proof.fcnt
    }

    /// A hash of it without its MIC.
    pub const fn content(&self) -> u64 {
        self.proof.content
    }

    /// Whether the device may have started its counter again.
    pub(crate) const fn may_reset(&self) -> bool {
        self.proof.may_reset
    }
}

/// How far a frame's counter lies ahead of the last one: the order in which candidates are tried. A counter that is used
/// up comes last.
pub fn forward_gap(wire: WireFCnt, last: Option<FCntUp>) -> u32 {
    let last_value = last.map_or(0, FCntUp::value);
    guess_fcnt_up(wire, last).and_then(|guess| guess.value().checked_sub(last_value)).unwrap_or(u32::MAX)
}

/// What a frame is to a candidate: the counter is the smallest that is not behind the last one, and the MIC proves it.
/// For a device that may start again the bare 16 bits are tried as well. `sent_with` is read for 1.1 only.
pub fn verify(frame: &DataUp<'_>, candidate: &Candidate<'_>, sent_with: SentWith) -> Outcome {
    let guess = guess_fcnt_up(frame.fcnt, candidate.last);
    if let Some(fcnt) = guess.filter(|fcnt| holds(frame, candidate, sent_with, *fcnt)) {
        if candidate.last == Some(fcnt) {
            return Outcome::Repeat(proof(frame, candidate, fcnt));
        }
        if is_gap_too_wide(fcnt, candidate.last, candidate.version) {
            return Outcome::TooFar(fcnt);
        }
        return Outcome::Fresh(proof(frame, candidate, fcnt));
    }
    let bare = FCntUp::new(u32::from(frame.fcnt.value()));
    if candidate.allow_fcnt_reset && guess != Some(bare) && holds(frame, candidate, sent_with, bare) {
        return Outcome::Reset(proof(frame, candidate, bare));
    }
    if guess.is_none() { Outcome::Exhausted } else { Outcome::NoMatch }
}

/// Whether a frame that no candidate matched is an old one of this session, played back. One MIC at most.
pub fn verify_replay(frame: &DataUp<'_>, candidate: &Candidate<'_>, sent_with: SentWith) -> Outcome {
    let Some(last) = candidate.last else {
        return Outcome::NoMatch;
    };
    // A low half that is not behind in the present epoch is behind in the one before.
    let before = replayed_fcnt_up(frame.fcnt, last).or_else(|| {
        let epoch = last.value().checked_sub(EPOCH)? & !LOW_HALF;
        Some(FCntUp::new(epoch | u32::from(frame.fcnt.value())))
    });
    match before.filter(|fcnt| holds(frame, candidate, sent_with, *fcnt)) {
        Some(fcnt) => Outcome::Replayed(fcnt),
        None => Outcome::NoMatch,
    }
}

fn holds(frame: &DataUp<'_>, candidate: &Candidate<'_>, sent_with: SentWith, fcnt: FCntUp) -> bool {
    #[cfg(feature = "planted")]
    if seam::planted(seam::Bug::AcceptWithoutMic) {
        return true;
    }
    if !candidate.version.is_1_1() {
        return frame.mic == crypto::uplink_mic_10(candidate.f_nwk_s_int, frame.dev_addr, fcnt, frame.msg);
    }
    // Half of the MIC needs no channel; it spares the other half for frames of other sessions.
    let half = crypto::uplink_mic_11_f_half(candidate.f_nwk_s_int, frame.dev_addr, fcnt, frame.msg);
    if !frame.mic.has_f_half(half) {
        return false;
    }
    let (Some(s_nwk_s_int), Some(tx_ch)) = (candidate.s_nwk_s_int, sent_with.channel) else {
        return false;
    };
    frame.mic == mic_11(frame, candidate, s_nwk_s_int, sent_with.dr, tx_ch, fcnt)
}

fn mic_11(
    frame: &DataUp<'_>,
    candidate: &Candidate<'_>,
    s_nwk_s_int: &SNwkSIntKey,
    dr: DataRate,
    tx_ch: u8,
    fcnt: FCntUp,
) -> Mic {
    let conf_fcnt = if frame.ack { candidate.conf_fcnt } else { 0 };
    let context = UplinkMicContext11 { conf_fcnt, tx_dr: dr.value(), tx_ch };
    let keys = NetworkKeys {
        f_nwk_s_int: candidate.f_nwk_s_int.clone(),
        s_nwk_s_int: s_nwk_s_int.clone(),
        // No part of a MIC.
        nwk_s_enc: NwkSEncKey::new([0; 16]),
    };
    crypto::uplink_mic_11(&keys, context, frame.dev_addr, fcnt, frame.msg)
}

fn proof(frame: &DataUp<'_>, candidate: &Candidate<'_>, fcnt: FCntUp) -> Proof {
    Proof {
        session: candidate.session,
        dev_addr: frame.dev_addr,
        fcnt,
        content: content(frame),
        may_reset: candidate.allow_fcnt_reset,
    }
}

/// A hash of all but the MIC, which a 1.1 device makes anew for each channel it repeats a frame on. Never 0.
fn content(frame: &DataUp<'_>) -> u64 {
    let mut hash = Fnv::new();
    hash.write(frame.msg);
    hash.finish().max(1)
}

const LOW_HALF: u32 = 0x0000_ffff;
const EPOCH: u32 = 0x0001_0000;

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
