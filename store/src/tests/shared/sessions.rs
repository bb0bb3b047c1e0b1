#![allow(clippy::unwrap_used)]
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proto::internal::Delta;

use crate::housekeeping::checkpoint_all;
use crate::testing::{Place, apply_retention, counter, in_memory, stories};
use crate::{SessionRow, Store, checkpoint};

stories! {
    a_session_is_the_checkpoint_and_the_journal_behind_it,
    the_retention_keeps_what_the_sessions_still_need,
    a_late_change_of_a_removed_session_does_not_bring_it_back,
    a_number_that_is_used_again_inherits_nothing_from_the_session_before,
}

async fn sessions(store: &Store) -> BTreeMap<(u64, u64), SessionRow> {
    let mut found = BTreeMap::new();
    let each = |row: SessionRow| {
        let twice = found.insert((row.dev_eui, row.session_id), row);
        assert_eq!(twice, None, "a session came twice");
    };
    store.network().load_sessions(each).await.unwrap();
    found
}

fn begin(dev_eui: u64, session_id: u64) -> Delta {
    Delta { dev_eui, session_id, sealed_keys: Some(vec![1; 77]), state: Some(vec![2; 40]), ..Delta::default() }
}

async fn a_session_is_the_checkpoint_and_the_journal_behind_it(place: &Place) {
    let store = place.open().await;
    let journal = store.journal();
    journal.commit(vec![], vec![begin(u64::MAX, 7), begin(2, 8), counter(2, 8, 0)]).await.unwrap();
    checkpoint_all(store.db()).await.unwrap();
    let used = Delta { dev_eui: 2, session_id: 8, n_fcnt_down: Some(3), ..Delta::default() };
    journal.commit(vec![], vec![counter(2, 8, 4), used, begin(2, 9)]).await.unwrap();

    let before = sessions(&store).await;
    store.close().await.unwrap();
    let store = place.open().await;

    assert_eq!(sessions(&store).await, before);
    assert_eq!(before.keys().copied().collect::<Vec<_>>(), [(2, 8), (2, 9), (u64::MAX, 7)]);
    let row = &before[&(2, 8)];
    assert_eq!((row.fcnt_up_plus_1, row.n_fcnt_down, row.a_fcnt_down), (5, 3, 0));
    assert_eq!((row.sealed_keys.len(), row.state.len()), (77, 40));
}

async fn the_retention_keeps_what_the_sessions_still_need(place: &Place) {
    let store = place.open().await;
    for n in 0..20 {
        store.journal().commit(vec![], vec![begin(n, 1), counter(n, 1, 5)]).await.unwrap();
    }
    let nothing = crate::StoreOptions { retention_max_age_s: 0, retention_max_bytes: 0, ..Default::default() };

    // Before the checkpoint has followed, nothing may go.
    assert_eq!(crate::retention::pass(store.db(), &nothing, i64::MAX).await.unwrap(), 0);
    assert!(apply_retention(&store, &nothing).await > 0);

    assert_eq!(sessions(&store).await.len(), 20);
}

async fn a_late_change_of_a_removed_session_does_not_bring_it_back(place: &Place) {
    let store = place.open().await;
    let gone = |session_id| Delta { dev_eui: 1, session_id, removed: true, ..Delta::default() };
    store.journal().commit(vec![], vec![begin(1, 1), begin(1, 2)]).await.unwrap();
    checkpoint_all(store.db()).await.unwrap();
    store.journal().commit(vec![], vec![gone(1), counter(1, 1, 9)]).await.unwrap();
    assert_eq!(sessions(&store).await.into_keys().collect::<Vec<_>>(), [(1, 2)]);
    store.journal().commit(vec![], vec![gone(0), counter(1, 2, 9), begin(1, 3)]).await.unwrap();
    assert_eq!(sessions(&store).await.into_keys().collect::<Vec<_>>(), [(1, 3)]);

    checkpoint_all(store.db()).await.unwrap();
    store.journal().commit(vec![], vec![counter(1, 1, 9)]).await.unwrap();
    checkpoint_all(store.db()).await.unwrap();

    assert_eq!(sessions(&store).await.into_keys().collect::<Vec<_>>(), [(1, 3)]);
}

