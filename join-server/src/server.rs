//! The way of a Join-Request to its answer.

use std::sync::{Mutex as StdMutex, PoisonError};
use std::time::Duration;

use aes_kw::{KeyInit, KwAes128};
use async_trait::async_trait;
use mac::crypto;
use mac::ids::{DevAddr, DevEui, DevNonce, JoinEui, JoinNonce, NetId};
use mac::join_frame::{AcceptMic, DlSettings, JoinAccept, JoinReqType, JoinRequest};
use mac::keys::{AppKey, AppSKey, NetworkKeys, NwkKey};
use mac::version::MacVersion;
use prost::Message as _;
use proto::internal as pb;
use proto::port::{JoinPort, PortError};
use proto::v1;
use seam::{Bug, planted};
use sha2::{Digest as _, Sha256};
use store::{JoinCommit, JoinCommitted, JoinDevice, JoinDeviceRow, JoinTables, NonceRule, Sealer, StoreError};
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::key_check::check_root_key;
use crate::refusal::{JoinRefusal, Likeness};

/// Fills a slice with random bytes that nobody can foresee.
pub type Random = Box<dyn Fn(&mut [u8]) + Send + Sync>;

/// Answers Join-Requests out of its own tables.
pub struct JoinServer {
    tables: JoinTables,
    sealer: Sealer,
    transport: KwAes128,
    kek_label: String,
    random: Random,
    /// Joins of one device wait for each other; of others hardly ever.
    stripes: Box<[Mutex<()>]>,
    diagnoses: Diagnoses,
}

impl JoinServer {
    /// `transport_kek` wraps each AppSKey for the app-bridge, which knows it by `kek_label`; `random` draws session ids.
    pub fn new(
        tables: JoinTables,
        sealer: Sealer,
        transport_kek: [u8; 16],
        kek_label: String,
        random: Random,
    ) -> Self {
        let transport_kek = Zeroizing::new(transport_kek);
        Self {
            tables,
            sealer,
            transport: KwAes128::new((&*transport_kek).into()),
            kek_label,
            random,
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            diagnoses: Diagnoses::default(),
        }
    }

    async fn answer(&self, asked: &pb::JoinRequest) -> Result<pb::JoinAnswer, Stop> {
        let terms = Terms::read(asked)?;
        let request = JoinRequest::parse(&asked.phy_payload).map_err(|_| JoinRefusal::Malformed)?;
        let dev_eui = request.dev_eui;

        // One look-up and one CMAC before anything of the device's nonces counts: whoever does not know the key
        // learns and changes nothing (a flood of such requests writes nothing).
        let Some(device) = self.tables.device(dev_eui.value()).await? else {
            let likeness = self.look_alike(request.join_eui, dev_eui).await?;
            return Err(JoinRefusal::DeviceUnknown { dev_eui, join_eui: request.join_eui, likeness }.into());
        };
        let registered = JoinEui::new(device.row.join_eui);
        if registered != request.join_eui {
            let reversed = request.join_eui.value().swap_bytes() == registered.value();
            let likeness = reversed.then_some(Likeness::EuiReversed);
            let join_eui = request.join_eui;
            return Err(JoinRefusal::JoinEuiMismatch { dev_eui, join_eui, registered, likeness }.into());
        }
        let root = self.root_keys(&device, &terms)?;
        if !request.verify(root.join_key()) {
            let key_name = root.join_key_name();
            let likeness = self.key_likeness(&request, &root, &device);
            return Err(JoinRefusal::JoinMicMismatch { dev_eui, key_name, likeness }.into());
        }

        let _turn = self.stripe(dev_eui).lock().await;
        self.accept(asked, &request, &terms, &root, device.join_nonce).await
    }

