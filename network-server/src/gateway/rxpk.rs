//! One received frame as a packet forwarder reports it (PROTOCOL.TXT §4).
//!
//! Real forwarders leave fields out, print numbers as texts and report more than the protocol knows. A frame is
//! refused only where something is missing that nothing can replace; radio figures that cannot be are left out.

use std::sync::Arc;

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use mac::drop_reason::DropReason;
use mac::ids::GatewayEui;
use mac::region::{CodingRate, Modulation};
use mac::units::{Hz, Mono, Timestamp};
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::lenient::{Scalar, problem, repair};
use super::time::parse_utc;
use super::{GatewayUplink, RSSI_UNKNOWN_DBM};

/// Where and when a datagram came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) gateway: GatewayEui,
    pub(crate) received: Mono,
    pub(crate) received_at: Timestamp,
}

/// Why one frame of a datagram was not taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RxpkRefusal {
    pub(crate) reason: DropReason,
    pub(crate) detail: String,
    /// The frame, where it could be decoded.
    pub(crate) phy: Option<Vec<u8>>,
}

/// Reads one element of `rxpk`.
///
/// Refused are `crc_bad` and `crc_missing` (a missing `stat` counts as good), `bad_base64`, `too_long`, and
/// `bad_rxpk` for what else is missing or cannot be.
pub(crate) fn parse(json: &str, arrival: Arrival) -> Result<GatewayUplink, RxpkRefusal> {
    match serde_json::from_str::<Rxpk<'_>>(json) {
        Ok(rxpk) => rxpk.into_uplink(arrival),
        Err(error) => {
            let repaired = repair(json.as_bytes());
            let rxpk: Rxpk<'_> = serde_json::from_str(&repaired).map_err(|_| bad_rxpk(problem(&error)))?;
            rxpk.into_uplink(arrival)
        }
    }
}

#[derive(Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Rxpk<'a> {
    tmst: Scalar<'a>,
    time: Scalar<'a>,
    tmms: Scalar<'a>,
    ftime: Scalar<'a>,
    freq: Scalar<'a>,
    chan: Scalar<'a>,
    ant: Scalar<'a>,
    brd: Scalar<'a>,
    stat: Scalar<'a>,
    modu: Scalar<'a>,
    datr: Scalar<'a>,
    codr: Scalar<'a>,
    rssi: Scalar<'a>,
    rssis: Scalar<'a>,
    lsnr: Scalar<'a>,
    data: Scalar<'a>,
    #[serde(borrow)]
    rsig: Option<&'a RawValue>,
}

impl Default for Rxpk<'_> {
    fn default() -> Self {
        let absent = || Scalar::Absent;
        Self {
            tmst: absent(),
            time: absent(),
            tmms: absent(),
            ftime: absent(),
            freq: absent(),
            chan: absent(),
            ant: absent(),
            brd: absent(),
            stat: absent(),
            modu: absent(),
            datr: absent(),
            codr: absent(),
            rssi: absent(),
            rssis: absent(),
            lsnr: absent(),
            data: absent(),
            rsig: None,
        }
    }
}

