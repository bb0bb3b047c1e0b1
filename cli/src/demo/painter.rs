//! An event as a line that is pleasant to watch: columns that stay where they are, and colour where the terminal has it.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use proto::v1::{self, DownlinkState, event::Kind, modulation};

use super::farm::KIND_TAG;
use super::values;
use crate::output::printable;
use crate::words::{self, DOWNLINK_STATES};

/// Makes lines of events.
#[derive(Debug)]
pub(super) struct Painter {
    /// Whether to write colours.
    pub(super) colour: bool,
    /// The zone times are shown in.
    pub(super) zone: TimeZone,
    /// Names of gateways by EUI.
    pub(super) gateways: BTreeMap<String, String>,
    /// What was ordered, by the id of the downlink.
    pub(super) orders: BTreeMap<String, String>,
}

impl Painter {
    /// The line of an event, at most `width` columns; `None` for what a person need not see.
    pub(super) fn line(&self, event: &v1::Event, width: usize) -> Option<String> {
        let width = width.clamp(WIDTH_MIN, WIDTH_MAX);
        let row = match event.kind.as_ref()? {
            Kind::Uplink(uplink) => self.uplink(event, uplink, width),
            Kind::Receptions(late) => {
                let told = format!("#{} came late through {} too", late.fcnt_up, self.via(&late.receptions));
                Row::new('+', Ink::Dim, &event.device_name, told)
            }
            Kind::Join(join) => {
                let told = format!("joined as {}, heard by {}", join.dev_addr, self.via(&join.receptions));
                Row::new('★', Ink::Bright, &event.device_name, told)
            }
            Kind::Downlink(update) => self.downlink(event, update)?,
            Kind::DeviceStatus(status) => {
                let battery = match status.battery {
                    0 => "external power".to_owned(),
                    255 => "battery unknown".to_owned(),
                    level => format!("battery {} %", (level * 100 + 127) / 254),
                };
                let told = format!("{battery}, hears the gateway with {} dB to spare", status.margin_db);
                Row::new('♥', Ink::Dim, &event.device_name, told)
            }
            Kind::Gateway(gateway) => {
                let (symbol, ink, state) = match gateway.online {
                    true => ('●', Ink::Green, "gateway online"),
                    false => ('○', Ink::Red, "gateway offline"),
                };
                let told = format!("{state}  {}", gateway.detail);
                Row::new(symbol, ink, self.gateway(&gateway.gateway_eui), told)
            }
            Kind::Error(note) => {
                Row::new('!', Ink::Red, &event.device_name, format!("{}: {}", note.code, note.message))
            }
        };
        Some(self.paint(event.received_at_us, &row, width))
    }

    /// The text in grey, where there is colour.
    pub(super) fn dim(&self, text: &str) -> String {
        self.ink(Ink::Dim, text)
    }

    /// The text in green or red, where there is colour.
    pub(super) fn verdict(&self, text: &str, good: bool) -> String {
        self.ink(if good { Ink::Green } else { Ink::Red }, text)
    }

    fn uplink(&self, event: &v1::Event, uplink: &v1::Uplink, width: usize) -> Row {
        let ink = event.tags.get(KIND_TAG).map_or(Ink::Plain, |kind| Ink::of_kind(kind));
        let radio = self.radio(uplink, width);
        let room = width.saturating_sub(LEFT_WIDTH + radio.chars().count() + 1);
        let mut parts: Vec<String> = uplink.errors.iter().map(|error| format!("codec: {error}")).collect();
        parts.extend(uplink.warnings.iter().map(|warning| format!("! {warning}")));
        if !uplink.raw_reason.is_empty() {
            parts.push(format!("not decrypted: {}", uplink.raw_reason));
        } else if uplink.object_json.is_empty() {
            parts.push(if uplink.payload.is_empty() {
                "no payload".to_owned()
            } else {
                hex::encode(&uplink.payload)
            });
        } else {
            parts.extend(values::words(&uplink.object_json));
        }
        let said_ink = match (uplink.errors.is_empty(), uplink.warnings.is_empty()) {
            (false, _) => Ink::Red,
            (true, false) => Ink::Yellow,
            (true, true) => Ink::Plain,
        };
        let told = values::fitted(&parts, room);
        Row {
            symbol: '↑',
            ink,
            name: event.device_name.clone(),
            name_ink: ink,
            told,
            told_ink: said_ink,
            radio,
        }
    }

