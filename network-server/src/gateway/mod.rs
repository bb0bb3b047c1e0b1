//! Gateways over the Semtech UDP packet forwarder protocol, versions 1 and 2 (PROTOCOL.TXT).
//!
//! `udp` owns the sockets and threads; `virtual_port` stands in for it in a simulated world. `intake` reads what either
//! brings. `Gateways` is what is known about the gateways and decides without clock and
//! sockets: who is heard, where a downlink goes, which TX_ACK counts. The other files read and write one part of the
//! protocol each.
//!
//! The protocol has no authentication. An EUI is a claim; what follows from it is bounded here (see `path`, `limit`)
//! and never reaches a device's state before a MIC holds.

mod batch;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gwmp;
mod intake;
mod lenient;
mod limit;
mod path;
mod push_data;
mod registry;
mod rxpk;
mod time;
mod tx_ack;
mod txpk;
mod udp;
mod unseen;
mod virtual_port;

#[cfg(test)]
mod round_trips;
#[cfg(test)]
mod udp_tests;

use std::net::SocketAddr;
use std::sync::Arc;

use mac::drop_reason::DropReason;
use mac::ids::GatewayEui;
use mac::region::{CodingRate, Modulation};
use mac::units::{Hz, Mono, Timestamp};

pub use intake::UdpCounters;
pub(crate) use limit::Bucket;
pub use limit::RateLimit;
pub use registry::{GatewayConfig, GatewayLink, GatewayPolicy, GatewayStatus, Gateways};
pub use tx_ack::TxAckError;
pub use udp::{Clock, GatewayError, UdpConfig, UdpServer, start};
pub use unseen::UnseenGateway;
pub(crate) use virtual_port::start_virtual;
pub use virtual_port::{VirtualPort, Wire};

/// One gateway's reception of one frame.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayUplink {
    /// The gateway that heard it.
    pub gateway: GatewayEui,
    /// The frame, at most 255 bytes; not looked into, may be empty.
    pub phy: Arc<[u8]>,
    /// Centre frequency.
    pub freq: Hz,
    /// Modulation and its parameters.
    pub modulation: Modulation,
    /// The coding rate of a LoRa frame, where the gateway names one that is known.
    pub coding_rate: Option<CodingRate>,
    /// Channel RSSI in dBm, −200 to 50; [`RSSI_UNKNOWN_DBM`] where the gateway gives no sensible one.
    pub rssi_dbm: f32,
    /// Signal-to-noise ratio in dB, −50 to 50, finite; `None` for FSK.
    pub snr_db: Option<f32>,
    /// The gateway's own counter at the end of the reception, in microseconds modulo 2^32.
    pub tmst_us: u32,
    /// The antenna that heard it best; 0 for gateways with one.
    pub antenna: u8,
    /// The concentrator board, to be echoed in a downlink, where the gateway names one.
    pub board: Option<u16>,
    /// Number of the gateway's IF channel; 0 where unknown.
    pub channel: u16,
    /// The gateway's UTC time of the reception, where it has one.
    pub gateway_time: Option<Timestamp>,
    /// GPS time of the reception in milliseconds, where the gateway has GPS.
    pub gps_time_ms: Option<u64>,
    /// Nanoseconds since the last pulse per second, below 10^9, where the gateway has fine timestamps.
    pub fine_time_ns: Option<u32>,
    /// When the server took the datagram from the socket, on the monotonic clock.
    pub received: Mono,
    /// The same moment on the wall clock.
    pub received_at: Timestamp,
}

/// The RSSI of a reception whose gateway reports none that can be: worse than any real one.
pub const RSSI_UNKNOWN_DBM: f32 = -200.0;

