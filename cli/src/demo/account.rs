//! Holds what the farm sent and took against what the stream told.

use std::collections::BTreeMap;

use mac::ids::DevEui;
use proto::v1::DownlinkState;
use simulator::farm::{Ledger, TakenPayload};

use super::farm::name_of;
use super::seen::{Seen, SeenItem};

/// What does not match, one sentence each.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Verdict {
    /// May still come.
    pub(super) missing: Vec<String>,
    /// Must not have happened.
    pub(super) wrong: Vec<String>,
}

impl Verdict {
    /// Everything that was sent is accounted for, and nothing else came.
    pub(super) fn is_good(&self) -> bool {
        self.missing.is_empty() && self.wrong.is_empty()
    }

    /// All sentences.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.wrong.iter().chain(&self.missing)
    }
}

/// Compares the two books. Both must be whole: the farm has stopped, the stream has been read as far as it goes.
pub(super) fn account(ledger: &Ledger, seen: &Seen) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.wrong.extend(ledger.faults.iter().chain(&seen.faults).cloned());
    uplinks(ledger, seen, &mut verdict);
    joins(ledger, seen, &mut verdict);
    downlinks(ledger, seen, &mut verdict);
    verdict
}

fn uplinks(ledger: &Ledger, seen: &Seen, verdict: &mut Verdict) {
    for (&(dev_eui, fcnt), frame) in &ledger.frames {
        let name = name_of(dev_eui);
        let Some(uplink) = seen.uplinks.get(&(dev_eui, fcnt)) else {
            verdict.missing.push(format!("{name} #{fcnt} was sent and has no event"));
            continue;
        };
        if uplink.events > 1 {
            verdict.wrong.push(format!("{name} #{fcnt} was told {} times", uplink.events));
        }
        if uplink.f_port != Some(u32::from(frame.f_port)) || uplink.payload != frame.payload {
            let told = hex::encode(&uplink.payload);
            verdict
                .wrong
                .push(format!("{name} #{fcnt} carried {}, told was {told}", hex::encode(&frame.payload)));
        }
    }
    for &(dev_eui, fcnt) in seen.uplinks.keys().filter(|key| !ledger.frames.contains_key(*key)) {
        verdict.wrong.push(format!("{} #{fcnt} was told and never sent", name_of(dev_eui)));
    }
    let told: u64 = seen.uplinks.values().map(|uplink| uplink.copies).sum();
    if told < ledger.copies {
        verdict.missing.push(format!("{} copies reached the server, {told} are in the events", ledger.copies));
    }
    if told > ledger.copies {
        verdict
            .wrong
            .push(format!("only {} copies reached the server, {told} are in the events", ledger.copies));
    }
}

fn joins(ledger: &Ledger, seen: &Seen, verdict: &mut Verdict) {
    let told: u64 = seen.joins.values().sum();
    if ledger.joins < ledger.join_requests {
        let unanswered = ledger.join_requests - ledger.joins;
        verdict
            .wrong
            .push(format!("{unanswered} of {} Join-Requests got no answer in time", ledger.join_requests));
    }
    if told < ledger.joins {
        verdict.missing.push(format!("{} devices joined, {told} joins were told", ledger.joins));
    }
    if told > ledger.join_requests {
        verdict.wrong.push(format!("{} devices asked to join, {told} joins were told", ledger.join_requests));
    }
}

fn downlinks(ledger: &Ledger, seen: &Seen, verdict: &mut Verdict) {
    let taken: BTreeMap<_, _> = ledger.payloads.iter().map(|p| ((p.dev_eui, p.fcnt_down), p)).collect();
    for (id, item) in &seen.items {
        let name = name_of(item.dev_eui);
        if !item.is_over() && !item.is_waiting() {
            let state = item.state_word();
            verdict
                .missing
                .push(format!("downlink {id} for {name} is {state}, and nobody told what became of it"));
        }
        if item.state == DownlinkState::DeviceAcknowledged && !was_taken(item, &taken) {
            verdict
                .wrong
                .push(format!("{name} is said to have acknowledged downlink {id}, which it never took"));
        }
    }
    for payload in &ledger.payloads {
        compare_taken(payload, seen, verdict);
    }
}

fn was_taken(item: &SeenItem, taken: &BTreeMap<(DevEui, u32), &TakenPayload>) -> bool {
    match item.acknowledged_as {
        Some(fcnt) => taken.contains_key(&(item.dev_eui, fcnt)),
        None => item.sent_as.iter().any(|fcnt| taken.contains_key(&(item.dev_eui, *fcnt))),
    }
}

