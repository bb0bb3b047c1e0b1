//! `loam device`

use clap::{Args, Subcommand};
use proto::v1;
use serde_json::{Value, json};

use super::device_import::{self, ImportArgs};
use super::keys::RootKeyArgs;
use super::{PAGE_SIZE, all_pages};
use crate::client::{Client, Context};
use crate::exit::Failure;
use crate::input::{Secret, parse_dev_addr, parse_dev_eui, parse_join_eui, parse_tag, read_optional_key};
use crate::output::{ago, local_time, tags_line, text_or_null, utc_time};
use crate::words::{self, MAC_VERSIONS};

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Register a device; with --join-eui and --app-key it joins over the air, without it is activated by hand
    Create(CreateArgs),
    /// List the devices
    List {
        /// Only those of this application
        #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
        application: String,
    },
    /// Show one device and its session
    Show {
        #[arg(value_parser = parse_dev_eui)]
        dev_eui: String,
    },
    /// Change what is named and keep the rest
    Update(UpdateArgs),
    /// Delete a device with its keys, sessions and queue
    Delete {
        #[arg(value_parser = parse_dev_eui)]
        dev_eui: String,
    },
    /// Give a device its session by hand (ABP), in place of any other
    Activate(ActivateArgs),
    /// Register many devices from a CSV file
    Import(ImportArgs),
}

#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// As printed on the device's label, 16 hexadecimal digits
    #[arg(value_parser = parse_dev_eui)]
    dev_eui: String,
    /// The application its events belong to
    #[arg(long, value_name = "ID")]
    application: String,
    /// The profile that says what it can do
    #[arg(long, value_name = "ID")]
    profile: String,
    /// What people read [default: the DevEUI]
    #[arg(long)]
    name: Option<String>,
    /// JoinEUI (AppEUI on older labels) of a device that joins over the air
    #[arg(long, value_parser = parse_join_eui, value_name = "EUI", requires = "app_key")]
    join_eui: Option<String>,
    #[command(flatten)]
    keys: RootKeyArgs,
    /// A codec's id, cayenne-lpp or none [default: the profile's]
    #[arg(long, default_value = "", hide_default_value = true)]
    codec: String,
    /// A tag, name=value; may be given several times
    #[arg(long, value_parser = parse_tag, value_name = "NAME=VALUE")]
    tag: Vec<(String, String)>,
    /// Refuse its frames until it is enabled
    #[arg(long)]
    disabled: bool,
    /// Take a counter that starts again at 0 (ABP devices that forget it); weakens the protection against replays
    #[arg(long)]
    allow_fcnt_reset: bool,
}

#[derive(Args, Debug)]
pub(crate) struct UpdateArgs {
    #[arg(value_parser = parse_dev_eui)]
    dev_eui: String,
    /// Move it to another application
    #[arg(long, value_name = "ID")]
    application: Option<String>,
    /// Give it another profile
    #[arg(long, value_name = "ID")]
    profile: Option<String>,
    /// What people read
    #[arg(long)]
    name: Option<String>,
    /// Another JoinEUI
    #[arg(long, value_parser = parse_join_eui, value_name = "EUI")]
    join_eui: Option<String>,
    /// A codec's id, cayenne-lpp, none, or "" for the profile's
    #[arg(long)]
    codec: Option<String>,
    /// Set a tag, name=value; an empty value takes the tag away
    #[arg(long, value_parser = parse_tag, value_name = "NAME=VALUE")]
    tag: Vec<(String, String)>,
    /// true refuses its frames, false takes them again
    #[arg(long, value_name = "BOOL")]
    disabled: Option<bool>,
    /// Whether a counter that starts again at 0 is taken
    #[arg(long, value_name = "BOOL")]
    allow_fcnt_reset: Option<bool>,
}

