//! Logs: text for people, JSON for machines, on standard error.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Server};

/// Starts logging; later calls in one process change nothing.
pub(crate) fn start(server: &Server) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&server.log_level).with_context(|| {
        format!("server.log_level `{}` is no filter; try info, or info,network_server=debug", server.log_level)
    })?;
    // What cannot be logged is lost: to complain about it on standard error would end the thread that logs.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    // A second start in one process (tests do that) keeps the first one's settings.
    let _ = match server.log_format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    Ok(())
}
