//! The downlink in answer to an uplink: which windows, which counter, which commands, how many bytes are left.
//!
//! A [`DownlinkPlan`] is made together with the step of its uplink, so that its counters are durable before any byte leaves.
//! A number that was reserved and not used is a legal gap. The plan then asks the application for a payload, if it may,
//! and [`build`] makes the frame. Only one frame is ever made of one counter.

use crate::command::DownlinkCommand;
use crate::crypto::{self, Direction};
use crate::ids::{DevAddr, FCntDown, FCntUp, SessionId};
use crate::keys::NetworkKeys;
use crate::phy::{BuildError, DownlinkFrame, FOPTS_LEN_MAX};
use crate::region::{DataRate, JOIN_ACCEPT_DELAY1_S, Modulation, RX2_AFTER_RX1_S};
use crate::request::{self, Requests, Room, Situation};
use crate::session::{MacState, Profile, Session};
use crate::units::Hz;
use crate::uplink::{QueueHint, RadioContext};

/// A receive window of a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TxWindow {
    /// Frequency.
    pub freq: Hz,
    /// Data rate.
    pub dr: DataRate,
    /// What the data rate stands for.
    pub modulation: Modulation,
    /// Seconds from the end of the uplink; the device opens the window exactly then.
    pub delay_s: u8,
    /// Largest MACPayload in bytes; a PHYPayload has five more.
    pub max_m: u8,
}

/// What goes back to a device. It is decided but not sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DownlinkPlan {
    /// The session.
    pub session: SessionId,
    /// Its address.
    pub dev_addr: DevAddr,
    /// Whether the session speaks 1.1.
    pub version_1_1: bool,
    /// The uplink it answers.
    pub answering: FCntUp,
    /// Acknowledges that uplink.
    pub ack: bool,
    /// The network controls the data rate.
    pub adr: bool,
    /// MAC commands in clear.
    pub commands: Vec<u8>,
    /// The FCntDown reserved; in 1.1 the NFCntDown, for a frame without application payload.
    pub n_fcnt_down: Option<FCntDown>,
    /// The AFCntDown reserved, in 1.1 where a payload may be asked for.
    pub a_fcnt_down: Option<FCntDown>,
    /// First window; `None`: the device cannot be reached in it.
    pub rx1: Option<TxWindow>,
    /// Second window.
    pub rx2: Option<TxWindow>,
    /// Where the application may add a payload; `None`: nothing waits, or MAC commands take the frame.
    pub ask_payload: Option<PayloadRoom>,
    /// Whether the frame goes out without a payload too. If not and none comes, nothing is sent.
    pub must_send: bool,
    /// A payload waits and this frame has no place for it.
    pub(crate) payload_waits: bool,
    pub(crate) request_kinds: u8,
}

/// The room for an application payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PayloadRoom {
    /// The counter the payload is sealed with. No other payload may ever be sealed with it.
    pub fcnt_down: FCntDown,
    /// FRMPayload bytes that fit the first window; `None`: there is none.
    pub rx1: Option<u8>,
    /// FRMPayload bytes that fit the second window.
    pub rx2: Option<u8>,
}

/// A payload of the application, as it goes on air.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AppPayload {
    /// 1 to 255.
    pub f_port: u8,
    /// Encrypted with the AppSKey and the counter of [`PayloadRoom`].
    pub frm_payload: Vec<u8>,
    /// The device shall acknowledge it.
    pub confirmed: bool,
}

/// A frame ready to be sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BuiltDownlink {
    /// The PHYPayload.
    pub phy: Vec<u8>,
    /// The counter it used.
    pub fcnt_down: FCntDown,
    /// The device shall acknowledge it.
    pub confirmed: bool,
    /// Whether it fits the first window.
    pub fits_rx1: bool,
    /// Whether it fits the second window.
    pub fits_rx2: bool,
}

/// Why no frame can be made of a plan and a payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "fields are named after what they hold")]
pub enum DownlinkError {
    #[error("the parts make no frame")]
    Frame(#[from] BuildError),
    #[error("a payload came for a downlink that asked for none")]
    NotAsked,
    #[error("port {f_port} is not the application's")]
    Port { f_port: u8 },
    #[error("a payload of {len} bytes fits neither window of this downlink")]
    TooLong { len: usize },
}

/// Every downlink counter of the session is used; the device has to join again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FcntDownExhausted;

/// What a downlink would be for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reasons<'a> {
    /// The uplink wants an acknowledgement.
    pub(crate) ack: bool,
    /// The device wants to hear the network, whatever it says.
    pub(crate) wants_downlink: bool,
    /// Answers to the device's commands, in order.
    pub(crate) answers: &'a [DownlinkCommand],
    /// Application data waits.
    pub(crate) queue: Option<QueueHint>,
    /// What requests are judged by; `None`: nothing is asked.
    pub(crate) situation: Option<&'a Situation<'a>>,
}

