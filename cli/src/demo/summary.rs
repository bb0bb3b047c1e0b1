//! The demo in figures.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use proto::v1::DownlinkState;
use serde_json::{Value, json};
use simulator::farm::Ledger;

use super::account::Verdict;
use super::seen::Seen;
use crate::words::{self, DOWNLINK_STATES};

/// What is said at the end.
#[derive(Debug)]
pub(super) struct Summary {
    ran: Duration,
    frames: u64,
    frames_lost: u64,
    uplinks: u64,
    copies: u64,
    copies_lost: u64,
    duplicates: u64,
    join_requests: u64,
    joins: u64,
    events: BTreeMap<&'static str, u64>,
    /// The items of the queues by the state they ended in.
    downlinks: BTreeMap<String, u64>,
    payloads_taken: u64,
    downlinks_late: u64,
    confirmed: u64,
    confirmed_acknowledged: u64,
    /// From the first copy's datagram to the event in the consumer, in rising order.
    latencies: Vec<Duration>,
    refused: BTreeMap<String, u64>,
    problems: Vec<String>,
}

impl Summary {
    pub(super) fn new(
        ran: Duration,
        ledger: &Ledger,
        seen: &Seen,
        refused: HashMap<String, u64>,
        verdict: &Verdict,
    ) -> Self {
        let told: u64 = seen.uplinks.values().map(|uplink| uplink.copies).sum();
        let mut latencies: Vec<_> = ledger
            .frames
            .iter()
            .filter_map(|(key, sent)| {
                Some(seen.uplinks.get(key)?.first_at.saturating_duration_since(sent.first_copy_at))
            })
            .collect();
        latencies.sort_unstable();
        let mut downlinks = BTreeMap::new();
        for item in seen.items.values() {
            *downlinks.entry(item.state_word()).or_default() += 1;
        }
        Self {
            ran,
            frames: number(ledger.frames.len()),
            frames_lost: ledger.frames_lost,
            uplinks: number(seen.uplinks.len()),
            copies: ledger.copies,
            copies_lost: ledger.copies_lost,
            duplicates: told.saturating_sub(number(seen.uplinks.len())),
            join_requests: ledger.join_requests,
            joins: ledger.joins,
            events: seen.events.clone(),
            downlinks,
            payloads_taken: number(ledger.payloads.len()),
            downlinks_late: ledger.downlinks_late,
            confirmed: ledger.confirmed,
            confirmed_acknowledged: ledger.confirmed_acknowledged,
            latencies,
            refused: refused.into_iter().filter(|(_, count)| *count > 0).collect(),
            problems: verdict.problems().cloned().collect(),
        }
    }

    /// The last line of `--output json`.
    pub(super) fn json(&self) -> Value {
        let ms =
            |permille| self.latency(permille).map(|latency| (latency.as_secs_f64() * 10_000.0).round() / 10.0);
        json!({
            "kind": "summary",
            "seconds": self.ran.as_secs(),
            "frames": self.frames,
            "frames_lost_on_air": self.frames_lost,
            "uplinks": self.uplinks,
            "copies": self.copies,
            "copies_lost_on_air": self.copies_lost,
            "duplicates_removed": self.duplicates,
            "join_requests": self.join_requests,
            "joins": self.joins,
            "events": self.events.values().sum::<u64>(),
            "events_by_kind": self.events,
            "downlinks": self.downlinks.values().sum::<u64>(),
            "downlinks_acknowledged": self.acknowledged(),
            "downlinks_by_state": self.downlinks,
            "downlink_payloads_taken": self.payloads_taken,
            "downlinks_late": self.downlinks_late,
            "confirmed_uplinks": self.confirmed,
            "confirmed_uplinks_acknowledged": self.confirmed_acknowledged,
            "latency_p50_ms": ms(500),
            "latency_p99_ms": ms(990),
            "latency_max_ms": ms(1_000),
            "refused": self.refused,
            "accounted_for": self.problems.is_empty(),
            "problems": self.problems,
        })
    }

