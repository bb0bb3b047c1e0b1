//! `loam gateway`

use clap::Subcommand;
use proto::v1::{self, Region, list_gateways_response as listed, list_unseen_gateways_response as unseen};
use serde_json::{Value, json};

use super::{PAGE_SIZE, all_pages};
use crate::client::{Client, Context};
use crate::exit::Failure;
use crate::input::parse_gateway_eui;
use crate::output::{ago, local_time, text_or_null, utc_time};
use crate::words::{self, REGIONS, parse_region};

#[derive(Debug, Subcommand)]
pub(crate) enum GatewayCommand {
    /// Register a gateway
    Create {
        /// `gateway_ID` in the packet forwarder's configuration, 16 hexadecimal digits
        #[arg(value_parser = parse_gateway_eui)]
        gateway_eui: String,
        /// The region it listens in: EU868, US915, AU915, AS923-1 or IN865
        #[arg(long, value_parser = parse_region)]
        region: Region,
        /// What people read [default: the EUI]
        #[arg(long)]
        name: Option<String>,
        /// Antenna gain, taken off the power frames are sent with
        #[arg(long, default_value_t = 0.0, allow_negative_numbers = true, value_name = "DBI")]
        antenna_gain_dbi: f32,
        /// The most the radio may send [default: the region's limit alone]
        #[arg(long, value_name = "DBM")]
        max_power_dbm: Option<f32>,
    },
    /// List the gateways
    List {
        /// Those that sent datagrams and are not registered, with the command that registers them
        #[arg(long)]
        unseen: bool,
    },
    /// Show one gateway: paths, round trip, TX_ACK errors, its last status report
    Show {
        #[arg(value_parser = parse_gateway_eui)]
        gateway_eui: String,
    },
    /// Forget a gateway; its frames are refused from then on
    Delete {
        #[arg(value_parser = parse_gateway_eui)]
        gateway_eui: String,
    },
}

pub(crate) async fn run(context: &Context, command: GatewayCommand) -> Result<(), Failure> {
    let client = context.connect().await?;
    let output = context.output;
    match command {
        GatewayCommand::Create { gateway_eui, region, name, antenna_gain_dbi, max_power_dbm } => {
            let gateway = v1::Gateway {
                name: name.unwrap_or_else(|| gateway_eui.clone()),
                gateway_eui,
                region: region.into(),
                antenna_gain_dbi,
                max_power_dbm: max_power_dbm.unwrap_or_default(),
                created_at_us: 0,
            };
            let request = v1::CreateGatewayRequest { gateway: Some(gateway) };
            let answer = client.ask(client.gateways().create_gateway(request)).await?;
            let gateway = answer.gateway.unwrap_or_default();
            output.done(&format!("gateway {} created", gateway.gateway_eui), &as_json(&gateway, None))
        }
        GatewayCommand::List { unseen: false } => list(context, &client).await,
        GatewayCommand::List { unseen: true } => list_unseen(context, &client).await,
        GatewayCommand::Show { gateway_eui } => {
            let request = v1::GetGatewayRequest { gateway_eui };
            let answer = client.ask(client.gateways().get_gateway(request)).await?;
            let gateway = answer.gateway.unwrap_or_default();
            let status = answer.status.unwrap_or_default();
            output.record(&fields(&gateway, &status), &as_json(&gateway, Some(&status)))
        }
        GatewayCommand::Delete { gateway_eui } => {
            let request = v1::DeleteGatewayRequest { gateway_eui: gateway_eui.clone() };
            client.ask(client.gateways().delete_gateway(request)).await?;
            output.done(&format!("gateway {gateway_eui} deleted"), &json!({ "deleted": gateway_eui }))
        }
    }
}

async fn list(context: &Context, client: &Client) -> Result<(), Failure> {
    let mut gateways = client.gateways();
    let items: Vec<listed::Item> = all_pages!(client, gateways, |token| gateways
        .list_gateways(v1::ListGatewaysRequest { page_size: PAGE_SIZE, page_token: token.clone() }));
    let pairs: Vec<(v1::Gateway, v1::GatewayStatus)> = items
        .into_iter()
        .map(|item| (item.gateway.unwrap_or_default(), item.status.unwrap_or_default()))
        .collect();
    let rows = pairs
        .iter()
        .map(|(gateway, status)| {
            vec![
                gateway.gateway_eui.clone(),
                gateway.name.clone(),
                words::word(REGIONS, gateway.region),
                (if status.online { "online" } else { "offline" }).to_owned(),
                ago(status.last_push_at_us.max(status.last_pull_at_us)),
                status.uplinks_received.to_string(),
                round_trip(status),
            ]
        })
        .collect();
    context.output.list(
        &["gateway eui", "name", "region", "state", "heard", "uplinks", "round trip"],
        rows,
        pairs.iter().map(|(gateway, status)| as_json(gateway, Some(status))).collect(),
        "there are no gateways; `loam gateway list --unseen` shows those that sent something",
    )
}

