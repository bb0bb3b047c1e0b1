//! `loam config`

use clap::Subcommand;
use serde_json::{Map, Value, json};

use crate::client::Context;
use crate::exit::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the configuration in force, with where each value comes from
    Print,
}

pub(crate) fn run(context: &Context, command: &ConfigCommand) -> Result<(), Failure> {
    let ConfigCommand::Print = command;
    let (config, origins) = context.config()?;
    let mut rows = Vec::new();
    let mut object = Map::new();
    for (key, value) in config.entries() {
        let origin = origins.of(&key).to_string();
        let shown = if value.is_null() { "not set".to_owned() } else { value.to_string() };
        rows.push(vec![key.clone(), shown, origin.clone()]);
        object.insert(key, json!({ "value": value, "origin": origin }));
    }
    if context.output.is_json() {
        context.output.json(&Value::Object(object))?;
    } else {
        context.output.list(&["key", "value", "from"], rows, Vec::new(), "")?;
    }
    config
        .check(&origins)
        .map_err(|error| Failure::usage(format!("`loam serve` would refuse this configuration: {error}")))
}
