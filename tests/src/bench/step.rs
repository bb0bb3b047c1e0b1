//! One step: devices send at a fixed rate for a while, and everything is counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use proto::v1;
use proto::v1::event::Kind;
use serde_json::{Value, json};

use super::consumer::{Consumer, Delivery, Verdict};
use super::devices::{Devices, Plan};
use super::downlinks::{Tally, drain};
use super::fleet::{Fleet, Frames};
use super::prepare::Registrar;
use super::sender::{Pace, Sent, send_all};
use super::server::Server;
use super::{float, percentile, say};

/// What came of a step.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) rate: u32,
    pub(crate) sent: Sent,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) duplicates: u64,
    pub(crate) broken: u64,
    pub(crate) foreign: u64,
    pub(crate) push_acks: u64,
    pub(crate) server_cpu_us: u64,
    pub(crate) drain_cpu_us: u64,
    pub(crate) consumer_cpu_us: u64,
    /// From the first copy's departure to the event's arrival, less the window; p50, p99 and the longest.
    pub(crate) above_window_us: [i64; 3],
    /// Events more than [`LATE_US`] above the window.
    pub(crate) late: u64,
    /// From the departure of the last frame to the arrival of the last event.
    pub(crate) tail_us: u64,
    /// What the server refused meanwhile, by reason.
    pub(crate) drops: BTreeMap<String, u64>,
}

impl Outcome {
    /// Every uplink was sent at that rate, delivered exactly once and decoded, and none lay in a queue that grew.
    pub(crate) fn holds(&self) -> bool {
        let whole = self.lost == 0 && self.duplicates == 0 && self.broken == 0 && self.foreign == 0;
        whole && self.late == 0 && self.sent.kept(self.rate)
    }

    pub(crate) fn server_us_per_uplink(&self) -> f64 {
        float(self.server_cpu_us) / float(self.sent.frames.max(1))
    }

    pub(crate) fn to_json(&self) -> Value {
        let per_uplink = |us: u64| float(us) / float(self.sent.frames.max(1));
        json!({
            "rate": self.rate,
            "sent_per_second": self.sent.rate(),
            "seconds": float(self.sent.wall_us) / 1e6,
            "uplinks_sent": self.sent.frames,
            "datagrams_sent": self.sent.datagrams,
            "push_acks": self.push_acks,
            "delivered": self.delivered,
            "lost": self.lost,
            "late": self.late,
            "duplicates": self.duplicates,
            "without_decoded_object": self.broken,
            "foreign": self.foreign,
            "holds": self.holds(),
            "server_cpu_us_per_uplink": self.server_us_per_uplink(),
            "generator_sender_cpu_us_per_uplink": per_uplink(self.sent.cpu_us),
            "generator_receiver_cpu_us_per_uplink": per_uplink(self.drain_cpu_us),
            "consumer_cpu_us_per_uplink": per_uplink(self.consumer_cpu_us),
            "generator_behind_ms_max": float(self.sent.behind_us_max) / 1e3,
            "above_window_ms": {
                "p50": ms(self.above_window_us[0]),
                "p99": ms(self.above_window_us[1]),
                "max": ms(self.above_window_us[2]),
            },
            "last_event_after_last_uplink_ms": float(self.tail_us) / 1e3,
            "drops": self.drops,
        })
    }

    fn say(&self) {
        let sender = float(self.sent.cpu_us + self.drain_cpu_us) / float(self.sent.frames.max(1));
        say(format!(
            "{:>6}/s: {} sent, {} delivered, {} lost, {} late, {} twice, {} undecoded; {} of {} PUSH_ACKs; server {:.1} us, \
             generator {sender:.1} us, consumer {:.1} us per uplink; above the window p50 {:.1} ms, p99 {:.1} ms; generator \
             behind by {:.1} ms at most",
            self.rate,
            self.sent.frames,
            self.delivered,
            self.lost,
            self.late,
            self.duplicates,
            self.broken,
            self.push_acks,
            self.sent.datagrams,
            self.server_us_per_uplink(),
            float(self.consumer_cpu_us) / float(self.sent.frames.max(1)),
            ms(self.above_window_us[0]),
            ms(self.above_window_us[1]),
            float(self.sent.behind_us_max) / 1e3,
        ));
        if !self.drops.is_empty() {
            say(format!("        the server refused meanwhile: {:?}", self.drops));
        }
    }
}

/// Milliseconds of microseconds.
#[allow(clippy::cast_precision_loss, reason = "figures, far below 2^52")]
pub(crate) fn ms(us: i64) -> f64 {
    us as f64 / 1e3
}

/// A server with devices that send.
#[derive(Debug)]
pub(crate) struct Field<'a> {
    pub(crate) server: &'a Server,
    pub(crate) registrar: &'a Registrar,
    pub(crate) fleet: &'a Fleet,
}