/// Plans the answer to an uplink, or finds that there is nothing to say. What was asked is noted in `mac`; the counters of
/// the session are the caller's to move.
pub(crate) fn plan(
    session: &Session,
    profile: &Profile,
    answering: FCntUp,
    radio: &RadioContext,
    mac: &mut MacState,
    reasons: &Reasons<'_>,
) -> Result<Option<DownlinkPlan>, FcntDownExhausted> {
    let (rx1, rx2) = windows(profile, mac, radio);
    // What the network says must be heard in either window.
    let Some(m) = [rx1, rx2].into_iter().flatten().map(|window| window.max_m).min() else {
        return Ok(None);
    };
    let Some(n_fcnt_down) = next(session.n_fcnt_down) else {
        return Err(FcntDownExhausted);
    };
    let mut room_down = usize::from(m).saturating_sub(HEADER_LEN);
    let mut commands = Vec::new();
    for answer in reasons.answers {
        let Some(left) = room_down.checked_sub(answer.len()) else {
            break;
        };
        room_down = left;
        answer.encode(&mut commands);
    }
    let requests = match reasons.situation {
        Some(situation) => {
            let room = Room { down: room_down, up: answer_room(situation, mac) };
            request::choose(situation, mac, room)
        }
        None => Requests::default(),
    };
    for request in &requests.commands {
        request.encode(&mut commands);
    }

    let must_send = reasons.ack || reasons.wants_downlink || !commands.is_empty();
    let version_1_1 = session.version.is_1_1();
    let a_fcnt_down = if version_1_1 { next(session.a_fcnt_down) } else { Some(n_fcnt_down) };
    // More commands than FOpts hold take port 0, and the payload waits.
    let may_ask = reasons.queue.is_some() && commands.len() <= FOPTS_LEN_MAX;
    let ask_payload = a_fcnt_down.filter(|_| may_ask).map(|fcnt_down| {
        let room = |window: TxWindow| room_for_payload(window, commands.len());
        PayloadRoom { fcnt_down, rx1: rx1.map(room), rx2: rx2.map(room) }
    });
    if !must_send && ask_payload.is_none() {
        return Ok(None);
    }
    Ok(Some(DownlinkPlan {
        session: session.id,
        dev_addr: session.dev_addr,
        version_1_1,
        answering,
        ack: reasons.ack,
        adr: profile.adr,
        commands,
        n_fcnt_down: (must_send || !version_1_1).then_some(n_fcnt_down),
        a_fcnt_down: ask_payload.filter(|_| version_1_1).map(|room| room.fcnt_down),
        rx1,
        rx2,
        ask_payload,
        must_send,
        payload_waits: reasons.queue.is_some() && ask_payload.is_none(),
        request_kinds: requests.kinds,
    }))
}

/// Makes the frame of a plan; `None` when there is no payload and nothing to say without one.
///
/// `more_pending`: something still waits for the device behind this frame, as far as whoever was asked for a payload knows. After an error with a payload the plan may be
/// built once more without it.
pub fn build(
    plan: &DownlinkPlan,
    keys: &NetworkKeys,
    app: Option<AppPayload>,
    more_pending: bool,
) -> Result<Option<BuiltDownlink>, DownlinkError> {
    let frame = DownlinkFrame {
        confirmed: false,
        dev_addr: plan.dev_addr,
        adr: plan.adr,
        ack: plan.ack,
        f_pending: more_pending || plan.payload_waits,
        fcnt: FCntDown::new(0),
        fopts: Vec::new(),
        f_port: None,
        frm_payload: Vec::new(),
    };
    let (frame, payload_len) = match app {
        Some(app) => {
            let room = plan.ask_payload.ok_or(DownlinkError::NotAsked)?;
            if app.f_port == 0 {
                return Err(DownlinkError::Port { f_port: app.f_port });
            }
            let payload_len = app.frm_payload.len();
            let frame = DownlinkFrame {
                confirmed: app.confirmed,
                fcnt: room.fcnt_down,
                fopts: plan.commands.clone(),
                f_port: Some(app.f_port),
                frm_payload: app.frm_payload,
                ..frame
            };
            (frame, payload_len)
        }
        None => {
            let Some(fcnt) = plan.n_fcnt_down.filter(|_| plan.must_send) else {
                return Ok(None);
            };
            let frame = DownlinkFrame { fcnt, ..frame };
            (with_commands(frame, plan, keys), plan.commands.len())
        }
    };
    let fcnt_down = frame.fcnt;
    let confirmed = frame.confirmed;
    let app_counter = frame.f_port.is_some_and(|f_port| f_port != 0);
    let phy = frame.seal(plan.version_1_1, keys, plan.answering.wire().value(), app_counter)?;
    let fits = |window: Option<TxWindow>| {
        window.is_some_and(|window| phy.len() <= usize::from(window.max_m) + MHDR_AND_MIC_LEN)
    };
    let (fits_rx1, fits_rx2) = (fits(plan.rx1), fits(plan.rx2));
    if !fits_rx1 && !fits_rx2 {
        return Err(DownlinkError::TooLong { len: payload_len });
    }
    Ok(Some(BuiltDownlink { phy, fcnt_down, confirmed, fits_rx1, fits_rx2 }))
}

