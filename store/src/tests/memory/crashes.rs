//! The process ends at a step; the disk stays.
#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::internal::Delta;

use super::world::{Plan, after_ms, at_once, never, open, open_by, read_after_ms};
use crate::housekeeping::checkpoint_all;
use crate::testing::{all, counter, step, uplink};
use crate::{
    ApplicationRow, JoinDeviceRow, MemoryDisk, NetworkDeviceRow, ReadFate, SessionRow, Store, Submission,
    WriteFate, WriteOutcome,
};

fn application(id: &str) -> ApplicationRow {
    ApplicationRow { id: id.into(), ..ApplicationRow::default() }
}

/// Nothing of a store does anything any more.
async fn assert_dead(store: &Store) {
    let journal = store.journal();
    assert!(never(journal.commit(vec![uplink(9, 9)], vec![])).await);
    assert!(never(journal.submit(step(uplink(9, 9)))).await);
    assert!(never(store.log().read(0, 10)).await);
    assert!(never(store.log().seq_at_time(0)).await);
    assert!(never(store.bridge().insert_application(application("late"))).await);
    assert!(never(store.bridge().device_count()).await);
    assert!(never(store.network().put_device(NetworkDeviceRow::default())).await);
    assert!(never(store.network().load_sessions(|_| {})).await);
    assert!(never(store.join().put_device(JoinDeviceRow::default())).await);
    assert!(never(store.checkpoint()).await);
    assert!(never(store.close()).await);
}

