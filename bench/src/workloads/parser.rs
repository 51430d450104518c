//! A tokenizer over generated JSON: branches that a predictor cannot learn by heart.

use crate::stats::Prng;
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::OnceLock;

/// Size of the text in bytes.
pub(super) const TEXT_BYTES: usize = 64 << 10;

/// Parses the text `passes` times; returns a checksum.
#[must_use]
pub fn parse_text(passes: u64) -> u64 {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    let text = TEXT.get_or_init(generate);
    (0..passes).fold(0, |sum, _| parse(black_box(text)).wrapping_add(sum.rotate_left(1)))
}

/// Same text on every machine: seeded.
fn generate() -> Vec<u8> {
    let mut prng = Prng::new(42);
    let mut text = String::with_capacity(TEXT_BYTES + 256);
    while text.len() < TEXT_BYTES {
        let (id, kind) = (prng.below(1_000_000), prng.below(4));
        let written = match kind {
            0 => write!(text, "{{\"id\":{id},\"name\":\"guest-{:x}\"}},", prng.below(1 << 40)),
            1 => write!(
                text,
                "[{},{},-{}.{}],",
                prng.below(10),
                prng.below(10_000),
                id,
                prng.below(100)
            ),
            2 => write!(
                text,
                "{{\"up\":{},\"note\":\"a \\\"b\\\" c\\n{}\"}},",
                id % 2 == 0,
                prng.below(1000)
            ),
            _ => write!(text, " null , {}e{} ,", id, prng.below(9)),
        };
        written.expect("writing to a string cannot fail");
    }
    let mut bytes = text.into_bytes();
    bytes.truncate(TEXT_BYTES);
    bytes
}

fn parse(text: &[u8]) -> u64 {
    let (mut at, mut depth, mut sum) = (0, 0_u64, 0_u64);
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let start = at;
                while let Some(&inner) = text.get(at) {
                    at += 1;
                    match inner {
                        b'\\' => at += 1,
                        b'"' => break,
                        _ => {}
                    }
                }
                sum = sum.wrapping_add((at - start) as u64 * (depth + 1));
            }
            b'0'..=b'9' => {
                let mut number = u64::from(byte - b'0');
                while let Some(digit) = text.get(at).filter(|digit| digit.is_ascii_digit()) {
                    number = number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
                    at += 1;
                }
                sum ^= number.wrapping_mul(depth + 3);
            }
            b't' | b'f' | b'n' => {
                while text.get(at).is_some_and(u8::is_ascii_alphabetic) {
                    at += 1;
                }
                sum = sum.wrapping_add(u64::from(byte));
            }
            b'-' | b'.' | b'e' | b',' | b':' => sum = sum.rotate_left(3),
            _ => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::{TEXT_BYTES, generate, parse, parse_text};

    #[test]
    fn text_has_its_size_and_the_same_content_each_time() {
        let text = generate();
        assert_eq!(text.len(), TEXT_BYTES);
        assert_eq!(text, generate());
        assert_eq!(parse_text(1), parse(&text));
    }

    #[test]
    fn numbers_and_nesting_change_the_checksum() {
        assert_ne!(parse(b"[1,2]"), parse(b"[1,3]"));
        assert_ne!(parse(b"[1]"), parse(b"1"));
    }
}
