//! The parts of `loam-bench`: a generator of gateway traffic, a consumer of the stream, and the measurements made with them.
//!
//! Everything here talks to the real binary over UDP and gRPC on loopback. Nothing asserts a time: figures are printed,
//! and whether a target was reached is said beside them.

pub(crate) mod bulk;
pub(crate) mod consumer;
pub(crate) mod devices;
pub(crate) mod downlinks;
pub(crate) mod fleet;
pub(crate) mod floor;
pub(crate) mod joins;
pub(crate) mod machine;
pub(crate) mod options;
pub(crate) mod prepare;
pub(crate) mod recovery;
pub(crate) mod report;
pub(crate) mod sender;
pub(crate) mod server;
pub(crate) mod shared_addr;
pub(crate) mod sizes;
pub(crate) mod step;
pub(crate) mod traffic;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Says what happens now.
pub(crate) fn say(text: impl std::fmt::Display) {
    eprintln!("  {text}");
}

/// Microseconds of a monotonic clock since the program began; never 0, which stands for "not yet".
pub(crate) fn now_us() -> u64 {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
}

/// Waits until the count has reached `all`, or has not risen for `quiet`; never longer than [`WAIT_DEADLINE`].
pub(crate) fn wait_until_still(count: &AtomicU64, all: u64, quiet: Duration) {
    let begun = Instant::now();
    let mut last = (0, Instant::now());
    loop {
        let now = count.load(Ordering::Acquire);
        if now != last.0 {
            last = (now, Instant::now());
        }
        if now >= all || last.1.elapsed() > quiet || begun.elapsed() > WAIT_DEADLINE {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// However slowly a count trickles in, nobody waits longer for the last one.
const WAIT_DEADLINE: Duration = Duration::from_secs(60);

/// The value below which this share of the values lies; 0 without values. Sorts.
pub(crate) fn percentile(values: &mut [i64], share: f64) -> i64 {
    values.sort_unstable();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a list that fits the memory"
    )]
    let index = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(index).copied().unwrap_or(0)
}

/// A count as a number to reckon with.
#[allow(clippy::cast_precision_loss, reason = "figures, far below 2^52")]
pub(crate) const fn float(count: u64) -> f64 {
    count as f64
}
