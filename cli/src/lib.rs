//! `loam`: the server and the commands to run it, in one binary.
//!
//! This crate alone puts the roles together and reads configuration; every command but `serve`, `demo`, `decode`, `config`
//! and `completion` is a client of the same gRPC API that others use.

#![cfg_attr(
    not(test),
    deny(
        clippy::allow_attributes_without_reason,
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod args;
mod client;
mod command;
mod config;
mod demo;
mod exit;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod input;
mod output;
mod serve;
mod words;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command, Globals, ServeArgs};
use client::{Context, load_config};
use config::Origin;
use exit::{Exit, Failure};
use output::Output;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; a reader who left is none either.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(Exit::Usage as u8) } else { ExitCode::SUCCESS };
        }
    };
    match run(cli) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let output = Output::new(cli.globals.output);
    let context = Context { globals: cli.globals, output };
    match cli.command {
        Command::Serve(args) => serve(&context.globals, args)?,
        Command::Demo(mut args) => {
            args.output = context.globals.output;
            return Ok(demo::run(args)?);
        }
        Command::Decode(args) => command::decode::run(&context, &args)?,
        Command::Config(args) => command::config_print::run(&context, &args)?,
        Command::Completion(args) => command::completion::run(&context, &args)?,
        Command::Application(args) => wait(command::application::run(&context, args))?,
        Command::Gateway(args) => wait(command::gateway::run(&context, args))?,
        Command::Device(args) => wait(command::device::run(&context, *args))?,
        Command::Keys(args) => wait(command::keys::run(&context, args))?,
        Command::Profile(args) => wait(command::profile::run(&context, *args))?,
        Command::Codec(args) => wait(command::codec::run(&context, args))?,
        Command::Events(args) => wait(command::events::run(&context, *args))?,
        Command::Downlink(args) => wait(command::downlink::run(&context, args))?,
        Command::Backup(args) => wait(command::backup::run(&context, args))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Lays the flags over the configuration, checks the whole, and hands it to the server.
fn serve(globals: &Globals, args: ServeArgs) -> Result<(), Failure> {
    let (mut config, mut origins) = load_config(globals)?;
    if !args.role.is_empty() {
        config.server.roles.clone_from(&args.role);
        origins.set("server.roles", Origin::CommandLine("--role"));
    }
    if args.insecure {
        config.api.insecure = true;
        origins.set("api.insecure", Origin::CommandLine("--insecure"));
    }
    config.check(&origins).map_err(|error| Failure::usage(format!("configuration: {error}")))?;
    Ok(serve::run(config, args)?)
}

/// Runs a command that talks to a server.
fn wait(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::error(format!("the runtime cannot start: {error}")))?;
    runtime.block_on(command)
}
