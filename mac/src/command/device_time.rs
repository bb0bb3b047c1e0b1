//! `DeviceTimeReq` and `DeviceTimeAns`: a device asks for the time (TS001-1.1 §5.12).

/// The time at the end of the uplink that carried the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceTimeAns {
    /// Seconds of GPS time, modulo 2^32.
    pub gps_seconds: u32,
    /// The rest in 1/256 s.
    pub fraction_256: u8,
}

impl DeviceTimeAns {
    /// The answer for a GPS time in microseconds, cut to 1/256 s.
    pub fn from_gps_us(gps_us: u64) -> Self {
        let fraction_256 = (gps_us % US_PER_S).saturating_mul(256) / US_PER_S;
        Self {
            #[allow(clippy::cast_possible_truncation, reason = "the field is modulo 2^32 s")]
            gps_seconds: (gps_us / US_PER_S) as u32,
            fraction_256: u8::try_from(fraction_256).unwrap_or(u8::MAX),
        }
    }

    /// Reads the payload.
    pub const fn from_bytes([s0, s1, s2, s3, fraction_256]: [u8; 5]) -> Self {
        Self { gps_seconds: u32::from_le_bytes([s0, s1, s2, s3]), fraction_256 }
    }

    /// Writes the payload.
    pub const fn to_bytes(self) -> [u8; 5] {
        let [s0, s1, s2, s3] = self.gps_seconds.to_le_bytes();
        [s0, s1, s2, s3, self.fraction_256]
    }
}

const US_PER_S: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microseconds_become_parts_of_256() {
        let ans = DeviceTimeAns::from_gps_us(1_139_322_288_500_000);
        assert_eq!(ans, DeviceTimeAns { gps_seconds: 1_139_322_288, fraction_256: 128 });

        let ans = DeviceTimeAns::from_gps_us(999_999);
        assert_eq!(ans, DeviceTimeAns { gps_seconds: 0, fraction_256: 255 });
    }
}