    /// Makes the answer durable, or finds the one that was given to this very request.
    async fn accept(
        &self,
        asked: &pb::JoinRequest,
        request: &JoinRequest,
        terms: &Terms,
        root: &RootKeys,
        mut last_join_nonce: u32,
    ) -> Result<pb::JoinAnswer, Stop> {
        let dev_eui = request.dev_eui;
        let request_hash: [u8; 32] = Sha256::digest(&asked.phy_payload).into();
        for _ in 0..COMMIT_ATTEMPTS {
            // 24 bits; the highest one is the last.
            let Some(join_nonce) =
                last_join_nonce.checked_add(1).filter(|next| *next <= JoinNonce::MAX.value())
            else {
                let repeated = self.answer_given_to(dev_eui, &request_hash).await?;
                return repeated.ok_or_else(|| JoinRefusal::JoinNonceExhausted { dev_eui }.into());
            };
            let told = if planted(Bug::JoinNonceStands) { 1 } else { join_nonce };
            let answer = self.make_answer(request, terms, root, JoinNonce::new(told))?;
            let plain = Zeroizing::new(answer.encode_to_vec());
            let commit = JoinCommit {
                dev_eui: dev_eui.value(),
                join_eui: request.join_eui.value(),
                dev_nonce: request.dev_nonce.value(),
                rule: root.nonce_rule(),
                join_nonce,
                request_hash,
                answer: self.sealer.seal(PURPOSE_ANSWER, dev_eui.value(), &plain),
            };
            seam::crash_point("join.answer.before_commit");
            let refusal = match self.tables.commit_join(commit).await? {
                JoinCommitted::Committed => {
                    seam::crash_point("join.answer.committed");
                    return Ok(answer);
                }
                JoinCommitted::JoinNonceStale { last } => {
                    last_join_nonce = last;
                    continue;
                }
                JoinCommitted::DeviceUnknown => {
                    JoinRefusal::DeviceUnknown { dev_eui, join_eui: request.join_eui, likeness: None }
                }
                JoinCommitted::NonceNotRising { last } => JoinRefusal::DevNonceNotRising {
                    dev_eui,
                    last: DevNonce::new(last),
                    got: request.dev_nonce,
                },
                JoinCommitted::NonceUsed => JoinRefusal::DevNonceUsed { dev_eui, got: request.dev_nonce },
            };
            // Only a request that was answered has used its nonce: a copy of the last one comes here and no other.
            let repeated = self.answer_given_to(dev_eui, &request_hash).await?;
            return repeated.ok_or_else(|| refusal.into());
        }
        Err(Stop::Port(PortError::Unavailable(format!("device {dev_eui} joins through another join server"))))
    }

    /// The last answer to the device, if it was to this request.
    async fn answer_given_to(
        &self,
        dev_eui: DevEui,
        request_hash: &[u8; 32],
    ) -> Result<Option<pb::JoinAnswer>, Stop> {
        let Some((_, sealed)) =
            self.tables.last_answer(dev_eui.value()).await?.filter(|(hash, _)| hash == request_hash)
        else {
            return Ok(None);
        };
        let plain = self.sealer.open(PURPOSE_ANSWER, dev_eui.value(), &sealed)?;
        let answer = pb::JoinAnswer::decode(plain.as_slice())
            .map_err(|_| PortError::Internal(format!("the last answer to device {dev_eui} cannot be read")))?;
        Ok(Some(pb::JoinAnswer { repeated_answer: true, ..answer }))
    }

