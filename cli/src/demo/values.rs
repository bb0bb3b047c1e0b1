//! What a codec made of a payload, as short as people say it: `moisture 26.4 %`, `12.6 °C`.

use serde_json::{Map, Value};

/// A field the farm's codecs give: name, word before the number, unit, decimals.
type Field = (&'static str, &'static str, &'static str, usize);

/// In the order people care.
const FIELDS: [Field; 12] = [
    ("moisture_pct", "moisture ", "%", 1),
    ("level_pct", "level ", "%", 1),
    ("flow_l_min", "", "l/min", 1),
    ("litres", "", "l", 0),
    ("distance_mm", "", "mm", 0),
    ("temperature_c", "", "°C", 1),
    ("humidity_pct", "", "% rh", 0),
    ("wind_m_s", "", "m/s", 1),
    ("rain_mm", "rain ", "mm", 1),
    ("pressure_hpa", "", "hPa", 0),
    ("conductivity_us_cm", "", "µS/cm", 0),
    ("battery_v", "", "V", 2),
];

/// The values one by one, the important ones first. Fields nobody has a word for come last, by their names.
pub(super) fn words(object_json: &str) -> Vec<String> {
    let object = match serde_json::from_str(object_json) {
        Ok(Value::Object(object)) => object,
        Ok(other) => return vec![other.to_string()],
        Err(_) => return vec![object_json.to_owned()],
    };
    let is_open = object.get("open").and_then(Value::as_bool);
    let state = is_open.map(|open| if open { "open" } else { "shut" }.to_owned());
    let known = FIELDS.iter().filter_map(|field| known_words(field, &object));
    let others = object.iter().filter(|(name, _)| !is_known(name)).map(|(name, value)| match value {
        Value::String(text) => format!("{name} {text}"),
        Value::Array(_) | Value::Bool(_) | Value::Null | Value::Number(_) | Value::Object(_) => {
            format!("{name} {value}")
        }
    });
    state.into_iter().chain(known).chain(others).collect()
}

/// As many of the values as fit, two spaces between them.
pub(super) fn fitted(values: &[String], width: usize) -> String {
    let mut line = String::new();
    for value in values {
        let gap = if line.is_empty() { 0 } else { 2 };
        if !line.is_empty() && line.chars().count() + gap + value.chars().count() > width {
            break;
        }
        line.extend(std::iter::repeat_n(' ', gap));
        line.push_str(value);
    }
    line
}

fn known_words((name, word, unit, decimals): &Field, object: &Map<String, Value>) -> Option<String> {
    let number = object.get(*name)?.as_f64()?;
    Some(format!("{word}{} {unit}", trimmed(number, *decimals)))
}

fn is_known(name: &str) -> bool {
    name == "open" || FIELDS.iter().any(|(known, ..)| *known == name)
}

/// Without the zeros at the end that say nothing.
fn trimmed(number: f64, decimals: usize) -> String {
    let text = format!("{number:.decimals$}");
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_said_with_their_units_and_the_important_ones_first() {
        let soil = r#"{"battery_v":3.5,"moisture_pct":26.42,"temperature_c":12.6,"conductivity_us_cm":410}"#;
        assert_eq!(words(soil), ["moisture 26.4 %", "12.6 °C", "410 µS/cm", "3.5 V"]);
        assert_eq!(words(r#"{"open":false,"flow_l_min":0,"litres":0}"#), ["shut", "0 l/min", "0 l"]);
        assert_eq!(words(r#"{"pressure_hpa":1010.04,"temperature_c":-3}"#), ["-3 °C", "1010 hPa"]);
    }

    #[test]
    fn what_nobody_has_a_word_for_is_shown_all_the_same() {
        assert_eq!(words(r#"{"lid":"ajar","depth":3}"#), ["depth 3", "lid ajar"]);
        assert_eq!(words("[1,2]"), ["[1,2]"]);
        assert_eq!(words("{"), ["{"]);
    }

    #[test]
    fn a_line_holds_whole_values_only() {
        let values = ["moisture 26.4 %", "12.6 °C", "410 µS/cm"].map(str::to_owned);
        assert_eq!(fitted(&values, 35), "moisture 26.4 %  12.6 °C  410 µS/cm");
        assert_eq!(fitted(&values, 34), "moisture 26.4 %  12.6 °C");
        assert_eq!(fitted(&values, 3), "moisture 26.4 %");
    }
}
