//! Chance that does not move when something else is left out.
//!
//! Each draw is a hash of the seed and of what the draw is for. So a schedule from which actions were taken still meets the same
//! luck in all that is left: that is what makes shrinking work.

/// All luck of one world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance {
    seed: u64,
}

/// What a draw is for; draws for different things are independent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum For {
    /// The making of the schedule itself.
    Schedule,
    /// A datagram from a gateway to a server.
    UpLink,
    /// A datagram from a server to a gateway.
    DownLink,
    /// A frame from a gateway to a device.
    OnAir,
    /// How a gateway treats an order to send.
    Forwarder,
    /// How long the disk takes.
    Disk,
    /// What a codec makes of a payload.
    Codec,
    /// When somebody personalises a device again.
    Activation,
}

impl Chance {
    /// The luck of a seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The draw for one thing, which `a` and `b` number.
    pub(crate) fn draw(self, what: For, a: u64, b: u64) -> Draw {
        let mut state = mix(self.seed ^ mix(what as u64 + 1));
        state = mix(state ^ mix(a.wrapping_add(0x51ed)));
        Draw { state: mix(state ^ mix(b.wrapping_add(0x9ae1))) }
    }
}

/// A small generator behind one draw.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    state: u64,
}

impl Draw {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// True so many times in a thousand.
    pub(crate) fn in_thousand(&mut self, times: u32) -> bool {
        self.next() % 1_000 < u64::from(times)
    }

    /// One of several.
    ///
    /// # Panics
    /// When there are none.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let index = usize::try_from(self.next() % from.len() as u64).expect("below the length");
        from[index]
    }
}

/// The finaliser of SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
