//! Identifiers, counters and nonces, each its own type.
//!
//! A number is held as it is printed on a label: most significant digit first. On air every one of them travels the other
//! way round (TS001-1.0.4 §1.2); the conversion is in the name, `from_wire_bytes` and `to_wire_bytes`.

use std::fmt;
use std::str::FromStr;

/// A text is not the identifier it should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{value}` is not a {what}: {digits} hexadecimal digits are expected, most significant first")]
pub struct IdError {
    what: &'static str,
    digits: usize,
    value: String,
}

/// An identifier of `$digits` hexadecimal digits, `$wire` bytes of them on air.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident($inner:ty), digits $digits:literal, mask $mask:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name($inner);

        impl $name {
            /// Makes the identifier of a number; bits beyond its width are cut off.
            pub const fn new(number: $inner) -> Self {
                Self(number & $mask)
            }

            /// The number, as printed.
            pub const fn value(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", stringify!($digits), "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text, stringify!($name), $digits)
                    .and_then(|number| {
                        <$inner>::try_from(number).map_err(|_| id_error(text, stringify!($name), $digits))
                    })
                    .map(Self)
            }
        }
    };
}

macro_rules! eui64_wire {
    ($($name:ident),*) => {$(
        impl $name {
            /// Reads the identifier as it stands in a frame: least significant byte first.
            pub const fn from_wire_bytes(bytes: [u8; 8]) -> Self {
                Self(u64::from_le_bytes(bytes))
            }

            /// The identifier as it stands in a frame: least significant byte first.
            pub const fn to_wire_bytes(self) -> [u8; 8] {
                self.0.to_le_bytes()
            }
        }
    )*};
}

/// A counter or nonce: a plain number that must not be mixed with another.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), mask $mask:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name($inner);

        impl $name {
            /// Makes it of a number; bits beyond its width are cut off.
            pub const fn new(number: $inner) -> Self {
                Self(number & $mask)
            }

            /// The number.
            pub const fn value(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

hex_id!(
    /// The EUI-64 of a device.
    DevEui(u64), digits 16, mask u64::MAX
);
hex_id!(
    /// The EUI-64 of the join server a device asks for (AppEUI in old documents).
    JoinEui(u64), digits 16, mask u64::MAX
);
hex_id!(
    /// The EUI-64 of a gateway. It never travels over the air.
    GatewayEui(u64), digits 16, mask u64::MAX
);
hex_id!(
    /// The 32-bit address of a session; many devices may share one.
    DevAddr(u32), digits 8, mask u32::MAX
);
hex_id!(
    /// The 24-bit number of a network.
    NetId(u32), digits 6, mask 0x00ff_ffff
);
hex_id!(
    /// The number of one session of one device, drawn at activation.
    SessionId(u64), digits 16, mask u64::MAX
);
eui64_wire!(DevEui, JoinEui);

number!(
    /// The full uplink counter of a session, 32 bits.
    FCntUp(u32), mask u32::MAX
);
number!(
    /// A full downlink counter of a session, 32 bits: FCntDown, NFCntDown or AFCntDown.
    FCntDown(u32), mask u32::MAX
);
number!(
    /// The low 16 bits of a counter, as a frame carries them.
    WireFCnt(u16), mask u16::MAX
);
number!(
    /// The nonce of a Join-Request.
    DevNonce(u16), mask u16::MAX
);
number!(
    /// The nonce of a Join-Accept, 24 bits (AppNonce in old documents).
    JoinNonce(u32), mask 0x00ff_ffff
);

impl FCntUp {
    /// The half a frame carries.
    #[allow(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
    pub const fn wire(self) -> WireFCnt {
        WireFCnt(self.0 as u16)
    }
}

impl FCntDown {
    /// The half a frame carries.
    #[allow(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
    pub const fn wire(self) -> WireFCnt {
        WireFCnt(self.0 as u16)
    }
}

impl WireFCnt {
    /// Reads the counter as it stands in a frame.
    pub const fn from_wire_bytes(bytes: [u8; 2]) -> Self {
        Self(u16::from_le_bytes(bytes))
    }

    /// The counter as it stands in a frame.
    pub const fn to_wire_bytes(self) -> [u8; 2] {
        self.0.to_le_bytes()
    }
}

impl DevNonce {
    /// Reads the nonce as it stands in a frame.
    pub const fn from_wire_bytes(bytes: [u8; 2]) -> Self {
        Self(u16::from_le_bytes(bytes))
    }

    /// The nonce as it stands in a frame.
    pub const fn to_wire_bytes(self) -> [u8; 2] {
        self.0.to_le_bytes()
    }
}

impl JoinNonce {
    /// The largest of the 24-bit nonces; a device that has used it cannot join any more.
    pub const MAX: Self = Self(0x00ff_ffff);

    /// Reads the nonce as it stands in a frame.
    pub const fn from_wire_bytes(bytes: [u8; 3]) -> Self {
        Self(le24(bytes))
    }

    /// The nonce as it stands in a frame.
    pub const fn to_wire_bytes(self) -> [u8; 3] {
        le24_bytes(self.0)
    }
}

impl NetId {
    /// Reads the number as it stands in a frame.
    pub const fn from_wire_bytes(bytes: [u8; 3]) -> Self {
        Self(le24(bytes))
    }

    /// The number as it stands in a frame.
    pub const fn to_wire_bytes(self) -> [u8; 3] {
        le24_bytes(self.0)
    }

    /// The type of the network, 0 to 7: the three most significant bits (TS002-1.1.0 §13).
    #[allow(clippy::cast_possible_truncation, reason = "three bits")]
    pub const fn net_type(self) -> u8 {
        (self.0 >> 21) as u8
    }

    /// The bits of the number that every DevAddr of the network carries.
    pub const fn nwk_id(self) -> u32 {
        self.0 & low_bits(nwk_id_bits(self.net_type()))
    }

    /// The first DevAddr of the network and the number of leading bits that all its addresses share.
    pub const fn dev_addr_prefix(self) -> (DevAddr, u8) {
        let net_type = self.net_type();
        let nwk_addr_bits = nwk_addr_bits(net_type);
        (DevAddr(type_prefix(net_type) | self.nwk_id() << nwk_addr_bits), 32_u8.saturating_sub(nwk_addr_bits))
    }
}

impl DevAddr {
    /// Reads the address as it stands in a frame.
    pub const fn from_wire_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(bytes))
    }

    /// The address as it stands in a frame.
    pub const fn to_wire_bytes(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }

    /// An address of the network; of `nwk_addr` as many low bits are used as the type of the network leaves free, 7 to 25
    /// (TS001-1.0.4 §6.1.2, TS002-1.1.0 §13).
    pub const fn in_net(net_id: NetId, nwk_addr: u32) -> Self {
        let (prefix, _) = net_id.dev_addr_prefix();
        Self(prefix.0 | nwk_addr & low_bits(nwk_addr_bits(net_id.net_type())))
    }

    /// The type of the network the address belongs to, 0 to 7; `None` for `ff......`, which belongs to none.
    #[allow(clippy::cast_possible_truncation, reason = "at most 32")]
    pub const fn net_type(self) -> Option<u8> {
        match self.0.leading_ones() {
            ones @ 0..8 => Some(ones as u8),
            _ => None,
        }
    }

    /// The network part of the address; `None` for `ff......`.
    pub const fn nwk_id(self) -> Option<u32> {
        match self.net_type() {
            Some(net_type) => {
                let id = self.0 >> nwk_addr_bits(net_type);
                Some(id & low_bits(nwk_id_bits(net_type)))
            }
            None => None,
        }
    }

    /// The device part of the address; `None` for `ff......`.
    pub const fn nwk_addr(self) -> Option<u32> {
        match self.net_type() {
            Some(net_type) => Some(self.0 & low_bits(nwk_addr_bits(net_type))),
            None => None,
        }
    }

    /// Whether the address is one of the network's.
    pub const fn is_in_net(self, net_id: NetId) -> bool {
        let (prefix, _) = net_id.dev_addr_prefix();
        let nwk_addr_bits = nwk_addr_bits(net_id.net_type());
        self.0 >> nwk_addr_bits == prefix.0 >> nwk_addr_bits
    }
}