impl Field<'_> {
    /// A short, slow run that is not counted: codecs are compiled, caches filled, the event log has a tail.
    pub(crate) fn warm_up(&self, devices: &mut Devices) -> Result<()> {
        let rate = devices.count.clamp(100, 2_000);
        say(format!("warming up with {rate} uplinks/s"));
        let outcome = self.run(devices, rate, devices.count.div_ceil(rate))?;
        if outcome.delivered == 0 {
            anyhow::bail!(
                "no uplink of the warm-up was delivered; the server refused {:?}; its log ends with:\n{}",
                outcome.drops,
                self.server.log_end()
            );
        }
        Ok(())
    }

    /// Sends `rate` uplinks a second for so many seconds and counts everything.
    pub(crate) fn run(&self, devices: &mut Devices, rate: u32, seconds: u32) -> Result<Outcome> {
        let count = usize::try_from(u64::from(rate) * u64::from(seconds))?;
        let (frames, plan) = devices.frames(count)?;
        let consumer =
            Consumer::open(self.server, v1::EventKind::Uplink, count, Box::new(move |e| judge(plan, e)))?;
        let drops_before = self.registrar.info()?.drops;
        let cpu_before_us = self.server.cpu_us()?;
        let sent_at_us: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
        let tally = Tally::default();
        let (sent, drain_cpu_us) =
            self.exchange(&frames, Pace::PerSecond(rate), &sent_at_us, &tally, &consumer)?;
        let server_cpu_us = self.server.cpu_us()?.saturating_sub(cpu_before_us);
        let drops_after = self.registrar.info()?.drops;
        let (delivery, consumer_cpu_us) = consumer.close()?;
        let load = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let delivered = load(&delivery.unique);
        let (mut above_us, last_us) = latencies(&sent_at_us, &delivery);
        let outcome = Outcome {
            rate,
            sent,
            delivered,
            lost: sent.frames.saturating_sub(delivered),
            duplicates: load(&delivery.duplicates),
            broken: load(&delivery.broken),
            foreign: load(&delivery.foreign),
            push_acks: load(&tally.push_acks),
            server_cpu_us,
            drain_cpu_us,
            consumer_cpu_us,
            late: above_us.iter().filter(|us| **us > LATE_US).count() as u64,
            above_window_us: [0.5, 0.99, 1.0].map(|share| percentile(&mut above_us, share)),
            tail_us: last_us.saturating_sub(sent.ended_us),
            drops: difference(&drops_before, &drops_after),
        };
        outcome.say();
        Ok(outcome)
    }

    /// Sends, drains and waits for the events; all at once.
    fn exchange(
        &self,
        frames: &Frames,
        pace: Pace<'_>,
        sent_at_us: &[AtomicU64],
        tally: &Tally,
        consumer: &Consumer,
    ) -> Result<(Sent, u64)> {
        let stop = AtomicBool::new(false);
        let (sent, drain_cpu_us) = std::thread::scope(|scope| {
            let drain = scope.spawn(|| drain(self.fleet, tally, &stop, &|_| {}));
            let sender = scope.spawn(|| send_all(self.fleet, frames, pace, sent_at_us));
            let sent = sender.join();
            consumer.wait(QUIET);
            stop.store(true, Ordering::Release);
            (sent, drain.join())
        });
        let sent = sent.ok().context("the sending thread panicked")??;
        Ok((sent, drain_cpu_us.ok().context("the draining thread panicked")?))
    }
}

/// What an event is to frames of `plan`.
fn judge(plan: Plan, event: &v1::Event) -> Verdict {
    let Some(Kind::Uplink(uplink)) = &event.kind else { return Verdict::Foreign };
    match plan.index(&event.dev_eui, uplink.fcnt_up) {
        Some(index) => {
            let whole =
                !uplink.object_json.is_empty() && uplink.errors.is_empty() && !uplink.receptions.is_empty();
            Verdict::Expected { index, whole }
        }
        None => Verdict::Foreign,
    }
}

/// Of each frame that arrived, the time above the window; and when the last one arrived.
fn latencies(sent_at_us: &[AtomicU64], delivery: &Delivery) -> (Vec<i64>, u64) {
    let mut above_us = Vec::with_capacity(sent_at_us.len());
    let mut last_us = 0;
    for (sent, arrived) in sent_at_us.iter().zip(&delivery.arrived_us) {
        let (sent, arrived) = (sent.load(Ordering::Acquire), arrived.load(Ordering::Acquire));
        if arrived != 0 {
            last_us = last_us.max(arrived);
            above_us.push(arrived.cast_signed() - sent.cast_signed() - WINDOW_US);
        }
    }
    (above_us, last_us)
}

/// What rose.
pub(crate) fn difference(
    before: &std::collections::HashMap<String, u64>,
    after: &std::collections::HashMap<String, u64>,
) -> BTreeMap<String, u64> {
    let rise = |(reason, count): (&String, &u64)| {
        let rise = count.saturating_sub(before.get(reason).copied().unwrap_or(0));
        (rise > 0).then(|| (reason.clone(), rise))
    };
    after.iter().filter_map(rise).collect()
}

/// The deduplication window of the server's default configuration.
pub(crate) const WINDOW_US: i64 = 200_000;
/// An event that comes so much after the window closed has waited in a queue that grew.
const LATE_US: i64 = 1_000_000;
/// When no event has come for so long, none will.
const QUIET: Duration = Duration::from_secs(4);
