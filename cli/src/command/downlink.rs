//! `loam downlink`

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use proto::v1::{self, enqueue_downlink_request::Content};
use serde_json::{Value, json};

use super::{PAGE_SIZE, all_pages};
use crate::client::Context;
use crate::exit::Failure;
use crate::input::{parse_bytes, parse_dev_eui, parse_span_us, parse_time_us};
use crate::output::{local_time, text_or_null, utc_time};
use crate::words::{self, DOWNLINK_STATES};

#[derive(Debug, Subcommand)]
pub(crate) enum DownlinkCommand {
    /// Put a downlink into a device's queue; it is safe there when the command returns
    Enqueue(Box<EnqueueArgs>),
    /// List what waits for a device
    List {
        #[arg(value_parser = parse_dev_eui)]
        dev_eui: String,
        /// Also those that are over
        #[arg(long)]
        all: bool,
    },
    /// Take a downlink back that has not left yet
    Cancel {
        /// As `enqueue` and `list` show it
        id: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct EnqueueArgs {
    #[arg(value_parser = parse_dev_eui)]
    dev_eui: String,
    /// The payload in hexadecimal or base64
    #[arg(value_name = "BYTES", required_unless_present = "object", conflicts_with = "object")]
    payload: Option<String>,
    /// JSON for the codec's encodeDownlink instead of bytes; the codec may name the port
    #[arg(long, value_name = "JSON")]
    object: Option<String>,
    /// Port, 1 to 223
    #[arg(long, required_unless_present = "object", value_parser = clap::value_parser!(u32).range(1..=223))]
    port: Option<u32>,
    /// Ask the device to acknowledge
    #[arg(long)]
    confirmed: bool,
    /// 0 to 100; higher goes first
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    priority: u32,
    /// Do not send later than so long from now: 90s, 15m, 2h, 7d
    #[arg(long, value_parser = parse_span_us, value_name = "SPAN", conflicts_with = "not_after")]
    expires_in: Option<i64>,
    /// Do not send after this time, RFC 3339
    #[arg(long, value_parser = parse_time_us, value_name = "TIME")]
    not_after: Option<i64>,
    /// The same key for a device makes one item only, however often it is sent
    #[arg(long, default_value = "", hide_default_value = true, value_name = "KEY")]
    idempotency_key: String,
}

pub(crate) async fn run(context: &Context, command: DownlinkCommand) -> Result<(), Failure> {
    let output = context.output;
    match command {
        DownlinkCommand::Enqueue(args) => {
            let request = enqueue_request(*args)?;
            let client = context.connect().await?;
            let answer = client.ask(client.downlinks().enqueue_downlink(request)).await?;
            let downlink = answer.downlink.unwrap_or_default();
            let mut item = as_json(&downlink);
            if let Some(object) = item.as_object_mut() {
                object.insert("duplicate".to_owned(), Value::Bool(answer.duplicate));
            }
            let verb = if answer.duplicate { "was there before" } else { "queued" };
            output.done(&format!("downlink {} for device {} {verb}", downlink.id, downlink.dev_eui), &item)
        }
        DownlinkCommand::List { dev_eui, all } => {
            let client = context.connect().await?;
            let mut service = client.downlinks();
            let downlinks: Vec<v1::Downlink> =
                all_pages!(client, downlinks, |token| service.list_downlinks(v1::ListDownlinksRequest {
                    dev_eui: dev_eui.clone(),
                    include_finished: all,
                    page_size: PAGE_SIZE,
                    page_token: token.clone(),
                }));
            let rows = downlinks.iter().map(row).collect();
            output.list(
                &["id", "state", "port", "payload", "flags", "not after"],
                rows,
                downlinks.iter().map(as_json).collect(),
                &format!("nothing waits for device {dev_eui}"),
            )
        }
        DownlinkCommand::Cancel { id } => {
            let client = context.connect().await?;
            let answer =
                client.ask(client.downlinks().cancel_downlink(v1::CancelDownlinkRequest { id })).await?;
            let downlink = answer.downlink.unwrap_or_default();
            output.done(&format!("downlink {} cancelled", downlink.id), &as_json(&downlink))
        }
    }
}

fn enqueue_request(args: EnqueueArgs) -> Result<v1::EnqueueDownlinkRequest, Failure> {
    let content = match (args.object, args.payload) {
        (Some(object), _) => {
            serde_json::from_str::<Value>(&object)
                .map_err(|error| Failure::usage(format!("--object is not JSON: {error}")))?;
            Content::ObjectJson(object)
        }
        (None, payload) => {
            let text = payload.unwrap_or_default();
            Content::Payload(parse_bytes(&text).map_err(|error| Failure::usage(format!("payload: {error}")))?)
        }
    };
    let from_now = |span_us: i64| jiff::Timestamp::now().as_microsecond().saturating_add(span_us);
    Ok(v1::EnqueueDownlinkRequest {
        dev_eui: args.dev_eui,
        f_port: args.port.unwrap_or_default(),
        content: Some(content),
        confirmed: args.confirmed,
        priority: args.priority,
        not_after_us: args.not_after.or_else(|| args.expires_in.map(from_now)),
        idempotency_key: args.idempotency_key,
    })
}

fn row(downlink: &v1::Downlink) -> Vec<String> {
    let mut state = words::word(DOWNLINK_STATES, downlink.state);
    if !downlink.reason.is_empty() {
        state = format!("{state}: {}", downlink.reason);
    }
    let mut flags = Vec::new();
    if downlink.confirmed {
        flags.push(match downlink.attempts {
            0 => "confirmed".to_owned(),
            attempts => format!("confirmed, sent {attempts}×"),
        });
    }
    if downlink.priority > 0 {
        flags.push(format!("priority {}", downlink.priority));
    }
    vec![
        downlink.id.clone(),
        state,
        downlink.f_port.to_string(),
        hex::encode(&downlink.payload),
        flags.join(", "),
        downlink.not_after_us.map(local_time).unwrap_or_default(),
    ]
}

fn as_json(downlink: &v1::Downlink) -> Value {
    json!({
        "id": downlink.id,
        "dev_eui": downlink.dev_eui,
        "f_port": downlink.f_port,
        "data": STANDARD.encode(&downlink.payload),
        "confirmed": downlink.confirmed,
        "priority": downlink.priority,
        "not_after": downlink.not_after_us.map_or(Value::Null, utc_time),
        "idempotency_key": text_or_null(&downlink.idempotency_key),
        "state": words::word(DOWNLINK_STATES, downlink.state),
        "reason": text_or_null(&downlink.reason),
        "created_at": utc_time(downlink.created_at_us),
        "fcnt_down": downlink.fcnt_down,
        "attempts": downlink.attempts,
    })
}