    /// Gateways with the best first, its SNR, the counter, the data rate; less of it on a narrow screen.
    fn radio(&self, uplink: &v1::Uplink, width: usize) -> String {
        let via = fit(&self.via(&uplink.receptions), VIA_WIDTH);
        let snr = best_first(&uplink.receptions).first().and_then(|best| best.snr_db);
        let fcnt = format!("#{}", uplink.fcnt_up);
        if width >= WIDE {
            let snr = snr.map_or_else(String::new, |snr| format!("{snr:.1} dB"));
            format!("{via}  {snr:>8}  {fcnt:<5} {:<4}", data_rate(uplink))
        } else if width >= NARROW {
            let snr = snr.map_or_else(String::new, |snr| format!("{snr:.0} dB"));
            format!("{via} {snr:>6} {fcnt:<5}")
        } else {
            String::new()
        }
    }

    fn downlink(&self, event: &v1::Event, update: &v1::DownlinkUpdate) -> Option<Row> {
        let id = &update.downlink_id;
        let state = update.state();
        if id.is_empty() {
            // Acknowledgements and MAC answers of the network's own are news only when they fail.
            if !matches!(state, DownlinkState::Failed | DownlinkState::Unknown) {
                return None;
            }
            let told = format!("answer of the network: {}", with_reason("not sent", &update.reason));
            return Some(Row::new('✗', Ink::Dim, &event.device_name, told));
        }
        let order = self.orders.get(id).map_or_else(|| format!("downlink {id}"), |words| format!("“{words}”"));
        let (symbol, ink, told) = match state {
            DownlinkState::Queued => ('↓', Ink::Dim, with_reason("queued", &update.reason)),
            DownlinkState::Sent if !update.reason.is_empty() => ('↓', Ink::Yellow, update.reason.clone()),
            DownlinkState::Sent => {
                let fcnt = update.fcnt_down.map_or_else(String::new, |fcnt| format!(" as #{fcnt}"));
                ('↓', Ink::Plain, format!("sent{fcnt} by {}", self.gateway(&update.gateway_eui)))
            }
            DownlinkState::DeviceAcknowledged => ('✓', Ink::Green, "acknowledged by the device".to_owned()),
            // They follow from the others at once.
            DownlinkState::GatewayAcknowledged if update.reason.is_empty() => return None,
            DownlinkState::Leased => return None,
            DownlinkState::GatewayAcknowledged => ('↓', Ink::Yellow, update.reason.clone()),
            DownlinkState::Deferred => {
                ('↓', Ink::Yellow, with_reason("waits for a better data rate", &update.reason))
            }
            DownlinkState::Cancelled
            | DownlinkState::Expired
            | DownlinkState::Failed
            | DownlinkState::Unknown
            | DownlinkState::Unspecified => {
                let word = words::word(DOWNLINK_STATES, state.into());
                ('✗', Ink::Red, with_reason(&word, &update.reason))
            }
        };
        Some(Row::new(symbol, ink, &event.device_name, format!("{order} {told}")))
    }

    fn paint(&self, at_us: i64, row: &Row, width: usize) -> String {
        let time = match jiff::Timestamp::from_microsecond(at_us) {
            Ok(time) => time.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string(),
            Err(_) => " ".repeat(TIME_WIDTH),
        };
        let radio_width = row.radio.chars().count();
        let room = width.saturating_sub(LEFT_WIDTH + radio_width + usize::from(radio_width > 0));
        let told = fit(&printable(&row.told).replace('\n', " "), room);
        let line = format!(
            "{} {} {}  {} {}",
            self.ink(Ink::Dim, &time),
            self.ink(row.ink, &row.symbol.to_string()),
            self.ink(row.name_ink, &fit(&printable(&row.name), NAME_WIDTH)),
            self.ink(row.told_ink, if radio_width > 0 { &told } else { told.trim_end() }),
            self.ink(Ink::Dim, row.radio.trim_end()),
        );
        line.trim_end().to_owned()
    }

