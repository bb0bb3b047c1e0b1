//! Any frame looked at by a person: both directions, every FType, with whatever keys there are.

use super::{
    DataDown, DataUp, FTYPE_CONFIRMED_DOWN, FTYPE_CONFIRMED_UP, FTYPE_JOIN_ACCEPT, FTYPE_JOIN_REQUEST,
    FTYPE_PROPRIETARY, FTYPE_UNCONFIRMED_DOWN, FTYPE_UNCONFIRMED_UP, Parts, split_mhdr,
};
use crate::crypto::{self, Direction, FOptsCounter, Mic, UplinkMicContext11};
use crate::drop_reason::DropReason;
use crate::ids::{DevAddr, DevEui, DevNonce, FCntDown, FCntUp, JoinEui, WireFCnt};
use crate::join_frame::{AcceptMic, JoinAccept, JoinReqType, JoinRequest, RejoinKind, RejoinRequest};
use crate::keys::{AppKey, AppSKey, JsIntKey, NetworkKeys, NwkKey};

/// What is known beside the frame. Everything may be missing; the default knows nothing.
#[derive(Clone, Debug, Default)]
pub struct DecodeKeys {
    /// Session keys of the network (1.0.x: all three the NwkSKey).
    pub network: Option<NetworkKeys>,
    /// Session key of the application.
    pub app_s_key: Option<AppSKey>,
    /// Root key of a 1.0.x device; it opens Join-Requests and Join-Accepts.
    pub app_key: Option<AppKey>,
    /// Root key of a 1.1 device; tried before `app_key`.
    pub nwk_key: Option<NwkKey>,
    /// The session is of LoRaWAN 1.1: FOpts are encrypted and the uplink MIC has two halves.
    pub version_1_1: bool,
    /// The full counter of the frame; without it every counter with the frame's low half is tried.
    pub fcnt: Option<u32>,
    /// For the whole MIC of a 1.1 uplink; without it one half is checked.
    pub uplink_11: Option<UplinkMicContext11>,
    /// For a 1.1 downlink with ACK: the low half of the counter of the uplink acknowledged.
    pub conf_fcnt: u16,
    /// The request a Join-Accept with OptNeg answers.
    pub join: Option<JoinContext>,
    /// The join server's integrity key; otherwise derived from `nwk_key` and the DevEUI. It signs Rejoin-Requests of type 1.
    pub js_int_key: Option<JsIntKey>,
}

/// The request that a Join-Accept answers.
#[derive(Clone, Copy, Debug)]
pub struct JoinContext {
    /// What was asked.
    pub request: JoinReqType,
    /// The JoinEUI of the device.
    pub join_eui: JoinEui,
    /// The device.
    pub dev_eui: DevEui,
    /// The DevNonce of the request; RJcount for a rejoin.
    pub dev_nonce: DevNonce,
}

/// What the keys say about a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MicVerdict {
    /// One half of a 1.1 uplink's MIC holds; the other needs the device's channel and data rate.
    HalfMatches,
    /// The frame is genuine.
    Matches,
    /// The keys, the counter or the version are not those of the frame.
    Mismatch,
    /// The key it takes is missing.
    NotChecked,
}

/// A frame of any type.
#[derive(Clone, Debug)]
pub enum AnyFrame {
    /// FType 2 to 5.
    Data(DataFrame),
    /// FType 1. `accept` is `None` without a key; with a mismatch it is rubbish.
    #[allow(missing_docs, reason = "told above")]
    JoinAccept { accept: Option<JoinAccept>, mic: Option<Mic>, verdict: MicVerdict },
    /// FType 0.
    #[allow(missing_docs, reason = "named after their types")]
    JoinRequest { request: JoinRequest, verdict: MicVerdict },
    /// FType 7: everything behind the MHDR.
    Proprietary(Vec<u8>),
    /// FType 6.
    #[allow(missing_docs, reason = "named after their types")]
    Rejoin { request: RejoinRequest, verdict: MicVerdict },
}

/// A data frame of either direction.
#[derive(Clone, Debug)]
pub struct DataFrame {
    /// Which way it travels.
    pub direction: Direction,
    /// The sender wants an ACK.
    pub confirmed: bool,
    /// The address of the session.
    pub dev_addr: DevAddr,
    /// FCtrl.ADR.
    pub adr: bool,
    /// FCtrl.ADRACKReq of an uplink.
    pub adr_ack_req: bool,
    /// FCtrl.ACK.
    pub ack: bool,
    /// FCtrl.ClassB of an uplink.
    pub class_b: bool,
    /// FCtrl.FPending of a downlink.
    pub f_pending: bool,
    /// The low half of the counter.
    pub fcnt: WireFCnt,
    /// The full counter with which the MIC holds.
    pub fcnt_full: Option<u32>,
    /// FOpts as they came.
    pub fopts: Vec<u8>,
    /// FOpts in clear; `None` when they are encrypted and cannot be opened.
    pub fopts_plain: Option<Vec<u8>>,
    /// `None`: the frame ends behind FOpts.
    pub f_port: Option<u8>,
    /// FRMPayload as it came.
    pub frm_payload: Vec<u8>,
    /// FRMPayload in clear; `None` when it cannot be opened. FPort 0: MAC commands.
    pub frm_payload_plain: Option<Vec<u8>>,
    /// The MIC as it came.
    pub mic: Mic,
    /// What the keys say about it.
    pub verdict: MicVerdict,
}

