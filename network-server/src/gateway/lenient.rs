//! Reading the JSON of real packet forwarders: numbers printed as strings, `nan`, `1e999`, text that is not UTF-8.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value of a field that should be a number or a text, taken as it came.
///
/// Objects, arrays, `null` and booleans count as absent, so that one odd field never costs the frame beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Scalar<'a> {
    #[default]
    Absent,
    Number(f64),
    Text(Cow<'a, str>),
}

impl Scalar<'_> {
    /// The value as a finite number, also when it was printed as a text.
    pub(crate) fn number(&self) -> Option<f64> {
        let number = match self {
            Self::Absent => return None,
            Self::Number(number) => *number,
            Self::Text(text) => text.trim().parse().ok()?,
        };
        number.is_finite().then_some(number)
    }

    /// The value as a text; a number has none.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Absent | Self::Number(_) => None,
            Self::Text(text) => Some(text.trim()),
        }
    }

    /// The value as a whole number of at most `max`; fractions are cut off. `None` when it is absent, negative or above.
    pub(crate) fn whole(&self, max: u64) -> Option<u64> {
        let number = self.number()?;
        // Below 2^53 every whole number is exact.
        if !(0.0..EXACT_LIMIT).contains(&number) {
            return None;
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was checked above"
        )]
        let whole = number as u64;
        (whole <= max).then_some(whole)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a text")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Number(number))
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "a field above 2^53 is out of every range it is checked against"
    )]
    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Number(number as f64))
    }

    #[allow(clippy::cast_precision_loss, reason = "see visit_u64")]
    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Number(number as f64))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Absent)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Absent)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Absent)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Absent)
    }
}

/// What a reader says is wrong, on one line and short: readers repeat what they found, and a stranger decides how long that is.
pub(crate) fn problem(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(PROBLEM_CHARS_MAX).collect();
    if text.chars().nth(PROBLEM_CHARS_MAX).is_some() {
        line.push('…');
    }
    line
}

/// Makes JSON of what C programs print for it: values that are no finite JSON number (`nan`, `-inf`, `1e999`) become
/// `null`, bytes that are not UTF-8 the replacement character, control characters inside texts a space.
///
/// It is used only after the strict reading failed. Its work and its answer are proportional to the input.
pub(crate) fn repair(json: &[u8]) -> String {
    let text = String::from_utf8_lossy(json);
    let mut repaired = String::with_capacity(text.len());
    let mut rest = text.as_ref();
    while let Some(first) = rest.chars().next() {
        let token = match first {
            '"' => {
                let (quoted, behind) = split_string(rest);
                repaired.extend(quoted.chars().map(|c| if c.is_control() { ' ' } else { c }));
                rest = behind;
                continue;
            }
            c if is_token_char(c) => {
                let end = rest.find(|c| !is_token_char(c)).unwrap_or(rest.len());
                rest.split_at(end)
            }
            c => rest.split_at(c.len_utf8()),
        };
        repaired.push_str(if is_value_to_drop(token.0) { "null" } else { token.0 });
        rest = token.1;
    }
    repaired
}

/// Splits behind the closing quote of the string `text` begins with, or at the end when it has none.
fn split_string(text: &str) -> (&str, &str) {
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return text.split_at_checked(index.saturating_add(c.len_utf8())).unwrap_or((text, "")),
            _ => {}
        }
    }
    (text, "")
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')
}

fn is_value_to_drop(token: &str) -> bool {
    // The parser of the standard library knows nan, inf and infinity in any case, with a sign.
    token.parse::<f64>().is_ok_and(|number| !number.is_finite())
}

const PROBLEM_CHARS_MAX: usize = 120;
/// 2^53.
const EXACT_LIMIT: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_number_may_be_printed_as_a_text_and_an_odd_value_counts_as_absent() {
        let read = |json: &str| serde_json::from_str::<Scalar<'_>>(json).unwrap().number();
        assert_eq!(read("868.1"), Some(868.1));
        assert_eq!(read("\" 868.1 \""), Some(868.1));
        assert_eq!(read("-7"), Some(-7.0));
        for odd in ["null", "true", "[1,[2]]", "{\"a\":1}", "\"\"", "\"abc\"", "\"nan\"", "\"1e999\""] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }

    #[test]
    fn whole_numbers_are_bounded() {
        let whole = |number: f64| Scalar::Number(number).whole(u64::from(u16::MAX));
        assert_eq!(whole(65_535.9), Some(65_535));
        assert_eq!(whole(65_536.0), None);
        assert_eq!(whole(-0.5), None);
        assert_eq!(whole(1e300), None);
        assert_eq!(Scalar::Number(f64::NAN).whole(u64::MAX), None);
    }

    #[test]
    fn values_that_are_no_number_become_null_and_texts_stay() {
        let cases = [
            (r#"{"lsnr":nan}"#, r#"{"lsnr":null}"#),
            (r#"{"lsnr":-nan,"rssi":-inf}"#, r#"{"lsnr":null,"rssi":null}"#),
            (r#"{"a":NaN,"b":Infinity,"c":-Infinity}"#, r#"{"a":null,"b":null,"c":null}"#),
            (r#"[1e999,-1e999,1e3,-0.5,true,null]"#, r#"[null,null,1e3,-0.5,true,null]"#),
            (r#"{"desc":"nan, \" inf","a":1}"#, r#"{"desc":"nan, \" inf","a":1}"#),
            ("{\"desc\":\"a\nb\"}", "{\"desc\":\"a b\"}"),
            ("\"open nan", "\"open nan"),
            ("\"\\", "\"\\"),
            ("", ""),
        ];
        for (broken, whole) in cases {
            assert_eq!(repair(broken.as_bytes()), whole);
        }
        assert_eq!(repair(b"{\"desc\":\"caf\xe9\"}"), "{\"desc\":\"caf\u{fffd}\"}");
    }
}
