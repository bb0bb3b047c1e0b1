//! The only place of this crate that reads the clocks of the system.

use mac::units::{Mono, Timestamp};
use tokio::time::Instant;

/// The clocks: one that never jumps for windows and deadlines, the wall clock for what people read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }

    pub(crate) fn mono(self) -> Mono {
        Mono::from_us(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    #[allow(clippy::unused_self, reason = "both clocks are read through this type")]
    pub(crate) fn wall(self) -> Timestamp {
        wall_clock()
    }
}

/// The wall clock; before 1970 it is 1970.
pub(crate) fn wall_clock() -> Timestamp {
    Timestamp::from_us(seam::wall_us())
}
