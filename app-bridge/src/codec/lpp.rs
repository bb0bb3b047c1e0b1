//! Cayenne Low Power Payload: `[channel][type][value]…`, values big-endian.
//!
//! The JSON form is an object of kinds, each an object of channels: `{"temperatureSensor": {"3": 27.2}}`.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

/// Decodes a payload. Returns the JSON text and warnings.
///
/// # Errors
/// A sentence that names what cannot be read and the byte it stands at; nothing of the payload is returned then.
pub fn decode(bytes: &[u8]) -> Result<(String, Vec<String>), String> {
    let mut kinds: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    let mut warnings = Vec::new();
    let mut rest = bytes;
    while let [channel, after_channel @ ..] = rest {
        let at = bytes.len().saturating_sub(rest.len());
        let [type_id, tail @ ..] = after_channel else {
            return Err(format!("channel {channel} at byte {at} has no type: the payload ends there"));
        };
        let Some(kind) = KINDS.iter().find(|kind| kind.type_id == *type_id) else {
            return Err(format!(
                "Cayenne LPP type {type_id} at byte {} (channel {channel}) is not known",
                at.saturating_add(1)
            ));
        };
        let len = kind.len();
        let Some((value, tail)) = tail.split_at_checked(len) else {
            return Err(format!(
                "{} on channel {channel} at byte {at} needs {len} bytes of value, {} follow",
                kind.name,
                tail.len()
            ));
        };
        let channels = kinds.entry(kind.name).or_default();
        if channels.insert(channel.to_string(), kind.read(value)).is_some() {
            warnings.push(format!("{} on channel {channel} comes twice, the last one counts", kind.name));
        }
        rest = tail;
    }
    let object: Map<String, Value> =
        kinds.into_iter().map(|(name, channels)| (name.to_owned(), Value::Object(channels))).collect();
    Ok((Value::Object(object).to_string(), warnings))
}

/// Encodes the JSON form; kinds in the order of their type numbers, channels rising.
///
/// # Errors
/// A sentence that names the kind and channel that cannot be written.
pub fn encode(data: &Value) -> Result<Vec<u8>, String> {
    let object = data.as_object().ok_or("expected an object of kinds, like {\"digitalOutput\": {\"1\": 1}}")?;
    if let Some(name) = object.keys().find(|name| KINDS.iter().all(|kind| kind.name != name.as_str())) {
        return Err(format!("Cayenne LPP has no {}", shown(name)));
    }
    let mut bytes = Vec::new();
    for kind in KINDS {
        let Some(channels) = object.get(kind.name) else {
            continue;
        };
        let channels = channels.as_object().ok_or_else(|| {
            format!("{} is not an object of channels, like {{\"1\": {}}}", kind.name, kind.example())
        })?;
        let mut by_number = BTreeMap::new();
        for (channel, value) in channels {
            let number: u8 = channel.parse().map_err(|_| {
                format!("channel {} of {} is not a number from 0 to 255", shown(channel), kind.name)
            })?;
            by_number.insert(number, value);
        }
        for (number, value) in by_number {
            bytes.extend([number, kind.type_id]);
            kind.write(value, &mut bytes)
                .map_err(|what| format!("{} on channel {number}: {what}", kind.name))?;
        }
    }
    Ok(bytes)
}

/// The beginning of what a caller wrote.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    let more = if start.len() < text.len() { "…" } else { "" };
    format!("{}{more}", start.escape_debug())
}

/// One type of value. Without field names it is a plain number, else an object of its fields.
struct Kind {
    type_id: u8,
    name: &'static str,
    fields: &'static [Field],
}

/// A big-endian number of `len` bytes, `per_unit` of which make one unit.
struct Field {
    name: &'static str,
    len: usize,
    signed: bool,
    per_unit: u32,
}

impl Kind {
    fn len(&self) -> usize {
        self.fields.iter().map(|field| field.len).sum()
    }

    fn read(&self, mut bytes: &[u8]) -> Value {
        let mut object = Map::new();
        for field in self.fields {
            // The caller has cut exactly `self.len()` bytes.
            let (value, rest) = bytes.split_at(field.len.min(bytes.len()));
            bytes = rest;
            if field.name.is_empty() {
                return field.read(value);
            }
            object.insert(field.name.to_owned(), field.read(value));
        }
        Value::Object(object)
    }

