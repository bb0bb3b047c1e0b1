//! What the app-bridge may ask: the [`NetworkPort`] of this process.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use mac::ids::{DevAddr, DevEui, FCntUp, GatewayEui, SessionId};
use mac::keys::{FNwkSIntKey, NetworkKeys, NwkSEncKey, SNwkSIntKey};
use mac::session::{AbpParams, Activation, Session};
use mac::units::Timestamp;
use mac::uplink::QueueHint;
use proto::internal as pb;
use proto::port::{LogPage, NetworkPort, PortError};
use proto::v1;
use seam::{Bug, planted};
use store::{NetworkDeviceRow, Store, StoreError};
use tokio::sync::oneshot;

use crate::budget::LOG_PAGE_MAX;
use crate::gateway::{GatewayStatus, Gateways};
use crate::index::Candidate;
use crate::owner::{Device, Owner, Shared, Taken};
use crate::owner_queue::{OwnerQueue, owner_of, run_on};
use crate::profiles::{ProfileEntry, Profiles, from_message};
use crate::run::gateway_config;

/// See the file's head.
pub struct Control {
    pub(crate) store: Store,
    pub(crate) shared: Arc<Shared>,
    pub(crate) owners: Vec<OwnerQueue>,
    pub(crate) profiles: Arc<Profiles>,
    pub(crate) gateways: Arc<Gateways>,
    pub(crate) started_at: Timestamp,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
    /// Runs something on the owner of a device, in turn with its frames.
    async fn on_owner<T: Send + 'static>(
        &self,
        dev_eui: DevEui,
        work: impl FnOnce(&mut Owner) -> T + Send + 'static,
    ) -> Result<T, PortError> {
        let owner = self.owners.get(owner_of(dev_eui, self.owners.len()));
        self.on_thread(owner.ok_or_else(overloaded)?, work).await
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        owner: &OwnerQueue,
        work: impl FnOnce(&mut Owner) -> T + Send + 'static,
    ) -> Result<T, PortError> {
        run_on(owner, work).await.ok_or_else(overloaded)
    }

    fn profile(&self, id: &str) -> Result<Arc<ProfileEntry>, PortError> {
        self.profiles.find(id).ok_or_else(|| {
            PortError::FailedPrecondition(format!(
                "the network server has no profile `{id}`: create the profile again"
            ))
        })
    }
}

#[async_trait]
impl NetworkPort for Control {
    async fn put_profile(&self, message: v1::Profile) -> Result<(), PortError> {
        let profile = from_message(&message).map_err(PortError::InvalidArgument)?;
        self.store.network().put_profile(&message).await.map_err(of_store)?;
        self.profiles.put(&message.id, profile);
        let Some(entry) = self.profiles.find(&message.id) else { return Ok(()) };
        // The channels of a 1.1 device are part of its MIC; the receivers have to learn them.
        for owner in &self.owners {
            let entry = Arc::clone(&entry);
            let work = move |owner: &mut Owner| owner.renew_candidates(&entry);
            self.on_thread(owner, work).await?;
        }
        Ok(())
    }

    async fn delete_profile(&self, id: &str) -> Result<(), PortError> {
        self.store.network().delete_profile(id).await.map_err(of_store)?;
        self.profiles.remove(id);
        Ok(())
    }

    async fn put_device(&self, request: pb::PutDeviceRequest) -> Result<(), PortError> {
        let profile = self.profile(&request.profile_id)?;
        let dev_eui = DevEui::new(request.dev_eui);
        let row = NetworkDeviceRow {
            dev_eui: request.dev_eui,
            join_eui: request.join_eui,
            profile_id: request.profile_id,
            disabled: request.disabled,
            allow_fcnt_reset: request.allow_fcnt_reset,
        };
        self.store.network().put_device(row).await.map_err(of_store)?;
        seam::crash_point("network.device.written");
        self.on_owner(dev_eui, move |owner| {
            let shared = Arc::clone(&owner.shared);
            let is_new = !owner.devices.contains_key(&dev_eui);
            if is_new {
                shared.sizes.devices.fetch_add(1, Ordering::Relaxed);
            }
            let device = owner.devices.entry(dev_eui).or_insert_with(|| {
                Box::new(Device {
                    join_eui: 0,
                    profile: Arc::clone(&profile),
                    disabled: false,
                    allow_fcnt_reset: false,
                    queue: None,
                    current: None,
                    pending: Vec::new(),
                    answer: Weak::new(),
                })
            });
            device.join_eui = request.join_eui;
            device.profile = profile;
            device.disabled = request.disabled;
            device.allow_fcnt_reset = request.allow_fcnt_reset;
            let profile = device.profile.load();
            for session in device.sessions() {
                shared.index.put(Candidate::new(session, &profile, device.allow_fcnt_reset));
            }
        })
        .await
    }

