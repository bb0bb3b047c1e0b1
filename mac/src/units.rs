//! Quantities with their units in the type.

use std::fmt;

/// A frequency in hertz.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Hz(u32);

impl Hz {
    /// A frequency of so many hertz.
    pub const fn new(freq_hz: u32) -> Self {
        Self(freq_hz)
    }

    /// The frequency in hertz.
    pub const fn value(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Hz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} Hz", self.0)
    }
}

impl fmt::Debug for Hz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A power in decibels over one milliwatt.
#[derive(Clone, Copy, Default, PartialEq, PartialOrd)]
pub struct Dbm(f32);

impl Dbm {
    /// A power of so many dBm.
    pub const fn new(power_dbm: f32) -> Self {
        Self(power_dbm)
    }

    /// The power in dBm.
    pub const fn value(self) -> f32 {
        self.0
    }
}

impl fmt::Display for Dbm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dBm", self.0)
    }
}

impl fmt::Debug for Dbm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A moment on a clock that never goes back: microseconds since the process started.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mono(u64);

impl Mono {
    /// The moment so many microseconds after the start.
    pub const fn from_us(us: u64) -> Self {
        Self(us)
    }

    /// Microseconds since the start.
    pub const fn us(self) -> u64 {
        self.0
    }

    /// The moment `ms` milliseconds later; the last one there is when that is too far.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        self.plus_us(ms.saturating_mul(US_PER_MS))
    }

    /// The moment `us` microseconds later; the last one there is when that is too far.
    #[must_use]
    pub const fn plus_us(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }

    /// Whole milliseconds that have passed since `earlier`; 0 when it lies ahead.
    pub const fn saturating_ms_since(self, earlier: Self) -> u64 {
        self.saturating_us_since(earlier) / US_PER_MS
    }

    /// Microseconds that have passed since `earlier`; 0 when it lies ahead.
    pub const fn saturating_us_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{}us", self.0)
    }
}

/// A moment of the wall clock: microseconds since the Unix epoch, UTC without leap seconds.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment so many microseconds after the Unix epoch.
    pub const fn from_us(us: i64) -> Self {
        Self(us)
    }

    /// Microseconds since the Unix epoch.
    pub const fn us(self) -> i64 {
        self.0
    }

    /// The moment `ms` milliseconds later; the last one there is when that is too far.
    #[must_use]
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(US_PER_MS.cast_signed())))
    }

    /// Whole milliseconds that have passed since `earlier`; 0 when it lies ahead.
    pub const fn saturating_ms_since(self, earlier: Self) -> u64 {
        let us = self.0.saturating_sub(earlier.0);
        if us < 0 { 0 } else { us.cast_unsigned() / US_PER_MS }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}

const US_PER_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates_at_both_ends() {
        assert_eq!(Mono::from_us(u64::MAX).plus_ms(1), Mono::from_us(u64::MAX));
        assert_eq!(Mono::from_us(5).saturating_ms_since(Mono::from_us(9_000)), 0);
        assert_eq!(Mono::from_us(9_999).saturating_ms_since(Mono::from_us(1_000)), 8);
        assert_eq!(Timestamp::from_us(i64::MIN).saturating_ms_since(Timestamp::from_us(i64::MAX)), 0);
        assert_eq!(Timestamp::from_us(2_500).plus_ms(1), Timestamp::from_us(3_500));
        assert_eq!(Timestamp::from_us(i64::MAX).plus_ms(i64::MAX), Timestamp::from_us(i64::MAX));
    }
}