    fn write(&self, value: &Value, bytes: &mut Vec<u8>) -> Result<(), String> {
        for field in self.fields {
            let part = if field.name.is_empty() { Some(value) } else { value.get(field.name) };
            let part = part.ok_or_else(|| format!("{} is missing", field.name))?;
            let number = part.as_f64().ok_or_else(|| {
                format!("{} is not a number, like {}", shown(&part.to_string()), self.example())
            })?;
            field.write(number, bytes)?;
        }
        Ok(())
    }

    fn example(&self) -> String {
        let fields: Vec<_> = self.fields.iter().map(|field| format!("\"{}\": 1", field.name)).collect();
        if self.fields.len() == 1 { "1".to_owned() } else { format!("{{{}}}", fields.join(", ")) }
    }
}

impl Field {
    fn read(&self, bytes: &[u8]) -> Value {
        // All ones in front of a negative number leave its value as it is.
        let negative = self.signed && bytes.first().is_some_and(|byte| *byte >= 0x80);
        let sign = if negative { -1 } else { 0 };
        let value = bytes.iter().fold(sign, |value: i64, byte| (value << 8) | i64::from(*byte));
        if self.per_unit == 1 {
            return Value::Number(Number::from(value));
        }
        // At most 32 bits: exact in a double.
        #[allow(clippy::cast_precision_loss, reason = "at most 32 bits")]
        let scaled = value as f64 / f64::from(self.per_unit);
        Number::from_f64(scaled).map_or(Value::Null, Value::Number)
    }

    fn write(&self, number: f64, bytes: &mut Vec<u8>) -> Result<(), String> {
        let len = i32::try_from(self.len).map_err(|error| error.to_string())?;
        let span = 256_f64.powi(len);
        let (lowest, highest) = if self.signed { (-span / 2.0, span / 2.0 - 1.0) } else { (0.0, span - 1.0) };
        let scaled = (number * f64::from(self.per_unit)).round();
        if !(lowest..=highest).contains(&scaled) {
            let per_unit = f64::from(self.per_unit);
            return Err(format!("{number} is not between {} and {}", lowest / per_unit, highest / per_unit));
        }
        #[allow(clippy::cast_possible_truncation, reason = "checked to fit 32 bits")]
        let wire = (scaled as i64).to_be_bytes();
        bytes.extend(wire.iter().skip(wire.len().saturating_sub(self.len)));
        Ok(())
    }
}

const fn number(len: usize, per_unit: u32) -> Field {
    Field { name: "", len, signed: false, per_unit }
}

const fn signed(name: &'static str, len: usize, per_unit: u32) -> Field {
    Field { name, len, signed: true, per_unit }
}

const fn byte(name: &'static str) -> Field {
    Field { name, len: 1, signed: false, per_unit: 1 }
}

const fn kind(type_id: u8, name: &'static str, fields: &'static [Field]) -> Kind {
    Kind { type_id, name, fields }
}

const SHOWN_CHARS_MAX: usize = 32;

