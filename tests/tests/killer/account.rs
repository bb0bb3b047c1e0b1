//! The account: what was sent to the server, what left it, and what it says afterwards. Whatever does not fit is a fault.
//!
//! Three witnesses write into it: the air (frames the gateways were asked to send), the consumers (events of the streams), and after each
//! kill the database itself. None of them believes another.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard};

use prost::Message as _;
use proto::v1::{DownlinkState, DownlinkUpdate, Event, Uplink, event::Kind};

/// DevEUI and DevAddr: no device here has two sessions under one address.
pub(crate) type SessionKey = (u64, u32);

/// Which of a session's downlink counters a frame bears.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Counter {
    /// AFCntDown of a 1.1 session.
    Application,
    /// FCntDown, or NFCntDown of a 1.1 session.
    Network,
}

/// What left the server and therefore has to be durable.
#[derive(Clone, Debug)]
pub(crate) enum Evidence {
    /// A Join-Accept was handed to a gateway.
    Accept { dev_eui: u64, dev_nonce: u16, join_nonce: u32 },
    /// A downlink answered an uplink.
    Answered { session: SessionKey, fcnt: u32 },
    /// A stream delivered an uplink.
    Delivered { session: SessionKey, fcnt: u32 },
    /// A counter was seen on air.
    DownCounter { session: SessionKey, counter: Counter, fcnt: u32 },
    /// A call that makes an item was answered.
    Enqueued { id: String },
    /// A call that moves a consumer was answered.
    Position { consumer: String, position: u64 },
}

/// What was seen, for the report.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) uplinks: Uplinks,
    /// Counters that were on air.
    pub(crate) downlinks: usize,
    /// Accepts that were on air, and joins in the log.
    pub(crate) joins: (usize, usize),
    pub(crate) items: usize,
    pub(crate) events: usize,
}

#[derive(Debug)]
pub(crate) struct Uplinks {
    pub(crate) sent: usize,
    pub(crate) accepted: usize,
    pub(crate) answered: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Account(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    faults: Vec<String>,
    evidence: Vec<Evidence>,
    /// Payload of every uplink a device made.
    sent: BTreeMap<(SessionKey, u32), Vec<u8>>,
    /// Every downlink that was on air, by its counter.
    downlinks: HashMap<(SessionKey, Counter, u32), Vec<u8>>,
    answered: BTreeSet<(SessionKey, u32)>,
    accepts: BTreeMap<(u64, u16), (u32, Vec<u8>)>,
    /// The DevNonce each JoinNonce of a device answered. Accepts may overtake each other on their way to different gateways.
    join_nonces: BTreeMap<(u64, u32), u16>,
    /// Items by the number in their payload.
    orders: BTreeMap<u32, Order>,
    /// Whether an item is confirmed, once its id is known.
    confirmed: HashMap<String, bool>,
    /// Items that have not ended.
    open: BTreeSet<String>,
    /// Orders of a device that have not ended when somebody looked last.
    open_orders: BTreeMap<u64, Vec<u32>>,
    log: Log,
}

/// An item of a queue, as the one who ordered it knows it.
#[derive(Debug)]
struct Order {
    dev_eui: u64,
    confirmed: bool,
    /// Known once a call was answered.
    id: Option<String>,
    /// The counters it was on air with.
    counters: BTreeSet<(SessionKey, u32)>,
}

/// The event log as the acknowledging consumer was told it.
#[derive(Debug, Default)]
struct Log {
    /// Cursor and content of each event.
    events: Vec<(Vec<u8>, u64)>,
    places: HashMap<Vec<u8>, usize>,
    ids: HashMap<String, u64>,
    /// The place of each uplink.
    uplinks: BTreeMap<(SessionKey, u32), usize>,
    last_fcnt: BTreeMap<SessionKey, u32>,
    joins: BTreeSet<(u64, u16)>,
    /// What was told of each item.
    items: BTreeMap<String, Vec<Told>>,
}

/// One state of an item.
#[derive(Clone, Debug)]
struct Told {
    state: DownlinkState,
    /// In words, with the session and the counter it is of.
    words: String,
}

impl Account {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no witness panics")
    }

    pub(crate) fn fault(&self, fault: String) {
        self.state().faults.push(fault);
    }

    pub(crate) fn take_faults(&self) -> Vec<String> {
        std::mem::take(&mut self.state().faults)
    }

    pub(crate) fn take_evidence(&self) -> Vec<Evidence> {
        std::mem::take(&mut self.state().evidence)
    }

    // ---- the air -----------------------------------------------------------------------------------------------

