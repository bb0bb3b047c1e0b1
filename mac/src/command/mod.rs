//! MAC commands: what network and device tell each other beside the application (TS001-1.0.4 §5, TS001-1.1 §5).
//!
//! One file a command, request and answer together. A sequence of commands is read by [`UplinkCommands`] or
//! [`DownlinkCommands`]: bytes that were not written by us end the reading, they never break it. Reserved bits are
//! ignored when read and zero when written.

mod adr_param_setup;
mod beacon_freq;
mod beacon_timing;
mod dev_status;
mod device_mode;
mod device_time;
mod dl_channel;
mod duty_cycle;
mod force_rejoin;
mod frequency;
mod link_adr;
mod link_check;
mod new_channel;
mod ping_slot_channel;
mod ping_slot_info;
mod rejoin_param_setup;
mod rekey;
mod reset;
mod rx_param_setup;
mod rx_timing_setup;
mod tx_param_setup;

pub use adr_param_setup::AdrParamSetupReq;
pub use beacon_freq::{BeaconFreqAns, BeaconFreqReq};
pub use beacon_timing::BeaconTimingAns;
pub use dev_status::{Battery, DevStatusAns};
pub use device_mode::{DeviceMode, DeviceModeConf, DeviceModeInd};
pub use device_time::DeviceTimeAns;
pub use dl_channel::{DlChannelAns, DlChannelReq};
pub use duty_cycle::DutyCycleReq;
pub use force_rejoin::ForceRejoinReq;
pub use frequency::WireFrequency;
pub use link_adr::{LinkAdrAns, LinkAdrReq, link_adr_requests};
pub use link_check::LinkCheckAns;
pub use new_channel::{NewChannelAns, NewChannelReq};
pub use ping_slot_channel::{PingSlotChannelAns, PingSlotChannelReq};
pub use ping_slot_info::PingSlotInfoReq;
pub use rejoin_param_setup::{RejoinParamSetupAns, RejoinParamSetupReq};
pub use rekey::{RekeyConf, RekeyInd};
pub use reset::{ResetConf, ResetInd};
pub use rx_param_setup::{RxParamSetupAns, RxParamSetupReq};
pub use rx_timing_setup::RxTimingSetupReq;
pub use tx_param_setup::{MAX_EIRP_DBM, TxParamSetupReq};

/// Largest length of commands in FOpts, in bytes; longer sequences travel as FRMPayload with FPort 0.
pub const FOPTS_LEN_MAX: usize = 15;

/// Declares the commands of one direction: identifier, name, and the type of the payload where there is one.
///
/// A payload type has `from_bytes` and `to_bytes` over an array; its length is the length of that array.
macro_rules! commands {
    (
        $(#[$doc:meta])* $name:ident, $(#[$iterator_doc:meta])* $iterator:ident:
        $($cid:literal $command:ident $(($payload:ident: $type:ty))?,)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[allow(missing_docs, reason = "the names are the specification's")]
        pub enum $name {
            $($command $(($type))?,)*
        }

        impl $name {
            /// The command identifier.
            pub const fn cid(&self) -> u8 {
                match self {
                    $(Self::$command { .. } => $cid,)*
                }
            }

            /// Length on the wire in bytes, with the identifier.
            #[allow(clippy::len_without_is_empty, reason = "a command has at least its identifier")]
            pub fn len(&self) -> usize {
                let payload_len = match self {
                    $(Self::$command $(($payload))? => 0 $(+ $payload.to_bytes().len())?,)*
                };
                payload_len.saturating_add(1)
            }

            /// Appends the command, identifier first.
            pub fn encode(&self, out: &mut Vec<u8>) {
                out.push(self.cid());
                match self {
                    $(Self::$command $(($payload))? => { $(out.extend_from_slice(&$payload.to_bytes());)? })*
                }
            }

            /// The first command of a sequence, and what follows it.
            fn split_first(bytes: &[u8]) -> Result<(Self, &[u8]), CommandError> {
                let (&cid, rest) = bytes.split_first().ok_or(CommandError::Truncated { cid: 0 })?;
                match cid {
                    $($cid => {
                        $(
                            let ($payload, rest) =
                                rest.split_first_chunk().ok_or(CommandError::Truncated { cid })?;
                            let $payload = <$type>::from_bytes(*$payload);
                        )?
                        Ok((Self::$command $(($payload))?, rest))
                    })*
                    _ => Err(CommandError::Unknown { cid }),
                }
            }
        }

        $(#[$iterator_doc])*
        #[derive(Clone, Debug)]
        pub struct $iterator<'a>(&'a [u8]);

        impl<'a> $iterator<'a> {
            /// Reads the plain commands in FOpts, or in FRMPayload with FPort 0.
            pub const fn new(bytes: &'a [u8]) -> Self {
                Self(bytes)
            }
        }

        impl Iterator for $iterator<'_> {
            type Item = Result<$name, CommandError>;

            fn next(&mut self) -> Option<Self::Item> {
                if self.0.is_empty() {
                    return None;
                }
                match $name::split_first(self.0) {
                    Ok((command, rest)) => {
                        self.0 = rest;
                        Some(Ok(command))
                    }
                    Err(error) => {
                        self.0 = &[];
                        Some(Err(error))
                    }
                }
            }
        }

        impl std::iter::FusedIterator for $iterator<'_> {}
    };
}

