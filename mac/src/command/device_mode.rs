//! `DeviceModeInd` and `DeviceModeConf`: a device of LoRaWAN 1.1 changes between class A and C (TS001-1.1 §18).

/// The device works in that class from here on; it repeats this until the answer comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceModeInd {
    /// The class.
    pub class: DeviceMode,
}

/// The network's answer, with the same class.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceModeConf {
    /// The class.
    pub class: DeviceMode,
}

/// How a device listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeviceMode {
    /// After its uplinks only.
    ClassA,
    /// Always.
    ClassC,
    /// A value that is reserved: 1, and 3 and above.
    Reserved(u8),
}

impl DeviceMode {
    /// The meaning of the byte.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::ClassA,
            2 => Self::ClassC,
            reserved => Self::Reserved(reserved),
        }
    }

    /// The byte.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::ClassA => 0,
            Self::ClassC => 2,
            Self::Reserved(reserved) => reserved,
        }
    }
}

impl DeviceModeInd {
    /// Reads the payload.
    pub const fn from_bytes([class]: [u8; 1]) -> Self {
        Self { class: DeviceMode::from_byte(class) }
    }

    /// Writes the payload.
    pub const fn to_bytes(self) -> [u8; 1] {
        [self.class.to_byte()]
    }
}

impl DeviceModeConf {
    /// Reads the payload.
    pub const fn from_bytes([class]: [u8; 1]) -> Self {
        Self { class: DeviceMode::from_byte(class) }
    }

    /// Writes the payload.
    pub const fn to_bytes(self) -> [u8; 1] {
        [self.class.to_byte()]
    }
}
