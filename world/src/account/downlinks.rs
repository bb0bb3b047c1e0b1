//! Downlinks: counters, windows, and the fate of each item.

use std::collections::{BTreeMap, BTreeSet};

use proto::internal::DownlinkRecord;
use proto::v1::DownlinkState;

use super::{Account, Invariant};
use crate::states::{State, States};

#[derive(Debug, Default)]
pub(super) struct DownlinkAccount {
    /// What each counter sealed: device, its session, counter of the application or not, FCntDown.
    sealed: BTreeMap<(usize, u64, bool, u32), Vec<u8>>,
    highest: BTreeMap<(usize, u64, bool), u32>,
    pub(super) orders: Vec<Order>,
    items: BTreeMap<String, Item>,
    /// How often each device heard each payload.
    heard: BTreeMap<(usize, Vec<u8>), u32>,
    /// What gateways acknowledged, as it reached a server: gateway and frame.
    acknowledged: BTreeSet<(u64, Vec<u8>)>,
}

/// A PULL_RESP that left a server.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) life: usize,
    pub(crate) gateway: usize,
    pub(crate) token: u16,
    pub(crate) phy: Vec<u8>,
    pub(crate) transmission: Option<usize>,
    /// When it left.
    pub(crate) left_ms: u64,
    /// The server was told that this gateway does not send it.
    pub(crate) refused: bool,
    pub(crate) delay_s: u32,
}

/// An item of the queue, as the log and the devices tell of it.
#[derive(Clone, Debug, Default)]
struct Item {
    device: usize,
    payload: Vec<u8>,
    confirmed: bool,
    /// Whoever ordered it was told that it is in the queue.
    promised: bool,
    /// What the log told of it, in order.
    told: Vec<DownlinkState>,
    /// The same with the counter it was of.
    records: BTreeSet<(u32, Option<u32>)>,
    leased_in: Option<usize>,
}

/// What of a downlink a device can see.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) device: usize,
    pub(crate) session: u64,
    pub(crate) of_application: bool,
    pub(crate) fcnt: u32,
}

impl Account {
    /// Which transmission an order answers: heard by that gateway, whole seconds before.
    pub(crate) fn answered(&self, gateway: usize, boots: u64, tmst_us: u32) -> Option<(usize, u32)> {
        (1..=15).find_map(|delay_s| {
            let heard = tmst_us.wrapping_sub(delay_s * 1_000_000);
            self.heard.get(&(gateway, boots, heard)).map(|transmission| (*transmission, delay_s))
        })
    }

