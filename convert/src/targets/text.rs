//! Quoting for the languages that targets are written in, and names that they accept.

/// A word for `sh`, quoted where it needs to be.
pub(crate) fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A value inside a QEMU option list, where a comma ends the value.
pub(crate) fn qemu_value(value: &str) -> String {
    value.replace(',', ",,")
}

/// The text without control characters and byte order marks (XML 1.0 can't hold the first, YAML can't hold the second, and
/// terminals act on some); line ends stay.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| matches!(c, '\n' | '\t') || !c.is_control() && !matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}'))
        .collect()
}

/// A DNS label (with dots where `dots`) from any name, at most 63 characters: white space becomes `-`, what else is no letter or
/// digit goes.
pub(crate) fn dns_name(name: &str, dots: bool, lower: bool) -> String {
    let mut result = String::new();
    for c in name.chars() {
        let c = if lower { c.to_ascii_lowercase() } else { c };
        if c.is_ascii_alphanumeric() {
            result.push(c);
        } else if c == '.' && dots {
            if !result.ends_with(['.', '-']) && !result.is_empty() {
                result.push('.');
            }
        } else if (c == '-' || c.is_whitespace()) && !result.ends_with(['-', '.']) && !result.is_empty() {
            result.push('-');
        }
    }
    result.truncate(63);
    let result = result.trim_matches(|c| c == '-' || c == '.').to_owned();
    if result.is_empty() { "guest".to_owned() } else { result }
}

/// A serial of at most 20 characters that every target's schema takes.
pub(crate) fn serial(serial: &str) -> String {
    serial
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "_.+-".contains(*c))
        .take(20)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_dns_names() {
        assert_eq!(dns_name("Prod DB_01 \" x", true, false), "Prod-DB01-x");
        assert_eq!(dns_name("Prod DB_01 \" x", false, true), "prod-db01-x");
        assert_eq!(dns_name("..-ä-", true, false), "guest");
        assert_eq!(dns_name(&"a".repeat(80), true, true).len(), 63);
    }

    #[test]
    fn words_survive_the_shell() {
        let nasty = "it's `$(x)` \"q\" \\ \n &";
        let out = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {}", shell(nasty))])
            .output()
            .expect("sh runs");
        assert_eq!(String::from_utf8_lossy(&out.stdout), nasty);
    }
}
