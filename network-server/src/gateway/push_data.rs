//! The body of PUSH_DATA: an array of frames, a status report, or both.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::lenient;

/// One part of a PUSH_DATA, as the text it came in; each is read on its own, so that a bad one spoils no other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part<'a> {
    /// An element of `rxpk`.
    Rxpk(&'a str),
    /// The `stat` object.
    Stat(&'a str),
}

/// Hands the parts of a body to `take`, frames first. Fields that are not known are skipped.
///
/// Returns what is wrong with the body when it is no JSON object of the protocol's shape; then no part was handed out.
pub(crate) fn read(body: &[u8], mut take: impl FnMut(Part<'_>)) -> Result<(), String> {
    let body = trim(body);
    if body.is_empty() {
        return Err("the body is empty".to_owned());
    }
    let repaired;
    let envelope = match parse(body) {
        Ok(envelope) => envelope,
        Err(error) => {
            repaired = lenient::repair(body);
            serde_json::from_str(&repaired).map_err(|_| error)?
        }
    };
    for rxpk in envelope.rxpk {
        take(Part::Rxpk(rxpk.get()));
    }
    if let Some(stat) = envelope.stat {
        take(Part::Stat(stat.get()));
    }
    Ok(())
}

fn parse(body: &[u8]) -> Result<Envelope<'_>, String> {
    let text = std::str::from_utf8(body).map_err(|error| lenient::problem(&error))?;
    serde_json::from_str(text).map_err(|error| lenient::problem(&error))
}

/// Some forwarders send the NUL that ends their string, too.
fn trim(body: &[u8]) -> &[u8] {
    let mut rest = body;
    while let [left @ .., 0 | b'\t' | b'\n' | b'\x0c' | b'\r' | b' '] = rest {
        rest = left;
    }
    rest
}

#[derive(Default)]
struct Envelope<'a> {
    rxpk: Vec<&'a RawValue>,
    stat: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Envelope<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EnvelopeVisitor)
    }
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `rxpk`, `stat` or both")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        while let Some(field) = map.next_key()? {
            match field {
                Field::Rxpk => match map.next_value::<Option<Vec<&RawValue>>>()? {
                    Some(frames) if envelope.rxpk.is_empty() => envelope.rxpk = frames,
                    Some(frames) => envelope.rxpk.extend(frames),
                    None => {}
                },
                Field::Stat => envelope.stat = map.next_value()?,
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(envelope)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Field {
    Rxpk,
    Stat,
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(body: &[u8]) -> Result<Vec<String>, String> {
        let mut parts = Vec::new();
        read(body, |part| {
            parts.push(match part {
                Part::Rxpk(text) => format!("rxpk {text}"),
                Part::Stat(text) => format!("stat {text}"),
            });
        })?;
        Ok(parts)
    }

    #[test]
    fn frames_and_status_are_handed_out_one_by_one_and_the_rest_is_skipped() {
        let found = parts(br#"{"new":{"a":[1]},"stat":{"rxnb":1},"rxpk":[{"tmst":1}, 7]}"#);
        assert_eq!(found, Ok(vec![r#"rxpk {"tmst":1}"#.into(), "rxpk 7".into(), r#"stat {"rxnb":1}"#.into()]));
        assert_eq!(parts(br#"{"stat":{}}"#), Ok(vec!["stat {}".into()]));
        assert_eq!(parts(br#"{"rxpk":null,"stat":null}"#), Ok(vec![]));
        assert_eq!(parts(b" {} \n\0"), Ok(vec![]));
        assert_eq!(parts(br#"{"rxpk":[1],"rxpk":[2]}"#), Ok(vec!["rxpk 1".into(), "rxpk 2".into()]));
    }

    #[test]
    fn what_c_programs_print_for_json_is_repaired() {
        assert_eq!(parts(b"{\"rxpk\":[{\"lsnr\":-nan}]}"), Ok(vec!["rxpk {\"lsnr\":null}".into()]));
        assert_eq!(
            parts(b"{\"rxpk\":[{\"tmst\":1}],\"stat\":{\"desc\":\"H\xf6he\"}}"),
            Ok(vec!["rxpk {\"tmst\":1}".into(), "stat {\"desc\":\"H\u{fffd}he\"}".into()])
        );
    }

    /// UDP-009: what is told about a body does not grow with it.
    #[test]
    fn a_refusal_is_short_whatever_the_body_is() {
        let long = "x\\u0007".repeat(9_000);
        for body in [format!("{long:?}"), format!("\"{long}\""), format!("{{\"rxpk\":\"{long}\"}}")] {
            let problem = parts(body.as_bytes()).expect_err("no object of the protocol");
            assert!(problem.len() < 256 && !problem.contains(char::is_control), "{problem}");
        }
    }

    #[test]
    fn what_is_no_object_of_the_protocol_is_refused_without_a_part() {
        let deep = [b"{\"rxpk\":".as_slice(), &[b'['; 60_000]].concat();
        let bodies: [&[u8]; 9] =
            [b"", b"\0", b"[]", b"{", b"{\"rxpk\":[{}", b"{\"rxpk\":{}}", b"rxpk", b"\xff\xfe", &deep];
        for body in bodies {
            assert!(parts(body).is_err(), "{:?}", String::from_utf8_lossy(body));
        }
    }
}
