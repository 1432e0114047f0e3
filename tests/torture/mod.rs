//! What a cache is put through for as long as one likes: crashes, damaged files, many threads.
//!
//! Included by the example `torture` and by the tests. The crate that includes it provides
//! `crate::support` and `crate::history`, those of `tests/it`.

pub(crate) mod oracle;
