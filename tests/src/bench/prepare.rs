//! Registers what a measurement needs through the API, as an operator's program would.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _};
use loam_tests::Client;
use loam_tests::story::hex;
use proto::v1::{self, Region};
use tokio::runtime::Runtime;

use super::devices::Devices;
use super::say;
use super::server::Server;

/// The three gateways of all measurements.
pub(crate) const GATEWAYS: [u64; 3] = [0x00ba_cc00_0000_0001, 0x00ba_cc00_0000_0002, 0x00ba_cc00_0000_0003];
/// The application of all devices.
pub(crate) const APPLICATION: &str = "bench";
/// The profile of all devices.
pub(crate) const PROFILE: &str = "bench";

/// What a sensor of this payload would come with.
pub(crate) const CODEC: &str = r#"
function signed(high, low) {
  var value = (high << 8) | low;
  return value > 0x7fff ? value - 0x10000 : value;
}
function decodeUplink(input) {
  var bytes = input.bytes;
  if (bytes.length !== 20) {
    return { errors: ["a payload of " + bytes.length + " bytes"] };
  }
  var depths = [];
  for (var at = 2; at < 20; at += 6) {
    depths.push({
      moisture_percent: (((bytes[at] << 8) | bytes[at + 1]) % 1000) / 10,
      temperature_c: signed(bytes[at + 2], bytes[at + 3]) / 10,
      conductivity_us_cm: (bytes[at + 4] << 8) | bytes[at + 5],
    });
  }
  return { data: { battery_mv: (bytes[0] << 8) | bytes[1], depths: depths } };
}
"#;

/// Calls of the API from a thread without a runtime.
#[derive(Debug)]
pub(crate) struct Registrar {
    runtime: Runtime,
    client: Client,
}

impl Registrar {
    pub(crate) fn new(server: &Server) -> Result<Self> {
        // A thread of its own, so that the connection is served between the calls too.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = {
            let _inside = runtime.enter();
            server.client()?
        };
        Ok(Self { runtime, client })
    }

    /// The application, the codec, a profile of `region` and the gateways.
    pub(crate) fn register_basics(&self, region: Region) -> Result<()> {
        let mut client = self.client.clone();
        self.run("register application, codec, profile and gateways", async move {
            let application = v1::CreateApplicationRequest { id: APPLICATION.into(), name: "Bench".into() };
            client.applications.create_application(application).await?;
            let codec = v1::SetCodecRequest { id: "bench".into(), script: CODEC.into() };
            client.codecs.set_codec(codec).await?;
            client.profiles.create_profile(v1::CreateProfileRequest { profile: Some(profile(region)) }).await?;
            for eui in GATEWAYS {
                let gateway = v1::Gateway {
                    gateway_eui: format!("{eui:016x}"),
                    name: format!("gateway {eui:x}"),
                    region: region.into(),
                    ..v1::Gateway::default()
                };
                client.gateways.create_gateway(v1::CreateGatewayRequest { gateway: Some(gateway) }).await?;
            }
            Ok(())
        })
    }

    /// Registers and personalises devices.
    pub(crate) fn register_abp(&self, devices: &Devices) -> Result<()> {
        let begun = Instant::now();
        let client = &self.client;
        let calls =
            futures_util::stream::iter(0..devices.count).map(|index| register_one_abp(client, devices, index));
        self.run(
            "register devices",
            calls.buffer_unordered(PARALLEL).try_for_each(|()| std::future::ready(Ok(()))),
        )?;
        say(format!(
            "{} devices registered and activated in {:.1} s",
            devices.count,
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// Registers devices that join.
    pub(crate) fn register_otaa(&self, devices: Vec<(v1::Device, v1::RootKeys)>) -> Result<()> {
        let begun = Instant::now();
        let count = devices.len();
        let calls = futures_util::stream::iter(devices).map(|(device, keys)| {
            let mut client = self.client.devices.clone();
            async move {
                let request = v1::CreateDeviceRequest { device: Some(device), keys: Some(keys) };
                client.create_device(request).await.context("CreateDevice").map(drop)
            }
        });
        self.run(
            "register devices",
            calls.buffer_unordered(PARALLEL).try_for_each(|()| std::future::ready(Ok(()))),
        )?;
        say(format!("{count} devices registered in {:.1} s", begun.elapsed().as_secs_f64()));
        Ok(())
    }

    /// What the server says of itself.
    pub(crate) fn info(&self) -> Result<v1::GetInfoResponse> {
        let mut client = self.client.system.clone();
        self.run("GetInfo", async move { Ok(client.get_info(v1::GetInfoRequest {}).await?.into_inner()) })
    }

    fn run<T>(&self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            match tokio::time::timeout(PREPARE_DEADLINE, work).await {
                Ok(done) => done.with_context(|| format!("cannot {what}")),
                Err(_) => bail!("cannot {what} within {PREPARE_DEADLINE:?}"),
            }
        })
    }
}

async fn register_one_abp(client: &Client, devices: &Devices, index: u32) -> Result<()> {
    let mut client = client.devices.clone();
    let dev_eui = format!("{:016x}", devices.dev_eui(index));
    let keys = devices.keys(index);
    let request = v1::CreateDeviceRequest { device: Some(device(devices.dev_eui(index), "")), keys: None };
    client.create_device(request).await.context("CreateDevice")?;
    let session = v1::ActivateDeviceRequest {
        dev_eui,
        dev_addr: format!("{:08x}", devices.dev_addr(index)),
        nwk_s_key: hex(&keys.nwk_s_key),
        app_s_key: hex(&keys.app_s_key),
        ..v1::ActivateDeviceRequest::default()
    };
    client.activate_device(session).await.context("ActivateDevice")?;
    Ok(())
}

/// A device of [`PROFILE`]; `join_eui` is empty for one that is personalised.
pub(crate) fn device(dev_eui: u64, join_eui: &str) -> v1::Device {
    v1::Device {
        dev_eui: format!("{dev_eui:016x}"),
        join_eui: join_eui.to_owned(),
        application_id: APPLICATION.into(),
        profile_id: PROFILE.into(),
        name: format!("device {dev_eui:x}"),
        ..v1::Device::default()
    }
}

/// RX1 after 1 s, as personalised devices boot, so that no MAC command has to tell them otherwise.
fn profile(region: Region) -> v1::Profile {
    v1::Profile {
        id: PROFILE.into(),
        name: "Bench".into(),
        region: region.into(),
        rx_delay_s: 1,
        sub_bands: if region == Region::Us915 { vec![2] } else { Vec::new() },
        codec_id: "bench".into(),
        ..v1::Profile::default()
    }
}

/// Calls under way at once.
const PARALLEL: usize = 64;
const PREPARE_DEADLINE: Duration = Duration::from_secs(300);
