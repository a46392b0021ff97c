#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| imagic_edit::engine::store::entry::fuzz(bytes));