async fn crash_in_the_journal(outcome: WriteOutcome) -> (MemoryDisk, u64) {
    let disk = MemoryDisk::default();
    let (store, plan) = open(&disk).await;
    store.journal().commit(vec![uplink(1, 0)], vec![]).await.unwrap();
    plan.journal([at_once(outcome)]);

    let effects = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&effects);
    let done = move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let submission = Submission { done: Some(Box::new(done)), ..step(uplink(1, 1)) };
    store.journal().submit(submission).await.unwrap();
    assert!(never(store.journal().commit(vec![uplink(1, 2)], vec![])).await);

    assert_dead(&store).await;
    assert_eq!(store.log().head(), 1);
    assert!(store.readiness().borrow().is_ready(), "nobody heard of anything");
    drop(store);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    (disk, effects.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_a_row_loses_it_whole() {
    let (disk, effects) = crash_in_the_journal(WriteOutcome::CrashBefore).await;

    assert_eq!(effects, 0);
    let (after, _) = open(&disk).await;
    assert_eq!(all(&after).await, [(1, 0)]);
    assert_eq!(after.journal().commit(vec![uplink(1, 3)], vec![]).await.unwrap(), 2, "sequences have no holes");
    assert_eq!(after.bridge().application("late").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_a_row_keeps_it_and_lets_no_effect_out() {
    let (disk, effects) = crash_in_the_journal(WriteOutcome::CrashAfter).await;

    assert_eq!(effects, 0);
    let (after, _) = open(&disk).await;
    assert_eq!(all(&after).await, [(1, 0), (2, 1), (3, 2)]);
    assert_eq!(after.journal().commit(vec![uplink(1, 3)], vec![]).await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_turn_of_table_writes_is_on_the_disk_whole_or_not_at_all() {
    for (outcome, kept) in [(WriteOutcome::CrashBefore, 0), (WriteOutcome::CrashAfter, 2)] {
        let disk = MemoryDisk::default();
        let (store, plan) = open(&disk).await;
        plan.tables([at_once(outcome)]);
        let bridge = store.bridge();

        let both = async {
            tokio::join!(
                bridge.insert_application(application("a")),
                bridge.insert_application(application("b"))
            )
        };

        assert!(never(both).await);
        assert_dead(&store).await;
        let (after, _) = open(&disk).await;
        assert_eq!(after.bridge().applications("", 10).await.unwrap().len(), kept, "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_a_read_ends_the_store() {
    let (store, plan) = open(&MemoryDisk::default()).await;
    plan.reads([ReadFate::Crash]);

    assert!(never(store.bridge().device_count()).await);

    assert_dead(&store).await;
}

/// Who waits for an answer that is on its way when the process ends never gets it.
#[tokio::test(start_paused = true)]
async fn a_machine_that_is_switched_off_finishes_nothing() {
    let disk = MemoryDisk::default();
    let (store, plan) = open(&disk).await;
    plan.journal([after_ms(20)]);
    plan.reads([read_after_ms(20)]);
    let (journal, bridge) = (store.journal(), store.bridge());
    let commit = tokio::spawn(async move { journal.commit(vec![uplink(1, 0)], vec![]).await });
    let read = tokio::spawn(async move { bridge.device_count().await });
    tokio::time::sleep(Duration::from_millis(10)).await;

    plan.off.store(true, Ordering::Relaxed);

    assert!(never(commit).await && never(read).await);
    // It does not come back: what boots again is another process.
    plan.off.store(false, Ordering::Relaxed);
    assert_dead(&store).await;
    let (after, _) = open(&disk).await;
    assert_eq!(after.log().head(), 0, "the row was not applied yet");
}

/// It was done, and the process ended before whoever asked could look.
#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_took_before_the_end_is_never_taken() {
    let (store, plan) = open(&MemoryDisk::default()).await;
    let (bridge, journal, log) = (store.bridge(), store.journal(), store.log());
    let mut write = std::pin::pin!(bridge.insert_application(application("a")));
    let mut commit = std::pin::pin!(journal.commit(vec![uplink(1, 0)], vec![]));
    assert!(futures_util::poll!(&mut write).is_pending() && futures_util::poll!(&mut commit).is_pending());
    log.subscribe().wait_for(|head| *head == 1).await;
    assert!(store.bridge().application("a").await.unwrap().is_some());

    plan.off.store(true, Ordering::Relaxed);

    assert!(never(write).await && never(commit).await);
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_opening_may_have_taken_the_disk_over() {
    for (outcome, epoch) in [(WriteOutcome::CrashBefore, 2), (WriteOutcome::CrashAfter, 3)] {
        let disk = MemoryDisk::default();
        open(&disk).await.0.close().await.unwrap();
        let plan = Arc::new(Plan::default());
        plan.open([at_once(outcome)]);

        assert!(never(open_by(&disk, &plan)).await);

        assert_eq!(open(&disk).await.0.epoch(), epoch, "{outcome:?}");
    }
}

async fn sessions(store: &Store) -> BTreeMap<(u64, u64), SessionRow> {
    let mut found = BTreeMap::new();
    let each = |row: SessionRow| drop(found.insert((row.dev_eui, row.session_id), row));
    store.network().load_sessions(each).await.unwrap();
    found
}

/// Sessions of which a pass clears some, changes some, and begins one anew under an old number.
async fn change_sessions(store: &Store, round: u32) {
    let begin = |dev_eui, session_id| Delta {
        sealed_keys: Some(vec![u8::try_from(round).unwrap(); 3]),
        ..counter(dev_eui, session_id, round)
    };
    let removed = |dev_eui, session_id| Delta { dev_eui, session_id, removed: true, ..Delta::default() };
    let late = Delta { dev_eui: 3, session_id: 1, a_fcnt_down: Some(round), ..Delta::default() };
    let deltas = vec![
        begin(1, 1),
        removed(2, 0),
        begin(2, u64::from(round) + 1),
        counter(1, 1, round * 10),
        late,
        begin(3, 1),
        removed(4, 1),
        begin(4, 2),
    ];
    for delta in deltas {
        store.journal().commit(vec![], vec![delta]).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_at_any_step_of_the_checkpoint_changes_no_session() {
    let crashes = [WriteOutcome::CrashBefore, WriteOutcome::CrashAfter];
    let errors = [WriteOutcome::DoneButReportedFailed, WriteOutcome::Refused { disk_full: true }];
    let mut passes = 0;
    for outcome in crashes.into_iter().chain(errors) {
        for step in 0.. {
            let disk = MemoryDisk::default();
            let (store, plan) = open(&disk).await;
            change_sessions(&store, 1).await;
            checkpoint_all(store.db()).await.unwrap();
            change_sessions(&store, 2).await;
            let expected = sessions(&store).await;
            plan.tables(std::iter::repeat_n(WriteFate::DONE, step).chain([at_once(outcome)]));

            let pass = tokio::time::timeout(Duration::from_secs(600), checkpoint_all(store.db())).await;
            let (after, _) = open(&disk).await;

            assert_eq!(sessions(&after).await, expected, "{outcome:?} at step {step}");
            checkpoint_all(after.db()).await.unwrap();
            assert_eq!(sessions(&after).await, expected, "{outcome:?} at step {step}, and the pass after it");
            passes += 1;
            if matches!(pass, Ok(Ok(()))) {
                assert!(step > 2, "a pass has several transactions");
                break;
            }
        }
    }
    assert!(passes > 12);
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_read_of_a_start_costs_nothing() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk).await;
    change_sessions(&store, 1).await;
    let expected = sessions(&store).await;
    for step in 0.. {
        let (store, plan) = open(&disk).await;
        plan.reads(std::iter::repeat_n(ReadFate::DONE, step).chain([ReadFate::Crash]));
        let loaded = tokio::time::timeout(Duration::from_secs(600), sessions(&store)).await;
        if let Ok(loaded) = loaded {
            assert_eq!(loaded, expected);
            assert!(step > 2);
            return;
        }
    }
}
