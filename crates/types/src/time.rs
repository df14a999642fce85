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
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total_ms = 0.0;
    while !rest.is_empty() {
        let split = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..split].parse().ok()?;
        rest = &rest[split..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total_ms += number
            * match &rest[..end] {
                "ns" => 1e-6,
                "us" | "µs" => 1e-3,
                "ms" => 1.0,
                "s" => 1e3,
                "m" => 6e4,
                "h" => 3.6e6,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (!text.is_empty() && total_ms.is_finite()).then_some(total_ms as u64)
}

/// Prints whole milliseconds as Go prints a duration: `6s`, `1h0m0s`, `1.5s`, `300ms`, `0s`.
pub fn go_duration(milliseconds: u64) -> String {
    if milliseconds == 0 {
        return "0s".into();
    }
    if milliseconds < 1000 {
        return format!("{milliseconds}ms");
    }
    let (hours, minutes) = (milliseconds / 3_600_000, milliseconds / 60_000 % 60);
    let seconds = (milliseconds % 60_000) as f64 / 1000.0;
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
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
        ];
        for (text, want) in cases {
            assert_eq!(parse_go_duration_ms(text), want, "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1x", "1.2.3s"] {
            assert_eq!(parse_go_duration_ms(bad), None, "{bad}");
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