    async fn delete_device(&self, dev_eui: u64) -> Result<(), PortError> {
        let id = DevEui::new(dev_eui);
        let _turn = self.shared.turn(id).await;
        self.store.network().delete_device(dev_eui).await.map_err(of_store)?;
        seam::crash_point("network.device.deleted");
        self.on_owner(id, move |owner| {
            let Some(device) = owner.devices.remove(&id) else { return };
            owner.shared.sizes.devices.fetch_sub(1, Ordering::Relaxed);
            owner.shared.sizes.sessions.fetch_sub(device.sessions().count() as u64, Ordering::Relaxed);
            for session in device.sessions() {
                owner.shared.index.remove(session);
            }
        })
        .await?;
        let delta = pb::Delta { dev_eui, removed: true, ..pb::Delta::default() };
        self.shared.journal.commit(Vec::new(), vec![delta]).await.map(drop).map_err(of_store)
    }

    async fn activate(&self, request: pb::ActivateRequest) -> Result<(), PortError> {
        let dev_eui = DevEui::new(request.dev_eui);
        let keys = network_keys(&request)?;
        let _turn = self.shared.turn(dev_eui).await;
        let now = self.shared.clock.wall();
        let (committed, wait) = oneshot::channel();
        let taken = self
            .on_owner(dev_eui, move |owner| {
                owner.personalise(dev_eui, committed, |device| {
                    let profile = device.profile.load();
                    // The same keys once more: counters that were used with them are not used again.
                    let known = device
                        .sessions()
                        .filter(|session| session.keys == keys && !planted(Bug::CountersBeginAgain));
                    let asked = (request.fcnt_up.map(FCntUp::new), request.fcnt_down);
                    let (fcnt_up, fcnt_down) = known.fold(asked, |(up, down), known| {
                        (up.max(known.fcnt_up), down.max(known.n_fcnt_down).max(known.a_fcnt_down))
                    });
                    let params = AbpParams {
                        id: SessionId::new(request.session_id),
                        dev_eui,
                        dev_addr: DevAddr::new(request.dev_addr),
                        version: profile.mac_version,
                        keys,
                        fcnt_up,
                        fcnt_down,
                    };
                    Session::new_abp(&profile, params, now)
                })
            })
            .await?;
        if taken == Taken::NoDevice {
            return Err(PortError::NotFound(format!("the network server does not know device {dev_eui}")));
        }
        wait.await.map_err(|_| of_store(StoreError::Closed))?;
        seam::crash_point("network.session.activated");
        Ok(())
    }

    async fn device_state(&self, dev_eui: u64) -> Result<Option<v1::DeviceState>, PortError> {
        let id = DevEui::new(dev_eui);
        self.on_owner(id, move |owner| owner.devices.get(&id).map(|device| state_of(device))).await
    }

    async fn put_gateway(&self, gateway: v1::Gateway) -> Result<(), PortError> {
        let eui: GatewayEui = gateway
            .gateway_eui
            .parse()
            .map_err(|error: mac::ids::IdError| PortError::InvalidArgument(format!("gateway_eui: {error}")))?;
        self.store.network().put_gateway(eui.value(), &gateway).await.map_err(of_store)?;
        self.gateways.put(gateway_config(eui, &gateway));
        Ok(())
    }

    async fn delete_gateway(&self, gateway_eui: u64) -> Result<(), PortError> {
        self.store.network().delete_gateway(gateway_eui).await.map_err(of_store)?;
        self.gateways.remove(GatewayEui::new(gateway_eui));
        Ok(())
    }

