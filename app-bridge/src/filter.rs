//! What a watcher wants to see.

use std::collections::BTreeSet;

use proto::internal::{self as pb, record};
use proto::v1;
use tonic::Status;

use crate::registry::DeviceEntry;
use crate::{event, validate};

/// Entries of one list of a filter.
const LIST_LEN_MAX: usize = 1_000;

/// Conditions of which each that is set must hold. The default lets everything pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    applications: BTreeSet<String>,
    dev_euis: BTreeSet<u64>,
    /// Bit n: kind number n.
    kinds: u32,
    /// Bit n: port n. Speaks of uplinks only; events without a port are chosen by kind.
    f_ports: Option<[u64; 4]>,
    tags: Vec<(String, String)>,
}

impl Filter {
    /// The filter of a request; what cannot match anything is refused instead of waiting for ever.
    pub(crate) fn from_request(request: &v1::WatchRequest) -> Result<Self, Status> {
        for (field, len) in [
            ("application_ids", request.application_ids.len()),
            ("dev_euis", request.dev_euis.len()),
            ("kinds", request.kinds.len()),
            ("f_ports", request.f_ports.len()),
        ] {
            if len > LIST_LEN_MAX {
                return Err(validate::invalid(
                    field,
                    format!("{len} entries; up to {LIST_LEN_MAX} can be given"),
                ));
            }
        }
        let mut filter = Self::default();
        for id in &request.application_ids {
            validate::slug("application_ids", id)?;
            filter.applications.insert(id.clone());
        }
        for text in &request.dev_euis {
            filter.dev_euis.insert(validate::dev_eui("dev_euis", text)?);
        }
        for &kind in &request.kinds {
            match v1::EventKind::try_from(kind) {
                Ok(v1::EventKind::Unspecified) | Err(_) => {
                    return Err(validate::invalid("kinds", format!("{kind} is no kind of event")));
                }
                Ok(_) => filter.kinds |= 1 << kind,
            }
        }
        for &port in &request.f_ports {
            let ports = filter.f_ports.get_or_insert_default();
            let word = usize::try_from(port / 64).ok().and_then(|word| ports.get_mut(word));
            let Some(word) = word else {
                return Err(validate::invalid("f_ports", format!("{port} is no port; ports are 0 to 255")));
            };
            *word |= 1 << (port % 64);
        }
        validate::tags(request.tags.iter())?;
        filter.tags = request.tags.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(filter)
    }

    /// True when every event passes.
    pub(crate) fn is_open(&self) -> bool {
        self.kinds == 0 && self.f_ports.is_none() && self.dev_euis.is_empty() && !self.asks_device()
    }

    /// The conditions that need nothing but the record.
    pub(crate) fn passes_record(&self, traits: Traits) -> bool {
        (self.kinds == 0 || self.kinds & (1 << traits.kind as u32) != 0)
            && (self.dev_euis.is_empty() || self.dev_euis.contains(&traits.dev_eui))
            && match (&self.f_ports, traits.port) {
                (None, _) | (Some(_), Port::NotAnUplink) => true,
                (Some(_), Port::Absent) => false,
                (Some(ports), Port::Number(port)) => {
                    ports.get(usize::from(port / 64)).is_some_and(|word| word & (1 << (port % 64)) != 0)
                }
            }
    }

    /// The conditions on the device's registration.
    pub(crate) fn passes_device(&self, device: Option<&DeviceEntry>) -> bool {
        if !self.asks_device() {
            return true;
        }
        let Some(device) = device else {
            return false;
        };
        (self.applications.is_empty() || self.applications.contains(device.application_id.as_ref()))
            && self
                .tags
                .iter()
                .all(|(key, value)| device.tags.iter().any(|(k, v)| k.as_ref() == key && v.as_ref() == value))
    }

    fn asks_device(&self) -> bool {
        !self.applications.is_empty() || !self.tags.is_empty()
    }
}

/// What of a record filters look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    pub(crate) dev_eui: u64,
    pub(crate) kind: v1::EventKind,
    pub(crate) port: Port,
}

/// The FPort of an uplink.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Port {
    Absent,
    NotAnUplink,
    Number(u8),
}

impl Traits {
    pub(crate) fn of(record: &pb::Record) -> Self {
        let port = match &record.kind {
            Some(record::Kind::Uplink(uplink)) => {
                uplink.f_port.and_then(|port| u8::try_from(port).ok()).map_or(Port::Absent, Port::Number)
            }
            _ => Port::NotAnUplink,
        };
        Self { dev_eui: record.dev_eui, kind: event::kind(record), port }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;

    fn traits(kind: v1::EventKind, port: Port) -> Traits {
        Traits { dev_eui: 7, kind, port }
    }

    #[test]
    fn a_filter_of_ports_chooses_uplinks_and_leaves_other_kinds_alone() {
        let request = v1::WatchRequest { f_ports: vec![2, 200], ..v1::WatchRequest::default() };
        let filter = Filter::from_request(&request).unwrap();
        assert!(!filter.is_open());
        assert!(filter.passes_record(traits(v1::EventKind::Uplink, Port::Number(2))));
        assert!(filter.passes_record(traits(v1::EventKind::Uplink, Port::Number(200))));
        assert!(!filter.passes_record(traits(v1::EventKind::Uplink, Port::Number(3))));
        assert!(!filter.passes_record(traits(v1::EventKind::Uplink, Port::Absent)));
        assert!(filter.passes_record(traits(v1::EventKind::Join, Port::NotAnUplink)));
    }

    #[test]
    fn all_conditions_must_hold() {
        let request = v1::WatchRequest {
            application_ids: vec!["soil".to_owned()],
            kinds: vec![v1::EventKind::Uplink as i32],
            tags: [("field".to_owned(), "north".to_owned())].into(),
            ..v1::WatchRequest::default()
        };
        let filter = Filter::from_request(&request).unwrap();
        let mut device = DeviceEntry::for_tests("soil", &[("field", "north"), ("row", "3")]);
        assert!(filter.passes_device(Some(&device)));
        assert!(!filter.passes_device(None));
        assert!(!filter.passes_record(traits(v1::EventKind::Join, Port::NotAnUplink)));
        device.application_id = Arc::from("tanks");
        assert!(!filter.passes_device(Some(&device)));
        let elsewhere = DeviceEntry::for_tests("soil", &[("field", "south")]);
        assert!(!filter.passes_device(Some(&elsewhere)));
    }

    #[test]
    fn a_filter_that_cannot_match_is_refused() {
        for request in [
            v1::WatchRequest { f_ports: vec![256], ..v1::WatchRequest::default() },
            v1::WatchRequest { kinds: vec![0], ..v1::WatchRequest::default() },
            v1::WatchRequest { kinds: vec![99], ..v1::WatchRequest::default() },
            v1::WatchRequest { dev_euis: vec!["70b3".to_owned()], ..v1::WatchRequest::default() },
            v1::WatchRequest { application_ids: vec!["Soil".to_owned()], ..v1::WatchRequest::default() },
            v1::WatchRequest { f_ports: vec![1; 1001], ..v1::WatchRequest::default() },
        ] {
            assert_eq!(Filter::from_request(&request).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
