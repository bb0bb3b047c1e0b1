//! The threads scripts run on, and what happens when one does not come back.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use mac::units::Mono;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use super::engine::{Engine, Script, Way};
use super::suspension::{Permission, Suspension};
use super::thread_time::{self, Watched};
use super::{
    Codec, CodecError, CodecRef, DecodeJob, DecodeUplink, Decoded, Encoded, Interpreter, Limits,
    SOURCE_BYTES_MAX, lpp,
};

/// Runs codecs. Clones share the threads; they end when the last clone is dropped.
#[derive(Clone)]
pub struct CodecPool {
    inner: Arc<Inner>,
}

impl CodecPool {
    /// Starts `threads` threads, at least one; none where scripts are simulated. An engine takes memory only when its first
    /// script comes.
    pub fn new(threads: usize, limits: Limits, interpreter: Interpreter) -> Self {
        // Each job in it has a permit, so that sending never waits.
        let (queue, jobs) = crossbeam_channel::bounded(JOBS_WAITING_MAX);
        let shared = Arc::new(Shared {
            limits,
            started: Instant::now(),
            jobs,
            records: Mutex::new(BTreeMap::new()),
            record_count: AtomicUsize::new(0),
        });
        let threads = match &interpreter {
            Interpreter::Engine => threads.max(1),
            Interpreter::Simulated(_) => 0,
        };
        let slots = (0..threads).filter_map(|_| start_worker(&shared, None)).collect();
        Self {
            inner: Arc::new(Inner {
                threads,
                interpreter,
                queue,
                permits: Arc::new(Semaphore::new(JOBS_WAITING_MAX)),
                slots: Mutex::new(slots),
                strays: Mutex::new(Vec::new()),
                shared,
            }),
        }
    }

    /// Decodes one uplink.
    pub async fn decode_uplink(&self, codec: &Codec, bytes: &[u8], f_port: u8, recv_time_us: i64) -> Decoded {
        self.decode(codec, Way::Uplink, bytes, f_port, recv_time_us).await
    }

    /// Decodes one downlink, the inverse of [`Self::encode_downlink`].
    pub async fn decode_downlink(&self, codec: &Codec, bytes: &[u8], f_port: u8, recv_time_us: i64) -> Decoded {
        self.decode(codec, Way::Downlink, bytes, f_port, recv_time_us).await
    }

    /// Decodes many uplinks, shared out over the threads. The answers stand in the order of the calls.
    pub async fn decode_batch(&self, calls: Vec<DecodeJob>) -> Vec<Decoded> {
        let mut answers = vec![None; calls.len()];
        let mut places = Vec::new();
        let mut tasks = Vec::new();
        for (place, (call, answer)) in calls.into_iter().zip(&mut answers).enumerate() {
            match &*call.codec {
                Codec::None | Codec::CayenneLpp => {
                    *answer = Some(decode_without_script(&call.codec, &call.bytes))
                }
                Codec::Script { .. } => {
                    places.push(place);
                    let DecodeJob { codec, bytes, f_port, recv_time_us } = call;
                    tasks.push(Task::Decode {
                        codec,
                        way: Way::Uplink,
                        bytes: bytes.into(),
                        f_port,
                        recv_time_us,
                    });
                }
            }
        }
        let parts = tasks.len().div_ceil(CHUNK_CALLS_MIN).min(self.inner.threads).max(1);
        let chunk_len = tasks.len().div_ceil(parts).max(1);
        let mut waiting = Vec::new();
        let mut tasks = tasks.into_iter();
        while tasks.len() > 0 {
            let chunk: Vec<_> = tasks.by_ref().take(chunk_len).collect();
            waiting.push((chunk.len(), self.send(chunk).await));
        }
        let mut places = places.into_iter();
        for (len, reply) in waiting {
            let mut outcomes = self.receive(reply).await.into_iter();
            for place in places.by_ref().take(len) {
                let decoded = match outcomes.next() {
                    Some(Outcome::Decoded(decoded)) => decoded,
                    _ => Decoded::failed(NO_ANSWER),
                };
                if let Some(answer) = answers.get_mut(place) {
                    *answer = Some(decoded);
                }
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Decoded::failed(NO_ANSWER))).collect()
    }

