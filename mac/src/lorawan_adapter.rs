//! The `lorawan` crate behind a fence: LoRaWAN 1.0.x frames made and read by code of other authors.
//!
//! It checks this crate's own frame code from outside and gives simulated devices a voice that is not the server's. Only what was found
//! sound is let through: lengths are checked first, byte order is ours, its MAC command iterator, its Join-Accept creator and its integer
//! conversions are not used, and it knows no 1.1.
#![allow(
    deprecated,
    reason = "the traits of `lorawan` 0.9 are typed with generic-array 0.14, which calls itself deprecated"
)]

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use cmac::Cmac;
use generic_array::GenericArray;
use generic_array::typenum::U16;
use lorawan::creator::{DataPayloadCreator, JoinRequestCreator};
use lorawan::keys::{AES128, CryptoFactory, Decrypter, Encrypter, Mac};
use lorawan::parser::{
    DataHeader, DataPayload, DecryptedJoinAcceptPayload, FCtrl, FRMPayload, JoinAcceptPayload, PhyPayload,
    parse_with_factory,
};

use crate::crypto::Direction;
use crate::ids::{DevAddr, DevEui, DevNonce, JoinEui, JoinNonce, NetId};
use crate::keys::{AppKey, AppSKey, Key};
use crate::phy::PHY_LEN_MAX;

/// Gives the `lorawan` crate the ciphers this crate uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ciphers;

impl CryptoFactory for Ciphers {
    type E = Block;
    type D = Block;
    type M = Tag;

    fn new_enc(&self, key: &AES128) -> Block {
        Block(Aes128::new((&key.0).into()))
    }

    fn new_dec(&self, key: &AES128) -> Block {
        Block(Aes128::new((&key.0).into()))
    }

    fn new_mac(&self, key: &AES128) -> Tag {
        Tag(Cmac::new((&key.0).into()))
    }
}

/// AES-128 in the shape the `lorawan` crate asks for.
#[allow(missing_debug_implementations, reason = "holds a key")]
pub struct Block(Aes128);

impl Encrypter for Block {
    fn encrypt_block(&self, block: &mut GenericArray<u8, U16>) {
        let mut bytes = <[u8; 16]>::from(*block).into();
        self.0.encrypt_block(&mut bytes);
        block.copy_from_slice(&bytes);
    }
}

impl Decrypter for Block {
    fn decrypt_block(&self, block: &mut GenericArray<u8, U16>) {
        let mut bytes = <[u8; 16]>::from(*block).into();
        self.0.decrypt_block(&mut bytes);
        block.copy_from_slice(&bytes);
    }
}

/// AES-CMAC in the shape the `lorawan` crate asks for.
#[allow(missing_debug_implementations, reason = "holds a key")]
pub struct Tag(Cmac<Aes128>);

impl Mac for Tag {
    fn input(&mut self, data: &[u8]) {
        cmac::Mac::update(&mut self.0, data);
    }

    fn reset(&mut self) {
        cmac::digest::Reset::reset(&mut self.0);
    }

    fn result(self) -> GenericArray<u8, U16> {
        <[u8; 16]>::from(cmac::Mac::finalize(self.0).into_bytes()).into()
    }
}

/// A data frame in clear, to be made.
#[derive(Clone, Debug)]
pub struct PlainData<'a> {
    /// Which way it travels.
    pub direction: Direction,
    /// The sender wants an ACK.
    pub confirmed: bool,
    /// The address of the session.
    pub dev_addr: DevAddr,
    /// The flags of FCtrl; FOptsLen is 0.
    pub fctrl: u8,
    /// The full counter.
    pub fcnt: u32,
    /// 1 to 255, or none.
    pub f_port: Option<u8>,
    /// In clear; empty without a port.
    pub payload: &'a [u8],
}

/// A data frame read, with its MIC checked and its payload in clear.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadData {
    /// The sender wants an ACK.
    pub confirmed: bool,
    /// FCtrl as it came, FOptsLen included.
    pub fctrl: u8,
    /// The low half of the counter.
    pub fcnt: u16,
    /// MAC commands.
    pub fopts: Vec<u8>,
    /// `None` also when a port without a payload ends the frame: the crate does not see it.
    pub f_port: Option<u8>,
    /// In clear.
    pub payload: Vec<u8>,
}

/// A Join-Accept read, with its MIC checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadJoinAccept {
    /// The nonce of the join server.
    pub join_nonce: JoinNonce,
    /// The network.
    pub net_id: NetId,
    /// The address of the session.
    pub dev_addr: DevAddr,
    /// RX1 offset and RX2 data rate.
    pub dl_settings: u8,
    /// Seconds to RX1.
    pub rx_delay_s: u8,
    /// The NwkSKey it leads to.
    pub nwk_s_key: Key,
    /// The AppSKey it leads to.
    pub app_s_key: AppSKey,
}