/// Notes that the frame of a plan was handed to a gateway. True: the session's packed state has changed and must be written.
///
/// From here on the device owes the answers to what was asked, and to a confirmed frame its acknowledgement.
pub fn on_downlink_sent(session: &mut Session, plan: &DownlinkPlan, built: &BuiltDownlink) -> bool {
    if plan.session != session.id {
        return false;
    }
    session.recent.sent_kinds |= plan.request_kinds;
    if !built.confirmed {
        return false;
    }
    if session.mac.confirmed_down != Some(built.fcnt_down) {
        session.recent.confirmed_before = session.mac.confirmed_down;
    }
    session.mac.confirmed_down = Some(built.fcnt_down);
    session.mac.confirmed_open = true;
    true
}

/// Notes that a frame did not go on air: no answer to it is waited for. True: the session's packed state has changed and must be
/// written.
///
/// A 1.1 session counts the network's own frames apart (TS001-1.1 §4.3.1.5), so an unconfirmed one may have the number of the
/// confirmed one that is waited for.
pub fn on_downlink_failed(session: &mut Session, built: &BuiltDownlink) -> bool {
    session.recent.sent_kinds = 0;
    if !built.confirmed || session.outstanding_confirmed() != Some(built.fcnt_down) {
        return false;
    }
    // The ACK bit of a 1.1 device still means the one before.
    session.mac.confirmed_down = session.recent.confirmed_before;
    session.mac.confirmed_open = false;
    true
}

/// The two windows in which a Join-Request is answered: five and six seconds after it, with the parameters a device boots
/// with (TS001-1.0.4 §6.2.6). A Join-Accept is as long as it is, so `max_m` is the one without a dwell limit.
pub fn join_windows(
    profile: &Profile,
    freq: Hz,
    dr: DataRate,
    channel: Option<u8>,
) -> (Option<TxWindow>, Option<TxWindow>) {
    let region = profile.region();
    let (_, downlink_dwell) = region.dwell_defaults(profile.revision);
    let rx1 = region.rx1(freq, channel, dr, 0, downlink_dwell, profile.revision);
    (
        rx1.and_then(|(freq, dr)| window(profile, freq, dr, JOIN_ACCEPT_DELAY1_S, false)),
        window(
            profile,
            region.rx2_default().0,
            region.rx2_default().1,
            JOIN_ACCEPT_DELAY1_S + RX2_AFTER_RX1_S,
            false,
        ),
    )
}

/// The windows of a device after an uplink.
fn windows(profile: &Profile, mac: &MacState, radio: &RadioContext) -> (Option<TxWindow>, Option<TxWindow>) {
    let rx1 = profile.region().rx1(
        radio.freq,
        radio.channel,
        radio.dr,
        mac.rx1_dr_offset,
        mac.downlink_dwell,
        profile.revision,
    );
    let rx2_delay_s = mac.rx1_delay_s.saturating_add(RX2_AFTER_RX1_S);
    (
        rx1.and_then(|(freq, dr)| window(profile, freq, dr, mac.rx1_delay_s, mac.downlink_dwell)),
        window(profile, mac.rx2_freq, mac.rx2_dr, rx2_delay_s, mac.downlink_dwell),
    )
}

fn window(profile: &Profile, freq: Hz, dr: DataRate, delay_s: u8, dwell: bool) -> Option<TxWindow> {
    let region = profile.region();
    let modulation = region.modulation_down(dr, profile.revision)?;
    let max_m = region.max_payload_m(Direction::Down, dr, profile.revision, dwell)?;
    Some(TxWindow { freq, dr, modulation, delay_s, max_m })
}

