//! The cryptography of the link layer on plain bytes: MICs, payload and FOpts encryption, key derivation.
//!
//! Blocks and their fields are laid out in TS001-1.1 §4.3.3, §4.4 and §6.2. Nothing here panics, whatever the bytes are, and
//! nothing decides: who checks which MIC with which counter is said elsewhere.

use std::fmt;

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use cmac::{Cmac, Mac as _};
use subtle::ConstantTimeEq;

use crate::ids::{DevAddr, DevEui, DevNonce, FCntDown, FCntUp, JoinEui, JoinNonce, NetId};
use crate::keys::{
    AppKey, AppSKey, FNwkSIntKey, JsEncKey, JsIntKey, Key, NetworkKeys, NwkKey, NwkSEncKey, SNwkSIntKey,
};

/// The four bytes that prove a frame. Equality takes the same time whatever the bytes are.
#[derive(Clone, Copy)]
pub struct Mic([u8; 4]);

impl Mic {
    /// Makes it of the bytes of a frame, in their order.
    pub const fn new(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }

    /// The bytes in the order they stand in a frame.
    pub const fn to_bytes(self) -> [u8; 4] {
        self.0
    }

    /// The half of a 1.1 uplink's MIC that is made with FNwkSIntKey: its last two bytes.
    pub const fn f_half(self) -> [u8; 2] {
        [self.0[2], self.0[3]]
    }

    /// Whether that half is this one, of [`uplink_mic_11_f_half`]; in the same time whatever the bytes are.
    pub fn has_f_half(self, half: [u8; 2]) -> bool {
        self.f_half().ct_eq(&half).into()
    }
}

impl PartialEq for Mic {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Mic {}

impl fmt::Display for Mic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Mic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which way a frame travels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From the network to the device.
    Down,
    /// From the device to the network.
    Up,
}

/// Which counter of a 1.1 session a frame uses, for the encryption of its FOpts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FOptsCounter {
    /// AFCntDown: downlinks with FPort 1 and above.
    Application,
    /// FCntUp, or NFCntDown: downlinks without FPort or with FPort 0.
    Network,
}

/// What the MIC of a 1.1 uplink covers beside the frame (TS001-1.1 §4.4.2).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct UplinkMicContext11 {
    /// With the ACK bit: the low half of the counter of the confirmed downlink acknowledged. Without: 0.
    pub conf_fcnt: u16,
    /// The data rate index the device used.
    pub tx_dr: u8,
    /// The channel index the device used.
    pub tx_ch: u8,
}

/// The MIC of a 1.0.x uplink, and of a 1.1 device on a 1.0.x session. `msg` is the frame without its MIC.
pub fn uplink_mic_10(key: &FNwkSIntKey, dev_addr: DevAddr, fcnt: FCntUp, msg: &[u8]) -> Mic {
    head(cmac(key.expose(), &[&block_b(0, 0, 0, Direction::Up, dev_addr, fcnt.value(), msg), msg]))
}

/// The MIC of a 1.1 uplink: half by the serving, half by the forwarding network's key. `msg` is the frame without its MIC.
pub fn uplink_mic_11(
    keys: &NetworkKeys,
    context: UplinkMicContext11,
    dev_addr: DevAddr,
    fcnt: FCntUp,
    msg: &[u8],
) -> Mic {
    let UplinkMicContext11 { conf_fcnt, tx_dr, tx_ch } = context;
    let b1 = block_b(conf_fcnt, tx_dr, tx_ch, Direction::Up, dev_addr, fcnt.value(), msg);
    let [s0, s1, ..] = cmac(keys.s_nwk_s_int.expose(), &[&b1, msg]);
    let [f0, f1] = uplink_mic_11_f_half(&keys.f_nwk_s_int, dev_addr, fcnt, msg);
    Mic([s0, s1, f0, f1])
}

/// The last two bytes of the MIC of a 1.1 uplink: all that can be checked without knowing the channel the device used.
pub fn uplink_mic_11_f_half(key: &FNwkSIntKey, dev_addr: DevAddr, fcnt: FCntUp, msg: &[u8]) -> [u8; 2] {
    let [f0, f1, ..] = uplink_mic_10(key, dev_addr, fcnt, msg).0;
    [f0, f1]
}

/// The MIC of a downlink. `conf_fcnt` is 0 in 1.0.x and without ACK; in 1.1 with ACK it is the low half of the counter of the
/// confirmed uplink acknowledged. `msg` is the frame without its MIC.
pub fn downlink_mic(key: &SNwkSIntKey, conf_fcnt: u16, dev_addr: DevAddr, fcnt: FCntDown, msg: &[u8]) -> Mic {
    head(cmac(key.expose(), &[&block_b(conf_fcnt, 0, 0, Direction::Down, dev_addr, fcnt.value(), msg), msg]))
}

