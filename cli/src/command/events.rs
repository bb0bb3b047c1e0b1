//! `loam events`

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use proto::v1::{self, EventKind, list_drops_response::Drop, watch_request::Start, watch_response::Item};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{application, device, event_line, event_person, gateway, profile};
use crate::client::{Client, Context};
use crate::exit::{Exit, Failure, complain};
use crate::input::{parse_base64, parse_dev_eui, parse_gateway_eui, parse_tag, parse_time_us};
use crate::output::{ago, local_time, printable, text_or_null, utc_time};
use crate::words::{self, REGIONS, parse_event_kind};

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Write events as they come
    Tail(TailArgs),
    /// List the named consumers: where each one is and how far behind
    Consumers {
        /// Forget a consumer and its position
        #[arg(long, value_name = "NAME")]
        delete: Option<String>,
    },
    /// Why does nothing arrive? The last refused frames, with reason, hint and the command that helps
    Drops(DropsArgs),
}

#[derive(Args, Debug)]
pub(crate) struct TailArgs {
    /// A consumer whose position the server keeps: what was written is acknowledged, the next run goes on after it
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    consumer: String,
    /// Where to start: committed, earliest, latest, a time (RFC 3339), or cursor:BASE64 [default: committed with --consumer,
    /// else latest]
    #[arg(long, value_parser = parse_from, value_name = "POSITION")]
    from: Option<From>,
    /// Only this application; may be given several times
    #[arg(long, value_name = "ID")]
    application: Vec<String>,
    /// Only this device; may be given several times
    #[arg(long, value_parser = parse_dev_eui, value_name = "DEV_EUI")]
    device: Vec<String>,
    /// Only this kind: uplink, receptions, join, downlink, device-status, gateway, error; may be given several times
    #[arg(long, value_parser = parse_event_kind, value_delimiter = ',', value_name = "KIND")]
    kind: Vec<EventKind>,
    /// Only uplinks on this port; may be given several times
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=255), value_name = "N")]
    port: Vec<u32>,
    /// Only devices with this tag, name=value; with several, all must match
    #[arg(long, value_parser = parse_tag, value_name = "NAME=VALUE")]
    tag: Vec<(String, String)>,
    /// Keep waiting for new events; --follow=false ends when nothing came for two seconds
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true",
          require_equals = true, action = clap::ArgAction::Set)]
    follow: bool,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Acknowledge what was written; --acknowledge=false looks without moving the consumer
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true",
          require_equals = true, action = clap::ArgAction::Set)]
    acknowledge: bool,
    /// End when the connection breaks, instead of connecting again and going on where it broke
    #[arg(long)]
    no_reconnect: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DropsArgs {
    /// Only frames this gateway brought
    #[arg(long, value_parser = parse_gateway_eui, value_name = "GATEWAY_EUI")]
    gateway: Option<String>,
    /// Only frames of this device, where that could be told
    #[arg(long, value_parser = parse_dev_eui, value_name = "DEV_EUI")]
    device: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    limit: u32,
}

#[derive(Clone, Debug)]
enum From {
    Committed,
    Cursor(Vec<u8>),
    Earliest,
    Latest,
    Time(i64),
}

fn parse_from(text: &str) -> Result<From, String> {
    match text {
        "committed" => Ok(From::Committed),
        "earliest" => Ok(From::Earliest),
        "latest" => Ok(From::Latest),
        _ => match text.strip_prefix("cursor:") {
            Some(cursor) => {
                parse_base64(cursor).map(From::Cursor).map_err(|error| format!("the cursor is {error}"))
            }
            None => parse_time_us(text).map(From::Time).map_err(|_| {
                "write committed, earliest, latest, cursor:BASE64 or a time like 2027-03-01T06:00:00Z"
                    .to_owned()
            }),
        },
    }
}

pub(crate) async fn run(context: &Context, command: EventsCommand) -> Result<(), Failure> {
    match command {
        EventsCommand::Tail(args) => tail(context, args).await,
        EventsCommand::Consumers { delete: None } => consumers(context).await,
        EventsCommand::Consumers { delete: Some(name) } => {
            let client = context.connect().await?;
            client
                .ask(client.events().delete_consumer(v1::DeleteConsumerRequest { name: name.clone() }))
                .await?;
            context.output.done(&format!("consumer {name} deleted"), &json!({ "deleted": name }))
        }
        EventsCommand::Drops(args) => drops(context, args).await,
    }
}

