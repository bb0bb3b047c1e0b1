//! Several servers on one disk, and one seed, one story.
#![allow(clippy::unwrap_used)]
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::internal::Delta;
use tokio::time::Instant;

use super::world::{after_ms, open, read_after_ms};
use crate::housekeeping::checkpoint_all;
use crate::testing::{all, counter, uplink};
use crate::{JoinCommit, JoinCommitted, JoinDeviceRow, MemoryDisk, NonceRule, StoreError};

#[tokio::test(start_paused = true)]
async fn a_row_on_its_way_when_the_disk_is_taken_over_is_refused() {
    let disk = MemoryDisk::default();
    let (former, plan) = open(&disk).await;
    plan.journal([after_ms(20)]);
    let journal = former.journal();
    let late = tokio::spawn(async move { journal.commit(vec![uplink(1, 0)], vec![]).await });
    tokio::time::sleep(Duration::from_millis(10)).await;

    let (owner, _) = open(&disk).await;
    let first = owner.journal().commit(vec![uplink(1, 7)], vec![]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;

    assert_eq!((first, all(&owner).await), (1, vec![(1, 7)]));
    assert!(!late.is_finished());
    assert!(!former.readiness().borrow().is_ready());
    assert_eq!((former.epoch(), owner.epoch()), (1, 2));
}

/// The former owner merged its changes before it lost the disk, and writes them afterwards.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_of_a_former_owner_puts_no_counter_back() {
    let disk = MemoryDisk::default();
    let (former, plan) = open(&disk).await;
    let begin = Delta { sealed_keys: Some(vec![1]), ..counter(1, 1, 5) };
    former.journal().commit(vec![], vec![begin]).await.unwrap();
    plan.tables([after_ms(20)]);
    let slow = former.clone();
    let pass = tokio::spawn(async move { checkpoint_all(slow.db()).await });
    tokio::time::sleep(Duration::from_millis(10)).await;

    let (owner, _) = open(&disk).await;
    owner.journal().commit(vec![], vec![counter(1, 1, 9)]).await.unwrap();
    checkpoint_all(owner.db()).await.unwrap();

    assert!(matches!(pass.await.unwrap(), Err(StoreError::Fenced { epoch: 1 })));
    let mut counters = Vec::new();
    owner.network().load_sessions(|row| counters.push(row.fcnt_up_plus_1)).await.unwrap();
    assert_eq!(counters, [10]);
}

#[tokio::test(start_paused = true)]
async fn a_join_server_that_was_taken_over_uses_no_nonce() {
    let disk = MemoryDisk::default();
    let (first, _) = open(&disk).await;
    first.join().put_device(JoinDeviceRow { dev_eui: 1, ..JoinDeviceRow::default() }).await.unwrap();
    let (second, _) = open(&disk).await;
    let join = |join_nonce| JoinCommit {
        dev_eui: 1,
        join_eui: 0,
        dev_nonce: 7,
        rule: NonceRule::UnusedEver,
        join_nonce,
        request_hash: [1; 32],
        answer: vec![1],
    };

    let (first_join, second_join) = (first.join(), second.join());
    let (one, other) = tokio::join!(first_join.commit_join(join(1)), second_join.commit_join(join(2)));

    assert!(matches!(one, Err(StoreError::Fenced { epoch: 1 })), "{one:?}");
    assert_eq!(other.unwrap(), JoinCommitted::Committed);
}

#[tokio::test(start_paused = true)]
async fn stores_on_one_disk_have_the_same_keys_and_other_disks_have_others() {
    let disk = MemoryDisk::default();
    let (first, _) = open(&disk).await;
    let sealed = first.sealer().seal("app-key", 1, b"secret");

    let (second, _) = open(&disk).await;
    let (stranger, _) = open(&MemoryDisk::default()).await;

    assert_eq!(second.sealer().open("app-key", 1, &sealed).unwrap().as_slice(), b"secret");
    assert_eq!(*second.transport_key(), *first.transport_key());
    assert!(stranger.sealer().open("app-key", 1, &sealed).is_err());
}

/// What a busy world with many waiting tasks looks like from outside.
fn trace(seed: u64) -> Vec<(u128, String)> {
    let _simulated = seam::simulate(seed, || 1_000_000);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (store, plan) = open(&MemoryDisk::default()).await;
        let (told, begun) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
        plan.journal((0..40).map(|n| after_ms(n % 7)));
        plan.tables((0..40).map(|n| after_ms(n % 5)));
        plan.reads((0..200).map(|n| read_after_ms(n % 3)));
        let mut tasks = Vec::new();
        for n in 0..64_u32 {
            let (store, told) = (store.clone(), Arc::clone(&told));
            let note = move |what: String| told.lock().push((begun.elapsed().as_micros(), what));
            tasks.push(tokio::spawn(async move {
                let mut head = store.log().subscribe();
                let reached = head.wait_for(|head| *head > u64::from(n / 8)).await;
                note(format!("{n} saw {reached}"));
                let seq = store.journal().commit(vec![uplink(u64::from(n), n)], vec![]).await.unwrap();
                note(format!("{n} is {seq}"));
                let codec = store.bridge().put_codec("c", "", i64::from(n)).await.unwrap();
                note(format!("{n} wrote {}", codec.revision));
                let found = store.bridge().codec("c").await.unwrap().unwrap();
                note(format!("{n} read {}", found.revision));
            }));
        }
        for n in 0..8 {
            tokio::time::sleep(Duration::from_millis(3)).await;
            store.journal().commit(vec![uplink(100, n)], vec![]).await.unwrap();
        }
        for task in tasks {
            task.await.unwrap();
        }
        Arc::into_inner(told).map_or_else(Vec::new, Mutex::into_inner)
    })
}

#[test]
fn the_same_world_tells_the_same_story_each_time() {
    let first = trace(7);
    assert_eq!(first.len(), 4 * 64);
    for _ in 0..10 {
        assert_eq!(trace(7), first);
    }
}
