//! Join-Request, Join-Accept and Rejoin-Request, both sides (TS001-1.1 §6.2).

use crate::crypto::{self, Mic};
use crate::drop_reason::DropReason;
use crate::ids::{DevAddr, DevEui, DevNonce, JoinEui, JoinNonce, NetId};
use crate::keys::JsIntKey;

/// A Join-Request, 23 bytes on air.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct JoinRequest {
    /// The join server the device asks for.
    pub join_eui: JoinEui,
    /// The device.
    pub dev_eui: DevEui,
    /// Its nonce.
    pub dev_nonce: DevNonce,
    /// The MIC as it came.
    pub mic: Mic,
    /// With the RFU bits as they came: the MIC covers them.
    mhdr: u8,
}

impl JoinRequest {
    /// Reads a whole PHYPayload. Any other length than 23 and any other FType is [`DropReason::Malformed`].
    pub fn parse(phy: &[u8]) -> Result<Self, DropReason> {
        let Ok(&[mhdr, ref body @ .., m0, m1, m2, m3]) = <&[u8; 23]>::try_from(phy) else {
            return Err(DropReason::Malformed);
        };
        if mhdr & FTYPE_AND_MAJOR != MHDR_JOIN_REQUEST {
            return Err(DropReason::Malformed);
        }
        let mut fields = Fields(body);
        Ok(Self {
            join_eui: JoinEui::from_wire_bytes(fields.take()?),
            dev_eui: DevEui::from_wire_bytes(fields.take()?),
            dev_nonce: DevNonce::from_wire_bytes(fields.take()?),
            mic: Mic::new([m0, m1, m2, m3]),
            mhdr,
        })
    }

    /// Whether the MIC was made with this root key: the AppKey of a 1.0.x device, the NwkKey of a 1.1 device.
    pub fn verify(&self, root_key: &[u8; 16]) -> bool {
        self.mic == crypto::join_mic(root_key, &self.without_mic())
    }

    /// Makes the PHYPayload a device sends.
    pub fn seal(join_eui: JoinEui, dev_eui: DevEui, dev_nonce: DevNonce, root_key: &[u8; 16]) -> Vec<u8> {
        let unsigned = Self { join_eui, dev_eui, dev_nonce, mic: Mic::new([0; 4]), mhdr: MHDR_JOIN_REQUEST };
        let mut phy = unsigned.without_mic().to_vec();
        phy.extend(crypto::join_mic(root_key, &phy).to_bytes());
        phy
    }

    fn without_mic(&self) -> [u8; 19] {
        let mut msg = [self.mhdr; 19];
        put(
            &mut msg,
            1,
            &[&self.join_eui.to_wire_bytes(), &self.dev_eui.to_wire_bytes(), &self.dev_nonce.to_wire_bytes()],
        );
        msg
    }
}

/// What a Rejoin-Request is for, and the field that goes with it (TS001-1.1 §6.2.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RejoinKind {
    /// Hand-over or full reset of the context. 19 bytes on air.
    Type0(NetId),
    /// Recovery after the network lost everything. 24 bytes on air.
    Type1(JoinEui),
    /// New keys or a new DevAddr, radio settings kept. 19 bytes on air.
    Type2(NetId),
}

/// A Rejoin-Request of a 1.1 device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RejoinRequest {
    /// The type with its NetID or JoinEUI.
    pub kind: RejoinKind,
    /// The device.
    pub dev_eui: DevEui,
    /// RJcount0 of types 0 and 2, RJcount1 of type 1.
    pub rj_count: u16,
    /// The MIC as it came.
    pub mic: Mic,
    /// With the RFU bits as they came: the MIC covers them.
    mhdr: u8,
}

impl RejoinRequest {
    /// Reads a whole PHYPayload. A length that does not belong to the type, and types above 2, are [`DropReason::Malformed`].
    pub fn parse(phy: &[u8]) -> Result<Self, DropReason> {
        let (&[mhdr, kind, ref body @ ..], &[m0, m1, m2, m3]) =
            phy.split_last_chunk::<4>().ok_or(DropReason::Malformed)?
        else {
            return Err(DropReason::Malformed);
        };
        if mhdr & FTYPE_AND_MAJOR != MHDR_REJOIN_REQUEST {
            return Err(DropReason::Malformed);
        }
        let mut fields = Fields(body);
        let kind = match kind {
            0 => RejoinKind::Type0(NetId::from_wire_bytes(fields.take()?)),
            1 => RejoinKind::Type1(JoinEui::from_wire_bytes(fields.take()?)),
            2 => RejoinKind::Type2(NetId::from_wire_bytes(fields.take()?)),
            _ => return Err(DropReason::Malformed),
        };
        let request = Self {
            kind,
            dev_eui: DevEui::from_wire_bytes(fields.take()?),
            rj_count: u16::from_le_bytes(fields.take()?),
            mic: Mic::new([m0, m1, m2, m3]),
            mhdr,
        };
        fields.end()?;
        Ok(request)
    }