    /// Encodes JSON text for a device.
    pub async fn encode_downlink(&self, codec: &Codec, data_json: &str) -> Encoded {
        let data: serde_json::Value = match serde_json::from_str(data_json) {
            Ok(data) => data,
            Err(error) => return Encoded::failed(format!("the object to encode is not JSON: {error}")),
        };
        match codec {
            Codec::None => Encoded::failed("the device has no codec: give the payload as bytes"),
            Codec::CayenneLpp => match lpp::encode(&data) {
                Ok(bytes) => Encoded { bytes, ..Encoded::default() },
                Err(error) => Encoded::failed(error),
            },
            Codec::Script { .. } => {
                let task = Task::Encode { codec: Arc::new(codec.clone()), data_json: data_json.into() };
                match self.one(task).await {
                    Some(Outcome::Encoded(encoded)) => encoded,
                    _ => Encoded::failed(NO_ANSWER),
                }
            }
        }
    }

    /// Compiles a script and runs its top level; returns the functions it has, in the order of TS013.
    ///
    /// # Errors
    /// [`CodecError`] says what is wrong and in which line.
    pub async fn compile_check(&self, source: &str) -> Result<Vec<&'static str>, CodecError> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(CodecError::TooLong(source.len()));
        }
        match self.one(Task::Check { source: source.into() }).await {
            Some(Outcome::Checked(result)) => result,
            _ => Err(CodecError::Unavailable),
        }
    }

    async fn decode(&self, codec: &Codec, way: Way, bytes: &[u8], f_port: u8, recv_time_us: i64) -> Decoded {
        if !matches!(codec, Codec::Script { .. }) {
            return decode_without_script(codec, bytes);
        }
        let bytes = Bytes::copy_from_slice(bytes);
        let codec = Arc::new(codec.clone());
        match self.one(Task::Decode { codec, way, bytes, f_port, recv_time_us }).await {
            Some(Outcome::Decoded(decoded)) => decoded,
            _ => Decoded::failed(NO_ANSWER),
        }
    }

    async fn one(&self, task: Task) -> Option<Outcome> {
        let reply = self.send(vec![task]).await;
        self.receive(reply).await.pop()
    }

    async fn send(&self, tasks: Vec<Task>) -> oneshot::Receiver<Vec<Outcome>> {
        let (reply, receiver) = oneshot::channel();
        if let Interpreter::Simulated(decode) = &self.inner.interpreter {
            let shared = &self.inner.shared;
            let outcomes = tasks.iter().map(|task| shared.simulate(decode, task)).collect();
            // The receiver is here.
            drop(reply.send(outcomes));
            return receiver;
        }
        // The semaphore is never closed; without a permit the job is not sent and the receiver says so.
        if let Ok(permit) = Arc::clone(&self.inner.permits).acquire_owned().await {
            let outcomes = Vec::with_capacity(tasks.len());
            drop(self.inner.queue.send(Job { tasks, outcomes, reply, _permit: permit }));
        }
        receiver
    }

    /// Waits for a job, looking meanwhile after threads that are stuck.
    async fn receive(&self, mut reply: oneshot::Receiver<Vec<Outcome>>) -> Vec<Outcome> {
        loop {
            match tokio::time::timeout(LOOK_EVERY, &mut reply).await {
                Ok(outcomes) => return outcomes.unwrap_or_default(),
                Err(_) if self.inner.replace_stuck_workers() => {}
                Err(_) => return Vec::new(),
            }
        }
    }
}

impl std::fmt::Debug for CodecPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CodecPool").field("threads", &self.inner.threads).finish_non_exhaustive()
    }
}

struct Inner {
    threads: usize,
    interpreter: Interpreter,
    // Only here, so that the threads end with the pool.
    queue: Sender<Job>,
    permits: Arc<Semaphore>,
    slots: Mutex<Vec<Arc<Slot>>>,
    /// Slots of threads that were given up and may still run.
    strays: Mutex<Vec<Arc<Slot>>>,
    shared: Arc<Shared>,
}

