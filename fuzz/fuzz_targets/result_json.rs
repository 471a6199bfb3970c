#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| result_poster_fuzz::oracles::result_json(data));
