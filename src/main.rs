//! The launcher: loads the library that lies beside it and calls its one entry.
fn main() {}