/// Makes the Join-Request of a 1.0.x device.
pub fn join_request(
    join_eui: JoinEui,
    dev_eui: DevEui,
    dev_nonce: DevNonce,
    app_key: &AppKey,
) -> Option<Vec<u8>> {
    let mut creator = JoinRequestCreator::with_options([0; 23], Ciphers).ok()?;
    creator.set_app_eui(&join_eui.to_wire_bytes());
    creator.set_dev_eui(&dev_eui.to_wire_bytes());
    creator.set_dev_nonce(&dev_nonce.to_wire_bytes());
    Some(creator.build(&lorawan::keys::AppKey::from(*app_key.expose())).to_vec())
}

/// Whether a Join-Request is one, and its MIC holds.
pub fn verify_join_request(phy: &[u8], app_key: &AppKey) -> bool {
    let mut bytes = phy.to_vec();
    match parse(&mut bytes) {
        Some(PhyPayload::JoinRequest(request)) => request.validate_mic(&AES128(*app_key.expose())),
        _ => false,
    }
}

/// Makes a 1.0.x data frame. `None`: too long, port 0, or a payload without a port.
pub fn data(frame: &PlainData<'_>, nwk_s_key: &Key, app_s_key: &AppSKey) -> Option<Vec<u8>> {
    if frame.f_port == Some(0) || frame.payload.len().saturating_add(FRAME_LEN_WITH_PORT) > PHY_LEN_MAX {
        return None;
    }
    let uplink = frame.direction == Direction::Up;
    let mut creator = DataPayloadCreator::with_options([0; PHY_LEN_MAX], Ciphers).ok()?;
    creator
        .set_uplink(uplink)
        .set_confirmed(frame.confirmed)
        .set_dev_addr(&frame.dev_addr.to_wire_bytes())
        .set_fctrl(&FCtrl::new(frame.fctrl & !FOPTS_LEN, uplink))
        .set_fcnt(frame.fcnt);
    if let Some(f_port) = frame.f_port {
        creator.set_f_port(f_port);
    }
    let nwk_s_key = lorawan::keys::NewSKey::from(*nwk_s_key.expose());
    let app_s_key = lorawan::keys::AppSKey::from(*app_s_key.expose());
    creator.build(frame.payload, &[], &nwk_s_key, &app_s_key).ok().map(<[u8]>::to_vec)
}

/// Reads a 1.0.x data frame of either direction. `None`: no data frame, or its MIC does not hold with these keys and counter.
pub fn read_data(phy: &[u8], nwk_s_key: &Key, app_s_key: &AppSKey, fcnt: u32) -> Option<ReadData> {
    let mut bytes = phy.to_vec();
    let Some(PhyPayload::Data(DataPayload::Encrypted(frame))) = parse(&mut bytes) else {
        return None;
    };
    let opened =
        frame.decrypt_if_mic_ok(&AES128(*nwk_s_key.expose()), &AES128(*app_s_key.expose()), fcnt).ok()?;
    let fhdr = opened.fhdr();
    Some(ReadData {
        confirmed: opened.is_confirmed(),
        fctrl: fhdr.fctrl().raw_value(),
        fcnt: fhdr.fcnt(),
        fopts: fhdr.data().to_vec(),
        f_port: opened.f_port(),
        payload: match opened.frm_payload() {
            FRMPayload::Data(payload) => payload.to_vec(),
            FRMPayload::MACCommands(commands) => commands.data().to_vec(),
            FRMPayload::None => Vec::new(),
        },
    })
}

/// Reads a Join-Accept as a 1.0.x device does. `None`: no Join-Accept, or its MIC does not hold.
pub fn read_join_accept(phy: &[u8], app_key: &AppKey, dev_nonce: DevNonce) -> Option<ReadJoinAccept> {
    let mut bytes = phy.to_vec();
    let Some(PhyPayload::JoinAccept(JoinAcceptPayload::Encrypted(frame))) = parse(&mut bytes) else {
        return None;
    };
    let key = lorawan::keys::AppKey::from(*app_key.expose());
    let accept: DecryptedJoinAcceptPayload<_, _> = frame.decrypt(&key);
    if !accept.validate_mic(&key) {
        return None;
    }
    let nonce = lorawan::parser::DevNonce::from(dev_nonce.to_wire_bytes());
    Some(ReadJoinAccept {
        join_nonce: JoinNonce::from_wire_bytes(accept.app_nonce().as_ref().try_into().ok()?),
        net_id: NetId::from_wire_bytes(accept.net_id().as_ref().try_into().ok()?),
        dev_addr: DevAddr::from_wire_bytes(accept.dev_addr().as_ref().try_into().ok()?),
        dl_settings: accept.dl_settings().raw_value(),
        rx_delay_s: accept.rx_delay(),
        nwk_s_key: Key::new(accept.derive_newskey(&nonce, &key).as_ref().try_into().ok()?),
        app_s_key: AppSKey::new(accept.derive_appskey(&nonce, &key).as_ref().try_into().ok()?),
    })
}

fn parse(bytes: &mut [u8]) -> Option<PhyPayload<&mut [u8], Ciphers>> {
    // The crate takes frames of any length and counts their blocks in eight bits.
    if bytes.len() > PHY_LEN_MAX {
        return None;
    }
    parse_with_factory(bytes, Ciphers).ok()
}

const FRAME_LEN_WITH_PORT: usize = 13;
const FOPTS_LEN: u8 = 0x0f;
