//! Where a gateway's downlinks go.
//!
//! The protocol has no authentication: whoever sends a PULL_DATA with a gateway's EUI could draw its downlinks to
//! himself. But addresses do change, behind NAT even every minute. So a path moves at once to another port of the
//! same address, and to another address only after the old one has been silent.

use std::net::SocketAddr;

use mac::units::Mono;

/// The source of the PULL_DATA that a gateway's downlinks are sent to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct DownlinkPath {
    address: SocketAddr,
    last_pull: Mono,
    last_heard: Mono,
    /// The gateway's own interval between two PULL_DATA, smoothed.
    keepalive_ms: Option<u64>,
}

/// What a PULL_DATA did to a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PathChange {
    Kept,
    Moved { from: SocketAddr },
    Refused,
}

impl DownlinkPath {
    /// The path that a first PULL_DATA opens.
    pub(crate) fn open(source: SocketAddr, now: Mono) -> Self {
        Self { address: source, last_pull: now, last_heard: now, keepalive_ms: None }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Judges a PULL_DATA from `source` and follows it where that is allowed. A refused one changes nothing.
    pub(crate) fn pull(&mut self, source: SocketAddr, now: Mono) -> PathChange {
        let from = self.address;
        if source.ip() == from.ip() {
            self.measure_keepalive(now);
        } else if now.saturating_ms_since(self.last_heard) >= self.patience_ms() {
            self.keepalive_ms = None;
        } else {
            return PathChange::Refused;
        }
        self.address = source;
        self.last_pull = now;
        self.last_heard = now;
        if source == from { PathChange::Kept } else { PathChange::Moved { from } }
    }

    /// Notes a sign of life: another packet of the gateway from `source`. Only the path's own address counts.
    pub(crate) fn heard(&mut self, source: SocketAddr, now: Mono) {
        if source.ip() == self.address.ip() {
            self.last_heard = now;
        }
    }

    /// How long the path must be silent before it may move to another address: two keepalives, at least
    /// [`PATIENCE_MS_MIN`].
    fn patience_ms(&self) -> u64 {
        self.keepalive_ms.map_or(0, |keepalive_ms| keepalive_ms.saturating_mul(2)).max(PATIENCE_MS_MIN)
    }

    fn measure_keepalive(&mut self, now: Mono) {
        // A long gap is an outage, no interval; a capped one cannot make the path stick for ever.
        let gap_ms = now.saturating_ms_since(self.last_pull).min(KEEPALIVE_MS_MAX);
        self.keepalive_ms = Some(
            self.keepalive_ms
                .map_or(gap_ms, |smoothed_ms| smoothed_ms.saturating_mul(3).saturating_add(gap_ms) / 4),
        );
    }
}

const PATIENCE_MS_MIN: u64 = 20_000;
const KEEPALIVE_MS_MAX: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Mono {
        Mono::from_us(s * 1_000_000)
    }

    fn address(host: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], port))
    }

    /// UDP-002, UDP-008.
    #[test]
    fn the_same_address_with_another_port_moves_the_path_at_once() {
        let mut path = DownlinkPath::open(address(1, 4000), at(0));
        assert_eq!(path.pull(address(1, 4000), at(10)), PathChange::Kept);
        assert_eq!(path.pull(address(1, 5000), at(10)), PathChange::Moved { from: address(1, 4000) });
        assert_eq!(path.address(), address(1, 5000));
    }

    /// UDP-008.
    #[test]
    fn another_address_moves_the_path_only_after_twenty_seconds_of_silence() {
        let mut path = DownlinkPath::open(address(1, 4000), at(0));
        path.pull(address(1, 4000), at(5));
        let before = path;
        for tenths in 51..250 {
            let now = Mono::from_us(tenths * 100_000);
            assert_eq!(path.pull(address(9, 4000), now), PathChange::Refused, "{now:?}");
        }
        assert_eq!(path, before);
        assert_eq!(path.pull(address(9, 4000), at(25)), PathChange::Moved { from: address(1, 4000) });
    }

    /// UDP-008: a gateway with a slow keepalive is given two of its own.
    #[test]
    fn a_slow_keepalive_lengthens_the_patience() {
        let mut path = DownlinkPath::open(address(1, 4000), at(0));
        for i in 1..20 {
            path.pull(address(1, 4000), at(i * 30));
        }
        let last = 19 * 30;
        assert_eq!(path.pull(address(9, 4000), at(last + 59)), PathChange::Refused);
        assert_eq!(path.pull(address(9, 4000), at(last + 60)), PathChange::Moved { from: address(1, 4000) });
    }

    #[test]
    fn an_outage_does_not_make_the_path_stick() {
        let mut path = DownlinkPath::open(address(1, 4000), at(0));
        path.pull(address(1, 4000), at(86_400));
        assert_eq!(path.pull(address(9, 4000), at(86_400 + 120)), PathChange::Moved { from: address(1, 4000) });
    }

    #[test]
    fn other_packets_keep_a_path_alive_only_from_its_own_address() {
        let mut path = DownlinkPath::open(address(1, 4000), at(0));
        path.heard(address(1, 7000), at(15));
        assert_eq!(path.pull(address(9, 4000), at(30)), PathChange::Refused);
        path.heard(address(9, 7000), at(34));
        assert_eq!(path.pull(address(9, 4000), at(35)), PathChange::Moved { from: address(1, 4000) });
    }
}
