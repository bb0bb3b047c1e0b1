//! A packet forwarder without a will of its own: each datagram it sends is the test's decision.
//!
//! [`simulator::gateway::VirtualGateway`] behaves as a forwarder should; this one is for what else gateways do.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use simulator::device::Uplink;
use tokio::net::UdpSocket;

use crate::{DEADLINE, eventually};

const VERSION: u8 = 2;
const PUSH_DATA: u8 = 0;
const PULL_DATA: u8 = 2;
const PULL_RESP: u8 = 3;
const PULL_ACK: u8 = 4;
const TX_ACK: u8 = 5;

/// See the file's head.
#[derive(Debug)]
pub struct Forwarder {
    socket: UdpSocket,
    eui: u64,
}

/// What the server asked to send.
#[derive(Clone, Debug)]
pub struct PullResp {
    /// Names the request in its TX_ACK.
    pub token: [u8; 2],
    /// The counter at which it starts.
    pub tmst_us: u32,
    /// Frequency in Hz.
    pub freq_hz: u32,
    /// Data rate.
    pub data_rate: String,
    /// The frame.
    pub phy_payload: Vec<u8>,
}

impl Forwarder {
    /// Opens the downlink path of a registered gateway.
    pub async fn connect(server: SocketAddr, eui: u64) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        socket.connect(server).await.expect("an address");
        let forwarder = Self { socket, eui };
        eventually("a PULL_ACK", async || {
            forwarder.send(PULL_DATA, [0, 0], b"").await;
            let mut buffer = [0; 64];
            let wait = std::time::Duration::from_millis(100);
            let received = tokio::time::timeout(wait, forwarder.socket.recv(&mut buffer)).await;
            (matches!(received, Ok(Ok(4))) && buffer[3] == PULL_ACK).then_some(())
        })
        .await;
        forwarder
    }

    /// Reports a frame heard when the counter stood at `tmst_us`.
    pub async fn push(&self, uplink: &Uplink, tmst_us: u32) {
        let rxpk = serde_json::json!({ "rxpk": [{
            "tmst": tmst_us, "chan": 0, "rfch": 0, "stat": 1, "modu": "LORA", "codr": "4/5", "rssi": -90, "lsnr": 5.5,
            "freq": f64::from(uplink.freq_hz) / 1e6,
            "datr": uplink.data_rate,
            "size": uplink.phy_payload.len(),
            "data": BASE64.encode(&uplink.phy_payload),
        }] });
        self.send(PUSH_DATA, [0, 1], rxpk.to_string().as_bytes()).await;
    }

    /// The next PULL_RESP; acknowledgements before it are passed over.
    pub async fn pull_resp(&self) -> PullResp {
        let mut buffer = vec![0; 65_536];
        loop {
            let received = tokio::time::timeout(DEADLINE, self.socket.recv(&mut buffer)).await;
            let len = received.expect("a PULL_RESP before the deadline").expect("the server listens");
            if let [VERSION, high, low, PULL_RESP, body @ ..] = &buffer[..len] {
                return read([*high, *low], body);
            }
        }
    }

    /// Answers a PULL_RESP; `None` is the empty body that some forwarders send for success.
    pub async fn tx_ack(&self, token: [u8; 2], error: Option<&str>) {
        let body = error.map(|error| serde_json::json!({ "txpk_ack": { "error": error } }).to_string());
        self.send(TX_ACK, token, body.unwrap_or_default().as_bytes()).await;
    }

    async fn send(&self, kind: u8, token: [u8; 2], body: &[u8]) {
        let mut datagram = vec![VERSION, token[0], token[1], kind];
        datagram.extend_from_slice(&self.eui.to_be_bytes());
        datagram.extend_from_slice(body);
        self.socket.send(&datagram).await.expect("the server listens");
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn read(token: [u8; 2], body: &[u8]) -> PullResp {
    let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    let txpk = &body["txpk"];
    let tmst_us = txpk["tmst"].as_u64().and_then(|tmst| u32::try_from(tmst).ok());
    let data = txpk["data"].as_str().expect("data");
    PullResp {
        token,
        tmst_us: tmst_us.expect("class A names a time"),
        freq_hz: (txpk["freq"].as_f64().expect("a frequency") * 1e6).round() as u32,
        data_rate: txpk["datr"].as_str().expect("LoRa").to_owned(),
        phy_payload: BASE64.decode(data).expect("Base64"),
    }
}
