//! What a verified uplink does to its session, and what goes back.
//!
//! The decision is made once, when the dedup window closes, and as a whole: [`apply`] changes the session and returns a
//! [`Step`], which says what the journal must hold before anything leaves. A repetition of the frame goes to
//! [`apply_repeat`], which acknowledges and changes nothing but the downlink counter.

mod commands;

use std::ops::Range;

use crate::adr::AdrHistory;
use crate::downlink::{self, DownlinkPlan, Reasons};
use crate::ids::{FCntDown, FCntUp};
use crate::region::DataRate;
use crate::request::{self, Kind, Situation};
use crate::session::{Activation, DeviceStatus, MacState, Profile, Session};
use crate::units::{Hz, Timestamp};
use crate::verify::VerifiedUplink;

pub use crate::request::Kind as RequestKind;
pub(crate) use commands::contains_rekey_ind;
use commands::{Heard, Hearing};

/// What the gateways say about an uplink.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RadioContext {
    /// Frequency it was sent on.
    pub freq: Hz,
    /// Data rate it was sent with.
    pub dr: DataRate,
    /// The device's number of the channel; `None`: not one of its channels.
    pub channel: Option<u8>,
    /// The best signal-to-noise ratio, dB; `None` where the modulation has none.
    pub snr_db: Option<f32>,
    /// Number of gateways that heard it.
    pub gateway_count: usize,
    /// GPS time of its end in microseconds, where somebody trustworthy knows it.
    pub ended_at_gps_us: Option<i64>,
    /// Whether an answer can still reach a window.
    pub reply: Reply,
}

/// Whether an answer can still reach a window of the device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reply {
    /// One of them.
    Possible,
    /// The uplink came too late: nothing is planned, no counter is used.
    TooLate,
}

/// What waits for the device in the application's queue. At least one item.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QueueHint {
    /// Bytes of the item that goes next.
    pub next_len: u32,
}

/// What an uplink came to. Everything in it is decided and nothing of it has happened: first the journal, then the rest.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// The application's payload, still under the AppSKey: `None` for port 0, for port 226, and without a port.
    pub app_payload: Option<AppData>,
    /// The session's packed state has changed and must be written.
    pub mac_changed: bool,
    /// A status the device told.
    pub status: Option<DeviceStatus>,
    /// What became of the confirmed downlink that was out.
    pub device_answer: Option<DeviceAnswer>,
    /// The first uplink of a session that was pending: the sessions before it are over.
    pub session_confirmed: bool,
    /// What goes back. Its counters are reserved in the session: commit them before it is sent.
    pub downlink: Option<DownlinkPlan>,
    /// What the operator should see.
    pub notes: Vec<Note>,
}

/// Application data in an uplink.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AppData {
    /// Its port, 1 to 225 and 227 to 255.
    pub f_port: u8,
    /// Where it stands in the PHYPayload; may be empty.
    pub bytes: Range<usize>,
}

/// What became of a confirmed downlink. It is told once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeviceAnswer {
    /// The device acknowledged the downlink with this counter.
    Acknowledged(FCntDown),
    /// The device sent an uplink without acknowledging it. A new attempt takes a new counter (TS001-1.0.4 §4.3.1.3).
    NotAcknowledged(FCntDown),
}

/// Something of an accepted uplink that the operator should see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs, reason = "fields are named after what they hold")]
pub enum Note {
    /// The downlink counter is used up: the device is heard but not answered until it joins again.
    FcntDownExhausted,
    /// The device started its counter again, as it may.
    FcntReset { to: FCntUp },
    /// The commands end inside of one.
    MacCommandTruncated { cid: u8 },
    /// Nobody knows that command; it and all after it are ignored.
    MacCommandUnknown { cid: u8 },
    /// The device leaves the request without an answer; it is not put again for the present.
    MacRequestGivenUp { kind: Kind },
    /// The device refused the request.
    MacRequestRefused { kind: Kind },
    /// Relay frames are not served.
    RelayUnsupported,
    /// An ACK without a confirmed downlink that waits for one; it is ignored.
    StrayAck,
}

