//! What people type: EUIs, addresses, keys, bytes, times. Each error says what is wrong with the value and what is expected;
//! a key's value is never repeated.

use std::fmt;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use crate::exit::{Failure, complain};

/// A DevEUI as 16 lower-case hexadecimal digits. Dashes, colons and `0x` of labels are taken off.
pub(crate) fn parse_dev_eui(text: &str) -> Result<String, String> {
    let digits = hex_digits("DevEUI", text, 16)?;
    refuse_zero("DevEUI", digits, "it stands on the device's label")
}

/// A gateway's EUI-64, like [`parse_dev_eui`].
pub(crate) fn parse_gateway_eui(text: &str) -> Result<String, String> {
    let digits = hex_digits("gateway EUI", text, 16)?;
    refuse_zero("gateway EUI", digits, "it is `gateway_ID` in the packet forwarder's configuration")
}

/// A JoinEUI (AppEUI on old labels). Whether all zero is one, which some devices are sold with, the server decides.
pub(crate) fn parse_join_eui(text: &str) -> Result<String, String> {
    hex_digits("JoinEUI", text, 16)
}

/// A DevAddr as 8 lower-case hexadecimal digits.
pub(crate) fn parse_dev_addr(text: &str) -> Result<String, String> {
    hex_digits("DevAddr", text, 8)
}

/// Bytes as hexadecimal digits, with or without spaces, dashes or colons between them.
pub(crate) fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits = without_separators(text);
    if let Some((position, wrong)) = first_wrong_digit(&digits) {
        return Err(format!("character {position}, {wrong:?}, is not a hexadecimal digit"));
    }
    hex::decode(&digits)
        .map_err(|_| format!("{} hexadecimal digits are an odd number; one is missing", digits.len()))
}

/// Bytes as hexadecimal digits or as base64. What can be read as hexadecimal is.
pub(crate) fn parse_bytes(text: &str) -> Result<Vec<u8>, String> {
    let hex_error = match parse_hex(text) {
        Ok(bytes) => return Ok(bytes),
        Err(error) => error,
    };
    let compact: String = text.split_whitespace().collect();
    if first_wrong_digit(&without_separators(text)).is_none() {
        return Err(hex_error);
    }
    parse_base64(&compact).map_err(|_| format!("neither hexadecimal ({hex_error}) nor base64"))
}

/// Bytes as base64, standard or URL-safe, padded or not.
pub(crate) fn parse_base64(text: &str) -> Result<Vec<u8>, String> {
    [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
        .iter()
        .find_map(|engine| engine.decode(text).ok())
        .ok_or_else(|| "not base64".to_owned())
}

/// A span of time in microseconds: a number with `s`, `m`, `h` or `d`.
pub(crate) fn parse_span_us(text: &str) -> Result<i64, String> {
    let expected = || format!("{text:?} is not a span of time; write it like 90s, 15m, 2h or 7d");
    let text_trimmed = text.trim();
    let unit = text_trimmed.chars().last().ok_or_else(expected)?;
    let unit_us: i64 = match unit {
        's' => 1_000_000,
        'm' => 60_000_000,
        'h' => 3_600_000_000,
        'd' => 86_400_000_000,
        _ => return Err(expected()),
    };
    let digits = text_trimmed.strip_suffix(unit).unwrap_or(text_trimmed);
    let number: u32 = digits.parse().map_err(|_| expected())?;
    if number == 0 {
        return Err(format!("{text:?} is over at once; write it like 90s, 15m, 2h or 7d"));
    }
    i64::from(number).checked_mul(unit_us).ok_or_else(expected)
}

/// A point in time, microseconds since the Unix epoch.
pub(crate) fn parse_time_us(text: &str) -> Result<i64, String> {
    jiff::Timestamp::from_str(text.trim()).map(jiff::Timestamp::as_microsecond).map_err(|_| {
        format!("{text:?} is not a time; write it like 2027-03-01T06:00:00Z or with an offset like +02:00")
    })
}

/// A tag, `name=value`.
pub(crate) fn parse_tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("{text:?} is not a tag; write it like field=north")),
    }
}

/// A key or another secret on the command line: itself, `-` for a line of standard input, or `@FILE`.
///
/// What stands on a command line is seen by everyone on the machine (`ps`) and kept in the shell's history; the two other
/// forms avoid that.
#[derive(Clone)]
pub(crate) enum Secret {
    /// The first line of this file.
    File(PathBuf),
    /// The value.
    Literal(String),
    /// The next line of standard input.
    Stdin,
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.strip_prefix('@') {
            Some(path) => Self::File(PathBuf::from(path)),
            None if text == "-" => Self::Stdin,
            None => Self::Literal(text.to_owned()),
        })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "Secret(@{})", path.display()),
            Self::Literal(_) => f.write_str("Secret(…)"),
            Self::Stdin => f.write_str("Secret(-)"),
        }
    }
}