    /// The gateways of the receptions, the best first, each by its first word.
    fn via(&self, receptions: &[v1::Reception]) -> String {
        let mut words: Vec<&str> = Vec::new();
        for reception in best_first(receptions) {
            let name = self.gateway(&reception.gateway_eui);
            let word = name.split(' ').next().unwrap_or(name);
            // A gateway with two antennas is one gateway.
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words.join("+")
    }

    fn gateway<'a>(&'a self, eui: &'a str) -> &'a str {
        self.gateways.get(eui).map_or(eui, String::as_str)
    }

    fn ink(&self, ink: Ink, text: &str) -> String {
        match ink.code() {
            Some(code) if self.colour && !text.is_empty() => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Some(_) | None => text.to_owned(),
        }
    }
}

/// The columns of a line.
#[derive(Debug)]
struct Row {
    symbol: char,
    ink: Ink,
    name: String,
    name_ink: Ink,
    told: String,
    told_ink: Ink,
    radio: String,
}

impl Row {
    fn new(symbol: char, ink: Ink, name: &str, told: String) -> Self {
        let told_ink = if ink == Ink::Bright { Ink::Plain } else { ink };
        Self { symbol, ink, name: name.to_owned(), name_ink: Ink::Plain, told, told_ink, radio: String::new() }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ink {
    Blue,
    Bright,
    Cyan,
    Dim,
    Green,
    Magenta,
    Plain,
    Red,
    Yellow,
}

impl Ink {
    /// A colour for each kind of device, so that the eye finds its own.
    fn of_kind(kind: &str) -> Self {
        match kind {
            "irrigation-valve" => Self::Magenta,
            "soil-probe" => Self::Green,
            "tank-gauge" => Self::Blue,
            "weather-station" => Self::Cyan,
            _ => Self::Plain,
        }
    }

    fn code(self) -> Option<&'static str> {
        match self {
            Self::Blue => Some("34"),
            Self::Bright => Some("1"),
            Self::Cyan => Some("36"),
            Self::Dim => Some("2"),
            Self::Green => Some("32"),
            Self::Magenta => Some("35"),
            Self::Plain => None,
            Self::Red => Some("31"),
            Self::Yellow => Some("33"),
        }
    }
}

fn best_first(receptions: &[v1::Reception]) -> Vec<&v1::Reception> {
    let mut sorted: Vec<_> = receptions.iter().collect();
    let snr = |reception: &v1::Reception| reception.snr_db.unwrap_or(f32::MIN);
    sorted.sort_by(|a, b| snr(b).total_cmp(&snr(a)).then(b.rssi_dbm.total_cmp(&a.rssi_dbm)));
    sorted
}

fn data_rate(uplink: &v1::Uplink) -> String {
    match uplink.modulation.as_ref().and_then(|m| m.kind.as_ref()) {
        Some(modulation::Kind::Lora(lora)) => format!("SF{}", lora.spreading_factor),
        Some(modulation::Kind::Fsk(_)) => "FSK".to_owned(),
        Some(modulation::Kind::LrFhss(_)) => "FHSS".to_owned(),
        None => String::new(),
    }
}

fn with_reason(word: &str, reason: &str) -> String {
    if reason.is_empty() { word.to_owned() } else { format!("{word}: {reason}") }
}

/// The text in exactly so many columns: cut with an ellipsis, or filled up.
fn fit(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count > width {
        return text.chars().take(width.saturating_sub(1)).chain(['…']).collect();
    }
    format!("{text}{}", " ".repeat(width - count))
}

const TIME_WIDTH: usize = 8;
const NAME_WIDTH: usize = 13;
/// Time, symbol, name and the gaps behind them.
const LEFT_WIDTH: usize = TIME_WIDTH + 1 + 1 + 1 + NAME_WIDTH + 2;
/// Three gateways' first words.
const VIA_WIDTH: usize = 14;
/// Below it the data rate and the tenths go, then the radio as a whole.
const WIDE: usize = 96;
const NARROW: usize = 72;
const WIDTH_MIN: usize = 40;
/// Beyond it columns only drift apart.
const WIDTH_MAX: usize = 110;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_uplink_fills_a_hundred_columns_and_no_more() {
        let line = painter().line(&soil(), 100).unwrap();

        assert_eq!(
            line,
            "08:15:42 ↑ north field 1  moisture 26.4 %  12.6 °C  410 µS/cm   silo+barn+pump    9.8 dB  #104  SF7"
        );
        assert_eq!(line.chars().count(), 99);
    }

    #[test]
    fn a_narrow_screen_keeps_the_important_part() {
        assert_eq!(
            painter().line(&soil(), 80).unwrap(),
            "08:15:42 ↑ north field 1  moisture 26.4 %  12.6 °C   silo+barn+pump  10 dB #104"
        );
        assert_eq!(painter().line(&soil(), 50).unwrap(), "08:15:42 ↑ north field 1  moisture 26.4 %");
        for width in [20, 60, 72, 80, 96, 100, 200] {
            let longest = painter().line(&soil(), width).unwrap().chars().count();
            assert!(longest <= width.clamp(WIDTH_MIN, WIDTH_MAX), "{longest} at {width}");
        }
    }

    #[test]
    fn colour_changes_no_column() {
        let plain = painter().line(&soil(), 100).unwrap();
        let coloured = Painter { colour: true, ..painter() }.line(&soil(), 100).unwrap();

        assert!(coloured.contains("\u{1b}[32m"));
        let mut stripped = String::new();
        let mut rest = coloured.as_str();
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            stripped.push_str(before);
            rest = after.split_once('m').unwrap().1;
        }
        stripped.push_str(rest);
        assert_eq!(stripped, plain);
        assert!(!plain.contains('\u{1b}'));
    }

