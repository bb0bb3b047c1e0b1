//! The versions of the link layer and of the regional parameters.

use std::fmt;
use std::str::FromStr;

/// A text names no version that is known.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{value}` is not a {what}; known are {known}")]
pub struct VersionError {
    what: &'static str,
    value: String,
    known: String,
}

/// The LoRaWAN link-layer version a device was built for, oldest first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[allow(missing_docs, reason = "the names are the versions")]
pub enum MacVersion {
    V1_0_0,
    V1_0_1,
    V1_0_2,
    V1_0_3,
    V1_0_4,
    V1_1_0,
}

impl MacVersion {
    /// Every version, oldest first.
    pub const ALL: &[Self] =
        &[Self::V1_0_0, Self::V1_0_1, Self::V1_0_2, Self::V1_0_3, Self::V1_0_4, Self::V1_1_0];

    /// Whether the device has two root keys and knows the 1.1 session keys.
    pub const fn is_1_1(self) -> bool {
        matches!(self, Self::V1_1_0)
    }

    /// Whether DevNonce is a counter that must rise (TS001-1.0.4 §6.2.5); before, it is any value not used yet.
    pub fn dev_nonce_is_counter(self) -> bool {
        self >= Self::V1_0_4
    }

    /// Whether a jump of the uplink counter by `MAX_FCNT_GAP` or more refuses the frame.
    pub fn has_max_fcnt_gap(self) -> bool {
        self <= Self::V1_0_3
    }

    /// Whether data rate 15 and power 15 in `LinkADRReq` mean "leave as it is".
    pub fn keep_index_15(self) -> bool {
        self >= Self::V1_0_4
    }

    /// The number of the version in `loam.v1.MacVersion`.
    pub const fn number(self) -> i32 {
        match self {
            Self::V1_0_0 => 1,
            Self::V1_0_1 => 2,
            Self::V1_0_2 => 3,
            Self::V1_0_3 => 4,
            Self::V1_0_4 => 5,
            Self::V1_1_0 => 6,
        }
    }

    /// The version with that number in `loam.v1.MacVersion`; `None` for 0 and for numbers that are not known.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|version| version.number() == number)
    }

    const fn text(self) -> &'static str {
        match self {
            Self::V1_0_0 => "1.0.0",
            Self::V1_0_1 => "1.0.1",
            Self::V1_0_2 => "1.0.2",
            Self::V1_0_3 => "1.0.3",
            Self::V1_0_4 => "1.0.4",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for MacVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl FromStr for MacVersion {
    type Err = VersionError;

    /// Reads `1.0.0` to `1.1.0`; `1.1` is 1.1.0.
    fn from_str(text: &str) -> Result<Self, VersionError> {
        if text == "1.1" {
            return Ok(Self::V1_1_0);
        }
        find(Self::ALL, Self::text, text, "LoRaWAN version")
    }
}

/// The revision of the regional parameters a device was built for, oldest first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[allow(missing_docs, reason = "the names are the revisions")]
pub enum RegionalRevision {
    Ts001_1_0_1,
    Rp001_1_0_2,
    Rp001_1_0_2B,
    Rp001_1_0_3A,
    Rp001_1_1A,
    Rp001_1_1B,
    Rp002_1_0_0,
    Rp002_1_0_1,
    Rp002_1_0_2,
    Rp002_1_0_3,
    Rp002_1_0_4,
    Rp002_1_0_5,
}

impl RegionalRevision {
    /// Every revision, oldest first.
    pub const ALL: &[Self] = &[
        Self::Ts001_1_0_1,
        Self::Rp001_1_0_2,
        Self::Rp001_1_0_2B,
        Self::Rp001_1_0_3A,
        Self::Rp001_1_1A,
        Self::Rp001_1_1B,
        Self::Rp002_1_0_0,
        Self::Rp002_1_0_1,
        Self::Rp002_1_0_2,
        Self::Rp002_1_0_3,
        Self::Rp002_1_0_4,
        Self::Rp002_1_0_5,
    ];

    /// The number of the revision in `loam.v1.RegionalRevision`.
    pub const fn number(self) -> i32 {
        match self {
            Self::Ts001_1_0_1 => 1,
            Self::Rp001_1_0_2 => 2,
            Self::Rp001_1_0_2B => 3,
            Self::Rp001_1_0_3A => 4,
            Self::Rp001_1_1A => 5,
            Self::Rp001_1_1B => 6,
            Self::Rp002_1_0_0 => 7,
            Self::Rp002_1_0_1 => 8,
            Self::Rp002_1_0_2 => 9,
            Self::Rp002_1_0_3 => 10,
            Self::Rp002_1_0_4 => 11,
            Self::Rp002_1_0_5 => 12,
        }
    }

    /// The revision with that number in `loam.v1.RegionalRevision`; `None` for 0 and for numbers that are not known.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|revision| revision.number() == number)
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Ts001_1_0_1 => "TS001-1.0.1",
            Self::Rp001_1_0_2 => "RP001-1.0.2",
            Self::Rp001_1_0_2B => "RP001-1.0.2-B",
            Self::Rp001_1_0_3A => "RP001-1.0.3-A",
            Self::Rp001_1_1A => "RP001-1.1-A",
            Self::Rp001_1_1B => "RP001-1.1-B",
            Self::Rp002_1_0_0 => "RP002-1.0.0",
            Self::Rp002_1_0_1 => "RP002-1.0.1",
            Self::Rp002_1_0_2 => "RP002-1.0.2",
            Self::Rp002_1_0_3 => "RP002-1.0.3",
            Self::Rp002_1_0_4 => "RP002-1.0.4",
            Self::Rp002_1_0_5 => "RP002-1.0.5",
        }
    }
}

