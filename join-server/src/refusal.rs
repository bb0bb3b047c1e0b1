//! Why a Join-Request gets no answer.

use mac::drop_reason::DropReason;
use mac::ids::{DevEui, DevNonce, JoinEui};
use proto::internal as pb;

/// Why a Join-Request was refused: something the device or its operator can act on.
///
/// Nothing goes to the device. What went wrong on our side is a `PortError`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "fields are named after what they hold")]
pub enum JoinRefusal {
    /// TS001-1.0.4 §6.2.5: DevNonce rises with every request of a device.
    #[error(
        "DevNonce {} of device {dev_eui} is not above {}: a replay, or the device lost its memory",
        .got.value(), .last.value()
    )]
    DevNonceNotRising { dev_eui: DevEui, last: DevNonce, got: DevNonce },
    /// TS001-1.0.3 §6.2.4: a DevNonce counts once.
    #[error("DevNonce {} of device {dev_eui} was used before", .got.value())]
    DevNonceUsed { dev_eui: DevEui, got: DevNonce },
    /// Nobody registered it here.
    #[error("device {dev_eui} is not registered (it asked for JoinEUI {join_eui})")]
    DeviceUnknown { dev_eui: DevEui, join_eui: JoinEui, likeness: Option<Likeness> },
    /// The device asked for another join server than it is registered under.
    #[error("device {dev_eui} asked for JoinEUI {join_eui} but is registered under {registered}")]
    JoinEuiMismatch { dev_eui: DevEui, join_eui: JoinEui, registered: JoinEui, likeness: Option<Likeness> },
    /// TS001-1.0.4 §6.2.5: the MIC is made with the root key of the device.
    #[error("the MIC does not match the {key_name} of device {dev_eui}")]
    JoinMicMismatch { dev_eui: DevEui, key_name: &'static str, likeness: Option<Likeness> },
    /// TS001-1.1 §6.2.3: 24 bits, never used twice.
    #[error("device {dev_eui} has used all 16777215 JoinNonces")]
    JoinNonceExhausted { dev_eui: DevEui },
    /// The key-encryption key does not open it.
    #[error("the stored {key_name} of device {dev_eui} cannot be opened")]
    KeyUnreadable { dev_eui: DevEui, key_name: &'static str },
    /// Not 23 bytes of a Join-Request.
    #[error("the frame is not a Join-Request of 23 bytes")]
    Malformed,
    /// The key that this device's version needs is not set.
    #[error("device {dev_eui} has no {key_name}")]
    NoRootKey { dev_eui: DevEui, key_name: &'static str },
}

/// A mistake that would explain a refusal: with it undone, all fits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Likeness {
    /// The MIC matches the AppKey of a device that is registered as 1.1, whose NwkKey it should match.
    AppKeyInsteadOfNwkKey,
    /// DevEUI and JoinEUI are in each other's place.
    EuisSwapped,
    /// The same digits in the other byte order.
    EuiReversed,
    /// The MIC matches the key with its bytes in the other order.
    KeyReversed,
}

impl JoinRefusal {
    /// The reason it is counted and explained under (docs/drop-reasons.md).
    pub const fn reason(&self) -> DropReason {
        match self {
            Self::DevNonceNotRising { .. } => DropReason::DevNonceNotRising,
            Self::DevNonceUsed { .. } => DropReason::DevNonceUsed,
            Self::DeviceUnknown { .. } => DropReason::DeviceUnknown,
            Self::JoinEuiMismatch { .. } => DropReason::JoinEuiMismatch,
            Self::JoinMicMismatch { .. } => DropReason::JoinMicMismatch,
            Self::JoinNonceExhausted { .. } => DropReason::JoinNonceExhausted,
            Self::KeyUnreadable { .. } => DropReason::KeyUnreadable,
            Self::Malformed => DropReason::Malformed,
            Self::NoRootKey { .. } => DropReason::NoRootKey,
        }
    }

    /// The stable code of the reason.
    pub const fn code(&self) -> &'static str {
        self.reason().code()
    }

    /// What the operator can do about it: what was found to be mixed up, else the reason's general advice.
    pub const fn hint(&self) -> &'static str {
        let likeness = match self {
            Self::DeviceUnknown { likeness, .. }
            | Self::JoinEuiMismatch { likeness, .. }
            | Self::JoinMicMismatch { likeness, .. } => *likeness,
            Self::DevNonceNotRising { .. }
            | Self::DevNonceUsed { .. }
            | Self::JoinNonceExhausted { .. }
            | Self::KeyUnreadable { .. }
            | Self::Malformed
            | Self::NoRootKey { .. } => None,
        };
        match likeness {
            None => self.reason().hint(),
            Some(Likeness::AppKeyInsteadOfNwkKey) => {
                "The MIC was made with the AppKey: the device speaks 1.0.x, or its NwkKey and AppKey are in each other's place."
            }
            Some(Likeness::EuisSwapped) => {
                "With DevEUI and JoinEUI exchanged the device is registered: they were swapped, in the device or at its registration."
            }
            Some(Likeness::EuiReversed) => {
                "With its bytes reversed the EUI is the registered one: it was entered in the other byte order."
            }
            Some(Likeness::KeyReversed) => {
                "With its bytes reversed the key matches: it was entered in the other byte order."
            }
        }
    }
}

impl From<JoinRefusal> for pb::JoinRefused {
    fn from(refusal: JoinRefusal) -> Self {
        Self { code: refusal.code().to_owned(), message: refusal.to_string(), hint: refusal.hint().to_owned() }
    }
}