impl Secret {
    /// Reads the secret. `name` is how the option is called in errors.
    pub(crate) fn read(&self, name: &str) -> Result<String, Failure> {
        match self {
            Self::Literal(value) => Ok(value.clone()),
            Self::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    Failure::usage(format!("{name}: {} cannot be read: {error}", path.display()))
                })?;
                Ok(text.lines().next().unwrap_or("").trim().to_owned())
            }
            Self::Stdin => {
                let mut line = String::new();
                if std::io::stdin().is_terminal() {
                    complain(&format!("{name}: type it and press Enter"));
                }
                std::io::stdin().lock().read_line(&mut line).map_err(|error| {
                    Failure::usage(format!("{name}: standard input cannot be read: {error}"))
                })?;
                if line.is_empty() {
                    return Err(Failure::usage(format!("{name}: standard input has no line for it")));
                }
                Ok(line.trim().to_owned())
            }
        }
    }

    /// Reads a 128-bit key: 32 hexadecimal digits, lower case when it returns.
    pub(crate) fn read_key(&self, name: &str) -> Result<String, Failure> {
        let text = self.read(name)?;
        parse_key(&text).map_err(|error| Failure::usage(format!("{name}: {error}")))
    }
}

/// Checks a 128-bit key without ever showing it.
pub(crate) fn parse_key(text: &str) -> Result<String, String> {
    let digits = without_separators(text);
    if let Some((position, _)) = first_wrong_digit(&digits) {
        return Err(format!("character {position} of the key is not a hexadecimal digit"));
    }
    if digits.len() != 32 {
        return Err(format!("the key has {} hexadecimal digits, 32 are needed", digits.len()));
    }
    if digits.bytes().all(|digit| digit == b'0') {
        return Err("the all-zero key protects nothing; take the one of the device".to_owned());
    }
    Ok(digits.to_ascii_lowercase())
}

fn hex_digits(what: &str, text: &str, expected: usize) -> Result<String, String> {
    let digits = without_separators(text);
    if digits.is_empty() {
        return Err(format!("the {what} is empty, {expected} hexadecimal digits are needed"));
    }
    if let Some((position, wrong)) = first_wrong_digit(&digits) {
        return Err(format!(
            "character {position} of the {what}, {wrong:?}, is not a hexadecimal digit (0-9, a-f)"
        ));
    }
    if digits.len() != expected {
        let odd = if digits.len().is_multiple_of(2) { "" } else { " (an odd number)" };
        return Err(format!("the {what} has {} hexadecimal digits{odd}, {expected} are needed", digits.len()));
    }
    Ok(digits.to_ascii_lowercase())
}

fn refuse_zero(what: &str, digits: String, whence: &str) -> Result<String, String> {
    if digits.bytes().all(|digit| digit == b'0') {
        return Err(format!("the all-zero {what} names nothing; {whence}"));
    }
    Ok(digits)
}

fn without_separators(text: &str) -> String {
    let text = text.trim();
    let text = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    text.chars().filter(|c| !matches!(c, '-' | ':' | ' ')).collect()
}

/// The first character that is no hexadecimal digit, counted from 1.
fn first_wrong_digit(digits: &str) -> Option<(usize, char)> {
    (1..).zip(digits.chars()).find(|(_, c)| !c.is_ascii_hexdigit())
}

/// Keys read for one command, in the order of the options: several `-` take one line of standard input each.
pub(crate) fn read_optional_key(secret: Option<&Secret>, name: &str) -> Result<String, Failure> {
    secret.map_or_else(|| Ok(String::new()), |secret| secret.read_key(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_eui_is_taken_in_the_forms_found_on_labels() {
        for text in
            ["70B3D57ED0000001", "70-b3-d5-7e-d0-00-00-01", "0x70b3d57ed0000001", " 70:B3:D5:7E:D0:00:00:01 "]
        {
            assert_eq!(parse_dev_eui(text).unwrap(), "70b3d57ed0000001");
        }
    }

    #[test]
    fn a_malformed_eui_is_refused_with_what_is_wrong_with_it() {
        for (text, word) in [
            ("70b3d57ed00000", "has 14 hexadecimal digits, 16"),
            ("70b3d57ed000001", "odd number"),
            ("70b3d57ed000000g", "character 16"),
            ("0000000000000000", "all-zero"),
            ("", "empty"),
            ("70b3d57ed00000010", "17"),
        ] {
            let error = parse_dev_eui(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(parse_join_eui("0000000000000000").is_ok());
    }

    #[test]
    fn a_refused_key_is_never_repeated() {
        for text in [
            "00112233445566778899aabbccddee",
            "00112233445566778899aabbccddeeff0",
            "00112233445566778899aabbccddeefz",
            "00000000000000000000000000000000",
            "",
        ] {
            let error = parse_key(text).unwrap_err();
            assert!(text.len() < 8 || !error.contains(text), "{error}");
            assert!(!error.contains("001122"), "{error}");
        }
        let secret: Secret = "00112233445566778899aabbccddeeff".parse().unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn bytes_are_read_as_hexadecimal_before_base64() {
        assert_eq!(parse_bytes("0A ff").unwrap(), [0x0a, 0xff]);
        assert_eq!(parse_bytes("Cv8=").unwrap(), [0x0a, 0xff]);
        assert_eq!(parse_bytes("-_8").unwrap(), [0xfb, 0xff]);
        assert!(parse_bytes("abc").unwrap_err().contains("odd"));
        assert!(parse_bytes("what?").unwrap_err().contains("base64"));
    }

    #[test]
    fn a_span_needs_a_unit() {
        assert_eq!(parse_span_us("2h").unwrap(), 7_200_000_000);
        for text in ["2", "h", "", "0s", "-1s", "2w", "é"] {
            assert!(parse_span_us(text).is_err(), "{text}");
        }
    }
}