    /// Name and text of each line for people.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("time", format!("{} s", self.ran.as_secs())),
            (
                "frames",
                format!("{} sent, {} told as uplinks{}", self.frames, self.uplinks, lost(self.frames_lost)),
            ),
            (
                "copies",
                format!(
                    "{} reached the server, {} duplicates removed{}",
                    self.copies,
                    self.duplicates,
                    lost(self.copies_lost)
                ),
            ),
            ("joins", format!("{} of {} requests", self.joins, self.join_requests)),
            ("events", format!("{}: {}", self.events.values().sum::<u64>(), listed(&self.events))),
            ("downlinks", self.downlinks_line()),
            (
                "confirmed",
                format!(
                    "{} uplinks asked for an answer, {} got one",
                    self.confirmed, self.confirmed_acknowledged
                ),
            ),
        ];
        if let (Some(p50), Some(p99)) = (self.latency(500), self.latency(990)) {
            lines.push((
                "latency",
                format!(
                    "p50 {} ms, p99 {} ms; {} ms of it are the wait for copies",
                    p50.as_millis(),
                    p99.as_millis(),
                    crate::config::Config::default().network.dedup_window_ms
                ),
            ));
        }
        if !self.refused.is_empty() {
            lines.push(("refused", listed(&self.refused)));
        }
        lines
    }

    /// What does not match.
    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    fn downlinks_line(&self) -> String {
        let total = self.downlinks.values().sum::<u64>();
        let mut line = format!("{total} queued, {} acknowledged by their device", self.acknowledged());
        let others: BTreeMap<_, _> =
            self.downlinks.iter().filter(|(state, _)| **state != acknowledged_word()).collect();
        if !others.is_empty() {
            line.push_str(&format!(", {}", listed(&others)));
        }
        if self.downlinks_late > 0 {
            line.push_str(&format!("; {} came too late for their window", self.downlinks_late));
        }
        line
    }

    fn acknowledged(&self) -> u64 {
        self.downlinks.get(&acknowledged_word()).copied().unwrap_or(0)
    }

    /// The latency that so many of a thousand uplinks stayed within.
    fn latency(&self, permille: usize) -> Option<Duration> {
        let rank = (self.latencies.len() * permille).div_ceil(1_000);
        self.latencies.get(rank.checked_sub(1)?).copied()
    }
}

fn acknowledged_word() -> String {
    words::word(DOWNLINK_STATES, DownlinkState::DeviceAcknowledged.into())
}

fn lost(count: u64) -> String {
    if count == 0 { String::new() } else { format!(", {count} lost on air") }
}

/// The counts with their names, the largest first.
fn listed<K: std::fmt::Display, N: std::fmt::Display + Ord>(counts: &BTreeMap<K, N>) -> String {
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(a.1));
    sorted.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mac::ids::DevEui;
    use proto::v1::{self, event::Kind};
    use simulator::farm::SentFrame;
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn the_figures_are_those_of_the_two_books() {
        let start = Instant::now();
        let (mut ledger, mut seen) = (Ledger::default(), Seen::default());
        for fcnt in 0..100 {
            let frame = SentFrame { first_copy_at: start, f_port: 2, payload: vec![1] };
            ledger.frames.insert((DevEui::new(1), fcnt), frame);
            let uplink = v1::Uplink {
                fcnt_up: fcnt,
                receptions: vec![v1::Reception::default(); 3],
                ..v1::Uplink::default()
            };
            let event = v1::Event {
                dev_eui: DevEui::new(1).to_string(),
                kind: Some(Kind::Uplink(uplink)),
                ..v1::Event::default()
            };
            seen.take(&event, "uplink", start + Duration::from_millis(200 + u64::from(fcnt)));
        }
        let refused = [("mic_mismatch".to_owned(), 0), ("crc_bad".to_owned(), 2)].into();
        let verdict = Verdict { missing: vec!["one".to_owned()], wrong: vec![] };

        let summary = Summary::new(Duration::from_secs(60), &ledger, &seen, refused, &verdict);

        let value = summary.json();
        assert_eq!(value["frames"], 100);
        assert_eq!(value["duplicates_removed"], 200);
        assert_eq!(value["latency_p50_ms"], 249.0);
        assert_eq!(value["latency_p99_ms"], 298.0);
        assert_eq!(value["latency_max_ms"], 299.0);
        assert_eq!(value["refused"], json!({ "crc_bad": 2 }));
        assert_eq!(value["accounted_for"], false);
        let lines: BTreeMap<_, _> = summary.lines().into_iter().collect();
        assert_eq!(lines["frames"], "100 sent, 100 told as uplinks");
        assert_eq!(lines["events"], "100: 100 uplink");
    }

    #[test]
    fn nothing_at_all_has_no_latency() {
        let summary = Summary::new(
            Duration::ZERO,
            &Ledger::default(),
            &Seen::default(),
            HashMap::new(),
            &Verdict::default(),
        );

        assert_eq!(summary.json()["latency_p99_ms"], Value::Null);
        assert_eq!(summary.json()["accounted_for"], true);
        assert!(summary.lines().iter().all(|(name, _)| *name != "latency"));
    }
}