    async fn gateways(
        &self,
        gateway_eui: Option<u64>,
    ) -> Result<Vec<v1::list_gateways_response::Item>, PortError> {
        let mut stored = self.store.network().load_gateways().await.map_err(of_store)?;
        stored.retain(|(eui, _)| gateway_eui.is_none_or(|wanted| wanted == *eui));
        Ok(stored
            .into_iter()
            .map(|(eui, gateway)| v1::list_gateways_response::Item {
                gateway: Some(gateway),
                status: self.gateways.status(GatewayEui::new(eui)).map(status_message),
            })
            .collect())
    }

    async fn unseen_gateways(&self) -> Result<Vec<v1::list_unseen_gateways_response::Item>, PortError> {
        let unseen = self.gateways.unseen();
        Ok(unseen
            .into_iter()
            .map(|gateway| v1::list_unseen_gateways_response::Item {
                gateway_eui: gateway.gateway.to_string(),
                address: gateway.address.to_string(),
                datagrams: gateway.datagrams,
                first_seen_at_us: gateway.first_seen_at.us(),
                last_seen_at_us: gateway.last_seen_at.us(),
            })
            .collect())
    }

    async fn drops(&self, request: pb::DropsRequest) -> Result<Vec<v1::list_drops_response::Drop>, PortError> {
        let gateway = Some(request.gateway_eui).filter(|eui| *eui != 0).map(GatewayEui::new);
        let dev_eui = Some(request.dev_eui).filter(|eui| *eui != 0).map(DevEui::new);
        let dev_addr = match dev_eui {
            Some(id) => {
                let find = move |owner: &mut Owner| {
                    owner.devices.get(&id).and_then(|d| d.current.as_ref()).map(|s| s.dev_addr)
                };
                self.on_owner(id, find).await?
            }
            None => None,
        };
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        Ok(self.shared.drops.last(gateway, dev_eui, dev_addr, limit))
    }

    async fn set_queue_hints(&self, hints: Vec<pb::QueueHint>) -> Result<(), PortError> {
        let mut by_owner: Vec<Vec<pb::QueueHint>> = self.owners.iter().map(|_| Vec::new()).collect();
        for hint in hints {
            if let Some(own) = by_owner.get_mut(owner_of(DevEui::new(hint.dev_eui), self.owners.len())) {
                own.push(hint);
            }
        }
        for (owner, hints) in self.owners.iter().zip(by_owner) {
            if hints.is_empty() {
                continue;
            }
            let work = move |owner: &mut Owner| {
                for hint in hints {
                    if let Some(device) = owner.devices.get_mut(&DevEui::new(hint.dev_eui)) {
                        device.queue = (hint.pending > 0).then_some(QueueHint { next_len: hint.next_len });
                    }
                }
            };
            self.on_thread(owner, work).await?;
        }
        Ok(())
    }

    async fn append_records(&self, records: Vec<pb::Record>) -> Result<u64, PortError> {
        self.shared.journal.commit(records, Vec::new()).await.map_err(of_store)
    }

    async fn read_log(&self, request: pb::ReadLogRequest) -> Result<LogPage, PortError> {
        let log = self.store.log();
        if log.head() <= request.after_seq && request.wait_ms > 0 {
            let mut head = log.subscribe();
            let wait = Duration::from_millis(u64::from(request.wait_ms));
            // A time-out leaves an empty page, which says so.
            let _ = tokio::time::timeout(wait, head.wait_for(|head| *head > request.after_seq)).await;
        }
        let max_records = request.max_records.clamp(1, LOG_PAGE_MAX);
        log.read(request.after_seq, usize::try_from(max_records).unwrap_or(usize::MAX)).await.map_err(of_store)
    }

