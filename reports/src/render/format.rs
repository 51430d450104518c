//! Numbers for people.

/// Bytes with a binary unit and three significant digits: `1.25 GiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = float(bytes);
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", number(value), UNITS[unit])
}

/// A number with at least three significant digits and thin grouping: `0.0123`, `4.56`, `78.9`, `12 345`.
#[must_use]
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "not a number".to_owned();
    }
    let size = value.abs();
    let text = match size {
        0.0 => return "0".to_owned(),
        _ if !(1e-4..1e15).contains(&size) => return format!("{value:.2e}"),
        _ if size < 0.01 => format!("{value:.5}"),
        _ if size < 0.1 => format!("{value:.4}"),
        _ if size < 1.0 => format!("{value:.3}"),
        _ if size < 10.0 => format!("{value:.2}"),
        _ if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    };
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let (sign, digits) = text
        .strip_prefix('-')
        .map_or(("", text.as_str()), |digits| ("-", digits));
    let mut grouped = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        // A narrow no-break space from five digits on, as tables of figures are set.
        if digits.len() > 4 && index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// Seconds for people: `0.43 s`, `12.3 s`, `2 min 05 s`, `1 h 07 min`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".to_owned();
    }
    if seconds < 60.0 {
        return format!("{} s", number(seconds));
    }
    let whole = std::time::Duration::try_from_secs_f64(seconds).map_or(u64::MAX, |time| time.as_secs());
    if whole < 3600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{} h {:02} min", whole / 3600, whole % 3600 / 60)
    }
}

/// Megabytes (10^6) a second.
pub(super) fn rate(bytes: u64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| float(bytes) / 1e6 / seconds)
}

/// Exact up to 2^53, beyond which no reader counts bytes.
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

/// `count` with the right form of the noun.
pub(super) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_significant_digits_and_group_from_five() {
        let cases = [
            (0.0, "0"),
            (0.001_234, "0.00123"),
            (0.5, "0.5"),
            (4.0, "4"),
            (4.561, "4.56"),
            (78.94, "78.9"),
            (1234.4, "1234"),
            (12_345.0, "12\u{202f}345"),
            (-1_234_567.0, "-1\u{202f}234\u{202f}567"),
            (1e-7, "1.00e-7"),
            (f64::NAN, "not a number"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn sizes_and_times_are_written_with_the_nearest_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16 EiB");
        assert_eq!(duration(0.4321), "0.432 s");
        assert_eq!(duration(125.0), "2 min 05 s");
        assert_eq!(duration(4020.0), "1 h 07 min");
        assert_eq!(duration(-1.0), "unknown");
    }
}
