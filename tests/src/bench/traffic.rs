//! Uplinks a second, what one costs, and how long one takes: one server, 10,000 devices, rising rates.

use anyhow::Result;
use proto::v1::Region;
use serde_json::{Value, json};

use super::devices::Devices;
use super::fleet::{EU868, Fleet};
use super::options::Options;
use super::prepare::{GATEWAYS, Registrar};
use super::report::{Figure, Report};
use super::server::{START_DEADLINE, Server};
use super::step::{Field, Outcome, ms};
use super::{float, say};

/// Measures what of `uplinks` and `latency` was asked for.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir_in(&options.work_dir)?;
    let server = Server::start(&options.loam, &directory.path().join("data"), START_DEADLINE)?;
    let registrar = Registrar::new(&server)?;
    registrar.register_basics(Region::Eu868)?;
    let mut devices = Devices::distinct(0x70b3_d57e_d100_0000, options.devices);
    registrar.register_abp(&devices)?;
    let fleet = Fleet::connect(server.udp, &GATEWAYS, EU868)?;
    let field = Field { server: &server, registrar: &registrar, fleet: &fleet };
    field.warm_up(&mut devices)?;

    let mut reached = None;
    if options.wants("uplinks") {
        let outcomes = rising_rates(&field, &mut devices, options)?;
        reached = outcomes.iter().filter(|o| o.holds()).map(|o| o.rate).max();
        add_uplinks(options, report, &outcomes);
    }
    if options.wants("latency") {
        let mut rates = vec![options.latency_rate];
        rates.extend(reached.map(|rate| rate / 2).filter(|half| *half != options.latency_rate));
        for rate in rates {
            say(format!("latency at {rate} uplinks/s"));
            let outcome = field.run(&mut devices, rate, options.seconds)?;
            add_latency(options, report, &outcome, reached.map(|reached| reached / 2));
        }
    }
    server.stop()
}

/// Steps until one loses something; the target's rate is tried in any case.
fn rising_rates(field: &Field<'_>, devices: &mut Devices, options: &Options) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut held = true;
    for rate in &options.rates {
        if held || *rate <= options.target_rate {
            say(format!("{rate} uplinks/s for {} s", options.seconds));
            let outcome = field.run(devices, *rate, options.seconds)?;
            held = outcome.holds();
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

fn add_uplinks(options: &Options, report: &mut Report, outcomes: &[Outcome]) {
    let steps: Vec<Value> = outcomes.iter().map(Outcome::to_json).collect();
    report.detail("uplinks", json!({ "devices": options.devices, "copies": 3, "steps": steps }));
    let floor = report.floor();
    let best = float(outcomes.iter().filter(|o| o.holds()).map(|o| u64::from(o.rate)).max().unwrap_or(0));
    report.add(
        Figure::new("uplinks_per_second", "accepted uplinks per second, none lost", best, "1/s")
            .at_least(float(u64::from(options.target_rate)))
            .ratio(floor.map(|floor| best / floor.uplinks_per_second)),
    );
    let Some(outcome) = outcomes.iter().find(|o| o.rate == options.target_rate).or_else(|| outcomes.last())
    else {
        return;
    };
    let cost = outcome.server_us_per_uplink();
    report.add(
        Figure::new("server_us_per_uplink", format!("server CPU per uplink at {}/s", outcome.rate), cost, "us")
            .at_most(80.0)
            .ratio(floor.map(|floor| cost / floor.us_per_uplink)),
    );
    let generator = float(outcome.sent.cpu_us + outcome.drain_cpu_us) / float(outcome.sent.frames.max(1));
    report.add(Figure::new("generator_us_per_uplink", "generator CPU per uplink", generator, "us"));
    let consumer = float(outcome.consumer_cpu_us) / float(outcome.sent.frames.max(1));
    report.add(Figure::new("consumer_us_per_uplink", "consumer CPU per uplink", consumer, "us"));
    let acknowledged = float(outcome.push_acks) / float(outcome.sent.datagrams.max(1)) * 100.0;
    report.add(Figure::new("push_acks_percent", "PUSH_DATA acknowledged at that rate", acknowledged, "%"));
}

fn add_latency(options: &Options, report: &mut Report, outcome: &Outcome, half: Option<u32>) {
    report.detail(&format!("latency_at_{}", outcome.rate), outcome.to_json());
    let [p50, p99, _] = outcome.above_window_us.map(ms);
    let floor = report.floor();
    // Half of the rate that was reached is what the target speaks of; the fixed rate compares machines.
    let is_half = half.unwrap_or(options.latency_rate) == outcome.rate;
    let name = |which: &str| format!("latency_{which}_ms_at_{}", outcome.rate);
    let words = |which: &str| format!("{which} above the dedup window at {}/s", outcome.rate);
    report.add(
        Figure::new(name("p50"), words("p50"), p50, "ms").ratio(floor.map(|floor| p50 / floor.commit_p99_ms)),
    );
    let p99_figure =
        Figure::new(name("p99"), words("p99"), p99, "ms").ratio(floor.map(|floor| p99 / floor.commit_p99_ms));
    report.add(if is_half { p99_figure.at_most(30.0) } else { p99_figure });
    if outcome.lost > 0 {
        say(format!(
            "        {} uplinks were lost at {}/s, the latency is of the others",
            outcome.lost, outcome.rate
        ));
    }
}
