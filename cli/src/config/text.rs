//! How values that TOML has no type for are written: addresses, regions, the NetID.

/// `ADDRESS:PORT`
pub(super) mod address {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use std::net::SocketAddr;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SocketAddr, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(|_| {
            D::Error::custom(format!(
                "{text:?} is not an address with a port; write it like 127.0.0.1:8080, 0.0.0.0:1700 or [::]:1700"
            ))
        })
    }

    pub(in crate::config) fn serialize<S: Serializer>(value: &SocketAddr, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }
}

/// The same, or nothing.
pub(super) mod optional_address {
    use serde::{Deserializer, Serializer};
    use std::net::SocketAddr;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        super::address::deserialize(d).map(Some)
    }

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &Option<SocketAddr>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => s.collect_str(value),
            None => s.serialize_none(),
        }
    }
}

/// A region by its name.
pub(super) mod region {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::words;
    use proto::v1::Region;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Region, D::Error> {
        words::parse_region(&String::deserialize(d)?).map_err(D::Error::custom)
    }

    pub(in crate::config) fn serialize<S: Serializer>(value: &Region, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&words::word(words::REGIONS, i32::from(*value)))
    }
}

/// The same, or nothing.
pub(super) mod optional_region {
    use serde::{Deserializer, Serializer};

    use proto::v1::Region;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Region>, D::Error> {
        super::region::deserialize(d).map(Some)
    }

    pub(in crate::config) fn serialize<S: Serializer>(value: &Option<Region>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::region::serialize(value, s),
            None => s.serialize_none(),
        }
    }
}

/// A NetID: 6 hexadecimal digits.
pub(super) mod net_id {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
        let text = String::deserialize(d)?;
        let well_formed = text.len() == 6 && text.bytes().all(|b| b.is_ascii_hexdigit());
        u32::from_str_radix(&text, 16).ok().filter(|_| well_formed).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is not a NetID; write 6 hexadecimal digits like \"000000\""))
        })
    }

    pub(in crate::config) fn serialize<S: Serializer>(value: &u32, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{value:06x}"))
    }
}