    fn make_answer(
        &self,
        request: &JoinRequest,
        terms: &Terms,
        root: &RootKeys,
        join_nonce: JoinNonce,
    ) -> Result<pb::JoinAnswer, Stop> {
        let accept = JoinAccept {
            join_nonce,
            net_id: terms.net_id,
            dev_addr: terms.dev_addr,
            dl_settings: terms.dl_settings,
            rx_delay_s: terms.rx_delay_s,
            cf_list: terms.cf_list,
        };
        let (keys, app_s_key, phy_payload) = root.derive(request, &accept);
        let mut wrapped_app_s_key = vec![0; app_s_key.expose().len().saturating_add(aes_kw::IV_LEN)];
        self.transport
            .wrap_key(app_s_key.expose(), &mut wrapped_app_s_key)
            .map_err(|error| PortError::Internal(format!("the AppSKey cannot be wrapped: {error}")))?;
        Ok(pb::JoinAnswer {
            phy_payload,
            session_id: self.draw_session_id(),
            dev_addr: terms.dev_addr.value(),
            f_nwk_s_int_key: keys.f_nwk_s_int.expose().to_vec(),
            s_nwk_s_int_key: keys.s_nwk_s_int.expose().to_vec(),
            nwk_s_enc_key: keys.nwk_s_enc.expose().to_vec(),
            wrapped_app_s_key,
            kek_label: self.kek_label.clone(),
            repeated_answer: false,
            dl_settings: u32::from(terms.dl_settings.to_byte()),
            rx_delay_s: u32::from(terms.rx_delay_s),
            cf_list: terms.cf_list.map(Vec::from).unwrap_or_default(),
        })
    }

    fn draw_session_id(&self) -> u64 {
        let mut bytes = [0; 8];
        (self.random)(&mut bytes);
        // 0 stands for "no session" in the messages.
        u64::from_be_bytes(bytes).max(1)
    }

    fn root_keys(&self, device: &JoinDevice, terms: &Terms) -> Result<RootKeys, Stop> {
        let dev_eui = DevEui::new(device.row.dev_eui);
        let version = MacVersion::from_number(device.row.mac_version).ok_or_else(|| {
            PortError::Internal(format!("device {dev_eui} is stored with an unknown LoRaWAN version"))
        })?;
        let app_key = || {
            let sealed = device.row.sealed_app_key.as_deref();
            self.open_key(dev_eui, "AppKey", PURPOSE_APP_KEY, sealed).map(AppKey::new)
        };
        if !version.is_1_1() {
            if terms.dl_settings.opt_neg {
                return Err(Stop::Port(PortError::FailedPrecondition(format!(
                    "device {dev_eui} is registered here as LoRaWAN {version}, which has no OptNeg"
                ))));
            }
            return Ok(RootKeys::V10 { version, app_key: app_key()? });
        }
        let sealed = device.row.sealed_nwk_key.as_deref();
        let nwk_key = self.open_key(dev_eui, "NwkKey", PURPOSE_NWK_KEY, sealed).map(NwkKey::new)?;
        if terms.dl_settings.opt_neg {
            Ok(RootKeys::V11 { nwk_key, app_key: app_key()?, dev_eui })
        } else {
            Ok(RootKeys::V11On10 { nwk_key })
        }
    }

    fn open_key(
        &self,
        dev_eui: DevEui,
        key_name: &'static str,
        purpose: &str,
        sealed: Option<&[u8]>,
    ) -> Result<[u8; 16], Stop> {
        let sealed = sealed.ok_or(JoinRefusal::NoRootKey { dev_eui, key_name })?;
        let plain = self.sealer.open(purpose, dev_eui.value(), sealed);
        let key = plain.ok().and_then(|plain| plain.as_slice().try_into().ok());
        Ok(key.ok_or(JoinRefusal::KeyUnreadable { dev_eui, key_name })?)
    }

    /// Looks for a registered device that the EUIs would fit if they were swapped or reversed.
    async fn look_alike(&self, join_eui: JoinEui, dev_eui: DevEui) -> Result<Option<Likeness>, Stop> {
        if !self.diagnoses.take(Instant::now()) {
            return Ok(None);
        }
        let tries = [
            (dev_eui.value().swap_bytes(), None, Likeness::EuiReversed),
            (join_eui.value(), Some(dev_eui.value()), Likeness::EuisSwapped),
            (join_eui.value().swap_bytes(), Some(dev_eui.value().swap_bytes()), Likeness::EuisSwapped),
        ];
        for (dev_eui, join_eui, likeness) in tries {
            let found = self.tables.device(dev_eui).await?;
            if found.is_some_and(|device| join_eui.is_none_or(|join_eui| join_eui == device.row.join_eui)) {
                return Ok(Some(likeness));
            }
        }
        Ok(None)
    }

