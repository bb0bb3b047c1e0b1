//! The MAC commands of an uplink: its questions are answered, its answers taken.

use crate::adr::AdrHistory;
use crate::command::{
    CommandError, DeviceMode, DeviceModeConf, DeviceTimeAns, DownlinkCommand, LinkAdrAns, LinkCheckAns,
    RekeyConf, ResetConf, UplinkCommand, UplinkCommands,
};
use crate::crypto::{self, Direction, FOptsCounter};
use crate::request::{self, Answered, Kind};
use crate::session::{Activation, DeviceClass, DeviceStatus, MacState, Profile, Session};
use crate::units::Timestamp;
use crate::verify::VerifiedUplink;

use super::{Note, RadioContext};

/// What the commands of an uplink came to, beside the changes of the session.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// The network's answers, in the order of the questions.
    pub(super) answers: Vec<DownlinkCommand>,
    /// Kinds of requests that were answered, by [`Kind::bit`].
    pub(super) answered: u8,
    /// The device repeats an answer until it hears a downlink.
    pub(super) wants_downlink: bool,
    pub(super) status: Option<DeviceStatus>,
    pub(super) notes: Vec<Note>,
}

/// What the commands may look at and change.
pub(super) struct Hearing<'a> {
    pub(super) session: &'a Session,
    pub(super) profile: &'a Profile,
    pub(super) radio: &'a RadioContext,
    pub(super) now: Timestamp,
}

impl Hearing<'_> {
    /// Reads the commands in their order. An unknown or cut off command ends the reading and is noted; what was read counts.
    pub(super) fn hear(&self, uplink: &VerifiedUplink<'_>, mac: &mut MacState, adr: &mut AdrHistory) -> Heard {
        let mut heard = Heard::default();
        let mut link_adr: Option<LinkAdrAns> = None;
        for command in UplinkCommands::new(&plain_commands(self.session, uplink)) {
            match command {
                Ok(UplinkCommand::LinkAdrAns(ans)) => link_adr = Some(both(link_adr, ans)),
                Ok(command) => self.take(command, mac, adr, &mut heard),
                Err(CommandError::Truncated { cid }) => heard.notes.push(Note::MacCommandTruncated { cid }),
                Err(CommandError::Unknown { cid }) => heard.notes.push(Note::MacCommandUnknown { cid }),
            }
        }
        if let Some(ans) = link_adr {
            let power = mac.tx_power;
            let dr = mac.dr;
            let answered = request::answer_link_adr(mac, ans);
            heard.note(Kind::LinkAdr, answered);
            if (mac.tx_power, mac.dr) != (power, dr) || answered == Answered::Accepted {
                adr.clear();
            }
        }
        heard
    }

    fn take(&self, command: UplinkCommand, mac: &mut MacState, adr: &mut AdrHistory, heard: &mut Heard) {
        let is_1_1 = self.session.version.is_1_1();
        match command {
            UplinkCommand::ResetInd(ind) if is_1_1 && self.session.activation == Activation::Abp => {
                mac.reset(self.profile, self.now);
                adr.clear();
                heard.answers.push(DownlinkCommand::ResetConf(ResetConf { minor: ind.minor.min(MINOR) }));
            }
            UplinkCommand::RekeyInd(ind) if is_1_1 && self.session.activation == Activation::Otaa => {
                mac.pending = false;
                heard.answers.push(DownlinkCommand::RekeyConf(RekeyConf { minor: ind.minor.min(MINOR) }));
            }
            UplinkCommand::DeviceModeInd(ind) if is_1_1 => {
                mac.class = match ind.class {
                    DeviceMode::ClassA => DeviceClass::A,
                    DeviceMode::ClassC => DeviceClass::C,
                    DeviceMode::Reserved(_) => return,
                };
                heard.answers.push(DownlinkCommand::DeviceModeConf(DeviceModeConf { class: ind.class }));
            }
            UplinkCommand::LinkCheckReq => heard.answers.extend(self.link_check()),
            UplinkCommand::DeviceTimeReq => heard.answers.extend(self.device_time()),
            UplinkCommand::DevStatusAns(ans) => {
                let status = DeviceStatus { battery: ans.battery.to_byte(), margin_db: ans.margin_db };
                heard.status = Some(status);
                heard.note(Kind::DevStatus, request::answer_dev_status(mac, status, self.now));
            }
            UplinkCommand::RxParamSetupAns(ans) => {
                heard.wants_downlink = true;
                heard.note(Kind::RxParamSetup, request::answer_rx_param_setup(mac, ans));
            }
            UplinkCommand::RxTimingSetupAns => {
                heard.wants_downlink = true;
                heard.note(Kind::RxTimingSetup, request::answer_rx_timing_setup(mac));
            }
            UplinkCommand::TxParamSetupAns => {
                // Sticky in the devices that most people build on, whatever the text says.
                heard.wants_downlink = true;
                heard.note(Kind::TxParamSetup, request::answer_tx_param_setup(mac));
            }
            UplinkCommand::NewChannelAns(ans) => {
                heard.note(Kind::NewChannel, request::answer_new_channel(mac, self.profile.region(), ans));
            }
            UplinkCommand::DlChannelAns(_) | UplinkCommand::PingSlotChannelAns(_) => {
                heard.wants_downlink = true
            }
            // Answers to what is not asked, questions that are not served (class B), and words of another version or
            // activation. LinkADRAns is gathered by the caller.
            UplinkCommand::AdrParamSetupAns
            | UplinkCommand::BeaconFreqAns(_)
            | UplinkCommand::BeaconTimingReq
            | UplinkCommand::DeviceModeInd(_)
            | UplinkCommand::DutyCycleAns
            | UplinkCommand::LinkAdrAns(_)
            | UplinkCommand::PingSlotInfoReq(_)
            | UplinkCommand::RejoinParamSetupAns(_)
            | UplinkCommand::RekeyInd(_)
            | UplinkCommand::ResetInd(_) => {}
        }
    }

    fn link_check(&self) -> Option<DownlinkCommand> {
        let modulation = self.profile.region().modulation_up(self.radio.dr, self.profile.revision)?;
        let (snr_db, floor_db) = match (self.radio.snr_db, modulation.required_snr_db()) {
            (Some(snr_db), Some(floor_db)) => (snr_db, floor_db),
            // Without a ratio there is no margin to tell, but there are gateways.
            _ => (0.0, 0.0),
        };
        Some(DownlinkCommand::LinkCheckAns(LinkCheckAns::new(snr_db, floor_db, self.radio.gateway_count)))
    }

    fn device_time(&self) -> Option<DownlinkCommand> {
        let gps_us = u64::try_from(self.radio.ended_at_gps_us?).ok()?;
        Some(DownlinkCommand::DeviceTimeAns(DeviceTimeAns::from_gps_us(gps_us)))
    }
}

