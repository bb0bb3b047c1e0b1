//! `loam decode`: any PHYPayload in words, with whatever keys there are. No server is asked.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod mac_words;

use clap::Args;
use mac::crypto::{Direction, UplinkMicContext11};
use mac::drop_reason::DropReason;
use mac::ids::{DevEui, DevNonce, JoinEui};
use mac::join_frame::{JoinAccept, JoinReqType, JoinRequest, RejoinKind, RejoinRequest};
use mac::keys::{Key, NetworkKeys, NwkSEncKey, SNwkSIntKey};
use mac::phy::{AnyFrame, DataFrame, DecodeKeys, JoinContext, MicVerdict, parse_any};
use mac::region::CfList;
use serde_json::{Map, Value, json};

use crate::client::Context;
use crate::exit::{Exit, Failure};
use crate::input::{Secret, parse_bytes, parse_dev_eui, parse_join_eui};

#[derive(Args, Debug)]
pub(crate) struct DecodeArgs {
    /// The PHYPayload in hexadecimal or base64, as a gateway or a log shows it
    #[arg(value_name = "FRAME")]
    frame: String,
    /// NwkSKey (LoRaWAN 1.0.x) or FNwkSIntKey (1.1): checks the MIC; `-` reads a line of standard input, `@FILE` a file
    #[arg(long, value_name = "KEY")]
    nwk_s_key: Option<Secret>,
    /// AppSKey: decrypts the payload
    #[arg(long, value_name = "KEY")]
    app_s_key: Option<Secret>,
    /// SNwkSIntKey of a 1.1 session
    #[arg(long, value_name = "KEY", requires_all = ["nwk_s_enc_key", "nwk_s_key"])]
    s_nwk_s_int_key: Option<Secret>,
    /// NwkSEncKey of a 1.1 session
    #[arg(long, value_name = "KEY", requires_all = ["s_nwk_s_int_key", "nwk_s_key"])]
    nwk_s_enc_key: Option<Secret>,
    /// AppKey of a 1.0.x device: checks a Join-Request, opens a Join-Accept
    #[arg(long, value_name = "KEY")]
    app_key: Option<Secret>,
    /// NwkKey of a 1.1 device: the same
    #[arg(long, value_name = "KEY")]
    nwk_key: Option<Secret>,
    /// The full 32-bit counter; without it every counter that fits is tried
    #[arg(long, value_name = "N")]
    fcnt: Option<u32>,
    /// 1.1: the counter this frame acknowledges, for the MIC of a frame with ACK
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    conf_fcnt: u16,
    /// 1.1 uplink: the data rate it was sent with, for the whole MIC
    #[arg(long, value_name = "DR", requires = "tx_ch")]
    tx_dr: Option<u8>,
    /// 1.1 uplink: the channel it was sent on
    #[arg(long, value_name = "N", requires = "tx_dr")]
    tx_ch: Option<u8>,
    /// 1.1 Join-Accept: the DevEUI of the request it answers
    #[arg(long, value_name = "EUI", value_parser = parse_dev_eui, requires_all = ["join_eui", "dev_nonce"])]
    dev_eui: Option<String>,
    /// 1.1 Join-Accept: the JoinEUI of the request
    #[arg(long, value_name = "EUI", value_parser = parse_join_eui, requires_all = ["dev_eui", "dev_nonce"])]
    join_eui: Option<String>,
    /// 1.1 Join-Accept: the DevNonce of the request
    #[arg(long, value_name = "N", requires_all = ["dev_eui", "join_eui"])]
    dev_nonce: Option<u16>,
}

pub(crate) fn run(context: &Context, args: &DecodeArgs) -> Result<(), Failure> {
    let phy = parse_bytes(&args.frame).map_err(|error| Failure::usage(format!("the frame is {error}")))?;
    let keys = read_keys(args)?;
    let (report, verdict) = explain(&phy, &keys).map_err(|reason| {
        Failure::usage(format!("no LoRaWAN frame, {}: {}", reason.code(), reason.meaning()))
    })?;
    report.write(context)?;
    if verdict == MicVerdict::Mismatch {
        return Err(Failure::new(
            Exit::Error,
            "the MIC does not hold: wrong key, wrong version, wrong --fcnt, or the frame is damaged. What was decrypted is rubbish",
        ));
    }
    Ok(())
}