    /// Tries the key in the other byte order, and for a 1.1 device its other key.
    fn key_likeness(&self, request: &JoinRequest, root: &RootKeys, device: &JoinDevice) -> Option<Likeness> {
        if !self.diagnoses.take(Instant::now()) {
            return None;
        }
        let mut reversed = Zeroizing::new(*root.join_key());
        reversed.reverse();
        if request.verify(&reversed) {
            return Some(Likeness::KeyReversed);
        }
        let sealed = device.row.sealed_app_key.as_deref().filter(|_| !matches!(root, RootKeys::V10 { .. }))?;
        let app_key =
            self.open_key(request.dev_eui, "AppKey", PURPOSE_APP_KEY, Some(sealed)).map(AppKey::new).ok()?;
        request.verify(app_key.expose()).then_some(Likeness::AppKeyInsteadOfNwkKey)
    }

    #[allow(clippy::indexing_slicing, reason = "the remainder is below the number of stripes")]
    fn stripe(&self, dev_eui: DevEui) -> &Mutex<()> {
        // EUIs of one maker differ in their low bits; folding keeps those of other habits apart too.
        let folded = dev_eui.value() ^ (dev_eui.value() >> 32);
        let index = usize::try_from(folded % STRIPES).unwrap_or(0);
        &self.stripes[index]
    }

    fn seal_root_key(
        &self,
        dev_eui: DevEui,
        join_eui: JoinEui,
        (key_name, purpose): (&str, &str),
        bytes: &[u8],
    ) -> Result<Option<Vec<u8>>, PortError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let key = <&[u8; 16]>::try_from(bytes).map_err(|_| {
            PortError::InvalidArgument(format!("the {key_name} has {} bytes, a key has 16", bytes.len()))
        })?;
        check_root_key(key, dev_eui, join_eui).map_err(|weak| {
            PortError::InvalidArgument(format!(
                "the {key_name} {weak}; take the one from the device's label, or draw one and write it into the device"
            ))
        })?;
        Ok(Some(self.sealer.seal(purpose, dev_eui.value(), key)))
    }
}

impl std::fmt::Debug for JoinServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinServer").field("kek_label", &self.kek_label).finish_non_exhaustive()
    }
}

#[async_trait]
impl JoinPort for JoinServer {
    async fn join(&self, request: pb::JoinRequest) -> Result<pb::JoinResponse, PortError> {
        let result = match self.answer(&request).await {
            Ok(answer) => pb::join_response::Result::Answer(answer),
            Err(Stop::Refused(refusal)) => pb::join_response::Result::Refused((*refusal).into()),
            Err(Stop::Port(error)) => return Err(error),
        };
        Ok(pb::JoinResponse { result: Some(result) })
    }

    async fn put_join_device(&self, request: pb::PutJoinDeviceRequest) -> Result<(), PortError> {
        // Taken apart so that the keys are wiped when the request is done with.
        let app_key = Zeroizing::new(request.app_key);
        let nwk_key = Zeroizing::new(request.nwk_key);
        if request.dev_eui == 0 {
            return Err(PortError::InvalidArgument(
                "the DevEUI is all zeros; take it from the device's label".into(),
            ));
        }
        if MacVersion::from_number(request.mac_version).is_none() {
            let number = request.mac_version;
            return Err(PortError::InvalidArgument(format!(
                "MAC version {number} is not known to this join server"
            )));
        }
        let (dev_eui, join_eui) = (DevEui::new(request.dev_eui), JoinEui::new(request.join_eui));
        let row = JoinDeviceRow {
            dev_eui: request.dev_eui,
            join_eui: request.join_eui,
            mac_version: request.mac_version,
            sealed_app_key: self.seal_root_key(dev_eui, join_eui, ("AppKey", PURPOSE_APP_KEY), &app_key)?,
            sealed_nwk_key: self.seal_root_key(dev_eui, join_eui, ("NwkKey", PURPOSE_NWK_KEY), &nwk_key)?,
        };
        self.tables.put_device(row).await.map_err(port_error)
    }

