//! The fuzz targets' own code, run without a fuzzer: over the corpus, over its seeds, and over damage to those.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::fixtures::Random;

#[path = "../../fuzz/harness.rs"]
#[expect(unreachable_pub, reason = "a library for the fuzz targets, a module here")]
mod harness;

type Run = fn(&[u8]) -> bool;

const TARGETS: [(&str, Run); 9] = [
    ("ovf", harness::ovf),
    ("qcow2", harness::qcow2),
    ("vmdk_chain", harness::vmdk_chain),
    ("vmdk_cowd", harness::vmdk_cowd),
    ("vmdk_descriptor", harness::vmdk_descriptor),
    ("vmdk_hosted", harness::vmdk_hosted),
    ("vmdk_sesparse", harness::vmdk_sesparse),
    ("vmdk_stream", harness::vmdk_stream),
    ("vmx", harness::vmx),
];

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a name").path())
        .collect();
    paths.sort();
    paths
}

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_fuzz_target_calls_its_own_function_and_is_listed() {
    let folder = crate_folder().join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("manifest");
    let mut found = BTreeSet::new();
    for path in files(&folder.join("fuzz_targets")) {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("target");
        assert!(text.contains(&format!("harness::{name}(data)")), "{name}");
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "{name}"
        );
        found.insert(name);
    }
    let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, known);
}

#[test]
fn the_fuzz_targets_start_from_seeds_that_they_read_to_the_end() {
    let seeds = crate_folder().join("tests/corpus/seeds");
    for (name, run) in TARGETS {
        let paths = files(&seeds.join(name));
        assert!(!paths.is_empty(), "{name} has no seed");
        for path in paths {
            assert!(run(&std::fs::read(&path).expect("seed")), "{}", path.display());
        }
    }
}

#[test]
fn the_fuzz_targets_survive_the_corpus_and_damaged_seeds() {
    let corpus = crate_folder().join("tests/corpus");
    let mut random = Random(0xf022);
    for (name, run) in TARGETS {
        let kind = name.split('_').next().expect("a kind");
        for path in files(&corpus.join(kind)) {
            run(&std::fs::read(&path).expect("input"));
        }
        for path in files(&corpus.join("seeds").join(name)) {
            let seed = std::fs::read(&path).expect("seed");
            for _ in 0..200 {
                let mut input = seed.clone();
                for _ in 0..=random.below(3) {
                    let at = random.below(input.len());
                    input[at] = random.next().to_le_bytes()[0];
                }
                run(&input);
            }
        }
    }
}
