//! `loam keys`

use clap::{Args, Subcommand};
use proto::v1;
use serde_json::json;

use crate::client::Context;
use crate::exit::Failure;
use crate::input::{Secret, parse_dev_eui, read_optional_key};

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Set or replace a device's root keys
    Set {
        #[arg(value_parser = parse_dev_eui)]
        dev_eui: String,
        #[command(flatten)]
        keys: RootKeyArgs,
    },
    /// Tell which keys a device has, never their values, and how many join nonces are used up
    Status {
        #[arg(value_parser = parse_dev_eui)]
        dev_eui: String,
    },
    /// Destroy a device's root keys; it can no longer join
    Delete {
        #[arg(value_parser = parse_dev_eui)]
        dev_eui: String,
    },
}

/// The root keys of a device.
#[derive(Args, Debug)]
pub(crate) struct RootKeyArgs {
    /// AppKey, 32 hexadecimal digits; `-` reads a line of standard input, `@FILE` a file
    #[arg(long, value_name = "KEY")]
    pub(crate) app_key: Option<Secret>,
    /// NwkKey of a LoRaWAN 1.1 device, like --app-key
    #[arg(long, value_name = "KEY")]
    pub(crate) nwk_key: Option<Secret>,
}

impl RootKeyArgs {
    /// Reads the keys; `None` when none is given.
    pub(crate) fn read(&self) -> Result<Option<v1::RootKeys>, Failure> {
        if self.app_key.is_none() && self.nwk_key.is_none() {
            return Ok(None);
        }
        Ok(Some(v1::RootKeys {
            app_key: read_optional_key(self.app_key.as_ref(), "--app-key")?,
            nwk_key: read_optional_key(self.nwk_key.as_ref(), "--nwk-key")?,
        }))
    }
}

pub(crate) async fn run(context: &Context, command: KeysCommand) -> Result<(), Failure> {
    let output = context.output;
    match command {
        KeysCommand::Set { dev_eui, keys } => {
            // Keys are read and checked first: nobody should have typed one for a server that is not there to take it.
            let Some(keys) = keys.read()? else {
                return Err(Failure::usage(
                    "no key is given; pass --app-key, and for a 1.1 device --nwk-key too",
                ));
            };
            let client = context.connect().await?;
            let request = v1::SetKeysRequest { dev_eui: dev_eui.clone(), keys: Some(keys) };
            client.ask(client.devices().set_keys(request)).await?;
            output.done(&format!("root keys of device {dev_eui} set"), &json!({ "dev_eui": dev_eui }))
        }
        KeysCommand::Status { dev_eui } => {
            let client = context.connect().await?;
            let request = v1::GetKeysStatusRequest { dev_eui: dev_eui.clone() };
            let status = client.ask(client.devices().get_keys_status(request)).await?;
            let word = |present: bool| (if present { "set" } else { "not set" }).to_owned();
            output.record(
                &[
                    ("device", dev_eui.clone()),
                    ("AppKey", word(status.has_app_key)),
                    ("NwkKey", word(status.has_nwk_key)),
                    ("DevNonces used", status.dev_nonces_used.to_string()),
                    ("last DevNonce", status.last_dev_nonce.map(|n| n.to_string()).unwrap_or_default()),
                    ("last JoinNonce", status.join_nonce.to_string()),
                ],
                &json!({
                    "dev_eui": dev_eui,
                    "has_app_key": status.has_app_key,
                    "has_nwk_key": status.has_nwk_key,
                    "dev_nonces_used": status.dev_nonces_used,
                    "last_dev_nonce": status.last_dev_nonce,
                    "join_nonce": status.join_nonce,
                }),
            )
        }
        KeysCommand::Delete { dev_eui } => {
            let client = context.connect().await?;
            let request = v1::DeleteKeysRequest { dev_eui: dev_eui.clone() };
            client.ask(client.devices().delete_keys(request)).await?;
            output.done(&format!("root keys of device {dev_eui} destroyed"), &json!({ "deleted": dev_eui }))
        }
    }
}
