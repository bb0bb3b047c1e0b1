//! Joins a second: Join-Requests at a fixed rate, counted as Join-Accepts at the gateways and as events on the stream.
//!
//! In US915, which has no duty cycle: in EU868 a gateway may send some hundred accepts an hour.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use loam_tests::story::hex;
use mac::ids::{DevEui, DevNonce, JoinEui};
use mac::join_frame::JoinRequest;
use proto::v1::event::Kind;
use proto::v1::{self, Region};
use serde_json::{Value, json};

use super::consumer::{Consumer, Verdict};
use super::devices::derived;
use super::downlinks::{Tally, drain};
use super::fleet::{Fleet, Frames, US915};
use super::options::Options;
use super::prepare::{GATEWAYS, Registrar, device};
use super::report::{Figure, Report};
use super::sender::{Pace, Sent, send_all};
use super::server::{START_DEADLINE, Server};
use super::step::{difference, ms};
use super::{float, now_us, percentile, say, wait_until_still};

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let count = options.join_rate * options.seconds;
    if count > DEVICES_MAX {
        bail!("{count} joins are too many to tell their accepts apart; at most {DEVICES_MAX}");
    }
    let directory = tempfile::tempdir_in(&options.work_dir)?;
    let server = Server::start(&options.loam, &directory.path().join("data"), START_DEADLINE)?;
    let registrar = Registrar::new(&server)?;
    registrar.register_basics(Region::Us915)?;
    registrar.register_otaa((0..count).map(otaa_device).collect())?;
    let mut rates = Vec::new();
    for (copies, dev_nonce) in [(1, 1), (GATEWAYS.len(), 2)] {
        say(format!("{} joins/s for {} s, {copies} copies each", options.join_rate, options.seconds));
        let euis = GATEWAYS.get(..copies).unwrap_or_default();
        let fleet = Fleet::connect(server.udp, euis, US915)?;
        let run = Run { server: &server, registrar: &registrar, fleet: &fleet, rate: options.join_rate, count };
        let outcome = run.measure(DevNonce::new(dev_nonce))?;
        outcome.say();
        report.detail(&format!("joins_{copies}_copies"), outcome.to_json());
        report.add(Figure::new(
            format!("joins_us_{copies}_copies"),
            format!("server CPU per join, {copies} copies"),
            outcome.server_us_per_join(),
            "us",
        ));
        rates.push(outcome.rate());
    }
    let rate = rates.into_iter().reduce(f64::min).context("no run was made")?;
    let floor = report.floor();
    report.add(
        Figure::new("joins_per_second", "joins per second, 1 and 3 copies, the lower", rate, "1/s")
            .at_least(float(u64::from(options.join_rate)))
            .ratio(floor.map(|floor| rate / floor.uplinks_per_second)),
    );
    server.stop()
}

struct Run<'a> {
    server: &'a Server,
    registrar: &'a Registrar,
    fleet: &'a Fleet,
    rate: u32,
    count: u32,
}

#[derive(Debug)]
struct Outcome {
    /// Requests a second that were to be sent.
    asked: u32,
    sent: Sent,
    push_acks: u64,
    pull_resps: u64,
    accepts: u64,
    accepts_again: u64,
    other_downlinks: u64,
    events: u64,
    events_again: u64,
    server_cpu_us: u64,
    generator_cpu_us: u64,
    /// From the request's departure to the PULL_RESP; p50, p99, longest.
    answered_us: [i64; 3],
    drops: std::collections::BTreeMap<String, u64>,
}

impl Outcome {
    /// Joins a second that were answered and told, of those that were to be sent.
    fn rate(&self) -> f64 {
        let sent = if self.sent.kept(self.asked) { float(u64::from(self.asked)) } else { self.sent.rate() };
        sent * float(self.accepts.min(self.events)) / float(self.sent.frames.max(1))
    }

    fn server_us_per_join(&self) -> f64 {
        float(self.server_cpu_us) / float(self.sent.frames.max(1))
    }

