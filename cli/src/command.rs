//! The commands, one file each: options, what is asked of the server, how the answer is shown.

pub(crate) mod application;
pub(crate) mod backup;
pub(crate) mod codec;
pub(crate) mod completion;
pub(crate) mod config_print;
pub(crate) mod decode;
pub(crate) mod device;
pub(crate) mod device_import;
pub(crate) mod downlink;
pub(crate) mod event_line;
mod event_person;
pub(crate) mod events;
pub(crate) mod gateway;
pub(crate) mod keys;
pub(crate) mod profile;

/// How many items one request asks for; the most the API gives.
const PAGE_SIZE: u32 = 1_000;

/// Reads a list page by page into one vector.
///
/// `$call` is an expression that makes the request's future from a page token; the answer has `$field` and `next_page_token`.
macro_rules! all_pages {
    ($client:expr, $field:ident, |$token:ident| $call:expr) => {{
        let mut items = Vec::new();
        let mut $token = String::new();
        loop {
            let page = $client.ask($call).await?;
            items.extend(page.$field);
            // A server that gives the same token again would keep us for ever.
            if page.next_page_token.is_empty() || page.next_page_token == $token {
                break;
            }
            $token = page.next_page_token;
        }
        items
    }};
}
use all_pages;