async fn tail(context: &Context, args: TailArgs) -> Result<(), Failure> {
    if matches!(args.from, Some(From::Committed)) && args.consumer.is_empty() {
        return Err(Failure::usage("--from committed needs --consumer: only a named consumer has a position"));
    }
    let client = context.connect().await?;
    let mut stop = std::pin::pin!(asked_to_stop()?);
    let mut tail = Tail { context, client, args, written: 0, cursor: Vec::new(), unacknowledged: false };
    let mut wait = RECONNECT_WAIT_MIN;
    loop {
        let cursor_before = tail.cursor.clone();
        let failure = match tail.stream(stop.as_mut()).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        let lost = matches!(failure, Failure::Told { exit: Exit::Unreachable, .. });
        // Before the first message there is nothing to go on from; then the failure is the answer.
        if !lost || tail.cursor.is_empty() || tail.args.no_reconnect || !tail.args.follow {
            return Err(failure);
        }
        wait = if tail.cursor == cursor_before {
            wait.saturating_mul(2).min(RECONNECT_WAIT_MAX)
        } else {
            RECONNECT_WAIT_MIN
        };
        complain(&format!("{failure}; connecting again in {} s", wait.as_secs_f32()));
        tokio::select! {
            () = stop.as_mut() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// A tail between two broken connections.
struct Tail<'a> {
    context: &'a Context,
    client: Client,
    args: TailArgs,
    written: u64,
    /// After what was written last, or where the stream began.
    cursor: Vec<u8>,
    unacknowledged: bool,
}

impl Tail<'_> {
    /// Streams until it is told to stop, has written enough, or the connection breaks.
    async fn stream(&mut self, mut stop: Pin<&mut impl Future<Output = ()>>) -> Result<(), Failure> {
        let request = self.request();
        let mut events = self.client.events();
        let opened = self.client.ask(events.watch(request));
        let mut stream = tokio::select! {
            () = stop.as_mut() => return Ok(()),
            opened = opened => opened?,
        };
        let mut idle_at = moment_after(IDLE_MAX);
        let mut acknowledge_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.as_mut() => break,
                () = tokio::time::sleep_until(acknowledge_at), if self.unacknowledged => {
                    self.acknowledge().await?;
                }
                message = stream.message() => {
                    let message = match message {
                        Ok(Some(message)) => message,
                        Ok(None) => {
                            let url = &self.client.target().url;
                            return Err(Failure::new(Exit::Unreachable, format!("{url} ended the stream")));
                        }
                        Err(status) => return Err(self.client.refusal(&status)),
                    };
                    if message.item.as_ref().is_some_and(|item| !matches!(item, Item::Heartbeat(_))) {
                        idle_at = moment_after(IDLE_MAX);
                    }
                    if !self.unacknowledged {
                        acknowledge_at = moment_after(ACKNOWLEDGE_INTERVAL);
                    }
                    self.take(message)?;
                    if self.args.count.is_some_and(|count| self.written >= count) {
                        break;
                    }
                }
                () = tokio::time::sleep_until(idle_at), if !self.args.follow => break,
            }
        }
        self.acknowledge().await
    }

    fn request(&self) -> v1::WatchRequest {
        let start = match (&self.args.from, self.cursor.is_empty()) {
            (_, false) => Start::Cursor(self.cursor.clone()),
            (Some(From::Committed), _) => Start::Committed(true),
            (Some(From::Earliest), _) => Start::Earliest(true),
            (Some(From::Latest), _) => Start::Latest(true),
            (Some(From::Cursor(cursor)), _) => Start::Cursor(cursor.clone()),
            (Some(From::Time(at_us)), _) => Start::ReceivedAtUs(*at_us),
            (None, _) if self.args.consumer.is_empty() => Start::Latest(true),
            (None, _) => Start::Committed(true),
        };
        v1::WatchRequest {
            consumer: self.args.consumer.clone(),
            start: Some(start),
            application_ids: self.args.application.clone(),
            dev_euis: self.args.device.clone(),
            kinds: self.args.kind.iter().map(|kind| i32::from(*kind)).collect(),
            f_ports: self.args.port.clone(),
            tags: self.args.tag.iter().cloned().collect(),
        }
    }

    /// Writes a message out. Only what was written moves the cursor.
    fn take(&mut self, message: v1::WatchResponse) -> Result<(), Failure> {
        let output = self.context.output;
        match &message.item {
            Some(Item::Event(event)) => {
                let line = if output.is_json() {
                    event_line::event(event, &message.cursor)
                } else {
                    event_person::event(event)
                };
                output.line(&line)?;
                self.written = self.written.saturating_add(1);
            }
            Some(Item::Gap(gap)) => {
                let line = if output.is_json() {
                    event_line::gap(gap, &message.cursor)
                } else {
                    event_person::gap(gap)
                };
                output.line(&line)?;
            }
            Some(Item::Heartbeat(_)) | None => {}
        }
        if !message.cursor.is_empty() {
            self.unacknowledged |= self.cursor != message.cursor && self.acknowledges();
            self.cursor = message.cursor;
        }
        Ok(())
    }

    fn acknowledges(&self) -> bool {
        self.args.acknowledge && !self.args.consumer.is_empty()
    }

    async fn acknowledge(&mut self) -> Result<(), Failure> {
        if !self.unacknowledged {
            return Ok(());
        }
        let request =
            v1::AcknowledgeRequest { consumer: self.args.consumer.clone(), cursor: self.cursor.clone() };
        self.client.ask(self.client.events().acknowledge(request)).await?;
        self.unacknowledged = false;
        Ok(())
    }
}