impl Rxpk<'_> {
    fn into_uplink(self, arrival: Arrival) -> Result<GatewayUplink, RxpkRefusal> {
        self.check_crc()?;
        let freq = self.freq().ok_or_else(|| bad_field("freq", &self.freq))?;
        let modulation = self.modulation()?;
        let tmst_us = self.tmst_us().ok_or_else(|| bad_field("tmst", &self.tmst))?;
        let phy = self.phy()?;
        let signal = self.signal();
        let coding_rate = match modulation {
            Modulation::Lora { .. } => self.codr.text().and_then(parse_coding_rate),
            Modulation::Fsk { .. } | Modulation::LrFhss { .. } => None,
        };
        Ok(GatewayUplink {
            gateway: arrival.gateway,
            phy,
            freq,
            modulation,
            coding_rate,
            rssi_dbm: signal.rssi_dbm.unwrap_or(RSSI_UNKNOWN_DBM),
            snr_db: signal.snr_db,
            tmst_us,
            antenna: signal.antenna.unwrap_or(0),
            board: self.brd.whole(u64::from(u16::MAX)).and_then(|n| u16::try_from(n).ok()),
            channel: signal.channel.unwrap_or(0),
            gateway_time: self.time.text().and_then(parse_utc),
            gps_time_ms: self.tmms.whole(GPS_TIME_MS_MAX).filter(|ms| *ms > 0),
            fine_time_ns: signal.fine_time_ns,
            received: arrival.received,
            received_at: arrival.received_at,
        })
    }

    fn check_crc(&self) -> Result<(), RxpkRefusal> {
        let Some(stat) = self.stat.number() else { return Ok(()) };
        let reason = if stat > 0.5 {
            return Ok(());
        } else if stat < -0.5 {
            DropReason::CrcBad
        } else {
            DropReason::CrcMissing
        };
        let freq_hz = self.freq().map_or(0, Hz::value);
        let detail = format!("stat {stat}, {freq_hz} Hz");
        Err(RxpkRefusal { reason, detail, phy: self.phy().ok().map(|phy| phy.to_vec()) })
    }

    fn freq(&self) -> Option<Hz> {
        let freq_hz = (self.freq.number()? * 1e6).round();
        if !(1e6..=f64::from(u32::MAX)).contains(&freq_hz) {
            return None;
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was checked above"
        )]
        Some(Hz::new(freq_hz as u32))
    }

    /// The low 32 bits, whatever the forwarder made of them: a wider counter, a negative one, a fraction.
    fn tmst_us(&self) -> Option<u32> {
        let tmst = self.tmst.number().filter(|n| n.abs() < TMST_LIMIT)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "modulo 2^32 is meant")]
        Some(tmst as i64 as u32)
    }

    fn modulation(&self) -> Result<Modulation, RxpkRefusal> {
        let name = self.modu.text().unwrap_or("");
        let modulation = if name.eq_ignore_ascii_case("LORA") {
            self.lora()
        } else if name.eq_ignore_ascii_case("FSK") {
            self.fsk()
        } else if name.eq_ignore_ascii_case("LR-FHSS") || name.eq_ignore_ascii_case("LR_FHSS") {
            self.lr_fhss()
        } else if name.is_empty() {
            self.lora().or_else(|| self.lr_fhss()).or_else(|| self.fsk())
        } else {
            return Err(bad_field("modu", &self.modu));
        };
        modulation.ok_or_else(|| {
            let mut refusal = bad_field("datr", &self.datr);
            refusal.detail.push_str(&format!(", codr {}", shown(&self.codr)));
            refusal
        })
    }

    fn lora(&self) -> Option<Modulation> {
        let (sf, khz) = split_prefixed(self.datr.text()?, "SF", "BW")?;
        let sf = sf.parse().ok().filter(|sf| (5..=12).contains(sf))?;
        // The names of 2.4 GHz and of the narrow bandwidths are cut to whole kilohertz.
        let bw_hz = match khz.parse::<u32>().ok()? {
            203 => 203_125,
            406 => 406_250,
            812 => 812_500,
            62 => 62_500,
            khz @ (125 | 250 | 500 | 1_625) => khz.saturating_mul(1_000),
            _ => return None,
        };
        Some(Modulation::Lora { sf, bw_hz })
    }

    fn fsk(&self) -> Option<Modulation> {
        let bit_rate_bps = self.datr.whole(FSK_BPS_MAX).filter(|bps| *bps >= FSK_BPS_MIN)?;
        Some(Modulation::Fsk { bit_rate_bps: u32::try_from(bit_rate_bps).ok()? })
    }

    fn lr_fhss(&self) -> Option<Modulation> {
        let (_, khz) = split_prefixed(self.datr.text()?, "M", "CW")?;
        let ocw_hz = match khz {
            "137" => 137_000,
            "336" => 336_000,
            "1523" => 1_523_000,
            _ => return None,
        };
        Some(Modulation::LrFhss { ocw_hz, cr: self.codr.text()?.parse().ok()? })
    }

    fn phy(&self) -> Result<Arc<[u8]>, RxpkRefusal> {
        let data = self.data.text().ok_or_else(|| bad_field("data", &self.data))?;
        let too_long = || RxpkRefusal {
            reason: DropReason::TooLong,
            detail: format!("data has {} characters", data.len()),
            phy: None,
        };
        if data.len() > BASE64_LEN_MAX {
            return Err(too_long());
        }
        let mut buffer = [0; PHY_BUFFER_LEN];
        let length = BASE64.decode_slice(data, &mut buffer).map_err(|error| RxpkRefusal {
            reason: DropReason::BadBase64,
            detail: error.to_string(),
            phy: None,
        })?;
        match buffer.get(..length) {
            Some(phy) if length <= PHY_LEN_MAX => Ok(phy.into()),
            _ => Err(too_long()),
        }
    }

    /// The best antenna's figures, completed by those of the frame itself.
    fn signal(&self) -> Signal {
        let own = Signal {
            rssi_dbm: rssi_dbm(&self.rssi).or_else(|| rssi_dbm(&self.rssis)),
            snr_db: snr_db(&self.lsnr),
            antenna: antenna(&self.ant),
            channel: channel(&self.chan),
            fine_time_ns: fine_time_ns(&self.ftime),
        };
        let best = self.rsig.and_then(|rsig| serde_json::from_str::<BestAntenna>(rsig.get()).ok()?.0);
        best.map_or(own, |best| Signal {
            rssi_dbm: best.rssi_dbm.or(own.rssi_dbm),
            snr_db: best.snr_db.or(own.snr_db),
            antenna: best.antenna.or(own.antenna),
            channel: best.channel.or(own.channel),
            fine_time_ns: best.fine_time_ns.or(own.fine_time_ns),
        })
    }
}