/// The frame in words, and what the keys say about its MIC.
fn explain(phy: &[u8], keys: &DecodeKeys) -> Result<(Report, MicVerdict), DropReason> {
    let frame = parse_any(phy, keys)?;
    let mut report = Report::default();
    explain_mhdr(&mut report, phy);
    let verdict = match &frame {
        AnyFrame::Data(data) => explain_data(&mut report, data, keys),
        AnyFrame::JoinRequest { request, verdict } => explain_join_request(&mut report, request, *verdict),
        AnyFrame::JoinAccept { accept, mic, verdict } => {
            explain_join_accept(&mut report, accept.as_ref());
            if let Some(mic) = mic {
                explain_mic(&mut report, &mic.to_string(), *verdict, ROOT_KEYS);
            }
            *verdict
        }
        AnyFrame::Rejoin { request, verdict } => explain_rejoin(&mut report, request, *verdict),
        AnyFrame::Proprietary(body) => {
            report.add("body", json!(hex::encode(body)), "known to its maker alone; loam drops such frames");
            MicVerdict::NotChecked
        }
    };
    Ok((report, verdict))
}

fn read_keys(args: &DecodeArgs) -> Result<DecodeKeys, Failure> {
    let network = match read::<Key>(args.nwk_s_key.as_ref(), "--nwk-s-key")? {
        None => None,
        Some(key) => {
            let mut keys = NetworkKeys::from_nwk_s_key(&key);
            if let Some(key) = read::<SNwkSIntKey>(args.s_nwk_s_int_key.as_ref(), "--s-nwk-s-int-key")? {
                keys.s_nwk_s_int = key;
            }
            if let Some(key) = read::<NwkSEncKey>(args.nwk_s_enc_key.as_ref(), "--nwk-s-enc-key")? {
                keys.nwk_s_enc = key;
            }
            Some(keys)
        }
    };
    let uplink_11 = args.tx_dr.zip(args.tx_ch).map(|(tx_dr, tx_ch)| UplinkMicContext11 {
        conf_fcnt: args.conf_fcnt,
        tx_dr,
        tx_ch,
    });
    let join = match (&args.dev_eui, &args.join_eui, args.dev_nonce) {
        (Some(dev_eui), Some(join_eui), Some(dev_nonce)) => Some(JoinContext {
            request: JoinReqType::Join,
            join_eui: join_eui.parse::<JoinEui>().map_err(|error| Failure::usage(error.to_string()))?,
            dev_eui: dev_eui.parse::<DevEui>().map_err(|error| Failure::usage(error.to_string()))?,
            dev_nonce: DevNonce::new(dev_nonce),
        }),
        _ => None,
    };
    Ok(DecodeKeys {
        network,
        app_s_key: read(args.app_s_key.as_ref(), "--app-s-key")?,
        app_key: read(args.app_key.as_ref(), "--app-key")?,
        nwk_key: read(args.nwk_key.as_ref(), "--nwk-key")?,
        version_1_1: args.s_nwk_s_int_key.is_some(),
        fcnt: args.fcnt,
        uplink_11,
        conf_fcnt: args.conf_fcnt,
        join,
        js_int_key: None,
    })
}

fn read<K>(secret: Option<&Secret>, name: &str) -> Result<Option<K>, Failure>
where
    K: std::str::FromStr<Err = mac::keys::KeyError>,
{
    let Some(secret) = secret else { return Ok(None) };
    let text = secret.read_key(name)?;
    text.parse().map(Some).map_err(|error| Failure::usage(format!("{name}: {error}")))
}

/// Fields in the order of the frame: name, value, and what the value means.
#[derive(Default)]
struct Report {
    rows: Vec<Vec<String>>,
    object: Map<String, Value>,
}

impl Report {
    fn add(&mut self, name: &str, value: Value, meaning: impl Into<String>) {
        let shown = match &value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
        };
        self.rows.push(vec![name.to_owned(), shown, meaning.into()]);
        self.object.insert(name.to_owned(), value);
    }

    /// A list of sentences: a line each for people, an array for programs.
    fn add_list(&mut self, name: &str, sentences: Vec<String>) {
        for sentence in &sentences {
            self.rows.push(vec![name.to_owned(), String::new(), sentence.clone()]);
        }
        self.object.insert(name.to_owned(), json!(sentences));
    }

    fn write(self, context: &Context) -> Result<(), Failure> {
        if context.output.is_json() {
            return context.output.json(&Value::Object(self.object));
        }
        context.output.list(&["field", "value", "meaning"], self.rows, Vec::new(), "")
    }
}

fn explain_mhdr(report: &mut Report, phy: &[u8]) {
    let mhdr = phy.first().copied().unwrap_or_default();
    let name = match mhdr >> 5 {
        0 => "Join-Request: a device asks for a session",
        1 => "Join-Accept: the network gives a session",
        2 => "unconfirmed uplink",
        3 => "unconfirmed downlink",
        4 => "confirmed uplink: the device wants an acknowledgement",
        5 => "confirmed downlink: the network wants an acknowledgement",
        6 => "Rejoin-Request: a 1.1 device offers to renew its session",
        _ => "proprietary frame",
    };
    report.add("length_bytes", json!(phy.len()), "whole PHYPayload");
    report.add("mhdr", json!(format!("{mhdr:02x}")), name);
}