commands! {
    /// A command from a device to the network.
    UplinkCommand,
    /// The commands in an uplink, in order.
    ///
    /// After an error there is nothing more: the length of an unknown command is unknown too. The commands before it
    /// count.
    UplinkCommands:
    0x01 ResetInd(ind: ResetInd),
    0x02 LinkCheckReq,
    0x03 LinkAdrAns(ans: LinkAdrAns),
    0x04 DutyCycleAns,
    0x05 RxParamSetupAns(ans: RxParamSetupAns),
    0x06 DevStatusAns(ans: DevStatusAns),
    0x07 NewChannelAns(ans: NewChannelAns),
    0x08 RxTimingSetupAns,
    0x09 TxParamSetupAns,
    0x0a DlChannelAns(ans: DlChannelAns),
    0x0b RekeyInd(ind: RekeyInd),
    0x0c AdrParamSetupAns,
    0x0d DeviceTimeReq,
    0x0f RejoinParamSetupAns(ans: RejoinParamSetupAns),
    0x10 PingSlotInfoReq(req: PingSlotInfoReq),
    0x11 PingSlotChannelAns(ans: PingSlotChannelAns),
    0x12 BeaconTimingReq,
    0x13 BeaconFreqAns(ans: BeaconFreqAns),
    0x20 DeviceModeInd(ind: DeviceModeInd),
}

commands! {
    /// A command from the network to a device.
    DownlinkCommand,
    /// The commands in a downlink, in order.
    ///
    /// After an error there is nothing more: the length of an unknown command is unknown too. The commands before it
    /// count.
    DownlinkCommands:
    0x01 ResetConf(conf: ResetConf),
    0x02 LinkCheckAns(ans: LinkCheckAns),
    0x03 LinkAdrReq(req: LinkAdrReq),
    0x04 DutyCycleReq(req: DutyCycleReq),
    0x05 RxParamSetupReq(req: RxParamSetupReq),
    0x06 DevStatusReq,
    0x07 NewChannelReq(req: NewChannelReq),
    0x08 RxTimingSetupReq(req: RxTimingSetupReq),
    0x09 TxParamSetupReq(req: TxParamSetupReq),
    0x0a DlChannelReq(req: DlChannelReq),
    0x0b RekeyConf(conf: RekeyConf),
    0x0c AdrParamSetupReq(req: AdrParamSetupReq),
    0x0d DeviceTimeAns(ans: DeviceTimeAns),
    0x0e ForceRejoinReq(req: ForceRejoinReq),
    0x0f RejoinParamSetupReq(req: RejoinParamSetupReq),
    0x10 PingSlotInfoAns,
    0x11 PingSlotChannelReq(req: PingSlotChannelReq),
    0x12 BeaconTimingAns(ans: BeaconTimingAns),
    0x13 BeaconFreqReq(req: BeaconFreqReq),
    0x20 DeviceModeConf(conf: DeviceModeConf),
}

impl DownlinkCommand {
    /// Length of the device's answer in bytes, with the identifier; 0 where it does not answer.
    ///
    /// A 1.1 device answers a block of `LinkADRReq` once, an older one each request: the sum over a sequence is what
    /// the uplink must have room for at most.
    pub const fn answer_len(&self) -> usize {
        match self {
            Self::DutyCycleReq(_)
            | Self::RxTimingSetupReq(_)
            | Self::TxParamSetupReq(_)
            | Self::AdrParamSetupReq(_) => 1,
            Self::LinkAdrReq(_)
            | Self::RxParamSetupReq(_)
            | Self::NewChannelReq(_)
            | Self::DlChannelReq(_)
            | Self::RejoinParamSetupReq(_)
            | Self::PingSlotChannelReq(_)
            | Self::BeaconFreqReq(_) => 2,
            Self::DevStatusReq => 3,
            Self::ResetConf(_)
            | Self::LinkCheckAns(_)
            | Self::RekeyConf(_)
            | Self::DeviceTimeAns(_)
            | Self::ForceRejoinReq(_)
            | Self::PingSlotInfoAns
            | Self::BeaconTimingAns(_)
            | Self::DeviceModeConf(_) => 0,
        }
    }
}

/// Why a sequence of commands was not read to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CommandError {
    /// The sequence ends inside a command.
    #[error("MAC command {cid:#04x} is cut off")]
    Truncated {
        /// Identifier of the command.
        cid: u8,
    },
    /// No command of this direction has the identifier, so nobody knows where the next one begins.
    #[error("MAC command {cid:#04x} is not known; it and all after it are ignored")]
    Unknown {
        /// The identifier.
        cid: u8,
    },
}

/// Whether the bit is set.
const fn bit(byte: u8, index: u8) -> bool {
    byte & (1 << index) != 0
}

/// The lower four bits of a field; a larger value becomes the largest that fits, rather than another one.
fn nibble(value: u8) -> u8 {
    value.min(0x0f)
}