/// Bytes the device has for its answers in one uplink: at the data rate it sends with, or, if it chooses the rate itself,
/// at the slowest (TS001-1.1 §5).
fn answer_room(situation: &Situation<'_>, mac: &MacState) -> usize {
    let revision = situation.profile.revision;
    let slowest = situation.region.data_rate_min(revision, mac.uplink_dwell);
    let dr = if situation.adr { situation.dr } else { slowest };
    let m = |dr| situation.region.max_payload_m(Direction::Up, dr, revision, mac.uplink_dwell);
    m(dr).or_else(|| m(slowest)).map_or(0, |m| usize::from(m).saturating_sub(HEADER_LEN))
}

/// Commands that fit FOpts travel there, others alone on port 0, under the network's key.
fn with_commands(frame: DownlinkFrame, plan: &DownlinkPlan, keys: &NetworkKeys) -> DownlinkFrame {
    let mut commands = plan.commands.clone();
    if commands.len() <= FOPTS_LEN_MAX {
        return DownlinkFrame { fopts: commands, ..frame };
    }
    let key = keys.nwk_s_enc.expose();
    crypto::crypt_frm_payload(key, Direction::Down, frame.dev_addr, frame.fcnt.value(), &mut commands);
    DownlinkFrame { f_port: Some(0), frm_payload: commands, ..frame }
}

fn room_for_payload(window: TxWindow, commands_len: usize) -> u8 {
    let taken = u8::try_from(commands_len.saturating_add(HEADER_LEN)).unwrap_or(u8::MAX);
    window.max_m.saturating_sub(taken)
}

/// The last number is never used: it could not be followed by another (TS001-1.1 §6.1.2.6).
fn next(counter: u32) -> Option<FCntDown> {
    (counter != u32::MAX).then_some(FCntDown::new(counter))
}

/// FHDR without FOpts, and FPort.
const HEADER_LEN: usize = 8;
const MHDR_AND_MIC_LEN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DevEui, SessionId};
    use crate::keys::Key;
    use crate::session::AbpParams;
    use crate::units::Timestamp;
    use crate::version::MacVersion;

    /// CRYPTO-003: the ACK bit of a 1.1 device names the last confirmed downlink it heard, not one that never left.
    #[test]
    fn a_confirmed_downlink_that_did_not_leave_is_not_what_an_ack_stands_for() {
        let profile = Profile { mac_version: MacVersion::V1_1_0, ..Profile::default() };
        let params = AbpParams {
            id: SessionId::new(1),
            dev_eui: DevEui::new(1),
            dev_addr: DevAddr::new(1),
            version: MacVersion::V1_1_0,
            keys: NetworkKeys::from_nwk_s_key(&Key::new([7; 16])),
            fcnt_up: None,
            fcnt_down: 0,
        };
        let mut session = Session::new_abp(&profile, params, Timestamp::from_us(0));
        let plan = DownlinkPlan {
            session: session.id,
            dev_addr: session.dev_addr,
            version_1_1: true,
            answering: FCntUp::new(1),
            ack: true,
            adr: true,
            commands: Vec::new(),
            n_fcnt_down: None,
            a_fcnt_down: None,
            rx1: None,
            rx2: None,
            ask_payload: None,
            must_send: true,
            request_kinds: 0,
            payload_waits: false,
        };
        let confirmed = |fcnt| BuiltDownlink {
            phy: Vec::new(),
            fcnt_down: FCntDown::new(fcnt),
            confirmed: true,
            fits_rx1: true,
            fits_rx2: true,
        };

        assert!(on_downlink_sent(&mut session, &plan, &confirmed(5)));
        session.mac.confirmed_open = false;
        assert!(on_downlink_sent(&mut session, &plan, &confirmed(6)));
        assert_eq!(session.conf_fcnt(), 6);
        // The network's own frame of the same number.
        let of_network = BuiltDownlink { confirmed: false, ..confirmed(6) };
        assert!(!on_downlink_failed(&mut session, &of_network));
        assert_eq!((session.conf_fcnt(), session.outstanding_confirmed()), (6, Some(FCntDown::new(6))));
        assert!(on_downlink_failed(&mut session, &confirmed(6)));

        assert_eq!(session.conf_fcnt(), 5);
        assert_eq!(session.outstanding_confirmed(), None);
        assert!(!on_downlink_failed(&mut session, &confirmed(6)), "it is told once");
    }
}