    async fn delete_join_device(&self, dev_eui: u64) -> Result<(), PortError> {
        self.tables.delete_device(dev_eui).await.map(drop).map_err(port_error)
    }

    async fn join_keys_status(&self, dev_eui: u64) -> Result<Option<v1::GetKeysStatusResponse>, PortError> {
        let device = self.tables.device(dev_eui).await.map_err(port_error)?;
        Ok(device.map(|device| v1::GetKeysStatusResponse {
            has_app_key: device.row.sealed_app_key.is_some(),
            has_nwk_key: device.row.sealed_nwk_key.is_some(),
            dev_nonces_used: device.nonces_used,
            last_dev_nonce: device.last_dev_nonce.map(u32::from),
            join_nonce: device.join_nonce,
        }))
    }
}

/// What the network server wants in the Join-Accept.
struct Terms {
    net_id: NetId,
    dev_addr: DevAddr,
    dl_settings: DlSettings,
    rx_delay_s: u8,
    cf_list: Option<[u8; 16]>,
}

impl Terms {
    fn read(asked: &pb::JoinRequest) -> Result<Self, PortError> {
        let refuse = |what: String| PortError::InvalidArgument(format!("the join request's {what}"));
        if asked.net_id > 0x00ff_ffff {
            return Err(refuse(format!("NetID {:x} has more than 24 bits", asked.net_id)));
        }
        let dl_settings = u8::try_from(asked.dl_settings)
            .map_err(|_| refuse(format!("DLSettings {:x} have more than 8 bits", asked.dl_settings)))?;
        let rx_delay_s = u8::try_from(asked.rx_delay_s)
            .ok()
            .filter(|delay| *delay <= 15)
            .ok_or_else(|| refuse(format!("RxDelay {} is above 15 s", asked.rx_delay_s)))?;
        let cf_list = match asked.cf_list.as_slice() {
            [] => None,
            list => {
                Some(list.try_into().map_err(|_| refuse(format!("CFList has {} bytes, not 16", list.len())))?)
            }
        };
        Ok(Self {
            net_id: NetId::new(asked.net_id),
            dev_addr: DevAddr::new(asked.dev_addr),
            dl_settings: DlSettings::from_byte(dl_settings),
            rx_delay_s,
            cf_list,
        })
    }
}

/// The root keys a join needs, by the version of the device and of the network.
enum RootKeys {
    V10 {
        version: MacVersion,
        app_key: AppKey,
    },
    V11 {
        nwk_key: NwkKey,
        app_key: AppKey,
        dev_eui: DevEui,
    },
    /// A 1.1 device whose network speaks 1.0.x with it: everything comes from the NwkKey (TS001-1.1 §6.1.1.2).
    V11On10 {
        nwk_key: NwkKey,
    },
}

impl RootKeys {
    fn join_key(&self) -> &[u8; 16] {
        match self {
            Self::V10 { app_key, .. } => app_key.expose(),
            Self::V11 { nwk_key, .. } | Self::V11On10 { nwk_key } => nwk_key.expose(),
        }
    }