impl Note {
    /// A stable code, snake case.
    pub const fn code(self) -> &'static str {
        match self {
            Self::FcntDownExhausted => "fcnt_exhausted",
            Self::FcntReset { .. } => "fcnt_reset",
            Self::MacCommandTruncated { .. } => "mac_command_truncated",
            Self::MacCommandUnknown { .. } => "mac_command_unknown",
            Self::MacRequestGivenUp { .. } => "mac_request_given_up",
            Self::MacRequestRefused { .. } => "mac_request_refused",
            Self::RelayUnsupported => "relay_unsupported",
            Self::StrayAck => "stray_ack",
        }
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FcntDownExhausted => {
                f.write_str("the downlink counter of the session is used up; let the device join again")
            }
            Self::FcntReset { to } => {
                write!(f, "the device started its counter again at {to}, which its settings allow")
            }
            Self::MacCommandTruncated { cid } => {
                write!(f, "MAC command {cid:#04x} is cut off; those before it were used")
            }
            Self::MacCommandUnknown { cid } => {
                write!(f, "MAC command {cid:#04x} is not known; it and all after it were ignored")
            }
            Self::MacRequestGivenUp { kind } => {
                write!(
                    f,
                    "the device does not answer {}; check the profile's mac_version and region",
                    kind.name()
                )
            }
            Self::MacRequestRefused { kind } => {
                write!(f, "the device refused {}; check the profile against its data sheet", kind.name())
            }
            Self::RelayUnsupported => f.write_str("a frame forwarded by a relay (port 226) was not used"),
            Self::StrayAck => f.write_str("the device acknowledged a downlink, but none was waiting for it"),
        }
    }
}

/// Who a port belongs to (TS001-1.0.4 §4.3.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PortUse {
    /// 1 to 223, and what uses the application's key: 224 certification, 225 packages, 227 to 255, which nobody has
    /// defined and which are delivered rather than lost.
    Application,
    /// 0: MAC commands.
    Mac,
    /// 226: frames a relay forwards, under the network's key.
    Relay,
}

/// Who a port belongs to.
pub const fn port_use(f_port: u8) -> PortUse {
    match f_port {
        0 => PortUse::Mac,
        RELAY_PORT => PortUse::Relay,
        _ => PortUse::Application,
    }
}

/// Applies an uplink whose dedup window has closed. Each frame once, in the order of the windows.
///
/// The counter was taken by [`Session::open_uplink`]. Nothing here fails: what is wrong inside a genuine frame is noted,
/// and its payload is delivered.
pub fn apply(
    session: &mut Session,
    profile: &Profile,
    uplink: &VerifiedUplink<'_>,
    radio: &RadioContext,
    queue: Option<QueueHint>,
    now: Timestamp,
) -> Step {
    let frame = uplink.frame();
    let mut mac = session.mac.clone();
    let mut adr = session.adr;
    let mut recent = session.recent;
    let mut step = Step { app_payload: app_payload(uplink), ..Step::default() };
    if frame.f_port.map(port_use) == Some(PortUse::Relay) {
        step.notes.push(Note::RelayUnsupported);
    }
    if std::mem::take(&mut recent.reset_untold) {
        step.notes.push(Note::FcntReset { to: uplink.fcnt() });
        step.mac_changed = true;
    }
    if mac.profile_tag != profile.tag() {
        mac.profile_tag = profile.tag();
        mac.refusals = request::Refusals::default();
        recent.silent = [0; Kind::COUNT];
    }

    step.device_answer = answer_of_confirmed(frame.ack, &mut mac, &mut step.notes);
    let heard = Hearing { session, profile, radio, now }.hear(uplink, &mut mac, &mut adr);
    if !session.version.is_1_1() || session.activation == Activation::Abp {
        mac.pending = false;
    }
    step.session_confirmed = session.mac.pending && !mac.pending;
    notice_back_off(frame.adr, radio, profile, &mut mac, &mut adr);
    match radio.snr_db.filter(|_| frame.adr) {
        Some(snr_db) => adr.push(uplink.fcnt(), snr_db),
        None => adr.clear(),
    }
    let sent = std::mem::take(&mut recent.sent_kinds);
    let given_up = request::count_silence(&mut mac, &mut recent.silent, sent, heard.answered, now);
    step.notes.extend(&heard.notes);
    step.notes.extend(kinds(given_up).map(|kind| Note::MacRequestGivenUp { kind }));
    step.status = heard.status;

    if radio.reply == Reply::Possible {
        let situation = Situation {
            profile,
            region: profile.region(),
            version: session.version,
            history: &adr,
            adr: frame.adr,
            adr_ack_req: frame.adr_ack_req,
            dr: radio.dr,
            silent: &recent.silent,
            now,
        };
        let reasons = Reasons {
            ack: frame.confirmed,
            wants_downlink: frame.adr_ack_req || heard.wants_downlink,
            answers: &heard.answers,
            queue,
            situation: Some(&situation),
        };
        plan(session, profile, uplink, radio, &mut mac, &reasons, &mut step);
    }

    step.mac_changed |= mac != session.mac;
    session.mac = mac;
    session.adr = adr;
    session.recent = recent;
    session.last_dr = Some(radio.dr);
    session.last_seen = Some(now);
    step
}