    fn say(&self) {
        say(format!(
            "{} requests sent, {} accepts ({} again, {} other downlinks), {} events ({} again); {} of {} PUSH_ACKs; server {:.1} \
             us, generator {:.1} us per join; answered after p50 {:.0} ms, p99 {:.0} ms",
            self.sent.frames,
            self.accepts,
            self.accepts_again,
            self.other_downlinks,
            self.events,
            self.events_again,
            self.push_acks,
            self.sent.datagrams,
            self.server_us_per_join(),
            float(self.generator_cpu_us) / float(self.sent.frames.max(1)),
            ms(self.answered_us[0]),
            ms(self.answered_us[1]),
        ));
        if !self.drops.is_empty() {
            say(format!("        the server refused meanwhile: {:?}", self.drops));
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "requests_sent": self.sent.frames,
            "sent_per_second": self.sent.rate(),
            "datagrams_sent": self.sent.datagrams,
            "push_acks": self.push_acks,
            "pull_resps": self.pull_resps,
            "join_accepts": self.accepts,
            "join_accepts_again": self.accepts_again,
            "other_downlinks": self.other_downlinks,
            "join_events": self.events,
            "join_events_again": self.events_again,
            "server_cpu_us_per_join": self.server_us_per_join(),
            "generator_cpu_us_per_join": float(self.generator_cpu_us) / float(self.sent.frames.max(1)),
            "generator_behind_ms_max": float(self.sent.behind_us_max) / 1e3,
            "answered_ms": {
                "p50": ms(self.answered_us[0]),
                "p99": ms(self.answered_us[1]),
                "max": ms(self.answered_us[2]),
            },
            "drops": self.drops,
        })
    }
}

impl Run<'_> {
    fn measure(&self, dev_nonce: DevNonce) -> Result<Outcome> {
        let frames = requests(self.count, dev_nonce);
        let consumer = Consumer::open(self.server, v1::EventKind::Join, frames.len(), judge(self.count))?;
        let drops_before = self.registrar.info()?.drops;
        let cpu_before_us = self.server.cpu_us()?;
        let zeros = || (0..self.count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let (sent_at_us, accepts) = (zeros(), Accepts { at_us: zeros(), ..Accepts::default() });
        let (tally, stop) = (Tally::default(), AtomicBool::new(false));
        let (sent, drain_cpu_us) = std::thread::scope(|scope| {
            let drain = scope.spawn(|| drain(self.fleet, &tally, &stop, &|text| accepts.take(text)));
            let sent =
                scope.spawn(|| send_all(self.fleet, &frames, Pace::PerSecond(self.rate), &sent_at_us)).join();
            consumer.wait(QUIET);
            wait_until_still(&accepts.unique, u64::from(self.count), QUIET);
            stop.store(true, Ordering::Release);
            (sent, drain.join())
        });
        let server_cpu_us = self.server.cpu_us()?.saturating_sub(cpu_before_us);
        let drops = difference(&drops_before, &self.registrar.info()?.drops);
        let (delivery, _) = consumer.close()?;
        let sent = sent.ok().context("the sending thread panicked")??;
        let drain_cpu_us = drain_cpu_us.ok().context("the draining thread panicked")?;
        let load = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let mut answered_us: Vec<i64> = sent_at_us
            .iter()
            .zip(&accepts.at_us)
            .filter(|(_, accept)| load(accept) != 0)
            .map(|(sent, accept)| load(accept).cast_signed() - load(sent).cast_signed())
            .collect();
        Ok(Outcome {
            asked: self.rate,
            sent,
            push_acks: load(&tally.push_acks),
            pull_resps: load(&tally.pull_resps),
            accepts: load(&accepts.unique),
            accepts_again: load(&accepts.again),
            other_downlinks: load(&accepts.other),
            events: load(&delivery.unique),
            events_again: load(&delivery.duplicates),
            server_cpu_us,
            generator_cpu_us: sent.cpu_us + drain_cpu_us,
            answered_us: [0.5, 0.99, 1.0].map(|share| percentile(&mut answered_us, share)),
            drops,
        })
    }
}

