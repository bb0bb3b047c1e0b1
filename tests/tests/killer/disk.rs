//! Disks that fail under load: full, refusing writes, and losing what they had taken.
//!
//! The promise is the same as ever: what was accepted stays, what cannot be kept is not acknowledged, reading goes on, and when the disk
//! is well everything goes on without a hand.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use loam_tests::disk::{LyingDisk, SmallDisk, fill};
use loam_tests::story::{self, Stream};
use loam_tests::{Loam, eventually};
use proto::v1;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::database::Left;
use crate::field::{Air, Weather, fresh_number};
use crate::lives::Killer;

/// OPS-003: ENOSPC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_under_load_loses_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data_dir = dir.path().join("data");
    std::fs::create_dir(&data_dir).expect("empty");
    let Some(_disk) = SmallDisk::mount(&data_dir, "48m") else {
        println!("skipped: a small file system cannot be mounted here (that needs root)");
        return;
    };
    let ballast = data_dir.join("ballast");
    survives(Trouble::Full(ballast), data_dir, &[]).await;
}

/// OPS-003: EFBIG at every write: what the system answers a process that reached its limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_refuses_every_write_loses_nothing() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        println!("skipped: there is no `prlimit` here, which sets limits of a running process");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    survives(Trouble::Refused, dir.path().join("data"), IGNORING_SIGXFSZ).await;
}

/// OPS-003: EIO, and from fsync: the system took the bytes and could not keep them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_keep_what_it_took_loses_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let Some((disk, data_dir)) = lying_disk(dir.path()) else { return };
    survives(Trouble::Lost(disk), data_dir, &[]).await;
}

/// What was acknowledged is on the medium itself, whatever the system had not written yet when the power failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_on_a_failing_disk_loses_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let Some((disk, data_dir)) = lying_disk(dir.path()) else { return };
    let mut killer = Killer::set_up(data_dir, &[], StdRng::seed_from_u64(8)).await;
    for life in 0..6 {
        let loam = killer.start(&[]).expect("it starts");
        let crowd = killer.crowd(&loam, Weather::Rough).await;
        story::pause(Duration::from_millis(killer.rng.random_range(100..400))).await;
        disk.fail();
        story::pause(Duration::from_millis(killer.rng.random_range(0..300))).await;
        loam.kill();
        killer.leave(crowd).await;
        disk.power_cycle();
        killer.look(Left::Suddenly).await;
        killer.assert_faultless(&format!("after power cut {life}"));
    }
    killer.short_calm().await;
    killer.assert_faultless("when all is well");
}

fn lying_disk(dir: &Path) -> Option<(LyingDisk, PathBuf)> {
    let (data_dir, medium) = (dir.join("data"), dir.join("medium"));
    std::fs::create_dir(&data_dir).expect("empty");
    std::fs::create_dir(&medium).expect("empty");
    let disk = LyingDisk::mount(&data_dir, &medium);
    if disk.is_none() {
        println!("skipped: no file system can be mounted on a file here (that needs root and loop devices)");
    }
    disk.map(|disk| (disk, data_dir))
}

/// What is wrong with a disk.
enum Trouble {
    /// No space; the file that takes it.
    Full(PathBuf),
    /// Flushing fails.
    Lost(LyingDisk),
    /// The process may not write behind the first byte of any file.
    Refused,
}

impl Trouble {
    fn begin(&self, loam: &Loam) {
        match self {
            Self::Full(ballast) => fill(ballast),
            Self::Lost(disk) => disk.fail(),
            Self::Refused => limit_file_size(loam.pid(), "1"),
        }
    }

    /// `None`: the server has ended already.
    fn end(&self, loam: Option<&Loam>) {
        match (self, loam) {
            (Self::Full(ballast), _) => {
                // It may be over already.
                let _ = std::fs::remove_file(ballast);
            }
            (Self::Lost(disk), Some(_)) => disk.mend(),
            (Self::Lost(disk), None) => disk.power_cycle(),
            (Self::Refused, Some(loam)) => limit_file_size(loam.pid(), "unlimited"),
            (Self::Refused, None) => {}
        }
    }

    /// Words before a server that starts in the middle of it.
    fn words(&self) -> &'static [&'static str] {
        match self {
            Self::Full(_) | Self::Lost(_) => &[],
            Self::Refused => &["sh", "-c", "trap '' XFSZ; ulimit -S -f 0; exec \"$@\"", "sh"],
        }
    }
}