async fn list_unseen(context: &Context, client: &Client) -> Result<(), Failure> {
    // The forwarder does not tell its region; the server's default is the best guess there is.
    let (config, _) = context.config()?;
    let region = words::word(REGIONS, config.network.default_region.into());
    let answer = client.ask(client.gateways().list_unseen_gateways(v1::ListUnseenGatewaysRequest {})).await?;
    let command = |item: &unseen::Item| create_line(&item.gateway_eui, &region);
    let rows: Vec<Vec<String>> = answer
        .gateways
        .iter()
        .map(|item| {
            vec![
                item.gateway_eui.clone(),
                item.address.clone(),
                item.datagrams.to_string(),
                local_time(item.first_seen_at_us),
                local_time(item.last_seen_at_us),
            ]
        })
        .collect();
    let items = answer
        .gateways
        .iter()
        .map(|item| {
            json!({
                "gateway_eui": item.gateway_eui,
                "address": item.address,
                "datagrams": item.datagrams,
                "first_seen_at": utc_time(item.first_seen_at_us),
                "last_seen_at": utc_time(item.last_seen_at_us),
                "create_command": command(item),
            })
        })
        .collect();
    let some = !rows.is_empty() && !context.output.is_json();
    context.output.list(
        &["gateway eui", "address", "datagrams", "first seen", "last seen"],
        rows,
        items,
        "no unregistered gateway has sent anything; is its server_address this machine, and UDP port 1700 open on the way?",
    )?;
    if some {
        context.output.line("\nTo register (change the region where it is another):")?;
        for item in &answer.gateways {
            context.output.line(&format!("  {}", command(item)))?;
        }
    }
    Ok(())
}

/// The command that registers a gateway.
pub(super) fn create_line(gateway_eui: &str, region: &str) -> String {
    format!("loam gateway create {gateway_eui} --region {region}")
}

fn fields<'a>(gateway: &v1::Gateway, status: &v1::GatewayStatus) -> Vec<(&'a str, String)> {
    let errors =
        sorted_errors(status).iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>();
    vec![
        ("gateway eui", gateway.gateway_eui.clone()),
        ("name", gateway.name.clone()),
        ("region", words::word(REGIONS, gateway.region)),
        ("state", (if status.online { "online" } else { "offline" }).to_owned()),
        ("last PUSH_DATA", when(status.last_push_at_us)),
        ("last PULL_DATA", when(status.last_pull_at_us)),
        ("downlink path", status.downlink_path.clone()),
        ("path moves refused", nonzero(status.path_moves_refused)),
        ("round trip", round_trip(status)),
        ("protocol version", nonzero(status.protocol_version.into())),
        ("uplinks received", status.uplinks_received.to_string()),
        ("downlinks sent", status.downlinks_sent.to_string()),
        ("downlinks acknowledged", status.downlinks_acknowledged.to_string()),
        ("TX_ACK errors", errors.join(", ")),
        ("antenna gain", format!("{} dBi", gateway.antenna_gain_dbi)),
        (
            "max power",
            if gateway.max_power_dbm == 0.0 {
                "the region's limit".to_owned()
            } else {
                format!("{} dBm", gateway.max_power_dbm)
            },
        ),
        ("last stat", status.last_stat_at_us.map(local_time).unwrap_or_default()),
        ("stat", status.stat_json.clone()),
        ("created", local_time(gateway.created_at_us)),
    ]
}

fn as_json(gateway: &v1::Gateway, status: Option<&v1::GatewayStatus>) -> Value {
    let mut value = json!({
        "gateway_eui": gateway.gateway_eui,
        "name": gateway.name,
        "region": words::word(REGIONS, gateway.region),
        "antenna_gain_dbi": gateway.antenna_gain_dbi,
        "max_power_dbm": if gateway.max_power_dbm == 0.0 { Value::Null } else { json!(gateway.max_power_dbm) },
        "created_at": utc_time(gateway.created_at_us),
    });
    if let (Some(status), Some(object)) = (status, value.as_object_mut()) {
        let errors: serde_json::Map<String, Value> =
            sorted_errors(status).into_iter().map(|(name, count)| (name.clone(), json!(count))).collect();
        let state = json!({
            "online": status.online,
            "last_push_at": status.last_push_at_us.map_or(Value::Null, utc_time),
            "last_pull_at": status.last_pull_at_us.map_or(Value::Null, utc_time),
            "downlink_path": text_or_null(&status.downlink_path),
            "round_trip_ms": status.round_trip_ms,
            "tx_ack_errors": errors,
            "uplinks_received": status.uplinks_received,
            "downlinks_sent": status.downlinks_sent,
            "downlinks_acknowledged": status.downlinks_acknowledged,
            "protocol_version": status.protocol_version,
            "stat": serde_json::from_str::<Value>(&status.stat_json).unwrap_or(Value::Null),
            "last_stat_at": status.last_stat_at_us.map_or(Value::Null, utc_time),
            "path_moves_refused": status.path_moves_refused,
        });
        object.insert("status".to_owned(), state);
    }
    value
}

fn sorted_errors(status: &v1::GatewayStatus) -> Vec<(&String, &u64)> {
    let mut errors: Vec<_> = status.tx_ack_errors.iter().collect();
    errors.sort();
    errors
}

fn round_trip(status: &v1::GatewayStatus) -> String {
    status.round_trip_ms.map_or_else(|| "not measured".to_owned(), |ms| format!("{ms:.0} ms"))
}

fn when(at_us: Option<i64>) -> String {
    at_us.map_or_else(|| "never".to_owned(), |at| format!("{} ({})", local_time(at), ago(Some(at))))
}

fn nonzero(count: u64) -> String {
    if count == 0 { String::new() } else { count.to_string() }
}