    /// Whether the MIC was made with this key: the SNwkSIntKey for types 0 and 2, the JSIntKey for type 1.
    pub fn verify(&self, key: &[u8; 16]) -> bool {
        self.mic == crypto::rejoin_mic(key, &self.without_mic())
    }

    /// Makes the PHYPayload a device sends.
    pub fn seal(kind: RejoinKind, dev_eui: DevEui, rj_count: u16, key: &[u8; 16]) -> Vec<u8> {
        let unsigned = Self { kind, dev_eui, rj_count, mic: Mic::new([0; 4]), mhdr: MHDR_REJOIN_REQUEST };
        let mut phy = unsigned.without_mic();
        phy.extend(crypto::rejoin_mic(key, &phy).to_bytes());
        phy
    }

    fn without_mic(&self) -> Vec<u8> {
        let mut msg = vec![self.mhdr];
        match self.kind {
            RejoinKind::Type0(net_id) => {
                msg.push(0);
                msg.extend(net_id.to_wire_bytes());
            }
            RejoinKind::Type1(join_eui) => {
                msg.push(1);
                msg.extend(join_eui.to_wire_bytes());
            }
            RejoinKind::Type2(net_id) => {
                msg.push(2);
                msg.extend(net_id.to_wire_bytes());
            }
        }
        msg.extend(self.dev_eui.to_wire_bytes());
        msg.extend(self.rj_count.to_le_bytes());
        msg
    }
}

/// The byte DLSettings of a Join-Accept. RFU does not exist in it: 1 + 3 + 4 bits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DlSettings {
    /// The network speaks 1.1 with the device; a 1.0.x device does not read it.
    pub opt_neg: bool,
    /// 0 to 7.
    pub rx1_dr_offset: u8,
    /// The data rate index of RX2, 0 to 15.
    pub rx2_dr: u8,
}

impl DlSettings {
    /// Reads the byte.
    pub const fn from_byte(byte: u8) -> Self {
        Self { opt_neg: byte & 0x80 != 0, rx1_dr_offset: byte >> 4 & 0x07, rx2_dr: byte & 0x0f }
    }

    /// The byte; values that are too large are cut to their bits.
    pub const fn to_byte(self) -> u8 {
        (self.opt_neg as u8) << 7 | (self.rx1_dr_offset & 0x07) << 4 | self.rx2_dr & 0x0f
    }
}

/// What a Join-Accept says, 17 bytes on air, 33 with a CFList.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct JoinAccept {
    /// The nonce of the join server (AppNonce in old documents).
    pub join_nonce: JoinNonce,
    /// The network.
    pub net_id: NetId,
    /// The address of the session.
    pub dev_addr: DevAddr,
    /// RX1 offset, RX2 data rate and OptNeg.
    pub dl_settings: DlSettings,
    /// Seconds from the end of an uplink to RX1, 0 to 15; 0 means 1.
    pub rx_delay_s: u8,
    /// Channels of the region.
    pub cf_list: Option<[u8; 16]>,
}

/// How the MIC of a Join-Accept is made.
#[derive(Clone, Copy, Debug)]
pub enum AcceptMic<'a> {
    /// Without OptNeg: the AppKey of a 1.0.x device, the NwkKey of a 1.1 device.
    Plain(&'a [u8; 16]),
    /// With OptNeg: the JSIntKey, over the request as well.
    OptNeg {
        /// The join server's integrity key of the device.
        key: &'a JsIntKey,
        /// What is answered.
        request: JoinReqType,
        /// The JoinEUI of the device.
        join_eui: JoinEui,
        /// The DevNonce of the request; RJcount for a rejoin.
        dev_nonce: DevNonce,
    },
}

impl AcceptMic<'_> {
    fn mic(&self, msg: &[u8]) -> Mic {
        match *self {
            Self::Plain(root_key) => crypto::join_mic(root_key, msg),
            Self::OptNeg { key, request, join_eui, dev_nonce } => {
                crypto::join_accept_mic_11(key, request.number(), join_eui, dev_nonce, msg)
            }
        }
    }
}

