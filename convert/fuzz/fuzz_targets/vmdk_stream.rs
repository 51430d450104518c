#![no_main]
//! A stream, front to back and with seeking.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(stream) = convert::image::vmdk::stream::GrainStream::new(data, std::path::Path::new("fuzz.vmdk")) {
        for grain in stream {
            if grain.is_err() {
                break;
            }
        }
    }
    harness::exercise(&[("top.vmdk", data)]);
});
