//! GPS time and UTC.
//!
//! GPS time counts every second since 1980-01-06; Unix time leaves out the leap seconds. `DeviceTimeAns` and class B speak GPS time
//! (TS001-1.1 §5.12).

/// Unix time of the GPS epoch, 1980-01-06T00:00:00Z.
pub const GPS_EPOCH_UNIX_S: i64 = 315_964_800;

/// GPS time of a moment of UTC with the leap seconds known to this version: microseconds since the GPS epoch, negative before it.
pub fn gps_from_unix_us(unix_us: i64) -> i64 {
    LeapSeconds::default().gps_from_unix_us(unix_us)
}

/// UTC of a moment of GPS time with the leap seconds known to this version: microseconds since the Unix epoch.
pub fn unix_from_gps_us(gps_us: i64) -> i64 {
    LeapSeconds::default().unix_from_gps_us(gps_us)
}

/// The leap seconds known to this version and those announced since.
#[derive(Clone, Debug, Default)]
pub struct LeapSeconds {
    announced_unix_s: Vec<i64>,
}

impl LeapSeconds {
    /// Adds leap seconds that this version does not know: for each the Unix time of the second behind it, such as 2017-01-01T00:00:00Z.
    /// Those that are not behind the last known one are left out.
    pub fn with_announced(unix_s: impl IntoIterator<Item = i64>) -> Self {
        let mut announced_unix_s: Vec<i64> =
            unix_s.into_iter().filter(|&unix_s| unix_s > LAST_LEAP_UNIX_S).collect();
        announced_unix_s.sort_unstable();
        announced_unix_s.dedup();
        Self { announced_unix_s }
    }

    /// GPS time of a moment of UTC: microseconds since the GPS epoch.
    ///
    /// It never goes back while UTC does not. The leap second itself has no Unix time of its own: a clock that repeats the second
    /// before it repeats the GPS time as well.
    pub fn gps_from_unix_us(&self, unix_us: i64) -> i64 {
        let past = self.all().filter(|&leap| leap.saturating_mul(US_PER_S) <= unix_us).count();
        unix_us.saturating_sub(GPS_EPOCH_UNIX_S * US_PER_S).saturating_add(seconds_us(past))
    }

    /// UTC of a moment of GPS time: microseconds since the Unix epoch. A moment within a leap second yields the second behind it.
    pub fn unix_from_gps_us(&self, gps_us: i64) -> i64 {
        let without_leaps = gps_us.saturating_add(GPS_EPOCH_UNIX_S * US_PER_S);
        let past = (0..)
            .zip(self.all())
            .filter(|&(before, leap)| {
                leap.saturating_mul(US_PER_S).saturating_add(seconds_us(before)) <= without_leaps
            })
            .count();
        let unix_us = without_leaps.saturating_sub(seconds_us(past));
        // Within the second inserted the difference would lead back into the second before it.
        let latest_leap_us =
            self.all().take(past).last().map_or(i64::MIN, |leap| leap.saturating_mul(US_PER_S));
        unix_us.max(latest_leap_us)
    }

    fn all(&self) -> impl Iterator<Item = i64> {
        LEAPS_UNIX_S.iter().chain(&self.announced_unix_s).copied()
    }
}

fn seconds_us(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(US_PER_S)
}

const US_PER_S: i64 = 1_000_000;

const LAST_LEAP_UNIX_S: i64 = 1_483_228_800;

/// The Unix time of the second behind each leap second since the GPS epoch, as announced by the IERS.
const LEAPS_UNIX_S: [i64; 18] = [
    362_793_600,      // 1981-07-01
    394_329_600,      // 1982-07-01
    425_865_600,      // 1983-07-01
    489_024_000,      // 1985-07-01
    567_993_600,      // 1988-01-01
    631_152_000,      // 1990-01-01
    662_688_000,      // 1991-01-01
    709_948_800,      // 1992-07-01
    741_484_800,      // 1993-07-01
    773_020_800,      // 1994-07-01
    820_454_400,      // 1996-01-01
    867_715_200,      // 1997-07-01
    915_148_800,      // 1999-01-01
    1_136_073_600,    // 2006-01-01
    1_230_768_000,    // 2009-01-01
    1_341_100_800,    // 2012-07-01
    1_435_708_800,    // 2015-07-01
    LAST_LEAP_UNIX_S, // 2017-01-01
];

#[cfg(test)]
mod tests {
    use super::*;

    /// MAC-034: around each leap second since 1981.
    #[test]
    fn time_runs_on_over_every_leap_second() {
        for (already, leap) in LEAPS_UNIX_S.iter().enumerate() {
            let before = gps_from_unix_us(leap * US_PER_S - 1);
            let after = gps_from_unix_us(leap * US_PER_S);
            assert_eq!(after - before, US_PER_S + 1, "one second was inserted in front of {leap}");
            assert_eq!(after, (leap - GPS_EPOCH_UNIX_S) * US_PER_S + seconds_us(already + 1));

            assert_eq!(unix_from_gps_us(before), leap * US_PER_S - 1);
            assert_eq!(unix_from_gps_us(after), leap * US_PER_S);
            // Half a second into the second inserted.
            assert_eq!(unix_from_gps_us(before + US_PER_S / 2), leap * US_PER_S);
        }
    }

    /// MAC-034.
    #[test]
    fn the_difference_is_18_seconds_since_2017() {
        let unix_s = 1_752_451_200;
        assert_eq!(gps_from_unix_us(unix_s * US_PER_S), (unix_s - GPS_EPOCH_UNIX_S + 18) * US_PER_S);
    }

    /// MAC-034.
    #[test]
    fn an_announced_leap_second_counts_and_a_known_one_does_not_count_twice() {
        let announced = 1_893_456_000;
        let table = LeapSeconds::with_announced([announced, announced, LAST_LEAP_UNIX_S, 0]);
        assert_eq!(
            table.gps_from_unix_us(announced * US_PER_S - 1),
            gps_from_unix_us(announced * US_PER_S - 1)
        );
        assert_eq!(
            table.gps_from_unix_us(announced * US_PER_S),
            gps_from_unix_us(announced * US_PER_S) + US_PER_S
        );
        assert_eq!(table.unix_from_gps_us(table.gps_from_unix_us(announced * US_PER_S)), announced * US_PER_S);
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        for us in [i64::MIN, i64::MAX, 0] {
            let _ = gps_from_unix_us(us);
            let _ = unix_from_gps_us(us);
        }
    }
}
