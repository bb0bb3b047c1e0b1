//! Databases of earlier versions, and those that a kill left between two migrations.

use std::fs;
use std::path::{Path, PathBuf};

use loam_tests::Loam;
use proto::v1;
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

/// OPS-002: each migration starts from what the ones before it left, keeps what is there, and ends in the schema of a new database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_every_earlier_schema_is_brought_up_to_date_and_keeps_its_rows() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let files = migrations();
    let fresh = dir.path().join("fresh");
    assert!(Loam::start(&fresh).terminate().success());
    let newest = schema(&fresh).await;
    assert!(newest.len() > 20, "{newest:?}");

    for count in 0..=files.len() {
        let data_dir = dir.path().join(format!("schema-{count}"));
        fs::create_dir(&data_dir).expect("a directory");
        // What stands on the disk when the first start ends behind this migration.
        fs::write(data_dir.join("stamp"), "database ab\nepoch 0\nhead 0\nwrites 0\n").expect("a stamp");
        let has_applications = made(&data_dir, &files[..count]).await;

        let loam = Loam::start(&data_dir);

        let mut client = loam.client();
        let request = v1::ListApplicationsRequest::default();
        let list = client.applications.list_applications(request).await.expect("a list").into_inner();
        let ids: Vec<&str> = list.applications.iter().map(|application| application.id.as_str()).collect();
        assert_eq!(
            ids,
            if has_applications { vec!["from-before"] } else { vec![] },
            "after {count} migrations"
        );
        assert!(loam.terminate().success());
        assert_eq!(schema(&data_dir).await, newest, "after {count} migrations");
    }
}

/// Makes a database with these migrations, and a row where there is a table for it.
async fn made(data_dir: &Path, files: &[PathBuf]) -> bool {
    let some = tempfile::tempdir().expect("a temporary directory");
    for file in files {
        fs::copy(file, some.path().join(file.file_name().expect("a file"))).expect("a copy");
    }
    let mut database = open(data_dir).await;
    if !files.is_empty() {
        Migrator::new(some.path()).await.expect("migrations").run(&mut database).await.expect("they apply");
    }
    let row = "INSERT INTO application (id, name, created_at_us) VALUES ('from-before', 'From before', 1)";
    let inserted = sqlx::query(row).execute(&mut database).await.is_ok();
    database.close().await.expect("a database that is closed");
    inserted
}

/// Every table and index, as it was made.
async fn schema(data_dir: &Path) -> Vec<(String, String)> {
    let mut database = open(data_dir).await;
    let query = "SELECT name, coalesce(sql, '') FROM sqlite_schema ORDER BY name";
    let schema = sqlx::query_as(query).fetch_all(&mut database).await.expect("a schema");
    database.close().await.expect("a database that is closed");
    schema
}

async fn open(data_dir: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(data_dir.join("loam.db")).create_if_missing(true);
    options.connect().await.expect("the database opens")
}

/// In their order.
fn migrations() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/sqlite");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files
}