/// Reads a PHYPayload of any type and direction, checks its MIC and opens what the keys open.
///
/// Without a counter up to 65,536 MICs are computed. Payloads are opened with the counter the MIC confirms; when the MIC is not checked
/// or fails, with `keys.fcnt` or the low half, and the caller must tell that it may be rubbish.
pub fn parse_any(phy: &[u8], keys: &DecodeKeys) -> Result<AnyFrame, DropReason> {
    let (mhdr, body) = split_mhdr(phy)?;
    match mhdr >> 5 {
        FTYPE_JOIN_REQUEST => {
            let request = JoinRequest::parse(phy)?;
            let verdict = best(root_keys(keys).map(|key| request.verify(key)));
            Ok(AnyFrame::JoinRequest { request, verdict })
        }
        FTYPE_JOIN_ACCEPT => join_accept(phy, keys),
        FTYPE_UNCONFIRMED_UP | FTYPE_CONFIRMED_UP => {
            Ok(AnyFrame::Data(data_up(&Parts::parse(phy)?.into_up(), keys)))
        }
        FTYPE_UNCONFIRMED_DOWN | FTYPE_CONFIRMED_DOWN => {
            Ok(AnyFrame::Data(data_down(&Parts::parse(phy)?.into_down(), keys)))
        }
        FTYPE_PROPRIETARY => Ok(AnyFrame::Proprietary(body.to_vec())),
        _ => {
            let request = RejoinRequest::parse(phy)?;
            Ok(AnyFrame::Rejoin { request, verdict: rejoin_verdict(&request, keys) })
        }
    }
}

fn root_keys(keys: &DecodeKeys) -> impl Iterator<Item = &[u8; 16]> {
    keys.nwk_key.iter().map(NwkKey::expose).chain(keys.app_key.iter().map(AppKey::expose))
}

fn best(verdicts: impl Iterator<Item = bool>) -> MicVerdict {
    verdicts.fold(MicVerdict::NotChecked, |so_far, holds| match (so_far, holds) {
        (MicVerdict::Matches, _) | (_, true) => MicVerdict::Matches,
        _ => MicVerdict::Mismatch,
    })
}

fn rejoin_verdict(request: &RejoinRequest, keys: &DecodeKeys) -> MicVerdict {
    let holds = match request.kind {
        RejoinKind::Type0(_) | RejoinKind::Type2(_) => {
            keys.network.as_ref().map(|network| request.verify(network.s_nwk_s_int.expose()))
        }
        RejoinKind::Type1(_) => js_int_key(keys, request.dev_eui).map(|key| request.verify(key.expose())),
    };
    best(holds.into_iter())
}

fn js_int_key(keys: &DecodeKeys, dev_eui: DevEui) -> Option<JsIntKey> {
    keys.js_int_key
        .clone()
        .or_else(|| keys.nwk_key.as_ref().map(|nwk_key| crypto::js_int_key(nwk_key, dev_eui)))
}

fn join_accept(phy: &[u8], keys: &DecodeKeys) -> Result<AnyFrame, DropReason> {
    if !matches!(phy.len(), 17 | 33) {
        return Err(DropReason::Malformed);
    }
    // An accept that answers a rejoin is encrypted with a key of its own (TS001-1.1 §6.2.3, table 14).
    let js_enc_key = match (&keys.nwk_key, &keys.join) {
        (Some(nwk_key), Some(join)) if join.request != JoinReqType::Join => {
            Some(crypto::js_enc_key(nwk_key, join.dev_eui))
        }
        _ => None,
    };
    let candidates = js_enc_key.iter().map(|key| key.expose()).chain(root_keys(keys));
    let mut first = None;
    for key in candidates {
        let Some(opened) = JoinAccept::open(phy, key) else {
            continue;
        };
        let js_int_key = keys.join.and_then(|join| js_int_key(keys, join.dev_eui));
        let opt_neg = match (keys.join, &js_int_key) {
            (Some(JoinContext { request, join_eui, dev_nonce, .. }), Some(key)) => {
                opened.verify(&AcceptMic::OptNeg { key, request, join_eui, dev_nonce })
            }
            _ => false,
        };
        let matches = opt_neg || root_keys(keys).any(|key| opened.verify(&AcceptMic::Plain(key)));
        let verdict = if matches { MicVerdict::Matches } else { MicVerdict::Mismatch };
        let frame = AnyFrame::JoinAccept { accept: Some(opened.accept), mic: Some(opened.mic), verdict };
        if matches {
            return Ok(frame);
        }
        first.get_or_insert(frame);
    }
    Ok(first.unwrap_or(AnyFrame::JoinAccept { accept: None, mic: None, verdict: MicVerdict::NotChecked }))
}