#[derive(Args, Debug)]
pub(crate) struct ActivateArgs {
    #[arg(value_parser = parse_dev_eui)]
    dev_eui: String,
    /// 8 hexadecimal digits
    #[arg(long, value_parser = parse_dev_addr, value_name = "ADDR")]
    dev_addr: String,
    /// NwkSKey (LoRaWAN 1.0.x) or FNwkSIntKey (1.1), 32 hexadecimal digits; `-` reads a line of standard input, `@FILE` a file
    #[arg(long, value_name = "KEY")]
    nwk_s_key: Secret,
    /// AppSKey, like --nwk-s-key
    #[arg(long, value_name = "KEY")]
    app_s_key: Secret,
    /// SNwkSIntKey of a 1.1 device
    #[arg(long, value_name = "KEY", requires = "nwk_s_enc_key")]
    s_nwk_s_int_key: Option<Secret>,
    /// NwkSEncKey of a 1.1 device
    #[arg(long, value_name = "KEY", requires = "s_nwk_s_int_key")]
    nwk_s_enc_key: Option<Secret>,
    /// The last uplink counter the device has used [default: none yet]
    #[arg(long, value_name = "N")]
    fcnt_up: Option<u32>,
    /// The next downlink counter to use; never one that was used before with these keys
    #[arg(long, value_name = "N", default_value_t = 0)]
    fcnt_down: u32,
}

pub(crate) async fn run(context: &Context, command: DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::Create(args) => create(context, args).await,
        DeviceCommand::List { application } => list(context, application).await,
        DeviceCommand::Show { dev_eui } => show(context, dev_eui).await,
        DeviceCommand::Update(args) => update(context, args).await,
        DeviceCommand::Delete { dev_eui } => {
            let client = context.connect().await?;
            client
                .ask(client.devices().delete_device(v1::DeleteDeviceRequest { dev_eui: dev_eui.clone() }))
                .await?;
            context.output.done(&format!("device {dev_eui} deleted"), &json!({ "deleted": dev_eui }))
        }
        DeviceCommand::Activate(args) => activate(context, args).await,
        DeviceCommand::Import(args) => device_import::run(context, args).await,
    }
}

/// The command that registers a device which asked to join.
pub(super) fn create_line(dev_eui: &str, join_eui: &str, application: &str, profile: &str) -> String {
    format!(
        "loam device create {dev_eui} --join-eui {join_eui} --application {application} --profile {profile} --app-key -"
    )
}

async fn create(context: &Context, args: CreateArgs) -> Result<(), Failure> {
    let keys = args.keys.read()?;
    if keys.is_some() && args.join_eui.is_none() {
        return Err(Failure::usage(
            "root keys belong to a device that joins over the air; pass its --join-eui too, or leave the keys out",
        ));
    }
    let device = v1::Device {
        name: args.name.unwrap_or_else(|| args.dev_eui.clone()),
        dev_eui: args.dev_eui,
        join_eui: args.join_eui.unwrap_or_default(),
        application_id: args.application,
        profile_id: args.profile,
        tags: args.tag.into_iter().collect(),
        codec_id: args.codec,
        disabled: args.disabled,
        allow_fcnt_reset: args.allow_fcnt_reset,
        created_at_us: 0,
    };
    let joins = keys.is_some();
    let client = context.connect().await?;
    let request = v1::CreateDeviceRequest { device: Some(device), keys };
    let answer = client.ask(client.devices().create_device(request)).await?;
    let device = answer.device.unwrap_or_default();
    context.output.done(&format!("device {} created", device.dev_eui), &as_json(&device))?;
    if !joins && !context.output.is_json() {
        context.output.line(&format!(
            "It has no root keys; activate it: loam device activate {} --dev-addr ADDR --nwk-s-key - --app-s-key -",
            device.dev_eui
        ))?;
    }
    Ok(())
}

async fn list(context: &Context, application_id: String) -> Result<(), Failure> {
    let client = context.connect().await?;
    let devices = all(&client, &application_id).await?;
    let rows = devices
        .iter()
        .map(|d| {
            vec![
                d.dev_eui.clone(),
                d.name.clone(),
                d.application_id.clone(),
                d.profile_id.clone(),
                (if d.disabled { "disabled" } else { "" }).to_owned(),
                tags_line(&d.tags),
            ]
        })
        .collect();
    context.output.list(
        &["dev eui", "name", "application", "profile", "", "tags"],
        rows,
        devices.iter().map(as_json).collect(),
        "there are no devices; register one with `loam device create`, or many with `loam device import`",
    )
}

