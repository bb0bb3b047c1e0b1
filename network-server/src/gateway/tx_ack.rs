//! What a gateway answers to a PULL_RESP (PROTOCOL.TXT §6).

use std::fmt;

use serde::Deserialize;

use super::lenient::{self, Scalar};

/// Why a gateway refuses to send a frame.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TxAckError {
    /// A beacon occupies that time.
    CollisionBeacon,
    /// Another frame occupies that time, or the gateway's queue is full.
    CollisionPacket,
    /// A GPS time was asked for and the gateway has none.
    GpsUnlocked,
    /// The frame came too long before its time.
    TooEarly,
    /// The frame came when its time was too near or over.
    TooLate,
    /// The gateway cannot send on that frequency.
    TxFreq,
    /// The gateway cannot send with that power (forwarders before protocol version 1.5).
    TxPower,
    /// A word the protocol does not have; the outcome keeps it.
    Unknown,
}

impl TxAckError {
    /// The protocol's word; `UNKNOWN` for all it does not have.
    pub const fn code(self) -> &'static str {
        match self {
            Self::CollisionBeacon => "COLLISION_BEACON",
            Self::CollisionPacket => "COLLISION_PACKET",
            Self::GpsUnlocked => "GPS_UNLOCKED",
            Self::TooEarly => "TOO_EARLY",
            Self::TooLate => "TOO_LATE",
            Self::TxFreq => "TX_FREQ",
            Self::TxPower => "TX_POWER",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn from_word(word: &str) -> Self {
        const KNOWN: [TxAckError; 7] = [
            TxAckError::CollisionBeacon,
            TxAckError::CollisionPacket,
            TxAckError::GpsUnlocked,
            TxAckError::TooEarly,
            TxAckError::TooLate,
            TxAckError::TxFreq,
            TxAckError::TxPower,
        ];
        KNOWN.into_iter().find(|error| error.code().eq_ignore_ascii_case(word)).unwrap_or(Self::Unknown)
    }
}

impl fmt::Display for TxAckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A read TX_ACK.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum TxAnswer {
    /// The gateway put the frame into its queue, perhaps not quite as asked.
    Accepted {
        warning: Option<String>,
    },
    Refused {
        error: TxAckError,
        text: String,
    },
}

/// Reads the body of a TX_ACK. Nothing, `{}` and the error `NONE` mean accepted; a word that is not known is a refusal.
///
/// `Err` says what is wrong with the body; then nothing is known about the frame.
pub(crate) fn parse(body: &[u8]) -> Result<TxAnswer, String> {
    if body.len() > BODY_LEN_MAX {
        return Err(format!("{} bytes are more than a TX_ACK needs", body.len()));
    }
    // Some forwarders send a NUL for the empty text.
    let body = String::from_utf8_lossy(body);
    let body = body.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    if body.is_empty() {
        return Ok(TxAnswer::Accepted { warning: None });
    }
    let body: Body<'_> = serde_json::from_str(body).map_err(|error| lenient::problem(&error))?;
    let ack = body.txpk_ack.unwrap_or_default();
    if let Some(word) = word(&ack.error) {
        return Ok(TxAnswer::Refused { error: TxAckError::from_word(&word), text: word });
    }
    let warning = word(&ack.warn).map(|warn| match ack.value.number() {
        Some(value) => format!("{warn} {value}"),
        None => warn,
    });
    Ok(TxAnswer::Accepted { warning })
}

/// The word of a field, shortened; `None` where it says that nothing is wrong.
fn word(field: &Scalar<'_>) -> Option<String> {
    let word: String = match field {
        Scalar::Absent => return None,
        Scalar::Number(number) => number.to_string(),
        Scalar::Text(text) => text.trim().chars().filter(|c| !c.is_control()).take(WORD_CHARS_MAX).collect(),
    };
    (!word.is_empty() && !word.eq_ignore_ascii_case("NONE")).then_some(word)
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Body<'a> {
    #[serde(default)]
    txpk_ack: Option<Ack<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Ack<'a> {
    #[serde(default)]
    error: Scalar<'a>,
    #[serde(default)]
    warn: Scalar<'a>,
    #[serde(default)]
    value: Scalar<'a>,
}

const BODY_LEN_MAX: usize = 1_024;
const WORD_CHARS_MAX: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted() -> Result<TxAnswer, String> {
        Ok(TxAnswer::Accepted { warning: None })
    }

