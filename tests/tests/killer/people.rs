//! Programs and people at the API: consumers of the stream, those who order downlinks, those who register devices.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use loam_tests::{Client, DEADLINE, story};
use proto::v1::watch_request::Start;
use proto::v1::watch_response::Item;
use proto::v1::{self, DownlinkState, MacVersion};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tonic::{Code, Status};

use crate::account::Account;
use crate::field::{Air, ITEM_PORT, Kind, Node, fresh_number};
use crate::load;

/// The consumer that is always there and acknowledges.
pub(crate) const LEDGER: &str = "ledger";
/// The one that comes and goes.
pub(crate) const VISITOR: &str = "visitor";

/// What people remember while the server is away.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Cursors the visitor was told.
    visited: Mutex<BTreeSet<Vec<u8>>>,
    /// Orders whose call was cut off: they are placed again.
    cut_off: Mutex<VecDeque<(u32, v1::EnqueueDownlinkRequest)>>,
    guest: Mutex<Option<Guest>>,
    /// Guests whose deletion was answered.
    gone: Mutex<Vec<u64>>,
}

impl Memory {
    pub(crate) fn visited(&self) -> BTreeSet<Vec<u8>> {
        lock(&self.visited).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A task that was aborted leaves nothing half done between two awaits.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- consumers ---------------------------------------------------------------------------------------------------

/// Watches from the committed position and acknowledges, until the server is gone.
pub(crate) async fn keep_ledger(client: Client, account: Arc<Account>) {
    loop {
        let mut place = None;
        let mut events = 0_u32;
        if let Ok(response) = client.clone().events.watch(committed(LEDGER)).await {
            let mut stream = response.into_inner();
            while let Ok(Some(message)) = stream.message().await {
                match message.item {
                    Some(Item::Event(event)) => {
                        account.delivered(&event);
                        place = Some(account.told(&message.cursor, &event, place));
                        events += 1;
                        if events.is_multiple_of(8) {
                            acknowledge(&client, &account, LEDGER, &message.cursor).await;
                        }
                    }
                    Some(Item::Gap(gap)) => account.fault(format!("the ledger has a gap: {gap:?}")),
                    Some(Item::Heartbeat(_)) | None => {}
                }
            }
        }
        story::pause(Duration::from_millis(20)).await;
    }
}

/// Comes, reads for a moment, acknowledges or not, and goes.
pub(crate) async fn visit(client: Client, account: Arc<Account>, memory: Arc<Memory>, mut rng: StdRng) {
    loop {
        let patience = Duration::from_millis(rng.random_range(20..300));
        let mut last = None;
        let _ = tokio::time::timeout(patience, read_along(&client, &account, &memory, &mut last)).await;
        if let Some(cursor) = last
            && rng.random_bool(0.7)
        {
            acknowledge(&client, &account, VISITOR, &cursor).await;
        }
        pass_by(&client).await;
        story::pause(Duration::from_millis(rng.random_range(10..100))).await;
    }
}

async fn read_along(client: &Client, account: &Account, memory: &Memory, last: &mut Option<Vec<u8>>) {
    let Ok(response) = client.clone().events.watch(committed(VISITOR)).await else { return };
    let mut stream = response.into_inner();
    while let Ok(Some(message)) = stream.message().await {
        match message.item {
            Some(Item::Event(event)) => {
                account.delivered(&event);
                lock(&memory.visited).insert(message.cursor.clone());
                *last = Some(message.cursor);
            }
            Some(Item::Gap(gap)) => account.fault(format!("the visitor has a gap: {gap:?}")),
            Some(Item::Heartbeat(_)) | None => {}
        }
    }
}

/// The visitor reads up to an event and acknowledges it.
pub(crate) async fn visit_up_to(client: &Client, account: &Account, memory: &Memory, end: &[u8]) {
    let reached = async {
        loop {
            let mut last = None;
            let reading = read_along(client, account, memory, &mut last);
            let _ = tokio::time::timeout(Duration::from_millis(200), reading).await;
            if let Some(cursor) = last {
                acknowledge(client, account, VISITOR, &cursor).await;
            }
            if lock(&memory.visited).contains(end) {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, reached).await.expect("the visitor reads to the end");
}

/// A consumer that is introduced and forgotten.
async fn pass_by(client: &Client) {
    let name = format!("passer-by-{}", fresh_number());
    let mut events = client.clone().events;
    if let Ok(response) = events.watch(committed(&name)).await {
        drop(response);
        let _ = events.delete_consumer(v1::DeleteConsumerRequest { name }).await;
    }
}

async fn acknowledge(client: &Client, account: &Account, consumer: &str, cursor: &[u8]) {
    let request = v1::AcknowledgeRequest { consumer: consumer.into(), cursor: cursor.to_vec() };
    match client.clone().events.acknowledge(request).await {
        Ok(_) => {
            let position = position(client, consumer).await;
            account.acknowledged(consumer, position);
        }
        Err(status) => complain(account, "Acknowledge", &status),
    }
}

/// The position the server holds; 0 when it does not answer.
pub(crate) async fn position(client: &Client, consumer: &str) -> u64 {
    let list = client.clone().events.list_consumers(v1::ListConsumersRequest {}).await;
    let list = list.map(tonic::Response::into_inner).unwrap_or_default();
    list.consumers.iter().find(|c| c.name == consumer).map_or(0, |c| c.position)
}

fn committed(consumer: &str) -> v1::WatchRequest {
    v1::WatchRequest {
        consumer: consumer.into(),
        start: Some(Start::Committed(true)),
        ..v1::WatchRequest::default()
    }
}

// ---- downlinks ---------------------------------------------------------------------------------------------------

/// Orders downlinks for devices that have few, and takes some back.
pub(crate) async fn order(
    client: Client,
    account: Arc<Account>,
    memory: Arc<Memory>,
    nodes: Vec<Arc<Node>>,
    mut rng: StdRng,
) {
    loop {
        let waiting = lock(&memory.cut_off).pop_front();
        let order = waiting.or_else(|| {
            let node = &nodes[rng.random_range(0..nodes.len())];
            (account.open_items(node.dev_eui) < OPEN_ITEMS_MAX).then(|| draw_order(&account, node, &mut rng))
        });
        if let Some((number, request)) = order {
            place(&client, &account, &memory, number, request, rng.random_bool(0.08)).await;
        }
        story::pause(Duration::from_millis(rng.random_range(5..40))).await;
    }
}

fn draw_order(account: &Account, node: &Node, rng: &mut StdRng) -> (u32, v1::EnqueueDownlinkRequest) {
    let number = fresh_number();
    let confirmed = rng.random_bool(0.3);
    account.ordering(number, node.dev_eui, confirmed);
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(rng.random_range(4..30), 0xee);
    let deadline_us = rng.random_bool(0.1).then(|| now_us() + rng.random_range(10_000..200_000));
    let request = v1::EnqueueDownlinkRequest {
        dev_eui: format!("{:016x}", node.dev_eui),
        f_port: ITEM_PORT.into(),
        content: Some(v1::enqueue_downlink_request::Content::Payload(payload)),
        confirmed,
        priority: rng.random_range(0..3),
        not_after_us: deadline_us,
        idempotency_key: number.to_string(),
    };
    (number, request)
}

async fn place(
    client: &Client,
    account: &Account,
    memory: &Memory,
    number: u32,
    request: v1::EnqueueDownlinkRequest,
    changes_his_mind: bool,
) {
    // Put back before the call, in case this task ends in it.
    lock(&memory.cut_off).push_back((number, request.clone()));
    let answer = client.clone().downlinks.enqueue_downlink(request).await;
    match answer.map(|answer| answer.into_inner().downlink.unwrap_or_default()) {
        Ok(item) => {
            account.ordered(number, &item.id);
            lock(&memory.cut_off).retain(|(known, _)| *known != number);
            if changes_his_mind {
                let cancel = v1::CancelDownlinkRequest { id: item.id };
                let cancelled = client.clone().downlinks.cancel_downlink(cancel).await;
                // It may have left already.
                if let Err(status) = cancelled
                    && status.code() != Code::FailedPrecondition
                {
                    complain(account, "CancelDownlink", &status);
                }
            }
        }
        Err(status) if status.message().contains("has passed") => {
            // It was never made: an item there is returned whatever its deadline.
            account.refused(number);
            lock(&memory.cut_off).retain(|(known, _)| *known != number);
        }
        Err(status) => complain(account, "EnqueueDownlink", &status),
    }
}

/// A device gets a confirmed downlink and says so.
pub(crate) async fn is_heard(client: Client, account: Arc<Account>, node: Arc<Node>) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let id = order_one(&client, &account, &node).await;
        while account.unfinished().contains(&id) {
            if begun.elapsed() > HEARD_PATIENCE {
                return Err(format!("device {:x} does not hear: {}", node.dev_eui, account.story(&id)));
            }
            story::pause(Duration::from_millis(20)).await;
        }
        // On a slow machine a window may close before its payload is there, three times.
        if account.last_state(&id) == Some(DownlinkState::DeviceAcknowledged) {
            return Ok(());
        }
    }
}

/// Orders one confirmed downlink; returns the item's id.
async fn order_one(client: &Client, account: &Account, node: &Node) -> String {
    let number = fresh_number();
    account.ordering(number, node.dev_eui, true);
    let request = v1::EnqueueDownlinkRequest {
        dev_eui: format!("{:016x}", node.dev_eui),
        f_port: ITEM_PORT.into(),
        content: Some(v1::enqueue_downlink_request::Content::Payload(number.to_be_bytes().to_vec())),
        confirmed: true,
        idempotency_key: number.to_string(),
        ..v1::EnqueueDownlinkRequest::default()
    };
    let answer = client.clone().downlinks.enqueue_downlink(request).await.expect("the server is there");
    let id = answer.into_inner().downlink.expect("an item").id;
    account.ordered(number, &id);
    id
}

/// Places the orders whose calls were cut off.
pub(crate) async fn order_again(client: &Client, account: &Account, memory: &Memory) {
    loop {
        let Some((number, request)) = lock(&memory.cut_off).pop_front() else { return };
        place(client, account, memory, number, request, false).await;
    }
}

/// Orders and takes back as fast as the server answers, so that the write-ahead log grows.
pub(crate) async fn churn(
    client: Client,
    account: Arc<Account>,
    memory: Arc<Memory>,
    node: Arc<Node>,
    mut rng: StdRng,
) {
    loop {
        let (number, request) = draw_order(&account, &node, &mut rng);
        place(&client, &account, &memory, number, request, true).await;
    }
}

// ---- devices -----------------------------------------------------------------------------------------------------

/// A device that is registered, sends a little, and is deleted.
#[derive(Clone, Debug)]
struct Guest {
    node: Arc<Node>,
    step: Step,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Create,
    Activate,
    Send,
    Delete,
}

/// Registers and deletes guests without end; each step is tried until it is answered.
pub(crate) async fn register(
    client: Client,
    account: Arc<Account>,
    memory: Arc<Memory>,
    air: Arc<Air>,
    mut rng: StdRng,
) {
    deleted_stay_away(&client, &account, &memory).await;
    loop {
        let guest = lock(&memory.guest).get_or_insert_with(Guest::new).clone();
        let next = serve_guest(&client, &account, &air, &guest, &mut rng).await;
        if next.is_none() {
            lock(&memory.gone).push(guest.node.dev_eui);
        }
        *lock(&memory.guest) = next.map(|step| Guest { step, ..guest });
        story::pause(Duration::from_millis(10)).await;
    }
}

impl Guest {
    fn new() -> Self {
        let number = fresh_number();
        let kinds = [
            Kind { version: MacVersion::MacVersion103, joins: true },
            Kind { version: MacVersion::MacVersion104, joins: false },
            Kind { version: MacVersion::MacVersion110, joins: true },
        ];
        let kind = kinds[usize::try_from(number).unwrap_or(0) % kinds.len()];
        Self { node: Arc::new(Node::new(GUESTS + u64::from(number), kind)), step: Step::Create }
    }
}

/// One step; `None`: the guest has left.
async fn serve_guest(
    client: &Client,
    account: &Account,
    air: &Air,
    guest: &Guest,
    rng: &mut StdRng,
) -> Option<Step> {
    let node = &guest.node;
    let mut devices = client.clone().devices;
    match guest.step {
        Step::Create => match devices.create_device(node.registration()).await {
            Ok(_) => Some(if node.kind.joins { Step::Send } else { Step::Activate }),
            Err(status) if status.code() == Code::AlreadyExists => {
                // The call before was cut off.
                if node.kind.joins && !has_keys(client, node).await {
                    account
                        .fault(format!("device {:x} was created without its keys: {status:?}", node.dev_eui));
                }
                Some(if node.kind.joins { Step::Send } else { Step::Activate })
            }
            Err(status) => {
                complain(account, "CreateDevice", &status);
                Some(Step::Create)
            }
        },
        Step::Activate => match devices.activate_device(node.activation()).await {
            Ok(_) => Some(Step::Send),
            Err(status) => {
                complain(account, "ActivateDevice", &status);
                Some(Step::Activate)
            }
        },
        Step::Send => {
            for _ in 0..3 {
                load::turn(node, air, rng).await;
            }
            Some(if !node.kind.joins && rng.random_bool(0.5) { Step::Activate } else { Step::Delete })
        }
        Step::Delete => {
            let request = v1::DeleteDeviceRequest { dev_eui: format!("{:016x}", node.dev_eui) };
            match devices.delete_device(request).await {
                Ok(_) => None,
                Err(status) if status.code() == Code::NotFound => None,
                Err(status) => {
                    complain(account, "DeleteDevice", &status);
                    Some(Step::Delete)
                }
            }
        }
    }
}

async fn has_keys(client: &Client, node: &Node) -> bool {
    let request = v1::GetKeysStatusRequest { dev_eui: format!("{:016x}", node.dev_eui) };
    let status = client.clone().devices.get_keys_status(request).await;
    // A server that does not answer says nothing against it.
    status.map_or(true, |status| status.into_inner().has_app_key)
}

/// A device whose deletion was answered does not come back.
async fn deleted_stay_away(client: &Client, account: &Account, memory: &Memory) {
    let gone = std::mem::take(&mut *lock(&memory.gone));
    for dev_eui in gone {
        let request = v1::GetDeviceRequest { dev_eui: format!("{dev_eui:016x}") };
        if client.clone().devices.get_device(request).await.is_ok() {
            account.fault(format!("device {dev_eui:x} was deleted and is there again"));
        }
    }
}

/// A refusal that does not come from the kill is a fault.
fn complain(account: &Account, call: &str, status: &Status) {
    let from_the_kill = matches!(
        status.code(),
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::ResourceExhausted
    );
    if !from_the_kill {
        account.fault(format!("{call} was refused: {status:?}"));
    }
}

fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_micros()).expect("before the year 294247")
}

/// DevEUIs of guests.
const GUESTS: u64 = 0x70b3_d57e_a000_0000;
const OPEN_ITEMS_MAX: usize = 4;
/// A confirmed item from before may wait a minute for its outcome, and holds up the next.
const HEARD_PATIENCE: Duration = Duration::from_secs(100);
