#![no_main]
//! A COWD extent beside its descriptor.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = harness::descriptor("VMFSSPARSE", 131_072);
    let mut body = data.to_vec();
    body.resize(body.len().max(2048), 0);
    body[..8].copy_from_slice(b"COWD\x01\0\0\0");
    harness::exercise(&[("top.vmdk", text.as_bytes()), ("body.vmdk", &body)]);
});
