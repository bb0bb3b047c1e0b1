//! Points at which the process ends itself, as a power cut would.

/// Every crash point: `AREA.OBJECT.MOMENT`, in alphabetical order. The killer ends the real binary at each of them.
pub const CRASH_POINTS: &[&str] = &[
    "bridge.admin_key.file_written",
    "bridge.consumer.acknowledged",
    "bridge.consumer.introduced",
    "bridge.device.told",
    "bridge.device.written",
    "bridge.downlink.cancelled",
    "bridge.downlink.enqueued",
    "bridge.downlink.updated",
    "bridge.follow.before_write",
    "bridge.follow.written",
    "bridge.lease.answered",
    "bridge.lease.written",
    "bridge.session.key_written",
    "bridge.state.announced",
    "bridge.state.before_announcement",
    "join.answer.before_commit",
    "join.answer.committed",
    "network.device.deleted",
    "network.device.written",
    "network.downlink.before_note",
    "network.downlink.before_payload",
    "network.downlink.noted",
    "network.downlink.outcome_known",
    "network.downlink.payload_taken",
    "network.downlink.told",
    "network.join.before_commit",
    "network.join.before_send",
    "network.join.committed",
    "network.join.sent",
    "network.pull_resp.before_send",
    "network.pull_resp.sent",
    "network.session.activated",
    "network.uplink.committed",
    "store.checkpoint.before_move",
    "store.checkpoint.between",
    "store.checkpoint.moved",
    "store.close.before_stamp",
    "store.close.stamped",
    "store.file.before_rename",
    "store.journal.before_write",
    "store.journal.effects_left",
    "store.journal.head_moved",
    "store.journal.written",
    "store.open.epoch_risen",
    "store.open.keys_made",
    "store.open.migrated",
    "store.open.stamped",
    "store.retention.before_removal",
    "store.retention.removed",
    "store.stamp.before_write",
    "store.stamp.written",
    "store.tables.before_commit",
    "store.tables.committed",
    "store.wal.before_move",
    "store.wal.moved",
    "store.wal.rest_moved",
];

/// True in a binary that is made to be killed; a delivered one is not.
pub const HAS_CRASH_POINTS: bool = cfg!(feature = "crash-points");

/// Ends the process here when `LOAM_CRASH_AT` says so, without unwinding and without flushing: `NAME` at the first passage,
/// `NAME:3` at the third. Does nothing without the feature `crash-points`.
#[inline(always)]
pub fn crash_point(name: &'static str) {
    #[cfg(feature = "crash-points")]
    armed::pass(name);
    #[cfg(not(feature = "crash-points"))]
    let _ = name;
}

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        name: &'static str,
        passages_left: AtomicU64,
    }

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let text = std::env::var("LOAM_CRASH_AT").ok()?;
        let (name, passages) = text.split_once(':').unwrap_or((&text, "1"));
        let name = super::CRASH_POINTS.iter().find(|known| **known == name);
        let name = name.unwrap_or_else(|| panic!("LOAM_CRASH_AT={text} names no crash point"));
        let passages = passages.parse().unwrap_or_else(|_| panic!("LOAM_CRASH_AT={text} names no passage"));
        Some(Armed { name, passages_left: AtomicU64::new(passages) })
    });

    pub(super) fn pass(name: &str) {
        let Some(armed) = ARMED.as_ref().filter(|armed| armed.name == name) else { return };
        if armed.passages_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            std::process::abort();
        }
    }
}