    fn refused(error: TxAckError, text: &str) -> Result<TxAnswer, String> {
        Ok(TxAnswer::Refused { error, text: text.to_owned() })
    }

    /// UDP-004.
    #[test]
    fn nothing_and_none_mean_accepted() {
        let bodies: [&[u8]; 11] = [
            b"",
            b"\0",
            b" \n",
            b"{}",
            br#"{"txpk_ack":{}}"#,
            br#"{"txpk_ack":null}"#,
            br#"{"txpk_ack":{"error":"NONE"}}"#,
            br#"{"txpk_ack":{"error":"none","tmst":1234}}"#,
            br#"{"txpk_ack":{"error":""}}"#,
            br#"{"txpk_ack":{"error":null}}"#,
            b"{\"txpk_ack\":{\"error\":\"NONE\"}}\0",
        ];
        for body in bodies {
            assert_eq!(parse(body), accepted(), "{}", String::from_utf8_lossy(body));
        }
    }

    /// UDP-004: the words of the protocol and others that forwarders use.
    #[test]
    fn every_error_is_a_refusal_and_an_unknown_word_is_kept() {
        let cases = [
            ("TOO_LATE", TxAckError::TooLate),
            ("TOO_EARLY", TxAckError::TooEarly),
            ("COLLISION_PACKET", TxAckError::CollisionPacket),
            ("COLLISION_BEACON", TxAckError::CollisionBeacon),
            ("TX_FREQ", TxAckError::TxFreq),
            ("TX_POWER", TxAckError::TxPower),
            ("GPS_UNLOCKED", TxAckError::GpsUnlocked),
            ("too_late", TxAckError::TooLate),
            ("UNKNOWN", TxAckError::Unknown),
            ("SEND_LBT", TxAckError::Unknown),
            ("INTERNAL_ERROR", TxAckError::Unknown),
            ("QUEUE_FULL", TxAckError::Unknown),
        ];
        for (word, error) in cases {
            assert_eq!(
                parse(format!(r#"{{"txpk_ack":{{"error":"{word}"}}}}"#).as_bytes()),
                refused(error, word)
            );
        }
        assert_eq!(parse(br#"{"txpk_ack":{"error":5}}"#), refused(TxAckError::Unknown, "5"));
        let long = format!(r#"{{"txpk_ack":{{"error":"{}"}}}}"#, "x".repeat(500));
        assert_eq!(parse(long.as_bytes()), refused(TxAckError::Unknown, &"x".repeat(WORD_CHARS_MAX)));
    }

    /// UDP-004.
    #[test]
    fn a_warning_is_an_acceptance_that_says_what_differs() {
        let warning = |text: &str| Ok(TxAnswer::Accepted { warning: Some(text.to_owned()) });
        assert_eq!(parse(br#"{"txpk_ack":{"warn":"TX_POWER","value":27}}"#), warning("TX_POWER 27"));
        assert_eq!(parse(br#"{"txpk_ack":{"error":"NONE","warn":"TX_POWER"}}"#), warning("TX_POWER"));
        assert_eq!(parse(br#"{"txpk_ack":{"warn":"NONE"}}"#), accepted());
        assert_eq!(
            parse(br#"{"txpk_ack":{"error":"TX_FREQ","warn":"TX_POWER"}}"#),
            refused(TxAckError::TxFreq, "TX_FREQ")
        );
    }

    #[test]
    fn a_body_that_cannot_be_read_says_nothing_about_the_frame() {
        for body in [&b"{"[..], b"ok", b"[1", b"\xff", b"{\"txpk_ack\":7}", &[b'['; 1_000], &[b' '; 60_000]] {
            assert!(parse(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
        let problem = parse(format!("{:?}", "x".repeat(1_000)).as_bytes()).expect_err("a text is no TX_ACK");
        assert!(problem.len() < 256, "{problem}");
    }
}
