//! Every delay and bound of the network server, in one place (design: time budget).
//!
//! An uplink answered in RX1 after the default 5 s spends: backhaul, [`DEDUP_WINDOW_MS`], a commit of about
//! a few ms, [`PAYLOAD_MS`], and must leave [`GATEWAY_LEAD_MIN_MS`] before its time.

/// Copies of one uplink are gathered for this long after the first one, in milliseconds.
pub const DEDUP_WINDOW_MS: u64 = mac::dedup::WINDOW_MS;

/// A group commit takes about 1 ms; a confirmed downlink waits so long for the commit that notes it, in milliseconds.
pub const COMMIT_PATIENCE_MS: u64 = 500;

/// How long a window waits for the app-bridge's payload, in milliseconds; after that it leaves without.
pub const PAYLOAD_MS: u64 = 150;

/// A window that opens sooner than this after the decision is not planned for, in milliseconds. Packet forwarders need
/// about 40 ms themselves; the rest is for the payload and the backhaul.
pub const GATEWAY_LEAD_MS: u64 = 200;

/// A frame is handed to its gateway at least this long before it goes on air, in milliseconds. The wait for the payload
/// takes no window away that was in reach before.
pub const GATEWAY_LEAD_MIN_MS: u64 = GATEWAY_LEAD_MS - PAYLOAD_MS;

/// A PULL_RESP without TX_ACK is given up after this long, in milliseconds.
pub const TX_ACK_MS: u64 = 2_000;

/// How long the join server may take, in milliseconds: the accept leaves 5 s after the request.
pub const JOIN_MS: u64 = 3_000;

/// JOIN_ACCEPT_DELAY2 in milliseconds (RP002-1.0.4, the default of every region).
pub const JOIN_ACCEPT_DELAY2_MS: u64 = 6_000;

/// A frame that its gateway says it kept for so long is not answered, in milliseconds. Shorter times are within what the clocks
/// of gateways are wrong by.
pub const KEPT_MS: u64 = 30_000;

/// Messages that wait for one owner when PUSH_ACK is withheld: the rest is room for a batch of each receiver.
pub const OWNER_QUEUE_FULL: usize = OWNER_QUEUE_MAX / 8 * 7;

/// How long stopping waits for TX_ACKs and joins under way, in milliseconds.
pub const DRAIN_MS: u64 = 3_000;

/// Join-Requests in work at once; further ones are refused as `rate_limited`.
pub const JOINS_IN_FLIGHT_MAX: usize = 2_048;

/// Join-Requests of one DevEUI in work at once.
pub const JOINS_PER_DEVICE_MAX: usize = 4;

/// Join-Requests remembered, so that a copy that comes late is not a second request.
pub const JOINS_REMEMBERED_MAX: usize = 8_192;

/// Messages that wait for one owner; beyond it PUSH_ACK is withheld, because forwarders that store send again.
pub const OWNER_QUEUE_MAX: usize = 4_096;

/// Frames of uplinks that wait for the owners, over all messages.
pub const INGRESS_FRAMES_MAX: u64 = 65_536;

/// Downlinks in work at once; further ones miss their window.
pub const DOWNLINKS_IN_FLIGHT_MAX: usize = 8_192;

/// Virtual shards the devices are spread over; owners hold whole shards.
pub const SHARDS: u64 = 1_024;

/// Pending sessions kept for one device; the oldest goes first.
pub const PENDING_SESSIONS_MAX: usize = 2;

/// Refused frames remembered, of known and of unknown devices each.
pub const DROPS_REMEMBERED_MAX: usize = 1_024;

/// Records answered by one read of the log at most.
pub const LOG_PAGE_MAX: u32 = 4_096;
