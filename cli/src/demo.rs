//! `loam demo`: the server on an empty directory, a simulated farm over real sockets, and the events as they come.
//!
//! Everything goes the way a user's gateways, devices and programs go: UDP, the public API, a named consumer. At the end
//! what the farm sent is held against what the stream told.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "it reads nothing of others; what it counts is a small farm of its own"
)]

mod account;
mod farm;
mod folder;
mod order;
mod painter;
mod seen;
mod show;
mod summary;
mod values;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use crate::args::DemoArgs;
use crate::config::Config;
use crate::serve;
use folder::Folder;
use show::Show;

/// Runs the server with a simulated farm, until the time is over or Ctrl-C.
pub(crate) fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    quiet_logs();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(demo(&args))
}

async fn demo(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let folder = Folder::create().context("the demo needs a directory of its own for the server's data")?;
    let server = serve::start(&config_in(folder.path()), false).await?;
    let shown = match Show::open(&server, folder.path(), args).await {
        Ok(show) => show.run().await,
        Err(error) => Err(error),
    };
    let stopped = tokio::time::timeout(STOP_MAX, server.stop()).await;
    let code = shown?;
    stopped.with_context(|| format!("the server did not end within {} s", STOP_MAX.as_secs()))??;
    Ok(code)
}

/// The defaults, but on free ports of this machine only, and in a directory of its own.
fn config_in(folder: &Path) -> Config {
    let mut config = Config::default();
    config.server.data_dir = folder.to_owned();
    config.api.bind = LOOPBACK;
    config.gateways.udp_bind = LOOPBACK;
    // What systems grant without being asked; a farm this small needs no more.
    config.gateways.receive_buffer_bytes = 128 * 1024;
    config
}

/// The screen belongs to the events; only what is wrong is said beside them.
fn quiet_logs() {
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .without_time()
        .try_init();
}

const LOOPBACK: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// What `loam serve` promises for SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(10);
