#![no_main]
//! A hosted sparse extent beside its descriptor; compressed where the input says so.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = harness::descriptor("SPARSE", 131_072);
    let mut body = data.to_vec();
    body.resize(body.len().max(512), 0);
    body[..4].copy_from_slice(b"KDMV");
    harness::exercise(&[("top.vmdk", text.as_bytes()), ("body.vmdk", &body)]);
});