/// All devices of an application; of all applications when it is empty.
async fn all(client: &Client, application_id: &str) -> Result<Vec<v1::Device>, Failure> {
    let mut service = client.devices();
    Ok(all_pages!(client, devices, |token| service.list_devices(v1::ListDevicesRequest {
        application_id: application_id.to_owned(),
        page_size: PAGE_SIZE,
        page_token: token.clone(),
    })))
}

async fn show(context: &Context, dev_eui: String) -> Result<(), Failure> {
    let client = context.connect().await?;
    let answer = client.ask(client.devices().get_device(v1::GetDeviceRequest { dev_eui })).await?;
    let device = answer.device.unwrap_or_default();
    let state = answer.state.unwrap_or_default();
    let mut fields = vec![
        ("dev eui", device.dev_eui.clone()),
        ("join eui", device.join_eui.clone()),
        ("name", device.name.clone()),
        ("application", device.application_id.clone()),
        ("profile", device.profile_id.clone()),
        (
            "codec",
            if device.codec_id.is_empty() { "the profile's".to_owned() } else { device.codec_id.clone() },
        ),
        ("tags", tags_line(&device.tags)),
        ("disabled", yes(device.disabled)),
        ("allows counter reset", yes(device.allow_fcnt_reset)),
        ("created", local_time(device.created_at_us)),
        ("queued downlinks", answer.queued_downlinks.to_string()),
    ];
    fields.extend(state_fields(&state));
    let mut item = as_json(&device);
    if let Some(object) = item.as_object_mut() {
        object.insert("state".to_owned(), state_json(&state));
        object.insert("queued_downlinks".to_owned(), json!(answer.queued_downlinks));
    }
    context.output.record(&fields, &item)
}

async fn update(context: &Context, args: UpdateArgs) -> Result<(), Failure> {
    let client = context.connect().await?;
    let request = v1::GetDeviceRequest { dev_eui: args.dev_eui };
    let mut device = client.ask(client.devices().get_device(request)).await?.device.unwrap_or_default();
    if let Some(application) = args.application {
        device.application_id = application;
    }
    if let Some(profile) = args.profile {
        device.profile_id = profile;
    }
    if let Some(name) = args.name {
        device.name = name;
    }
    if let Some(join_eui) = args.join_eui {
        device.join_eui = join_eui;
    }
    if let Some(codec) = args.codec {
        device.codec_id = codec;
    }
    if let Some(disabled) = args.disabled {
        device.disabled = disabled;
    }
    if let Some(allow) = args.allow_fcnt_reset {
        device.allow_fcnt_reset = allow;
    }
    for (name, value) in args.tag {
        if value.is_empty() {
            device.tags.remove(&name);
        } else {
            device.tags.insert(name, value);
        }
    }
    let request = v1::UpdateDeviceRequest { device: Some(device) };
    let device = client.ask(client.devices().update_device(request)).await?.device.unwrap_or_default();
    context.output.done(&format!("device {} updated", device.dev_eui), &as_json(&device))
}

async fn activate(context: &Context, args: ActivateArgs) -> Result<(), Failure> {
    let request = v1::ActivateDeviceRequest {
        nwk_s_key: args.nwk_s_key.read_key("--nwk-s-key")?,
        app_s_key: args.app_s_key.read_key("--app-s-key")?,
        s_nwk_s_int_key: read_optional_key(args.s_nwk_s_int_key.as_ref(), "--s-nwk-s-int-key")?,
        nwk_s_enc_key: read_optional_key(args.nwk_s_enc_key.as_ref(), "--nwk-s-enc-key")?,
        dev_eui: args.dev_eui.clone(),
        dev_addr: args.dev_addr.clone(),
        fcnt_up: args.fcnt_up,
        fcnt_down: args.fcnt_down,
    };
    let client = context.connect().await?;
    let answer = client.ask(client.devices().activate_device(request)).await?;
    context.output.done(
        &format!("device {} activated with DevAddr {}", args.dev_eui, args.dev_addr),
        &json!({
            "dev_eui": args.dev_eui,
            "dev_addr": args.dev_addr,
            "session_id": answer.session_id.to_string(),
        }),
    )
}

