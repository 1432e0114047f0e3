//! Which panics are findings: not those in foreign code, which the cache catches.

use std::panic::{PanicHookInfo, set_hook, take_hook};

/// Lets the panics that the cache must catch go on, where libFuzzer's hook would abort. One that
/// comes through to the caller is a finding all the same.
pub(crate) fn leave_foreign_ones_to_the_cache() {
    let abort = take_hook();
    set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        let file = info.location().map_or("", |location| location.file());
        let foreign = ["/registry/", "/rustc/", "/library/"].iter().any(|part| file.contains(part));
        if !foreign {
            abort(info);
        }
    }));
}
