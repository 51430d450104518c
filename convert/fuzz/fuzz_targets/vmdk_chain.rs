#![no_main]
//! A chain: the input is cut at NUL bytes into up to four descriptors that may name each other.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let names = ["a.vmdk", "b.vmdk", "c.vmdk", "d.vmdk"];
    let files: Vec<(&str, &[u8])> = names.into_iter().zip(data.split(|byte| *byte == 0)).collect();
    harness::exercise(&files);
});