    /// A PULL_RESP leaves a server.
    pub(crate) fn ordered(
        &mut self,
        order: Order,
        freq_hz: u32,
        data_rate: &str,
        identity: Option<Identity>,
        join_key: Option<[u8; 16]>,
        states: &mut States,
    ) {
        let Some(number) = order.transmission else {
            let detail =
                format!("gateway {} is to send at a time that follows no uplink it heard", order.gateway);
            self.violate(Invariant::I7, detail);
            self.downlinks.orders.push(order);
            return;
        };
        let transmission = self.transmissions[number].clone();
        if let Some(frame) = transmission.frame {
            if !self.frames[frame].committed {
                let fcnt = self.frames[frame].fcnt;
                let detail =
                    format!("FCntUp {fcnt} of device {} is answered before its commit", transmission.device);
                self.violate(Invariant::I1, detail);
            }
        } else if let Some(key) = join_key {
            self.accept_leaves(transmission.device, transmission.dev_nonce, &order, &key, states);
        }
        let delay_us = order.delay_s * 1_000_000;
        let fits = transmission
            .windows
            .iter()
            .any(|(delay, freq, rate)| *delay == delay_us && *freq == freq_hz && rate == data_rate);
        if !fits && !transmission.loose {
            let detail = format!(
                "device {} listens in {:?} and the frame is to leave after {} s on {freq_hz} Hz with {data_rate}",
                transmission.device, transmission.windows, order.delay_s
            );
            self.violate(Invariant::I7, detail);
        }
        // A copy that comes after the first answer may be taken for a repetition, which is answered again.
        let arrived_ms = match transmission.frame {
            Some(frame) => self.copies.get(&frame).and_then(|copies| copies.last()).map(|copy| copy.at_ms),
            None => self.join_arrived_ms.get(&transmission.phy).copied(),
        };
        let recent = || self.downlinks.orders.iter().rev().take(RECENT_ORDERS);
        let is_earlier = |known: &&Order| {
            known.transmission == Some(number)
                && known.life == order.life
                && arrived_ms.is_none_or(|arrived_ms| arrived_ms <= known.left_ms)
        };
        let earlier: Vec<Order> = recent().filter(is_earlier).cloned().collect();
        let is_another = |known: &Order| {
            known.transmission != Some(number)
                && known.transmission.is_some_and(|n| self.transmissions[n].frame == transmission.frame)
        };
        if transmission.frame.is_some_and(|frame| self.frames[frame].confirmed) && recent().any(is_another) {
            states.reach(State::RepetitionAnswered);
        }
        // Which of a frame's transmissions a copy is of shows only where one gateway has heard several.
        let frame = transmission.frame.filter(|_| !earlier.is_empty());
        let repeated = frame.is_some_and(|frame| self.is_repeated(frame, order.life));
        if let Some(open) = earlier.iter().find(|known| !known.refused).filter(|_| !repeated) {
            let detail = format!(
                "the uplink of device {} is answered by gateway {} and by gateway {}, and the first did not refuse",
                transmission.device, open.gateway, order.gateway
            );
            self.violate(Invariant::I7, detail);
        }
        if let Some(refused) = earlier.iter().find(|known| known.refused) {
            if refused.gateway != order.gateway {
                states.reach(State::OtherGatewayTried);
            }
            if refused.phy != order.phy && !repeated {
                let detail = format!("another frame for device {} after a refusal", transmission.device);
                self.violate(Invariant::I7, detail);
            }
        }
        if let Some(identity) = identity {
            self.sealed(identity, &order.phy, states);
        }
        self.downlinks.orders.push(order);
    }

    /// Whether a frame was on air more often than it was answered.
    fn is_repeated(&self, frame: usize, life: usize) -> bool {
        let is_of = |number: Option<usize>| number.is_some_and(|n| self.transmissions[n].frame == Some(frame));
        let orders = self.downlinks.orders.iter().filter(|order| order.life == life && !order.refused);
        let answered = orders.filter(|order| is_of(order.transmission)).count();
        self.transmissions.iter().filter(|sent| sent.frame == Some(frame)).count() > answered
    }

    fn sealed(&mut self, identity: Identity, phy: &[u8], states: &mut States) {
        let Identity { device, session, of_application, fcnt } = identity;
        let key = (device, session, of_application, fcnt);
        match self.downlinks.sealed.get(&key) {
            Some(before) if before != phy => {
                let detail =
                    format!("FCntDown {fcnt} of device {device} (its session {session}) seals two frames");
                self.violate(Invariant::I3, detail);
            }
            Some(_) => {}
            None => {
                self.downlinks.sealed.insert(key, phy.to_vec());
                let highest = self.downlinks.highest.entry((device, session, of_application)).or_insert(fcnt);
                if *highest <= 0xffff && fcnt > 0xffff {
                    states.reach(State::DownlinkCounterWrapped);
                }
                *highest = fcnt.max(*highest);
            }
        }
    }

    /// A gateway's own TX_ACK reached the life that asked it.
    pub(crate) fn tx_ack_arrived(&mut self, life: usize, gateway: usize, eui: u64, token: u16, accepted: bool) {
        let order = self
            .downlinks
            .orders
            .iter_mut()
            .rev()
            .find(|order| order.life == life && order.gateway == gateway && order.token == token);
        if let Some(order) = order {
            if accepted {
                self.downlinks.acknowledged.insert((eui, order.phy.clone()));
            } else {
                order.refused = true;
            }
        }
    }

