//! Gateways that send what was written before the run, and the datagrams they send.
//!
//! A datagram is two pieces: a head that belongs to the gateway (header, signal values) and a tail that belongs to the
//! frame (counter, size, data). The kernel puts them together, so that a million copies need no million texts.

use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::socket::{setsockopt, sockopt};

pub(crate) const PUSH_DATA: u8 = 0;
pub(crate) const PUSH_ACK: u8 = 1;
pub(crate) const PULL_DATA: u8 = 2;
pub(crate) const PULL_RESP: u8 = 3;
pub(crate) const PULL_ACK: u8 = 4;
pub(crate) const TX_ACK: u8 = 5;

/// Tails of datagrams, one a frame.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    text: String,
    ends: Vec<usize>,
}

impl Frames {
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self { text: String::with_capacity(count * TAIL_LEN), ends: Vec::with_capacity(count) }
    }

    /// Adds a frame that ended at `tmst_us` of its gateways' counters.
    pub(crate) fn push(&mut self, tmst_us: u32, phy: &[u8]) {
        let size = phy.len();
        write!(self.text, "\"tmst\":{tmst_us},\"size\":{size},\"data\":\"").expect("a String takes everything");
        BASE64.encode_string(phy, &mut self.text);
        self.text.push_str("\"}]}");
        self.ends.push(self.text.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// What follows the gateway's head; empty where there is no frame.
    pub(crate) fn tail(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(index).copied().unwrap_or(start);
        self.text.as_bytes().get(start..end).unwrap_or_default()
    }
}

/// How the frames were on air.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Radio {
    pub(crate) freq_mhz: &'static str,
    pub(crate) data_rate: &'static str,
}

/// A default channel of EU868.
pub(crate) const EU868: Radio = Radio { freq_mhz: "868.100000", data_rate: "SF7BW125" };
/// The first channel of the second sub-band of US915.
pub(crate) const US915: Radio = Radio { freq_mhz: "903.900000", data_rate: "SF7BW125" };

/// A gateway: its socket and what all its datagrams begin with.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) eui: u64,
    pub(crate) socket: UdpSocket,
    pub(crate) head: Vec<u8>,
}

/// The gateways that hear every frame.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) gateways: Vec<Gateway>,
}

impl Fleet {
    /// Opens a socket each.
    pub(crate) fn open(server: SocketAddr, euis: &[u64], radio: Radio) -> Result<Self> {
        let gateways = euis.iter().zip(0..).map(|(eui, number)| Gateway::open(server, *eui, number, radio));
        Ok(Self { gateways: gateways.collect::<Result<_>>()? })
    }

    /// Opens a socket each and the downlink path behind it: PULL_DATA until PULL_ACK.
    pub(crate) fn connect(server: SocketAddr, euis: &[u64], radio: Radio) -> Result<Self> {
        let fleet = Self::open(server, euis, radio)?;
        fleet.gateways.iter().try_for_each(Gateway::open_path)?;
        Ok(fleet)
    }

    /// Copies of each frame.
    pub(crate) fn copies(&self) -> u64 {
        self.gateways.len() as u64
    }
}

impl Gateway {
    fn open(server: SocketAddr, eui: u64, number: u8, radio: Radio) -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").context("cannot open a UDP socket")?;
        socket.connect(server)?;
        ask_for_buffer(&socket)?;
        let mut head = header(PUSH_DATA, [0x5a, number], eui);
        let (rssi, snr) = (-57 - 9 * i32::from(number), 9 - 3 * i32::from(number));
        let Radio { freq_mhz, data_rate } = radio;
        let text = format!(
            "{{\"rxpk\":[{{\"jver\":1,\"brd\":0,\"aesk\":0,\"chan\":{number},\"rfch\":0,\"freq\":{freq_mhz},\"mid\":8,\
             \"stat\":1,\"modu\":\"LORA\",\"datr\":\"{data_rate}\",\"codr\":\"4/5\",\"rssis\":{rssi},\"lsnr\":{snr}.5,\
             \"foff\":-1234,\"rssi\":{rssi},"
        );
        head.extend_from_slice(text.as_bytes());
        Ok(Self { eui, socket, head })
    }

    fn open_path(&self) -> Result<()> {
        self.socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let begun = Instant::now();
        let mut buffer = [0; 64];
        while begun.elapsed() < PATH_DEADLINE {
            self.keep_alive();
            if let Ok(4..) = self.socket.recv(&mut buffer)
                && buffer[3] == PULL_ACK
            {
                return Ok(());
            }
        }
        bail!("gateway {:016x} got no PULL_ACK within {PATH_DEADLINE:?}: is it registered?", self.eui)
    }

    /// Sends PULL_DATA. A server that is away is asked again by the next one.
    pub(crate) fn keep_alive(&self) {
        let _ = self.socket.send(&header(PULL_DATA, [0, 0], self.eui));
    }

    /// Answers a PULL_RESP: the frame will go on air.
    pub(crate) fn accept_downlink(&self, token: [u8; 2]) {
        let mut datagram = header(TX_ACK, token, self.eui);
        datagram.extend_from_slice(b"{\"txpk_ack\":{\"error\":\"NONE\"}}");
        // One that is lost shows in the counts.
        let _ = self.socket.send(&datagram);
    }
}

/// Room for the acknowledgements that come while this process does not get a processor.
pub(crate) fn ask_for_buffer(socket: &UdpSocket) -> Result<()> {
    // Beyond net.core.rmem_max only the administrator may go; anybody else is cut down without an error.
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_LEN).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER_LEN)?;
    }
    Ok(())
}

fn header(kind: u8, token: [u8; 2], eui: u64) -> Vec<u8> {
    let mut bytes = vec![2, token[0], token[1], kind];
    bytes.extend_from_slice(&eui.to_be_bytes());
    bytes
}

/// As much as the server asks for by default.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;
const PATH_DEADLINE: Duration = Duration::from_secs(10);
/// About what a tail takes.
const TAIL_LEN: usize = 96;
