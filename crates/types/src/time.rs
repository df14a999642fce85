//! Times as text: RFC 3339 in whole seconds, and kubectl-like ages.

/// Renders milliseconds since the Unix epoch as RFC 3339 in UTC, whole seconds.
pub fn rfc3339(wall_ms: u64) -> String {
    let seconds = i64::try_from(wall_ms / 1000).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_second(seconds) {
        Ok(timestamp) => timestamp.to_string(),
        // Past the year 9999: a broken clock, but still deterministic.
        Err(_) => format!("@{seconds}"),
    }
}

/// Reads RFC 3339 back into milliseconds; `None` for anything else.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(timestamp.as_millisecond()).ok()
}

/// Renders an age as kubectl does: the largest unit, two for small counts.
pub fn age(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=599 => format!("{}m{}s", seconds / 60, seconds % 60),
        600..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Reads a duration in Go's syntax (`1h2m3.5s`, `300ms`, `0`) as milliseconds, rounded down.
/// `None` for anything else and for negative ones.
pub fn parse_go_duration_ms(text: &str) -> Option<u64> {
    let nanos = parse_go_duration_ns(text)?;
    u64::try_from(nanos / NANOS_PER_MS)
        .ok()
        .filter(|_| nanos >= 0)
}

const NANOS_PER_MS: i64 = 1_000_000;

/// Reads a duration in Go's syntax, a sign included, as nanoseconds. `None` for anything else and
/// for what does not fit.
pub fn parse_go_duration_ns(text: &str) -> Option<i64> {
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if unsigned == "0" {
        return Some(0);
    }
    if unsigned.is_empty() {
        return None;
    }
    let mut rest = unsigned;
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_ends = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at(number_ends);
        let unit_ends = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        total = total.checked_add(nanos_of(number, &after[..unit_ends])?)?;
        rest = &after[unit_ends..];
    }
    i64::try_from(total * sign).ok()
}

/// One number with its unit, exactly; digits below a nanosecond are dropped.
fn nanos_of(number: &str, unit: &str) -> Option<i128> {
    let unit: i128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: i128 = match whole {
        "" => 0,
        digits => digits.parse().ok()?,
    };
    let mut nanos = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.chars() {
        place /= 10;
        nanos += i128::from(digit.to_digit(10)?) * place;
    }
    Some(nanos)
}

/// Prints whole milliseconds as Go prints a duration: `6s`, `1h0m0s`, `1.5s`, `300ms`, `0s`.
pub fn go_duration(milliseconds: u64) -> String {
    let nanos = i64::try_from(milliseconds)
        .ok()
        .and_then(|ms| ms.checked_mul(NANOS_PER_MS));
    go_duration_ns(nanos.unwrap_or(i64::MAX))
}

/// Prints nanoseconds as Go does, a sign included.
pub fn go_duration_ns(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    match nanos {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{nanos}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(nanos, 1_000_000)),
        _ => {
            let (hours, minutes) = (nanos / 3_600_000_000_000, nanos / 60_000_000_000 % 60);
            let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// `nanos` in `unit`s, without trailing zeros.
fn decimal(nanos: u64, unit: u64) -> String {
    let digits = unit.ilog10() as usize;
    let text = format!("{}.{:0digits$}", nanos / unit, nanos % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_seconds_in_utc() {
        assert_eq!(rfc3339(1_700_000_000_999), "2023-11-14T22:13:20Z");
        assert_eq!(
            parse_rfc3339("2023-11-14T22:13:20Z"),
            Some(1_700_000_000_000)
        );
        assert_eq!(parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn durations_use_gos_syntax() {
        let cases = [
            ("0", Some(0)),
            ("300ms", Some(300)),
            ("1h2m3.5s", Some(3_723_500)),
            (".5s", Some(500)),
            ("1.0005s", Some(1_000)),
        ];
        for (text, want) in cases {
            assert_eq!(parse_go_duration_ms(text), want, "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1x", "1.2.3s"] {
            assert_eq!(parse_go_duration_ms(bad), None, "{bad}");
        }
        assert_eq!(parse_go_duration_ns("-1m0.5s"), Some(-60_500_000_000));
        assert_eq!(parse_go_duration_ns("6.0000001s"), Some(6_000_000_100));
        assert_eq!(parse_go_duration_ns("10000000h"), None);
        let fine = [
            (-1_000_000_000, "-1s"),
            (1_500, "1.5µs"),
            (90_500_000_100, "1m30.5000001s"),
        ];
        for (nanos, want) in fine {
            assert_eq!(go_duration_ns(nanos), want);
        }
        let printed = [
            (0, "0s"),
            (6000, "6s"),
            (3_600_000, "1h0m0s"),
            (90_500, "1m30.5s"),
        ];
        for (milliseconds, want) in printed {
            assert_eq!(go_duration(milliseconds), want);
        }
    }

    #[test]
    fn ages_read_like_kubectl() {
        assert_eq!(
            [age(5_000), age(125_000), age(7_300_000)],
            ["5s", "2m5s", "2h"]
        );
    }
}
