//! What a packet forwarder of protocol version 2 says and understands: bytes only, no socket, no clock.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mac::ids::GatewayEui;
use serde::Deserialize;

/// The server has a PUSH_DATA.
pub const PUSH_ACK: u8 = 1;
/// The server wants a frame on air.
pub const PULL_RESP: u8 = 3;
/// The server knows the downlink path.
pub const PULL_ACK: u8 = 4;

const VERSION: u8 = 2;
const PUSH_DATA: u8 = 0;
const PULL_DATA: u8 = 2;
const TX_ACK: u8 = 5;

/// What a gateway heard of one frame.
#[derive(Clone, Debug)]
pub struct Reception {
    /// The frame as it was on air.
    pub phy_payload: Vec<u8>,
    /// Frequency in Hz.
    pub freq_hz: u32,
    /// Data rate as forwarders write it, for example `SF7BW125`.
    pub data_rate: String,
    /// Channel RSSI in dBm.
    pub rssi_dbm: i32,
    /// Signal-to-noise ratio in dB.
    pub snr_db: f32,
    /// The gateway's counter at the end of the frame, microseconds.
    pub tmst_us: u32,
}

/// A frame the server wants on air.
#[derive(Clone, Debug)]
pub struct Transmission {
    /// The gateway that was asked.
    pub gateway: GatewayEui,
    /// Counter value at which it starts, microseconds; `None`: at once.
    pub tmst_us: Option<u32>,
    /// Frequency in Hz.
    pub freq_hz: u32,
    /// Data rate, for example `SF12BW125`.
    pub data_rate: String,
    /// Power in dBm.
    pub power_dbm: i32,
    /// Inverted polarity, as for all downlinks to devices.
    pub inverted: bool,
    /// The frame.
    pub phy_payload: Vec<u8>,
    /// How long before its start it arrived, microseconds; negative: too late.
    pub lead_us: i64,
}

/// Kind, token and body of a datagram from the server; `None` when it is none.
pub fn parse(datagram: &[u8]) -> Option<(u8, [u8; 2], &[u8])> {
    let [VERSION, token_high, token_low, kind, body @ ..] = datagram else { return None };
    Some((*kind, [*token_high, *token_low], body))
}

/// A PUSH_DATA with this text behind the header, whatever it is.
pub fn push_data(token: u16, eui: GatewayEui, text: &str) -> Vec<u8> {
    let mut datagram = header(PUSH_DATA, token, eui);
    datagram.extend_from_slice(text.as_bytes());
    datagram
}

/// The text of a PUSH_DATA with these receptions.
pub fn rxpk_text(receptions: &[Reception]) -> String {
    let rxpk: Vec<_> = receptions.iter().map(rxpk_json).collect();
    serde_json::json!({ "rxpk": rxpk }).to_string()
}

/// A PULL_DATA, which opens the way for downlinks.
pub fn pull_data(token: u16, eui: GatewayEui) -> Vec<u8> {
    header(PULL_DATA, token, eui)
}

/// A TX_ACK with this error, or without a body.
pub fn tx_ack(token: u16, eui: GatewayEui, error: Option<&str>) -> Vec<u8> {
    let mut datagram = header(TX_ACK, token, eui);
    if let Some(error) = error {
        let text = serde_json::json!({ "txpk_ack": { "error": error } }).to_string();
        datagram.extend_from_slice(text.as_bytes());
    }
    datagram
}

/// What the body of a PULL_RESP asks for, where the gateway's counter stands at `now_us`; `None` when it cannot be read.
pub fn parse_pull_resp(eui: GatewayEui, body: &[u8], now_us: u32) -> Option<Transmission> {
    let PullResp { txpk } = serde_json::from_slice(body).ok()?;
    let lead_us = txpk.tmst.map_or(0, |tmst| i64::from(tmst.wrapping_sub(now_us).cast_signed()));
    Some(Transmission {
        gateway: eui,
        tmst_us: txpk.tmst,
        freq_hz: hz(txpk.freq),
        // A name for LoRa, a number for FSK.
        data_rate: txpk.datr.as_str().map_or_else(|| txpk.datr.to_string(), str::to_owned),
        power_dbm: txpk.powe.unwrap_or(14),
        inverted: txpk.ipol,
        phy_payload: BASE64.decode(txpk.data).ok()?,
        lead_us,
    })
}

#[derive(Deserialize)]
struct PullResp {
    txpk: TxPk,
}

#[derive(Deserialize)]
struct TxPk {
    tmst: Option<u32>,
    freq: f64,
    datr: serde_json::Value,
    powe: Option<i32>,
    #[serde(default)]
    ipol: bool,
    data: String,
}

fn header(kind: u8, token: u16, eui: GatewayEui) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&token.to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(&eui.value().to_be_bytes());
    bytes
}

fn rxpk_json(reception: &Reception) -> serde_json::Value {
    serde_json::json!({
        "tmst": reception.tmst_us,
        "chan": 0,
        "rfch": 0,
        "freq": f64::from(reception.freq_hz) / 1e6,
        "stat": 1,
        "modu": "LORA",
        "datr": reception.data_rate,
        "codr": "4/5",
        "rssi": reception.rssi_dbm,
        "lsnr": reception.snr_db,
        "size": reception.phy_payload.len(),
        "data": BASE64.encode(&reception.phy_payload),
    })
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn hz(freq_mhz: f64) -> u32 {
    (freq_mhz * 1e6).round() as u32
}
