//! The packets of the packet forwarder's protocol: header, acknowledgements, tokens (PROTOCOL.TXT, versions 1 and 2).

use mac::drop_reason::DropReason;
use mac::ids::GatewayEui;
use semtech_udp::Identifier;

/// What a gateway sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PacketKind {
    PullData,
    PushData,
    TxAck,
}

/// The first twelve bytes of every packet a gateway sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    /// 1 or 2.
    pub(crate) version: u8,
    pub(crate) token: [u8; 2],
    pub(crate) kind: PacketKind,
    pub(crate) gateway: GatewayEui,
}

impl Header {
    /// Reads the header; the second part of the answer is the body, which may be empty.
    ///
    /// The version is judged before the length, because the length belongs to a version. Refused are
    /// `datagram_truncated`, `unknown_protocol_version` and `unknown_packet_type` (the types a server sends
    /// are unknown from a gateway).
    pub(crate) fn parse(datagram: &[u8]) -> Result<(Self, &[u8]), DropReason> {
        let (&[version, token_high, token_low, identifier], rest) =
            datagram.split_first_chunk().ok_or(DropReason::DatagramTruncated)?;
        if !matches!(version, VERSION_1 | VERSION_2) {
            return Err(DropReason::UnknownProtocolVersion);
        }
        let kind = match Identifier::try_from(identifier) {
            Ok(Identifier::PullData) => PacketKind::PullData,
            Ok(Identifier::PushData) => PacketKind::PushData,
            Ok(Identifier::TxAck) => PacketKind::TxAck,
            Ok(Identifier::PushAck | Identifier::PullAck | Identifier::PullResp) | Err(_) => {
                return Err(DropReason::UnknownPacketType);
            }
        };
        let (eui, body) = rest.split_first_chunk().ok_or(DropReason::DatagramTruncated)?;
        let gateway = GatewayEui::new(u64::from_be_bytes(*eui));
        Ok((Self { version, token: [token_high, token_low], kind, gateway }, body))
    }

    /// PUSH_ACK or PULL_ACK: version and token are the packet's own. `None` for a TX_ACK, which ends an exchange.
    pub(crate) fn acknowledgement(&self) -> Option<[u8; 4]> {
        let identifier = match self.kind {
            PacketKind::PullData => Identifier::PullAck,
            PacketKind::PushData => Identifier::PushAck,
            PacketKind::TxAck => return None,
        };
        Some(prefix(self.version, self.token, identifier))
    }
}

/// The first four bytes of a PULL_RESP. Version 1 leaves its token unused.
pub(crate) fn pull_resp_prefix(version: u8, token: u16) -> [u8; 4] {
    let token = if version == VERSION_1 { 0 } else { token };
    prefix(version, token.to_be_bytes(), Identifier::PullResp)
}

/// Length of a [`Header`] in bytes.
pub(crate) const HEADER_LEN: usize = 12;
/// The version without TX_ACK.
pub(crate) const VERSION_1: u8 = 1;
/// The version every forwarder of today speaks.
pub(crate) const VERSION_2: u8 = 2;

fn prefix(version: u8, [high, low]: [u8; 2], identifier: Identifier) -> [u8; 4] {
    [version, high, low, identifier as u8]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_header_gives_version_token_kind_and_the_eui_most_significant_byte_first() {
        let datagram = [2, 0xab, 0xcd, 0, 0xaa, 0x55, 0x5a, 0, 0, 0, 1, 1, b'{', b'}'];
        let (header, body) = Header::parse(&datagram).unwrap();
        assert_eq!(header.gateway, GatewayEui::new(0xaa55_5a00_0000_0101));
        assert_eq!((header.version, header.kind), (2, PacketKind::PushData));
        assert_eq!(body, b"{}");
        assert_eq!(header.acknowledgement(), Some([2, 0xab, 0xcd, 1]));
    }

    #[test]
    fn an_acknowledgement_has_the_version_and_token_of_its_packet() {
        let pull = [1, 7, 8, 2, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(Header::parse(&pull).unwrap().0.acknowledgement(), Some([1, 7, 8, 4]));
        let tx_ack = [2, 7, 8, 5, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(Header::parse(&tx_ack).unwrap().0.acknowledgement(), None);
        assert_eq!(pull_resp_prefix(2, 0x0102), [2, 1, 2, 3]);
        assert_eq!(pull_resp_prefix(1, 0x0102), [1, 0, 0, 3]);
    }

    #[test]
    fn what_no_gateway_sends_has_a_named_reason() {
        for length in 0..4 {
            assert_eq!(Header::parse(&[2, 0, 0, 0][..length]), Err(DropReason::DatagramTruncated));
        }
        for length in 4..12 {
            assert_eq!(Header::parse(&[2; 12][..length]), Err(DropReason::DatagramTruncated));
        }
        for version in [0, 3, b'{', 255] {
            assert_eq!(Header::parse(&[version; 12]), Err(DropReason::UnknownProtocolVersion));
        }
        for kind in [1, 3, 4, 6, 255] {
            let datagram = [2, 0, 0, kind, 0, 0, 0, 0, 0, 0, 0, 1];
            assert_eq!(Header::parse(&datagram), Err(DropReason::UnknownPacketType), "type {kind}");
        }
    }
}
