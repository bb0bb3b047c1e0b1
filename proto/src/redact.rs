//! What messages with keys show of themselves: no key.

use std::fmt;

use crate::{internal, v1};

impl fmt::Debug for v1::RootKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKeys(…)")
    }
}

impl fmt::Debug for v1::ActivateDeviceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActivateDeviceRequest")
            .field("dev_eui", &self.dev_eui)
            .field("dev_addr", &self.dev_addr)
            .field("fcnt_up", &self.fcnt_up)
            .field("fcnt_down", &self.fcnt_down)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for internal::ActivateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActivateRequest")
            .field("dev_eui", &self.dev_eui)
            .field("session_id", &self.session_id)
            .field("dev_addr", &self.dev_addr)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for internal::JoinAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinAnswer")
            .field("session_id", &self.session_id)
            .field("dev_addr", &self.dev_addr)
            .field("repeated_answer", &self.repeated_answer)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for internal::PutJoinDeviceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PutJoinDeviceRequest")
            .field("dev_eui", &self.dev_eui)
            .field("join_eui", &self.join_eui)
            .field("mac_version", &self.mac_version)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_shows_a_key() {
        let text = "8a3f5c1e9b7d2046e1c8a97f3b5d6024".to_owned();
        let bytes = vec![0x8a; 16];
        let shown = [
            format!("{:?}", v1::RootKeys { app_key: text.clone(), nwk_key: text.clone() }),
            format!(
                "{:?}",
                v1::ActivateDeviceRequest { nwk_s_key: text.clone(), app_s_key: text, ..Default::default() }
            ),
            format!("{:?}", internal::ActivateRequest { f_nwk_s_int_key: bytes.clone(), ..Default::default() }),
            format!("{:?}", internal::JoinAnswer { nwk_s_enc_key: bytes.clone(), ..Default::default() }),
            format!("{:?}", internal::PutJoinDeviceRequest { app_key: bytes, ..Default::default() }),
        ];
        for shown in shown {
            assert!(!shown.contains("8a3f") && !shown.contains("138"), "{shown}");
        }
    }
}
