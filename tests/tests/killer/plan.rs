//! What is done to the server, cycle by cycle.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

/// How one life of the server ends.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// It ends itself at a named point, at the passage with this number.
    Crash { point: &'static str, passage: u32, road: Road },
    /// kill -9 after a while.
    Kill { after: Duration },
    /// kill -9 before it is ready.
    KillAtStart { after: Duration },
    /// SIGSTOP in the middle of the traffic; then SIGCONT and later kill -9, or kill -9 at once.
    Pause { after: Duration, span: Duration, goes_on: bool },
    /// SIGTERM after a while.
    Stop { after: Duration },
}

/// What it takes to get to a crash point.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Road {
    /// A start.
    Start,
    /// SIGTERM.
    Stop,
    /// The traffic there always is.
    Traffic,
    /// Events that are older than the retention.
    OldEvents,
    /// More writes than the write-ahead log may grow by.
    ManyWrites,
}

/// A cycle for each crash point and the rest by lot, in an order by lot.
pub(crate) fn draw(cycles: usize, rng: &mut StdRng) -> Vec<Fate> {
    let mut fates = Vec::with_capacity(cycles);
    // Half of a long run goes to the points, a round of them at a time.
    let rounds = (cycles / 2 / seam::CRASH_POINTS.len()).max(1);
    for _ in 0..rounds {
        fates
            .extend(seam::CRASH_POINTS.iter().filter(|p| !FIRST_START_ONLY.contains(p)).map(|p| crash(p, rng)));
    }
    while fates.len() < cycles {
        fates.push(match rng.random_range(0..100) {
            0..50 => Fate::Kill { after: lifetime(rng) },
            50..62 => Fate::KillAtStart { after: Duration::from_millis(rng.random_range(0..40)) },
            62..84 => {
                let span = if rng.random_bool(0.1) { 2_500 } else { rng.random_range(100..700) };
                let span = Duration::from_millis(span);
                Fate::Pause { after: lifetime(rng), span, goes_on: rng.random_bool(0.8) }
            }
            _ => Fate::Stop { after: lifetime(rng) },
        });
    }
    fates.shuffle(rng);
    fates
}

fn crash(point: &'static str, rng: &mut StdRng) -> Fate {
    let (road, passages) = match point {
        _ if point.starts_with("store.open.") => (Road::Start, 1),
        _ if point.starts_with("store.close.") => (Road::Stop, 1),
        _ if point.starts_with("store.retention.") => (Road::OldEvents, 1),
        _ if point.starts_with("store.wal.") => (Road::ManyWrites, 1),
        _ if point.starts_with("store.checkpoint.") || point.starts_with("store.stamp.") => (Road::Traffic, 1),
        _ if point.starts_with("store.file.") => (Road::Traffic, 2),
        _ if point.starts_with("store.journal.") || point == "network.uplink.committed" => (Road::Traffic, 60),
        _ if point.starts_with("store.tables.") => (Road::Traffic, 40),
        _ if point.starts_with("network.join.") || point.starts_with("join.") => (Road::Traffic, 4),
        _ if point.contains(".device.") || point.contains(".session.") => (Road::Traffic, 1),
        _ if point.starts_with("bridge.consumer.") || point == "bridge.downlink.cancelled" => {
            (Road::Traffic, 2)
        }
        _ if point == "bridge.downlink.updated" => (Road::Traffic, 1),
        _ => (Road::Traffic, 8),
    };
    Fate::Crash { point, passage: rng.random_range(1..=passages), road }
}

fn lifetime(rng: &mut StdRng) -> Duration {
    Duration::from_millis(rng.random_range(100..600))
}

/// Points that only a start in an empty directory passes; they have a story of their own.
pub(crate) const FIRST_START_ONLY: &[&str] = &["bridge.admin_key.file_written"];
