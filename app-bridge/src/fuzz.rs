//! What bytes from callers, codecs and the event log must keep to, whatever they are: one function for each boundary of the crate.
//!
//! libFuzzer calls them with inputs it makes up (`fuzz/`), the tests with those it has found worth keeping.

mod request;

use prost::Message as _;
use proto::internal as pb;
use proto::v1;

use crate::cursor::{self, CursorError};
use crate::event::{self, Content, hex};
use crate::filter::{Filter, Traits};
use crate::validate;

pub use crate::codec::fuzz::{cayenne_lpp, codec_result, codec_source};
pub use request::api_request;

/// A cursor of the event stream, and the same bytes as a page token.
///
/// A position that is read makes the same cursor; any other bytes are refused with their number and leave no doubt whose they are.
pub fn cursors(bytes: &[u8]) {
    match cursor::decode(bytes) {
        Ok(position) => {
            assert_eq!(cursor::encode(position), bytes);
            assert!(i64::try_from(position).is_ok());
        }
        Err(CursorError::Malformed(len)) => assert_eq!(len, bytes.len()),
        Err(CursorError::UnknownVersion(version)) => assert_eq!(bytes.first(), Some(&version)),
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match validate::page_token_number(text) {
        Ok(None) => assert!(text.is_empty()),
        Ok(Some(number)) => {
            let again = validate::page_token_number(&hex(number, 16));
            assert_eq!(again.ok(), Some(Some(number)));
        }
        Err(status) => assert!(status.message().contains("page_token")),
    }
}

/// A record of the event log, as another version of the network server may have written it.
///
/// The event made of it has an id of bounded length, the same each time, and is what a watcher decodes.
pub fn log_record(bytes: &[u8]) {
    let Ok(record) = pb::Record::decode(bytes) else { return };
    let traits = Traits::of(&record);
    assert!(Filter::default().passes_record(traits) && Filter::default().is_open());
    let Some(event) = event::event(&record, None, Content::default()) else {
        let bare = matches!(&record.kind, Some(pb::record::Kind::Downlink(downlink)) if event::is_bare_answer(downlink));
        assert!(record.kind.is_none() || bare);
        return;
    };
    assert!(!event.id.is_empty());
    let of_the_record = match &record.kind {
        Some(pb::record::Kind::Downlink(downlink)) => downlink.item_id.len(),
        Some(pb::record::Kind::Error(error)) => error.code.len(),
        _ => 0,
    };
    assert!(event.id.len() <= ID_LEN_MAX + of_the_record, "{}", event.id);
    assert_eq!(event.received_at_us, record.at_us);
    let again = event::event(&record, None, Content::default());
    let message = v1::WatchResponse {
        item: Some(v1::watch_response::Item::Event(event)),
        cursor: cursor::encode(7).to_vec(),
    };
    let read = v1::WatchResponse::decode(message.encode_to_vec().as_slice()).expect("a watcher reads it");
    assert_eq!(read, message);
    assert_eq!(again.map(v1::watch_response::Item::Event), message.item);
}

const ID_LEN_MAX: usize = 64;

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
replay::replayed! {
    api_request,
    cayenne_lpp,
    codec_result,
    codec_source,
    cursors,
    log_record,
}
