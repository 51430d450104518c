#![no_main]
//! An OVF document.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = convert::ovf::parse(data);
});