    /// Somebody was told that an item is in the queue, or asks for it.
    pub(crate) fn item_promised(&mut self, id: &str, device: usize, payload: Vec<u8>, confirmed: bool) {
        let item = self.downlinks.items.entry(id.to_owned()).or_default();
        *item = Item { device, payload, confirmed, promised: true, ..item.clone() };
    }

    /// The log tells what became of an item.
    pub(super) fn downlink_logged(&mut self, dev_eui: u64, record: &DownlinkRecord, states: &mut States) {
        if record.item_id.is_empty() {
            return;
        }
        let Ok(state) = DownlinkState::try_from(i32::try_from(record.state).unwrap_or(-1)) else {
            self.violate(Invariant::I6, format!("state {} of item {}", record.state, record.item_id));
            return;
        };
        let life = self.lives.len().saturating_sub(1);
        let device = self.devices.get(&dev_eui).copied().unwrap_or(usize::MAX);
        let item = self.downlinks.items.entry(record.item_id.clone()).or_default();
        item.device = if item.promised { item.device } else { device };
        let mut wrong = None;
        // A state whose record was written and perhaps not told is told again under the same id, which consumers know.
        let again = !item.records.insert((record.state, record.fcnt_down));
        if let Some(before) = item.end().filter(|before| *before != state && !again) {
            wrong = Some(format!(
                "item {} ended as {before:?} and is told to be {state:?} afterwards",
                record.item_id
            ));
        }
        item.told.push(state);
        if state == DownlinkState::Leased {
            item.leased_in = Some(life);
        } else if item.end().is_some() && item.leased_in.is_some_and(|leased| leased != life) {
            states.reach(State::LeaseResolvedAfterRestart);
        }
        let heard = self.downlinks.heard.contains_key(&(item.device, item.payload.clone()));
        if state == DownlinkState::DeviceAcknowledged && item.promised && !heard {
            wrong = Some(format!("item {} is acknowledged by a device that never heard it", record.item_id));
        }
        match state {
            DownlinkState::DeviceAcknowledged => states.reach(State::ItemAcknowledgedByDevice),
            DownlinkState::Expired => states.reach(State::ItemExpired),
            DownlinkState::Cancelled => states.reach(State::ItemCancelled),
            DownlinkState::Failed => states.reach(State::ItemFailed),
            DownlinkState::Unknown => states.reach(State::ItemUnknown),
            DownlinkState::Deferred => states.reach(State::ItemDeferred),
            DownlinkState::GatewayAcknowledged
            | DownlinkState::Queued
            | DownlinkState::Leased
            | DownlinkState::Sent
            | DownlinkState::Unspecified => {}
        }
        if let Some(detail) = wrong {
            self.violate(Invariant::I6, detail);
        }
        if state == DownlinkState::GatewayAcknowledged {
            self.gateway_acknowledged(record);
        }
    }

    /// A gateway that the log names must have said so itself.
    fn gateway_acknowledged(&mut self, record: &DownlinkRecord) {
        let said = self.downlinks.acknowledged.iter().any(|(eui, _)| *eui == record.gateway_eui);
        let mine = self.session_of_id.get(&record.session_id).copied();
        let exact = mine.zip(record.fcnt_down).is_none_or(|((device, session), fcnt)| {
            [true, false].iter().any(|of_application| {
                self.downlinks
                    .sealed
                    .get(&(device, session, *of_application, fcnt))
                    .is_some_and(|phy| self.downlinks.acknowledged.contains(&(record.gateway_eui, phy.clone())))
            })
        });
        if !said || !exact {
            let detail = format!(
                "item {} is told to be acknowledged by gateway {:016x}, which did not",
                record.item_id, record.gateway_eui
            );
            self.violate(Invariant::I8, detail);
        }
    }

