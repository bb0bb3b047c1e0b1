//! Data frames made: downlinks for the network, uplinks for a simulated device.

use super::{
    FCTRL_ACK, FCTRL_ADR, FCTRL_ADR_ACK_REQ, FCTRL_CLASS_B, FCTRL_F_PENDING, FOPTS_LEN_MAX,
    FTYPE_CONFIRMED_DOWN, FTYPE_CONFIRMED_UP, FTYPE_UNCONFIRMED_DOWN, FTYPE_UNCONFIRMED_UP, PHY_LEN_MAX,
};
use crate::crypto::{self, Direction, FOptsCounter, UplinkMicContext11};
use crate::ids::{DevAddr, FCntDown, FCntUp, WireFCnt};
use crate::keys::NetworkKeys;

/// Why no frame can be made of the parts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "fields are named after what they hold")]
pub enum BuildError {
    /// FOpts hold at most 15 bytes.
    #[error("MAC commands of {len} bytes do not fit FOpts, which hold {FOPTS_LEN_MAX}")]
    FOptsTooLong { len: usize },
    /// TS001-1.0.4 §4.3.1.6.
    #[error("MAC commands cannot stand in FOpts and on port 0 of one frame")]
    FPort0WithFOpts,
    /// A payload needs a port.
    #[error("a payload of {len} bytes needs an FPort")]
    PayloadWithoutFPort { len: usize },
    /// More than a radio can carry; the limit of the data rate is lower and the caller's.
    #[error("a frame of {len} bytes is longer than {PHY_LEN_MAX}")]
    TooLong { len: usize },
}

/// The parts of a downlink.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DownlinkFrame {
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
    /// The full counter of the frame. One number seals at most one frame, ever.
    pub fcnt: FCntDown,
    /// MAC commands in clear, at most 15 bytes.
    pub fopts: Vec<u8>,
    /// `None`: no payload.
    pub f_port: Option<u8>,
    /// Encrypted already: with the AppSKey, on FPort 0 with the NwkSEncKey (1.0.x: NwkSKey).
    pub frm_payload: Vec<u8>,
}

impl DownlinkFrame {
    /// Makes the PHYPayload.
    ///
    /// In 1.1 FOpts are encrypted, with `app_counter` telling whether `fcnt` is the AFCntDown (FPort 1 and above), and with the ACK bit
    /// the MIC covers `conf_fcnt`, the low half of the counter of the uplink acknowledged (TS001-1.1 §4.4.1). In 1.0.x both are
    /// without effect.
    pub fn seal(
        self,
        version_1_1: bool,
        keys: &NetworkKeys,
        conf_fcnt: u16,
        app_counter: bool,
    ) -> Result<Vec<u8>, BuildError> {
        let Self { dev_addr, fcnt, mut fopts, .. } = self;
        if version_1_1 {
            let counter = if app_counter { FOptsCounter::Application } else { FOptsCounter::Network };
            crypto::crypt_fopts(&keys.nwk_s_enc, Direction::Down, counter, dev_addr, fcnt.value(), &mut fopts);
        }
        let ftype = if self.confirmed { FTYPE_CONFIRMED_DOWN } else { FTYPE_UNCONFIRMED_DOWN };
        let fctrl =
            flag(self.adr, FCTRL_ADR) | flag(self.ack, FCTRL_ACK) | flag(self.f_pending, FCTRL_F_PENDING);
        let mut phy = without_mic(ftype, dev_addr, fctrl, fcnt.wire(), &fopts, self.f_port, &self.frm_payload)?;
        let conf_fcnt = if version_1_1 && self.ack { conf_fcnt } else { 0 };
        phy.extend(crypto::downlink_mic(&keys.s_nwk_s_int, conf_fcnt, dev_addr, fcnt, &phy).to_bytes());
        Ok(phy)
    }
}

