//! Keys at rest: the key-encryption key, what is sealed with it, and the key that wraps session keys on their way between roles.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use zeroize::Zeroizing;

use crate::{StoreError, files};

/// Seals and opens secrets with the key-encryption key (AES-256-GCM, random nonce).
///
/// The purpose and the owner are bound into the seal, so that one device's key does not open in another's row. Cloning is cheap.
#[derive(Clone)]
pub struct Sealer {
    cipher: Arc<Aes256Gcm>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(…)")
    }
}

impl Sealer {
    /// A sealer with a given key of 32 bytes.
    pub fn new(key: &[u8; KEK_LEN]) -> Self {
        Self { cipher: Arc::new(Aes256Gcm::new(key.into())) }
    }

    /// Seals `plain` for one owner (`id`: a DevEUI, a session id) and purpose. The result is 29 bytes longer.
    #[allow(clippy::expect_used, reason = "the cipher refuses only messages of 64 GiB")]
    pub fn seal(&self, purpose: &str, id: u64, plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = seam::random();
        let aad = associated_data(purpose, id, KEY_VERSION);
        let body = self
            .cipher
            .encrypt(&Nonce::from(nonce), Payload { msg: plain, aad: &aad })
            .expect("AES-GCM refuses only messages of 64 GiB");
        let mut sealed = Vec::with_capacity(body.len().saturating_add(1 + NONCE_LEN));
        sealed.push(KEY_VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        sealed
    }

    /// Opens what [`Self::seal`] made for the same purpose and owner; wiped when dropped.
    pub fn open(&self, purpose: &str, id: u64, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let refused = || StoreError::Unseal { purpose: purpose.to_owned(), id };
        let (&version, rest) = sealed.split_first().ok_or_else(refused)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(refused)?;
        if version != KEY_VERSION {
            return Err(refused());
        }
        let aad = associated_data(purpose, id, version);
        self.cipher
            .decrypt(&Nonce::from(*nonce), Payload { msg: body, aad: &aad })
            .map(Zeroizing::new)
            .map_err(|_| refused())
    }

    /// The constant whose seal tells in a database which key it was sealed with.
    pub(crate) fn check(&self) -> Vec<u8> {
        self.seal(CHECK_PURPOSE, 0, CHECK)
    }

    pub(crate) fn opens_check(&self, sealed: &[u8]) -> bool {
        self.open(CHECK_PURPOSE, 0, sealed).is_ok_and(|plain| plain.as_slice() == CHECK)
    }
}

/// What to do when a key file is not there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Absent {
    Make,
    Refuse,
}

/// Reads a key of `N` bytes written as hexadecimal digits, or makes one.
pub(crate) fn key_file<const N: usize>(path: &Path, absent: Absent) -> Result<Zeroizing<[u8; N]>, StoreError> {
    if let Some(text) = files::read(path)?.map(Zeroizing::new) {
        let mut key = Zeroizing::new([0; N]);
        hex::decode_to_slice(text.trim(), key.as_mut_slice())
            .map_err(|_| StoreError::KekWrong { path: path.to_owned() })?;
        return Ok(key);
    }
    if absent == Absent::Refuse {
        return Err(StoreError::KekMissing { path: path.to_owned() });
    }
    let key = random_key();
    let text = Zeroizing::new(format!("{}\n", Zeroizing::new(hex::encode(key.as_slice())).as_str()));
    files::replace(path, &text)?;
    Ok(key)
}

/// A key nobody knows yet.
pub(crate) fn random_key<const N: usize>() -> Zeroizing<[u8; N]> {
    let mut key = Zeroizing::new([0; N]);
    seam::fill_random(key.as_mut_slice());
    key
}

fn associated_data(purpose: &str, id: u64, version: u8) -> Vec<u8> {
    let mut aad = Vec::with_capacity(purpose.len().saturating_add(10));
    aad.extend_from_slice(purpose.as_bytes());
    aad.push(0);
    aad.extend_from_slice(&id.to_be_bytes());
    aad.push(version);
    aad
}

pub(crate) const KEK_LEN: usize = 32;
const NONCE_LEN: usize = 12;
const KEY_VERSION: u8 = 1;
const CHECK_PURPOSE: &str = "kek-check";
const CHECK: &[u8] = b"loam";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_seal_opens_for_its_owner_and_purpose_only() {
        let sealer = Sealer::new(&[7; 32]);
        let sealed = sealer.seal("app-key", 1, b"secret");

        assert_eq!(sealer.open("app-key", 1, &sealed).unwrap().as_slice(), b"secret");
        assert!(sealer.open("app-key", 2, &sealed).is_err());
        assert!(sealer.open("nwk-key", 1, &sealed).is_err());
        assert!(Sealer::new(&[8; 32]).open("app-key", 1, &sealed).is_err());
        assert!(!sealed.windows(6).any(|w| w == b"secret"));
        assert_ne!(sealed, sealer.seal("app-key", 1, b"secret"), "the nonce is fresh each time");
    }

    #[test]
    fn bytes_that_were_never_sealed_are_refused() {
        let sealer = Sealer::new(&[7; 32]);
        let sealed = sealer.seal("app-key", 1, b"secret");
        for len in 0..sealed.len() {
            assert!(sealer.open("app-key", 1, &sealed[..len]).is_err());
        }
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert!(sealer.open("app-key", 1, &changed).is_err());
        }
    }

    #[test]
    fn a_key_file_is_made_once_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kek");

        assert!(matches!(key_file::<32>(&path, Absent::Refuse), Err(StoreError::KekMissing { .. })));
        let made = key_file::<32>(&path, Absent::Make).unwrap();
        let read = key_file::<32>(&path, Absent::Refuse).unwrap();

        assert_eq!(*made, *read);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::fs::write(&path, "not hex").unwrap();
        assert!(matches!(key_file::<32>(&path, Absent::Make), Err(StoreError::KekWrong { .. })));
    }
}
