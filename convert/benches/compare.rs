//! One conversion, timed, for pairing with other tools on the same files:
//! `cargo bench -p esxodus-convert --bench compare -- WAY KIND SOURCE TARGET [JOBS]`, where WAY is `plain`, `raw`, `zlib`,
//! `zstdN`, `keep`, `trust` or `data-file`, and KIND is `raw`, `stream` or `sparse`.

extern crate esxodus_convert as convert;

#[expect(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../tests/copy/sources.rs"]
mod sources;

use convert::copy::{Compress, CopyOptions, TargetFormat, VerifyOptions, convert_disk, verify};
use convert::progress::Silent;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let [way, kind, source, target, rest @ ..] = arguments.as_slice() else {
        println!("usage: compare WAY KIND SOURCE TARGET [JOBS]");
        return;
    };
    let mut options = CopyOptions {
        sync: false,
        jobs: rest.first().and_then(|jobs| jobs.parse().ok()),
        ..CopyOptions::default()
    };
    match way.as_str() {
        "plain" => {}
        "raw" => options.format = TargetFormat::Raw,
        "zlib" => options.compress = Compress::Zlib,
        "keep" => options.compress = Compress::Keep { trust: false },
        "trust" => options.compress = Compress::Keep { trust: true },
        "data-file" => options.data_file = true,
        other => {
            let level = other.strip_prefix("zstd").and_then(|level| level.parse().ok());
            options.compress = Compress::Zstd {
                level: level.expect("a known way"),
            };
        }
    }
    let source = match kind.as_str() {
        "raw" => sources::TestSource::raw(Path::new(source)),
        "stream" => sources::TestSource::stream(Path::new(source)),
        "sparse" => sources::TestSource::sparse(Path::new(source)),
        other => panic!("{other} is not a kind of source"),
    };
    let (target, cancel) = (Path::new(target), AtomicBool::new(false));
    let manifest = convert_disk(&source, target, "disk", &options, &Silent, &cancel).expect("the conversion succeeds");
    print!(
        "{way}: {:.2} s, {} MB, mode {}",
        manifest.seconds,
        manifest.file_bytes / 1_000_000,
        manifest.mode
    );
    if manifest.content.is_some() {
        let started = Instant::now();
        let outcome = verify(target, &manifest, None, VerifyOptions::default(), &Silent, &cancel).expect("it verifies");
        assert!(outcome.identical);
        print!(", verified in {:.2} s", started.elapsed().as_secs_f64());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    println!(
        ", {}",
        status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap_or_default()
    );
}