impl Inner {
    /// Gives up threads whose script is inside one built-in function that takes far too long (`join` of a huge
    /// sparse array): the engine asks about the time limit only between steps. The call ends as timed out, the
    /// script is not run again until it is changed, and another thread takes over the rest of the job.
    ///
    /// False: there are too many such threads already, and no other is started.
    fn replace_stuck_workers(&self) -> bool {
        let mut slots = self.slots.lock();
        let mut strays = self.strays.lock();
        strays.retain(|slot| slot.is_busy());
        let (patience_ms, now) = (self.shared.patience_ms(), self.shared.now());
        for slot in slots.iter_mut().filter(|slot| slot.is_stuck(patience_ms, now)) {
            if strays.len() >= STRAYS_MAX {
                tracing::error!(
                    threads = strays.len(),
                    "too many codec threads are stuck; restart to get them back"
                );
                return false;
            }
            let Some(mut job) = slot.current.lock().take() else {
                continue;
            };
            if let Some(task) = job.tasks.get(job.outcomes.len()) {
                job.outcomes.push(self.shared.give_up(task));
            }
            if let Some(replacement) = start_worker(&self.shared, Some(job)) {
                strays.push(std::mem::replace(slot, replacement));
            }
        }
        true
    }
}

/// What the threads know.
struct Shared {
    limits: Limits,
    started: Instant,
    jobs: Receiver<Job>,
    /// Codecs with a past: those that timed out since they last ended in time.
    records: Mutex<BTreeMap<String, Record>>,
    record_count: AtomicUsize,
}

#[derive(Default)]
struct Record {
    revision: u32,
    suspension: Suspension,
    stuck: bool,
}

