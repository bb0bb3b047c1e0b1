//! Bugs that are planted on purpose, to prove that the simulator sees.

macro_rules! bugs {
    ($($name:ident = $words:literal),+ $(,)?) => {
        /// One deliberate bug. docs/proof.md tells how soon each is found, and by which invariant.
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        #[allow(missing_docs, reason = "`words` tells each")]
        pub enum Bug { $($name),+ }

        impl Bug {
            /// Every bug that can be planted.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its name in code.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }

            /// What it does wrong.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => $words),+ }
            }
        }
    };
}

bugs! {
    AcceptOthersTxAck = "a TX_ACK counts whichever gateway sends it",
    AcceptWithoutMic = "an uplink is taken without its MIC",
    AckWhileDiskRefuses = "a PUSH_ACK goes out while nothing can be made durable",
    AcknowledgeBeforeCommit = "an uplink is answered before its commit",
    AnswerJoinBeforeCommit = "a Join-Accept leaves before the pending session is committed",
    CancelAfterLease = "an order is taken back after it left",
    CompareCounterWith16Bits = "only the low 16 bits of FCntUp are compared",
    ConsumerPositionInMemory = "a consumer's position is told to be kept before it is",
    CopyAfterWindowIsNew = "a copy that comes after its window is a new uplink",
    CountersBeginAgain = "a device that is personalised again with the same keys begins its counters again",
    DownCounterNotStored = "FCntDown is handed out and not made durable",
    DropEventRow = "the counter of an uplink is committed without its event",
    EffectsBeforeCommit = "the journal lets effects out before the row is written",
    EndTwice = "an item that has ended ends again",
    EvictNewestPending = "of too many pending sessions the newest goes",
    FollowWithoutState = "the log's position is kept without what it means",
    ForgetDevNonce = "a used DevNonce is forgotten",
    ForgetUnderWay = "what is under way is not read at the start",
    GapNotTold = "events that are gone are passed over in silence",
    GatewayAckIsDeviceAck = "a gateway's word counts as the device's",
    JoinNonceStands = "JoinNonce does not rise",
    KeyOfAnotherSession = "a payload is opened with the device's newest key",
    LeaseNotDurable = "a payload is handed out before its lease is durable",
    LoadWithoutTail = "sessions are loaded without the journal's tail",
    NextWindowAfterSilence = "another frame is sent after a gateway's silence",
    OtherFrameAfterRefusal = "another window gets other bytes",
    OverwriteLiveSession = "a Join-Accept replaces the live session",
    ReceptionsLost = "copies beside the first are forgotten",
    RepeatIsNew = "a repetition is delivered as a new uplink",
    RetireAtJoin = "the live session ends with the commit of the next one",
    RetryAppendsAgain = "a commit that is tried again makes a second row",
    RxDelayOff = "RX1 is counted from one second too late",
    SkipCompareAndSet = "the owner trusts the receiver's counter",
    SlowConsumerSkips = "a consumer that is behind goes on at the head",
    StaleOwnerWrites = "a server that was taken over goes on writing",
    TmstDoesNotWrap = "a gateway's counter is added up without its wrap",
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