/// Which request a Join-Accept answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum JoinReqType {
    /// A Join-Request.
    Join,
    /// A Rejoin-Request of type 0.
    Rejoin0,
    /// A Rejoin-Request of type 1.
    Rejoin1,
    /// A Rejoin-Request of type 2.
    Rejoin2,
}

impl JoinReqType {
    /// The byte in front of the MIC's input (TS001-1.1 §6.2.3, table 13).
    pub const fn number(self) -> u8 {
        match self {
            Self::Join => 0xff,
            Self::Rejoin0 => 0x00,
            Self::Rejoin1 => 0x01,
            Self::Rejoin2 => 0x02,
        }
    }
}

impl JoinAccept {
    /// Makes the PHYPayload. `mic` must agree with `dl_settings.opt_neg`; `encryption_key` is the AppKey (1.0.x) or NwkKey (1.1) after
    /// a Join-Request, the JSEncKey after a Rejoin-Request.
    pub fn seal(&self, mic: &AcceptMic<'_>, encryption_key: &[u8; 16]) -> Vec<u8> {
        let mut phy = self.without_mic();
        phy.extend(mic.mic(&phy).to_bytes());
        if let Some((_, body)) = phy.split_first_mut() {
            crypto::encrypt_join_accept(encryption_key, body);
        }
        phy
    }

    /// Decrypts a PHYPayload as a device does; the MIC is not checked yet. `None` for another length or FType.
    pub fn open(phy: &[u8], encryption_key: &[u8; 16]) -> Option<OpenedJoinAccept> {
        let (&mhdr, body) = phy.split_first()?;
        if !matches!(body.len(), 16 | 32) || mhdr & FTYPE_AND_MAJOR != MHDR_JOIN_ACCEPT {
            return None;
        }
        let mut body = body.to_vec();
        crypto::decrypt_join_accept(encryption_key, &mut body);
        let (msg, mic) = body.split_last_chunk::<4>()?;
        let mut fields = Fields(msg);
        let accept = Self {
            join_nonce: JoinNonce::from_wire_bytes(fields.take().ok()?),
            net_id: NetId::from_wire_bytes(fields.take().ok()?),
            dev_addr: DevAddr::from_wire_bytes(fields.take().ok()?),
            dl_settings: DlSettings::from_byte(fields.byte()?),
            rx_delay_s: fields.byte()? & RX_DELAY,
            cf_list: fields.take().ok(),
        };
        let msg = [&[mhdr], msg].concat();
        Some(OpenedJoinAccept { accept, mic: Mic::new(*mic), msg })
    }

    fn without_mic(&self) -> Vec<u8> {
        let mut msg = vec![MHDR_JOIN_ACCEPT];
        msg.extend(self.join_nonce.to_wire_bytes());
        msg.extend(self.net_id.to_wire_bytes());
        msg.extend(self.dev_addr.to_wire_bytes());
        msg.push(self.dl_settings.to_byte());
        msg.push(self.rx_delay_s & RX_DELAY);
        msg.extend(self.cf_list.iter().flatten());
        msg
    }
}

/// A Join-Accept decrypted by a device. It is rubbish until [`OpenedJoinAccept::verify`] says otherwise.
#[derive(Clone, Debug)]
pub struct OpenedJoinAccept {
    /// What it says.
    pub accept: JoinAccept,
    /// The MIC that was in it.
    pub mic: Mic,
    msg: Vec<u8>,
}

impl OpenedJoinAccept {
    /// Whether the MIC holds. A 1.1 device chooses the form by `accept.dl_settings.opt_neg`, a 1.0.x device always takes the plain one.
    pub fn verify(&self, mic: &AcceptMic<'_>) -> bool {
        self.mic == mic.mic(&self.msg)
    }
}

/// The fields of a frame from front to back.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DropReason> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(DropReason::Malformed)?;
        self.0 = rest;
        Ok(*field)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().ok().map(|[byte]| byte)
    }

    fn end(&self) -> Result<(), DropReason> {
        if self.0.is_empty() { Ok(()) } else { Err(DropReason::Malformed) }
    }
}

fn put(msg: &mut [u8], from: usize, fields: &[&[u8]]) {
    for (to, byte) in msg.iter_mut().skip(from).zip(fields.iter().copied().flatten()) {
        *to = *byte;
    }
}

const FTYPE_AND_MAJOR: u8 = 0b1110_0011;
const MHDR_JOIN_REQUEST: u8 = 0x00;
const MHDR_JOIN_ACCEPT: u8 = 0x20;
const MHDR_REJOIN_REQUEST: u8 = 0xc0;
const RX_DELAY: u8 = 0x0f;