impl Shared {
    fn now(&self) -> Mono {
        Mono::from_us(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn run(&self, engine: &mut Engine, task: &Task) -> Outcome {
        match task {
            Task::Decode { codec, way, bytes, f_port, recv_time_us } => {
                let Codec::Script { id, revision, source } = &**codec else {
                    return Outcome::Decoded(decode_without_script(codec, bytes));
                };
                if let Err(refusal) = self.permit(id, *revision) {
                    return Outcome::Decoded(Decoded::failed(refusal));
                }
                let script = Script { id, revision: *revision, source };
                let mut decoded = engine.decode(script, *way, bytes, *f_port, *recv_time_us);
                decoded.suspension_started = self.note(id, *revision, decoded.timed_out);
                Outcome::Decoded(decoded)
            }
            Task::Encode { codec, data_json } => {
                let Codec::Script { id, revision, source } = &**codec else {
                    return Outcome::Encoded(Encoded::failed(NO_ANSWER));
                };
                if let Err(refusal) = self.permit(id, *revision) {
                    return Outcome::Encoded(Encoded::failed(refusal));
                }
                let script = Script { id, revision: *revision, source };
                let encoded = engine.encode(script, data_json);
                self.note(id, *revision, encoded.timed_out);
                Outcome::Encoded(encoded)
            }
            Task::Check { source } => Outcome::Checked(engine.check(source)),
        }
    }

    /// The same with a function in place of the engine; only decoding is simulated.
    fn simulate(&self, decode: &DecodeUplink, task: &Task) -> Outcome {
        match task {
            Task::Decode { codec, bytes, f_port, .. } => {
                let Codec::Script { id, revision, .. } = &**codec else {
                    return Outcome::Decoded(decode_without_script(codec, bytes));
                };
                if let Err(refusal) = self.permit(id, *revision) {
                    return Outcome::Decoded(Decoded::failed(refusal));
                }
                let mut decoded = decode(bytes, *f_port);
                decoded.suspension_started = self.note(id, *revision, decoded.timed_out);
                Outcome::Decoded(decoded)
            }
            Task::Encode { .. } => Outcome::Encoded(Encoded::failed("encoding is not simulated")),
            Task::Check { .. } => Outcome::Checked(Ok(vec!["decodeUplink"])),
        }
    }

    /// Whether a codec may run; else the sentence that says why not.
    fn permit(&self, id: &str, revision: u32) -> Result<(), String> {
        // The usual case costs one atomic load: no codec times out.
        if self.record_count.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let mut records = self.records.lock();
        let Some(record) = records.get_mut(id).filter(|record| record.revision == revision) else {
            return Ok(());
        };
        if record.stuck {
            return Err(format!("codec {id} did not come back from a call and is not run until it is changed"));
        }
        match record.suspension.permission(self.now()) {
            Permission::Run => Ok(()),
            Permission::Wait { remaining_ms } => Err(format!(
                "codec {id} is suspended for {} s more, for it ran into its time limit too often",
                remaining_ms.div_ceil(1_000)
            )),
        }
    }

    /// Notes how a call ended. True: it suspended the codec.
    fn note(&self, id: &str, revision: u32, timed_out: bool) -> bool {
        if id.is_empty() || (!timed_out && self.record_count.load(Ordering::Relaxed) == 0) {
            return false;
        }
        let mut records = self.records.lock();
        let mut suspended = false;
        if timed_out {
            let record = records.entry(id.to_owned()).or_default();
            if record.revision != revision {
                *record = Record { revision, ..Record::default() };
            }
            suspended = record.suspension.timed_out(self.now());
        } else if let Some(record) = records.get_mut(id)
            && record.revision == revision
            && !record.stuck
        {
            record.suspension.ended_in_time();
            if record.suspension == Suspension::default() {
                records.remove(id);
            }
        }
        self.record_count.store(records.len(), Ordering::Relaxed);
        suspended
    }

    /// How long a call may take on the wall clock before its thread is given up: far more than its time limit. Half of it is the
    /// processor time the thread has to have had by then.
    fn patience_ms(&self) -> u64 {
        STUCK_MS_MIN.max(u64::from(self.limits.time_ms) * 4)
    }

    /// Answers for a call whose thread is stuck in it.
    fn give_up(&self, task: &Task) -> Outcome {
        let patience_s = self.patience_ms() / 1_000;
        let sentence = format!("the codec did not come back within {patience_s} s and was left alone");
        let codec = match task {
            Task::Decode { codec, .. } | Task::Encode { codec, .. } => Some(codec),
            Task::Check { .. } => None,
        };
        if let Some(Codec::Script { id, revision, .. }) = codec.map(|codec| &**codec)
            && !id.is_empty()
        {
            tracing::error!(codec = %id, revision, "a codec does not come back; it is not run until it is changed");
            let mut records = self.records.lock();
            records.insert(id.clone(), Record { revision: *revision, stuck: true, ..Record::default() });
            self.record_count.store(records.len(), Ordering::Relaxed);
        }
        let suspension_started = true;
        match task {
            Task::Decode { .. } => {
                Outcome::Decoded(Decoded { timed_out: true, suspension_started, ..Decoded::failed(sentence) })
            }
            Task::Encode { .. } => Outcome::Encoded(Encoded { timed_out: true, ..Encoded::failed(sentence) }),
            Task::Check { .. } => Outcome::Checked(Err(CodecError::Broken(sentence))),
        }
    }
}

/// Calls that belong together: one hop to a thread and back.
struct Job {
    tasks: Vec<Task>,
    /// Of the first tasks, in their order.
    outcomes: Vec<Outcome>,
    reply: oneshot::Sender<Vec<Outcome>>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Clone)]
enum Task {
    Check { source: Arc<str> },
    Decode { codec: CodecRef, way: Way, bytes: Bytes, f_port: u8, recv_time_us: i64 },
    Encode { codec: CodecRef, data_json: Arc<str> },
}

enum Outcome {
    Checked(Result<Vec<&'static str>, CodecError>),
    Decoded(Decoded),
    Encoded(Encoded),
}

/// What a thread is doing, where others can see it and take it away.
struct Slot {
    current: Mutex<Option<Job>>,
    busy_since_us: AtomicU64,
    /// The processor time the thread had had by then.
    had_ns: AtomicU64,
    thread: OnceLock<Watched>,
}

impl Slot {
    fn is_busy(&self) -> bool {
        self.busy_since_us.load(Ordering::Acquire) != IDLE
    }

    fn begin(&self, now: Mono) {
        self.had_ns.store(thread_time::own_ns(), Ordering::Relaxed);
        self.busy_since_us.store(now.us(), Ordering::Release);
    }

