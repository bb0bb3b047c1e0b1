//! What a script returned, made into text and bytes; whatever it is.

use rquickjs::{Ctx, Exception, Function, Object, Type, Value};

use super::{Decoded, Encoded, Limits};

/// Why a call has no result. `message` is one sentence that begins with the function's name.
#[derive(Debug)]
pub(super) struct Fault {
    pub message: String,
    pub kind: FaultKind,
}

/// What a fault means for the realm the script ran in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum FaultKind {
    /// The script ran to its end or threw: the realm is as it was.
    Ordinary,
    /// A limit ended it somewhere in the middle: the realm is thrown away.
    Limit,
    /// The time limit ended it.
    TimedOut,
}

impl Fault {
    pub(super) fn ordinary(message: String) -> Self {
        Self { message, kind: FaultKind::Ordinary }
    }

    pub(super) fn timed_out(name: &str, limits: &Limits) -> Self {
        Self {
            message: format!("{name} ran longer than {} ms and was stopped", limits.time_ms),
            kind: FaultKind::TimedOut,
        }
    }
}

impl From<Fault> for Decoded {
    fn from(fault: Fault) -> Self {
        Self { timed_out: fault.kind == FaultKind::TimedOut, ..Self::failed(fault.message) }
    }
}

impl From<Fault> for Encoded {
    fn from(fault: Fault) -> Self {
        Self { timed_out: fault.kind == FaultKind::TimedOut, ..Self::failed(fault.message) }
    }
}

/// Why reading a result stopped: something to say, or an exception that waits in the context.
pub(super) enum Stop {
    Refused(String),
    Threw,
}

impl From<rquickjs::Error> for Stop {
    fn from(error: rquickjs::Error) -> Self {
        if error.is_exception() {
            Self::Threw
        } else {
            Self::Refused(format!("returned what cannot be read: {error}"))
        }
    }
}

/// Reads `{data, warnings, errors}`. `unwritable` names the first number JSON cannot hold.
pub(super) fn read_decoded<'js>(
    ctx: &Ctx<'js>,
    value: Value<'js>,
    unwritable: &Function<'js>,
    limits: &Limits,
) -> Result<Decoded, Stop> {
    let result = result_object(value, "{data: {...}}")?;
    let mut decoded = Decoded { errors: sentences(ctx, &result, "errors")?, ..Decoded::default() };
    decoded.warnings = sentences(ctx, &result, "warnings")?;
    if !decoded.errors.is_empty() {
        return Ok(decoded);
    }
    let data: Value<'js> = result.get("data")?;
    if kind_of(&data) != "an object" {
        return Err(Stop::Refused(match kind_of(&data).as_str() {
            "nothing" => "returned no data, expected {data: {...}}".to_owned(),
            kind => format!("returned data that is {kind}, expected an object"),
        }));
    }
    let text = match ctx.json_stringify(data.clone())? {
        Some(text) => text.to_string()?,
        None => return Err(Stop::Refused("returned data that has no JSON form".to_owned())),
    };
    // A date, or whatever else has a `toJSON`.
    if !text.starts_with('{') {
        return Err(Stop::Refused(format!(
            "returned data whose JSON form is {}, expected an object",
            clip(&text)
        )));
    }
    if text.len() > limits.result_bytes {
        return Err(Stop::Refused(format!(
            "returned {} bytes of JSON, at most {} are taken",
            text.len(),
            limits.result_bytes
        )));
    }
    // JSON.stringify writes null for NaN and Infinity; only then it pays to look for them.
    if text.contains("null") {
        let found: String = unwritable.call((data, "data", 0))?;
        if !found.is_empty() {
            return Err(Stop::Refused(format!("returned a value JSON cannot hold: {}", clip(&found))));
        }
    }
    decoded.object_json = tame_json(text)?;
    Ok(decoded)
}

