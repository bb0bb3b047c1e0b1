//! Times as packet forwarders print them.

use mac::units::Timestamp;

/// Reads `2024-03-01T10:11:12.345678Z`, also without the zone (then UTC), with a blank for the `T`, with ` GMT` or
/// ` UTC`, or with an offset such as `+01:00`.
///
/// `None` for anything else and for years outside 2000..=2199: a gateway without a fix prints 1970 or 1980.
pub(crate) fn parse_utc(text: &str) -> Option<Timestamp> {
    let mut cursor = Cursor(text.trim().as_bytes());
    let year = cursor.digits(4)?;
    cursor.one_of(b"-")?;
    let month = cursor.digits(2)?;
    cursor.one_of(b"-")?;
    let day = cursor.digits(2)?;
    cursor.one_of(b"T t")?;
    let hour = cursor.digits(2)?;
    cursor.one_of(b":")?;
    let minute = cursor.digits(2)?;
    cursor.one_of(b":")?;
    let second = cursor.digits(2)?;
    let fraction_us = if cursor.one_of(b".,").is_some() { cursor.fraction_us()? } else { 0 };
    let offset_min = cursor.zone_offset_min()?;

    // Second 60 is a leap second; it gets the time of the one behind it.
    let in_range = (2000..=2199).contains(&year)
        && (1..=days_in_month(year, month)?).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !in_range {
        return None;
    }
    let hours = days_since_epoch(year, month, day)?.checked_mul(24)?.checked_add(hour)?;
    let minutes = hours.checked_mul(60)?.checked_add(minute)?.checked_sub(offset_min)?;
    let seconds = minutes.checked_mul(60)?.checked_add(second)?;
    seconds.checked_mul(1_000_000)?.checked_add(fraction_us).map(Timestamp::from_us)
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn digits(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        let number = number(digits)?;
        self.0 = rest;
        Some(number)
    }

    fn one_of(&mut self, wanted: &[u8]) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        if !wanted.contains(&first) {
            return None;
        }
        self.0 = rest;
        Some(first)
    }

    /// At least one digit; those behind the sixth are cut off.
    fn fraction_us(&mut self) -> Option<i64> {
        let count = self.0.iter().take_while(|d| d.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at_checked(count)?;
        if digits.is_empty() {
            return None;
        }
        self.0 = rest;
        number(digits.iter().chain(std::iter::repeat(&b'0')).take(6))
    }

    fn zone_offset_min(&mut self) -> Option<i64> {
        match self.0 {
            b"" | b"Z" | b"z" | b" GMT" | b" UTC" => return Some(0),
            _ => {}
        }
        let sign = match self.one_of(b"+-")? {
            b'-' => -1_i64,
            _ => 1,
        };
        let hours = self.digits(2)?;
        if self.one_of(b":").is_none() && self.0.is_empty() {
            return hours.checked_mul(60)?.checked_mul(sign);
        }
        let minutes = self.digits(2)?;
        let offset_min = hours.checked_mul(60)?.checked_add(minutes)?.checked_mul(sign)?;
        (self.0.is_empty() && hours < 24 && minutes < 60).then_some(offset_min)
    }
}

/// What the digits say; `None` when one of them is none.
fn number<'a>(digits: impl IntoIterator<Item = &'a u8>) -> Option<i64> {
    digits
        .into_iter()
        .try_fold(0_i64, |sum, digit| sum.checked_mul(10)?.checked_add(char::from(*digit).to_digit(10)?.into()))
}

fn days_in_month(year: i64, month: i64) -> Option<i64> {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => Some(31),
        4 | 6 | 9 | 11 => Some(30),
        2 if is_leap(year) => Some(29),
        2 => Some(28),
        _ => None,
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days from 1970-01-01; counted in years that begin with March, so that the leap day is the last one.
fn days_since_epoch(year: i64, month: i64, day: i64) -> Option<i64> {
    let (year, month) =
        if month > 2 { (year, month.checked_sub(3)?) } else { (year.checked_sub(1)?, month.checked_add(9)?) };
    let leap_days = (year / 4).checked_sub(year / 100)?.checked_add(year / 400)?;
    let days_before_year = year.checked_mul(365)?.checked_add(leap_days)?;
    let days_before_month = month.checked_mul(153)?.checked_add(2)? / 5;
    days_before_year.checked_add(days_before_month)?.checked_add(day)?.checked_sub(1 + DAYS_TO_EPOCH)
}

/// From March of the year 0 to 1970-01-01.
const DAYS_TO_EPOCH: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_forwarders_print_is_read() {
        let cases = [
            ("2024-03-01T10:11:12.345678Z", 1_709_287_872_345_678),
            ("2024-03-01T10:11:12.345678", 1_709_287_872_345_678),
            ("2024-03-01T10:11:12Z", 1_709_287_872_000_000),
            ("2024-03-01 10:11:12 GMT", 1_709_287_872_000_000),
            ("2024-03-01T10:11:12.3456789Z", 1_709_287_872_345_678),
            ("2024-03-01T10:11:12.5+00:00", 1_709_287_872_500_000),
            ("2024-03-01T11:11:12+01:00", 1_709_287_872_000_000),
            ("2024-03-01T05:41:12-0430", 1_709_287_872_000_000),
            ("2000-01-01T00:00:00Z", 946_684_800_000_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
            (" 2024-03-01T10:11:12Z ", 1_709_287_872_000_000),
        ];
        for (text, us) in cases {
            assert_eq!(parse_utc(text), Some(Timestamp::from_us(us)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_absent() {
        let cases = [
            "",
            "now",
            "1970-01-01T00:00:00Z",
            "1980-01-06T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-03-01",
            "2024-03-01T24:00:00Z",
            "2024-03-01T10:60:00Z",
            "2024-03-01T10:00:61Z",
            "2024-03-01T10:00:00.Z",
            "2024-03-01T10:00:00ZZ",
            "2024-03-01T10:00:00+1",
            "2024-03-01T10:00:00+01:",
            "-024-03-01T10:00:00Z",
            "99999999999999999999",
            "2024-03-01T10:11:12\u{e9}",
        ];
        for text in cases {
            assert_eq!(parse_utc(text), None, "{text}");
        }
    }
}
