//! Small conversions between Rust and SQLite.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::StoreError;

const TOP_BIT: u64 = 1 << 63;

/// A 64-bit identifier as SQLite keeps it: signed order of the result is unsigned order of the identifier.
pub(crate) fn key(id: u64) -> i64 {
    (id ^ TOP_BIT).cast_signed()
}

/// The reverse of [`key`].
pub(crate) fn id(key: i64) -> u64 {
    key.cast_unsigned() ^ TOP_BIT
}

/// A sequence, position or size as SQLite keeps it. They start at 0 and do not reach 2^63; one that did would be held there.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The reverse of [`int`]; a negative number, which nobody writes, reads as 0.
pub(crate) fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A number that SQLite computed. Beyond 64 bits it is no integer any more, which only a damaged row brings about.
pub(crate) fn computed(row: &SqliteRow, index: usize, what: &'static str) -> Result<u64, StoreError> {
    row.try_get(index).map(uint).map_err(|_| StoreError::Damaged { what })
}

/// A 32-bit number read back; one out of range, which nobody writes, is held at the end of the range.
pub(crate) fn uint32(value: i64) -> u32 {
    u32::try_from(value.max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_keys_is_the_order_of_identifiers_as_printed() {
        let ids = [0, 1, 0x70b3_d57e_d000_0001, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX];
        let keys = ids.map(key);
        assert!(keys.is_sorted());
        assert_eq!(keys.map(id), ids);
    }
}
