//! AES-128 in plain code (FIPS 197) with 32-bit tables, as OpenSSL's C code does it: what a guest gets whose CPUID hides
//! AES-NI. For measuring only: table look-ups leak the key through the cache. Checked against the aes crate.

/// Tables and round keys.
#[derive(Debug)]
pub(super) struct PlainAes {
    sbox: [u8; 256],
    table: [u32; 256],
    keys: [[u32; 4]; 11],
}

impl PlainAes {
    /// Expands `key`.
    pub(super) fn new(key: [u8; 16]) -> Self {
        let sbox = sbox();
        let mut table = [0_u32; 256];
        for (entry, &s) in table.iter_mut().zip(&sbox) {
            let doubled = double(s);
            *entry = u32::from_be_bytes([doubled, s, s, doubled ^ s]);
        }
        let mut words = [0_u32; 44];
        for (word, bytes) in words.iter_mut().zip(key.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        let mut round_constant = 1_u8;
        for i in 4..44 {
            let mut word = words[i - 1];
            if i % 4 == 0 {
                let rotated = word.rotate_left(8).to_be_bytes().map(|byte| sbox[usize::from(byte)]);
                word = u32::from_be_bytes(rotated) ^ u32::from_be_bytes([round_constant, 0, 0, 0]);
                round_constant = double(round_constant);
            }
            words[i] = words[i - 4] ^ word;
        }
        let mut keys = [[0; 4]; 11];
        keys.copy_from_slice(words.as_chunks::<4>().0);
        Self { sbox, table, keys }
    }

    /// Encrypts a block of four big-endian words.
    pub(super) fn encrypt(&self, block: [u32; 4]) -> [u32; 4] {
        let byte = |word: u32, at: usize| usize::from(word.to_be_bytes()[at]);
        let mut state = add(block, self.keys[0]);
        for key in &self.keys[1..10] {
            let column = |c: usize| {
                self.table[byte(state[c], 0)]
                    ^ self.table[byte(state[(c + 1) % 4], 1)].rotate_right(8)
                    ^ self.table[byte(state[(c + 2) % 4], 2)].rotate_right(16)
                    ^ self.table[byte(state[(c + 3) % 4], 3)].rotate_right(24)
            };
            state = add([column(0), column(1), column(2), column(3)], *key);
        }
        let last = |c: usize| {
            u32::from_be_bytes([
                self.sbox[byte(state[c], 0)],
                self.sbox[byte(state[(c + 1) % 4], 1)],
                self.sbox[byte(state[(c + 2) % 4], 2)],
                self.sbox[byte(state[(c + 3) % 4], 3)],
            ])
        };
        add([last(0), last(1), last(2), last(3)], self.keys[10])
    }
}

fn add(a: [u32; 4], b: [u32; 4]) -> [u32; 4] {
    [a[0] ^ b[0], a[1] ^ b[1], a[2] ^ b[2], a[3] ^ b[3]]
}

/// Times x in GF(2^8), FIPS 197 section 4.2.1.
fn double(x: u8) -> u8 {
    (x << 1) ^ (0x1b * (x >> 7))
}

/// FIPS 197 section 5.1.1, by walking the powers of the generator 3 and its inverse 0xf6 in step.
fn sbox() -> [u8; 256] {
    let mut sbox = [0; 256];
    let (mut p, mut q) = (1_u8, 1_u8);
    loop {
        p ^= double(p);
        q ^= q << 1;
        q ^= q << 2;
        q ^= q << 4;
        if q & 0x80 != 0 {
            q ^= 0x09;
        }
        let mixed = q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4);
        sbox[usize::from(p)] = mixed ^ 0x63;
        if p == 1 {
            break;
        }
    }
    sbox[0] = 0x63;
    sbox
}

#[cfg(test)]
mod tests {
    use super::PlainAes;
    use aes::Aes128;
    use aes::cipher::{BlockCipherEncrypt as _, KeyInit as _};

    #[test]
    fn agrees_with_the_aes_crate() {
        let key: [u8; 16] = std::array::from_fn(|i| u8::try_from(i * 11).unwrap_or(0));
        let plain: [u8; 16] = std::array::from_fn(|i| u8::try_from(i * 13 + 5).unwrap_or(0));
        let words = std::array::from_fn(|i| u32::from_be_bytes(plain.as_chunks::<4>().0[i]));
        let found: Vec<u8> = PlainAes::new(key)
            .encrypt(words)
            .iter()
            .flat_map(|w| w.to_be_bytes())
            .collect();
        let mut expected = plain.into();
        Aes128::new(&key.into()).encrypt_block(&mut expected);
        assert_eq!(found[..], expected[..]);
    }
}
