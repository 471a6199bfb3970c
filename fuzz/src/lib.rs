//! The properties that the fuzz targets check. The crate's own tests replay the kept inputs against them.

#[path = "../../tests/it/fuzz_oracles.rs"]
pub mod oracles;
