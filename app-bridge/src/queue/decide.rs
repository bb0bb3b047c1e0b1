//! What happens to an item of the queue: decisions without effects.

use proto::internal as pb;
use proto::v1::DownlinkState;
use seam::{Bug, planted};
use store::DownlinkRow;

use proto::port::NOT_ACKNOWLEDGED;

use crate::event::is_bare_answer;

/// How often a confirmed item is sent before it fails.
pub(crate) const ATTEMPTS_MAX: u32 = 3;

const NO_ACK: &str = "the device did not acknowledge it";

/// FRMPayload bytes that fit the windows of a downlink.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rooms {
    pub(crate) rx1: u32,
    pub(crate) rx2: u32,
}

/// What a window gets, by index into the waiting items.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Choice {
    pub(crate) take: Option<Taken>,
    /// Too long for both windows: they wait for a better data rate.
    pub(crate) defer: Vec<usize>,
    /// Their deadline has passed.
    pub(crate) expire: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Taken {
    pub(crate) index: usize,
    pub(crate) rx2_only: bool,
    pub(crate) more_pending: bool,
}

/// Chooses among a device's waiting items, which stand in the order they go: priority, then age.
///
/// An item that is too long holds back those behind it of the same priority, so that two commands never change places;
/// lower priorities may pass. One confirmed item at a time is under way (TS001-1.0.4 §4.3.1.3).
pub(crate) fn choose(waiting: &[DownlinkRow], confirmed_under_way: bool, rooms: Rooms, now_us: i64) -> Choice {
    let room = rooms.rx1.max(rooms.rx2);
    let mut choice = Choice::default();
    let mut held_back = None;
    let mut live = 0_usize;
    for (index, item) in waiting.iter().enumerate() {
        if has_expired(item, now_us) {
            choice.expire.push(index);
            continue;
        }
        live = live.saturating_add(1);
        if choice.take.is_some() || held_back == Some(item.priority) {
            continue;
        }
        let len = payload_len(item);
        if len > room {
            choice.defer.push(index);
            held_back = Some(item.priority);
        } else if item.confirmed && confirmed_under_way {
            held_back = Some(item.priority);
        } else {
            choice.take = Some(Taken { index, rx2_only: len > rooms.rx1, more_pending: false });
        }
    }
    if let Some(taken) = &mut choice.take {
        taken.more_pending = live > 1;
    }
    choice
}

/// What becomes of an item.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Transition {
    pub(crate) state: DownlinkState,
    pub(crate) reason: String,
    /// False: the log tells of it already. True: the app-bridge has to.
    pub(crate) announce: bool,
    pub(crate) terminal: bool,
    /// The attempt does not count.
    pub(crate) never_left: bool,
}

impl Transition {
    fn told(state: DownlinkState, reason: &str, terminal: bool) -> Self {
        Self { state, reason: reason.to_owned(), announce: false, terminal, never_left: false }
    }

    fn ours(state: DownlinkState, reason: String, terminal: bool) -> Self {
        Self { state, reason, announce: true, terminal, never_left: false }
    }
}

/// What a record of the log means for the item it names; `None`: nothing that is not known already.
pub(crate) fn on_record(item: &DownlinkRow, record: &pb::DownlinkRecord, now_us: i64) -> Option<Transition> {
    if item.finished_at_us.is_some() || !is_under_way(item) || !speaks_of_lease(item, record) {
        return None;
    }
    let state = DownlinkState::try_from(i32::try_from(record.state).ok()?).ok()?;
    match state {
        // The network server hands it back: it did not leave.
        DownlinkState::Queued if record.fcnt_down.is_some() => {
            let handed_back = Transition::told(DownlinkState::Queued, &record.reason, false);
            Some(Transition { never_left: true, ..handed_back })
        }
        DownlinkState::Sent if record.reason == NOT_ACKNOWLEDGED => Some(unanswered(item, NO_ACK, now_us)),
        DownlinkState::Sent if state_of(item) == DownlinkState::Leased => {
            Some(Transition::told(state, &record.reason, false))
        }
        DownlinkState::GatewayAcknowledged if planted(Bug::GatewayAckIsDeviceAck) => {
            Some(Transition::ours(DownlinkState::DeviceAcknowledged, String::new(), true))
        }
        DownlinkState::GatewayAcknowledged => Some(Transition::told(state, &record.reason, !item.confirmed)),
        DownlinkState::DeviceAcknowledged if record.item_id.is_empty() => {
            Some(Transition::ours(state, record.reason.clone(), true))
        }
        DownlinkState::DeviceAcknowledged | DownlinkState::Unknown => {
            Some(Transition::told(state, &record.reason, true))
        }
        DownlinkState::Failed if record.reason == NOT_ACKNOWLEDGED => Some(unanswered(item, NO_ACK, now_us)),
        DownlinkState::Failed => Some(Transition::told(state, &record.reason, true)),
        DownlinkState::Cancelled
        | DownlinkState::Deferred
        | DownlinkState::Expired
        | DownlinkState::Leased
        | DownlinkState::Queued
        | DownlinkState::Sent
        | DownlinkState::Unspecified => None,
    }
}