impl Heard {
    fn note(&mut self, kind: Kind, answered: Answered) {
        match answered {
            Answered::Accepted => self.answered |= kind.bit(),
            Answered::Refused => {
                self.answered |= kind.bit();
                self.notes.push(Note::MacRequestRefused { kind });
            }
            Answered::Unasked => {}
        }
    }
}

/// Whether an uplink carries RekeyInd, with which a 1.1 device proves that it has the session.
pub(crate) fn contains_rekey_ind(session: &Session, uplink: &VerifiedUplink<'_>) -> bool {
    UplinkCommands::new(&plain_commands(session, uplink))
        .any(|command| matches!(command, Ok(UplinkCommand::RekeyInd(_))))
}

/// The commands of an uplink in clear: from port 0 or from FOpts.
fn plain_commands(session: &Session, uplink: &VerifiedUplink<'_>) -> Vec<u8> {
    let frame = uplink.frame();
    let (dev_addr, fcnt) = (frame.dev_addr, uplink.fcnt().value());
    let key = &session.keys.nwk_s_enc;
    if frame.f_port == Some(0) {
        let mut commands = frame.frm_payload.to_vec();
        crypto::crypt_frm_payload(key.expose(), Direction::Up, dev_addr, fcnt, &mut commands);
        return commands;
    }
    let mut commands = frame.fopts.to_vec();
    if session.version.is_1_1() && !commands.is_empty() {
        crypto::crypt_fopts(key, Direction::Up, FOptsCounter::Network, dev_addr, fcnt, &mut commands);
    }
    commands
}

fn both(one: Option<LinkAdrAns>, other: LinkAdrAns) -> LinkAdrAns {
    let Some(one) = one else {
        return other;
    };
    LinkAdrAns {
        channel_mask_ack: one.channel_mask_ack && other.channel_mask_ack,
        data_rate_ack: one.data_rate_ack && other.data_rate_ack,
        power_ack: one.power_ack && other.power_ack,
    }
}

/// The minor version the network speaks: 1.1.
const MINOR: u8 = 1;
