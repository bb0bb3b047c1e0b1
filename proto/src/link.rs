//! How roles in different processes prove to each other that they belong together: one shared token.

use std::collections::BTreeSet;

use subtle::ConstantTimeEq;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A channel to another role that carries the token with each call.
pub type RoleChannel = InterceptedService<Channel, RoleToken>;

/// The token all roles of one installation share: 16 to 256 printable ASCII characters.
///
/// As a client's interceptor it adds the token, see [`RoleToken::channel`]; as a server's, [`RoleToken::guard`]
/// refuses calls without it.
#[derive(Clone)]
pub struct RoleToken(MetadataValue<Ascii>);

impl std::fmt::Debug for RoleToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RoleToken(…)")
    }
}

/// Why a token is not one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    /// So many characters can be used.
    #[error(
        "the role token has {0} usable characters; it needs 16 to 256 printable ASCII characters without spaces"
    )]
    Characters(usize),
    /// It stands in an example, or is one character again and again.
    #[error("the role token is a placeholder; take random characters, for example of `openssl rand -hex 32`")]
    Placeholder,
}

impl RoleToken {
    /// Takes the token as it stands in its file; white space around it is ignored.
    ///
    /// # Errors
    /// [`TokenError`] when it is shorter than 16 or longer than 256 characters, has other than printable ones, or is no secret.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let usable = text.bytes().filter(u8::is_ascii_graphic).count();
        if usable != text.len() || !(16..=256).contains(&usable) {
            return Err(TokenError::Characters(usable));
        }
        if is_placeholder(text) {
            return Err(TokenError::Placeholder);
        }
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {text}").parse().map_err(|_| TokenError::Characters(usable))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// A channel that carries the token.
    pub fn channel(self, channel: Channel) -> RoleChannel {
        InterceptedService::new(channel, self)
    }

    /// The server's side: refuses calls that do not carry the same token, in constant time.
    pub fn guard(self) -> RoleGuard {
        RoleGuard(self)
    }
}

impl Interceptor for RoleToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Whether a text asks to be replaced, or has hardly a character in it that differs from the others.
fn is_placeholder(text: &str) -> bool {
    let letters: String = text.chars().filter(char::is_ascii_alphabetic).collect::<String>().to_lowercase();
    let different: BTreeSet<u8> = text.bytes().collect();
    different.len() < DIFFERENT_MIN || PLACEHOLDERS.iter().any(|words| letters.contains(words))
}

const PLACEHOLDERS: [&str; 5] = ["changeme", "changethis", "placeholder", "replaceme", "replacethis"];
const DIFFERENT_MIN: usize = 6;

/// See [`RoleToken::guard`].
#[derive(Clone, Debug)]
pub struct RoleGuard(RoleToken);

impl Interceptor for RoleGuard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let given =
            request.metadata().get("authorization").map(MetadataValue::as_encoded_bytes).unwrap_or_default();
        if bool::from(given.ct_eq(self.0.0.as_encoded_bytes())) {
            return Ok(request);
        }
        Err(Status::unauthenticated(
            "the role token is missing or another one: all roles of an installation share the file [internal] token_file names",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AS-002.
    #[test]
    fn a_call_passes_only_with_the_same_token() {
        let token = RoleToken::parse(" 0123456789abcdef\n").expect("well formed");
        let other = RoleToken::parse("0123456789abcdeX").expect("well formed");
        let signed = token.clone().call(Request::new(())).expect("never refuses");
        assert!(token.clone().guard().call(signed).is_ok());
        let signed = other.clone().call(Request::new(())).expect("never refuses");
        assert!(token.clone().guard().call(signed).is_err());
        assert!(token.guard().call(Request::new(())).is_err());
        assert!(!format!("{other:?}").contains("0123"));
    }

    /// OPS-001.
    #[test]
    fn a_token_out_of_an_example_is_refused() {
        for placeholder in [
            "you-must-replace-this",
            "CHANGE_ME-change_me",
            "my-placeholder-token",
            "aaaaaaaaaaaaaaaaaaaa",
            "1212121212121212",
        ] {
            let error = RoleToken::parse(placeholder).expect_err(placeholder);
            assert_eq!(error, TokenError::Placeholder);
            assert!(!error.to_string().contains(placeholder));
        }
        RoleToken::parse("7d1f0e6a9b2c4835").expect("random enough");
    }

    #[test]
    fn a_short_token_or_one_with_spaces_is_refused() {
        assert_eq!(RoleToken::parse("short").expect_err("it is short"), TokenError::Characters(5));
        assert!(RoleToken::parse("0123456789 abcdef0").is_err());
    }
}