/// What becomes of an item whose session another one has replaced: no answer can come any more.
pub(crate) fn on_session_replaced(item: &DownlinkRow, now_us: i64) -> Transition {
    let reason = "the device joined again";
    if item.confirmed {
        unanswered(item, reason, now_us)
    } else {
        Transition::ours(DownlinkState::Unknown, reason.to_owned(), true)
    }
}

/// A confirmed item was sent and not acknowledged: again with another counter, or the end.
fn unanswered(item: &DownlinkRow, why: &str, now_us: i64) -> Transition {
    if !item.confirmed {
        return Transition::ours(DownlinkState::Unknown, why.to_owned(), true);
    }
    if item.attempts >= ATTEMPTS_MAX {
        let reason = format!("{why}; sent {} times", item.attempts);
        return Transition::ours(DownlinkState::Failed, reason, true);
    }
    if has_expired(item, now_us) {
        let reason = format!("{why}; its deadline passed after {} of {ATTEMPTS_MAX} attempts", item.attempts);
        return Transition::ours(DownlinkState::Expired, reason, true);
    }
    let reason = format!("{why}; attempt {} of {ATTEMPTS_MAX} follows", item.attempts.saturating_add(1));
    Transition::ours(DownlinkState::Queued, reason, false)
}

pub(crate) fn state_of(item: &DownlinkRow) -> DownlinkState {
    DownlinkState::try_from(item.state).unwrap_or_default()
}

/// Was handed to the network server and is not settled.
pub(crate) fn is_under_way(item: &DownlinkRow) -> bool {
    item.finished_at_us.is_none()
        && matches!(
            state_of(item),
            DownlinkState::Leased | DownlinkState::Sent | DownlinkState::GatewayAcknowledged
        )
}

pub(crate) fn has_expired(item: &DownlinkRow, now_us: i64) -> bool {
    item.not_after_us.is_some_and(|deadline_us| deadline_us <= now_us)
}

fn payload_len(item: &DownlinkRow) -> u32 {
    u32::try_from(item.payload.len()).unwrap_or(u32::MAX)
}

/// True when a record speaks of an item: by its id, or by the counter it left with where a device answered.
pub(crate) fn names(item: &DownlinkRow, record: &pb::DownlinkRecord) -> bool {
    if is_bare_answer(record) {
        return record.fcnt_down.is_some_and(|fcnt_down| item.lease == Some((record.session_id, fcnt_down)));
    }
    !record.item_id.is_empty() && record.item_id == item.id
}

