//! The words people type and read for the enums of the API.

use proto::v1::{DownlinkState, EventKind, MacVersion, Region, RegionalRevision};

/// Regions with their names in the regional parameters.
pub(crate) const REGIONS: &[(&str, Region)] = &[
    ("EU868", Region::Eu868),
    ("US915", Region::Us915),
    ("AU915", Region::Au915),
    ("AS923-1", Region::As9231),
    ("IN865", Region::In865),
];

/// LoRaWAN link-layer versions.
pub(crate) const MAC_VERSIONS: &[(&str, MacVersion)] = &[
    ("1.0.0", MacVersion::MacVersion100),
    ("1.0.1", MacVersion::MacVersion101),
    ("1.0.2", MacVersion::MacVersion102),
    ("1.0.3", MacVersion::MacVersion103),
    ("1.0.4", MacVersion::MacVersion104),
    ("1.1.0", MacVersion::MacVersion110),
];

/// Revisions of the regional parameters.
pub(crate) const REVISIONS: &[(&str, RegionalRevision)] = &[
    ("TS001-1.0.1", RegionalRevision::Ts001101),
    ("RP001-1.0.2", RegionalRevision::Rp001102),
    ("RP001-1.0.2-B", RegionalRevision::Rp001102RevB),
    ("RP001-1.0.3-A", RegionalRevision::Rp001103RevA),
    ("RP001-1.1-A", RegionalRevision::Rp00111RevA),
    ("RP001-1.1-B", RegionalRevision::Rp00111RevB),
    ("RP002-1.0.0", RegionalRevision::Rp002100),
    ("RP002-1.0.1", RegionalRevision::Rp002101),
    ("RP002-1.0.2", RegionalRevision::Rp002102),
    ("RP002-1.0.3", RegionalRevision::Rp002103),
    ("RP002-1.0.4", RegionalRevision::Rp002104),
    ("RP002-1.0.5", RegionalRevision::Rp002105),
];

/// Kinds of events.
pub(crate) const EVENT_KINDS: &[(&str, EventKind)] = &[
    ("uplink", EventKind::Uplink),
    ("receptions", EventKind::Receptions),
    ("join", EventKind::Join),
    ("downlink", EventKind::Downlink),
    ("device-status", EventKind::DeviceStatus),
    ("gateway", EventKind::Gateway),
    ("error", EventKind::Error),
];

/// States of a downlink.
pub(crate) const DOWNLINK_STATES: &[(&str, DownlinkState)] = &[
    ("queued", DownlinkState::Queued),
    ("leased", DownlinkState::Leased),
    ("sent", DownlinkState::Sent),
    ("gateway-acknowledged", DownlinkState::GatewayAcknowledged),
    ("device-acknowledged", DownlinkState::DeviceAcknowledged),
    ("expired", DownlinkState::Expired),
    ("cancelled", DownlinkState::Cancelled),
    ("failed", DownlinkState::Failed),
    ("unknown", DownlinkState::Unknown),
    ("deferred", DownlinkState::Deferred),
];

/// Parses one of the words, whatever its case. The error lists what could be meant.
pub(crate) fn parse<T: Copy>(what: &str, table: &[(&'static str, T)], text: &str) -> Result<T, String> {
    let wanted = text.trim();
    if let Some((_, value)) = table.iter().find(|(word, _)| word.eq_ignore_ascii_case(wanted)) {
        return Ok(*value);
    }
    let known: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
    let near = nearest(&wanted.to_uppercase(), known.iter().map(|w| (w.to_uppercase(), *w)));
    let near = near.map_or_else(String::new, |word| format!("; do you mean {word}?"));
    Err(format!("{what} {wanted:?} is not known{near} (known: {})", known.join(", ")))
}

/// The word for the number of an enum in a message; the number itself when a newer server sends one this program has no word for.
pub(crate) fn word<T: Copy + Into<i32>>(table: &[(&'static str, T)], number: i32) -> String {
    match table.iter().find(|(_, value)| (*value).into() == number) {
        Some((word, _)) => (*word).to_owned(),
        None if number == 0 => String::new(),
        None => number.to_string(),
    }
}

/// The known word nearest to one that was typed, if it is near enough to be a slip of the fingers.
pub(crate) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = (String, &'a str)>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|(folded, word)| (strsim::normalized_damerau_levenshtein(typed, &folded), word))
        .filter(|(similarity, _)| *similarity >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

/// Parsers for clap.
pub(crate) fn parse_region(text: &str) -> Result<Region, String> {
    if text.trim().eq_ignore_ascii_case("AS923") {
        return Ok(Region::As9231);
    }
    parse("region", REGIONS, text)
}

pub(crate) fn parse_mac_version(text: &str) -> Result<MacVersion, String> {
    if text.trim() == "1.1" {
        return Ok(MacVersion::MacVersion110);
    }
    parse("LoRaWAN version", MAC_VERSIONS, text)
}

pub(crate) fn parse_revision(text: &str) -> Result<RegionalRevision, String> {
    parse("regional revision", REVISIONS, text)
}

pub(crate) fn parse_event_kind(text: &str) -> Result<EventKind, String> {
    parse("event kind", EVENT_KINDS, &text.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_word_is_known_in_any_case_and_comes_back_as_printed() {
        assert_eq!(parse_region("eu868").unwrap(), Region::Eu868);
        assert_eq!(word(REGIONS, Region::As9231 as i32), "AS923-1");
        assert_eq!(parse_mac_version("1.1").unwrap(), MacVersion::MacVersion110);
    }

    #[test]
    fn a_slip_is_answered_with_the_nearest_word_and_all_of_them() {
        let error = parse_region("EU686").unwrap_err();
        assert!(error.contains("do you mean EU868?"), "{error}");
        assert!(error.contains("AS923-1"), "{error}");
    }

    #[test]
    fn every_value_of_the_api_has_a_word() {
        for number in 1..64 {
            if Region::try_from(number).is_ok() {
                assert!(REGIONS.iter().any(|(_, v)| *v as i32 == number));
            }
            if MacVersion::try_from(number).is_ok() {
                assert!(MAC_VERSIONS.iter().any(|(_, v)| *v as i32 == number));
            }
            if RegionalRevision::try_from(number).is_ok() {
                assert!(REVISIONS.iter().any(|(_, v)| *v as i32 == number));
            }
            if EventKind::try_from(number).is_ok() {
                assert!(EVENT_KINDS.iter().any(|(_, v)| *v as i32 == number));
            }
            if DownlinkState::try_from(number).is_ok() {
                assert!(DOWNLINK_STATES.iter().any(|(_, v)| *v as i32 == number));
            }
        }
    }
}