/// A payload that a device took must have been told as sent with that counter, and be what was ordered.
fn compare_taken(taken: &TakenPayload, seen: &Seen, verdict: &mut Verdict) {
    let name = name_of(taken.dev_eui);
    let fcnt = taken.fcnt_down;
    let of_counter = |item: &&SeenItem| item.dev_eui == taken.dev_eui && item.sent_as.contains(&fcnt);
    let Some(item) = seen.items.values().find(of_counter) else {
        verdict.missing.push(format!("{name} took a payload with FCntDown {fcnt} that was not told as sent"));
        return;
    };
    if let Some((f_port, payload)) = &item.content
        && (*f_port != u32::from(taken.f_port) || *payload != taken.payload)
    {
        let (ordered, got) = (hex::encode(payload), hex::encode(&taken.payload));
        verdict.wrong.push(format!(
            "{name} was to get {ordered} on port {f_port} and took {got} on port {}",
            taken.f_port
        ));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mac::ids::DevEui;
    use proto::v1::{self, event::Kind};
    use simulator::farm::{SentFrame, devices};
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn what_was_sent_and_told_once_is_accounted_for() {
        let (mut ledger, mut seen) = books();
        ledger.join_requests = 1;
        ledger.joins = 1;
        take(&mut seen, Kind::Join(v1::Join::default()));

        assert_eq!(account(&ledger, &seen), Verdict::default());
    }

    #[test]
    fn a_frame_without_event_is_missing() {
        let (mut ledger, seen) = books();
        send(&mut ledger, 8, b"c", 1);

        let verdict = account(&ledger, &seen);

        assert_eq!(
            verdict.missing,
            ["north valve #8 was sent and has no event", "4 copies reached the server, 3 are in the events"]
        );
        assert!(verdict.wrong.is_empty() && !verdict.is_good());
    }

    #[test]
    fn a_frame_told_twice_is_wrong() {
        let (ledger, mut seen) = books();
        take(&mut seen, uplink(7, b"b", 0));

        let verdict = account(&ledger, &seen);

        assert_eq!(verdict.wrong, ["north valve #7 was told 2 times"]);
        assert!(verdict.missing.is_empty());
    }

    #[test]
    fn a_frame_nobody_sent_is_wrong() {
        let (ledger, mut seen) = books();
        take(&mut seen, uplink(9, b"x", 0));
        let stranger = v1::Event { dev_eui: "00000000000000aa".to_owned(), ..event(uplink(6, b"a", 0)) };
        seen.take(&stranger, "uplink", Instant::now());

        let verdict = account(&ledger, &seen);

        assert_eq!(
            verdict.wrong,
            ["00000000000000aa #6 was told and never sent", "north valve #9 was told and never sent"]
        );
    }

    #[test]
    fn other_bytes_or_another_port_are_wrong() {
        let (mut ledger, seen) = books();
        ledger.frames.get_mut(&(valve(), 6)).unwrap().payload = b"z".to_vec();
        ledger.frames.get_mut(&(valve(), 7)).unwrap().f_port = 9;

        assert_eq!(account(&ledger, &seen).wrong.len(), 2);
    }

    #[test]
    fn late_copies_count_and_a_copy_too_many_is_wrong() {
        let (mut ledger, mut seen) = books();
        ledger.copies += 1;
        assert_eq!(account(&ledger, &seen).missing.len(), 1);
        let late = |copies| {
            Kind::Receptions(v1::Receptions {
                fcnt_up: 7,
                receptions: vec![v1::Reception::default(); copies],
                ..v1::Receptions::default()
            })
        };
        take(&mut seen, late(1));
        assert!(account(&ledger, &seen).is_good());

        take(&mut seen, late(1));

        assert_eq!(account(&ledger, &seen).wrong, ["only 4 copies reached the server, 5 are in the events"]);
    }

    #[test]
    fn a_join_that_was_not_answered_or_not_told_is_noticed() {
        let (mut ledger, seen) = books();
        ledger.join_requests = 2;
        ledger.joins = 1;

        let verdict = account(&ledger, &seen);

        assert_eq!(verdict.wrong, ["1 of 2 Join-Requests got no answer in time"]);
        assert_eq!(verdict.missing, ["1 devices joined, 0 joins were told"]);
    }

    #[test]
    fn a_downlink_that_was_taken_and_acknowledged_is_accounted_for_and_so_is_one_that_waits() {
        let (mut ledger, mut seen) = books();
        order(&mut seen, "d1", b"\x01");
        tell(&mut seen, "d1", DownlinkState::Sent, Some(3));
        tell(&mut seen, "d1", DownlinkState::GatewayAcknowledged, Some(3));
        assert_eq!(account(&ledger, &seen).missing.len(), 1, "it is under way");
        ledger.payloads.push(taken(3, b"\x01"));
        tell(&mut seen, "d1", DownlinkState::DeviceAcknowledged, Some(3));
        order(&mut seen, "d2", b"\x00");
        tell(&mut seen, "d2", DownlinkState::Queued, None);

        assert_eq!(account(&ledger, &seen), Verdict::default());
        assert_eq!(seen.open_items(), 1);
    }

    #[test]
    fn a_confirmed_downlink_may_be_taken_more_than_once_when_its_acknowledgement_was_lost() {
        let (mut ledger, mut seen) = books();
        order(&mut seen, "d1", b"\x01");
        for fcnt in [3, 5] {
            tell(&mut seen, "d1", DownlinkState::Sent, Some(fcnt));
            ledger.payloads.push(taken(fcnt, b"\x01"));
        }
        tell(&mut seen, "d1", DownlinkState::DeviceAcknowledged, Some(5));

        assert!(account(&ledger, &seen).is_good());
    }

    #[test]
    fn what_a_device_took_must_be_told_and_be_what_was_ordered() {
        let (mut ledger, mut seen) = books();
        order(&mut seen, "d1", b"\x01");
        tell(&mut seen, "d1", DownlinkState::Sent, Some(3));
        tell(&mut seen, "d1", DownlinkState::DeviceAcknowledged, Some(4));
        ledger.payloads.push(taken(3, b"\x02"));
        ledger.payloads.push(taken(9, b"\x02"));

        let verdict = account(&ledger, &seen);

        assert_eq!(
            verdict.wrong,
            [
                "north valve is said to have acknowledged downlink d1, which it never took",
                "north valve was to get 01 on port 5 and took 02 on port 5"
            ]
        );
        assert_eq!(verdict.missing, ["north valve took a payload with FCntDown 9 that was not told as sent"]);
    }

    #[test]
    fn faults_of_either_side_and_gaps_are_wrong() {
        let (mut ledger, mut seen) = books();
        ledger.faults.push("north valve: FCntDown 3 after 3".to_owned());
        seen.take_gap(&v1::Gap { from: 1, to: 2, count: 2 });

        assert_eq!(account(&ledger, &seen).wrong.len(), 2);
    }

    /// Two frames of the north valve, sent in three copies and told.
    fn books() -> (Ledger, Seen) {
        let (mut ledger, mut seen) = (Ledger::default(), Seen::default());
        send(&mut ledger, 6, b"a", 2);
        send(&mut ledger, 7, b"b", 1);
        take(&mut seen, uplink(6, b"a", 2));
        take(&mut seen, uplink(7, b"b", 1));
        (ledger, seen)
    }

    fn valve() -> DevEui {
        devices().iter().find(|device| device.name == "north valve").unwrap().dev_eui
    }

    fn send(ledger: &mut Ledger, fcnt: u32, payload: &[u8], copies: u64) {
        let frame = SentFrame { first_copy_at: Instant::now(), f_port: 5, payload: payload.to_vec() };
        ledger.frames.insert((valve(), fcnt), frame);
        ledger.copies += copies;
    }

    fn taken(fcnt_down: u32, payload: &[u8]) -> TakenPayload {
        TakenPayload { dev_eui: valve(), fcnt_down, f_port: 5, payload: payload.to_vec() }
    }

    fn order(seen: &mut Seen, id: &str, payload: &[u8]) {
        let (id, payload) = (id.to_owned(), payload.to_vec());
        seen.ordered(valve(), v1::Downlink { id, f_port: 5, payload, ..v1::Downlink::default() });
    }

    fn tell(seen: &mut Seen, id: &str, state: DownlinkState, fcnt_down: Option<u32>) {
        let (downlink_id, state) = (id.to_owned(), state.into());
        take(seen, Kind::Downlink(v1::DownlinkUpdate { downlink_id, state, fcnt_down, ..Default::default() }));
    }

    fn uplink(fcnt_up: u32, payload: &[u8], copies: usize) -> Kind {
        Kind::Uplink(v1::Uplink {
            fcnt_up,
            f_port: Some(5),
            payload: payload.to_vec(),
            receptions: vec![v1::Reception::default(); copies],
            ..v1::Uplink::default()
        })
    }

    fn event(kind: Kind) -> v1::Event {
        v1::Event { dev_eui: valve().to_string(), kind: Some(kind), ..v1::Event::default() }
    }

    fn take(seen: &mut Seen, kind: Kind) {
        seen.take(&event(kind), "event", Instant::now());
    }
}