async fn survives(trouble: Trouble, data_dir: PathBuf, words: &'static [&'static str]) {
    let mut killer = Killer::set_up(data_dir, words, StdRng::seed_from_u64(7)).await;

    // The trouble comes and goes while the server runs.
    let loam = killer.start(&[]).expect("it starts");
    let crowd = killer.crowd(&loam, Weather::Rough).await;
    story::pause(Duration::from_millis(300)).await;
    for _ in 0..2 {
        trouble.begin(&loam);
        notices(&loam).await;
        acknowledges_nothing(&loam, &crowd.air).await;
        reads_go_on(&loam).await;
        trouble.end(Some(&loam));
        eventually("ready again", async || is_ready(&loam).await.then_some(())).await;
        story::pause(Duration::from_millis(300)).await;
    }
    loam.kill();
    killer.part(crowd, Left::Suddenly).await;
    killer.assert_faultless("after trouble that passed");

    // Killed in the middle of it, and started in the middle of it.
    for life in 0..6 {
        let loam = killer.start(&[]).expect("it starts");
        let crowd = killer.crowd(&loam, Weather::Rough).await;
        story::pause(Duration::from_millis(killer.rng.random_range(100..300))).await;
        trouble.begin(&loam);
        if life % 2 == 0 {
            notices(&loam).await;
        }
        story::pause(Duration::from_millis(killer.rng.random_range(0..200))).await;
        loam.kill();
        killer.leave(crowd).await;
        let calm_words = std::mem::replace(&mut killer.words, trouble.words());
        starts_or_says_why(&mut killer).await;
        killer.words = calm_words;
        trouble.end(None);
        killer.look(Left::Suddenly).await;
        killer.assert_faultless(&format!("after life {life} that ended in trouble"));
    }

    killer.short_calm().await;
    killer.assert_faultless("when all is well");
}

async fn is_ready(loam: &Loam) -> bool {
    story::http_get(loam.api, "/readyz").await.0 == 200
}

/// The server finds out, says what is wrong, and is alive.
async fn notices(loam: &Loam) {
    eventually("the server notices", async || (!is_ready(loam).await).then_some(())).await;
    let (status, body) = story::http_get(loam.api, "/readyz").await;
    // It may have got through between the two.
    assert!(status == 200 || body.starts_with("not ready: "), "{status} {body}");
    assert_eq!(story::http_get(loam.api, "/healthz").await.0, 200);
}

/// Frames come in and are not acknowledged: forwarders that store keep them.
async fn acknowledges_nothing(loam: &Loam, air: &Air) {
    let withheld = async || {
        let (_, metrics) = story::http_get(loam.api, "/metrics").await;
        let line = metrics.lines().find_map(|line| line.strip_prefix("loam_udp_push_ack_withheld_total "));
        line.and_then(|count| count.parse::<u64>().ok()).expect("a counter")
    };
    // A disk in trouble may take a write now and then, and what comes in at that moment is acknowledged.
    eventually("a time without acknowledgements", async || {
        let (acknowledged, begun) = (air.push_acks(), withheld().await);
        eventually("frames come in", async || (withheld().await >= begun + 20).then_some(())).await;
        (air.push_acks() == acknowledged).then_some(())
    })
    .await;
}

/// What is there can be read, and whoever wants to write is told why not.
async fn reads_go_on(loam: &Loam) {
    let client = loam.client();
    let list = client.clone().devices.list_devices(v1::ListDevicesRequest::default()).await;
    assert!(!list.expect("a list").into_inner().devices.is_empty());
    Stream::earliest(&client).await.event().await;
    let (code, out, err) = loam.cli(&["device", "list"]);
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, err) = loam.cli(&["application", "create", &format!("a-{}", fresh_number())]);
    // SQLite may have some room in its files.
    assert!(code == 0 || err.contains("disk"), "{code} {out}{err}");
}

/// A start on a disk in trouble: the server runs, or ends with a code and a word. It never breaks anything.
async fn starts_or_says_why(killer: &mut Killer) {
    let log = killer.data_dir.with_extension("log");
    let before = std::fs::metadata(&log).map_or(0, |file| file.len());
    match killer.start(&[]) {
        Ok(loam) => {
            let crowd = killer.crowd(&loam, Weather::Rough).await;
            story::pause(Duration::from_millis(200)).await;
            loam.kill();
            killer.leave(crowd).await;
        }
        Err(status) => {
            assert_eq!((status.code(), status.signal()), (Some(1), None), "{status}");
            let text = std::fs::read_to_string(&log).expect("a log");
            let said = text.get(usize::try_from(before).expect("a small log")..).unwrap_or_default();
            println!("it says: {said}");
            assert!(!said.contains("panicked"), "{said}");
        }
    }
}

/// Sets the limit beside the hard one, which stays, so that it can be lifted again.
fn limit_file_size(pid: u32, bytes: &str) {
    let pid = pid.to_string();
    let done = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:")]).status();
    assert!(done.is_ok_and(|status| status.success()), "prlimit of {pid}");
}

/// A process that ignores the signal gets the error.
const IGNORING_SIGXFSZ: &[&str] = &["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"];
