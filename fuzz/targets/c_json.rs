#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| imagic_edit::host::fuzz::c_json(bytes));
