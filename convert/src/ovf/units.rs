//! Units such as `byte * 2^20`.

use super::OvfError;

/// The factor that `units` stands for: `byte * 2^20`, `MegaBytes`, `byte*1024*1024`, `hertz * 10^6`. Empty: `default`.
///
/// # Errors
/// [`OvfError::Quantity`] for a unit that isn't known or a factor that doesn't fit.
pub fn scale(units: &str, default: u64) -> Result<u64, OvfError> {
    let bad = |why: &str| OvfError::Quantity {
        what: "AllocationUnits".to_owned(),
        value: units.to_owned(),
        why: why.to_owned(),
    };
    let compact: String = units
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect::<String>()
        .to_ascii_lowercase();
    if compact.is_empty() {
        return Ok(default);
    }
    let mut parts = compact.split('*');
    let mut factor: u64 = match parts.next().unwrap_or_default() {
        "byte" | "bytes" | "hertz" | "hz" | "count" => 1,
        "kilobytes" | "kilobyte" | "kb" | "kib" => 1 << 10,
        "megabytes" | "megabyte" | "mb" | "mib" => 1 << 20,
        "gigabytes" | "gigabyte" | "gb" | "gib" => 1 << 30,
        "terabytes" | "terabyte" | "tb" | "tib" => 1 << 40,
        _ => return Err(bad("unknown unit")),
    };
    for part in parts {
        let number = match part.split_once('^') {
            Some((base, exponent)) => {
                let (base, exponent): (u64, u32) = (
                    base.parse().map_err(|_| bad("the base is no number"))?,
                    exponent.parse().map_err(|_| bad("the exponent is no number"))?,
                );
                base.checked_pow(exponent).ok_or_else(|| bad("too large"))?
            }
            None => part.parse().map_err(|_| bad("a factor is no number"))?,
        };
        factor = factor.checked_mul(number).ok_or_else(|| bad("too large"))?;
    }
    Ok(factor)
}

#[cfg(test)]
mod tests {
    use super::scale;

    #[test]
    fn units_of_real_files_are_read() {
        for (text, factor) in [
            ("byte * 2^20", 1 << 20),
            ("byte * 2 ^ 30", 1 << 30),
            ("byte*1024*1024", 1 << 20),
            ("MegaBytes", 1 << 20),
            ("hertz * 10^6", 1_000_000),
            ("byte", 1),
            ("", 7),
        ] {
            assert_eq!(scale(text, 7).expect(text), factor, "{text}");
        }
        for bad in ["parsec", "byte * 2^99", "byte * x"] {
            assert!(scale(bad, 1).is_err(), "{bad}");
        }
    }
}
