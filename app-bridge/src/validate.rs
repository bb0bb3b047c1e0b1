//! Reads what people type into requests. Every refusal names the field, what is wrong with the value, and what is right.

use std::str::FromStr;

use mac::ids::{DevAddr, DevEui, GatewayEui, JoinEui};
use tonic::Status;

/// A DevEUI; all zeros is refused.
pub(crate) fn dev_eui(field: &str, text: &str) -> Result<u64, Status> {
    eui::<DevEui>(field, text, "as printed on the device's label").map(DevEui::value)
}

/// A JoinEUI; all zeros is refused.
pub(crate) fn join_eui(field: &str, text: &str) -> Result<u64, Status> {
    eui::<JoinEui>(field, text, "as printed on the device's label (AppEUI on older ones)").map(JoinEui::value)
}

/// A gateway's EUI; all zeros is refused.
pub(crate) fn gateway_eui(field: &str, text: &str) -> Result<u64, Status> {
    eui::<GatewayEui>(field, text, "as in `gateway_ID` of the packet forwarder's configuration")
        .map(GatewayEui::value)
}

/// A DevAddr, 8 hexadecimal digits.
pub(crate) fn dev_addr(field: &str, text: &str) -> Result<u32, Status> {
    hex_digits(field, text, 8, "most significant first")?;
    DevAddr::from_str(text).map(DevAddr::value).map_err(|error| invalid(field, error))
}

/// A key of 32 hexadecimal digits; all zeros is refused. The value never appears in the message.
pub(crate) fn key<K: FromStr<Err = mac::keys::KeyError>>(field: &str, text: &str) -> Result<K, Status> {
    text.parse().map_err(|error: mac::keys::KeyError| invalid(field, error))
}

/// The name of an application, profile or codec in the API: 1 to 64 of a-z, 0-9 and "-", the first a letter.
pub(crate) fn slug(field: &str, text: &str) -> Result<(), Status> {
    if text.is_empty() {
        return Err(invalid(field, format!("is empty; {SLUG_RULE}")));
    }
    if text.len() > 64 {
        return Err(invalid(field, format!("has {} characters; {SLUG_RULE}", text.chars().count())));
    }
    if let Some((index, bad)) =
        text.chars().enumerate().find(|(_, c)| !matches!(c, 'a'..='z' | '0'..='9' | '-'))
    {
        return Err(invalid(
            field,
            format!(
                "`{}` at character {} of `{text}`; {SLUG_RULE}",
                bad.escape_default(),
                index.saturating_add(1)
            ),
        ));
    }
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(invalid(field, format!("`{text}` does not start with a letter; {SLUG_RULE}")));
    }
    Ok(())
}

/// A name for people: up to 128 characters, none of them a control character.
pub(crate) fn display_name(field: &str, text: &str) -> Result<(), Status> {
    bounded_text(field, text, NAME_CHARS_MAX)
}

/// The tags of a device.
pub(crate) fn tags<'a>(tags: impl ExactSizeIterator<Item = (&'a String, &'a String)>) -> Result<(), Status> {
    if tags.len() > TAGS_MAX {
        return Err(invalid("tags", format!("{} tags; a device has up to {TAGS_MAX}", tags.len())));
    }
    for (key, value) in tags {
        if key.is_empty() {
            return Err(invalid("tags", "a tag without a name"));
        }
        bounded_text("tags", key, TAG_KEY_CHARS_MAX)?;
        bounded_text("tags", value, TAG_VALUE_CHARS_MAX)?;
    }
    Ok(())
}

/// A consumer's name: 1 to 64 of letters, digits, ".", "_", "-" and "/".
pub(crate) fn consumer(field: &str, text: &str) -> Result<(), Status> {
    const RULE: &str = "a consumer's name is 1 to 64 of a-z, A-Z, 0-9, `.`, `_`, `-` and `/`";
    if text.is_empty() || text.len() > 64 {
        return Err(invalid(field, format!("has {} characters; {RULE}", text.chars().count())));
    }
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/'))) {
        Some(bad) => Err(invalid(field, format!("`{}` in the name; {RULE}", bad.escape_default()))),
        None => Ok(()),
    }
}

/// The number of items of a page: 0 stands for 100.
pub(crate) fn page_size(asked: u32) -> Result<u32, Status> {
    match asked {
        0 => Ok(PAGE_SIZE_DEFAULT),
        1..=PAGE_SIZE_MAX => Ok(asked),
        _ => Err(invalid("page_size", format!("{asked} is above {PAGE_SIZE_MAX}; ask for several pages"))),
    }
}

/// A page token that is hexadecimal digits of a number; empty is the start.
pub(crate) fn page_token_number(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    u64::from_str_radix(text, 16)
        .map(Some)
        .map_err(|_| invalid("page_token", "is none of this server's; pass back `next_page_token` unchanged"))
}

