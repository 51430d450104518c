#![no_main]
//! A VMX file.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = convert::vmx::parse(data);
});