/// Answers a repetition of the last uplink whose dedup window has closed.
///
/// A confirmed one is acknowledged once more, with a new counter, and its questions are answered again, because the
/// device did not hear the answers. Nothing is delivered, asked or taken from the queue.
pub fn apply_repeat(
    session: &mut Session,
    profile: &Profile,
    uplink: &VerifiedUplink<'_>,
    radio: &RadioContext,
    now: Timestamp,
) -> Step {
    let mut step = Step::default();
    if !uplink.frame().confirmed || radio.reply == Reply::TooLate {
        return step;
    }
    // What the frame said was heard the first time; this is for the answers only.
    let mut unused = (session.mac.clone(), AdrHistory::default());
    let Heard { answers, .. } =
        Hearing { session, profile, radio, now }.hear(uplink, &mut unused.0, &mut unused.1);
    let mut mac = session.mac.clone();
    let reasons = Reasons { ack: true, wants_downlink: false, answers: &answers, queue: None, situation: None };
    plan(session, profile, uplink, radio, &mut mac, &reasons, &mut step);
    step
}

/// Plans the downlink and reserves its counters in the session.
fn plan(
    session: &mut Session,
    profile: &Profile,
    uplink: &VerifiedUplink<'_>,
    radio: &RadioContext,
    mac: &mut MacState,
    reasons: &Reasons<'_>,
    step: &mut Step,
) {
    match downlink::plan(session, profile, uplink.fcnt(), radio, mac, reasons) {
        Ok(Some(plan)) => {
            session.n_fcnt_down = session.n_fcnt_down.saturating_add(u32::from(plan.n_fcnt_down.is_some()));
            session.a_fcnt_down = session.a_fcnt_down.saturating_add(u32::from(plan.a_fcnt_down.is_some()));
            step.downlink = Some(plan);
        }
        Ok(None) => {}
        Err(downlink::FcntDownExhausted) => step.notes.push(Note::FcntDownExhausted),
    }
}

/// The confirmed downlink that is out is answered by the next uplink, one way or the other.
fn answer_of_confirmed(ack: bool, mac: &mut MacState, notes: &mut Vec<Note>) -> Option<DeviceAnswer> {
    let Some(fcnt) = mac.confirmed_down.filter(|_| mac.confirmed_open) else {
        if ack {
            notes.push(Note::StrayAck);
        }
        return None;
    };
    mac.confirmed_open = false;
    Some(if ack { DeviceAnswer::Acknowledged(fcnt) } else { DeviceAnswer::NotAcknowledged(fcnt) })
}

/// A device that is not heard gives its power back, slows down, and at last switches its channels on again
/// (TS001-1.0.4 §4.3.1.1). The network learns of it by what it sees.
fn notice_back_off(
    adr_bit: bool,
    radio: &RadioContext,
    profile: &Profile,
    mac: &mut MacState,
    adr: &mut AdrHistory,
) {
    let region = profile.region();
    let defined = mac.defined_channels(region);
    if let Some(channel) = radio.channel
        && !mac.channels.contains(channel)
        && defined.contains(channel)
    {
        mac.channels = defined;
    }
    if !adr_bit {
        mac.dr = None;
        return;
    }
    if mac.dr.is_none_or(|agreed| radio.dr >= agreed) {
        return;
    }
    mac.dr = None;
    mac.tx_power = 0;
    adr.clear();
    if radio.dr <= region.data_rate_min(profile.revision, mac.uplink_dwell) {
        mac.channels = defined;
        mac.nb_trans = 1;
    }
}

fn app_payload(uplink: &VerifiedUplink<'_>) -> Option<AppData> {
    let frame = uplink.frame();
    let f_port = frame.f_port.filter(|f_port| port_use(*f_port) == PortUse::Application)?;
    let end = frame.msg.len();
    let start = end.checked_sub(frame.frm_payload.len())?;
    Some(AppData { f_port, bytes: start..end })
}

fn kinds(set: u8) -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(move |kind| set & kind.bit() != 0)
}

const RELAY_PORT: u8 = 226;
