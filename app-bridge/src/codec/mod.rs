//! Payload codecs: bytes of a device to an object for people and programs, and back.
//!
//! A script has the functions of TS013 (`decodeUplink`, `encodeDownlink`, `decodeDownlink`) or the older entry
//! points `Decoder(bytes, port)` and `Decode(fPort, bytes)`. It runs on threads of its own, away from the async
//! runtime, with limits on time, memory, stack and result. It has the language's own objects and a `console`
//! that writes nowhere: no network, files, timers or `require`. `Date` is there, because codecs turn device
//! time into text with it; in a call of a decoder its clock stands at `input.recvTime`, for decoding may happen again
//! later. Its own variables start anew in each call, so that no device sees another's.

mod engine;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod lpp;
mod outcome;
mod pool;
pub mod suspension;
mod thread_time;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use pool::CodecPool;

/// What runs the scripts.
#[derive(Clone, Default)]
pub enum Interpreter {
    /// The JavaScript engine, on threads of its own.
    #[default]
    Engine,
    /// A function in place of `decodeUplink`, on the caller's task: for simulated worlds.
    Simulated(DecodeUplink),
}

/// Decodes the bytes that came on an FPort.
pub type DecodeUplink = Arc<dyn Fn(&[u8], u8) -> Decoded + Send + Sync>;

/// How a device's payloads are decoded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Codec {
    /// Not at all: consumers get the bytes.
    None,
    /// As Cayenne Low Power Payload.
    CayenneLpp,
    /// With a script.
    Script {
        /// Names the codec in errors, and with `revision` its compiled form; empty for a script that is run
        /// once and neither kept nor suspended.
        id: String,
        /// Rises with each change of the source; a changed script starts without the old one's suspension.
        revision: u32,
        /// JavaScript, at most [`SOURCE_BYTES_MAX`].
        source: Arc<str>,
    },
}

/// A codec shared by many calls.
pub type CodecRef = Arc<Codec>;

/// The longest script, in bytes.
pub const SOURCE_BYTES_MAX: usize = 256 * 1024;

/// What one call of a script may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Processor time, in milliseconds.
    pub time_ms: u32,
    /// Memory of all scripts of one thread together, in bytes.
    pub memory_bytes: usize,
    /// Stack, in bytes.
    pub stack_bytes: usize,
    /// The result as JSON text, in bytes.
    pub result_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time_ms: 50, memory_bytes: 16 << 20, stack_bytes: 256 << 10, result_bytes: 64 << 10 }
    }
}

/// An uplink to decode.
#[derive(Clone, Debug)]
pub struct DecodeJob {
    /// The device's codec.
    pub codec: CodecRef,
    /// The decrypted payload.
    pub bytes: Vec<u8>,
    /// The FPort it came on.
    pub f_port: u8,
    /// When the server received it, microseconds since the Unix epoch.
    pub recv_time_us: i64,
}

/// What came of decoding.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Decoded {
    /// The object as JSON text; empty without a codec and when `errors` is not.
    pub object_json: String,
    /// What the codec found worth a word.
    pub warnings: Vec<String>,
    /// Why there is no object: the codec's own words, or one sentence of ours.
    pub errors: Vec<String>,
    /// The call was stopped because it took too long.
    pub timed_out: bool,
    /// This call was the last of too many that timed out: the codec is suspended from here on.
    pub suspension_started: bool,
    /// How long the call took, in microseconds.
    pub duration_us: u32,
}

/// What came of encoding.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Encoded {
    /// The payload; empty when `errors` is not.
    pub bytes: Vec<u8>,
    /// The FPort the codec asks for, 1 to 223; `None` leaves it to the caller.
    pub f_port: Option<u8>,
    /// What the codec found worth a word.
    pub warnings: Vec<String>,
    /// Why there is no payload.
    pub errors: Vec<String>,
    /// The call was stopped because it took too long.
    pub timed_out: bool,
    /// How long the call took, in microseconds.
    pub duration_us: u32,
}

/// Why a script cannot be a codec.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CodecError {
    /// It does not compile, or its top level fails; the text says where.
    #[error("{0}")]
    Broken(String),
    /// It has none of the functions a codec needs.
    #[error(
        "the script has none of the functions decodeUplink, encodeDownlink, decodeDownlink, Decoder, Decode"
    )]
    NoFunctions,
    /// It is longer than [`SOURCE_BYTES_MAX`].
    #[error("the script has {0} bytes, at most {SOURCE_BYTES_MAX} are taken")]
    TooLong(usize),
    /// The codec threads did not answer.
    #[error("the codec threads do not answer; try again")]
    Unavailable,
}

impl Decoded {
    /// No object, for this reason.
    pub fn failed(error: impl Into<String>) -> Self {
        Self { errors: vec![error.into()], ..Self::default() }
    }
}

impl Encoded {
    pub(crate) fn failed(error: impl Into<String>) -> Self {
        Self { errors: vec![error.into()], ..Self::default() }
    }
}
