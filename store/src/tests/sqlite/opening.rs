#![allow(clippy::unwrap_used)]
use std::path::Path;

use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::testing::{counter, open, refused, uplink};
use crate::{ApplicationRow, Location, Store, StoreError, StoreOptions};

fn copy(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[tokio::test]
async fn a_second_server_on_a_directory_is_refused_and_named_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;

    let error = refused(directory.path()).await;

    let StoreError::Locked { pid, .. } = &error else { panic!("{error}") };
    assert_eq!(*pid, Some(std::process::id()));
    assert!(error.to_string().contains(&directory.path().display().to_string()));
    store.close().await.unwrap();
    open(directory.path()).await;
}

#[tokio::test]
async fn only_its_owner_can_read_the_data_directory() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("a/data");
    let store = open(&directory).await;
    store.journal().commit(vec![uplink(1, 0)], vec![]).await.unwrap();

    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for name in ["loam.db", "loam.db-wal", "kek", "app-kek", "stamp"] {
        assert_eq!(mode(&directory.join(name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_database_copied_back_from_an_older_time_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let older = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    store.journal().commit(vec![uplink(1, 0)], vec![]).await.unwrap();
    store.close().await.unwrap();
    copy(directory.path(), older.path(), &["loam.db"]);
    let store = open(directory.path()).await;
    store.close().await.unwrap();

    copy(older.path(), directory.path(), &["loam.db"]);
    let error = refused(directory.path()).await;

    assert!(matches!(error, StoreError::CopiedBack { .. }), "{error}");
    assert!(error.to_string().contains("older time"));
    // Refusing has changed nothing: the same answer again.
    assert!(matches!(refused(directory.path()).await, StoreError::CopiedBack { .. }));
}

#[tokio::test]
async fn a_database_that_lacks_only_a_nonce_is_refused_too() {
    // The join server alone writes no events; its nonces must not come twice either.
    let directory = tempfile::tempdir().unwrap();
    let older = tempfile::tempdir().unwrap();
    open(directory.path()).await.close().await.unwrap();
    let store = open(directory.path()).await;
    store.close().await.unwrap();
    copy(directory.path(), older.path(), &["loam.db"]);
    let stamp = std::fs::read_to_string(directory.path().join("stamp")).unwrap();
    let epoch = stamp.lines().find(|l| l.starts_with("epoch")).unwrap().to_owned();
    let store = open(directory.path()).await;
    store
        .bridge()
        .insert_application(ApplicationRow { id: "a".into(), ..ApplicationRow::default() })
        .await
        .unwrap();
    store.close().await.unwrap();
    let newer = std::fs::read_to_string(directory.path().join("stamp")).unwrap();
    let newer_epoch = newer.lines().find(|l| l.starts_with("epoch")).unwrap().to_owned();
    // Even if the epochs were alike.
    std::fs::write(directory.path().join("stamp"), newer.replace(&newer_epoch, &epoch)).unwrap();

    copy(older.path(), directory.path(), &["loam.db"]);

    assert!(matches!(refused(directory.path()).await, StoreError::CopiedBack { .. }));
}

#[tokio::test]
async fn a_database_without_its_stamp_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).await.close().await.unwrap();
    std::fs::remove_file(directory.path().join("stamp")).unwrap();

    assert!(matches!(refused(directory.path()).await, StoreError::CopiedBack { .. }));
}

#[tokio::test]
async fn a_backup_is_a_whole_database_and_is_never_run_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    store.journal().commit(vec![uplink(1, 0)], vec![]).await.unwrap();
    let file = directory.path().join("copy.db");

    let bytes = store.backup(&file).await.unwrap();

    assert_eq!(bytes, std::fs::metadata(&file).unwrap().len());
    let mut copy = SqliteConnectOptions::new().filename(&file).connect().await.unwrap();
    let (events, check): (i64, String) =
        sqlx::query_as("SELECT count(*), (SELECT * FROM pragma_integrity_check) FROM journal")
            .fetch_one(&mut copy)
            .await
            .unwrap();
    assert_eq!((events, check.as_str()), (1, "ok"));
    // The file that exists is not overwritten, and the server goes on.
    assert!(matches!(store.backup(&file).await, Err(StoreError::Io { .. })));
    store.journal().commit(vec![uplink(1, 1)], vec![]).await.unwrap();

    // Put in place of the database it is refused, at once and also with the stamp of its time.
    let stamp = std::fs::read(directory.path().join("stamp")).unwrap();
    store.close().await.unwrap();
    std::fs::copy(&file, directory.path().join("loam.db")).unwrap();
    assert!(matches!(refused(directory.path()).await, StoreError::CopiedBack { .. }));
    std::fs::write(directory.path().join("stamp"), stamp).unwrap();
    assert!(matches!(refused(directory.path()).await, StoreError::CopiedBack { .. }));
}

