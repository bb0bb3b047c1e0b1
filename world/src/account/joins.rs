//! Joins: nonces and what becomes of sessions.

use std::collections::{BTreeMap, BTreeSet};

use mac::join_frame::JoinAccept;
use proto::internal::JoinRecord;

use super::{Account, Invariant, Order};
use crate::schedule::Kind;
use crate::states::{State, States};

#[derive(Debug, Default)]
pub(super) struct JoinAccount {
    /// Nonces in the log.
    accepted: BTreeMap<(usize, u16), Accepted>,
    /// The highest DevNonce in the log, by device.
    highest: BTreeMap<usize, u16>,
    /// The JoinNonce that answered each join of a device, in the order of the joins.
    answered: BTreeMap<(usize, usize), (u32, Vec<u8>)>,
    /// Devices that asked to join with a session and have not used it since.
    pub(super) failed_since_use: BTreeSet<usize>,
}

/// A join in the log.
#[derive(Clone, Copy, Debug)]
struct Accepted {
    session_id: u64,
    /// Its place among the joins.
    place: usize,
    /// In which it came into the log.
    life: usize,
}

impl Account {
    /// The log has a join.
    pub(super) fn join_logged(&mut self, dev_eui: u64, join: &JoinRecord) {
        let Some(&device) = self.devices.get(&dev_eui) else {
            self.violate(Invariant::I4, format!("a join of {dev_eui:016x}, which does not exist"));
            return;
        };
        let Ok(nonce) = u16::try_from(join.dev_nonce) else {
            self.violate(Invariant::I4, format!("DevNonce {} of device {device}", join.dev_nonce));
            return;
        };
        let place = self.joins.accepted.len();
        match self.joins.accepted.get(&(device, nonce)) {
            Some(before) if before.session_id != join.session_id => {
                let detail = format!(
                    "DevNonce {nonce} of device {device} made session {:016x} and session {:016x}",
                    before.session_id, join.session_id
                );
                self.violate(Invariant::I4, detail);
            }
            Some(_) => {}
            None => {
                let life = self.lives.len().saturating_sub(1);
                self.joins
                    .accepted
                    .insert((device, nonce), Accepted { session_id: join.session_id, place, life });
                let rises = matches!(self.kinds[device], Kind::Otaa104 | Kind::Otaa11);
                let highest = self.joins.highest.get(&device).copied();
                if rises && highest.is_some_and(|highest| nonce <= highest) {
                    let detail = format!("DevNonce {nonce} of device {device} follows {highest:?} in the log");
                    self.violate(Invariant::I4, detail);
                }
                self.joins.highest.insert(device, highest.map_or(nonce, |highest| highest.max(nonce)));
                for (_, session) in self.sessions.range_mut((device, 0)..=(device, u64::MAX)) {
                    if !session.used {
                        session.newer_joins += 1;
                    }
                }
            }
        }
    }

    /// A Join-Accept leaves a server; `key` opens it.
    pub(super) fn accept_leaves(
        &mut self,
        device: usize,
        dev_nonce: u16,
        order: &Order,
        key: &[u8; 16],
        states: &mut States,
    ) {
        let phy = &order.phy;
        let Some(&Accepted { place, life, .. }) = self.joins.accepted.get(&(device, dev_nonce)) else {
            let detail = format!("DevNonce {dev_nonce} of device {device} is answered before its commit");
            return self.violate(Invariant::I1, detail);
        };
        if life != order.life {
            states.reach(State::AnswerGivenAgainAfterCrash);
        }
        let Some(opened) = JoinAccept::open(phy, key) else {
            self.violate(Invariant::I4, format!("a Join-Accept that device {device} cannot open"));
            return;
        };
        let nonce = opened.accept.join_nonce.value();
        let answered = &self.joins.answered;
        let earlier = answered.range((device, 0)..(device, place)).next_back();
        let later = answered.range((device, place + 1)..=(device, usize::MAX)).next();
        let detail = match answered.get(&(device, place)) {
            Some((_, bytes)) if bytes != phy => {
                Some(format!("DevNonce {dev_nonce} of device {device} has two answers"))
            }
            Some(_) => None,
            None if earlier.is_some_and(|(_, (before, _))| *before >= nonce)
                || later.is_some_and(|(_, (after, _))| *after <= nonce) =>
            {
                Some(format!("JoinNonce {nonce} for DevNonce {dev_nonce} of device {device} does not rise"))
            }
            None => None,
        };
        self.joins.answered.insert((device, place), (nonce, phy.to_vec()));
        if let Some(detail) = detail {
            self.violate(Invariant::I4, detail);
        }
    }

    /// A device with a session asks for another one.
    pub(crate) fn asked_to_join(&mut self, device: usize) {
        self.joins.failed_since_use.insert(device);
    }

    /// A device has taken the Join-Accept for a DevNonce: that session begins, and the one it had is not used any more.
    pub(crate) fn joined(&mut self, device: usize, session: u64, dev_nonce: u16) {
        let mut newer_joins = 0;
        if let Some(mine) = self.joins.accepted.get(&(device, dev_nonce)) {
            let of_device = self.joins.accepted.range((device, 0)..=(device, u16::MAX));
            newer_joins = of_device.filter(|(_, accepted)| accepted.place > mine.place).count() as u64;
        }
        self.sessions.insert((device, session), super::Session { newer_joins, ..super::Session::default() });
        self.joins.failed_since_use.remove(&device);
    }
}