/// Encrypts or decrypts FRMPayload in place (TS001-1.1 §4.3.3). `fcnt` is the full counter of the frame.
///
/// The key is the AppSKey, for FPort 0 the NwkSEncKey (1.0.x: NwkSKey). The block index has eight bits, so that the key stream
/// ends after 4,080 bytes, far more than a frame holds; bytes behind it are left as they are.
pub fn crypt_frm_payload(key: &[u8; 16], dir: Direction, dev_addr: DevAddr, fcnt: u32, data: &mut [u8]) {
    let cipher = Aes128::new(key.into());
    for (index, chunk) in (1..=u8::MAX).zip(data.chunks_mut(16)) {
        let mut block = block_a(0, dir, dev_addr, fcnt, index).into();
        cipher.encrypt_block(&mut block);
        xor(chunk, block.as_slice());
    }
}

/// Encrypts or decrypts the FOpts of a 1.1 frame in place, at most 15 bytes (TS001-1.1 §4.3.1.6 with its erratum, which numbers the
/// counters). `fcnt` is the full counter of the frame.
pub fn crypt_fopts(
    key: &NwkSEncKey,
    dir: Direction,
    counter: FOptsCounter,
    dev_addr: DevAddr,
    fcnt: u32,
    data: &mut [u8],
) {
    let counter_number = match counter {
        FOptsCounter::Network => 1,
        FOptsCounter::Application => 2,
    };
    let block = aes_encrypt(key.expose(), block_a(counter_number, dir, dev_addr, fcnt, 1));
    xor(data, &block);
}

/// The MIC of a Join-Request, or of a Join-Accept without OptNeg: `msg` is the frame without its MIC, from MHDR on.
///
/// The key is the AppKey of a 1.0.x device, the NwkKey of a 1.1 device.
pub fn join_mic(root_key: &[u8; 16], msg: &[u8]) -> Mic {
    head(cmac(root_key, &[msg]))
}

/// The MIC of a Join-Accept with OptNeg (TS001-1.1 §6.2.3). `request` is what is answered: ff for a Join-Request, else the type of
/// the Rejoin-Request, whose RJcount then stands in for DevNonce. `msg` is the accept in clear without its MIC, from MHDR on.
pub fn join_accept_mic_11(
    key: &JsIntKey,
    request: u8,
    join_eui: JoinEui,
    dev_nonce: DevNonce,
    msg: &[u8],
) -> Mic {
    head(cmac(key.expose(), &[&[request], &join_eui.to_wire_bytes(), &dev_nonce.to_wire_bytes(), msg]))
}

/// The MIC of a Rejoin-Request of type 0 or 2 with the SNwkSIntKey, of type 1 with the JSIntKey. `msg` is the frame without its MIC.
pub fn rejoin_mic(key: &[u8; 16], msg: &[u8]) -> Mic {
    head(cmac(key, &[msg]))
}

/// Encrypts a Join-Accept behind its MHDR in place; that is AES *decryption*, so that a device needs encryption only. Bytes behind the
/// last whole block are left as they are.
pub fn encrypt_join_accept(key: &[u8; 16], data: &mut [u8]) {
    let cipher = Aes128::new(key.into());
    for chunk in data.as_chunks_mut::<16>().0 {
        cipher.decrypt_block(chunk.into());
    }
}

/// Decrypts a Join-Accept behind its MHDR in place, as a device does. Bytes behind the last whole block are left as they are.
pub fn decrypt_join_accept(key: &[u8; 16], data: &mut [u8]) {
    let cipher = Aes128::new(key.into());
    for chunk in data.as_chunks_mut::<16>().0 {
        cipher.encrypt_block(chunk.into());
    }
}

/// The session keys of a join without OptNeg: all from the one root key, the AppKey of a 1.0.x device, the NwkKey of a 1.1 device
/// (TS001-1.0.4 §6.2.6, TS001-1.1 §6.2.3).
pub fn derive_10(
    root_key: &[u8; 16],
    join_nonce: JoinNonce,
    net_id: NetId,
    dev_nonce: DevNonce,
) -> (NetworkKeys, AppSKey) {
    let derive = |kind| {
        derive(
            root_key,
            kind,
            &[&join_nonce.to_wire_bytes(), &net_id.to_wire_bytes(), &dev_nonce.to_wire_bytes()],
        )
    };
    (NetworkKeys::from_nwk_s_key(&Key::new(derive(0x01))), AppSKey::new(derive(0x02)))
}