/// The parts of an uplink.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UplinkFrame {
    /// The device wants an ACK.
    pub confirmed: bool,
    /// The address of the session.
    pub dev_addr: DevAddr,
    /// The device lets the network choose its data rate.
    pub adr: bool,
    /// The device wants any downlink.
    pub adr_ack_req: bool,
    /// Acknowledges the last confirmed downlink.
    pub ack: bool,
    /// The device listens in class B.
    pub class_b: bool,
    /// The full counter of the frame.
    pub fcnt: FCntUp,
    /// MAC commands in clear, at most 15 bytes.
    pub fopts: Vec<u8>,
    /// `None`: no payload.
    pub f_port: Option<u8>,
    /// Encrypted already: with the AppSKey, on FPort 0 with the NwkSEncKey (1.0.x: NwkSKey).
    pub frm_payload: Vec<u8>,
}

impl UplinkFrame {
    /// Makes the PHYPayload of a 1.1 session from its `context_11`, of a 1.0.x session without.
    ///
    /// Without the ACK bit the context's `conf_fcnt` counts as 0 (TS001-1.1 §4.4.2).
    pub fn seal(
        self,
        keys: &NetworkKeys,
        context_11: Option<UplinkMicContext11>,
    ) -> Result<Vec<u8>, BuildError> {
        let Self { dev_addr, fcnt, mut fopts, .. } = self;
        if context_11.is_some() {
            let counter = FOptsCounter::Network;
            crypto::crypt_fopts(&keys.nwk_s_enc, Direction::Up, counter, dev_addr, fcnt.value(), &mut fopts);
        }
        let ftype = if self.confirmed { FTYPE_CONFIRMED_UP } else { FTYPE_UNCONFIRMED_UP };
        let fctrl = flag(self.adr, FCTRL_ADR)
            | flag(self.adr_ack_req, FCTRL_ADR_ACK_REQ)
            | flag(self.ack, FCTRL_ACK)
            | flag(self.class_b, FCTRL_CLASS_B);
        let mut phy = without_mic(ftype, dev_addr, fctrl, fcnt.wire(), &fopts, self.f_port, &self.frm_payload)?;
        let mic = match context_11 {
            Some(context) => {
                let conf_fcnt = if self.ack { context.conf_fcnt } else { 0 };
                let context = UplinkMicContext11 { conf_fcnt, ..context };
                crypto::uplink_mic_11(keys, context, dev_addr, fcnt, &phy)
            }
            None => crypto::uplink_mic_10(&keys.f_nwk_s_int, dev_addr, fcnt, &phy),
        };
        phy.extend(mic.to_bytes());
        Ok(phy)
    }
}

fn without_mic(
    ftype: u8,
    dev_addr: DevAddr,
    fctrl: u8,
    fcnt: WireFCnt,
    fopts: &[u8],
    f_port: Option<u8>,
    frm_payload: &[u8],
) -> Result<Vec<u8>, BuildError> {
    let fopts_len = u8::try_from(fopts.len())
        .ok()
        .filter(|&len| usize::from(len) <= FOPTS_LEN_MAX)
        .ok_or(BuildError::FOptsTooLong { len: fopts.len() })?;
    if f_port == Some(0) && !fopts.is_empty() {
        return Err(BuildError::FPort0WithFOpts);
    }
    if f_port.is_none() && !frm_payload.is_empty() {
        return Err(BuildError::PayloadWithoutFPort { len: frm_payload.len() });
    }
    let len = [fopts.len(), f_port.iter().len(), frm_payload.len()]
        .into_iter()
        .fold(MHDR_FHDR_AND_MIC_LEN, usize::saturating_add);
    if len > PHY_LEN_MAX {
        return Err(BuildError::TooLong { len });
    }
    let mut phy = Vec::with_capacity(len);
    phy.push(ftype << 5);
    phy.extend(dev_addr.to_wire_bytes());
    phy.push(fctrl | fopts_len);
    phy.extend(fcnt.to_wire_bytes());
    phy.extend_from_slice(fopts);
    phy.extend(f_port);
    phy.extend_from_slice(frm_payload);
    Ok(phy)
}

const fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

const MHDR_FHDR_AND_MIC_LEN: usize = 12;
