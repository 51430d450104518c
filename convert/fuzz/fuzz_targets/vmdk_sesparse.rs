#![no_main]
//! An seSparse extent beside its descriptor.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = harness::descriptor("SESPARSE", 131_072);
    let mut body = data.to_vec();
    body.resize(body.len().max(1024), 0);
    body[..8].copy_from_slice(&0xcafe_babe_u64.to_le_bytes());
    body[512..520].copy_from_slice(&0xcafe_cafe_u64.to_le_bytes());
    harness::exercise(&[("top.vmdk", text.as_bytes()), ("body.vmdk", &body)]);
});
