//! What the demo tells the valves to do.

use mac::ids::DevEui;
use simulator::farm::{Kind, devices};

/// A command for one valve.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Order {
    /// The valve.
    pub(super) dev_eui: DevEui,
    /// For the codec's encodeDownlink.
    pub(super) object_json: String,
    /// For people.
    pub(super) words: String,
}

/// The valves in turns: each one is opened, and shut the next time.
#[derive(Debug)]
pub(super) struct Orders {
    valves: Vec<Valve>,
    turn: usize,
}

#[derive(Debug)]
struct Valve {
    dev_eui: DevEui,
    open: bool,
}

impl Orders {
    pub(super) fn new() -> Self {
        let valves = devices().into_iter().filter(|device| device.kind == Kind::Valve);
        Self { valves: valves.map(|device| Valve { dev_eui: device.dev_eui, open: false }).collect(), turn: 0 }
    }

    /// The next order, for the first valve in turn that is ready; `None` when none is.
    pub(super) fn next(&mut self, is_ready: impl Fn(DevEui) -> bool) -> Option<Order> {
        let count = self.valves.len();
        let turn = (0..count).map(|n| (self.turn + n) % count).find(|&n| is_ready(self.valves[n].dev_eui))?;
        self.turn = turn + 1;
        let valve = &mut self.valves[turn];
        valve.open = !valve.open;
        let (object_json, words) = if valve.open {
            let object = serde_json::json!({ "open": true, "minutes": OPEN_MINUTES });
            (object.to_string(), format!("open for {OPEN_MINUTES} min"))
        } else {
            (serde_json::json!({ "open": false }).to_string(), "shut".to_owned())
        };
        Some(Order { dev_eui: valve.dev_eui, object_json, words })
    }
}

const OPEN_MINUTES: u16 = 15;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn valves_take_turns_and_are_shut_after_they_were_opened() {
        let mut orders = Orders::new();
        let mut next = || orders.next(|_| true).map(|order| (order.dev_eui, order.words)).unwrap();

        let (north, south) = (next(), next());
        let (north_again, south_again) = (next(), next());

        assert_ne!(north.0, south.0);
        assert_eq!([&north.1, &south.1], ["open for 15 min"; 2]);
        assert_eq!(
            [(north_again.0, north_again.1.as_str()), (south_again.0, south_again.1.as_str())],
            [(north.0, "shut"), (south.0, "shut")]
        );
    }

    #[test]
    fn a_valve_that_is_not_ready_is_passed_over() {
        let mut orders = Orders::new();
        let first = orders.next(|_| true).unwrap().dev_eui;

        let other = orders.next(|dev_eui| dev_eui == first).unwrap();

        assert_eq!((other.dev_eui, other.words.as_str()), (first, "shut"));
        assert_eq!(orders.next(|_| false), None);
    }
}
