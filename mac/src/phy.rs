//! Frames on air: PHYPayload, both directions (TS001-1.1 §4).
//!
//! Parsing borrows, allocates nothing and reads every length before it uses it. What comes out has the shape of a frame; whether it is
//! genuine only its MIC can say.

mod any;
mod build;

pub use any::{AnyFrame, DataFrame, DecodeKeys, JoinContext, MicVerdict, parse_any};
pub use build::{BuildError, DownlinkFrame, UplinkFrame};

use crate::crypto::{self, Direction, FOptsCounter, Mic};
use crate::drop_reason::DropReason;
use crate::ids::{DevAddr, FCntDown, WireFCnt};
use crate::join_frame::{JoinRequest, RejoinRequest};
use crate::keys::{NwkSEncKey, SNwkSIntKey};

/// The longest PHYPayload any LoRa radio can carry: its length travels in one byte.
pub const PHY_LEN_MAX: usize = 255;
/// The longest FOpts of a frame.
pub const FOPTS_LEN_MAX: usize = 15;

/// What a device may have sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Frame<'a> {
    /// FType 2 and 4.
    DataUp(DataUp<'a>),
    /// FType 0.
    JoinRequest(JoinRequest),
    /// FType 7: everything behind the MHDR. It has no MIC one could check.
    Proprietary(&'a [u8]),
    /// FType 6.
    Rejoin(RejoinRequest),
}

/// A data frame from a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DataUp<'a> {
    /// The device wants an ACK.
    pub confirmed: bool,
    /// The address of its session.
    pub dev_addr: DevAddr,
    /// The device lets the network choose its data rate.
    pub adr: bool,
    /// The device has not heard the network for long and wants any downlink.
    pub adr_ack_req: bool,
    /// Acknowledges the last confirmed downlink.
    pub ack: bool,
    /// The device listens in class B; without meaning for class A devices of 1.0.x.
    pub class_b: bool,
    /// The low half of the frame's counter.
    pub fcnt: WireFCnt,
    /// MAC commands, at most 15 bytes; encrypted in 1.1.
    pub fopts: &'a [u8],
    /// `None`: the frame ends behind FOpts. `Some(0)`: `frm_payload` holds MAC commands.
    pub f_port: Option<u8>,
    /// Encrypted; may be empty behind a port.
    pub frm_payload: &'a [u8],
    /// The MIC as it came.
    pub mic: Mic,
    /// What the MIC covers: everything in front of it.
    pub msg: &'a [u8],
}

/// What a network may have sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DownFrame<'a> {
    /// FType 3 and 5.
    Data(DataDown<'a>),
    /// FType 1: the whole PHYPayload, for [`crate::join_frame::JoinAccept::open`].
    JoinAccept(&'a [u8]),
    /// FType 7: everything behind the MHDR.
    Proprietary(&'a [u8]),
}

/// A data frame from a network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DataDown<'a> {
    /// The network wants an ACK.
    pub confirmed: bool,
    /// The address of the session.
    pub dev_addr: DevAddr,
    /// The network controls the data rate.
    pub adr: bool,
    /// Acknowledges the last confirmed uplink.
    pub ack: bool,
    /// More is waiting for the device.
    pub f_pending: bool,
    /// The low half of the frame's counter.
    pub fcnt: WireFCnt,
    /// MAC commands, at most 15 bytes; encrypted in 1.1.
    pub fopts: &'a [u8],
    /// `None`: the frame ends behind FOpts. `Some(0)`: `frm_payload` holds MAC commands.
    pub f_port: Option<u8>,
    /// Encrypted; may be empty behind a port.
    pub frm_payload: &'a [u8],
    /// The MIC as it came.
    pub mic: Mic,
    /// What the MIC covers: everything in front of it.
    pub msg: &'a [u8],
}

impl DataDown<'_> {
    /// Whether the MIC was made with this key and the full counter. `conf_fcnt`: see [`crypto::downlink_mic`].
    pub fn verify(&self, key: &SNwkSIntKey, conf_fcnt: u16, fcnt: FCntDown) -> bool {
        self.mic == crypto::downlink_mic(key, conf_fcnt, self.dev_addr, fcnt, self.msg)
    }

    /// The counter of a 1.1 session the frame uses: the application's with FPort 1 and above, else the network's.
    pub const fn counter(&self) -> FOptsCounter {
        match self.f_port {
            None | Some(0) => FOptsCounter::Network,
            Some(1..) => FOptsCounter::Application,
        }
    }

    /// FOpts of a 1.1 frame in clear. In 1.0.x they are in clear already.
    pub fn open_fopts(&self, key: &NwkSEncKey, fcnt: FCntDown) -> Vec<u8> {
        let mut fopts = self.fopts.to_vec();
        crypto::crypt_fopts(key, Direction::Down, self.counter(), self.dev_addr, fcnt.value(), &mut fopts);
        fopts
    }

    /// FRMPayload in clear. The key is the AppSKey, for FPort 0 the NwkSEncKey (1.0.x: NwkSKey).
    pub fn open_payload(&self, key: &[u8; 16], fcnt: FCntDown) -> Vec<u8> {
        let mut payload = self.frm_payload.to_vec();
        crypto::crypt_frm_payload(key, Direction::Down, self.dev_addr, fcnt.value(), &mut payload);
        payload
    }
}