/// All types with a fixed size. 240 (polyline) has a variable one and no agreed layout.
const KINDS: &[Kind] = &[
    kind(0, "digitalInput", &[number(1, 1)]),
    kind(1, "digitalOutput", &[number(1, 1)]),
    kind(2, "analogInput", &[signed("", 2, 100)]),
    kind(3, "analogOutput", &[signed("", 2, 100)]),
    kind(100, "genericSensor", &[number(4, 1)]),
    kind(101, "illuminanceSensor", &[number(2, 1)]),
    kind(102, "presenceSensor", &[number(1, 1)]),
    kind(103, "temperatureSensor", &[signed("", 2, 10)]),
    kind(104, "humiditySensor", &[number(1, 2)]),
    kind(113, "accelerometer", &[signed("x", 2, 1_000), signed("y", 2, 1_000), signed("z", 2, 1_000)]),
    kind(115, "barometer", &[number(2, 10)]),
    kind(116, "voltage", &[number(2, 100)]),
    kind(117, "current", &[number(2, 1_000)]),
    kind(118, "frequency", &[number(4, 1)]),
    kind(120, "percentage", &[number(1, 1)]),
    kind(121, "altitude", &[signed("", 2, 1)]),
    kind(125, "concentration", &[number(2, 1)]),
    kind(128, "power", &[number(2, 1)]),
    kind(130, "distance", &[number(4, 1_000)]),
    kind(131, "energy", &[number(4, 1_000)]),
    kind(132, "direction", &[number(2, 1)]),
    kind(133, "unix_time", &[number(4, 1)]),
    kind(134, "gyrometer", &[signed("x", 2, 100), signed("y", 2, 100), signed("z", 2, 100)]),
    kind(135, "color", &[byte("r"), byte("g"), byte("b")]),
    kind(
        136,
        "gpsLocation",
        &[signed("latitude", 3, 10_000), signed("longitude", 3, 10_000), signed("altitude", 3, 100)],
    ),
    kind(142, "switch", &[number(1, 1)]),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn two_temperatures_are_read_as_the_format_describes() {
        let (text, warnings) = decode(&hex::decode("03670110056700ff").unwrap()).unwrap();
        assert_eq!(text, r#"{"temperatureSensor":{"3":27.2,"5":25.5}}"#);
        assert_eq!(warnings, Vec::<String>::new());
    }

    #[test]
    fn signs_units_and_triples_hold() {
        let bytes = hex::decode("01880679 5ff2960a0003e8 0671 04d2fb2e0000 0768 5b 0267ffd7".replace(' ', ""));
        let (text, _) = decode(&bytes.unwrap()).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({
                "accelerometer": {"6": {"x": 1.234, "y": -1.234, "z": 0.0}},
                "gpsLocation": {"1": {"latitude": 42.4287, "longitude": -87.9094, "altitude": 10.0}},
                "humiditySensor": {"7": 45.5},
                "temperatureSensor": {"2": -4.1},
            })
        );
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_place() {
        assert_eq!(
            decode(&[3, 103, 1, 16, 9, 77, 0]).unwrap_err(),
            "Cayenne LPP type 77 at byte 5 (channel 9) is not known"
        );
        assert_eq!(
            decode(&[3, 103, 1]).unwrap_err(),
            "temperatureSensor on channel 3 at byte 0 needs 2 bytes of value, 1 follow"
        );
        assert_eq!(decode(&[3]).unwrap_err(), "channel 3 at byte 0 has no type: the payload ends there");
        assert_eq!(decode(&[]).unwrap().0, "{}");
    }

    #[test]
    fn every_kind_survives_a_round_trip_at_its_limits() {
        for kind in KINDS {
            for fill in [0x00, 0x7f, 0x80, 0xff] {
                let mut bytes = vec![9, kind.type_id];
                bytes.resize(2 + kind.len(), fill);
                let (text, _) = decode(&bytes).unwrap();
                let value: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(encode(&value).unwrap(), bytes, "{} of {fill:02x}", kind.name);
            }
        }
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused_by_name() {
        assert_eq!(
            encode(&json!({"digitalOutput": {"1": 256}})).unwrap_err(),
            "digitalOutput on channel 1: 256 is not between 0 and 255"
        );
        assert_eq!(encode(&json!({"valve": {"1": 1}})).unwrap_err(), "Cayenne LPP has no valve");
        assert!(
            encode(&json!({"analogOutput": {"one": 1}})).unwrap_err().contains("channel one of analogOutput")
        );
        for long in [
            json!({"x\n".repeat(90): 1}),
            json!({"switch": {"x\n".repeat(90): 1}}),
            json!({"switch": {"1": vec!["\n"; 90]}}),
        ] {
            let problem = encode(&long).unwrap_err();
            assert!(problem.len() < 200 && !problem.contains(char::is_control), "{problem}");
        }
        assert!(encode(&json!({"gpsLocation": {"1": {"latitude": 1}}})).unwrap_err().contains("longitude"));
        assert!(encode(&json!({"switch": {"1": "on"}})).unwrap_err().contains("is not a number"));
        assert!(encode(&json!([1])).is_err());
    }
}