/// Reads `{bytes, fPort, warnings, errors}`.
pub(super) fn read_encoded<'js>(ctx: &Ctx<'js>, value: Value<'js>) -> Result<Encoded, Stop> {
    let result = result_object(value, "{bytes: [...], fPort: 1}")?;
    let mut encoded = Encoded { errors: sentences(ctx, &result, "errors")?, ..Encoded::default() };
    encoded.warnings = sentences(ctx, &result, "warnings")?;
    if !encoded.errors.is_empty() {
        return Ok(encoded);
    }
    encoded.f_port = read_f_port(&result.get::<_, Value<'js>>("fPort")?)?;
    encoded.bytes = read_bytes(&result.get::<_, Value<'js>>("bytes")?)?;
    Ok(encoded)
}

/// Says what an exception was: its name, message and line. `name` is the function that was called.
pub(super) fn describe_exception(ctx: &Ctx<'_>, name: &str, limits: &Limits) -> Fault {
    let thrown = ctx.catch();
    let memory = limits.memory_bytes >> 20;
    // The engine throws null when there is no memory left for an error object.
    if thrown.is_null() {
        return Fault {
            message: format!("{name} threw null, or needed more than {memory} MiB of memory"),
            kind: FaultKind::Limit,
        };
    }
    let Some(exception) = thrown.clone().into_object().and_then(Exception::from_object) else {
        let what = text_of(ctx, &thrown).unwrap_or_else(|_| kind_of(&thrown));
        return Fault::ordinary(format!("{name} threw {}", clip(&what)));
    };
    let text = exception.message().unwrap_or_default();
    match text.as_str() {
        "out of memory" => {
            Fault { message: format!("{name} needed more than {memory} MiB of memory"), kind: FaultKind::Limit }
        }
        "Maximum call stack size exceeded" | "stack overflow" => Fault {
            message: format!("{name} recursed too deeply: the stack limit is {} KiB", limits.stack_bytes >> 10),
            kind: FaultKind::Limit,
        },
        _ => {
            let class: String = exception.as_object().get("name").unwrap_or_else(|_| "Error".to_owned());
            let line = exception.stack().and_then(|stack| line_in(&stack));
            let line = line.map(|line| format!(" (line {line})")).unwrap_or_default();
            Fault::ordinary(format!("{name} threw {}: {}{line}", clip(&class), clip(&text)))
        }
    }
}

/// The file name scripts are compiled under; it marks their lines in a stack trace.
pub(super) const SCRIPT_NAME: &str = "codec.js";

fn result_object<'js>(value: Value<'js>, expected: &str) -> Result<Object<'js>, Stop> {
    if value.is_promise() {
        return Err(Stop::Refused("returned a promise: codec functions cannot be async".to_owned()));
    }
    let kind = kind_of(&value);
    if kind != "an object" {
        return Err(Stop::Refused(format!("returned {kind}, expected an object like {expected}")));
    }
    value
        .into_object()
        .ok_or_else(|| Stop::Refused(format!("returned {kind}, expected an object like {expected}")))
}

/// Reads `errors` or `warnings`: an array of strings, but a single string and other values are taken too, for
/// what they say is worth more than their form.
fn sentences<'js>(ctx: &Ctx<'js>, result: &Object<'js>, field: &str) -> Result<Vec<String>, Stop> {
    let value: Value<'js> = result.get(field)?;
    if value.is_undefined() || value.is_null() {
        return Ok(Vec::new());
    }
    let Some(list) = value.as_array() else {
        return Ok(vec![text_of(ctx, &value)?]);
    };
    let mut sentences = Vec::new();
    for index in 0..length_of(list.as_object()).unwrap_or(0).min(SENTENCES_MAX) {
        sentences.push(text_of(ctx, &list.as_object().get::<_, Value<'js>>(index)?)?);
    }
    Ok(sentences)
}

fn read_f_port(value: &Value<'_>) -> Result<Option<u8>, Stop> {
    if value.is_undefined() || value.is_null() {
        return Ok(None);
    }
    match whole_number(value) {
        Some(f_port @ 1..=223) => Ok(Some(f_port)),
        _ => Err(Stop::Refused(format!("returned fPort {}, expected an integer from 1 to 223", shown(value)))),
    }
}

fn read_bytes<'js>(value: &Value<'js>) -> Result<Vec<u8>, Stop> {
    if value.is_undefined() || value.is_null() {
        return Err(Stop::Refused("returned no bytes, expected an array of integers".to_owned()));
    }
    // Typed arrays are no arrays, but have a length and elements like them.
    let object = value.as_object().filter(|_| !value.is_function());
    let Some((object, len)) = object.and_then(|object| Some((object, length_of(object)?))) else {
        let kind = kind_of(value);
        return Err(Stop::Refused(format!("returned bytes that are {kind}, expected an array of integers")));
    };
    if len > FRAME_BYTES_MAX {
        return Err(Stop::Refused(format!("returned {len} bytes, a frame carries at most {FRAME_BYTES_MAX}")));
    }
    let mut bytes = Vec::new();
    for index in 0..len {
        let element: Value<'js> = object.get(index)?;
        match whole_number(&element) {
            Some(byte) => bytes.push(byte),
            None => {
                let shown = shown(&element);
                return Err(Stop::Refused(format!(
                    "returned bytes[{index}] = {shown}, expected an integer from 0 to 255"
                )));
            }
        }
    }
    Ok(bytes)
}

