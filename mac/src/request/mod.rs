//! What the network asks of a device, one file a request: whether it is needed, how it is put, what the answer means.
//!
//! A request is needed while what both sides agreed on differs from what the profile or ADR wants. It is asked again in
//! the answer to the next uplink when nothing came back, and used only after the answer. What a device refuses three
//! times or leaves without an answer five times is not asked again until the profile changes or a new session begins
//! (LinkADRReq rests and tries again, because a link that was deaf may hear later; DevStatusReq waits for its next time).

mod dev_status;
mod link_adr;
mod new_channel;
mod rx_param_setup;
mod rx_timing_setup;
mod tx_param_setup;

use crate::adr::AdrHistory;
use crate::command::{DownlinkCommand, LinkAdrAns, NewChannelAns, RxParamSetupAns};
use crate::region::{DataRate, Region};
use crate::session::{DeviceStatus, MacState, Profile};
use crate::units::Timestamp;
use crate::version::MacVersion;

pub(crate) use link_adr::AskedLinkAdr;
pub(crate) use new_channel::AskedChannels;
pub(crate) use rx_param_setup::AskedRxParam;
pub(crate) use tx_param_setup::AskedTxParam;

/// A kind of request, in the order of the command identifiers, in which they stand in a frame.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub enum Kind {
    LinkAdr,
    RxParamSetup,
    DevStatus,
    NewChannel,
    RxTimingSetup,
    TxParamSetup,
}

impl Kind {
    pub(crate) const COUNT: usize = 6;

    /// Every kind, in its order.
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::LinkAdr,
        Self::RxParamSetup,
        Self::DevStatus,
        Self::NewChannel,
        Self::RxTimingSetup,
        Self::TxParamSetup,
    ];

    /// In the order in which they get their room: what the other requests rest on first.
    const BY_PRIORITY: [Self; Self::COUNT] = [
        Self::TxParamSetup,
        Self::RxTimingSetup,
        Self::RxParamSetup,
        Self::NewChannel,
        Self::LinkAdr,
        Self::DevStatus,
    ];

    /// Its bit in a set of kinds.
    pub(crate) const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The name of the request.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LinkAdr => "LinkADRReq",
            Self::RxParamSetup => "RXParamSetupReq",
            Self::DevStatus => "DevStatusReq",
            Self::NewChannel => "NewChannelReq",
            Self::RxTimingSetup => "RXTimingSetupReq",
            Self::TxParamSetup => "TXParamSetupReq",
        }
    }
}

/// What was asked and is not answered, with the values that hold when the device agrees. Durable: after a restart the
/// answer must still be understood.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Asked {
    pub(crate) dev_status: bool,
    pub(crate) link_adr: Option<AskedLinkAdr>,
    pub(crate) new_channels: Option<AskedChannels>,
    pub(crate) rx_param: Option<AskedRxParam>,
    /// Seconds to RX1.
    pub(crate) rx_timing: Option<u8>,
    pub(crate) tx_param: Option<AskedTxParam>,
}

impl Asked {
    fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::LinkAdr => self.link_adr.is_some(),
            Kind::RxParamSetup => self.rx_param.is_some(),
            Kind::DevStatus => self.dev_status,
            Kind::NewChannel => self.new_channels.is_some(),
            Kind::RxTimingSetup => self.rx_timing.is_some(),
            Kind::TxParamSetup => self.tx_param.is_some(),
        }
    }
}

/// What a device refused, counted, and the bounds ADR has learnt from it. Durable.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Refusals {
    pub(crate) dr_max: Option<DataRate>,
    pub(crate) tx_power_max: Option<u8>,
    pub(crate) data_rate: u8,
    pub(crate) power: u8,
    pub(crate) channel_mask: u8,
    pub(crate) rx_param: u8,
    pub(crate) new_channel: [u8; 5],
}

/// What came of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answered {
    /// The device has the values that were asked for.
    Accepted,
    /// It changed nothing.
    Refused,
    /// Nothing was asked: the answer was heard before, or is a device's fancy.
    Unasked,
}

/// All that a need is judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) region: &'static Region,
    pub(crate) version: MacVersion,
    pub(crate) history: &'a AdrHistory,
    /// The device lets the network choose.
    pub(crate) adr: bool,
    pub(crate) adr_ack_req: bool,
    /// Data rate of the uplink.
    pub(crate) dr: DataRate,
    pub(crate) silent: &'a [u8; Kind::COUNT],
    pub(crate) now: Timestamp,
}

impl Situation<'_> {
    fn is_given_up(&self, kind: Kind) -> bool {
        silence(self.silent, kind) >= SILENT_MAX
    }
}

/// Bytes left for commands of the network, and for the answers of the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) down: usize,
    pub(crate) up: usize,
}

impl Room {
    /// Takes room for the commands; unchanged and false when they do not fit.
    fn take(&mut self, commands: &[DownlinkCommand]) -> bool {
        let down = commands.iter().map(DownlinkCommand::len).sum();
        let up = commands.iter().map(DownlinkCommand::answer_len).sum();
        match (self.down.checked_sub(down), self.up.checked_sub(up)) {
            (Some(down), Some(up)) => {
                *self = Self { down, up };
                true
            }
            _ => false,
        }
    }
}

