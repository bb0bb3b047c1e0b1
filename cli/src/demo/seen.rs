//! What the stream of events told, kept to be held against what the farm did.

use std::collections::{BTreeMap, BTreeSet};

use mac::ids::DevEui;
use proto::v1::{self, DownlinkState, event::Kind};
use tokio::time::Instant;

use crate::words::{self, DOWNLINK_STATES};

/// Everything the stream told so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// By device and FCntUp.
    pub(super) uplinks: BTreeMap<(DevEui, u32), SeenUplink>,
    /// Join events of each device.
    pub(super) joins: BTreeMap<DevEui, u64>,
    /// Items of the downlink queues, by their ids.
    pub(super) items: BTreeMap<String, SeenItem>,
    /// How many events of each kind there were.
    pub(super) events: BTreeMap<&'static str, u64>,
    /// What the stream itself did not hold to, in words.
    pub(super) faults: Vec<String>,
}

/// An uplink as the stream told it.
#[derive(Debug)]
pub(super) struct SeenUplink {
    /// When its event came first.
    pub(super) first_at: Instant,
    /// How many events there were; one is right.
    pub(super) events: u64,
    /// The port of the first event.
    pub(super) f_port: Option<u32>,
    /// The payload of the first event.
    pub(super) payload: Vec<u8>,
    /// Gateways' receptions in the uplink's events and in those about late copies.
    pub(super) copies: u64,
}

/// An item of a downlink queue.
#[derive(Debug)]
pub(super) struct SeenItem {
    /// Whom it is for.
    pub(super) dev_eui: DevEui,
    /// The last state told.
    pub(super) state: DownlinkState,
    /// Why, where a reason was told.
    pub(super) reason: String,
    /// The counters it left with.
    pub(super) sent_as: BTreeSet<u32>,
    /// The counter the device acknowledged.
    pub(super) acknowledged_as: Option<u32>,
    /// Port and bytes the server made of the order; `None` for an item somebody else queued.
    pub(super) content: Option<(u32, Vec<u8>)>,
}

impl SeenItem {
    fn new(dev_eui: DevEui) -> Self {
        Self {
            dev_eui,
            state: DownlinkState::Queued,
            reason: String::new(),
            sent_as: BTreeSet::new(),
            acknowledged_as: None,
            content: None,
        }
    }

    /// No further state follows. What the gateway took is over only where the device is not asked.
    pub(super) fn is_over(&self) -> bool {
        match self.state {
            DownlinkState::Cancelled
            | DownlinkState::DeviceAcknowledged
            | DownlinkState::Expired
            | DownlinkState::Failed
            | DownlinkState::Unknown => true,
            // The demo asks its devices; others may queue what is over here.
            DownlinkState::GatewayAcknowledged => self.content.is_none(),
            DownlinkState::Deferred
            | DownlinkState::Leased
            | DownlinkState::Queued
            | DownlinkState::Sent
            | DownlinkState::Unspecified => false,
        }
    }

    /// It waits in the queue.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, DownlinkState::Deferred | DownlinkState::Queued)
    }

    /// The state in words.
    pub(super) fn state_word(&self) -> String {
        words::word(DOWNLINK_STATES, self.state.into())
    }
}

impl Seen {
    /// Notes an order the API took, before its events come or after.
    pub(super) fn ordered(&mut self, dev_eui: DevEui, downlink: v1::Downlink) {
        let item = self.items.entry(downlink.id).or_insert_with(|| SeenItem::new(dev_eui));
        item.content = Some((downlink.f_port, downlink.payload));
    }

    /// Notes an event that came at `at`.
    pub(super) fn take(&mut self, event: &v1::Event, kind_word: &'static str, at: Instant) {
        *self.events.entry(kind_word).or_default() += 1;
        let Some(kind) = &event.kind else { return };
        if matches!(kind, Kind::Gateway(_)) || event.dev_eui.is_empty() {
            return;
        }
        let Ok(dev_eui) = event.dev_eui.parse() else {
            self.faults.push(format!("event {} names the device `{}`", event.id, event.dev_eui));
            return;
        };
        match kind {
            Kind::Uplink(uplink) => {
                let seen = self.uplinks.entry((dev_eui, uplink.fcnt_up)).or_insert_with(|| SeenUplink {
                    first_at: at,
                    events: 0,
                    f_port: uplink.f_port,
                    payload: uplink.payload.clone(),
                    copies: 0,
                });
                seen.events += 1;
                seen.copies += count(&uplink.receptions);
            }
            Kind::Receptions(late) => match self.uplinks.get_mut(&(dev_eui, late.fcnt_up)) {
                Some(seen) => seen.copies += count(&late.receptions),
                None => self
                    .faults
                    .push(format!("late copies of {dev_eui} #{} came before the uplink itself", late.fcnt_up)),
            },
            Kind::Join(_) => *self.joins.entry(dev_eui).or_default() += 1,
            Kind::Downlink(update) if !update.downlink_id.is_empty() => self.take_downlink(dev_eui, update),
            Kind::DeviceStatus(_) | Kind::Downlink(_) | Kind::Error(_) | Kind::Gateway(_) => {}
        }
    }

    /// Notes events that were gone before they could be read.
    pub(super) fn take_gap(&mut self, gap: &v1::Gap) {
        self.faults.push(format!("{} events were gone before they were read", gap.count));
    }

    /// Items whose last state is not told yet.
    pub(super) fn open_items(&self) -> usize {
        self.items.values().filter(|item| !item.is_over()).count()
    }

    /// Whether the device has an open item.
    pub(super) fn has_open_item(&self, dev_eui: DevEui) -> bool {
        self.items.values().any(|item| item.dev_eui == dev_eui && !item.is_over())
    }

    fn take_downlink(&mut self, dev_eui: DevEui, update: &v1::DownlinkUpdate) {
        let item = self.items.entry(update.downlink_id.clone()).or_insert_with(|| SeenItem::new(dev_eui));
        item.state = update.state();
        item.reason.clone_from(&update.reason);
        match item.state {
            DownlinkState::Sent => item.sent_as.extend(update.fcnt_down),
            DownlinkState::DeviceAcknowledged => item.acknowledged_as = update.fcnt_down,
            DownlinkState::Cancelled
            | DownlinkState::Deferred
            | DownlinkState::Expired
            | DownlinkState::Failed
            | DownlinkState::GatewayAcknowledged
            | DownlinkState::Leased
            | DownlinkState::Queued
            | DownlinkState::Unknown
            | DownlinkState::Unspecified => {}
        }
    }
}

fn count(receptions: &[v1::Reception]) -> u64 {
    u64::try_from(receptions.len()).unwrap_or(u64::MAX)
}