    #[test]
    fn what_a_codec_warns_of_comes_before_the_values() {
        let mut event = soil();
        let Some(Kind::Uplink(uplink)) = &mut event.kind else { panic!("not an uplink") };
        uplink.warnings = vec!["battery low".to_owned()];
        let line = painter().line(&event, 100).unwrap();
        assert!(line.contains("! battery low  moisture 26.4 %  "), "{line}");
    }

    #[test]
    fn the_life_of_a_downlink_is_told_in_three_lines() {
        let update = |state: DownlinkState| {
            let update = v1::DownlinkUpdate {
                downlink_id: "d1".to_owned(),
                state: state.into(),
                fcnt_down: Some(3),
                gateway_eui: "02".to_owned(),
                ..v1::DownlinkUpdate::default()
            };
            painter().line(&event("north valve", Kind::Downlink(update)), 100)
        };
        let states = [
            DownlinkState::Queued,
            DownlinkState::Leased,
            DownlinkState::Sent,
            DownlinkState::GatewayAcknowledged,
            DownlinkState::DeviceAcknowledged,
        ];

        let lines: Vec<_> = states.into_iter().filter_map(update).collect();

        assert_eq!(
            lines,
            [
                "08:15:42 ↓ north valve    “shut” queued",
                "08:15:42 ↓ north valve    “shut” sent as #3 by silo",
                "08:15:42 ✓ north valve    “shut” acknowledged by the device",
            ]
        );
    }

    #[test]
    fn a_gateway_and_a_join_are_told_by_name() {
        let online =
            v1::GatewayUpdate { gateway_eui: "01".to_owned(), online: true, ..v1::GatewayUpdate::default() };
        let join =
            v1::Join { dev_addr: "00012345".to_owned(), receptions: receptions(), ..v1::Join::default() };

        let lines = [event("", Kind::Gateway(online)), event("orchard", Kind::Join(join))]
            .map(|event| painter().line(&event, 100).unwrap());

        assert_eq!(
            lines,
            [
                "08:15:42 ● barn roof      gateway online",
                "08:15:42 ★ orchard        joined as 00012345, heard by silo+barn+pump"
            ]
        );
    }

    #[test]
    fn text_from_outside_stays_on_its_line() {
        let note = v1::ErrorNote { code: "x".to_owned(), message: "a\u{1b}[2J\nb".repeat(40) };
        let line = painter().line(&event("orchard\u{7}", Kind::Error(note)), 80).unwrap();
        assert!(!line.contains(char::is_control) && line.chars().count() <= 80, "{line}");
    }

    fn painter() -> Painter {
        let gateways = [("01", "barn roof"), ("02", "silo"), ("03", "pump house")];
        Painter {
            colour: false,
            zone: TimeZone::UTC,
            gateways: gateways.map(|(eui, name)| (eui.to_owned(), name.to_owned())).into(),
            orders: [("d1".to_owned(), "shut".to_owned())].into(),
        }
    }

    fn receptions() -> Vec<v1::Reception> {
        [("03", -4.2), ("02", 9.8), ("01", 1.0)]
            .map(|(eui, snr_db)| v1::Reception {
                gateway_eui: eui.to_owned(),
                snr_db: Some(snr_db),
                ..v1::Reception::default()
            })
            .to_vec()
    }

    fn event(name: &str, kind: Kind) -> v1::Event {
        v1::Event {
            device_name: name.to_owned(),
            received_at_us: (8 * 3600 + 15 * 60 + 42) * 1_000_000,
            tags: [(KIND_TAG.to_owned(), "soil-probe".to_owned())].into(),
            kind: Some(kind),
            ..v1::Event::default()
        }
    }

    fn soil() -> v1::Event {
        let lora =
            modulation::Lora { spreading_factor: 7, bandwidth_hz: 125_000, coding_rate: "4/5".to_owned() };
        event(
            "north field 1",
            Kind::Uplink(v1::Uplink {
                fcnt_up: 104,
                object_json:
                    r#"{"battery_v":3.5,"moisture_pct":26.42,"temperature_c":12.6,"conductivity_us_cm":410}"#
                        .to_owned(),
                receptions: receptions(),
                modulation: Some(v1::Modulation {
                    data_rate: Some(5),
                    kind: Some(modulation::Kind::Lora(lora)),
                }),
                ..v1::Uplink::default()
            }),
        )
    }
}
