//! The opaque cursor of the event stream.
//!
//! Inside is a version byte and a vector of (shard, position): each shard of the log has one writer, so a position in
//! each says exactly which events a consumer has. The embedded store has one shard.

/// Length of the cursors made here, bytes.
pub(crate) const CURSOR_LEN: usize = 12;

const VERSION: u8 = 1;
const SHARD: u16 = 0;

/// The cursor of everything up to and including the sequence `position`.
pub(crate) fn encode(position: u64) -> [u8; CURSOR_LEN] {
    let [s0, s1] = SHARD.to_be_bytes();
    let [p0, p1, p2, p3, p4, p5, p6, p7] = position.to_be_bytes();
    [VERSION, 1, s0, s1, p0, p1, p2, p3, p4, p5, p6, p7]
}

/// Why bytes are no cursor.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum CursorError {
    #[error(
        "cursor has {0} bytes and was not made by this server; pass back the bytes of a WatchResponse unchanged"
    )]
    Malformed(usize),
    #[error(
        "cursor is of version {0} and this server reads version {VERSION}; start the stream from `committed` or `earliest`"
    )]
    UnknownVersion(u8),
}

/// The position inside a cursor.
pub(crate) fn decode(bytes: &[u8]) -> Result<u64, CursorError> {
    let malformed = CursorError::Malformed(bytes.len());
    let Some((&version, rest)) = bytes.split_first() else {
        return Err(malformed);
    };
    if version != VERSION {
        return Err(if bytes.len() == CURSOR_LEN { CursorError::UnknownVersion(version) } else { malformed });
    }
    let Some(([1, s0, s1], position)) = rest.split_first_chunk::<3>() else {
        return Err(malformed);
    };
    if u16::from_be_bytes([*s0, *s1]) != SHARD {
        return Err(malformed);
    }
    match <[u8; 8]>::try_from(position).map(u64::from_be_bytes) {
        // Positions are stored as signed 64-bit numbers.
        Ok(position) if i64::try_from(position).is_ok() => Ok(position),
        Ok(_) | Err(_) => Err(malformed),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_cursor_carries_its_position() {
        for position in [0, 1, 77, u64::from(u32::MAX) + 1, i64::MAX as u64] {
            assert_eq!(decode(&encode(position)), Ok(position));
        }
    }

    proptest::proptest! {
        #[test]
        fn every_position_that_can_be_stored_comes_back(position in 0..=i64::MAX as u64, other in proptest::prelude::any::<u64>()) {
            assert_eq!(decode(&encode(position)), Ok(position));
            assert_eq!(decode(&encode(other)).ok(), i64::try_from(other).is_ok().then_some(other));
        }
    }

    #[test]
    fn bytes_of_strangers_are_no_cursor() {
        let good = encode(5);
        assert_eq!(decode(&[]), Err(CursorError::Malformed(0)));
        for len in 1..good.len() {
            assert_eq!(decode(&good[..len]), Err(CursorError::Malformed(len)));
        }
        let mut long = good.to_vec();
        long.push(0);
        assert_eq!(decode(&long), Err(CursorError::Malformed(13)));
        for (index, value) in [(1, 2), (2, 1), (3, 9), (4, 0xff)] {
            let mut bad = good;
            bad[index] = value;
            assert_eq!(decode(&bad), Err(CursorError::Malformed(12)), "byte {index}");
        }
        let mut future = good;
        future[0] = 2;
        assert_eq!(decode(&future), Err(CursorError::UnknownVersion(2)));
    }
}