    /// A device made an uplink; it may be lost.
    pub(crate) fn uplink_sent(&self, session: SessionKey, fcnt: u32, payload: Vec<u8>) {
        let mut state = self.state();
        if state.sent.insert((session, fcnt), payload).is_some() {
            state.faults.push(format!("the test itself made FCntUp {fcnt} of {session:x?} twice"));
        }
    }

    /// A gateway was asked to send a data frame that answers FCntUp `answers`.
    pub(crate) fn downlink_on_air(
        &self,
        session: SessionKey,
        (counter, fcnt): (Counter, u32),
        answers: u32,
        phy: &[u8],
    ) {
        let mut state = self.state();
        state.answered.insert((session, answers));
        state.evidence.push(Evidence::Answered { session, fcnt: answers });
        state.evidence.push(Evidence::DownCounter { session, counter, fcnt });
        let before = state.downlinks.insert((session, counter, fcnt), phy.to_vec());
        if before.is_some_and(|before| before != phy) {
            state.faults.push(format!("{counter:?} FCntDown {fcnt} of {session:x?} sealed two frames"));
        }
    }

    /// As what a device heard these bytes before.
    pub(crate) fn on_air(&self, phy: &[u8]) -> Option<String> {
        let state = self.state();
        let ((session, counter, fcnt), _) = state.downlinks.iter().find(|(_, before)| *before == phy)?;
        Some(format!("the same bytes were {counter:?} FCntDown {fcnt} of {session:x?}"))
    }

