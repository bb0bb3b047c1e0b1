//! The body of PULL_RESP: one frame to send (PROTOCOL.TXT §6).

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mac::region::{CodingRate, Modulation};

use super::{Polarization, TxRequest, TxTime};

/// Writes the JSON of a frame; `power_dbm` is what the radio's connector gets.
///
/// `None` for LR-FHSS, which no gateway can send.
pub(crate) fn encode(request: &TxRequest, power_dbm: i32, json: &mut Vec<u8>) -> Option<()> {
    let data_len = base64::encoded_len(request.phy.len(), true).unwrap_or_default();
    let mut text = String::with_capacity(data_len.saturating_add(TEXT_LEN));
    text.push_str(r#"{"txpk":{"#);
    // Writing to a String cannot fail, so the results below are of no use.
    let _ = match request.when {
        TxTime::Immediately => write!(text, r#""imme":true"#),
        TxTime::Tmst(tmst_us) => write!(text, r#""imme":false,"tmst":{tmst_us}"#),
        TxTime::Gps(gps_time_ms) => write!(text, r#""imme":false,"tmms":{gps_time_ms}"#),
    };
    let (mhz, hz) = (request.freq.value() / 1_000_000, request.freq.value() % 1_000_000);
    let _ = write!(text, r#","freq":{mhz}.{hz:06},"rfch":0,"powe":{power_dbm},"ant":{}"#, request.antenna);
    if let Some(board) = request.board {
        let _ = write!(text, r#","brd":{board}"#);
    }
    let _ = match request.modulation {
        Modulation::Lora { sf, bw_hz } => {
            let khz = bw_hz / 1_000;
            let codr = CodingRate::Cr4_5;
            let preamble = LORA_PREAMBLE_SYMBOLS;
            write!(text, r#","modu":"LORA","datr":"SF{sf}BW{khz}","codr":"{codr}","prea":{preamble}"#)
        }
        Modulation::Fsk { bit_rate_bps } => {
            // LoRaWAN's one FSK data rate, 50 kbit/s, deviates by 25 kHz: half the bit rate.
            let deviation_hz = bit_rate_bps / 2;
            let preamble = FSK_PREAMBLE_BYTES;
            write!(text, r#","modu":"FSK","datr":{bit_rate_bps},"fdev":{deviation_hz},"prea":{preamble}"#)
        }
        Modulation::LrFhss { .. } => return None,
    };
    let inverted = request.polarization == Polarization::Inverted;
    let _ = write!(text, r#","ipol":{inverted},"ncrc":{inverted},"size":{},"data":""#, request.phy.len());
    STANDARD.encode_string(&request.phy, &mut text);
    text.push_str(r#""}}"#);
    json.extend_from_slice(text.as_bytes());
    Some(())
}

/// What the radio is asked for so that the antenna radiates `eirp_dbm`, but never more than the gateway's own limit.
/// Whole decibels, rounded down; the protocol has no negative ones.
pub(crate) fn conducted_power_dbm(eirp_dbm: f32, antenna_gain_dbi: f32, power_dbm_max: Option<f32>) -> i32 {
    let power_dbm = eirp_dbm - antenna_gain_dbi;
    let limited = power_dbm_max.map_or(power_dbm, |max| power_dbm.min(max));
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a cast from float saturates, and the clamp is narrower"
    )]
    let whole = limited.floor().clamp(0.0, 36.0) as i32;
    whole
}

/// Regional parameters of every region (RP002-1.0.4 §2.x.1).
const LORA_PREAMBLE_SYMBOLS: u32 = 8;
const FSK_PREAMBLE_BYTES: u32 = 5;
/// About what is written besides the frame.
const TEXT_LEN: usize = 220;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mac::ids::GatewayEui;
    use mac::region::LrFhssCodingRate;
    use mac::units::Hz;
    use semtech_udp::pull_resp;
    use serde_json::{Value, json};

    use super::*;

    fn request() -> TxRequest {
        TxRequest {
            gateway: GatewayEui::new(1),
            when: TxTime::Tmst(3_513_348_611),
            freq: Hz::new(868_500_000),
            modulation: Modulation::Lora { sf: 9, bw_hz: 125_000 },
            eirp_dbm: 16.0,
            antenna: 0,
            board: None,
            polarization: Polarization::Inverted,
            phy: vec![0x60, 4, 3, 2, 1],
        }
    }

    fn encoded(request: &TxRequest) -> Value {
        let mut json = Vec::new();
        encode(request, 14, &mut json).unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    #[test]
    fn a_lora_frame_has_every_field_that_forwarders_require() {
        assert_eq!(
            encoded(&request()),
            json!({"txpk": {
                "imme": false, "tmst": 3_513_348_611_u32, "freq": 868.5, "rfch": 0, "powe": 14, "ant": 0,
                "modu": "LORA", "datr": "SF9BW125", "codr": "4/5", "prea": 8, "ipol": true, "ncrc": true,
                "size": 5, "data": "YAQDAgE="
            }})
        );
    }

    #[test]
    fn fsk_gps_time_board_and_antenna_are_written() {
        let fsk = TxRequest {
            when: TxTime::Gps(1_393_323_091_345),
            freq: Hz::new(868_800_000),
            modulation: Modulation::Fsk { bit_rate_bps: 50_000 },
            antenna: 1,
            board: Some(263),
            polarization: Polarization::Plain,
            ..request()
        };
        let txpk = &encoded(&fsk)["txpk"];
        assert_eq!(txpk["tmms"], json!(1_393_323_091_345_u64));
        assert_eq!(
            (&txpk["modu"], &txpk["datr"], &txpk["fdev"]),
            (&json!("FSK"), &json!(50_000), &json!(25_000))
        );
        assert_eq!((&txpk["ant"], &txpk["brd"], &txpk["prea"]), (&json!(1), &json!(263), &json!(5)));
        assert_eq!((&txpk["ipol"], &txpk["ncrc"]), (&json!(false), &json!(false)));
        assert!(txpk.get("codr").is_none() && txpk.get("tmst").is_none());
        let at_once = encoded(&TxRequest { when: TxTime::Immediately, ..request() });
        assert_eq!(at_once["txpk"]["imme"], json!(true));
    }

    #[test]
    fn a_frequency_is_written_to_the_hertz() {
        let odd = TxRequest { freq: Hz::new(923_000_001), ..request() };
        let mut json = Vec::new();
        encode(&odd, 14, &mut json).unwrap();
        assert!(String::from_utf8(json).unwrap().contains(r#""freq":923.000001,"#));
    }

    #[test]
    fn nothing_is_written_that_a_gateway_cannot_send() {
        let modulation = Modulation::LrFhss { ocw_hz: 137_000, cr: LrFhssCodingRate::OneThird };
        let mut json = Vec::new();
        assert_eq!(encode(&TxRequest { modulation, ..request() }, 14, &mut json), None);
        assert!(json.is_empty());
    }

    #[test]
    fn another_program_reads_the_frame() {
        let mut json = Vec::new();
        encode(&request(), 14, &mut json).unwrap();
        let read: pull_resp::Data = serde_json::from_slice(&json).unwrap();
        assert_eq!(read.txpk.get_tmst(), Some(3_513_348_611));
        assert_eq!(read.txpk.data.data(), [0x60, 4, 3, 2, 1]);
        assert_eq!(read.txpk.datr.to_string(), "SF9BW125");
        assert!(read.txpk.ipol && (read.txpk.freq - 868.5).abs() < 1e-9);
    }

    #[test]
    fn the_power_is_what_the_antenna_leaves_of_the_limit() {
        assert_eq!(conducted_power_dbm(16.0, 2.15, None), 13);
        assert_eq!(conducted_power_dbm(16.0, 0.0, None), 16);
        assert_eq!(conducted_power_dbm(29.15, 3.0, Some(20.0)), 20);
        assert_eq!(conducted_power_dbm(16.0, -2.0, Some(27.0)), 18);
        assert_eq!(conducted_power_dbm(2.0, 12.0, None), 0);
        assert_eq!(conducted_power_dbm(f32::INFINITY, 0.0, None), 36);
        assert_eq!(conducted_power_dbm(f32::NAN, 0.0, None), 0);
    }
}