/// A page token that is an id; empty is the start.
pub(crate) fn page_token_id(text: &str) -> Result<&str, Status> {
    match text {
        _ if text.len() <= 128 => Ok(text),
        _ => Err(invalid("page_token", "is none of this server's; pass back `next_page_token` unchanged")),
    }
}

/// The part of a request that must be there.
pub(crate) fn required<T>(field: &str, value: Option<T>) -> Result<T, Status> {
    value.ok_or_else(|| invalid(field, "is missing"))
}

/// A refusal that names the field.
pub(crate) fn invalid(field: &str, problem: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {problem}"))
}

fn eui<E>(field: &str, text: &str, place: &str) -> Result<E, Status>
where
    E: FromStr<Err = mac::ids::IdError> + Default + Eq,
{
    hex_digits(field, text, 16, place)?;
    let value = text.parse::<E>().map_err(|error| invalid(field, error))?;
    if value == E::default() {
        return Err(invalid(field, format!("is all zeros, which is a placeholder; take it {place}")));
    }
    Ok(value)
}

fn hex_digits(field: &str, text: &str, digits: usize, place: &str) -> Result<(), Status> {
    if let Some((index, bad)) = text.chars().enumerate().find(|(_, c)| !c.is_ascii_hexdigit()) {
        let bad = bad.escape_default();
        return Err(invalid(
            field,
            format!(
                "`{bad}` at character {} is not a hexadecimal digit; {digits} digits without separators are expected, {place}",
                index.saturating_add(1)
            ),
        ));
    }
    if text.len() != digits {
        return Err(invalid(
            field,
            format!("has {} characters; {digits} hexadecimal digits are expected, {place}", text.len()),
        ));
    }
    Ok(())
}

fn bounded_text(field: &str, text: &str, chars_max: usize) -> Result<(), Status> {
    let count = text.chars().count();
    if count > chars_max {
        return Err(invalid(field, format!("has {count} characters; up to {chars_max} fit")));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(field, "has a control character in it"));
    }
    Ok(())
}

const SLUG_RULE: &str = "an id is 1 to 64 of a-z, 0-9 and `-`, and starts with a letter";
const PAGE_SIZE_DEFAULT: u32 = 100;
const PAGE_SIZE_MAX: u32 = 1000;
const NAME_CHARS_MAX: usize = 128;
const TAGS_MAX: usize = 32;
const TAG_KEY_CHARS_MAX: usize = 64;
const TAG_VALUE_CHARS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words<T: std::fmt::Debug>(result: Result<T, Status>) -> String {
        let status = result.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        status.message().to_owned()
    }

    #[test]
    fn a_malformed_eui_is_refused_with_its_length_or_its_bad_character() {
        assert_eq!(dev_eui("dev_eui", "70B3D57ED0001234").unwrap(), 0x70b3_d57e_d000_1234);
        assert!(words(dev_eui("dev_eui", "70b3d57ed")).starts_with("dev_eui: has 9 characters; 16"));
        assert!(words(dev_eui("dev_eui", "")).contains("has 0 characters"));
        assert!(words(dev_eui("dev_eui", "70b3d57ed000123")).contains("has 15 characters"));
        assert!(words(dev_eui("dev_eui", "70:b3:d5:7e:d0:00:12:34")).contains("`:` at character 3"));
        assert!(words(dev_eui("dev_eui", "0x70b3d57ed00012")).contains("`x` at character 2"));
        assert!(words(dev_eui("dev_eui", "0000000000000000")).contains("all zeros"));
        assert!(words(gateway_eui("gateway_eui", "+0b3d57ed0001234")).contains("`+` at character 1"));
    }

    #[test]
    fn a_malformed_key_is_refused_without_being_shown() {
        let message = words(key::<mac::keys::AppKey>("keys.app_key", "2b7e151628aed2a6abf7158809cf4f3"));
        assert!(message.starts_with("keys.app_key: "), "{message}");
        assert!(message.contains("31 characters") && !message.contains("2b7e"), "{message}");
        assert!(words(key::<mac::keys::AppKey>("keys.app_key", &"0".repeat(32))).contains("all zeros"));
    }

    #[test]
    fn an_id_is_short_and_plain() {
        slug("id", "north-field-7").unwrap();
        for bad in ["", "North", "7fields", "-a", "a_b", "ä", &"a".repeat(65)] {
            assert!(words(slug("id", bad)).contains("1 to 64"), "{bad}");
        }
    }

    #[test]
    fn a_page_has_a_limit() {
        assert_eq!(page_size(0).unwrap(), 100);
        assert_eq!(page_size(1000).unwrap(), 1000);
        assert!(words(page_size(1001)).contains("above 1000"));
        assert!(words(page_token_number("../etc")).contains("next_page_token"));
    }
}