/// What happened at the sockets.
#[derive(Clone, Debug, PartialEq)]
pub enum GatewayEvent {
    /// An unregistered gateway was registered by itself, as the policy allows; whoever listens makes it durable.
    AutoRegistered {
        /// The gateway.
        gateway: GatewayEui,
        /// Where its packet came from.
        source: SocketAddr,
    },
    /// Something was refused.
    Dropped {
        /// The gateway it names, where that could be read.
        gateway: Option<GatewayEui>,
        /// Why.
        reason: DropReason,
        /// What was found, with values; may be empty.
        detail: String,
        /// The frame, where there is one.
        phy: Option<Vec<u8>>,
        /// Where the datagram came from.
        source: SocketAddr,
    },
    /// More was refused than is told one by one; these are not in any [`GatewayEvent::Dropped`].
    DroppedMany {
        /// Why.
        reason: DropReason,
        /// How many.
        count: u64,
    },
    /// A gateway was silent for a minute.
    Offline {
        /// The gateway.
        gateway: GatewayEui,
    },
    /// A gateway was heard for the first time, or again after [`GatewayEvent::Offline`].
    Online {
        /// The gateway.
        gateway: GatewayEui,
    },
    /// A gateway's downlinks go to another address from now on.
    PathMoved {
        /// The gateway.
        gateway: GatewayEui,
        /// The old address.
        from: SocketAddr,
        /// The address that counts.
        to: SocketAddr,
    },
    /// A PULL_DATA with a gateway's EUI came from elsewhere while its own path is alive, and was kept out. Told once a
    /// minute and gateway at most; each one is counted as `path_move_refused`.
    PathMoveRefused {
        /// The gateway.
        gateway: GatewayEui,
        /// The address that was kept out.
        from: SocketAddr,
    },
    /// The frames of one receive batch, in the order they came; never empty.
    Uplinks(Vec<GatewayUplink>),
}

/// Takes what comes from the sockets. Called from the receiver threads, which it must not hold up.
pub trait Ingress: Send + Sync {
    /// Takes one event.
    fn deliver(&self, event: GatewayEvent);

    /// False while the server cannot make frames durable: PUSH_ACK is withheld, so that forwarders that store send
    /// again. Frames are still delivered.
    fn ready(&self) -> bool;

    /// True while no more frames can be taken: PUSH_ACK is withheld and the datagrams are dropped as `queue_full`.
    fn is_full(&self) -> bool;
}

/// A frame for a gateway to send.
#[derive(Clone, Debug, PartialEq)]
pub struct TxRequest {
    /// The gateway.
    pub gateway: GatewayEui,
    /// When it goes on air.
    pub when: TxTime,
    /// Centre frequency.
    pub freq: Hz,
    /// LoRa (sent with coding rate 4/5) or FSK.
    pub modulation: Modulation,
    /// What may be radiated, in dBm EIRP, the region's limit applied. The gateway's antenna gain is taken off and its
    /// own limit kept here.
    pub eirp_dbm: f32,
    /// The antenna of the uplink.
    pub antenna: u8,
    /// The board of the uplink.
    pub board: Option<u16>,
    /// Inverted for frames to devices.
    pub polarization: Polarization,
    /// The frame, at most 255 bytes.
    pub phy: Vec<u8>,
}

/// When a frame goes on air.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TxTime {
    /// At this GPS time in milliseconds (class B).
    Gps(u64),
    /// At once (class C).
    Immediately,
    /// At this value of the gateway's own counter, microseconds modulo 2^32 (class A).
    Tmst(u32),
}

/// The direction LoRa chirps turn. Gateways hear only the plain one, devices only the inverted one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Polarization {
    /// Downlinks.
    Inverted,
    /// Beacons and uplinks.
    Plain,
}

/// What became of a [`TxRequest`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TxOutcome {
    /// The gateway put the frame into its queue. That is no proof that it was sent.
    Acknowledged {
        /// What it will do differently, such as `TX_POWER 27`.
        warning: Option<String>,
    },
    /// Nothing was heard from the gateway in two seconds; the frame may be on air or not.
    NoAnswer,
    /// The gateway is not registered or never asked for downlinks; nothing was sent.
    NoPath,
    /// The gateway will not send the frame.
    Refused {
        /// Why.
        error: TxAckError,
        /// The gateway's own word.
        text: String,
    },
    /// Nothing left this server.
    SendFailed {
        /// Why.
        detail: String,
    },
    /// The forwarder speaks protocol version 1, which has no answer; the frame may be on air or not.
    SentUnconfirmed,
}
