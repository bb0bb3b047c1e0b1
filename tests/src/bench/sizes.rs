//! Memory and start-up time by the number of devices with sessions.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use proto::v1::Region;
use serde_json::json;

use super::devices::Devices;
use super::fleet::{EU868, Fleet};
use super::options::Options;
use super::prepare::{GATEWAYS, Registrar};
use super::report::{Figure, Report};
use super::server::{START_DEADLINE, Server};
use super::step::Field;
use super::{bulk, float, say};

/// Measures each size; one that fails does not keep the others from being measured.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    for count in &options.sizes {
        say(format!("{count} devices: preparing the database"));
        if let Err(error) = measure_one(options, report, *count) {
            report.fail(&format!("sizes: {count} devices"), &error);
        }
    }
    Ok(())
}

fn measure_one(options: &Options, report: &mut Report, count: u32) -> Result<()> {
    let directory = tempfile::tempdir_in(&options.work_dir)?;
    let data_dir = directory.path().join("data");
    let devices = Devices::distinct(0x70b3_d57e_d500_0000, count);
    prepare(&options.loam, &data_dir, &devices)?;

    let server = Server::start(&options.loam, &data_dir, START_MEASURED_DEADLINE)?;
    let seconds = server.started_in.as_secs_f64();
    // What the start itself needed is given back by then, and what runs at rest is there.
    std::thread::sleep(SETTLE);
    let memory = server.memory()?;
    say(format!("{count} devices: ready after {seconds:.3} s, {:.1} MiB", mib(memory.resident_kib)));
    let delivered = prove(&server, devices);
    let served = server.memory()?;
    server.stop()?;
    add(report, count, seconds, mib(memory.resident_kib));
    report.detail(
        &format!("size_{count}"),
        json!({
            "ready_s": seconds,
            "resident_mib": mib(memory.resident_kib),
            "peak_mib": mib(memory.peak_kib),
            "resident_after_uplinks_mib": mib(served.resident_kib),
            "database_bytes": std::fs::metadata(data_dir.join("loam.db")).map_or(0, |file| file.len()),
        }),
    );
    // A figure of sessions that are not sessions would be worth nothing; it is reported, and this says so.
    delivered.context("the sessions of the prepared devices do not work")
}

/// A first start makes keys, application and profile; the devices follow while the server is away.
pub(crate) fn prepare(loam: &Path, data_dir: &Path, devices: &Devices) -> Result<()> {
    let server = Server::start(loam, data_dir, START_DEADLINE)?;
    Registrar::new(&server)?.register_basics(Region::Eu868)?;
    server.stop()?;
    bulk::insert_abp(data_dir, devices)
}

/// The server has all sessions, and uplinks of some devices come out decoded.
pub(crate) fn prove(server: &Server, mut devices: Devices) -> Result<()> {
    let registrar = Registrar::new(server)?;
    let info = registrar.info()?;
    let wanted = u64::from(devices.count);
    if info.devices != wanted || info.sessions != wanted {
        bail!("the server knows {} devices and {} sessions of {wanted}", info.devices, info.sessions);
    }
    let fleet = Fleet::connect(server.udp, &GATEWAYS, EU868)?;
    let field = Field { server, registrar: &registrar, fleet: &fleet };
    // The first thousand: the rest was made in the same way.
    devices.count = devices.count.min(1_000);
    let rate = devices.count.min(500);
    let outcome = field.run(&mut devices, rate, 1)?;
    if !outcome.holds() {
        bail!(
            "{} of {} uplinks were delivered, {} undecoded",
            outcome.delivered,
            outcome.sent.frames,
            outcome.broken
        );
    }
    Ok(())
}

fn add(report: &mut Report, count: u32, seconds: f64, resident_mib: f64) {
    let target = TARGETS.iter().find(|target| target.0 == count);
    let memory = Figure::new(
        format!("memory_mib_at_{count}"),
        format!("resident memory with {count} devices"),
        resident_mib,
        "MiB",
    )
    // To the bytes of a session that cannot be left out: two EUIs and a DevAddr, a key, two counters.
    .ratio(Some(resident_mib * 1024.0 * 1024.0 / (float(u64::from(count)) * BARE_SESSION_LEN)));
    let ready = Figure::new(
        format!("ready_s_at_{count}"),
        format!("from exec to ready with {count} devices"),
        seconds,
        "s",
    );
    let (memory, ready) = match target {
        Some((_, mib_max, seconds_max)) => (memory.at_most(*mib_max), ready.at_most(*seconds_max)),
        None => (memory, ready),
    };
    report.add(memory);
    report.add(ready);
}

fn mib(kib: u64) -> f64 {
    float(kib) / 1024.0
}

/// Devices, MiB at most, seconds at most.
const TARGETS: [(u32, f64, f64); 3] = [(1_000, 40.0, 0.1), (100_000, 150.0, 1.0), (1_000_000, 600.0, 10.0)];
const BARE_SESSION_LEN: f64 = 44.0;
const SETTLE: Duration = Duration::from_secs(3);
/// Far beyond the target, so that a start that misses it is measured too.
pub(crate) const START_MEASURED_DEADLINE: Duration = Duration::from_secs(180);