    /// Whether the call should be over by far. On a busy machine, or while the process is stopped, it may not have had its time.
    fn is_stuck(&self, patience_ms: u64, now: Mono) -> bool {
        let since = self.busy_since_us.load(Ordering::Acquire);
        if since == IDLE || now.saturating_ms_since(Mono::from_us(since)) <= patience_ms {
            return false;
        }
        let had_ns = self.had_ns.load(Ordering::Relaxed);
        let spent_ns = self.thread.get().and_then(Watched::ns).map(|ns| ns.saturating_sub(had_ns));
        spent_ns.is_none_or(|spent_ns| spent_ns > patience_ms.saturating_mul(500_000))
    }
}

fn start_worker(shared: &Arc<Shared>, first: Option<Job>) -> Option<Arc<Slot>> {
    let slot = Arc::new(Slot {
        current: Mutex::new(None),
        busy_since_us: AtomicU64::new(IDLE),
        had_ns: AtomicU64::new(0),
        thread: OnceLock::new(),
    });
    let (worker_shared, worker_slot) = (Arc::clone(shared), Arc::clone(&slot));
    let started = std::thread::Builder::new()
        .name("codec".to_owned())
        .stack_size(shared.limits.stack_bytes.saturating_add(STACK_BYTES))
        .spawn(move || work(&worker_shared, &worker_slot, first));
    match started {
        Ok(_) => Some(slot),
        Err(error) => {
            tracing::error!(%error, "no thread for codecs");
            None
        }
    }
}

fn work(shared: &Shared, slot: &Slot, mut first: Option<Job>) {
    slot.thread.get_or_init(Watched::myself);
    let mut engine = Engine::new(shared.limits);
    while let Some(job) = first.take().or_else(|| shared.jobs.recv().ok()) {
        *slot.current.lock() = Some(job);
        loop {
            let task = match slot.current.lock().as_ref() {
                Some(job) => job.tasks.get(job.outcomes.len()).cloned(),
                None => return,
            };
            let Some(task) = task else {
                break;
            };
            slot.begin(shared.now());
            let outcome = catch_unwind(AssertUnwindSafe(|| shared.run(&mut engine, &task)));
            slot.busy_since_us.store(IDLE, Ordering::Release);
            let outcome = outcome.unwrap_or_else(|_| {
                engine = Engine::new(shared.limits);
                Outcome::Decoded(Decoded::failed(NO_ANSWER))
            });
            match slot.current.lock().as_mut() {
                Some(job) => job.outcomes.push(outcome),
                // Somebody gave up on this call and has answered it.
                None => return,
            }
        }
        if let Some(job) = slot.current.lock().take() {
            // Nobody waits any more: then nobody needs it.
            drop(job.reply.send(job.outcomes));
        }
    }
}

fn decode_without_script(codec: &Codec, bytes: &[u8]) -> Decoded {
    if *codec != Codec::CayenneLpp {
        return Decoded::default();
    }
    match lpp::decode(bytes) {
        Ok((object_json, warnings)) => Decoded { object_json, warnings, ..Decoded::default() },
        Err(error) => Decoded::failed(error),
    }
}

const NO_ANSWER: &str = "the codec threads gave no answer";
/// Not running a script.
const IDLE: u64 = u64::MAX;
const STUCK_MS_MIN: u64 = 1_000;
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Threads that were given up and have not ended, at most.
const STRAYS_MAX: usize = 8;
/// Jobs that wait or run; a sender waits beyond it.
const JOBS_WAITING_MAX: usize = 256;
/// Fewer calls are not worth a second thread.
const CHUNK_CALLS_MIN: usize = 8;
/// Beside the script's own: what the engine's C functions and ours need.
const STACK_BYTES: usize = 768 << 10;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// CODEC-004.
    #[test]
    fn a_thread_that_was_kept_waiting_is_not_taken_for_stuck() {
        let slot = Slot {
            current: Mutex::new(None),
            busy_since_us: AtomicU64::new(IDLE),
            had_ns: AtomicU64::new(0),
            thread: OnceLock::new(),
        };
        slot.thread.get_or_init(Watched::myself);
        slot.begin(Mono::from_us(0));
        let an_hour_later = Mono::from_us(3_600_000_000);
        assert!(!slot.is_stuck(200, an_hour_later), "the process was stopped for an hour");

        while thread_time::own_ns() < slot.had_ns.load(Ordering::Relaxed) + 150_000_000 {
            std::hint::spin_loop();
        }
        assert!(slot.is_stuck(200, an_hour_later));
        assert!(!slot.is_stuck(200, Mono::from_us(200_000)), "its time is not over");
        assert!(!slot.is_stuck(1_000, an_hour_later), "nor is its half of a long one");
    }
}
