//! Why something that came in was refused, or something that should go out did not.

use std::fmt;
use std::str::FromStr;

/// Declares the reasons: variant, stable code, what happened, what to do.
macro_rules! drop_reasons {
    ($($variant:ident, $code:literal, $meaning:literal, $hint:literal;)*) => {
        /// The one list of reasons. Every refused frame, datagram or join ends in one of them and is counted under its code.
        ///
        /// The codes are stable: metrics, the API and docs/drop-reasons.md use them.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum DropReason {
            $(#[doc = $meaning] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of their declaration, which is alphabetical.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// How many reasons there are: the length of a table indexed by [`DropReason::index`].
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name of the reason, in snake case.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)*
                }
            }

            /// What happened, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)*
                }
            }

            /// What the operator can do about it, in one or two sentences.
            pub const fn hint(self) -> &'static str {
                match self {
                    $(Self::$variant => $hint,)*
                }
            }
        }
    };
}

drop_reasons! {
    AwaitingRekeyInd, "awaiting_rekey_ind",
        "A 1.1 device sent a frame of its new session without RekeyInd.",
        "Nothing, if it happens once after a join: the device must repeat RekeyInd until it is confirmed. If it lasts, the device's firmware is not 1.1: correct the profile's mac_version.";
    BadBase64, "bad_base64",
        "The data of a frame from a gateway is not Base64.",
        "Update the gateway's packet forwarder; its datagrams are damaged or its JSON is made by a faulty program.";
    BadJson, "bad_json",
        "The body of a gateway's datagram is not JSON or has another shape than the protocol's.",
        "Update the gateway's packet forwarder; if only some datagrams are bad, look for damage on the way (MTU, a proxy).";
    BadRxpk, "bad_rxpk",
        "One frame in a gateway's datagram lacks a field or has one that cannot be; the other frames of the datagram were taken.",
        "Compare the forwarder's version with its release notes; `loam gateway show` names the field.";
    BadStat, "bad_stat",
        "The status report in a gateway's datagram cannot be read; the frames beside it were taken.",
        "Update the gateway's packet forwarder. Frames are not affected.";
    CrcBad, "crc_bad",
        "The gateway received the frame with a failed checksum.",
        "Nothing: noise and collisions look like this. Set `forward_crc_error` to false in the forwarder to save backhaul.";
    CrcMissing, "crc_missing",
        "The gateway received a frame without a checksum; LoRaWAN uplinks always have one.",
        "Nothing: it is a downlink of another gateway or another radio system. Set `forward_crc_disabled` to false in the forwarder.";
    DatagramTruncated, "datagram_truncated",
        "A datagram ends before its header or its body does.",
        "Check what sends to this port; if it is a gateway, look for damage on the way (MTU, a proxy).";
    DevNonceNotRising, "dev_nonce_not_rising",
        "A device of LoRaWAN 1.0.4 or later joined with a DevNonce that is not above its last one.",
        "If the device was reset to its factory state or lost its memory, create it anew; else the frame is a replay, or the device is older: correct the profile's mac_version.";
    DevNonceUsed, "dev_nonce_used",
        "The DevNonce of a join request was used before by this device.",
        "Nothing, if it is rare: the device draws another one. If it lasts, the device's random numbers are poor or somebody plays its requests back.";
    DeviceDisabled, "device_disabled",
        "The device is disabled.",
        "Enable the device when it should be heard again.";
    DeviceUnknown, "device_unknown",
        "A device that is not registered asked to join.",
        "`loam events drops` shows its DevEUI and the `device create` line to paste. If the DevEUI looks reversed, it was printed in the other byte order.";
    DownlinkTooLong, "downlink_too_long",
        "A downlink does not fit the data rates of its windows.",
        "It stays queued for a faster data rate; split the payload if the device never gets one.";
    DownlinkWindowMissed, "downlink_window_missed",
        "A downlink was ready after its last receive window could be reached.",
        "Look at the gateway's round trip in `loam gateway show`; raise the profile's rx_delay_s if the backhaul is slow.";
    DutyCycleExhausted, "duty_cycle_exhausted",
        "The gateway has used up its airtime in the sub-band of the downlink.",
        "Send fewer or shorter downlinks, use fewer confirmed uplinks, or add a gateway.";
    FcntExhausted, "fcnt_exhausted",
        "The 32 bits of the session's frame counter are used up.",
        "The device has to join again; an ABP device needs new keys.";
    FcntReplayed, "fcnt_replayed",
        "The frame is genuine, but its counter is below the last one that was taken: it was sent before, or the device lost its counter.",
        "If an ABP device restarts its counter at power-up, allow `allow_fcnt_reset` for it or give it OTAA. Otherwise somebody played back a frame, or a gateway delivered it very late.";
    FcntReuse, "fcnt_reuse",
        "The device used a frame counter twice with different content.",
        "The device's firmware is faulty or its keys are in two devices: compare the gateways that hear them.";
    FcntTooFar, "fcnt_too_far",
        "The frame counter jumped by 16384 or more, which versions up to 1.0.3 refuse.",
        "The device was out of reach for long. Let it join again; an ABP device is activated again with its present `--fcnt-up`.";
    Fport0WithFopts, "fport0_with_fopts",
        "A frame has MAC commands both in its header and as its payload, which is not allowed.",
        "Report it to the device's maker. Nothing of the frame was used.";
    GatewayUnknown, "gateway_unknown",
        "The gateway is not registered.",
        "`loam gateway list --unseen` shows it with the `gateway create` line to paste.";
    JoinEuiMismatch, "join_eui_mismatch",
        "The device is registered with another JoinEUI than the one it asked for.",
        "Compare both with the device's label: JoinEUI (AppEUI) and DevEUI may be swapped or in the other byte order.";
    JoinInProgress, "join_in_progress",
        "Another join request of the device is being answered.",
        "Nothing: the device gets the answer to the first one or asks again.";
    JoinMicMismatch, "join_mic_mismatch",
        "The MIC of the join request does not match the device's root key.",
        "The key is wrong, reversed, or in the other field (AppKey and NwkKey of a 1.1 device), or the profile's mac_version is. Set it again with `loam keys set`.";
    JoinNonceExhausted, "join_nonce_exhausted",
        "The device has used every JoinNonce.",
        "Give the device another JoinEUI or DevEUI with new root keys.";
    JoinRefused, "join_refused",
        "The join server refused the request with a reason this version does not know.",
        "Look at the join server's log; run the same version of every role.";
    JoinServerUnavailable, "join_server_unavailable",
        "The join server could not be reached or did not answer in time.",
        "Check that the join server runs and that its address is right; the device asks again by itself.";
    JoinTooLate, "join_too_late",
        "A join request arrived when its last receive window could not be reached any more; no nonce was used.",
        "Look at the gateway's round trip in `loam gateway show`; its backhaul may have been down.";
    KeyUnreadable, "key_unreadable",
        "A stored key of the device cannot be opened.",
        "The key-encryption key is not the one it was sealed with, or the database is damaged. Restore the right key file, or set the key again.";
    MacCommandTruncated, "mac_command_truncated",
        "A genuine frame ends in the middle of a MAC command; the commands before it and the payload were used.",
        "Report it to the device's maker; check that the profile's mac_version is right.";
    MacCommandUnknown, "mac_command_unknown",
        "A genuine frame has a MAC command that is not known; it and those behind it were skipped, the payload was used.",
        "Check that the profile's mac_version is right.";
    Malformed, "malformed",
        "The frame has a length or a field that no LoRaWAN frame has.",
        "Nothing, if it is rare: other radio systems and noise look like this.";
    MicMismatch, "mic_mismatch",
        "A device with this DevAddr exists, but the MIC fits none of its session keys.",
        "If the frames are of a foreign network, nothing. If they are of your ABP device, compare its keys and DevAddr; if of your OTAA device, let it join again.";
    NbTransExceeded, "nb_trans_exceeded",
        "The same frame came more often than the device may repeat it.",
        "If it lasts, the device repeats without limit or somebody plays its frame back.";
    NoDownlinkPath, "no_downlink_path",
        "No gateway that heard the device has an open way back.",
        "Check that the gateway sends PULL_DATA to the same port: `serv_port_down` in its configuration.";
    NoRootKey, "no_root_key",
        "The device asked to join, but the root key its version needs is not set.",
        "Set it with `loam keys set`: AppKey for 1.0.x, NwkKey and AppKey for 1.1.";
    NotAnUplink, "not_an_uplink",
        "The frame is a downlink.",
        "Nothing: the gateway hears other gateways.";
    NotReady, "not_ready",
        "The server could not make the frame durable, so it was not acknowledged to the gateway.",
        "Look at `/readyz` and the log: most often the disk is full. A forwarder that stores and forwards sends the frame again.";
    PathMoveRefused, "path_move_refused",
        "A gateway's EUI appeared at another address while its present way back is alive.",
        "If the gateway moved, wait for two keepalives of silence. Otherwise two gateways have one EUI, or somebody pretends to be it.";
    PayloadTooLong, "payload_too_long",
        "The frame is longer than its data rate allows.",
        "Check the profile's region and regional_revision, and the dwell-time setting.";
    Proprietary, "proprietary",
        "The frame is proprietary (FType 7).",
        "Nothing: loam does not use such frames.";
    QueueFull, "queue_full",
        "A queue inside the server was full, so the frame was not acknowledged to the gateway.",
        "Look at the server's load and disk; a forwarder that stores and forwards sends the frame again.";
    RateLimited, "rate_limited",
        "Too many of these came in a short time.",
        "Find the sender in `loam events drops`; it is faulty or hostile.";
    RejoinUnsupported, "rejoin_unsupported",
        "The device sent a rejoin request, which is not answered.",
        "Nothing: the device keeps its session. It can join with a join request.";
    TooLong, "too_long",
        "The frame is longer than 255 bytes, which no LoRa radio can send.",
        "Check the gateway; the frame was not received like this.";
    TxAckForeign, "tx_ack_foreign",
        "A gateway acknowledged a downlink that was asked of another gateway.",
        "Two gateways may have one EUI or one address; otherwise somebody forges acknowledgements.";
    TxAckMissing, "tx_ack_missing",
        "The gateway did not say what became of a downlink.",
        "Forwarders of protocol version 1 never do; otherwise look at the gateway's backhaul. The device may have received it.";
    TxAckUnexpected, "tx_ack_unexpected",
        "A gateway acknowledged a downlink that is not waiting for it: never sent, answered before, or too late.",
        "Nothing, if it is rare. If it lasts, look at the gateway's round trip in `loam gateway show`.";
    TxRefused, "tx_refused",
        "The gateway refused to send a downlink.",
        "`loam gateway show` counts the causes: TOO_LATE points to the backhaul, TX_FREQ and TX_POWER to the gateway's configuration.";
    UnknownDevAddr, "unknown_dev_addr",
        "No session has this DevAddr.",
        "If the frames are of a foreign network, nothing. If they are of your device, activate it or let it join again.";
    UnknownMajor, "unknown_major",
        "The frame is of another major version than LoRaWAN R1.",
        "Nothing: other radio systems and noise look like this.";
    UnknownPacketType, "unknown_packet_type",
        "A datagram has a type that a gateway does not send.",
        "Check what sends to this port.";
    UnknownProtocolVersion, "unknown_protocol_version",
        "A datagram is of another version than 1 or 2 of the packet forwarder's protocol.",
        "Check what sends to this port; update the gateway's packet forwarder.";
    WrongRegion, "wrong_region",
        "The frequency or data rate of the frame is not one of the device's region.",
        "Check the profile's region against the device and the gateway's channel plan.";
}

impl DropReason {
    /// The place of the reason in a table of [`DropReason::COUNT`] counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason with that code; `None` when it is of a version that knows more.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.code() == code)
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A text is no code of a [`DropReason`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a drop reason; docs/drop-reasons.md lists them")]
pub struct UnknownDropReason(String);

impl FromStr for DropReason {
    type Err = UnknownDropReason;

    fn from_str(code: &str) -> Result<Self, UnknownDropReason> {
        Self::from_code(code).ok_or_else(|| UnknownDropReason(code.to_owned()))
    }
}
