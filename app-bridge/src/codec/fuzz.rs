//! See `crate::fuzz`.

use std::cell::RefCell;
use std::sync::Arc;

use serde_json::Value;

use super::engine::{Engine, Script, Way};
use super::{CodecError, Decoded, Encoded, Limits, lpp};

/// Whatever a script may return: the input is JavaScript, and its value is what the codec's functions return.
///
/// The caller gets a JSON object or the reason why there is none, payload bytes or the reason; both of bounded size, in words that fit a
/// line. The next call, with another device's payload, sees nothing of it.
pub fn codec_result(bytes: &[u8]) {
    thread_local! {
        static ENGINE: RefCell<Engine> = RefCell::new(Engine::new(LIMITS));
    }
    // Lone bytes become characters, so that every input is a text.
    let text: String = bytes.iter().copied().map(char::from).collect();
    let source: Arc<str> = Arc::from(RETURNS_ITS_INPUT);
    let script = Script { id: "fuzz", revision: 1, source: &source };
    ENGINE.with_borrow_mut(|engine| {
        for way in [Way::Uplink, Way::Downlink] {
            decoded(&engine.decode(script, way, bytes, 1, 0));
        }
        encoded(&engine.encode(script, &Value::String(text).to_string()));

        let probe = b"({ data: { leaks: Object.keys(globalThis).length, ok: [1].concat('2').length } })";
        let next = engine.decode(script, Way::Uplink, probe, 1, 0);
        assert_eq!((next.object_json.as_str(), next.errors), (r#"{"leaks":0,"ok":2}"#, vec![]));
    });
}

/// A codec's source.
///
/// It is refused in bounded words or has functions; those that it has keep to what [`codec_result`] asks.
pub fn codec_source(bytes: &[u8]) {
    let source: Arc<str> = Arc::from(String::from_utf8_lossy(bytes).as_ref());
    let mut engine = Engine::new(LIMITS);
    match engine.check(&source) {
        Ok(functions) => {
            assert!(!functions.is_empty());
            let script = Script { id: "fuzz", revision: 1, source: &source };
            decoded(&engine.decode(script, Way::Uplink, &[1, 2, 250], 2, 1_750_000_000_000_000));
            encoded(&engine.encode(script, r#"{"valve":true}"#));
        }
        Err(CodecError::Broken(text)) => sentence(&text),
        Err(CodecError::NoFunctions | CodecError::TooLong(_) | CodecError::Unavailable) => {}
    }
}

/// A payload in Cayenne LPP, and an object to be encoded in it.
///
/// An object that was read is written and read again as the same object; what is refused is refused in bounded words.
pub fn cayenne_lpp(bytes: &[u8]) {
    match lpp::decode(bytes) {
        Ok((text, warnings)) => {
            assert!(warnings.len() <= bytes.len());
            let value: Value = serde_json::from_str(&text).expect("an object is JSON");
            let written = lpp::encode(&value).expect("what was read can be written");
            assert!(written.len() <= bytes.len());
            assert_eq!(lpp::decode(&written), Ok((text, Vec::new())));
        }
        Err(problem) => sentence(&problem),
    }
    if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
        match lpp::encode(&value) {
            Ok(written) => {
                let (_, warnings) = lpp::decode(&written).expect("what was written can be read");
                assert_eq!(warnings, Vec::<String>::new());
            }
            Err(problem) => sentence(&problem),
        }
    }
}

fn decoded(decoded: &Decoded) {
    assert_ne!(decoded.errors.is_empty(), decoded.object_json.is_empty(), "{decoded:?}");
    if decoded.errors.is_empty() {
        assert!(decoded.object_json.len() <= LIMITS.result_bytes);
        let object: Result<Value, _> = serde_json::from_str(&decoded.object_json);
        assert!(object.is_ok_and(|value| value.is_object()), "{}", decoded.object_json);
    }
    sentences(&decoded.errors);
    sentences(&decoded.warnings);
}

fn encoded(encoded: &Encoded) {
    assert!(encoded.errors.is_empty() || (encoded.bytes.is_empty() && encoded.f_port.is_none()));
    assert!(encoded.bytes.len() <= 242 && encoded.f_port.is_none_or(|f_port| (1..=223).contains(&f_port)));
    sentences(&encoded.errors);
    sentences(&encoded.warnings);
}

fn sentences(sentences: &[String]) {
    assert!(sentences.len() <= 16);
    sentences.iter().for_each(|text| sentence(text));
}

fn sentence(text: &str) {
    assert!(text.chars().count() <= SENTENCE_CHARS_MAX, "{} characters: {text}", text.chars().count());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

const LIMITS: Limits =
    Limits { time_ms: 5, memory_bytes: 8 << 20, stack_bytes: 128 << 10, result_bytes: 16 << 10 };
/// The name of an exception and its message, with the words around them.
const SENTENCE_CHARS_MAX: usize = 600;

const RETURNS_ITS_INPUT: &str = "
    function decodeUplink(input) { return eval(String.fromCharCode.apply(null, input.bytes)); }
    function decodeDownlink(input) { return eval(String.fromCharCode.apply(null, input.bytes)); }
    function encodeDownlink(input) { return eval(input.data); }
";
