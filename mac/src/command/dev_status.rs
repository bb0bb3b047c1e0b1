//! `DevStatusReq` and `DevStatusAns`: battery and reception of a device (TS001-1.1 §5.6).

/// The state of a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DevStatusAns {
    /// How the device is powered.
    pub battery: Battery,
    /// Signal-to-noise ratio of the last request the device received, in decibels, -32..=31.
    pub margin_db: i8,
}

/// How a device is powered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Battery {
    /// From outside.
    External,
    /// By a battery with that charge, 1..=254; 254 is full.
    Level(u8),
    /// The device cannot tell.
    Unknown,
}

impl Battery {
    /// The meaning of the byte in the answer.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::External,
            255 => Self::Unknown,
            level => Self::Level(level),
        }
    }

    /// The byte in the answer.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::External => 0,
            Self::Unknown => 255,
            Self::Level(level) => level,
        }
    }
}

impl DevStatusAns {
    /// Reads the payload.
    ///
    /// The margin is the two's complement of six bits (TS001-1.1 §5.6); what a device leaves in the two bits above is
    /// ignored.
    pub const fn from_bytes([battery, margin]: [u8; 2]) -> Self {
        Self { battery: Battery::from_byte(battery), margin_db: (margin << 2).cast_signed() >> 2 }
    }

    /// Writes the payload; a margin out of range becomes the nearest in it.
    pub fn to_bytes(self) -> [u8; 2] {
        [self.battery.to_byte(), self.margin_db.clamp(-32, 31).cast_unsigned() & 0x3f]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PARSE-016
    #[test]
    fn the_margin_is_the_lower_six_bits_whatever_lies_above() {
        for byte in 0..=255u8 {
            let DevStatusAns { margin_db, .. } = DevStatusAns::from_bytes([0, byte]);

            let low = i16::from(byte & 0x3f);
            let expected = if low >= 32 { low - 64 } else { low };
            assert_eq!(i16::from(margin_db), expected, "margin byte {byte:#04x}");
        }
    }

    /// MAC-024
    #[test]
    fn every_battery_value_and_every_margin_survives() {
        for byte in 0..=255 {
            assert_eq!(Battery::from_byte(byte).to_byte(), byte);
        }
        assert_eq!(Battery::from_byte(0), Battery::External);
        assert_eq!(Battery::from_byte(1), Battery::Level(1));
        assert_eq!(Battery::from_byte(254), Battery::Level(254));
        assert_eq!(Battery::from_byte(255), Battery::Unknown);
        for margin_db in -32..=31 {
            let status = DevStatusAns { battery: Battery::Level(7), margin_db };
            assert_eq!(DevStatusAns::from_bytes(status.to_bytes()), status);
        }
    }
}