    fn join_key_name(&self) -> &'static str {
        match self {
            Self::V10 { .. } => "AppKey",
            Self::V11 { .. } | Self::V11On10 { .. } => "NwkKey",
        }
    }

    fn nonce_rule(&self) -> NonceRule {
        match self {
            Self::V10 { version, .. } if !version.dev_nonce_is_counter() => NonceRule::UnusedEver,
            Self::V10 { .. } | Self::V11 { .. } | Self::V11On10 { .. } => NonceRule::StrictlyRising,
        }
    }

    /// The session keys and the Join-Accept's PHYPayload.
    fn derive(&self, request: &JoinRequest, accept: &JoinAccept) -> (NetworkKeys, AppSKey, Vec<u8>) {
        let JoinRequest { join_eui, dev_nonce, .. } = *request;
        match self {
            Self::V10 { .. } | Self::V11On10 { .. } => {
                let root_key = self.join_key();
                let (keys, app_s_key) =
                    crypto::derive_10(root_key, accept.join_nonce, accept.net_id, dev_nonce);
                (keys, app_s_key, accept.seal(&AcceptMic::Plain(root_key), root_key))
            }
            Self::V11 { nwk_key, app_key, dev_eui } => {
                let (keys, app_s_key) =
                    crypto::derive_11(nwk_key, app_key, accept.join_nonce, join_eui, dev_nonce);
                let js_int_key = crypto::js_int_key(nwk_key, *dev_eui);
                let request = JoinReqType::Join;
                let mic = AcceptMic::OptNeg { key: &js_int_key, request, join_eui, dev_nonce };
                (keys, app_s_key, accept.seal(&mic, nwk_key.expose()))
            }
        }
    }
}

/// Lets only so many refusals a second be looked into more closely: in a flood of unknown devices the extra
/// look-ups would be what hurts.
#[derive(Default)]
struct Diagnoses {
    second: StdMutex<Option<(Instant, u32)>>,
}

impl Diagnoses {
    fn take(&self, now: Instant) -> bool {
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *second {
            Some((since, taken)) if now.saturating_duration_since(*since) < Duration::from_secs(1) => {
                *taken = taken.saturating_add(1);
                *taken <= DIAGNOSES_PER_SECOND
            }
            _ => {
                *second = Some((now, 1));
                true
            }
        }
    }
}

/// Why the way ended.
enum Stop {
    /// The device's or its operator's fault.
    Refused(Box<JoinRefusal>),
    /// Ours, or the network server's.
    Port(PortError),
}

impl From<JoinRefusal> for Stop {
    fn from(refusal: JoinRefusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<PortError> for Stop {
    fn from(error: PortError) -> Self {
        Self::Port(error)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Port(port_error(error))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn port_error(error: StoreError) -> PortError {
    let text = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    #[allow(clippy::wildcard_enum_match_arm, reason = "the others do not pass by themselves")]
    match error {
        StoreError::Closed | StoreError::Sql { .. } | StoreError::Io { .. } => PortError::Unavailable(text),
        _ => PortError::Internal(text),
    }
}

const STRIPES: u64 = 256;
const COMMIT_ATTEMPTS: u32 = 4;
const DIAGNOSES_PER_SECOND: u32 = 10;
const PURPOSE_ANSWER: &str = "join-answer";
const PURPOSE_APP_KEY: &str = "root-app-key";
const PURPOSE_NWK_KEY: &str = "root-nwk-key";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ten_refusals_a_second_are_looked_into_and_ten_more_in_the_next() {
        let diagnoses = Diagnoses::default();
        let begun = Instant::now();
        let looked_into = |after_ms| diagnoses.take(begun + Duration::from_millis(after_ms));
        assert!((0..10).all(&looked_into));
        assert!(!looked_into(10) && !looked_into(999));
        assert!((1_000..1_010).all(&looked_into));
        assert!(!looked_into(1_010));
    }

    #[test]
    fn a_net_id_has_24_bits() {
        let asked = |net_id| pb::JoinRequest { net_id, ..pb::JoinRequest::default() };
        assert_eq!(Terms::read(&asked(0x00ff_ffff)).unwrap().net_id, NetId::new(0x00ff_ffff));
        let refused = Terms::read(&asked(0x0100_0000)).map(|_| ()).unwrap_err();
        assert!(matches!(&refused, PortError::InvalidArgument(text) if text.contains("1000000")), "{refused}");
    }

    #[test]
    fn a_store_that_is_away_is_asked_again_and_a_damaged_one_is_not() {
        assert!(matches!(port_error(StoreError::Closed), PortError::Unavailable(_)));
        let damaged = StoreError::Damaged { what: "a row" };
        assert!(matches!(port_error(damaged), PortError::Internal(text) if text.contains("a row")));
    }
}