/// What one antenna heard.
#[derive(Clone, Copy, Debug)]
struct Signal {
    rssi_dbm: Option<f32>,
    snr_db: Option<f32>,
    antenna: Option<u8>,
    channel: Option<u16>,
    fine_time_ns: Option<u32>,
}

impl Signal {
    fn quality(&self) -> (f32, f32) {
        (self.snr_db.unwrap_or(f32::MIN), self.rssi_dbm.unwrap_or(f32::MIN))
    }
}

/// The element of `rsig` with the best SNR, at equal SNR with the best RSSI; read without keeping the others.
struct BestAntenna(Option<Signal>);

impl<'de> Deserialize<'de> for BestAntenna {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BestAntennaVisitor)
    }
}

struct BestAntennaVisitor;

impl<'de> Visitor<'de> for BestAntennaVisitor {
    type Value = BestAntenna;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of antennas")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<BestAntenna, A::Error> {
        let mut best: Option<Signal> = None;
        while let Some(rsig) = seq.next_element::<Rsig<'de>>()? {
            let signal = rsig.signal();
            if best.is_none_or(|best| signal.quality() > best.quality()) {
                best = Some(signal);
            }
        }
        Ok(BestAntenna(best))
    }
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Rsig<'a> {
    #[serde(default)]
    ant: Scalar<'a>,
    #[serde(default)]
    chan: Scalar<'a>,
    #[serde(default)]
    rssic: Scalar<'a>,
    #[serde(default)]
    rssis: Scalar<'a>,
    #[serde(default)]
    lsnr: Scalar<'a>,
    #[serde(default)]
    ftime: Scalar<'a>,
}

impl Rsig<'_> {
    fn signal(&self) -> Signal {
        Signal {
            rssi_dbm: rssi_dbm(&self.rssic).or_else(|| rssi_dbm(&self.rssis)),
            snr_db: snr_db(&self.lsnr),
            antenna: antenna(&self.ant),
            channel: channel(&self.chan),
            fine_time_ns: fine_time_ns(&self.ftime),
        }
    }
}

fn rssi_dbm(field: &Scalar<'_>) -> Option<f32> {
    field.number().filter(|dbm| (-200.0..=50.0).contains(dbm)).map(to_f32)
}

fn snr_db(field: &Scalar<'_>) -> Option<f32> {
    field.number().filter(|db| (-50.0..=50.0).contains(db)).map(to_f32)
}

/// Adding zero makes a plain zero of the negative one that some forwarders print.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the callers checked the range; a tenth of a decibel is enough"
)]
fn to_f32(number: f64) -> f32 {
    number as f32 + 0.0
}

fn antenna(field: &Scalar<'_>) -> Option<u8> {
    field.whole(u64::from(u8::MAX)).and_then(|n| u8::try_from(n).ok())
}

