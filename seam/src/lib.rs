//! The only doors to the wall clock and to randomness, and the places where a test may reach in.
//!
//! A role asks here what time it is and for every random byte. On the real server the answers come from the system. A simulated
//! world replaces both on its own thread ([`simulate`]), so that one seed decides everything. The clock that never jumps is
//! `tokio::time::Instant`, which a paused runtime makes virtual by itself.
//!
//! [`planted`] and [`crash_point`] are empty unless their features are on; see docs/proof.md.

mod crash_point;
mod planted;

use std::cell::{Cell, RefCell};
use std::time::{SystemTime, UNIX_EPOCH};

use rand::distr::{Distribution, StandardUniform};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

pub use crash_point::{CRASH_POINTS, HAS_CRASH_POINTS, crash_point};
pub use planted::Bug;
#[cfg(feature = "planted")]
pub use planted::plant;
pub use planted::planted;

thread_local! {
    static WALL_CLOCK: Cell<Option<fn() -> i64>> = const { Cell::new(None) };
    static RANDOMNESS: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// The wall clock in microseconds since the Unix epoch; before 1970 it is 1970. It may jump: only for what people read and for
/// deadlines they set.
pub fn wall_us() -> i64 {
    if let Some(clock) = WALL_CLOCK.get() {
        return clock();
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A random value, good enough for keys.
pub fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    RANDOMNESS.with_borrow_mut(|simulated| match simulated {
        Some(rng) => rng.random(),
        None => rand::rng().random(),
    })
}

/// Fills the bytes with random ones, good enough for keys.
pub fn fill_random(bytes: &mut [u8]) {
    RANDOMNESS.with_borrow_mut(|simulated| match simulated {
        Some(rng) => rng.fill_bytes(bytes),
        None => rand::rng().fill_bytes(bytes),
    });
}

/// Replaces the wall clock and randomness on this thread until the guard is dropped.
///
/// Only for simulations: what is sealed with such randomness is not secret.
#[must_use = "the system's own clock and randomness are back when the guard is dropped"]
pub fn simulate(seed: u64, wall_clock: fn() -> i64) -> Simulated {
    WALL_CLOCK.set(Some(wall_clock));
    RANDOMNESS.set(Some(StdRng::seed_from_u64(seed)));
    Simulated(())
}

/// While it lives, its thread has the clock and the randomness of a simulation.
#[derive(Debug)]
pub struct Simulated(());

impl Drop for Simulated {
    fn drop(&mut self) {
        WALL_CLOCK.set(None);
        RANDOMNESS.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_the_same_bytes_and_the_guard_gives_the_system_back() {
        let draw = || {
            let _simulated = simulate(7, || 1_000);
            let mut bytes = [0; 8];
            fill_random(&mut bytes);
            (wall_us(), random::<u64>(), bytes)
        };
        assert_eq!(draw(), draw());
        assert!(wall_us() > 1_700_000_000_000_000, "the system's clock is back");
        assert_ne!(random::<u64>(), random::<u64>());
    }
}
