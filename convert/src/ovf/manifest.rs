//! Manifests (`.mf`): a digest a file.

use super::OvfError;
use sha2::Digest as _;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

/// Digest algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Algorithm.
    pub algorithm: Algorithm,
    /// File, relative to the manifest.
    pub name: String,
    /// Digest in lower-case hex.
    pub hex: String,
}

/// Reads a manifest: `SHA256(name)= hex` with any spacing. Lines of other kinds are left out.
#[must_use]
pub fn parse(text: &str) -> Vec<Line> {
    text.lines()
        .filter_map(|line| {
            let (algorithm, rest) = line.trim().split_once('(')?;
            let (name, hex) = rest.rsplit_once(')')?;
            let hex = hex.trim().strip_prefix('=')?.trim().to_ascii_lowercase();
            let (algorithm, length) = match algorithm.trim().to_ascii_uppercase().replace('-', "").as_str() {
                "SHA1" => (Algorithm::Sha1, 40),
                "SHA256" => (Algorithm::Sha256, 64),
                "SHA384" => (Algorithm::Sha384, 96),
                "SHA512" => (Algorithm::Sha512, 128),
                _ => return None,
            };
            (hex.len() == length && hex.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| Line {
                algorithm,
                name: name.to_owned(),
                hex,
            })
        })
        .collect()
}

enum State {
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

/// A digest that is fed piece by piece, for instance while a disk is copied.
pub struct Hasher(State);

impl std::fmt::Debug for Hasher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Hasher")
    }
}

impl Hasher {
    /// An empty digest.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha1 => State::Sha1(sha1::Sha1::default()),
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::default()),
            Algorithm::Sha384 => State::Sha384(sha2::Sha384::default()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::default()),
        })
    }

    /// Adds bytes, in the file's order.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha1(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Sha384(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest in lower-case hex.
    #[must_use]
    pub fn finish(self) -> String {
        let bytes: Vec<u8> = match self.0 {
            State::Sha1(state) => state.finalize().to_vec(),
            State::Sha256(state) => state.finalize().to_vec(),
            State::Sha384(state) => state.finalize().to_vec(),
            State::Sha512(state) => state.finalize().to_vec(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The digest of all that `reader` gives. `None`: `cancel` was set.
///
/// # Errors
/// [`OvfError::Io`].
pub fn digest(reader: &mut dyn Read, algorithm: Algorithm, cancel: &AtomicBool) -> Result<Option<String>, OvfError> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 1 << 20];
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let length = reader.read(&mut buffer).map_err(|source| OvfError::Io {
            doing: "reading for the manifest",
            source,
        })?;
        if length == 0 {
            return Ok(Some(hasher.finish()));
        }
        hasher.update(&buffer[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_of_a_line_are_read() {
        let sum = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        for line in [
            format!("SHA1(x (1).ovf)= {sum}"),
            format!("SHA1 (x (1).ovf) = {}\r", sum.to_uppercase()),
        ] {
            let lines = parse(&line);
            assert_eq!((lines[0].name.as_str(), lines[0].hex.as_str()), ("x (1).ovf", sum));
        }
        assert!(parse("SHA1(x)= 12\nMD5(x)= 00").is_empty());
    }

    #[test]
    fn digests_are_the_published_ones() {
        let never = AtomicBool::new(false);
        let sum = |algorithm| {
            digest(&mut &b"abc"[..], algorithm, &never)
                .expect("readable")
                .expect("not cancelled")
        };
        assert_eq!(sum(Algorithm::Sha1), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert!(sum(Algorithm::Sha256).starts_with("ba7816bf8f01cfea"));
        assert!(sum(Algorithm::Sha512).starts_with("ddaf35a193617aba"));
    }
}
