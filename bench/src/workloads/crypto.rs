//! SHA-256 and AES-128, in plain code and by CPU instructions: shows at once whether a virtual CPU model hides AES-NI or
//! the SHA extensions from the guest.

use super::aes::PlainAes;
use super::sha256;
use super::{Built, Context, Definition, Planned};
use crate::harness::{Clock, Halt, Kernel, Scale};
use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt as _, KeyInit as _};
use reports::schema::Better;
use sha2::{Digest as _, Sha256};
use std::hint::black_box;

/// 16 KiB as in `openssl speed`'s largest column: stays in the first cache level.
const BUFFER: usize = 16 << 10;

const KEY: [u8; 16] = *b"esxodus bench 01";

pub(super) fn plan<'a>(_context: &Context<'a>) -> Vec<Planned<'a>> {
    vec![
        one(
            "sha256.plain",
            "SHA-256, plain code",
            "compression function in portable code, 16 KiB buffer",
            || Ok(plain_sha()),
        ),
        one(
            "sha256.ni",
            "SHA-256, CPU instructions",
            "sha2 crate on SHA-NI, 16 KiB buffer",
            || {
                needs(std::arch::is_x86_feature_detected!("sha"), "SHA extensions")?;
                Ok(fast_sha())
            },
        ),
        one(
            "aes.plain",
            "AES-128, plain code",
            "AES-128-ECB encryption by tables, 16 KiB buffer",
            || Ok(plain_aes()),
        ),
        one(
            "aes.ni",
            "AES-128, CPU instructions",
            "AES-128-ECB encryption, aes crate on AES-NI, 16 KiB buffer",
            || {
                needs(std::arch::is_x86_feature_detected!("aes"), "AES-NI")?;
                Ok(fast_aes())
            },
        ),
    ]
}

fn needs(present: bool, what: &str) -> Result<(), Halt> {
    if present {
        Ok(())
    } else {
        Err(Halt::Skip(format!(
            "CPUID shows no {what}; give the guest a CPU model that has them"
        )))
    }
}

fn one<'a>(
    what: &'static str,
    name: &str,
    method: &'static str,
    make: impl FnOnce() -> Result<Kernel<'a>, Halt> + 'a,
) -> Planned<'a> {
    let definition = Definition {
        id: format!("cpu.{what}"),
        name: name.to_owned(),
        unit: "MB/s",
        better: Better::Higher,
        measures: "hashing or encryption of a buffer in the first cache level on one thread",
        pitfalls: "ECB on independent blocks: pipelined, so faster than CBC and near CTR or GCM's cipher part",
        reference: "openssl speed -evp sha256, aes-128-ecb",
    };
    let build = move |_: &Context<'a>| {
        Ok(Built {
            kernel: make()?,
            scale: Scale::Rate(BUFFER as f64 / 1e6),
            method: format!("{method}; one thread"),
        })
    };
    Planned {
        definition,
        weight: 0.7,
        build: Box::new(build),
    }
}

fn buffer() -> Vec<u8> {
    let mut bytes = vec![0; BUFFER];
    crate::stats::Prng::new(2).fill(&mut bytes);
    bytes
}

fn plain_sha<'a>() -> Kernel<'a> {
    let bytes = buffer();
    Box::new(move |iterations, _| {
        let start = Clock::now();
        let mut state = sha256::INITIAL;
        for _ in 0..iterations {
            for block in black_box(&bytes).as_chunks::<64>().0 {
                sha256::compress(&mut state, block);
            }
        }
        black_box(state);
        Ok(start.elapsed())
    })
}

fn fast_sha<'a>() -> Kernel<'a> {
    let bytes = buffer();
    Box::new(move |iterations, _| {
        let start = Clock::now();
        let mut hasher = Sha256::new();
        for _ in 0..iterations {
            hasher.update(black_box(&bytes));
        }
        black_box(hasher.finalize());
        Ok(start.elapsed())
    })
}

fn plain_aes<'a>() -> Kernel<'a> {
    let cipher = PlainAes::new(KEY);
    let mut words = vec![[0x0123_4567_u32; 4]; BUFFER / 16];
    Box::new(move |iterations, _| {
        let start = Clock::now();
        for _ in 0..iterations {
            for block in black_box(&mut words) {
                *block = cipher.encrypt(*block);
            }
        }
        black_box(&words);
        Ok(start.elapsed())
    })
}

fn fast_aes<'a>() -> Kernel<'a> {
    let cipher = Aes128::new(&KEY.into());
    let mut blocks = vec![aes::Block::default(); BUFFER / 16];
    Box::new(move |iterations, _| {
        let start = Clock::now();
        for _ in 0..iterations {
            cipher.encrypt_blocks(black_box(&mut blocks));
        }
        black_box(&blocks);
        Ok(start.elapsed())
    })
}
