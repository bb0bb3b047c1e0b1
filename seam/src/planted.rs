//! Bugs that are planted on purpose, to prove that the simulator sees.

/// One deliberate bug; docs/proof.md tells what each does and how soon it is found.
///
/// A variant is named after the rule that is broken.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
#[allow(missing_docs, reason = "docs/proof.md has a line for each")]
pub enum Bug {
    AcknowledgeBeforeCommit,
}

/// True while this bug is planted; never without the feature `planted`.
#[inline(always)]
pub fn planted(bug: Bug) -> bool {
    #[cfg(feature = "planted")]
    return PLANTED.get() == Some(bug);
    #[cfg(not(feature = "planted"))]
    {
        let _ = bug;
        false
    }
}

/// Plants a bug on this thread, or takes it out again.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}