fn data_up(frame: &DataUp<'_>, keys: &DecodeKeys) -> DataFrame {
    let (verdict, fcnt_full) = match (&keys.network, keys.version_1_1, keys.uplink_11) {
        (None, ..) => (MicVerdict::NotChecked, None),
        (Some(network), false, _) => search(frame.fcnt, keys.fcnt, |fcnt| {
            frame.mic
                == crypto::uplink_mic_10(&network.f_nwk_s_int, frame.dev_addr, FCntUp::new(fcnt), frame.msg)
        }),
        (Some(network), true, Some(context)) => search(frame.fcnt, keys.fcnt, |fcnt| {
            frame.mic == crypto::uplink_mic_11(network, context, frame.dev_addr, FCntUp::new(fcnt), frame.msg)
        }),
        (Some(network), true, None) => {
            // Two bytes prove too little for a search: one of 65,536 counters would fit by chance.
            let fcnt = full_or_low(frame.fcnt, keys.fcnt);
            let half = crypto::uplink_mic_11_f_half(
                &network.f_nwk_s_int,
                frame.dev_addr,
                FCntUp::new(fcnt),
                frame.msg,
            );
            if frame.mic.has_f_half(half) {
                (MicVerdict::HalfMatches, Some(fcnt))
            } else {
                (MicVerdict::Mismatch, None)
            }
        }
    };
    DataFrame {
        direction: Direction::Up,
        confirmed: frame.confirmed,
        dev_addr: frame.dev_addr,
        adr: frame.adr,
        adr_ack_req: frame.adr_ack_req,
        ack: frame.ack,
        class_b: frame.class_b,
        f_pending: false,
        fcnt: frame.fcnt,
        fcnt_full,
        fopts: frame.fopts.to_vec(),
        fopts_plain: None,
        f_port: frame.f_port,
        frm_payload: frame.frm_payload.to_vec(),
        frm_payload_plain: None,
        mic: frame.mic,
        verdict,
    }
    .opened(FOptsCounter::Network, keys)
}

fn data_down(frame: &DataDown<'_>, keys: &DecodeKeys) -> DataFrame {
    let conf_fcnt = if keys.version_1_1 && frame.ack { keys.conf_fcnt } else { 0 };
    let (verdict, fcnt_full) = match &keys.network {
        None => (MicVerdict::NotChecked, None),
        Some(network) => search(frame.fcnt, keys.fcnt, |fcnt| {
            frame.verify(&network.s_nwk_s_int, conf_fcnt, FCntDown::new(fcnt))
        }),
    };
    DataFrame {
        direction: Direction::Down,
        confirmed: frame.confirmed,
        dev_addr: frame.dev_addr,
        adr: frame.adr,
        adr_ack_req: false,
        ack: frame.ack,
        class_b: false,
        f_pending: frame.f_pending,
        fcnt: frame.fcnt,
        fcnt_full,
        fopts: frame.fopts.to_vec(),
        fopts_plain: None,
        f_port: frame.f_port,
        frm_payload: frame.frm_payload.to_vec(),
        frm_payload_plain: None,
        mic: frame.mic,
        verdict,
    }
    .opened(frame.counter(), keys)
}

impl DataFrame {
    fn opened(mut self, counter: FOptsCounter, keys: &DecodeKeys) -> Self {
        let fcnt = self.fcnt_full.unwrap_or_else(|| full_or_low(self.fcnt, keys.fcnt));
        if !keys.version_1_1 || self.fopts.is_empty() {
            self.fopts_plain = Some(self.fopts.clone());
        } else if let Some(network) = &keys.network {
            let mut fopts = self.fopts.clone();
            crypto::crypt_fopts(&network.nwk_s_enc, self.direction, counter, self.dev_addr, fcnt, &mut fopts);
            self.fopts_plain = Some(fopts);
        }
        let key = match self.f_port {
            None => None,
            Some(0) => keys.network.as_ref().map(|network| network.nwk_s_enc.expose()),
            Some(1..) => keys.app_s_key.as_ref().map(AppSKey::expose),
        };
        if self.frm_payload.is_empty() {
            self.frm_payload_plain = Some(Vec::new());
        } else if let Some(key) = key {
            let mut payload = self.frm_payload.clone();
            crypto::crypt_frm_payload(key, self.direction, self.dev_addr, fcnt, &mut payload);
            self.frm_payload_plain = Some(payload);
        }
        self
    }
}

/// The first counter with the frame's low half with which the MIC holds; only the one that is known when it fits.
fn search(wire: WireFCnt, known: Option<u32>, holds: impl Fn(u32) -> bool) -> (MicVerdict, Option<u32>) {
    let low = u32::from(wire.value());
    let fcnt = match known {
        Some(known) => Some(known).filter(|&fcnt| FCntUp::new(fcnt).wire() == wire && holds(fcnt)),
        None => (0..=0xffff_u32).map(|epoch| epoch << 16 | low).find(|&fcnt| holds(fcnt)),
    };
    (if fcnt.is_some() { MicVerdict::Matches } else { MicVerdict::Mismatch }, fcnt)
}

fn full_or_low(wire: WireFCnt, known: Option<u32>) -> u32 {
    known.unwrap_or_else(|| u32::from(wire.value()))
}
