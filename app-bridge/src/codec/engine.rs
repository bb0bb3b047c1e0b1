//! The JavaScript engine of one thread: one runtime, and a realm for each codec used lately.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use rquickjs::context::{EvalOptions, intrinsic};
use rquickjs::object::Filter;
use rquickjs::{Array, Atom, Context, Ctx, Function, Persistent, Runtime, Value};

use super::outcome::{Fault, FaultKind, SCRIPT_NAME, Stop, describe_exception, read_decoded, read_encoded};
use super::{CodecError, Decoded, Encoded, Limits, SOURCE_BYTES_MAX, thread_time};

/// A script to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script<'a> {
    pub id: &'a str,
    pub revision: u32,
    pub source: &'a Arc<str>,
}

/// Which decoder of a script is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    Downlink,
    Uplink,
}

/// Runs scripts on the thread that owns it.
pub(super) struct Engine {
    limits: Limits,
    stopwatch: Arc<Stopwatch>,
    // Before the runtime: a realm must be gone before the runtime it lives in.
    realms: Vec<Realm>,
    runtime: Option<Runtime>,
}

impl Engine {
    /// An engine that takes no memory until the first script comes.
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, stopwatch: Arc::new(Stopwatch::default()), realms: Vec::new(), runtime: None }
    }

    pub(super) fn decode(
        &mut self,
        script: Script<'_>,
        way: Way,
        bytes: &[u8],
        f_port: u8,
        recv_time_us: i64,
    ) -> Decoded {
        let started = Instant::now();
        let limits = self.limits;
        let needed: &[usize] = match way {
            Way::Uplink => &[DECODE_UPLINK, DECODER, DECODE],
            Way::Downlink => &[DECODE_DOWNLINK],
        };
        let name = match way {
            Way::Uplink => "decodeUplink",
            Way::Downlink => "decodeDownlink",
        };
        let result = self.run(script, name, needed, |ctx, calls| {
            let array = Array::new(ctx.clone())?;
            for (index, byte) in bytes.iter().enumerate() {
                array.set(index, *byte)?;
            }
            // Whole milliseconds: exact in a double for the next 285,000 years.
            #[allow(clippy::cast_precision_loss, reason = "milliseconds stay below 2^53")]
            let recv_time_ms = recv_time_us.div_euclid(1_000) as f64;
            let decode = calls.decode.clone().restore(ctx)?;
            let value: Value<'_> = decode.call((way == Way::Downlink, array, f_port, recv_time_ms))?;
            read_decoded(ctx, value, &calls.unwritable.clone().restore(ctx)?, &limits)
        });
        let mut decoded = result.unwrap_or_else(Decoded::from);
        decoded.duration_us = elapsed_us(started);
        decoded
    }

    pub(super) fn encode(&mut self, script: Script<'_>, data_json: &str) -> Encoded {
        let started = Instant::now();
        let result = self.run(script, "encodeDownlink", &[ENCODE_DOWNLINK], |ctx, calls| {
            let data = ctx.json_parse(data_json)?;
            let encode = calls.encode.clone().restore(ctx)?;
            read_encoded(ctx, encode.call((data,))?)
        });
        let mut encoded = result.unwrap_or_else(Encoded::from);
        encoded.duration_us = elapsed_us(started);
        encoded
    }

    /// Compiles a script and runs its top level. Returns the functions found; nothing is kept.
    pub(super) fn check(&mut self, source: &Arc<str>) -> Result<Vec<&'static str>, CodecError> {
        let script = Script { id: "", revision: 0, source };
        let realm = self.open(script).map_err(|fault| CodecError::Broken(fault.message))?;
        let found: Vec<_> = FUNCTIONS
            .iter()
            .zip(&realm.functions)
            .filter_map(|(name, present)| present.then_some(*name))
            .collect();
        if found.is_empty() { Err(CodecError::NoFunctions) } else { Ok(found) }
    }

    /// Runs `call` in the realm of `script` under the limits, and decides whether the realm is kept.
    fn run<T>(
        &mut self,
        script: Script<'_>,
        name: &str,
        needed: &[usize],
        call: impl FnOnce(&Ctx<'_>, &Calls) -> Result<T, Stop>,
    ) -> Result<T, Fault> {
        let mut realm = match self.take_kept(script) {
            Some(realm) => realm,
            None => self.open_making_room(script)?,
        };
        if !needed.iter().any(|index| realm.functions.get(*index).is_some_and(|present| *present)) {
            self.keep(script, realm);
            return Err(Fault::ordinary(format!("the codec has no function {name}")));
        }
        self.stopwatch.start(self.limits.time_ms);
        let limits = self.limits;
        let (result, clean) = realm.context.with(|ctx| {
            let result = call(&ctx, &realm.calls).map_err(|stop| match stop {
                Stop::Refused(what) => Fault::ordinary(format!("{name} {what}")),
                Stop::Threw => describe_exception(&ctx, name, &limits),
            });
            (result, sweep(&ctx, &realm.calls).unwrap_or(false))
        });
        let idle = self.finish_jobs();
        // Whatever was caught or read afterwards: time was over.
        let result = if self.stopwatch.stop() { Err(Fault::timed_out(name, &limits)) } else { result };
        realm.calls_left = realm.calls_left.saturating_sub(1);
        let cut_short = result.as_ref().is_err_and(|fault| fault.kind != FaultKind::Ordinary);
        if clean && idle && !cut_short && realm.calls_left > 0 {
            self.keep(script, realm);
        } else {
            drop(realm);
            if !idle {
                self.reset();
            }
        }
        result
    }

    fn take_kept(&mut self, script: Script<'_>) -> Option<Realm> {
        let index = self.realms.iter().rposition(|realm| realm.belongs_to(script))?;
        Some(self.realms.remove(index))
    }

    /// Keeps the realm as the one used last, and lets go of the one unused for longest.
    fn keep(&mut self, script: Script<'_>, realm: Realm) {
        if script.id.is_empty() {
            return;
        }
        self.realms.retain(|other| other.id != script.id || other.revision != script.revision);
        if self.realms.len() >= REALMS_KEPT {
            self.realms.remove(0);
        }
        self.realms.push(realm);
    }

    /// Opens a realm; when memory is short, because others hold it, closes them and tries once more.
    fn open_making_room(&mut self, script: Script<'_>) -> Result<Realm, Fault> {
        match self.open(script) {
            Err(fault) if fault.kind == FaultKind::Limit && !self.realms.is_empty() => {
                self.reset();
                self.open(script)
            }
            result => result,
        }
    }

    /// Compiles a script in a realm of its own.
    fn open(&mut self, script: Script<'_>) -> Result<Realm, Fault> {
        if script.source.len() > SOURCE_BYTES_MAX {
            return Err(Fault::ordinary(CodecError::TooLong(script.source.len()).to_string()));
        }
        let limits = self.limits;
        let context =
            self.runtime().and_then(|runtime| Context::custom::<Intrinsics>(&runtime)).map_err(|error| {
                Fault { message: format!("no room for the codec: {error}"), kind: FaultKind::Limit }
            })?;
        self.stopwatch.start(limits.time_ms.saturating_add(OPENING_MS));
        let parts = context.with(|ctx| {
            bind(&ctx, script.source).map_err(|stop| match stop {
                Stop::Refused(what) => Fault::ordinary(format!("the codec {what}")),
                Stop::Threw => describe_exception(&ctx, "the codec", &limits),
            })
        });
        let idle = self.finish_jobs();
        if self.stopwatch.stop() {
            drop(parts);
            drop(context);
            if !idle {
                self.reset();
            }
            return Err(Fault::timed_out("the codec's top level", &limits));
        }
        let (functions, calls) = parts?;
        Ok(Realm {
            id: script.id.to_owned(),
            revision: script.revision,
            source: Arc::clone(script.source),
            functions,
            calls_left: CALLS_PER_REALM,
            calls,
            context,
        })
    }

    fn runtime(&mut self) -> Result<Runtime, rquickjs::Error> {
        if let Some(runtime) = &self.runtime {
            return Ok(runtime.clone());
        }
        let runtime = Runtime::new()?;
        runtime.set_memory_limit(self.limits.memory_bytes);
        runtime.set_max_stack_size(self.limits.stack_bytes);
        let stopwatch = Arc::clone(&self.stopwatch);
        runtime.set_interrupt_handler(Some(Box::new(move || stopwatch.is_over())));
        self.runtime = Some(runtime.clone());
        Ok(runtime)
    }

    /// Runs what a call left in the engine's job queue (an `async` function does that), while its time lasts.
    /// False: there is still something left.
    fn finish_jobs(&self) -> bool {
        let Some(runtime) = &self.runtime else {
            return true;
        };
        while runtime.is_job_pending() {
            if self.stopwatch.is_over() {
                return false;
            }
            // A job that throws has nobody to tell.
            drop(runtime.execute_pending_job());
        }
        true
    }

    fn reset(&mut self) {
        self.realms.clear();
        self.runtime = None;
    }
}