/// Join-Accepts as the gateways get them. Which request one answers, its `tmst` tells: 5 s or 6 s after the request's.
#[derive(Debug, Default)]
struct Accepts {
    at_us: Vec<AtomicU64>,
    unique: AtomicU64,
    again: AtomicU64,
    other: AtomicU64,
}

impl Accepts {
    fn take(&self, text: &[u8]) {
        let slot = accept_tmst(text).and_then(|tmst_us| {
            let delays = JOIN_ACCEPT_DELAYS_US.iter().filter_map(|delay_us| tmst_us.checked_sub(*delay_us));
            delays.filter_map(|us| self.at_us.get(usize::try_from(us / TMST_STEP_US).ok()?)).next()
        });
        let counter = match slot {
            Some(slot) if slot.swap(now_us(), Ordering::AcqRel) == 0 => &self.unique,
            Some(_) => &self.again,
            None => &self.other,
        };
        counter.fetch_add(1, Ordering::AcqRel);
    }
}

/// The `tmst` of a PULL_RESP with a Join-Accept.
fn accept_tmst(text: &[u8]) -> Option<u32> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let txpk = value.get("txpk")?;
    let phy = BASE64.decode(txpk.get("data")?.as_str()?).ok()?;
    if phy.first()? >> 5 != FTYPE_JOIN_ACCEPT {
        return None;
    }
    u32::try_from(txpk.get("tmst")?.as_u64()?).ok()
}

fn requests(count: u32, dev_nonce: DevNonce) -> Frames {
    let mut frames = Frames::with_capacity(usize::try_from(count).unwrap_or(0));
    for index in 0..count {
        let key = root_key(index);
        let phy = JoinRequest::seal(JoinEui::new(JOIN_EUI), DevEui::new(dev_eui(index)), dev_nonce, &key);
        frames.push(index * TMST_STEP_US, &phy);
    }
    frames
}

fn judge(count: u32) -> Box<dyn Fn(&v1::Event) -> Verdict + Send> {
    Box::new(move |event| {
        let number = u64::from_str_radix(&event.dev_eui, 16).ok().and_then(|eui| eui.checked_sub(FIRST_EUI));
        let index = number.filter(|number| *number < u64::from(count)).and_then(|n| usize::try_from(n).ok());
        match (index, &event.kind) {
            (Some(index), Some(Kind::Join(join))) => {
                Verdict::Expected { index, whole: !join.dev_addr.is_empty() }
            }
            (_, _) => Verdict::Foreign,
        }
    })
}

fn otaa_device(index: u32) -> (v1::Device, v1::RootKeys) {
    let device = device(dev_eui(index), &format!("{JOIN_EUI:016x}"));
    (device, v1::RootKeys { app_key: hex(&root_key(index)), nwk_key: String::new() })
}

const fn dev_eui(index: u32) -> u64 {
    FIRST_EUI + index as u64
}

fn root_key(index: u32) -> [u8; 16] {
    derived(dev_eui(index), 3)
}

const FIRST_EUI: u64 = 0x70b3_d57e_d400_0000;
const JOIN_EUI: u64 = 0x70b3_d57e_d0ff_ffff;
const JOIN_ACCEPT_DELAYS_US: [u32; 2] = [6_000_000, 5_000_000];
/// The requests of a run lie less than a second apart by this count, so that RX1 and RX2 are not mistaken for each other.
const TMST_STEP_US: u32 = 16;
const DEVICES_MAX: u32 = 1_000_000 / TMST_STEP_US;
const FTYPE_JOIN_ACCEPT: u8 = 1;
/// An accept may wait at the server until shortly before its window, 5 s after the request.
const QUIET: Duration = Duration::from_secs(8);