fn explain_data(report: &mut Report, data: &DataFrame, keys: &DecodeKeys) -> MicVerdict {
    let is_up = data.direction == Direction::Up;
    let addr = data.dev_addr;
    let network = match (addr.net_type(), addr.nwk_id()) {
        (Some(net_type), Some(nwk_id)) => format!("of networks with NetID type {net_type}, NwkID {nwk_id:#x}"),
        _ => "in no network's range".to_owned(),
    };
    report.add("dev_addr", json!(addr.to_string()), format!("session address, {network}"));

    let meaning = match (is_up, data.adr) {
        (true, true) => "the device lets the network choose its data rate",
        (true, false) => "the device keeps its data rate",
        (false, true) => "the network may choose the data rate",
        (false, false) => "the network cannot choose the data rate",
    };
    report.add("adr", json!(data.adr), meaning);
    if is_up {
        report.add(
            "adr_ack_req",
            json!(data.adr_ack_req),
            choose(
                data.adr_ack_req,
                "the device has not heard the network for long and wants any downlink",
                "-",
            ),
        );
        report.add(
            "ack",
            json!(data.ack),
            choose(data.ack, "acknowledges the last confirmed downlink", "acknowledges nothing"),
        );
        report.add(
            "class_b",
            json!(data.class_b),
            choose(data.class_b, "the device listens in class B", "class A or C"),
        );
    } else {
        report.add(
            "ack",
            json!(data.ack),
            choose(data.ack, "acknowledges the last confirmed uplink", "acknowledges nothing"),
        );
        report.add(
            "f_pending",
            json!(data.f_pending),
            choose(
                data.f_pending,
                "more is waiting: the device should send again soon",
                "nothing else is waiting",
            ),
        );
    }
    let full = match data.fcnt_full {
        Some(fcnt) => format!("low 16 bits; the MIC holds with the full counter {fcnt}"),
        None => "low 16 bits of the frame counter".to_owned(),
    };
    report.add("fcnt", json!(data.fcnt.value()), full);
    if let Some(fcnt) = data.fcnt_full {
        report.object.insert("fcnt_full".to_owned(), json!(fcnt));
    }

    explain_fopts(report, data, is_up);
    explain_payload(report, data, keys, is_up);
    explain_mic(report, &data.mic.to_string(), data.verdict, "--nwk-s-key");
    data.verdict
}

fn explain_fopts(report: &mut Report, data: &DataFrame, is_up: bool) {
    if data.fopts.is_empty() {
        report.add("fopts", json!(""), "no MAC commands in the header");
        return;
    }
    let encrypted = data.fopts_plain.as_ref() != Some(&data.fopts);
    let meaning = choose(encrypted, "MAC commands, encrypted (1.1)", "MAC commands");
    report.add("fopts", json!(hex::encode(&data.fopts)), meaning);
    if let Some(plain) = &data.fopts_plain {
        report.add_list("mac_commands", mac_words::sentences(plain, is_up));
    }
}

fn explain_payload(report: &mut Report, data: &DataFrame, keys: &DecodeKeys, is_up: bool) {
    let meaning = match data.f_port {
        None => "absent: the frame ends behind FOpts",
        Some(0) => "the payload is MAC commands",
        Some(1..=223) => "the application's",
        Some(224) => "the certification test's",
        Some(225..) => "reserved",
    };
    report.add("f_port", json!(data.f_port), meaning);
    if data.frm_payload.is_empty() {
        return;
    }
    report.add(
        "frm_payload",
        json!(hex::encode(&data.frm_payload)),
        format!("{} bytes, encrypted", data.frm_payload.len()),
    );
    let Some(plain) = &data.frm_payload_plain else {
        let key = choose(data.f_port == Some(0), "--nwk-s-key (1.1: --nwk-s-enc-key)", "--app-s-key");
        report.add("payload", Value::Null, format!("pass {key} to decrypt"));
        return;
    };
    let trust = match data.verdict {
        MicVerdict::Matches | MicVerdict::HalfMatches => "decrypted",
        MicVerdict::Mismatch => "rubbish: the MIC does not hold",
        // Whether key and counter are right, only a checked MIC can say.
        MicVerdict::NotChecked if keys.network.is_none() => {
            "decrypted, if the key and the counter are right; --nwk-s-key checks"
        }
        MicVerdict::NotChecked => "decrypted",
    };
    report.add("payload", json!(hex::encode(plain)), trust);
    if data.f_port == Some(0) {
        report.add_list("mac_commands", mac_words::sentences(plain, is_up));
    }
}

