//! The first start: a directory in which nothing is finished yet.

use loam_tests::Starting;
use loam_tests::story::Stand;

use crate::plan::FIRST_START_ONLY;
use crate::{died_at_point, no_core_files};

/// Whatever a first start leaves behind, the next one makes good, and the key it hands out is the one that counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_that_is_cut_off_is_made_good_by_the_next() {
    no_core_files();
    let passages = [
        // The stamp, twice, is written this way.
        ("store.file.before_rename", 1..=2),
        ("store.open.keys_made", 1..=1),
        ("store.open.migrated", 1..=1),
        ("store.open.epoch_risen", 1..=1),
        ("store.open.stamped", 1..=1),
        ("store.tables.before_commit", 1..=1),
        ("store.tables.committed", 1..=1),
        ("bridge.admin_key.file_written", 1..=1),
    ];
    let tried = passages.clone().map(|(point, _)| point);
    assert!(FIRST_START_ONLY.iter().all(|point| tried.contains(point)), "a point nobody comes to");
    for (point, passage) in passages.into_iter().flat_map(|(point, n)| n.map(move |n| (point, n))) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = dir.path().join("data");
        let armed = format!("{point}:{passage}");
        let status = Starting::spawn(&data_dir, &[("LOAM_CRASH_AT", &armed)]).ready().err();
        assert!(status.is_some_and(died_at_point), "{armed}: {status:?}");

        let mut stand = Stand::set_up_in(dir, &[]).await;
        stand.uplink_arrives(b"first words").await;
        let (status, _dir) = stand.end();
        assert!(status.success(), "{armed}: {status}");
    }
}