    /// A device decrypted the payload of an item.
    pub(crate) fn item_on_air(&self, number: u32, session: SessionKey, fcnt: u32) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(order) = state.orders.get_mut(&number) else {
            return state.faults.push(format!("item {number} was on air and nobody ordered it"));
        };
        order.counters.insert((session, fcnt));
        let allowed = if order.confirmed { ATTEMPTS_MAX } else { 1 };
        if order.counters.len() > allowed || order.dev_eui != session.0 {
            let fault = format!("item {number} went to {session:x?} with {fcnt}: {order:x?}");
            let told = order.id.as_ref().and_then(|id| state.log.items.get(id)).map(|told| story(told));
            state.faults.push(format!("{fault}, {}", told.unwrap_or_default()));
        }
    }

    /// A gateway was asked to send a Join-Accept.
    pub(crate) fn accept_on_air(&self, dev_eui: u64, dev_nonce: u16, join_nonce: u32, phy: &[u8]) {
        let mut state = self.state();
        state.evidence.push(Evidence::Accept { dev_eui, dev_nonce, join_nonce });
        let fault = match state.accepts.entry((dev_eui, dev_nonce)) {
            // The same request, the same answer.
            Entry::Occupied(known) => (known.get().1 != phy)
                .then(|| format!("DevNonce {dev_nonce} of {dev_eui:x} was accepted twice, differently")),
            Entry::Vacant(place) => {
                place.insert((join_nonce, phy.to_vec()));
                let other = state.join_nonces.insert((dev_eui, join_nonce), dev_nonce);
                other.map(|other| {
                    format!("JoinNonce {join_nonce} of {dev_eui:x} answered DevNonce {other} and {dev_nonce}")
                })
            }
        };
        state.faults.extend(fault);
    }

    // ---- those who order downlinks -------------------------------------------------------------------------------

    /// An item is about to be ordered; the call may be cut off.
    pub(crate) fn ordering(&self, number: u32, dev_eui: u64, confirmed: bool) {
        let order = Order { dev_eui, confirmed, id: None, counters: BTreeSet::new() };
        let mut state = self.state();
        state.orders.insert(number, order);
        state.open_orders.entry(dev_eui).or_default().push(number);
    }

    /// The call was refused: there is no such item.
    pub(crate) fn refused(&self, number: u32) {
        self.state().orders.remove(&number);
    }

    /// The call was answered: the item is durable.
    pub(crate) fn ordered(&self, number: u32, id: &str) {
        let mut state = self.state();
        state.evidence.push(Evidence::Enqueued { id: id.to_owned() });
        let Some(order) = state.orders.get_mut(&number) else { return };
        if order.id.as_ref().is_some_and(|known| known != id) {
            let fault = format!("the idempotency key of item {number} gave {id} and {:?}", order.id);
            state.faults.push(fault);
            return;
        }
        order.id = Some(id.to_owned());
        let confirmed = order.confirmed;
        state.confirmed.insert(id.to_owned(), confirmed);
        state.look_at(id);
    }

    /// Items of a device that have not ended, as far as anybody was told.
    pub(crate) fn open_items(&self, dev_eui: u64) -> usize {
        let mut state = self.state();
        let mut numbers = state.open_orders.remove(&dev_eui).unwrap_or_default();
        numbers.retain(|number| match state.orders.get(number) {
            Some(order) => order.id.as_ref().is_none_or(|id| !state.has_ended(id)),
            None => false,
        });
        let count = numbers.len();
        state.open_orders.insert(dev_eui, numbers);
        count
    }

    /// Items somebody was told of that have not ended.
    pub(crate) fn unfinished(&self) -> BTreeSet<String> {
        self.state().open.clone()
    }

    /// Whether the log says how an item ended.
    pub(crate) fn has_ended(&self, id: &str) -> bool {
        self.state().has_ended(id)
    }

    /// The last state of an item.
    pub(crate) fn last_state(&self, id: &str) -> Option<DownlinkState> {
        self.state().log.items.get(id)?.last().map(|told| told.state)
    }

    /// What was told of an item.
    pub(crate) fn story(&self, id: &str) -> String {
        self.state().log.items.get(id).map(|told| story(told)).unwrap_or_default()
    }

    // ---- consumers ---------------------------------------------------------------------------------------------

    /// The acknowledging consumer was told an event; `before` is the place of the one it was told before in the same stream. Returns
    /// the place of this one.
    pub(crate) fn told(&self, cursor: &[u8], event: &Event, before: Option<usize>) -> usize {
        let mut state = self.state();
        let state = &mut *state;
        let print = fingerprint(event);
        let place = match state.log.places.get(cursor) {
            Some(place) => {
                if state.log.events[*place].1 != print {
                    state.faults.push(format!("event {} is another one when it is read again", event.id));
                }
                *place
            }
            None => {
                let place = state.log.events.len();
                state.log.places.insert(cursor.to_owned(), place);
                state.log.events.push((cursor.to_owned(), print));
                state.enter(event, print);
                place
            }
        };
        if before.is_some_and(|before| before + 1 != place) {
            state.faults.push(format!("event {} has place {place} and came after {before:?}", event.id));
        }
        place
    }

    /// Some consumer was told an uplink.
    pub(crate) fn delivered(&self, event: &Event) {
        if let Some(Kind::Uplink(uplink)) = &event.kind {
            let evidence =
                Evidence::Delivered { session: session_of(event, &uplink.dev_addr), fcnt: uplink.fcnt_up };
            self.state().evidence.push(evidence);
        }
    }

    /// An acknowledgement was answered.
    pub(crate) fn acknowledged(&self, consumer: &str, position: u64) {
        self.state().evidence.push(Evidence::Position { consumer: consumer.to_owned(), position });
    }

    /// The cursors of all events the acknowledging consumer was told, in their order.
    pub(crate) fn cursors(&self) -> Vec<Vec<u8>> {
        self.state().log.events.iter().map(|(cursor, _)| cursor.clone()).collect()
    }

    /// What is in the log of what left the server otherwise. Call it when the acknowledging consumer is at the head.
    pub(crate) fn settle(&self) {
        let mut state = self.state();
        let state = &mut *state;
        for key in state.answered.iter().filter(|key| !state.log.uplinks.contains_key(key)) {
            state.faults.push(format!("uplink {key:x?} was answered on air and is not in the log"));
        }
        for key in state.accepts.keys().filter(|key| !state.log.joins.contains(key)) {
            state.faults.push(format!("join {key:x?} was accepted on air and is not in the log"));
        }
    }

    /// Every uplink in the log.
    pub(crate) fn uplinks(&self) -> BTreeSet<(SessionKey, u32)> {
        self.state().log.uplinks.keys().copied().collect()
    }

    /// The cursor of an uplink, once the acknowledging consumer was told it.
    pub(crate) fn cursor_of(&self, session: SessionKey, fcnt: u32) -> Option<Vec<u8>> {
        let state = self.state();
        let place = state.log.uplinks.get(&(session, fcnt))?;
        state.log.events.get(*place).map(|(cursor, _)| cursor.clone())
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = self.state();
        Counts {
            uplinks: Uplinks {
                sent: state.sent.len(),
                accepted: state.log.uplinks.len(),
                answered: state.answered.len(),
            },
            downlinks: state.downlinks.len(),
            joins: (state.accepts.len(), state.log.joins.len()),
            items: state.log.items.len(),
            events: state.log.events.len(),
        }
    }
}

