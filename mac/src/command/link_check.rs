//! `LinkCheckReq` and `LinkCheckAns`: a device asks how well it is heard (TS001-1.0.4 §5.1).

/// How well the network heard the uplink with the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LinkCheckAns {
    /// Decibels above the demodulation floor, 0..=254; 255 is reserved.
    pub margin_db: u8,
    /// Number of gateways that heard it.
    pub gateway_count: u8,
}

impl LinkCheckAns {
    /// The answer for the best signal-to-noise ratio among the gateways; `required_snr_db` is the floor of the
    /// spreading factor used.
    ///
    /// The margin is rounded to whole decibels and kept within 0..=254, the count within 0..=255.
    pub fn new(best_snr_db: f32, required_snr_db: f32, gateway_count: usize) -> Self {
        let margin_db = (best_snr_db - required_snr_db).round().clamp(0.0, MARGIN_DB_MAX);
        Self {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "clamped; NaN becomes 0"
            )]
            margin_db: margin_db as u8,
            gateway_count: u8::try_from(gateway_count).unwrap_or(u8::MAX),
        }
    }

    /// Reads the payload.
    pub const fn from_bytes([margin_db, gateway_count]: [u8; 2]) -> Self {
        Self { margin_db, gateway_count }
    }

    /// Writes the payload.
    pub const fn to_bytes(self) -> [u8; 2] {
        [self.margin_db, self.gateway_count]
    }
}

const MARGIN_DB_MAX: f32 = 254.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// MAC-011
    #[test]
    fn the_margin_is_counted_from_the_floor_and_never_reserved() {
        let margin_db = |snr_db, floor_db| LinkCheckAns::new(snr_db, floor_db, 1).margin_db;

        assert_eq!(margin_db(-12.25, -20.0), 8);
        assert_eq!(margin_db(9.5, -7.5), 17);
        assert_eq!(margin_db(-20.0, -20.0), 0);
        assert_eq!(margin_db(-25.0, -20.0), 0);
        assert_eq!(margin_db(1e9, -20.0), 254);
        assert_eq!(margin_db(f32::NAN, -20.0), 0);
    }

    /// MAC-011
    #[test]
    fn the_count_of_gateways_stops_at_a_byte() {
        assert_eq!(LinkCheckAns::new(0.0, 0.0, 3).gateway_count, 3);
        assert_eq!(LinkCheckAns::new(0.0, 0.0, 300).gateway_count, 255);
    }
}
