//! Gateways that knock and are not registered.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use hashbrown::HashMap;
use mac::ids::GatewayEui;
use mac::units::Timestamp;

/// A gateway that sent packets and is not registered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnseenGateway {
    /// The EUI it calls itself.
    pub gateway: GatewayEui,
    /// Where its last packet came from.
    pub address: SocketAddr,
    /// Packets since it was first seen; those above the rate limit of its source are not counted.
    pub datagrams: u64,
    /// When its first packet came.
    pub first_seen_at: Timestamp,
    /// When its last packet came.
    pub last_seen_at: Timestamp,
}

/// The gateways that knocked last; the one that was silent for the longest time makes room for another.
#[derive(Debug, Default)]
pub(crate) struct Unseen {
    by_eui: HashMap<GatewayEui, (u64, UnseenGateway)>,
    /// Ordered by the number of the last packet.
    by_age: BTreeMap<u64, GatewayEui>,
    packets: u64,
}

impl Unseen {
    pub(crate) fn note(&mut self, gateway: GatewayEui, address: SocketAddr, at: Timestamp) {
        let mut entry = match self.by_eui.get(&gateway) {
            Some((packet, entry)) => {
                self.by_age.remove(packet);
                *entry
            }
            None => UnseenGateway { gateway, address, datagrams: 0, first_seen_at: at, last_seen_at: at },
        };
        entry.address = address;
        entry.datagrams = entry.datagrams.saturating_add(1);
        entry.last_seen_at = at;
        self.packets = self.packets.saturating_add(1);
        self.by_eui.insert(gateway, (self.packets, entry));
        self.by_age.insert(self.packets, gateway);
        if self.by_age.len() > UNSEEN_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_eui.remove(&oldest);
        }
    }

    pub(crate) fn forget(&mut self, gateway: GatewayEui) {
        if let Some((packet, _)) = self.by_eui.remove(&gateway) {
            self.by_age.remove(&packet);
        }
    }

    /// All of them, the latest first.
    pub(crate) fn all(&self) -> Vec<UnseenGateway> {
        let found = |eui| self.by_eui.get(eui).map(|(_, entry)| *entry);
        self.by_age.values().rev().filter_map(found).collect()
    }
}

const UNSEEN_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn note(unseen: &mut Unseen, eui: u64, at_us: i64) {
        unseen.note(GatewayEui::new(eui), SocketAddr::from(([192, 0, 2, 1], 1700)), Timestamp::from_us(at_us));
    }

    /// UDP-009: an EUI made up for every packet costs no memory, and the gateway that keeps knocking stays.
    #[test]
    fn the_one_that_was_silent_longest_makes_room() {
        let mut unseen = Unseen::default();
        note(&mut unseen, 1, 1);
        note(&mut unseen, 2, 2);
        for i in 3..100_000_u32 {
            note(&mut unseen, u64::from(i), i64::from(i));
            if i % 900 == 0 {
                note(&mut unseen, 1, i64::from(i));
            }
        }
        let all = unseen.all();
        assert_eq!(all.len(), UNSEEN_MAX);
        assert_eq!(unseen.by_eui.len(), UNSEEN_MAX);
        assert_eq!(all.first().map(|g| g.gateway), Some(GatewayEui::new(99_999)));
        let knocking = all.iter().find(|g| g.gateway == GatewayEui::new(1)).expect("it keeps knocking");
        assert_eq!((knocking.datagrams, knocking.first_seen_at), (112, Timestamp::from_us(1)));
        assert!(!all.iter().any(|g| g.gateway == GatewayEui::new(2)));

        unseen.forget(GatewayEui::new(1));
        assert_eq!(unseen.all().len(), UNSEEN_MAX - 1);
    }
}