/// The session keys of a join with OptNeg (TS001-1.1 §6.2.3). After a Rejoin-Request its RJcount stands in for `dev_nonce`.
pub fn derive_11(
    nwk_key: &NwkKey,
    app_key: &AppKey,
    join_nonce: JoinNonce,
    join_eui: JoinEui,
    dev_nonce: DevNonce,
) -> (NetworkKeys, AppSKey) {
    let derive = |root_key, kind| {
        derive(
            root_key,
            kind,
            &[&join_nonce.to_wire_bytes(), &join_eui.to_wire_bytes(), &dev_nonce.to_wire_bytes()],
        )
    };
    let network = NetworkKeys {
        f_nwk_s_int: FNwkSIntKey::new(derive(nwk_key.expose(), 0x01)),
        s_nwk_s_int: SNwkSIntKey::new(derive(nwk_key.expose(), 0x03)),
        nwk_s_enc: NwkSEncKey::new(derive(nwk_key.expose(), 0x04)),
    };
    (network, AppSKey::new(derive(app_key.expose(), 0x02)))
}

/// The key that encrypts a Join-Accept that answers a Rejoin-Request (TS001-1.1 §6.1.1.4).
pub fn js_enc_key(nwk_key: &NwkKey, dev_eui: DevEui) -> JsEncKey {
    JsEncKey::new(derive(nwk_key.expose(), 0x05, &[&dev_eui.to_wire_bytes()]))
}

/// The key of the MIC of a Join-Accept with OptNeg and of a Rejoin-Request of type 1 (TS001-1.1 §6.1.1.4).
pub fn js_int_key(nwk_key: &NwkKey, dev_eui: DevEui) -> JsIntKey {
    JsIntKey::new(derive(nwk_key.expose(), 0x06, &[&dev_eui.to_wire_bytes()]))
}

/// Encrypts one block; also the ground of class B ping offsets.
pub fn aes_encrypt(key: &[u8; 16], block: [u8; 16]) -> [u8; 16] {
    let mut block = block.into();
    Aes128::new(key.into()).encrypt_block(&mut block);
    block.into()
}

fn derive(root_key: &[u8; 16], kind: u8, fields: &[&[u8]]) -> [u8; 16] {
    let mut block = [0; 16];
    let bytes = std::iter::once(&kind).chain(fields.iter().copied().flatten());
    for (to, from) in block.iter_mut().zip(bytes) {
        *to = *from;
    }
    aes_encrypt(root_key, block)
}

/// The block in front of the message in a data frame's MIC: B0, and with a channel B1.
fn block_b(
    conf_fcnt: u16,
    tx_dr: u8,
    tx_ch: u8,
    dir: Direction,
    dev_addr: DevAddr,
    fcnt: u32,
    msg: &[u8],
) -> [u8; 16] {
    let [c0, c1] = conf_fcnt.to_le_bytes();
    let [a0, a1, a2, a3] = dev_addr.to_wire_bytes();
    let [f0, f1, f2, f3] = fcnt.to_le_bytes();
    // A frame has at most 255 bytes; a longer message has no MIC that could match.
    let len = u8::try_from(msg.len()).unwrap_or(u8::MAX);
    [0x49, c0, c1, tx_dr, tx_ch, dir_byte(dir), a0, a1, a2, a3, f0, f1, f2, f3, 0, len]
}

fn block_a(counter_number: u8, dir: Direction, dev_addr: DevAddr, fcnt: u32, index: u8) -> [u8; 16] {
    let [a0, a1, a2, a3] = dev_addr.to_wire_bytes();
    let [f0, f1, f2, f3] = fcnt.to_le_bytes();
    [0x01, 0, 0, 0, counter_number, dir_byte(dir), a0, a1, a2, a3, f0, f1, f2, f3, 0, index]
}

const fn dir_byte(dir: Direction) -> u8 {
    match dir {
        Direction::Up => 0,
        Direction::Down => 1,
    }
}

fn cmac(key: &[u8; 16], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = Cmac::<Aes128>::new(key.into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

const fn head(tag: [u8; 16]) -> Mic {
    Mic([tag[0], tag[1], tag[2], tag[3]])
}

fn xor(data: &mut [u8], stream: &[u8]) {
    for (byte, mask) in data.iter_mut().zip(stream) {
        *byte ^= mask;
    }
}