/// The requests for this downlink.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    /// In the order in which they stand in the frame.
    pub(crate) commands: Vec<DownlinkCommand>,
    /// Their kinds, by [`Kind::bit`].
    pub(crate) kinds: u8,
}

/// Chooses the requests that are needed and fit, and notes in `mac` what was asked.
pub(crate) fn choose(situation: &Situation<'_>, mac: &mut MacState, mut room: Room) -> Requests {
    let mut chosen: [Vec<DownlinkCommand>; Kind::COUNT] = Default::default();
    let mut asked = mac.asked.as_deref().copied().unwrap_or_default();
    let mut kinds = 0;
    for kind in Kind::BY_PRIORITY {
        if situation.is_given_up(kind) {
            continue;
        }
        let commands = match kind {
            Kind::LinkAdr => link_adr::ask(situation, mac, &mut asked, &mut room),
            Kind::RxParamSetup => rx_param_setup::ask(situation, mac, &mut asked, &mut room),
            Kind::DevStatus => dev_status::ask(situation, mac, &mut asked, &mut room),
            Kind::NewChannel => new_channel::ask(situation, mac, &mut asked, &mut room),
            Kind::RxTimingSetup => rx_timing_setup::ask(situation, mac, &mut asked, &mut room),
            Kind::TxParamSetup => tx_param_setup::ask(situation, mac, &mut asked, &mut room),
        };
        if let Some(commands) = commands {
            kinds |= kind.bit();
            if let Some(place) = chosen.get_mut(kind as usize) {
                *place = commands;
            }
        }
    }
    set_asked(mac, asked);
    Requests { commands: chosen.into_iter().flatten().collect(), kinds }
}

/// The answers of one uplink, taken one by one.
pub(crate) fn answer_link_adr(mac: &mut MacState, ans: LinkAdrAns) -> Answered {
    with_asked(mac, |mac, asked| link_adr::answer(mac, asked, ans))
}

pub(crate) fn answer_rx_param_setup(mac: &mut MacState, ans: RxParamSetupAns) -> Answered {
    with_asked(mac, |mac, asked| rx_param_setup::answer(mac, asked, ans))
}

pub(crate) fn answer_rx_timing_setup(mac: &mut MacState) -> Answered {
    with_asked(mac, rx_timing_setup::answer)
}

pub(crate) fn answer_tx_param_setup(mac: &mut MacState) -> Answered {
    with_asked(mac, tx_param_setup::answer)
}

pub(crate) fn answer_new_channel(mac: &mut MacState, region: &Region, ans: NewChannelAns) -> Answered {
    with_asked(mac, |mac, asked| new_channel::answer(mac, asked, region, ans))
}

pub(crate) fn answer_dev_status(mac: &mut MacState, status: DeviceStatus, now: Timestamp) -> Answered {
    with_asked(mac, |mac, asked| dev_status::answer(mac, asked, status, now))
}

/// Counts the requests that went out with the last downlink and have no answer in this uplink, and lets rest or come back
/// what was not answered too often. Returns the kinds that are given up with this uplink.
pub(crate) fn count_silence(
    mac: &mut MacState,
    silent: &mut [u8; Kind::COUNT],
    sent: u8,
    answered: u8,
    now: Timestamp,
) -> u8 {
    let asked = mac.asked.as_deref().copied().unwrap_or_default();
    let mut given_up = 0;
    for kind in Kind::BY_PRIORITY {
        let Some(count) = silent.get_mut(kind as usize) else {
            continue;
        };
        if answered & kind.bit() != 0 {
            *count = 0;
        } else if sent & kind.bit() != 0 && asked.has(kind) {
            *count = count.saturating_add(1);
            if *count == SILENT_MAX {
                given_up |= kind.bit();
            }
        } else if kind == Kind::LinkAdr && *count >= SILENT_MAX {
            *count = count.saturating_add(1);
            if *count >= SILENT_MAX + REST_UPLINKS {
                *count = SILENT_MAX - 1;
            }
        }
    }
    if given_up & Kind::DevStatus.bit() != 0 {
        // Nothing rests on the status: it is asked for again when its time comes.
        dev_status::put_off(mac, now);
        if let Some(count) = silent.get_mut(Kind::DevStatus as usize) {
            *count = 0;
        }
    }
    given_up
}

/// Whether a request was refused so often that it is not put again.
const fn is_refused(count: u8) -> bool {
    count >= REFUSED_MAX
}

fn silence(silent: &[u8; Kind::COUNT], kind: Kind) -> u8 {
    silent.get(kind as usize).copied().unwrap_or(0)
}

fn with_asked(mac: &mut MacState, answer: impl FnOnce(&mut MacState, &mut Asked) -> Answered) -> Answered {
    let mut asked = mac.asked.as_deref().copied().unwrap_or_default();
    let answered = answer(mac, &mut asked);
    set_asked(mac, asked);
    answered
}

fn set_asked(mac: &mut MacState, asked: Asked) {
    if asked == Asked::default() {
        mac.asked = None;
    } else {
        match &mut mac.asked {
            Some(place) => **place = asked,
            None => mac.asked = Some(Box::new(asked)),
        }
    }
}

const REFUSED_MAX: u8 = 3;
const SILENT_MAX: u8 = 5;
/// A LinkADRReq that was never answered rests for so many uplinks.
const REST_UPLINKS: u8 = 32;