/// The moment so long from this one.
fn moment_after(pause: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(pause).unwrap_or(now)
}

/// Ends when the person or the system wants the command to end.
fn asked_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let broken = |error: std::io::Error| Failure::error(format!("signals cannot be received: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

async fn consumers(context: &Context) -> Result<(), Failure> {
    let client = context.connect().await?;
    let answer = client.ask(client.events().list_consumers(v1::ListConsumersRequest {})).await?;
    let rows = answer
        .consumers
        .iter()
        .map(|c| {
            vec![
                c.name.clone(),
                c.position.to_string(),
                c.lag.to_string(),
                ago(Some(c.acknowledged_at_us).filter(|at| *at != 0)),
                c.streams.to_string(),
            ]
        })
        .collect();
    let items: Vec<Value> = answer
        .consumers
        .iter()
        .map(|c| {
            json!({
                "name": c.name,
                "position": c.position,
                "lag": c.lag,
                "acknowledged_at": utc_time(c.acknowledged_at_us),
                "streams": c.streams,
                "cursor": STANDARD.encode(&c.cursor),
            })
        })
        .collect();
    if context.output.is_json() {
        return context
            .output
            .json(&json!({ "head": answer.head, "earliest": answer.earliest, "consumers": items }));
    }
    context.output.list(
        &["consumer", "position", "behind", "acknowledged", "streams"],
        rows,
        items,
        "there are no consumers; `loam events tail --consumer NAME` makes one",
    )?;
    context.output.line(&format!("events kept: {} to {}", answer.earliest, answer.head))
}

async fn drops(context: &Context, args: DropsArgs) -> Result<(), Failure> {
    let client = context.connect().await?;
    let request = v1::ListDropsRequest {
        gateway_eui: args.gateway.unwrap_or_default(),
        dev_eui: args.device.unwrap_or_default(),
        limit: args.limit,
    };
    let drops = client.ask(client.events().list_drops(request)).await?.drops;
    let commands = Commands::find(context, &client, &drops).await?;
    if context.output.is_json() {
        return context.output.json(&drops.iter().map(|drop| drop_json(drop, commands.of(drop))).collect());
    }
    let rows = drops.iter().map(drop_row).collect();
    context.output.list(
        &["time", "reason", "gateway", "device", "fcnt", "radio"],
        rows,
        Vec::new(),
        "nothing was refused; if nothing arrives either, look at `loam gateway list`: is a gateway online?",
    )?;

    let mut hints: BTreeMap<&str, &str> = BTreeMap::new();
    for drop in drops.iter().filter(|drop| !drop.hint.is_empty()) {
        hints.entry(&drop.reason).or_insert(&drop.hint);
    }
    for (reason, hint) in hints {
        context.output.line(&printable(&format!("\n{reason}: {hint}")))?;
    }
    let mut details: Vec<String> = drops
        .iter()
        .filter(|drop| !drop.detail.is_empty())
        .map(|drop| printable(&format!("  {}: {}", drop.reason, drop.detail)))
        .collect();
    details.dedup();
    if !details.is_empty() {
        context.output.line("\nDetails, newest first:")?;
        for detail in details.iter().take(DETAILS_MAX) {
            context.output.line(detail)?;
        }
    }
    let mut lines: Vec<String> = drops.iter().filter_map(|drop| commands.of(drop)).collect();
    lines.sort();
    lines.dedup();
    if !lines.is_empty() {
        context.output.line("\nTo register (`--app-key -` asks for the key on standard input):")?;
        for line in lines {
            context.output.line(&format!("  {line}"))?;
        }
    }
    Ok(())
}

/// What goes into the commands that register what is unknown.
struct Commands {
    application: String,
    profile: String,
    region: String,
}

impl Commands {
    async fn find(context: &Context, client: &Client, drops: &[Drop]) -> Result<Self, Failure> {
        let (config, _) = context.config()?;
        let region = words::word(REGIONS, config.network.default_region.into());
        // A name in capitals is one to fill in: there is none yet.
        let mut found = Self { application: "APPLICATION".to_owned(), profile: "PROFILE".to_owned(), region };
        if drops.iter().any(|drop| drop.reason == DEVICE_UNKNOWN) {
            if let Some(first) = application::list(client).await?.into_iter().next() {
                found.application = first.id;
            }
            if let Some(first) = profile::list(client).await?.into_iter().next() {
                found.profile = first.id;
            }
        }
        Ok(found)
    }

    fn of(&self, drop: &Drop) -> Option<String> {
        match drop.reason.as_str() {
            DEVICE_UNKNOWN if !drop.dev_eui.is_empty() => {
                let join_eui = join_eui_of(&drop.phy_payload)?;
                Some(device::create_line(&drop.dev_eui, &join_eui, &self.application, &self.profile))
            }
            GATEWAY_UNKNOWN if !drop.gateway_eui.is_empty() => {
                Some(gateway::create_line(&drop.gateway_eui, &self.region))
            }
            _ => None,
        }
    }
}

/// The JoinEUI of a Join-Request: 8 bytes behind the MHDR, little endian (TS001-1.0.4 §6.2.5).
fn join_eui_of(phy_payload: &[u8]) -> Option<String> {
    if phy_payload.len() != 23 {
        return None;
    }
    let mut eui = phy_payload.get(1..9)?.to_vec();
    eui.reverse();
    Some(hex::encode(eui))
}

fn drop_row(drop: &Drop) -> Vec<String> {
    let device = if drop.dev_eui.is_empty() { &drop.dev_addr } else { &drop.dev_eui };
    let freq = match drop.frequency_hz {
        0 => String::new(),
        freq_hz => format!("{:.1} ", f64::from(freq_hz) / 1e6),
    };
    vec![
        local_time(drop.at_us),
        drop.reason.clone(),
        drop.gateway_eui.clone(),
        device.clone(),
        drop.fcnt.map(|fcnt| fcnt.to_string()).unwrap_or_default(),
        format!("{freq}{}", drop.data_rate),
    ]
}

fn drop_json(drop: &Drop, command: Option<String>) -> Value {
    json!({
        "at": utc_time(drop.at_us),
        "reason": drop.reason,
        "detail": text_or_null(&drop.detail),
        "hint": text_or_null(&drop.hint),
        "gateway_eui": text_or_null(&drop.gateway_eui),
        "dev_eui": text_or_null(&drop.dev_eui),
        "dev_addr": text_or_null(&drop.dev_addr),
        "fcnt": drop.fcnt,
        "phy_payload": STANDARD.encode(&drop.phy_payload),
        "frequency_hz": drop.frequency_hz,
        "data_rate": text_or_null(&drop.data_rate),
        "register_command": command,
    })
}

const DEVICE_UNKNOWN: &str = "device_unknown";
const GATEWAY_UNKNOWN: &str = "gateway_unknown";
const DETAILS_MAX: usize = 10;
/// Acknowledgements are gathered this long, so that a fast stream does not ask once per event.
const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_millis(200);
/// Without --follow, a stream that is silent this long has given all it has.
const IDLE_MAX: Duration = Duration::from_secs(2);
const RECONNECT_WAIT_MIN: Duration = Duration::from_millis(500);
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
