//! Keys. They can be used but not shown: no `Display`, a silent `Debug`, wiped on drop, compared in constant time.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Why a text is no key. The message never shows the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// A key of zeros is a placeholder, never a secret.
    #[error(
        "{what} is all zeros: this is a placeholder, not a key; take the key from the device's label or its maker"
    )]
    #[allow(missing_docs, reason = "`what` is the kind of key")]
    AllZero { what: &'static str },
    /// Something that is not a hexadecimal digit stands in it.
    #[error(
        "{what} has something else than a hexadecimal digit at character {position}; it is 32 digits without spaces"
    )]
    #[allow(missing_docs, reason = "`what` is the kind of key, `position` counts from 1")]
    NotHex { what: &'static str, position: usize },
    /// The text is too short or too long.
    #[error("{what} has {len} characters; it is 32 hexadecimal digits without spaces")]
    #[allow(missing_docs, reason = "`what` is the kind of key, `len` its characters")]
    WrongLength { what: &'static str, len: usize },
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Makes the key of its bytes, in the order they are printed.
            pub const fn new(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes of the key, for a cipher or for sealing. Never log them.
            pub const fn expose(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }

        impl PartialEq for $name {
            /// Takes the same time whatever the bytes are.
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }

        impl Eq for $name {}

        impl FromStr for $name {
            type Err = KeyError;

            /// Reads 32 hexadecimal digits; a key of zeros is refused.
            fn from_str(text: &str) -> Result<Self, KeyError> {
                parse(text, stringify!($name)).map(Self)
            }
        }
    };
}

key!(
    /// A key whose use is not told by its type.
    Key
);
key!(
    /// The root key of a 1.0.x device; of a 1.1 device the one its application key is derived from.
    AppKey
);
key!(
    /// The root key of a 1.1 device for the network's keys.
    NwkKey
);
key!(
    /// The session key of application payloads.
    AppSKey
);
key!(
    /// The forwarding network session integrity key: the uplink MIC (1.0.x: NwkSKey).
    FNwkSIntKey
);
key!(
    /// The serving network session integrity key: the downlink MIC and half of a 1.1 uplink MIC (1.0.x: NwkSKey).
    SNwkSIntKey
);
key!(
    /// The network session encryption key: port 0 and, in 1.1, FOpts (1.0.x: NwkSKey).
    NwkSEncKey
);
key!(
    /// The join server's integrity key of a 1.1 device.
    JsIntKey
);
key!(
    /// The join server's encryption key of a 1.1 device.
    JsEncKey
);

/// The session keys a network server holds. A 1.0.x session has one NwkSKey, which stands in all three places.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetworkKeys {
    /// Uplink MIC.
    pub f_nwk_s_int: FNwkSIntKey,
    /// Downlink MIC.
    pub s_nwk_s_int: SNwkSIntKey,
    /// Port 0 and FOpts.
    pub nwk_s_enc: NwkSEncKey,
}

impl NetworkKeys {
    /// The keys of a 1.0.x session.
    pub fn from_nwk_s_key(nwk_s_key: &Key) -> Self {
        Self {
            f_nwk_s_int: FNwkSIntKey::new(*nwk_s_key.expose()),
            s_nwk_s_int: SNwkSIntKey::new(*nwk_s_key.expose()),
            nwk_s_enc: NwkSEncKey::new(*nwk_s_key.expose()),
        }
    }
}

fn parse(text: &str, what: &'static str) -> Result<[u8; 16], KeyError> {
    let len = text.chars().count();
    if len != 32 {
        return Err(KeyError::WrongLength { what, len });
    }
    let mut bytes = [0; 16];
    for (index, character) in text.chars().enumerate() {
        let digit = character
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
            .ok_or_else(|| KeyError::NotHex { what, position: index.saturating_add(1) })?;
        if let Some(byte) = bytes.get_mut(index / 2) {
            *byte = *byte << 4 | digit;
        }
    }
    if bytes == [0; 16] {
        return Err(KeyError::AllZero { what });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECRET: &str = "2b7e151628aed2a6abf7158809cf4f3c";

    /// CRYPTO-024.
    #[test]
    fn a_key_is_never_shown() {
        let key: AppKey = SECRET.parse().unwrap();
        assert_eq!(format!("{key:?}"), "AppKey(…)");
        let keys = NetworkKeys::from_nwk_s_key(&SECRET.parse().unwrap());
        let shown = format!("{keys:?}");
        assert!(!shown.contains("2b") && !shown.contains("43"), "{shown}");
        for text in [&SECRET[1..], &SECRET.replace('7', "g"), &format!("{SECRET}00")] {
            let error = text.parse::<AppKey>().unwrap_err().to_string();
            assert!(!error.contains("1516") && !error.contains("2b7e"), "{error}");
        }
    }

    #[test]
    fn a_malformed_key_is_refused_with_what_is_wrong() {
        assert_eq!("".parse::<AppKey>(), Err(KeyError::WrongLength { what: "AppKey", len: 0 }));
        assert_eq!(SECRET[..31].parse::<AppKey>(), Err(KeyError::WrongLength { what: "AppKey", len: 31 }));
        let spoilt = SECRET.replacen('1', "x", 1);
        assert_eq!(spoilt.parse::<NwkKey>(), Err(KeyError::NotHex { what: "NwkKey", position: 5 }));
        assert_eq!("0".repeat(32).parse::<AppSKey>(), Err(KeyError::AllZero { what: "AppSKey" }));
        assert_eq!("é".repeat(32).parse::<Key>(), Err(KeyError::NotHex { what: "Key", position: 1 }));
    }

    #[test]
    fn upper_and_lower_case_are_the_same_key() {
        let lower: Key = SECRET.parse().unwrap();
        assert_eq!(lower, SECRET.to_uppercase().parse().unwrap());
        assert_ne!(lower, Key::new([0; 16]));
    }
}