/// Reads what a gateway received. The order of the checks is the order in which the reasons are told: length, major version, FType,
/// shape.
pub fn parse_uplink(phy: &[u8]) -> Result<Frame<'_>, DropReason> {
    let (mhdr, body) = split_mhdr(phy)?;
    match mhdr >> 5 {
        FTYPE_JOIN_REQUEST => JoinRequest::parse(phy).map(Frame::JoinRequest),
        FTYPE_UNCONFIRMED_UP | FTYPE_CONFIRMED_UP => {
            Parts::parse(phy).map(|parts| Frame::DataUp(parts.into_up()))
        }
        FTYPE_REJOIN_REQUEST => RejoinRequest::parse(phy).map(Frame::Rejoin),
        FTYPE_PROPRIETARY => Ok(Frame::Proprietary(body)),
        _ => Err(DropReason::NotAnUplink),
    }
}

/// Reads what a device received. `None`: nothing a network sends, or malformed.
pub fn parse_downlink(phy: &[u8]) -> Option<DownFrame<'_>> {
    let (mhdr, body) = split_mhdr(phy).ok()?;
    match mhdr >> 5 {
        FTYPE_JOIN_ACCEPT if matches!(phy.len(), 17 | 33) => Some(DownFrame::JoinAccept(phy)),
        FTYPE_UNCONFIRMED_DOWN | FTYPE_CONFIRMED_DOWN => {
            Parts::parse(phy).ok().map(|parts| DownFrame::Data(parts.into_down()))
        }
        FTYPE_PROPRIETARY => Some(DownFrame::Proprietary(body)),
        _ => None,
    }
}

/// Checks the length and the major version, and takes the MHDR off.
fn split_mhdr(phy: &[u8]) -> Result<(u8, &[u8]), DropReason> {
    if phy.len() > PHY_LEN_MAX {
        return Err(DropReason::TooLong);
    }
    let (&mhdr, body) = phy.split_first().ok_or(DropReason::Malformed)?;
    if mhdr & MAJOR != MAJOR_R1 {
        return Err(DropReason::UnknownMajor);
    }
    Ok((mhdr, body))
}

/// A data frame cut into its parts; both directions have the same ones.
struct Parts<'a> {
    ftype: u8,
    dev_addr: DevAddr,
    fctrl: u8,
    fcnt: WireFCnt,
    fopts: &'a [u8],
    f_port: Option<u8>,
    frm_payload: &'a [u8],
    mic: Mic,
    msg: &'a [u8],
}

impl<'a> Parts<'a> {
    fn parse(phy: &'a [u8]) -> Result<Self, DropReason> {
        let (msg, &mic) = phy.split_last_chunk::<4>().ok_or(DropReason::Malformed)?;
        let (&[mhdr, a0, a1, a2, a3, fctrl, f0, f1], rest) =
            msg.split_first_chunk::<8>().ok_or(DropReason::Malformed)?;
        let fopts_len = usize::from(fctrl & FOPTS_LEN);
        let (fopts, rest) = rest.split_at_checked(fopts_len).ok_or(DropReason::Malformed)?;
        let (f_port, frm_payload) = match rest.split_first() {
            Some((&f_port, frm_payload)) => (Some(f_port), frm_payload),
            None => (None, rest),
        };
        // TS001-1.0.4 §4.3.1.6: MAC commands stand in one place or the other.
        if f_port == Some(0) && !fopts.is_empty() {
            return Err(DropReason::Fport0WithFopts);
        }
        Ok(Self {
            ftype: mhdr >> 5,
            dev_addr: DevAddr::from_wire_bytes([a0, a1, a2, a3]),
            fctrl,
            fcnt: WireFCnt::from_wire_bytes([f0, f1]),
            fopts,
            f_port,
            frm_payload,
            mic: Mic::new(mic),
            msg,
        })
    }

    fn into_up(self) -> DataUp<'a> {
        DataUp {
            confirmed: self.ftype == FTYPE_CONFIRMED_UP,
            dev_addr: self.dev_addr,
            adr: self.fctrl & FCTRL_ADR != 0,
            adr_ack_req: self.fctrl & FCTRL_ADR_ACK_REQ != 0,
            ack: self.fctrl & FCTRL_ACK != 0,
            class_b: self.fctrl & FCTRL_CLASS_B != 0,
            fcnt: self.fcnt,
            fopts: self.fopts,
            f_port: self.f_port,
            frm_payload: self.frm_payload,
            mic: self.mic,
            msg: self.msg,
        }
    }

    fn into_down(self) -> DataDown<'a> {
        DataDown {
            confirmed: self.ftype == FTYPE_CONFIRMED_DOWN,
            dev_addr: self.dev_addr,
            adr: self.fctrl & FCTRL_ADR != 0,
            ack: self.fctrl & FCTRL_ACK != 0,
            f_pending: self.fctrl & FCTRL_F_PENDING != 0,
            fcnt: self.fcnt,
            fopts: self.fopts,
            f_port: self.f_port,
            frm_payload: self.frm_payload,
            mic: self.mic,
            msg: self.msg,
        }
    }
}

const MAJOR: u8 = 0x03;
const MAJOR_R1: u8 = 0x00;

const FTYPE_JOIN_REQUEST: u8 = 0;
const FTYPE_JOIN_ACCEPT: u8 = 1;
const FTYPE_UNCONFIRMED_UP: u8 = 2;
const FTYPE_UNCONFIRMED_DOWN: u8 = 3;
const FTYPE_CONFIRMED_UP: u8 = 4;
const FTYPE_CONFIRMED_DOWN: u8 = 5;
const FTYPE_REJOIN_REQUEST: u8 = 6;
const FTYPE_PROPRIETARY: u8 = 7;

const FCTRL_ADR: u8 = 0x80;
const FCTRL_ADR_ACK_REQ: u8 = 0x40;
const FCTRL_ACK: u8 = 0x20;
const FCTRL_CLASS_B: u8 = 0x10;
const FCTRL_F_PENDING: u8 = 0x10;
const FOPTS_LEN: u8 = 0x0f;
