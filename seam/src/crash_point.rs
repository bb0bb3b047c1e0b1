//! Points at which the process ends itself, as a power cut would.

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
        name: String,
        passages_left: AtomicU64,
    }

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let text = std::env::var("LOAM_CRASH_AT").ok()?;
        let (name, passages) = text.split_once(':').unwrap_or((&text, "1"));
        let passages = passages.parse().unwrap_or(1);
        Some(Armed { name: name.to_owned(), passages_left: AtomicU64::new(passages) })
    });

    pub(super) fn pass(name: &str) {
        let Some(armed) = ARMED.as_ref().filter(|armed| armed.name == name) else { return };
        if armed.passages_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            std::process::abort();
        }
    }
}