fn explain_join_request(report: &mut Report, request: &JoinRequest, verdict: MicVerdict) -> MicVerdict {
    report.add(
        "join_eui",
        json!(request.join_eui.to_string()),
        "join server it asks (AppEUI in old documents)",
    );
    report.add("dev_eui", json!(request.dev_eui.to_string()), "the device");
    report.add("dev_nonce", json!(request.dev_nonce.value()), "never used twice; a counter from 1.0.4 on");
    explain_mic(report, &request.mic.to_string(), verdict, ROOT_KEYS);
    verdict
}

fn explain_join_accept(report: &mut Report, accept: Option<&JoinAccept>) {
    let Some(accept) = accept else {
        report.add("body", Value::Null, format!("encrypted; pass {ROOT_KEYS} to open it"));
        return;
    };
    report.add("join_nonce", json!(accept.join_nonce.value()), "never given twice (AppNonce in old documents)");
    report.add("net_id", json!(accept.net_id.to_string()), "the network");
    report.add("dev_addr", json!(accept.dev_addr.to_string()), "address of the new session");
    let settings = accept.dl_settings;
    report.add(
        "opt_neg",
        json!(settings.opt_neg),
        choose(settings.opt_neg, "the network speaks 1.1", "the session is 1.0.x"),
    );
    report.add(
        "rx1_dr_offset",
        json!(settings.rx1_dr_offset),
        "RX1 is so many data rates slower than the uplink",
    );
    report.add("rx2_data_rate", json!(settings.rx2_dr), "data rate of the second receive window");
    report.add("rx_delay_s", json!(accept.rx_delay_s.max(1)), "seconds from an uplink to RX1; RX2 one later");
    let Some(bytes) = accept.cf_list else {
        report.add("cf_list", Value::Null, "no channels beside the region's own");
        return;
    };
    let meaning = match CfList::from_bytes(bytes) {
        Some(CfList::Frequencies(frequencies)) => {
            let channels: Vec<String> = frequencies.into_iter().map(mac_words::frequency).collect();
            format!("channels 3 to 7 (2 to 6 in AS923): {}", channels.join(", "))
        }
        Some(CfList::Masks(mask)) => {
            let channels: Vec<String> = mask.channels().map(|channel| channel.to_string()).collect();
            format!("channels that are on: {}", channels.join(" "))
        }
        None => "of a type that is not known".to_owned(),
    };
    report.add("cf_list", json!(hex::encode(bytes)), meaning);
}

fn explain_rejoin(report: &mut Report, request: &RejoinRequest, verdict: MicVerdict) -> MicVerdict {
    let (number, meaning) = match request.kind {
        RejoinKind::Type0(_) => (0, "hand-over or full reset of the context"),
        RejoinKind::Type1(_) => (1, "recovery after the network lost everything"),
        RejoinKind::Type2(_) => (2, "new keys, radio settings kept"),
    };
    report.add("rejoin_type", json!(number), meaning);
    match request.kind {
        RejoinKind::Type0(net_id) | RejoinKind::Type2(net_id) => {
            report.add("net_id", json!(net_id.to_string()), "the device's network");
        }
        RejoinKind::Type1(join_eui) => report.add("join_eui", json!(join_eui.to_string()), "its join server"),
    }
    report.add("dev_eui", json!(request.dev_eui.to_string()), "the device");
    report.add("rj_count", json!(request.rj_count), "counter of such requests");
    explain_mic(report, &request.mic.to_string(), verdict, "--s-nwk-s-int-key (type 1: --nwk-key)");
    verdict
}

fn explain_mic(report: &mut Report, mic: &str, verdict: MicVerdict, key: &str) {
    let (word, meaning) = match verdict {
        MicVerdict::HalfMatches => {
            ("half_matches", "the FNwkSIntKey half holds; --tx-dr and --tx-ch check the other".to_owned())
        }
        MicVerdict::Matches => ("matches", "holds: the frame is genuine".to_owned()),
        MicVerdict::Mismatch => ("mismatch", "does not hold".to_owned()),
        MicVerdict::NotChecked => ("not_checked", format!("not checked; pass {key}")),
    };
    report.add("mic", json!(mic), meaning);
    report.object.insert("mic_verdict".to_owned(), json!(word));
}

fn choose<'a>(condition: bool, yes: &'a str, no: &'a str) -> &'a str {
    if condition { yes } else { no }
}

const ROOT_KEYS: &str = "--app-key (1.0.x) or --nwk-key (1.1)";
