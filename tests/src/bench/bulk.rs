//! Puts personalised devices straight into the database of a server that is not running: the rows that CreateDevice and
//! ActivateDevice leave, for numbers that would take the API an hour.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _};
use mac::ids::{DevAddr, DevEui, SessionId};
use mac::keys::{Key, NetworkKeys};
use mac::session::{AbpParams, Profile, Session};
use mac::units::Timestamp;
use mac::version::MacVersion;
use proto::internal::Delta;
use store::{AppSessionRow, BridgeDeviceRow, Location, NetworkDeviceRow, Sealer, Store, StoreOptions, Written};

use super::devices::Devices;
use super::prepare::{APPLICATION, PROFILE};
use super::say;

/// Adds the devices and their sessions to the database in `data_dir`, which has the application and the profile already.
pub(crate) fn insert_abp(data_dir: &Path, devices: &Devices) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let work = insert(data_dir, devices);
        match tokio::time::timeout(DEADLINE, work).await {
            Ok(done) => done.context("cannot put devices into the database"),
            Err(_) => bail!("putting devices into the database took longer than {DEADLINE:?}"),
        }
    })
}

async fn insert(data_dir: &Path, devices: &Devices) -> Result<()> {
    let begun = Instant::now();
    let store = Store::open(Location::Directory(data_dir.to_owned()), StoreOptions::default()).await?;
    let mut told = Instant::now();
    for first in (0..devices.count).step_by(usize::try_from(CHUNK)?) {
        let chunk: Vec<u32> = (first..devices.count.min(first + CHUNK)).collect();
        insert_chunk(&store, devices, &chunk).await?;
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            let done = first + CHUNK;
            say(format!(
                "{done} of {} devices prepared after {:.0} s",
                devices.count,
                begun.elapsed().as_secs_f64()
            ));
        }
    }
    // A server that runs for a minute has its checkpoint up to date.
    store.checkpoint().await?;
    store.close().await?;
    say(format!("{} devices prepared in {:.1} s", devices.count, begun.elapsed().as_secs_f64()));
    Ok(())
}

async fn insert_chunk(store: &Store, devices: &Devices, chunk: &[u32]) -> Result<()> {
    let now_us = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
    let network_rows = chunk.iter().map(|index| NetworkDeviceRow {
        dev_eui: devices.dev_eui(*index),
        profile_id: PROFILE.into(),
        ..NetworkDeviceRow::default()
    });
    let bridge_rows = chunk.iter().map(|index| BridgeDeviceRow {
        dev_eui: devices.dev_eui(*index),
        application_id: APPLICATION.into(),
        profile_id: PROFILE.into(),
        name: format!("device {:x}", devices.dev_eui(*index)),
        provisioned: true,
        created_at_us: now_us,
        ..BridgeDeviceRow::default()
    });
    let sealer = store.sealer();
    let deltas = chunk.iter().map(|index| session(&sealer, devices, *index, now_us)).collect();
    let (network, bridge, journal) = (store.network(), store.bridge(), store.journal());
    let app_sessions = futures_util::stream::iter(chunk)
        .map(|index| bridge.put_app_session(app_session(&sealer, devices, *index, now_us)))
        .buffer_unordered(PARALLEL)
        .try_for_each(|()| std::future::ready(Ok(())));
    let (network, written, committed, app_sessions) = tokio::join!(
        network.put_devices(network_rows.collect()),
        bridge.insert_devices(bridge_rows.collect()),
        journal.commit(Vec::new(), deltas),
        app_sessions,
    );
    network?;
    committed?;
    app_sessions?;
    match written? {
        Written::Done => Ok(()),
        Written::Exists(what) => bail!("device {what} is there already"),
        Written::Missing(what) => bail!("{what} is missing"),
    }
}

/// What an activation leaves in the journal.
fn session(sealer: &Sealer, devices: &Devices, index: u32, now_us: i64) -> Delta {
    let id = session_id(devices, index);
    let nwk_s_key = devices.keys(index).nwk_s_key;
    let params = AbpParams {
        id: SessionId::new(id),
        dev_eui: DevEui::new(devices.dev_eui(index)),
        dev_addr: DevAddr::new(devices.dev_addr(index)),
        version: MacVersion::V1_0_3,
        keys: NetworkKeys::from_nwk_s_key(&Key::new(nwk_s_key)),
        fcnt_up: None,
        fcnt_down: 0,
    };
    // As `prepare` makes it.
    let profile = Profile { rx_delay_s: 1, ..Profile::default() };
    let session = Session::new_abp(&profile, params, Timestamp::from_us(now_us));
    Delta {
        dev_eui: devices.dev_eui(index),
        session_id: id,
        sealed_keys: Some(sealer.seal(NETWORK_KEYS, id, &[nwk_s_key; 3].concat())),
        state: Some(session.pack()),
        fcnt_up_plus_1: Some(0),
        n_fcnt_down: Some(0),
        ..Delta::default()
    }
}

fn app_session(sealer: &Sealer, devices: &Devices, index: u32, now_us: i64) -> AppSessionRow {
    let session_id = session_id(devices, index);
    let sealed_key = sealer.seal(APP_KEY, session_id, &devices.keys(index).app_s_key);
    AppSessionRow { session_id, dev_eui: devices.dev_eui(index), sealed_key, started_at_us: now_us }
}

/// Spread as random ones are, so that the tables' order is that of real ones.
const fn session_id(devices: &Devices, index: u32) -> u64 {
    devices.dev_eui(index).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

// What the roles seal their keys for. A wrong word here shows: the server refuses the sessions at its start, or delivers the
// payload of the first uplink raw.
const NETWORK_KEYS: &str = "network session keys";
const APP_KEY: &str = "app-s-key";

const CHUNK: u32 = 2_000;
/// Session keys written at once; they share transactions.
const PARALLEL: usize = 256;
const DEADLINE: Duration = Duration::from_secs(1_200);