impl State {
    /// Takes an event that is read for the first time.
    fn enter(&mut self, event: &Event, print: u64) {
        match self.log.ids.insert(event.id.clone(), print) {
            // A state that was written and perhaps not announced is announced again, under the same id.
            Some(before) if before == print && matches!(event.kind, Some(Kind::Downlink(_))) => return,
            Some(_) => {
                let told = match &event.kind {
                    Some(Kind::Downlink(update)) => {
                        self.log.items.get(&update.downlink_id).map(|told| story(told))
                    }
                    _ => None,
                };
                self.faults
                    .push(format!("event id {} stands twice in the log: {event:?} after {told:?}", event.id));
            }
            None => {}
        }
        match &event.kind {
            Some(Kind::Uplink(uplink)) => self.enter_uplink(event, uplink),
            Some(Kind::Join(join)) => {
                let nonce = u16::try_from(join.dev_nonce).unwrap_or(u16::MAX);
                if !self.log.joins.insert((eui(&event.dev_eui), nonce)) {
                    self.faults.push(format!("the log has DevNonce {nonce} of {} twice", event.dev_eui));
                }
            }
            Some(Kind::Downlink(update)) => self.enter_downlink(event, update),
            // Strangers play back what they recorded.
            Some(Kind::Error(note)) if note.code == "nb_trans_exceeded" => {}
            Some(Kind::Error(note)) => {
                self.faults.push(format!("{} of {}: {}", note.code, event.dev_eui, note.message));
            }
            Some(Kind::Receptions(_) | Kind::DeviceStatus(_) | Kind::Gateway(_)) | None => {}
        }
    }

    fn enter_uplink(&mut self, event: &Event, uplink: &Uplink) {
        let session = session_of(event, &uplink.dev_addr);
        let key = (session, uplink.fcnt_up);
        if self.log.uplinks.insert(key, self.log.events.len() - 1).is_some() {
            self.faults.push(format!("FCntUp {key:x?} was accepted twice"));
        }
        let last = self.log.last_fcnt.insert(session, uplink.fcnt_up);
        if last.is_some_and(|last| last >= uplink.fcnt_up) {
            self.faults.push(format!("FCntUp {key:x?} came after {last:?}"));
        }
        match self.sent.get(&key) {
            Some(payload) if *payload == uplink.payload => {}
            Some(_) => self.faults.push(format!(
                "uplink {key:x?} was delivered with another payload, {} bytes, raw_reason {:?}",
                uplink.payload.len(),
                uplink.raw_reason
            )),
            None => self.faults.push(format!("uplink {key:x?} is in the log and nobody sent it")),
        }
    }

    fn enter_downlink(&mut self, event: &Event, update: &DownlinkUpdate) {
        if update.downlink_id.is_empty() {
            return;
        }
        let had_ended = self.has_ended(&update.downlink_id);
        let told = self.log.items.entry(update.downlink_id.clone()).or_default();
        let of = event.id.strip_prefix(&update.downlink_id).unwrap_or_default();
        let words = format!("{:?} {of} {}", update.state(), update.reason);
        told.push(Told { state: update.state(), words });
        if had_ended {
            let (id, told) = (&update.downlink_id, story(told));
            self.faults.push(format!("item {id} of {} went on after its end: {told}", event.dev_eui));
        }
        self.look_at(&update.downlink_id);
    }

    /// Something was learned of an item.
    fn look_at(&mut self, id: &str) {
        if self.has_ended(id) {
            self.open.remove(id);
        } else {
            self.open.insert(id.to_owned());
        }
    }

    fn has_ended(&self, id: &str) -> bool {
        let last = self.log.items.get(id).and_then(|states| states.last());
        last.is_some_and(|last| match last.state {
            DownlinkState::Cancelled
            | DownlinkState::DeviceAcknowledged
            | DownlinkState::Expired
            | DownlinkState::Failed
            | DownlinkState::Unknown => true,
            DownlinkState::GatewayAcknowledged => self.confirmed.get(id) == Some(&false),
            DownlinkState::Deferred
            | DownlinkState::Leased
            | DownlinkState::Queued
            | DownlinkState::Sent
            | DownlinkState::Unspecified => false,
        })
    }
}

/// The last states of an item in one line.
fn story(told: &[Told]) -> String {
    let told = told.get(told.len().saturating_sub(12)..).unwrap_or_default();
    told.iter().map(|told| told.words.as_str()).collect::<Vec<_>>().join(" > ")
}

/// What must not change between two readings; the device's name and tags follow the registry.
fn fingerprint(event: &Event) -> u64 {
    let kept = Event {
        application_id: String::new(),
        device_name: String::new(),
        tags: HashMap::new(),
        ..event.clone()
    };
    let mut hasher = DefaultHasher::new();
    kept.encode_to_vec().hash(&mut hasher);
    hasher.finish()
}

fn session_of(event: &Event, dev_addr: &str) -> SessionKey {
    (eui(&event.dev_eui), u32::from_str_radix(dev_addr, 16).expect("hexadecimal"))
}

fn eui(text: &str) -> u64 {
    u64::from_str_radix(text, 16).expect("hexadecimal")
}

/// How often a confirmed item is sent.
const ATTEMPTS_MAX: usize = 3;