#[tokio::test]
async fn a_database_of_another_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    open(directory.path()).await.close().await.unwrap();
    open(other.path()).await.close().await.unwrap();

    copy(other.path(), directory.path(), &["loam.db"]);
    assert!(matches!(refused(directory.path()).await, StoreError::OtherDatabase { .. }));

    std::fs::remove_file(directory.path().join("loam.db")).unwrap();
    let error = refused(directory.path()).await;
    assert!(
        matches!(error, StoreError::OtherDatabase { .. }),
        "a database that is gone is not made anew: {error}"
    );
    assert!(!directory.path().join("loam.db").exists());
}

/// A young database lives in its WAL: after a crash the file alone is empty, and whoever carries only that to another machine
/// has forgotten everything.
#[tokio::test]
async fn a_database_carried_away_without_its_wal_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    store.journal().commit(vec![uplink(1, 0)], vec![]).await.unwrap();
    let crashed = tempfile::tempdir().unwrap();
    copy(directory.path(), crashed.path(), &["loam.db", "stamp", "kek", "app-kek"]);
    let before = std::fs::read(crashed.path().join("stamp")).unwrap();

    let error = refused(crashed.path()).await;

    assert!(matches!(error, StoreError::OtherDatabase { .. } | StoreError::CopiedBack { .. }), "{error}");
    assert_eq!(std::fs::read(crashed.path().join("stamp")).unwrap(), before);

    // With the WAL it is whole again: refusing has spoilt nothing.
    copy(directory.path(), crashed.path(), &["loam.db-wal"]);
    assert_eq!(open(crashed.path()).await.log().head(), 1);
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_starts_again() {
    let directory = tempfile::tempdir().unwrap();
    // The stamp and an empty file are what the first moments leave.
    std::fs::write(directory.path().join("stamp"), "database ab\nepoch 0\nhead 0\nwrites 0\n").unwrap();
    std::fs::write(directory.path().join("loam.db"), "").unwrap();

    let store = open(directory.path()).await;

    assert_eq!(store.epoch(), 1);
}

#[tokio::test]
async fn a_data_directory_of_a_newer_version_is_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let newer = sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'x', 1, x'00', 0)",
    );
    store.sqlite().execute("pretend", newer).await.unwrap();
    store.close().await.unwrap();
    let before = std::fs::read(directory.path().join("loam.db")).unwrap();

    let error = refused(directory.path()).await;

    assert!(matches!(error, StoreError::NewerSchema { found: 9999, .. }), "{error}");
    assert_eq!(std::fs::read(directory.path().join("loam.db")).unwrap(), before);
}

#[tokio::test]
async fn missing_and_wrong_key_files_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let sealed = store.sealer().seal("app-key", 1, b"secret");
    let transport_key = store.transport_key();
    store.close().await.unwrap();
    let kek = directory.path().join("kek");
    let key = std::fs::read(&kek).unwrap();

    std::fs::remove_file(&kek).unwrap();
    let error = refused(directory.path()).await;
    assert!(matches!(&error, StoreError::KekMissing { path } if *path == kek), "{error}");
    assert!(!kek.exists(), "no key is made in its place");

    std::fs::write(&kek, "00".repeat(32)).unwrap();
    assert!(matches!(refused(directory.path()).await, StoreError::KekWrong { .. }));
    std::fs::write(&kek, "0011").unwrap();
    assert!(matches!(refused(directory.path()).await, StoreError::KekWrong { .. }));

    std::fs::write(&kek, key).unwrap();
    let store = open(directory.path()).await;
    assert_eq!(store.sealer().open("app-key", 1, &sealed).unwrap().as_slice(), b"secret");
    assert_eq!(*store.transport_key(), *transport_key);
    store.close().await.unwrap();

    std::fs::remove_file(directory.path().join("app-kek")).unwrap();
    assert!(matches!(refused(directory.path()).await, StoreError::KekMissing { .. }));
}

#[tokio::test]
async fn a_directory_that_cannot_be_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let inside = file.path().join("data");

    let error = Store::open(Location::Directory(inside.clone()), StoreOptions::default()).await.unwrap_err();

    assert!(matches!(&error, StoreError::Io { path, .. } if *path == inside), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).await.close().await.unwrap();
    std::fs::write(directory.path().join("loam.db"), "hello, this is a text ".repeat(500)).unwrap();

    assert!(matches!(refused(directory.path()).await, StoreError::Sql { .. }));
}

#[tokio::test]
async fn a_journal_whose_numbers_cannot_be_is_refused_as_damaged() {
    for (first_seq, count) in [(-3, 0), (0, 0), (i64::MAX, i64::MAX)] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path()).await;
        store.journal().commit(vec![], vec![counter(1, 1, 0)]).await.unwrap();
        let damage = sqlx::query("UPDATE journal SET first_seq = ?1, count = ?2").bind(first_seq).bind(count);
        store.sqlite().execute("damage the journal", damage).await.unwrap();
        store.close().await.unwrap();

        let error = refused(directory.path()).await;

        assert!(matches!(error, StoreError::Damaged { .. }), "{first_seq} + {count}: {error}");
    }
}
