//! The zero test.

/// Whether all bytes are zero. Stops early; runs at memory speed on zeros.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Four words an iteration fold into vector instructions.
    let mut blocks = bytes.chunks_exact(256);
    let whole = blocks.by_ref().all(|block| {
        let folded = block.chunks_exact(8).fold(0_u64, |all, word| {
            all | u64::from_ne_bytes(word.try_into().expect("eight bytes"))
        });
        folded == 0
    });
    whole && blocks.remainder().iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn a_single_set_bit_is_found_anywhere() {
        let mut bytes = vec![0_u8; 1031];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for at in 0..bytes.len() {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at}");
            bytes[at] = 0;
        }
    }
}