fn channel(field: &Scalar<'_>) -> Option<u16> {
    field.whole(u64::from(u16::MAX)).and_then(|n| u16::try_from(n).ok())
}

fn fine_time_ns(field: &Scalar<'_>) -> Option<u32> {
    field.whole(999_999_999).and_then(|n| u32::try_from(n).ok())
}

/// 2.4 GHz adds `LI` for long interleaving.
fn parse_coding_rate(text: &str) -> Option<CodingRate> {
    text.strip_suffix("LI").unwrap_or(text).parse().ok()
}

/// `SF7BW125` with `SF` and `BW` is (`7`, `125`).
fn split_prefixed<'a>(text: &'a str, first: &str, second: &str) -> Option<(&'a str, &'a str)> {
    let (prefix, rest) = text.split_at_checked(first.len())?;
    if !prefix.eq_ignore_ascii_case(first) {
        return None;
    }
    rest.split_once(second).or_else(|| rest.split_once(second.to_ascii_lowercase().as_str()))
}

fn bad_rxpk(detail: String) -> RxpkRefusal {
    RxpkRefusal { reason: DropReason::BadRxpk, detail, phy: None }
}

fn bad_field(name: &str, value: &Scalar<'_>) -> RxpkRefusal {
    bad_rxpk(match value {
        Scalar::Absent => format!("{name} is missing"),
        Scalar::Number(_) | Scalar::Text(_) => format!("{name} cannot be {}", shown(value)),
    })
}

fn shown<'a>(value: &Scalar<'a>) -> Cow<'a, str> {
    match value {
        Scalar::Absent => Cow::Borrowed("missing"),
        Scalar::Number(number) => Cow::Owned(number.to_string().chars().take(SHOWN_CHARS_MAX).collect()),
        Scalar::Text(text) => {
            Cow::Owned(format!("{:?}", text.chars().take(SHOWN_CHARS_MAX).collect::<String>()))
        }
    }
}

/// The most a LoRa radio can receive.
const PHY_LEN_MAX: usize = 255;
/// Room for what [`BASE64_LEN_MAX`] characters may be decoded to.
const PHY_BUFFER_LEN: usize = 260;
/// 255 bytes are 340 characters; the next group of four may still turn out to be padding.
const BASE64_LEN_MAX: usize = 344;
const SHOWN_CHARS_MAX: usize = 24;
const FSK_BPS_MIN: u64 = 500;
const FSK_BPS_MAX: u64 = 500_000;
/// 2^53: every whole number below is exact.
const TMST_LIMIT: f64 = 9_007_199_254_740_992.0;
/// The year 2199 on the GPS clock.
const GPS_TIME_MS_MAX: u64 = 6_942_000_000_000;

