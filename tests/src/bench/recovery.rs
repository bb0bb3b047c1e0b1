//! From the start after a kill -9 under load to ready.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::devices::Devices;
use super::fleet::{EU868, Fleet};
use super::options::Options;
use super::prepare::{GATEWAYS, Registrar};
use super::report::{Figure, Report};
use super::sender::{Pace, send_all};
use super::server::Server;
use super::{float, percentile, say, sizes};

/// Kills the server under load again and again; what is behind the session checkpoint grows meanwhile, as it does in the minute before
/// one.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let count = options.recovery_devices;
    let directory = tempfile::tempdir_in(&options.work_dir)?;
    let data_dir = directory.path().join("data");
    let mut devices = Devices::distinct(0x70b3_d57e_d600_0000, count);
    sizes::prepare(&options.loam, &data_dir, &devices)?;

    let mut server = Server::start(&options.loam, &data_dir, sizes::START_MEASURED_DEADLINE)?;
    let mut starts_us = Vec::new();
    for kill in 0..options.kills {
        run_and_kill(server, &mut devices, options.recovery_rate, LIFE_MS + u64::from(kill * 367 % 1_000))?;
        server = Server::start(&options.loam, &data_dir, sizes::START_MEASURED_DEADLINE)?;
        starts_us.push(i64::try_from(server.started_in.as_micros())?);
        let info = Registrar::new(&server)?.info()?;
        if (info.devices, info.sessions) != (u64::from(count), u64::from(count)) {
            bail!("after kill {kill} there are {} devices and {} sessions", info.devices, info.sessions);
        }
    }
    let database_bytes = std::fs::metadata(data_dir.join("loam.db-wal")).map_or(0, |file| file.len());
    sizes::prove(&server, devices).context("after all kills")?;
    server.stop()?;

    let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| seconds(percentile(&mut starts_us, share)));
    say(format!(
        "{} kills with {count} devices: ready after {p50:.3} s (p50), {most:.3} s (most)",
        options.kills
    ));
    for (name, words, value) in
        [("p50", "half of them", p50), ("p99", "p99", p99), ("max", "the longest", most)]
    {
        let words = format!("from exec after kill -9 to ready, {count} devices, {words}");
        report.add(Figure::new(format!("recovery_s_{name}_at_{count}"), words, value, "s").at_most(1.0));
    }
    report.detail(
        "recovery",
        json!({
            "kills": options.kills,
            "uplinks_per_second": options.recovery_rate,
            "starts_s": starts_us.iter().map(|us| seconds(*us)).collect::<Vec<_>>(),
            "wal_bytes_at_the_end": database_bytes,
        }),
    );
    Ok(())
}

/// Sends for a while and kills the server in the middle of it.
fn run_and_kill(server: Server, devices: &mut Devices, rate: u32, life_ms: u64) -> Result<()> {
    let fleet = Fleet::connect(server.udp, &GATEWAYS, EU868)?;
    let count = usize::try_from(u64::from(rate) * (life_ms + 200) / 1_000)?;
    let (frames, _) = devices.frames(count)?;
    let sent_at_us: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        // A socket whose other end has gone refuses; that is the end of sending.
        let sender = scope.spawn(|| send_all(&fleet, &frames, Pace::PerSecond(rate), &sent_at_us).is_ok());
        std::thread::sleep(Duration::from_millis(life_ms));
        drop(server);
        sender.join()
    })
    .map(drop)
    .ok()
    .context("the sending thread panicked")
}

#[allow(clippy::cast_sign_loss, reason = "a span is not negative")]
fn seconds(us: i64) -> f64 {
    float(us as u64) / 1e6
}

const LIFE_MS: u64 = 500;