async fn a_number_that_is_used_again_inherits_nothing_from_the_session_before(place: &Place) {
    let store = place.open().await;
    let gone = Delta { dev_eui: 1, removed: true, ..Delta::default() };
    let late = Delta { dev_eui: 1, session_id: 2, a_fcnt_down: Some(9), ..counter(1, 2, 70) };
    store.journal().commit(vec![], vec![begin(1, 2), gone]).await.unwrap();
    checkpoint_all(store.db()).await.unwrap();
    store.journal().commit(vec![], vec![late, begin(1, 2)]).await.unwrap();
    let clean = |row: &SessionRow| (row.fcnt_up_plus_1, row.a_fcnt_down) == (0, 0);

    assert!(clean(&sessions(&store).await[&(1, 2)]), "from the journal");
    checkpoint::pass_cut_short(store.db()).await.unwrap();
    assert!(clean(&sessions(&store).await[&(1, 2)]), "after a crash within the checkpoint");
    checkpoint_all(store.db()).await.unwrap();
    assert!(clean(&sessions(&store).await[&(1, 2)]), "from the table");
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Delta>),
    Checkpoint,
    /// Leaves the table ahead of its checkpoint.
    CrashBeforeCheckpoint,
}

fn deltas() -> impl Strategy<Value = Delta> {
    let field = || proptest::option::of(0_u32..5);
    (0_u64..3, 1_u64..4, 0_u32..10, field(), field(), field()).prop_map(
        |(dev_eui, session_id, kind, up, n, a)| {
            let fields = Delta {
                dev_eui,
                session_id,
                fcnt_up_plus_1: up.map(u64::from),
                n_fcnt_down: n,
                a_fcnt_down: a,
                state: n.map(|n| vec![1; n as usize + 1]),
                ..Delta::default()
            };
            match kind {
                0 => Delta { dev_eui, removed: true, ..Delta::default() },
                1 => Delta { dev_eui, session_id, removed: true, ..Delta::default() },
                2..5 => Delta { sealed_keys: Some(vec![7; up.unwrap_or(9) as usize]), ..fields },
                _ => fields,
            }
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => proptest::collection::vec(deltas(), 1..6).prop_map(Step::Commit),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::CrashBeforeCheckpoint),
    ];
    proptest::collection::vec(step, 1..20)
}

/// What the words of `Delta` say, one after the other.
fn apply_in_order(rows: &mut BTreeMap<(u64, u64), SessionRow>, delta: &Delta) {
    let key = (delta.dev_eui, delta.session_id);
    if delta.removed {
        rows.retain(|k, _| if key.1 == 0 { k.0 != key.0 } else { *k != key });
        return;
    }
    if delta.sealed_keys.is_some() {
        rows.entry(key).or_insert_with(|| SessionRow {
            dev_eui: key.0,
            session_id: key.1,
            ..SessionRow::default()
        });
    }
    let Some(row) = rows.get_mut(&key) else { return };
    row.sealed_keys = delta.sealed_keys.as_ref().unwrap_or(&row.sealed_keys).clone();
    row.state = delta.state.as_ref().unwrap_or(&row.state).clone();
    row.fcnt_up_plus_1 = delta.fcnt_up_plus_1.unwrap_or(row.fcnt_up_plus_1);
    row.n_fcnt_down = delta.n_fcnt_down.unwrap_or(row.n_fcnt_down);
    row.a_fcnt_down = delta.a_fcnt_down.unwrap_or(row.a_fcnt_down);
}

async fn follow_the_model(store: Store, steps: Vec<Step>) {
    let mut model = BTreeMap::new();
    let mut known = BTreeSet::new();
    for step in steps {
        match step {
            Step::Commit(mut deltas) => {
                // A session begins with its keys; before that nobody knows its number. Afterwards anything may come late.
                deltas.retain(|delta| {
                    let key = (delta.dev_eui, delta.session_id);
                    if delta.sealed_keys.is_some() {
                        known.insert(key);
                    }
                    delta.removed || known.contains(&key)
                });
                deltas.iter().for_each(|delta| apply_in_order(&mut model, delta));
                store.journal().commit(vec![], deltas).await.unwrap();
            }
            Step::Checkpoint => checkpoint_all(store.db()).await.unwrap(),
            Step::CrashBeforeCheckpoint => checkpoint::pass_cut_short(store.db()).await.unwrap(),
        }
        assert_eq!(sessions(&store).await, model);
    }
    checkpoint_all(store.db()).await.unwrap();
    assert_eq!(sessions(&store).await, model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn checkpoint_and_tail_equal_the_changes_applied_in_order_on_sqlite(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { follow_the_model(in_memory().await, steps).await });
    }

    #[test]
    fn checkpoint_and_tail_equal_the_changes_applied_in_order_in_memory(steps in steps()) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async { follow_the_model(Place::memory().open().await, steps).await });
    }
}