/// A script, compiled, with the global objects it runs among.
struct Realm {
    id: String,
    revision: u32,
    source: Arc<str>,
    functions: Vec<bool>,
    calls_left: u32,
    // Before the context: what points into it goes first.
    calls: Calls,
    context: Context,
}

/// The functions of prelude.js that take part in a call.
struct Calls {
    decode: Persistent<Function<'static>>,
    encode: Persistent<Function<'static>>,
    sweep: Persistent<Function<'static>>,
    unwritable: Persistent<Function<'static>>,
}

impl Realm {
    fn belongs_to(&self, script: Script<'_>) -> bool {
        self.revision == script.revision
            && self.id == script.id
            && (Arc::ptr_eq(&self.source, script.source) || self.source == *script.source)
    }
}

fn bind(ctx: &Ctx<'_>, source: &str) -> Result<(Vec<bool>, Calls), Stop> {
    let prelude: Function<'_> = ctx.eval(include_str!("prelude.js"))?;
    let mut options = EvalOptions::default();
    options.strict = false;
    options.filename = Some(SCRIPT_NAME.to_owned());
    // On the first line, so that the script's lines keep their numbers.
    let exports = FUNCTIONS.map(|name| format!("typeof {name} === 'function' ? {name} : undefined")).join(", ");
    let factory: Function<'_> =
        ctx.eval_with_options(format!("(function () {{{source}\n;return [{exports}];}})"), options)?;
    let parts: Array<'_> = prelude.call((factory,))?;
    let function = |index| Ok::<_, Stop>(Persistent::save(ctx, parts.get::<Function<'_>>(index)?));
    let calls =
        Calls { decode: function(1)?, encode: function(2)?, sweep: function(3)?, unwritable: function(4)? };
    Ok((parts.get(0)?, calls))
}

/// Removes what a call left among the globals. Counting them here costs a third of asking for their names there.
fn sweep(ctx: &Ctx<'_>, calls: &Calls) -> Result<bool, rquickjs::Error> {
    let count = ctx.globals().own_keys::<Atom<'_>>(Filter::new().string().symbol()).len();
    let sweep = calls.sweep.clone().restore(ctx)?;
    sweep.call((u32::try_from(count).unwrap_or(u32::MAX),))
}

/// Measures the processor time of a call, so that a call on a busy machine is not blamed for the others.
#[derive(Default)]
struct Stopwatch {
    ends_at_ns: AtomicU64,
    fired: AtomicBool,
}

impl Stopwatch {
    fn start(&self, time_ms: u32) {
        self.fired.store(false, Ordering::Relaxed);
        self.ends_at_ns
            .store(thread_time::own_ns().saturating_add(u64::from(time_ms) * 1_000_000), Ordering::Relaxed);
    }

    /// Asked by the engine every few thousand steps. Once true it stays so until the next start, so that a
    /// script cannot catch its way out.
    fn is_over(&self) -> bool {
        if self.fired() {
            return true;
        }
        let over = thread_time::own_ns() > self.ends_at_ns.load(Ordering::Relaxed);
        self.fired.store(over, Ordering::Relaxed);
        over
    }

    fn fired(&self) -> bool {
        self.fired.load(Ordering::Relaxed)
    }

    fn stop(&self) -> bool {
        self.ends_at_ns.store(u64::MAX, Ordering::Relaxed);
        self.fired.swap(false, Ordering::Relaxed)
    }
}

fn elapsed_us(started: Instant) -> u32 {
    u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX)
}

/// No clock but `Date`, nothing that shows when memory is collected.
type Intrinsics = (
    intrinsic::Date,
    intrinsic::Eval,
    intrinsic::RegExpCompiler,
    intrinsic::RegExp,
    intrinsic::Json,
    intrinsic::Proxy,
    intrinsic::MapSet,
    intrinsic::TypedArrays,
    // Scripts may write `async`; without promises the engine would have no object for what that returns.
    intrinsic::Promise,
);

/// What a codec may define; prelude.js knows them by their place.
const FUNCTIONS: [&str; 5] = ["decodeUplink", "encodeDownlink", "decodeDownlink", "Decoder", "Decode"];
const DECODE_UPLINK: usize = 0;
const ENCODE_DOWNLINK: usize = 1;
const DECODE_DOWNLINK: usize = 2;
const DECODER: usize = 3;
const DECODE: usize = 4;

/// A realm takes about 300 KiB and 3 ms to prepare.
const REALMS_KEPT: usize = 16;
/// Then a fresh realm ends whatever grew in the old one.
const CALLS_PER_REALM: u32 = 10_000;
/// What preparing the global objects may take beside the script's own top level.
const OPENING_MS: u32 = 50;
