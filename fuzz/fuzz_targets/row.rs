#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| result_poster::fuzzing::row(data));