impl fmt::Display for RegionalRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl FromStr for RegionalRevision {
    type Err = VersionError;

    /// Reads `RP001-1.0.3-A` and the like, upper or lower case.
    fn from_str(text: &str) -> Result<Self, VersionError> {
        find(Self::ALL, Self::text, text, "regional parameters revision")
    }
}

fn find<T: Copy>(
    all: &[T],
    name: impl Fn(T) -> &'static str,
    text: &str,
    what: &'static str,
) -> Result<T, VersionError> {
    all.iter().copied().find(|&candidate| name(candidate).eq_ignore_ascii_case(text)).ok_or_else(|| {
        VersionError {
            what,
            value: text.chars().take(VALUE_CHARS_MAX).collect(),
            known: all.iter().map(|&candidate| name(candidate)).collect::<Vec<_>>().join(", "),
        }
    })
}

const VALUE_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_version_survives_its_text_and_its_number() {
        for &version in MacVersion::ALL {
            assert_eq!(version.to_string().parse::<MacVersion>().unwrap(), version);
            assert_eq!(MacVersion::from_number(version.number()), Some(version));
        }
        for &revision in RegionalRevision::ALL {
            assert_eq!(revision.to_string().to_lowercase().parse::<RegionalRevision>().unwrap(), revision);
            assert_eq!(RegionalRevision::from_number(revision.number()), Some(revision));
        }
        assert_eq!(MacVersion::from_number(0), None);
        assert_eq!(RegionalRevision::from_number(13), None);
    }

    #[test]
    fn an_unknown_version_is_refused_with_the_known_ones() {
        let error = "1.2".parse::<MacVersion>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`1.2` is not a LoRaWAN version; known are 1.0.0, 1.0.1, 1.0.2, 1.0.3, 1.0.4, 1.1.0"
        );
        assert!("".parse::<RegionalRevision>().is_err());
    }

    #[test]
    fn the_rules_change_with_1_0_4() {
        assert!(!MacVersion::V1_0_3.dev_nonce_is_counter());
        assert!(MacVersion::V1_0_4.dev_nonce_is_counter());
        assert!(MacVersion::V1_0_3.has_max_fcnt_gap());
        assert!(!MacVersion::V1_0_4.has_max_fcnt_gap());
        assert!(!MacVersion::V1_0_3.keep_index_15());
        assert!(MacVersion::V1_1_0.keep_index_15());
    }
}