    async fn stats(&self) -> Result<v1::GetInfoResponse, PortError> {
        let metrics = &self.shared.metrics;
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let drops = self.shared.drops.counts().filter(|(_, count)| *count > 0);
        Ok(v1::GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            roles: vec!["network-server".to_owned()],
            started_at_us: self.started_at.us(),
            devices: read(&self.shared.sizes.devices),
            sessions: read(&self.shared.sizes.sessions),
            gateways: self.gateways.all().len() as u64,
            drops: drops.map(|(reason, count)| (reason.code().to_owned(), count)).collect(),
            uplinks: read(&metrics.uplinks),
            copies: read(&metrics.copies),
            joins: read(&metrics.joins),
            downlinks_sent: read(&metrics.downlinks_sent),
            log_head: self.store.log().head(),
        })
    }
}

fn network_keys(request: &pb::ActivateRequest) -> Result<NetworkKeys, PortError> {
    let key = |bytes: &[u8], name: &str| {
        <[u8; 16]>::try_from(bytes)
            .map_err(|_| PortError::InvalidArgument(format!("{name} has {} bytes; a key has 16", bytes.len())))
    };
    Ok(NetworkKeys {
        f_nwk_s_int: FNwkSIntKey::new(key(&request.f_nwk_s_int_key, "f_nwk_s_int_key")?),
        s_nwk_s_int: SNwkSIntKey::new(key(&request.s_nwk_s_int_key, "s_nwk_s_int_key")?),
        nwk_s_enc: NwkSEncKey::new(key(&request.nwk_s_enc_key, "nwk_s_enc_key")?),
    })
}

fn state_of(device: &Device) -> v1::DeviceState {
    let pending_sessions = u32::try_from(device.pending.len()).unwrap_or(u32::MAX);
    let last_seen = device.current.as_ref().and_then(|session| session.last_seen);
    let last_seen_at_us = last_seen.map(Timestamp::us);
    let Some(session) = &device.current else {
        return v1::DeviceState { pending_sessions, last_seen_at_us, ..v1::DeviceState::default() };
    };
    let mac = &session.mac;
    let data_rate = session.last_dr.or(mac.dr).map_or(0, |dr| u32::from(dr.value()));
    v1::DeviceState {
        has_session: true,
        dev_addr: session.dev_addr.to_string(),
        session_id: session.id.value(),
        activation: match session.activation {
            Activation::Abp => "abp".to_owned(),
            Activation::Otaa => "otaa".to_owned(),
        },
        fcnt_up: session.fcnt_up.map(FCntUp::value),
        fcnt_down: session.n_fcnt_down,
        afcnt_down: session.a_fcnt_down,
        mac_version: session.version.number(),
        last_seen_at_us,
        battery: mac.status.map(|status| u32::from(status.battery)),
        margin_db: mac.status.map(|status| i32::from(status.margin_db)),
        data_rate,
        tx_power_index: u32::from(mac.tx_power),
        nb_trans: u32::from(mac.nb_trans),
        rx1_delay_s: u32::from(mac.rx1_delay_s),
        pending_sessions,
        session_started_at_us: Some(i64::from(mac.started_at_s).saturating_mul(1_000_000)),
    }
}

fn status_message(status: GatewayStatus) -> v1::GatewayStatus {
    v1::GatewayStatus {
        online: status.online,
        last_push_at_us: status.last_push_at.map(Timestamp::us),
        last_pull_at_us: status.last_pull_at.map(Timestamp::us),
        downlink_path: status.downlink_path.map(|path| path.to_string()).unwrap_or_default(),
        round_trip_ms: status.round_trip_ms,
        tx_ack_errors: status.tx_ack_errors.into_iter().collect(),
        uplinks_received: status.uplinks_received,
        downlinks_sent: status.downlinks_sent,
        downlinks_acknowledged: status.downlinks_acknowledged,
        protocol_version: u32::from(status.protocol_version),
        stat_json: status.stat_json.unwrap_or_default(),
        last_stat_at_us: status.last_stat_at.map(Timestamp::us),
        path_moves_refused: status.path_moves_refused,
    }
}

fn overloaded() -> PortError {
    PortError::Unavailable("the network server is stopping or overloaded: try again".to_owned())
}

fn of_store(error: StoreError) -> PortError {
    if matches!(error, StoreError::Closed) {
        PortError::Unavailable("the network server is stopping".to_owned())
    } else if error.is_disk_trouble() {
        PortError::Unavailable(error.with_source())
    } else {
        PortError::Internal(error.to_string())
    }
}
