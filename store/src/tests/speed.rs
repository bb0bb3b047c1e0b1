#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]
use crate::testing::*;
use crate::*;
use proto::internal::*;
use std::time::Instant;

fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
fn rss() -> String {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    s.lines().find(|l| l.starts_with("VmRSS")).unwrap().to_owned()
}
fn up(dev: u64, n: u32) -> Record {
    let mut r = uplink(dev, n);
    if let Some(record::Kind::Uplink(u)) = &mut r.kind {
        u.receptions = (0..3)
            .map(|g| ReceptionRecord {
                gateway_eui: g,
                rssi_ddbm: -1000,
                snr_ddb: Some(70),
                tmst_us: n,
                ..Default::default()
            })
            .collect();
        u.modulation = Some(ModulationRecord { coding_rate: "4/5".into(), ..Default::default() });
    }
    r
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speed_journal() {
    let directory = tempfile::Builder::new().tempdir_in("/work").unwrap();
    let store = open(directory.path()).await;
    eprintln!("open {}", rss());
    let begin = |d| Delta {
        dev_eui: d,
        session_id: 1,
        sealed_keys: Some(vec![1; 77]),
        state: Some(vec![2; 60]),
        ..Delta::default()
    };
    let t = Instant::now();
    for c in 0..100u64 {
        store.journal().commit(vec![], (c * 10000..(c + 1) * 10000).map(begin).collect()).await.unwrap();
    }
    eprintln!("1M sessions journal {:?}", t.elapsed());
    let t = Instant::now();
    let c = cpu();
    crate::housekeeping::checkpoint_all(store.db()).await.unwrap();
    eprintln!("1M sessions checkpoint {:?} cpu {} {}", t.elapsed(), cpu() - c, rss());
    let t = Instant::now();
    let c = cpu();
    let mut n = 0;
    store.network().load_sessions(|_| n += 1).await.unwrap();
    eprintln!("load {n} sessions {:?} cpu {} {}", t.elapsed(), cpu() - c, rss());

    let t = Instant::now();
    for c in 0..200u64 {
        store
            .network()
            .put_devices(
                (c * 5000..(c + 1) * 5000)
                    .map(|d| NetworkDeviceRow {
                        dev_eui: d,
                        profile_id: "eu868-class-a".into(),
                        ..Default::default()
                    })
                    .collect(),
            )
            .await
            .unwrap();
    }
    eprintln!("1M devices written {:?}", t.elapsed());
    let t = Instant::now();
    let c = cpu();
    let mut n = 0;
    store.network().load_devices(|_| n += 1).await.unwrap();
    eprintln!("load {n} devices {:?} cpu {} {}", t.elapsed(), cpu() - c, rss());

    // paced
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let rate: u32 = std::env::var("RATE").map_or(50, |r| r.parse().unwrap());
    let m0 = store.metrics();
    let worst = std::sync::Arc::new(parking_lot::Mutex::new(Vec::<u64>::new()));
    let w2 = worst.clone();
    let w3 = worst.clone();
    let c = cpu();
    let t = Instant::now();
    let journal = store.journal();
    let st = store.clone();
    let dir = directory.path().to_owned();
    let watch = tokio::spawn(async move {
        let mut before = st.metrics();
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            let m = st.metrics();
            let lat: Vec<u64> =
                m.commit_latency.iter().zip(before.commit_latency).map(|(a, b)| a - b).collect();
            let mut l = std::mem::take(&mut *w3.lock());
            l.sort();
            let q = |f: f64| l[(l.len() as f64 * f) as usize];
            eprint!("p50 {} p99 {} max {} ", q(0.5), q(0.99), l[l.len() - 1]);
            eprintln!(
                "{lat:?} wal {} writes {}",
                std::fs::metadata(dir.join("loam.db-wal")).unwrap().len() >> 20,
                m.table_writes - before.table_writes
            );
            before = m;
        }
    });
    let h = std::thread::spawn(move || {
        let t = Instant::now();
        for k in 0..9000u32 {
            for j in 0..rate {
                let dev = u64::from(k * 100 + j) * 7919 % 1_000_000;
                journal
                    .submit_blocking(Submission {
                        records: vec![up(dev, k)],
                        deltas: vec![counter(dev, 1, k)],
                        done: Some({
                            let w = w2.clone();
                            let t = Instant::now();
                            Box::new(move |_| w.lock().push(t.elapsed().as_millis() as u64))
                        }),
                    })
                    .unwrap();
            }
            let next = t + std::time::Duration::from_millis(10) * (k + 1);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    });
    tokio::task::spawn_blocking(move || h.join().unwrap()).await.unwrap();
    watch.abort();
    let m = store.metrics();
    eprintln!(
        "uplinks {} in {:?} cpu {} commits {} avg us {} fail {} lat {:?}",
        m.records - m0.records,
        t.elapsed(),
        cpu() - c,
        m.commits - m0.commits,
        (m.commit_us - m0.commit_us) / (m.commits - m0.commits),
        m.commit_failures,
        m.commit_latency
    );
    eprintln!("{} wal {}", rss(), std::fs::metadata(directory.path().join("loam.db-wal")).unwrap().len() >> 20);
    let t = Instant::now();
    let c = cpu();
    let journal = store.journal();
    for k in 0..100_000u32 {
        journal
            .submit(Submission {
                records: vec![up(u64::from(k), k)],
                deltas: vec![counter(u64::from(k), 1, k)],
                done: None,
            })
            .await
            .unwrap();
    }
    store.journal().commit(vec![], vec![]).await.unwrap();
    eprintln!("100k uplinks flat out {:?} cpu {}", t.elapsed(), cpu() - c);
    let t = Instant::now();
    let c = cpu();
    crate::housekeeping::checkpoint_all(store.db()).await.unwrap();
    eprintln!("checkpoint {:?} cpu {} {}", t.elapsed(), cpu() - c, rss());

    // joins
    let join = store.join();
    join.put_devices(
        (0..1000)
            .map(|d| JoinDeviceRow {
                dev_eui: d,
                join_eui: 1,
                sealed_app_key: Some(vec![1; 45]),
                ..Default::default()
            })
            .collect(),
    )
    .await
    .unwrap();
    let t = Instant::now();
    let c = cpu();
    let tasks: Vec<_> = (0..100u64)
        .map(|k| {
            let join = join.clone();
            tokio::spawn(async move {
                for i in 0..60u32 {
                    let d = k * 10 + u64::from(i % 10);
                    let r = join
                        .commit_join(JoinCommit {
                            dev_eui: d,
                            join_eui: 1,
                            dev_nonce: i as u16,
                            rule: NonceRule::UnusedEver,
                            join_nonce: i + 1,
                            request_hash: [0; 32],
                            answer: vec![1; 250],
                        })
                        .await
                        .unwrap();
                    assert_eq!(r, JoinCommitted::Committed);
                }
            })
        })
        .collect();
    for t in tasks {
        t.await.unwrap();
    }
    let m = store.metrics();
    eprintln!(
        "6000 joins {:?} cpu {} table commits {} writes {}",
        t.elapsed(),
        cpu() - c,
        m.table_commits,
        m.table_writes
    );
    let t = Instant::now();
    store.close().await.unwrap();
    eprintln!("close {:?}", t.elapsed());
    let t = Instant::now();
    let store = open(directory.path()).await;
    eprintln!("open {:?}", t.elapsed());
    store.close().await.unwrap();
}
