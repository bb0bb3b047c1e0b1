//! The command line as a whole; each command's own options are beside its code.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::command::{
    application, backup, codec, completion, config_print, decode, device, downlink, events, gateway, keys,
    profile,
};
use crate::config::Role;
use crate::exit::EXIT_CODES;
use crate::input::Secret;
use crate::output::Format;

/// A LoRaWAN network server, join server and application bridge in one program, and the commands to run it.
#[derive(Debug, Parser)]
#[command(name = "loam", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options every command takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Globals {
    /// Where the server's API is [default: that of the server in the data directory, else api.bind of the
    /// configuration]
    #[arg(long, global = true, env = "LOAM_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// API key; @FILE and - (standard input) keep it out of `ps` [default: the admin key in the data directory]
    #[arg(long, global = true, env = "LOAM_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) api_key: Option<Secret>,
    /// Certificates (PEM) that vouch for an https server [default: those of the system]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The server's data directory on this machine, with the file admin.key [default: server.data_dir of the configuration]
    #[arg(long, global = true, value_name = "DIRECTORY")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Configuration file [default: ./loam.toml if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How results are written
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    Serve(ServeArgs),
    /// Run a server with a simulated farm and show its events
    Demo(DemoArgs),
    /// Applications: groups of devices whose events are read together
    #[command(subcommand)]
    Application(application::ApplicationCommand),
    /// Gateways: who may bring frames and send them
    #[command(subcommand)]
    Gateway(gateway::GatewayCommand),
    /// Devices and their sessions
    #[command(subcommand)]
    Device(Box<device::DeviceCommand>),
    /// Root keys of devices that join over the air
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Device profiles: region, LoRaWAN version and how the network treats a kind of device
    #[command(subcommand)]
    Profile(Box<profile::ProfileCommand>),
    /// Payload codecs in JavaScript
    #[command(subcommand)]
    Codec(codec::CodecCommand),
    /// Events: what devices said and what became of downlinks
    #[command(subcommand)]
    Events(Box<events::EventsCommand>),
    /// Downlinks: what waits for devices
    #[command(subcommand)]
    Downlink(downlink::DownlinkCommand),
    /// Explain a LoRaWAN frame (PHYPayload); works without a server
    Decode(Box<decode::DecodeArgs>),
    /// Copy the database while the server runs
    Backup(backup::BackupArgs),
    /// Configuration
    #[command(subcommand)]
    Config(config_print::ConfigCommand),
    /// Write a completion script for a shell to standard output
    Completion(completion::CompletionArgs),
}

/// Options of `loam serve`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    /// A role this process plays; may be given several times [default: all of them]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROLE")]
    pub(crate) role: Vec<Role>,
    /// Serve the API in clear text beyond this machine; API keys can be read on the way
    #[arg(long)]
    pub(crate) insecure: bool,
}

/// Options of `loam demo`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// End by itself after so many seconds, with a summary [default: run until Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: Option<u64>,
    /// Seed of the simulated farm; the same seed is the same farm
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// How events are written: the global `--output`, filled in by `main`.
    #[arg(skip)]
    pub(crate) output: Format,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_tells_the_exit_codes() {
        let help = Cli::command().render_long_help().to_string();
        for line in EXIT_CODES.lines() {
            assert!(help.contains(line.trim()), "{line}");
        }
    }

    #[test]
    fn a_key_on_the_command_line_is_not_shown_by_debug() {
        let cli = Cli::try_parse_from(["loam", "--api-key", "sesame", "application", "list"]).unwrap();
        assert!(!format!("{cli:?}").contains("sesame"));
    }

    #[test]
    fn roles_may_be_listed_or_repeated() {
        for arguments in [
            vec!["loam", "serve", "--role", "join-server,app-bridge"],
            vec!["loam", "serve", "--role", "join-server", "--role", "app-bridge", "--insecure"],
        ] {
            let cli = Cli::try_parse_from(arguments).unwrap();
            let Command::Serve(args) = cli.command else { panic!("not serve") };
            assert_eq!(args.role, [Role::JoinServer, Role::AppBridge]);
        }
        assert!(Cli::try_parse_from(["loam", "serve", "--role", "gateway"]).is_err());
    }

    /// Every command and every option of it is in docs/cli.md, under a heading with the command's name, and nothing else is.
    #[test]
    fn the_documentation_lists_every_command_and_option_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
        let text = std::fs::read_to_string(path).unwrap();
        let mut command = Cli::command();
        command.build();
        let mut expected = BTreeSet::new();
        collect(&command, "loam", &mut expected);

        let mut documented = BTreeSet::new();
        let mut heading = String::new();
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("### `") {
                heading = title.split('`').next().unwrap().to_owned();
                documented.insert(heading.clone());
            } else if line.starts_with("## ") {
                heading.clear();
            } else if let Some(row) = line.strip_prefix("| `--")
                && !heading.is_empty()
            {
                let name = row.split(['`', ' ']).next().unwrap();
                documented.insert(format!("{heading} --{name}"));
            }
        }

        let missing: Vec<_> = expected.difference(&documented).collect();
        let stale: Vec<_> = documented.difference(&expected).collect();
        assert!(missing.is_empty() && stale.is_empty(), "missing: {missing:#?}\nstale: {stale:#?}");
    }

    fn collect(command: &clap::Command, path: &str, into: &mut BTreeSet<String>) {
        let children: Vec<_> = command.get_subcommands().filter(|c| c.get_name() != "help").collect();
        if children.is_empty() {
            into.insert(path.to_owned());
            for argument in command.get_arguments().filter(|a| !a.is_global_set()) {
                if let Some(long) = argument.get_long().filter(|l| !["help", "version"].contains(l)) {
                    into.insert(format!("{path} --{long}"));
                }
            }
        }
        for child in children {
            collect(child, &format!("{path} {}", child.get_name()), into);
        }
    }
}