    /// A device has heard an application's payload.
    pub(crate) fn payload_heard(&mut self, device: usize, bytes: &[u8]) {
        let heard = self.downlinks.heard.entry((device, bytes.to_vec())).or_default();
        *heard += 1;
        let heard = *heard;
        let mut items = self.downlinks.items.iter();
        let found = items.find(|(_, item)| item.promised && item.device == device && item.payload == bytes);
        // An order whose sender got no answer may be in the queue all the same.
        let Some((id, item)) = found else { return };
        let too_often = heard > if item.confirmed { 3 } else { 1 };
        let never = item.end().is_some_and(|state| {
            matches!(state, DownlinkState::Cancelled | DownlinkState::Expired) && item.leased_in.is_none()
        });
        let detail = if too_often {
            Some(format!("item {id} was heard {heard} times by device {device}"))
        } else if never {
            Some(format!("item {id} was heard by device {device} although it had ended before it left"))
        } else {
            None
        };
        if let Some(detail) = detail {
            self.violate(Invariant::I6, detail);
        }
    }

    /// Devices of which an item has not ended yet.
    pub(crate) fn devices_with_open_items(&self) -> BTreeSet<usize> {
        self.open_items().map(|(_, item)| item.device).collect()
    }

    /// Items that have not ended.
    pub(crate) fn open_item_ids(&self) -> Vec<String> {
        self.open_items().map(|(id, _)| id.clone()).collect()
    }

    fn open_items(&self) -> impl Iterator<Item = (&String, &Item)> {
        let open = self.downlinks.items.iter().filter(|(_, item)| item.promised && item.end().is_none());
        // A device that has used its last counter never speaks again.
        open.filter(|(_, item)| !self.is_used_up(item.device))
    }

    /// An order for this device that may still be taken back.
    pub(crate) fn last_item_of(&self, device: usize) -> Option<String> {
        let mut items = self.downlinks.items.iter().rev();
        items.find(|(_, item)| item.promised && item.device == device).map(|(id, _)| id.clone())
    }

    /// Items that wait although their device has sent often and well. Those too long for its data rate may, and those behind them.
    pub(crate) fn check_waiting_items(&mut self) {
        let is_deferred = |item: &Item| item.told.last() == Some(&DownlinkState::Deferred);
        let held_up: BTreeSet<usize> =
            self.open_items().filter(|(_, item)| is_deferred(item)).map(|(_, item)| item.device).collect();
        let stuck: Vec<String> = self
            .open_items()
            .filter(|(_, item)| !held_up.contains(&item.device))
            .map(|(id, item)| format!("{id} of device {} ({:?})", item.device, item.told))
            .collect();
        if !stuck.is_empty() {
            self.violate(Invariant::Liveness, format!("items that nobody sends: {}", stuck.join(", ")));
        }
    }

    /// In the end every item that was promised has ended.
    pub(crate) fn check_items(&mut self) {
        let open: Vec<String> = self
            .open_items()
            .map(|(id, item)| format!("{id} of device {} ({:?})", item.device, item.told))
            .collect();
        if !open.is_empty() {
            self.violate(Invariant::I6, format!("items that never ended: {}", open.join(", ")));
        }
    }
}

impl Item {
    /// The terminal state, once the log has told it.
    fn end(&self) -> Option<DownlinkState> {
        self.told.iter().copied().find(|state| match state {
            DownlinkState::GatewayAcknowledged => self.promised && !self.confirmed,
            DownlinkState::DeviceAcknowledged
            | DownlinkState::Expired
            | DownlinkState::Cancelled
            | DownlinkState::Failed
            | DownlinkState::Unknown => true,
            DownlinkState::Queued
            | DownlinkState::Leased
            | DownlinkState::Sent
            | DownlinkState::Deferred
            | DownlinkState::Unspecified => false,
        })
    }
}

/// Orders that may be for the same uplink as the one that leaves.
const RECENT_ORDERS: usize = 64;