/// The length of an array or what looks like one. Not `Array::len`, which panics above 2^31.
fn length_of(object: &Object<'_>) -> Option<u32> {
    let length = object.get::<_, Value<'_>>("length").ok()?.as_number()?;
    if !(0.0..=f64::from(u32::MAX)).contains(&length) || length.fract() != 0.0 {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a u32")]
    Some(length as u32)
}

fn whole_number(value: &Value<'_>) -> Option<u8> {
    let number = value.as_number()?;
    if !(0.0..=255.0).contains(&number) || number.fract() != 0.0 {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be 0 to 255")]
    Some(number as u8)
}

fn shown(value: &Value<'_>) -> String {
    match value.as_number() {
        Some(number) if number.is_finite() => number.to_string(),
        _ => kind_of(value),
    }
}

fn text_of<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> Result<String, rquickjs::Error> {
    if let Some(string) = value.as_string() {
        return string.to_string().map(|text| clip(&text));
    }
    let text = ctx.json_stringify(value.clone())?.map(|text| text.to_string()).transpose()?;
    Ok(text.map_or_else(|| kind_of(value), |text| clip(&text)))
}

/// What a value is, with its article.
fn kind_of(value: &Value<'_>) -> String {
    if let Some(number) = value.as_float()
        && !number.is_finite()
    {
        return if number.is_nan() { "NaN" } else { "infinite" }.to_owned();
    }
    #[allow(clippy::wildcard_enum_match_arm, reason = "everything else is an object in its behaviour")]
    match value.type_of() {
        Type::Undefined | Type::Uninitialized => "nothing",
        Type::Null => "null",
        Type::Bool => "a boolean",
        Type::Int | Type::Float => "a number",
        Type::BigInt => "a BigInt",
        Type::String => "a string",
        Type::Symbol => "a symbol",
        Type::Array => "an array",
        Type::Function | Type::Constructor => "a function",
        _ => "an object",
    }
    .to_owned()
}

/// One line of at most [`SENTENCE_CHARS_MAX`] characters.
fn clip(text: &str) -> String {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SENTENCE_CHARS_MAX).collect();
    if text.chars().nth(SENTENCE_CHARS_MAX).is_some() {
        line.push('…');
    }
    line
}

/// The line of the innermost frame that belongs to the script.
fn line_in(stack: &str) -> Option<u32> {
    let (_, place) = stack.split_once("codec.js:")?;
    place.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Makes JSON text that every reader takes: refuses nesting that common parsers refuse, and replaces halves of
/// surrogate pairs, which JavaScript strings may hold and UTF-8 cannot.
fn tame_json(text: String) -> Result<String, Stop> {
    let mut depth = 0_u32;
    let mut deepest = 0_u32;
    let mut in_string = false;
    let mut bytes = text.bytes().enumerate();
    let mut halves = Vec::new();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => {
                let half = text.get(at..at.saturating_add(4)).is_some_and(|escape| {
                    let escape = escape.as_bytes();
                    escape.starts_with(b"\\ud")
                        && escape.last().is_some_and(|digit| !(b'0'..=b'7').contains(digit))
                });
                if half {
                    halves.push(at);
                }
                bytes.next();
            }
            b'{' | b'[' if !in_string => {
                depth = depth.saturating_add(1);
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    if deepest > DEPTH_MAX {
        return Err(Stop::Refused(format!(
            "returned data nested {deepest} deep, at most {DEPTH_MAX} levels are taken"
        )));
    }
    if halves.is_empty() {
        return Ok(text);
    }
    let mut tame = String::with_capacity(text.len());
    let mut from = 0;
    for at in halves {
        tame.push_str(text.get(from..at).unwrap_or_default());
        tame.push_str("\\ufffd");
        from = at.saturating_add("\\udxxx".len());
    }
    tame.push_str(text.get(from..).unwrap_or_default());
    Ok(tame)
}

/// The longest FRMPayload of any region and data rate.
const FRAME_BYTES_MAX: u32 = 242;
const SENTENCES_MAX: u32 = 16;
const SENTENCE_CHARS_MAX: usize = 256;
const DEPTH_MAX: u32 = 64;
