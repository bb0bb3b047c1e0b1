//! Interesting states: rare situations that a run has to have been in before it proves anything.

/// One situation worth reaching.
macro_rules! states {
    ($($name:ident $(= $words:literal)?),+ $(,)?) => {
        /// A rare situation. A run over many schedules in which one of them was never reached has failed.
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        #[allow(missing_docs, reason = "each is its own words")]
        pub enum State { $($name),+ }

        impl State {
            /// Every state.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// What it is called in tables.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => states!(@words $name $(, $words)?)),+ }
            }
        }
    };
    (@words $name:ident, $words:literal) => { $words };
    (@words $name:ident) => { stringify!($name) };
}

states! {
    ActivatedAgain = "a device personalised again with the same keys",
    AnswerGivenAgainAfterCrash = "a Join-Request answered again after a crash",
    BufferedFramesFlushed = "frames a gateway kept during an outage came all at once",
    ClientAskedTwice = "an order sent twice under one idempotency key",
    ClockJumpedBack = "the wall clock jumped back",
    ClockJumpedForward = "the wall clock jumped forward",
    CodecFailed = "a codec failed and the bytes were delivered",
    CommitOutcomeUnknown = "a commit that was reported as failed and was there",
    ConsumerBehindTheHead = "a slow consumer read from disk behind the head",
    ConsumerResumedAfterCrash = "a consumer went on where it was after a crash",
    ConsumerSawGap = "a consumer was told of events that are gone",
    CopyAfterWindow = "a copy that came after its window closed",
    CopyJoinedWindow = "a copy that joined an open window",
    CrashAfterCommit = "a crash after a commit, before anybody heard of it",
    CrashBeforeCommit = "a crash before a commit",
    CrashOfLateStore = "a crash while the disk refused",
    DatagramTwice = "a datagram that came twice",
    DevNonceUsedTwice = "a DevNonce that was used before and refused",
    DiskFull = "a full disk",
    DiskFreeAgain = "a disk that took writes again after it was full",
    DownlinkCounterWrapped = "FCntDown passed 65,535",
    DownlinkHeardInRx1 = "a downlink heard in RX1",
    DownlinkHeardInRx2 = "a downlink heard in RX2",
    ForgedTxAck = "a TX_ACK from another gateway",
    FrameHoursLate = "a frame that came hours late",
    GatewayRebooted = "a gateway that rebooted between uplink and downlink",
    ItemAcknowledgedByDevice = "a confirmed item acknowledged by its device",
    ItemCancelled = "an item cancelled",
    ItemDeferred = "an item too long for the data rate",
    ItemExpired = "an item past its deadline",
    ItemFailed = "a confirmed item nobody acknowledged",
    ItemUnknown = "an item of which nobody knows whether it left",
    JoinStorm = "many devices joining at once",
    LeaseResolvedAfterRestart = "a lease resolved after a restart",
    OldSessionWentOn = "a live session that went on after a failed join",
    OtherGatewayTried = "another gateway after a refusal",
    ReplayRefused = "an old frame played back and refused",
    RepetitionAnswered = "a repetition of a confirmed uplink acknowledged again",
    SessionReplaced = "a session replaced by the first uplink of the next one",
    StaleServerRefused = "a server refused by the disk after another took over",
    TmstWrapped = "a gateway's counter wrapped between uplink and downlink",
    TxAckLost = "a TX_ACK that was lost",
    TxRefused = "a gateway that refused to send",
    UplinkCounterExhausted = "an uplink with the last counter there is",
    UplinkCounterWrapped = "FCntUp passed 65,535",
    WindowMissed = "a downlink too late for its windows",
}

/// How often each state was reached.
#[derive(Clone, Debug)]
pub struct States {
    counts: Vec<u64>,
}

impl Default for States {
    fn default() -> Self {
        Self { counts: vec![0; State::ALL.len()] }
    }
}

impl States {
    /// Counts one.
    pub fn reach(&mut self, state: State) {
        if let Some(count) = self.counts.get_mut(state as usize) {
            *count += 1;
        }
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    /// Each state with its count.
    pub fn iter(&self) -> impl Iterator<Item = (State, u64)> + '_ {
        State::ALL.iter().copied().zip(self.counts.iter().copied())
    }

    /// Those that were never reached.
    pub fn unreached(&self) -> Vec<State> {
        self.iter().filter(|(_, count)| *count == 0).map(|(state, _)| state).collect()
    }
}