fn state_fields<'a>(state: &v1::DeviceState) -> Vec<(&'a str, String)> {
    if !state.has_session {
        let waiting = match state.pending_sessions {
            0 => "none yet",
            _ => "none yet; a Join-Accept was sent, its first uplink is awaited",
        };
        return vec![("session", waiting.to_owned())];
    }
    let battery = state.battery.map_or_else(String::new, battery_words);
    vec![
        ("session", format!("{} by {}", state.dev_addr, state.activation.to_uppercase())),
        ("since", state.session_started_at_us.map(local_time).unwrap_or_default()),
        ("LoRaWAN version", words::word(MAC_VERSIONS, state.mac_version)),
        ("last uplink", format!("{}, counter {}", ago(state.last_seen_at_us), counter(state.fcnt_up))),
        ("next downlink", format!("counter {}", state.fcnt_down)),
        ("next AFCntDown", if state.afcnt_down == 0 { String::new() } else { state.afcnt_down.to_string() }),
        ("data rate", format!("DR{}", state.data_rate)),
        ("TX power index", state.tx_power_index.to_string()),
        ("repetitions", state.nb_trans.to_string()),
        ("RX1 delay", format!("{} s", state.rx1_delay_s)),
        ("battery", battery),
        ("link margin", state.margin_db.map(|db| format!("{db} dB")).unwrap_or_default()),
    ]
}

/// A battery level of DevStatusAns (TS001-1.0.4 §5.5).
pub(super) fn battery_words(level: u32) -> String {
    match level {
        0 => "external power".to_owned(),
        1..=254 => format!("{} %", level.saturating_mul(100) / 254),
        _ => "not measured".to_owned(),
    }
}

fn counter(fcnt: Option<u32>) -> String {
    fcnt.map_or_else(|| "none".to_owned(), |fcnt| fcnt.to_string())
}

fn yes(flag: bool) -> String {
    (if flag { "yes" } else { "" }).to_owned()
}

fn as_json(device: &v1::Device) -> Value {
    let tags: std::collections::BTreeMap<&String, &String> = device.tags.iter().collect();
    json!({
        "dev_eui": device.dev_eui,
        "join_eui": text_or_null(&device.join_eui),
        "application_id": device.application_id,
        "profile_id": device.profile_id,
        "name": device.name,
        "tags": tags,
        "codec_id": text_or_null(&device.codec_id),
        "disabled": device.disabled,
        "allow_fcnt_reset": device.allow_fcnt_reset,
        "created_at": utc_time(device.created_at_us),
    })
}

fn state_json(state: &v1::DeviceState) -> Value {
    if !state.has_session {
        return json!({ "has_session": false, "pending_sessions": state.pending_sessions });
    }
    json!({
        "has_session": true,
        "dev_addr": state.dev_addr,
        "session_id": state.session_id.to_string(),
        "activation": state.activation,
        "fcnt_up": state.fcnt_up,
        "fcnt_down": state.fcnt_down,
        "afcnt_down": state.afcnt_down,
        "mac_version": words::word(MAC_VERSIONS, state.mac_version),
        "last_seen_at": state.last_seen_at_us.map_or(Value::Null, utc_time),
        "session_started_at": state.session_started_at_us.map_or(Value::Null, utc_time),
        "battery": state.battery,
        "margin_db": state.margin_db,
        "data_rate": state.data_rate,
        "tx_power_index": state.tx_power_index,
        "nb_trans": state.nb_trans,
        "rx1_delay_s": state.rx1_delay_s,
        "pending_sessions": state.pending_sessions,
    })
}

/// Whether what is asked for is what is there: everything a person sets, but keys, which cannot be read back.
pub(super) fn same_settings(a: &v1::Device, b: &v1::Device) -> bool {
    let settings = |d: &v1::Device| v1::Device { created_at_us: 0, ..d.clone() };
    settings(a) == settings(b)
}