/// A record of an earlier attempt must not settle a later one.
fn speaks_of_lease(item: &DownlinkRow, record: &pb::DownlinkRecord) -> bool {
    let Some((session_id, fcnt_down)) = item.lease else {
        return false;
    };
    (record.session_id == 0 || record.session_id == session_id)
        && record.fcnt_down.is_none_or(|counter| counter == fcnt_down)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_US: i64 = 1_000_000;
    const WIDE: Rooms = Rooms { rx1: 222, rx2: 222 };

    fn waiting(id: &str, len: usize, priority: u32) -> DownlinkRow {
        DownlinkRow {
            id: id.to_owned(),
            payload: vec![0; len],
            priority,
            state: DownlinkState::Queued as i32,
            ..DownlinkRow::default()
        }
    }

    fn leased(confirmed: bool, attempts: u32) -> DownlinkRow {
        DownlinkRow {
            state: DownlinkState::Leased as i32,
            confirmed,
            attempts,
            lease: Some((9, 4)),
            ..waiting("item", 3, 0)
        }
    }

    fn told(state: DownlinkState, reason: &str, fcnt_down: u32) -> pb::DownlinkRecord {
        pb::DownlinkRecord {
            item_id: "item".to_owned(),
            state: state as u32,
            reason: reason.to_owned(),
            fcnt_down: Some(fcnt_down),
            session_id: 9,
            ..pb::DownlinkRecord::default()
        }
    }

    fn taken(choice: &Choice) -> Option<usize> {
        choice.take.map(|taken| taken.index)
    }

    /// AS-006.
    #[test]
    fn the_first_that_fits_goes_and_says_whether_more_waits() {
        let items = [waiting("a", 10, 5), waiting("b", 10, 5), waiting("c", 1, 0)];
        let choice = choose(&items, false, WIDE, NOW_US);
        assert_eq!(choice.take, Some(Taken { index: 0, rx2_only: false, more_pending: true }));
        let choice = choose(&items[2..], false, Rooms { rx1: 0, rx2: 1 }, NOW_US);
        assert_eq!(choice.take, Some(Taken { index: 0, rx2_only: true, more_pending: false }));
        assert_eq!(choose(&[], false, WIDE, NOW_US), Choice::default());
    }

    #[test]
    fn what_is_too_long_waits_and_keeps_its_place_among_equals() {
        let items = [waiting("open", 60, 5), waiting("close", 2, 5), waiting("report", 2, 0)];
        let choice = choose(&items, false, Rooms { rx1: 51, rx2: 51 }, NOW_US);
        assert_eq!(choice.defer, [0]);
        assert_eq!(taken(&choice), Some(2), "`close` must not overtake `open`");
        let choice = choose(&items[..2], false, Rooms { rx1: 51, rx2: 51 }, NOW_US);
        assert_eq!(taken(&choice), None);
    }

    #[test]
    fn a_second_confirmed_item_waits_for_the_answer_to_the_first() {
        let mut items = [waiting("a", 3, 1), waiting("b", 3, 0)];
        items[0].confirmed = true;
        assert_eq!(taken(&choose(&items, true, WIDE, NOW_US)), Some(1));
        assert_eq!(taken(&choose(&items, false, WIDE, NOW_US)), Some(0));
    }

    #[test]
    fn what_has_expired_does_not_go() {
        let mut items = [waiting("a", 3, 0), waiting("b", 3, 0)];
        items[0].not_after_us = Some(NOW_US);
        items[1].not_after_us = Some(NOW_US + 1);
        let choice = choose(&items, false, WIDE, NOW_US);
        assert_eq!((choice.expire.as_slice(), taken(&choice)), ([0].as_slice(), Some(1)));
    }

    #[test]
    fn an_unconfirmed_item_ends_with_the_gateways_acknowledgement() {
        let end = on_record(&leased(false, 1), &told(DownlinkState::GatewayAcknowledged, "", 4), NOW_US);
        assert!(end.is_some_and(|end| end.terminal && !end.announce));
        let step = on_record(&leased(true, 1), &told(DownlinkState::GatewayAcknowledged, "", 4), NOW_US);
        assert!(step.is_some_and(|step| !step.terminal && !step.announce));
    }

    /// ACK-004.
    #[test]
    fn a_confirmed_item_is_sent_three_times_and_then_fails() {
        let nack = told(DownlinkState::Failed, NOT_ACKNOWLEDGED, 4);
        for attempts in 1..ATTEMPTS_MAX {
            let next = on_record(&leased(true, attempts), &nack, NOW_US).expect("a change");
            assert_eq!((next.state, next.terminal, next.announce), (DownlinkState::Queued, false, true));
        }
        let end = on_record(&leased(true, ATTEMPTS_MAX), &nack, NOW_US).expect("a change");
        assert_eq!((end.state, end.terminal, end.announce), (DownlinkState::Failed, true, true));
        assert_ne!(end.reason, NOT_ACKNOWLEDGED, "the end is told apart from one missing answer");

        let late = DownlinkRow { not_after_us: Some(NOW_US), ..leased(true, 1) };
        assert_eq!(on_record(&late, &nack, NOW_US).map(|end| end.state), Some(DownlinkState::Expired));
    }

    /// ACK-006.
    #[test]
    fn an_answer_of_the_device_settles_exactly_the_item_that_left_with_its_counter() {
        let bare = |fcnt_down| pb::DownlinkRecord {
            item_id: String::new(),
            ..told(DownlinkState::DeviceAcknowledged, "", fcnt_down)
        };
        let item = leased(true, 1);
        assert!(names(&item, &bare(4)));
        assert!(!names(&item, &bare(5)) && !names(&item, &pb::DownlinkRecord { session_id: 8, ..bare(4) }));
        let end = on_record(&item, &bare(4), NOW_US).expect("a change");
        assert!(end.terminal && end.announce, "nobody else tells which item it was");
        // Other states are told with the item's id, or speak of frames of the network's own.
        let own = pb::DownlinkRecord { item_id: String::new(), ..told(DownlinkState::Failed, "TOO_LATE", 4) };
        assert!(!names(&item, &own));
    }

    #[test]
    fn a_record_of_another_attempt_or_of_our_own_changes_nothing() {
        let item = leased(true, 2);
        assert_eq!(on_record(&item, &told(DownlinkState::DeviceAcknowledged, "", 3), NOW_US), None);
        for state in
            [DownlinkState::Leased, DownlinkState::Expired, DownlinkState::Cancelled, DownlinkState::Deferred]
        {
            assert_eq!(on_record(&item, &told(state, "", 4), NOW_US), None);
        }
        let ended = DownlinkRow { finished_at_us: Some(1), ..item };
        assert_eq!(on_record(&ended, &told(DownlinkState::DeviceAcknowledged, "", 4), NOW_US), None);
    }
}
