#![no_main]
//! The descriptor's text.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = convert::image::vmdk::descriptor::Descriptor::parse(std::path::Path::new("fuzz.vmdk"), 0, data);
});