fn parse_hex(text: &str, what: &'static str, digits: usize) -> Result<u64, IdError> {
    // from_str_radix alone would take a sign.
    if text.len() != digits || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(id_error(text, what, digits));
    }
    u64::from_str_radix(text, 16).map_err(|_| id_error(text, what, digits))
}

fn id_error(text: &str, what: &'static str, digits: usize) -> IdError {
    // What a stranger typed or sent may be long; an error line is not.
    let mut value: String = text.chars().take(VALUE_CHARS_MAX).collect();
    if value.len() < text.len() {
        value.push('…');
    }
    IdError { what, digits, value }
}

const fn le24(bytes: [u8; 3]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0])
}

const fn le24_bytes(number: u32) -> [u8; 3] {
    let [low, middle, high, _] = number.to_le_bytes();
    [low, middle, high]
}

const fn low_bits(count: u8) -> u32 {
    !(u32::MAX << count)
}

/// The leading ones of an address of this type, and the zero behind them.
const fn type_prefix(net_type: u8) -> u32 {
    !(u32::MAX >> net_type)
}

/// Bits of an address that name the network, by type of network (TS002-1.1.0 §13).
const fn nwk_id_bits(net_type: u8) -> u8 {
    match net_type {
        0 | 1 => 6,
        2 => 9,
        3 => 11,
        4 => 12,
        5 => 13,
        6 => 15,
        _ => 17,
    }
}

/// Bits of an address that name the device, by type of network (TS002-1.1.0 §13).
const fn nwk_addr_bits(net_type: u8) -> u8 {
    match net_type {
        0 => 25,
        1 => 24,
        2 => 20,
        3 => 17,
        4 => 15,
        5 => 13,
        6 => 10,
        _ => 7,
    }
}

const VALUE_CHARS_MAX: usize = 64;