/// Standard alphabet; padding as the forwarder likes.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mac::region::LrFhssCodingRate;
    use serde_json::{Value, json};

    use super::*;

    /// The example of the protocol text, changed field by field; `null` takes the field away.
    fn frame(changes: Value) -> String {
        let mut frame = json!({
            "tmst": 3_512_348_611_u32, "time": "2024-03-01T10:11:12.345678Z", "tmms": 1_393_323_090_345_u64,
            "chan": 2, "rfch": 0, "freq": 868.5, "stat": 1, "modu": "LORA", "datr": "SF9BW125", "codr": "4/5",
            "lsnr": 7.2, "rssi": -61, "size": 11, "data": "QAQDAgGAAQABpVM="
        });
        let fields = frame.as_object_mut().unwrap();
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                fields.remove(name);
            } else {
                fields.insert(name.clone(), value.clone());
            }
        }
        frame.to_string()
    }

    fn arrival() -> Arrival {
        Arrival { gateway: GatewayEui::new(1), received: Mono::from_us(2), received_at: Timestamp::from_us(3) }
    }

    fn taken(changes: Value) -> GatewayUplink {
        let frame = frame(changes);
        parse(&frame, arrival()).unwrap_or_else(|refusal| panic!("{frame}: {refusal:?}"))
    }

    fn refused(changes: Value) -> RxpkRefusal {
        parse(&frame(changes), arrival()).unwrap_err()
    }

    const PHY: [u8; 11] = [0x40, 0x04, 0x03, 0x02, 0x01, 0x80, 0x01, 0x00, 0x01, 0xa5, 0x53];

    /// UDP-005.
    #[test]
    fn every_field_of_a_lora_frame_is_read() {
        let uplink = taken(json!({"ftime": 123_456_789, "brd": 263, "ant": 1}));
        assert_eq!(uplink.gateway, GatewayEui::new(1));
        assert_eq!(*uplink.phy, PHY);
        assert_eq!(uplink.freq, Hz::new(868_500_000));
        assert_eq!(uplink.modulation, Modulation::Lora { sf: 9, bw_hz: 125_000 });
        assert_eq!(uplink.coding_rate, Some(CodingRate::Cr4_5));
        assert_eq!((uplink.rssi_dbm, uplink.snr_db), (-61.0, Some(7.2)));
        assert_eq!(uplink.tmst_us, 3_512_348_611);
        assert_eq!((uplink.antenna, uplink.board, uplink.channel), (1, Some(263), 2));
        assert_eq!(uplink.gateway_time, Some(Timestamp::from_us(1_709_287_872_345_678)));
        assert_eq!(uplink.gps_time_ms, Some(1_393_323_090_345));
        assert_eq!(uplink.fine_time_ns, Some(123_456_789));
        assert_eq!((uplink.received, uplink.received_at), (Mono::from_us(2), Timestamp::from_us(3)));
    }

    /// UDP-005: only what cannot be replaced is asked for.
    #[test]
    fn a_frame_with_nothing_but_the_necessary_is_taken() {
        let bare = r#"{"tmst":1,"freq":868.1,"datr":"SF7BW125","data":"QAQDAgGAAQABpVM="}"#;
        let uplink = parse(bare, arrival()).unwrap();
        assert_eq!(uplink.modulation, Modulation::Lora { sf: 7, bw_hz: 125_000 });
        assert_eq!((uplink.rssi_dbm, uplink.snr_db), (RSSI_UNKNOWN_DBM, None));
        assert_eq!((uplink.coding_rate, uplink.gateway_time, uplink.gps_time_ms), (None, None, None));
    }

    /// UDP-005.
    #[test]
    fn every_modulation_of_real_forwarders_is_read() {
        let lora = |sf, bw_hz| Modulation::Lora { sf, bw_hz };
        let fsk = Modulation::Fsk { bit_rate_bps: 50_000 };
        let lr_fhss = |ocw_hz, cr| Modulation::LrFhss { ocw_hz, cr };
        let cases = [
            (json!({"datr": "SF12BW500"}), lora(12, 500_000)),
            (json!({"datr": "sf10bw250", "modu": "lora"}), lora(10, 250_000)),
            (json!({"datr": "SF7BW125", "modu": null}), lora(7, 125_000)),
            (json!({"datr": "SF12BW812", "freq": 2403.0, "codr": "4/5LI"}), lora(12, 812_500)),
            (json!({"datr": "SF5BW203", "freq": 2403.0}), lora(5, 203_125)),
            (json!({"modu": "FSK", "datr": 50_000, "codr": null, "lsnr": null}), fsk),
            (json!({"modu": "FSK", "datr": "50000", "codr": "OFF"}), fsk),
            (json!({"modu": "FSK", "datr": 50_000.0}), fsk),
            (json!({"modu": null, "datr": 50_000}), fsk),
            (
                json!({"modu": "LR-FHSS", "datr": "M0CW137", "codr": "2/6"}),
                lr_fhss(137_000, LrFhssCodingRate::OneThird),
            ),
            (
                json!({"modu": "LR-FHSS", "datr": "M0CW137", "codr": "4/6", "hpw": 8}),
                lr_fhss(137_000, LrFhssCodingRate::TwoThirds),
            ),
            (
                json!({"modu": "LR-FHSS", "datr": "M0CW336", "codr": "1/3"}),
                lr_fhss(336_000, LrFhssCodingRate::OneThird),
            ),
            (
                json!({"modu": "LR-FHSS", "datr": "M0CW1523", "codr": "2/3"}),
                lr_fhss(1_523_000, LrFhssCodingRate::TwoThirds),
            ),
        ];
        for (changes, modulation) in cases {
            let shown = changes.to_string();
            assert_eq!(taken(changes).modulation, modulation, "{shown}");
        }
        assert_eq!(taken(json!({"modu": "FSK", "datr": 50_000, "lsnr": null})).snr_db, None);
    }

    /// UDP-005: the odd forms of good frames.
    #[test]
    fn odd_forms_of_good_values_are_read() {
        assert_eq!(taken(json!({"freq": "868.1"})).freq, Hz::new(868_100_000));
        assert_eq!(taken(json!({"freq": 868.299_999_999})).freq, Hz::new(868_300_000));
        assert_eq!(taken(json!({"tmst": 1234.9})).tmst_us, 1234);
        assert_eq!(taken(json!({"tmst": 4_294_967_296_u64 + 5})).tmst_us, 5);
        assert_eq!(taken(json!({"tmst": -1})).tmst_us, u32::MAX);
        assert_eq!(taken(json!({"tmst": "77"})).tmst_us, 77);
        assert_eq!(taken(json!({"rssi": -94.5})).rssi_dbm, -94.5);
        assert_eq!(taken(json!({"rssi": null, "rssis": -97})).rssi_dbm, -97.0);
        assert_eq!(taken(json!({"lsnr": "6.8"})).snr_db, Some(6.8));
        assert!(taken(json!({"rssi": -0.0})).rssi_dbm.is_sign_positive());
        assert_eq!(*taken(json!({"data": "QAQDAgGAAQABpVM"})).phy, PHY);
        assert_eq!(
            taken(json!({"time": "2024-03-01T10:11:12.345678"})).gateway_time,
            Some(Timestamp::from_us(1_709_287_872_345_678))
        );
        assert_eq!(taken(json!({"time": "soon"})).gateway_time, None);
        assert_eq!(taken(json!({"unknown": {"deep": [1, 2]}, "foff": -300, "mid": 8})).channel, 2);
        let escaped = r#"{"tmst":1,"freq":868.1,"datr":"SF7BW12\u0035","data":"\/\/8="}"#;
        assert_eq!(*parse(escaped, arrival()).unwrap().phy, [0xff, 0xff]);
    }

    /// UDP-006.
    #[test]
    fn radio_figures_that_cannot_be_are_left_out_and_the_frame_is_taken() {
        for absurd in [
            "nan",
            "-nan",
            "NaN",
            "Infinity",
            "-inf",
            "1e999",
            "-1e999",
            "1e38",
            "-500",
            "null",
            "[]",
            "\"x\"",
            "{\"a\":1e999}",
        ] {
            let json = frame(json!({})).replace("7.2", absurd).replace("-61", absurd);
            let uplink = parse(&json, arrival()).unwrap_or_else(|r| panic!("{absurd}: {r:?}"));
            assert_eq!((uplink.snr_db, uplink.rssi_dbm), (None, RSSI_UNKNOWN_DBM), "{absurd}");
            assert_eq!(*uplink.phy, PHY);
        }
        let uplink = taken(json!({"ftime": 1_000_000_000, "tmms": -1, "chan": 70_000, "ant": 256, "brd": "a"}));
        assert_eq!((uplink.fine_time_ns, uplink.gps_time_ms, uplink.channel), (None, None, 0));
        assert_eq!((uplink.antenna, uplink.board), (0, None));
    }

    /// UDP-005: the multi-antenna form of SX1302 and Kerlink gateways.
    #[test]
    fn of_several_antennas_the_one_with_the_best_snr_is_taken() {
        let rsig = json!([
            {"ant": 0, "chan": 7, "rssic": -103, "lsnr": -3.5, "ftime": 1},
            {"ant": 1, "chan": 8, "rssic": -108, "lsnr": 7.8, "ftime": 2, "etime": "AA==", "rssisd": 1},
            {"ant": 2, "chan": 9, "rssic": -90, "lsnr": 1e39}
        ]);
        let uplink = taken(json!({"rsig": rsig, "rssi": null, "lsnr": null, "chan": null}));
        assert_eq!((uplink.antenna, uplink.channel), (1, 8));
        assert_eq!((uplink.rssi_dbm, uplink.snr_db, uplink.fine_time_ns), (-108.0, Some(7.8), Some(2)));

        let equal = json!([{"ant": 4, "rssic": -90, "lsnr": 5}, {"ant": 5, "rssis": -80, "lsnr": 5}]);
        assert_eq!(taken(json!({"rsig": equal})).antenna, 5);
        let fsk = json!([{"ant": 0, "rssic": -90}, {"ant": 1, "rssic": -80}]);
        assert_eq!(taken(json!({"rsig": fsk, "modu": "FSK", "datr": 50_000, "lsnr": null})).rssi_dbm, -80.0);
        for odd in [json!([]), json!([1]), json!({}), json!("x"), json!([{"ant": []}])] {
            assert_eq!(taken(json!({"rsig": odd})).snr_db, Some(7.2));
        }
    }

    /// PARSE-019.
    #[test]
    fn a_frame_without_a_good_crc_is_refused_and_a_missing_stat_is_good() {
        let bad = refused(json!({"stat": -1}));
        assert_eq!((bad.reason, bad.phy.as_deref()), (DropReason::CrcBad, Some(&PHY[..])));
        assert_eq!(refused(json!({"stat": 0})).reason, DropReason::CrcMissing);
        assert_eq!(refused(json!({"stat": "-1"})).reason, DropReason::CrcBad);
        for good in [json!(1), json!(null), json!("1"), json!([])] {
            assert_eq!(*taken(json!({"stat": good})).phy, PHY);
        }
        assert_eq!(refused(json!({"stat": -1, "data": "!"})).phy, None);
    }

    #[test]
    fn a_field_that_nothing_can_replace_is_named() {
        let cases = [
            (json!({"freq": null}), "freq is missing"),
            (json!({"freq": 0}), "freq cannot be 0"),
            (json!({"freq": 868_100_000}), "freq cannot be 868100000"),
            (json!({"freq": "fast"}), "freq cannot be \"fast\""),
            (json!({"tmst": null}), "tmst is missing"),
            (json!({"tmst": 1e300}), "tmst cannot be 100000000000000000000000"),
            (json!({"data": null}), "data is missing"),
            (json!({"modu": "OOK"}), "modu cannot be \"OOK\""),
            (json!({"datr": null}), "datr is missing, codr \"4/5\""),
            (json!({"datr": "SF13BW125"}), "datr cannot be \"SF13BW125\", codr \"4/5\""),
            (json!({"datr": "SF7BW126"}), "datr cannot be \"SF7BW126\", codr \"4/5\""),
            (json!({"datr": "\u{e9}\u{e9}"}), "datr cannot be \"\u{e9}\u{e9}\", codr \"4/5\""),
            (json!({"datr": 50_000}), "datr cannot be 50000, codr \"4/5\""),
            (json!({"modu": "FSK", "datr": 0}), "datr cannot be 0, codr \"4/5\""),
            (
                json!({"modu": "LR-FHSS", "datr": "M0CW137", "codr": null}),
                "datr cannot be \"M0CW137\", codr missing",
            ),
        ];
        for (changes, detail) in cases {
            let refusal = refused(changes);
            assert_eq!((refusal.reason, refusal.detail.as_str()), (DropReason::BadRxpk, detail));
        }
        for json in ["7", "null", "\"x\"", "[]", "{"] {
            assert_eq!(parse(json, arrival()).unwrap_err().reason, DropReason::BadRxpk, "{json}");
        }
    }

    #[test]
    fn data_that_no_radio_sent_is_refused() {
        for bad in ["!!!!", "QAQD=AgG", "Q", "QAQ DAg", "\u{e9}"] {
            assert_eq!(refused(json!({"data": bad})).reason, DropReason::BadBase64, "{bad}");
        }
        let encoded = |length: usize| base64::engine::general_purpose::STANDARD.encode(vec![0; length]);
        assert_eq!(taken(json!({"data": encoded(255)})).phy.len(), 255);
        for length in [256, 257, 258, 259, 1_000, 40_000] {
            assert_eq!(refused(json!({"data": encoded(length)})).reason, DropReason::TooLong, "{length}");
        }
        assert!(taken(json!({"data": ""})).phy.is_empty());
    }
}
