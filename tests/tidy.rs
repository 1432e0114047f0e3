//! House rules that a compiler does not check. They run with `cargo test`.
//!
//! Each check is a function from a path and a text to the list of what is wrong, so that the
//! second half of this file can plant a breach of every rule and see it caught.

use std::path::Path;
use std::{fs, io};

/// Modules by layer, lowest first. A module may name only modules of lower layers, so
/// dependencies run one way. Modules of one layer may name each other, except the tiers.
const LAYERS: &[&[&str]] = &[
    &["error", "time", "hash", "health", "sync", "stats", "trace"],
    &["record", "layout", "key", "value", "attributes", "entry", "strategy"],
    TIERS,
    &["config"],
    &["engine"],
    &["handle", "bytes", "cache", "builder"],
    &["simulate"],
];

/// Strangers to each other: they return what they evicted, and only the engine sees two of them.
const TIERS: &[&str] = &["memory", "store"];

/// Where each foreign crate, or what a model exchanges, may be named: a file, or a folder with its
/// slash.
const DOORS: &[(&str, &[&str])] = &[
    ("crc32fast", &["src/record/"]),
    ("crossbeam_utils", &["src/sync/"]),
    ("flate2", &["src/simulate/trace.rs", "src/memory/order/traces.rs"]),
    ("foldhash", &["src/hash.rs"]),
    ("hashbrown", &["src/memory/", "src/engine/", "src/hash.rs"]),
    ("parking_lot", &["src/sync/"]),
    ("redb", &["src/store/disk/"]),
    ("rkyv", &["src/value.rs", "src/layout.rs", "src/record/", "src/entry/", "src/key.rs"]),
    ("serde", &["src/stats.rs"]),
    ("shuttle", &["src/sync/"]),
    ("smallvec", &["src/engine/"]),
    ("twox_hash", &["src/store/disk/blocks.rs"]),
    (
        "std::sync::atomic",
        &[
            "src/sync/",
            "src/record/",
            "src/stats.rs",
            "src/store/disk/",
            "src/memory/spots.rs",
            "src/memory/ahead.rs",
        ],
    ),
    ("std::thread", &["src/sync/", "src/config.rs"]),
    ("tracing", &["src/trace.rs"]),
];

const UNSAFE_ALLOWED: &[&str] = &[
    "src/record/fill.rs",
    "src/record/mod.rs",
    "src/record/spare.rs",
    "src/entry/mod.rs",
    "src/entry/found.rs",
    "src/cache.rs",
    "src/layout.rs",
    "src/sync/brief.rs",
];
const CODE_LINES_MAX: usize = 500;
const VAGUE_NAMES: &[&str] = &["util", "utils", "common", "helpers", "inner", "base", "raw"];
const NEVER_BY_DEFAULT: &[&str] = &["tokio", "async-std", "clap", "indicatif"];

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).expect(name);
    let mut sources = Vec::new();
    rust_files(root, "src", &mut sources).expect("readable src");
    assert!(!sources.is_empty(), "no sources under {}", root.display());

    let mut errors = manifest_errors(&read("Cargo.toml"));
    errors.extend(sqlite_errors("Cargo.lock", &read("Cargo.lock")));
    for entry in fs::read_dir(root.join("tests")).expect("readable tests") {
        let name = entry.expect("readable tests").file_name();
        errors.extend(test_file_errors(&name.to_string_lossy()));
    }
    for path in &sources {
        errors.extend(source_errors(path, &read(path)));
    }
    assert!(errors.is_empty(), "{} untidy:\n{}", errors.len(), errors.join("\n"));
}

/// Adds the `.rs` files under `folder`, as paths from `root` with `/` between the parts.
fn rust_files(root: &Path, folder: &str, found: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            rust_files(root, &path, found)?;
        } else if Path::new(&path).extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn source_errors(path: &str, text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let first = text.lines().next().unwrap_or_default();
    if first.strip_prefix("//!").is_none_or(|sentence| sentence.trim().is_empty()) {
        errors.push(format!("{path}: does not open with a `//!` sentence"));
    }
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.is_ascii()) {
        errors.push(format!("{path}:{number}: not ASCII: {line}"));
    }
    let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
    if VAGUE_NAMES.contains(&stem) || path.split('/').any(|part| VAGUE_NAMES.contains(&part)) {
        errors.push(format!("{path}: a name that says nothing"));
    }
    if path != "src/lib.rs" && layer(home(path)).is_none() {
        errors.push(format!("{path}: module `{}` has no layer", home(path)));
    }

    let code = code_of(path, text);
    // Comments are blank by now.
    let code_lines = code.lines().filter(|line| !line.trim().is_empty()).count();
    if code_lines > CODE_LINES_MAX {
        errors.push(format!("{path}: {code_lines} lines of code, at most {CODE_LINES_MAX}"));
    }
    for (number, line) in (1..).zip(code.lines()) {
        errors.extend(line_errors(path, line).map(|error| format!("{path}:{number}: {error}")));
    }
    errors
}

/// What is wrong with one line, given without its comments and literals.
fn line_errors(path: &str, line: &str) -> impl Iterator<Item = String> {
    let mut errors = Vec::new();
    if line.contains(".unwrap()") {
        errors.push("`unwrap()`: say what holds, or handle it".to_owned());
    }
    let import = ["use ", "pub use ", "extern crate "].iter().any(|s| line.trim().starts_with(s));
    for word in line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')) {
        if word == "unsafe" && !UNSAFE_ALLOWED.contains(&path) {
            errors.push("`unsafe` outside the audited files".to_owned());
        }
        let names: Vec<&str> = word.trim_start_matches(':').split("::").collect();
        if names.len() > 1 || import {
            errors.extend(door_error(path, &names));
        }
        if path != "src/lib.rs"
            && let Some(target) = names.get(steps_to_root(path, &names))
        {
            errors.extend(layer_error(home(path), target));
        }
    }
    errors.into_iter()
}

fn door_error(path: &str, names: &[&str]) -> Option<String> {
    let is_named = |foreign: &str| foreign.split("::").zip(names).all(|(a, b)| a == *b);
    let (name, doors) = DOORS
        .iter()
        .find(|(foreign, _)| names.len() > foreign.matches("::").count() && is_named(foreign))?;
    let open =
        doors.iter().any(|door| path == *door || door.ends_with('/') && path.starts_with(door));
    (!open).then(|| format!("`{name}` belongs in {}", doors.join(", ")))
}

fn layer_error(home: &str, target: &str) -> Option<String> {
    if target.is_empty() {
        return Some("write one `use crate::module::Name;` per module".to_owned());
    }
    let (from, to) = (layer(home)?, layer(target)?);
    let strangers = from == to && home != target && TIERS.contains(&home);
    (to > from || strangers).then(|| format!("`{home}` may not name `{target}`"))
}

/// How many of `names` lead to the crate's root: `crate`, or as many `super` as the file is deep.
/// Past the end when the path leads elsewhere.
fn steps_to_root(path: &str, names: &[&str]) -> usize {
    let depth = path.trim_end_matches("/mod.rs").matches('/').count();
    let supers = names.iter().take_while(|name| **name == "super").count();
    match names[0] {
        "crate" if names.len() > 1 => 1,
        "super" if supers >= depth => supers,
        _ => names.len(),
    }
}

/// The top-level module a file belongs to.
fn home(path: &str) -> &str {
    path.split('/').nth(1).unwrap_or_default().trim_end_matches(".rs")
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// `text` up to its test module, comments and literals blanked, lines kept.
fn code_of(path: &str, text: &str) -> String {
    if path.ends_with("/tests.rs") {
        return String::new();
    }
    let (mut code, mut rest) = (String::new(), text);
    while let Some(c) = rest.chars().next() {
        let skipped = opaque_bytes(rest).min(rest.len());
        if skipped == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.push(' ');
            code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
            rest = &rest[skipped..];
        }
    }
    if let Some(tests) = code.find("#[cfg(test)]\nmod tests {") {
        code.truncate(tests);
    }
    code
}

/// The length of the comment or literal that `rest` starts with, 0 if it starts with neither.
fn opaque_bytes(rest: &str) -> usize {
    let past = |from: usize, end: &str| {
        rest.get(from..)
            .and_then(|tail| tail.find(end))
            .map_or(rest.len(), |at| from + at + end.len())
    };
    let hashes = rest.bytes().skip(1).take_while(|b| *b == b'#').count();
    match rest.as_bytes() {
        [b'/', b'/', ..] => rest.find('\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => past(2, "*/"),
        [b'r', ..] if rest[1 + hashes..].starts_with('"') => {
            past(2 + hashes, &format!("\"{}", "#".repeat(hashes)))
        }
        [b'\'', b'\\', ..] => past(3, "'"),
        [b'\'', ..] if rest.chars().nth(2) == Some('\'') => past(1, "'").max(3),
        [b'"', ..] => {
            let mut escaped = false;
            let is_end = |b: u8| {
                let end = b == b'"' && !escaped;
                escaped = b == b'\\' && !escaped;
                end
            };
            rest.bytes().skip(1).position(is_end).map_or(rest.len(), |at| at + 2)
        }
        _ => 0,
    }
}

fn manifest_errors(text: &str) -> Vec<String> {
    let mut errors = sqlite_errors("Cargo.toml", text);
    let mut section = "";
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let mut dependency = None;
        if let Some(header) = line.strip_prefix('[') {
            section = header.split(']').next().unwrap_or(header);
            dependency = section.strip_prefix("dependencies.");
        } else if section == "dependencies" || section.ends_with(".dependencies") {
            dependency = line.split_once('=').map(|(name, _)| name.trim());
        }
        let Some(name) = dependency.map(|name| name.split('.').next().unwrap_or(name)) else {
            continue;
        };
        let optional = line.replace(' ', "").contains("optional=true");
        if NEVER_BY_DEFAULT.contains(&name) && !optional {
            errors.push(format!("Cargo.toml: `{name}` in everybody's build"));
        }
        if DOORS.iter().all(|(foreign, _)| *foreign != name.replace('-', "_")) {
            errors.push(format!("Cargo.toml: `{name}` has no door"));
        }
    }
    errors
}

fn sqlite_errors(path: &str, text: &str) -> Vec<String> {
    let found = text.to_ascii_lowercase().contains("sqlite");
    found.then(|| format!("{path}: names SQLite")).into_iter().collect()
}

fn test_file_errors(name: &str) -> Option<String> {
    // The models are built with another flag than everything else.
    let is_apart = ["tidy.rs", "shuttle.rs"].contains(&name);
    let stray = Path::new(name).extension().is_some_and(|ext| ext == "rs") && !is_apart;
    stray.then(|| format!("tests/{name}: a second test binary; make it a module of tests/it"))
}

/// One breach per line: a path, the text under its header, and a part of the complaint.
const BREACHES: &[(&str, &str, &str)] = &[
    ("src/error.rs", "use crate::engine::Engine;", ":2: `error` may not name `engine`"),
    ("src/record/mod.rs", "\nfn f(s: &crate::store::S) {}", ":3: `record` may not name `store`"),
    ("src/memory/shard.rs", "use crate::store::Store;", "`memory` may not name `store`"),
    ("src/store/disk/open.rs", "use crate::memory::M;", "`store` may not name `memory`"),
    ("src/store/mod.rs", "use super::memory::M;", "`store` may not name `memory`"),
    ("src/memory/order/lru.rs", "use super::super::super::engine::E;", "may not name `engine`"),
    ("src/engine/read.rs", "use crate::{cache::Cache};", "one `use crate::module::Name;`"),
    ("src/engine/read.rs", "    pub use crate::cache;", "`engine` may not name `cache`"),
    ("src/gadget.rs", "", "module `gadget` has no layer"),
    ("src/gadget/mod.rs", "", "module `gadget` has no layer"),
    ("src/store/mod.rs", "use redb::Database;", "`redb` belongs in src/store/disk/"),
    ("src/lib.rs", "pub type E = ::redb::Error;", "`redb` belongs in src/store/disk/"),
    ("src/config.rs", "use parking_lot as locks;", "`parking_lot` belongs in src/sync/"),
    ("src/engine/mod.rs", "use std::sync::atomic::AtomicU64;", "`std::sync::atomic` belongs in"),
    ("src/engine/life.rs", "fn f() { std::thread::park() }", "`std::thread` belongs in"),
    ("src/memory/mod.rs", "#[derive(rkyv::Archive)]", "`rkyv` belongs in src/value.rs"),
    ("src/key.rs", "fn f() { unsafe { g() } }", ":2: `unsafe` outside"),
    ("src/key.rs", "const Q: char = '\"'; unsafe fn f() {}", ":2: `unsafe` outside"),
    ("src/key.rs", "#[cfg(test)]\nmod tests;\nfn f() { x.unwrap() }", ":4: `unwrap()`"),
    ("src/key.rs", "fn f() { \"//\".parse().unwrap() }", "`unwrap()`"),
    ("src/key.rs", "// caf\u{e9}", ":2: not ASCII"),
    ("src/memory/util.rs", "", "a name that says nothing"),
    ("src/memory/common/mod.rs", "", "a name that says nothing"),
];

#[test]
fn every_planted_breach_is_caught() {
    for (path, text, complaint) in BREACHES {
        let errors = source_errors(path, &format!("//! A sample.\n{text}\n"));
        assert_eq!(errors.len(), 1, "{path}: {text}: {errors:?}");
        assert!(errors[0].contains(complaint), "{path}: {text}: {errors:?}");
    }
    for header in ["", "//!", "use std::fmt;\n//! Late."] {
        assert!(source_errors("src/key.rs", header)[0].contains("does not open"), "{header}");
    }
    let long = |lines| format!("//! A sample.\n\n{}", "const A: u8 = 1;\n".repeat(lines));
    assert!(source_errors("src/key.rs", &long(CODE_LINES_MAX)).is_empty());
    assert_eq!(source_errors("src/key.rs", &long(CODE_LINES_MAX + 1)).len(), 1);
}

#[test]
fn tidy_code_is_left_alone() {
    let tests =
        "\n#[cfg(test)]\nmod tests {\n    use crate::engine::E;\n    unsafe { f().unwrap() }\n}";
    let tidy: &[(&str, &str)] = &[
        ("src/lib.rs", "mod engine;\npub use crate::cache::Cache;"),
        ("src/error.rs", "use crate::time::Clock;\npub(crate) fn f() { crate::trace_op!(1) }"),
        ("src/memory/shard.rs", "use super::slab::Slab;\nuse hashbrown::HashTable;"),
        ("src/store/disk/open.rs", "use redb::Database;\nuse super::super::Store;"),
        ("src/builder.rs", "use crate::cache::Cache;\nuse std::hash::Hash;"),
        (
            "src/record/mod.rs",
            "#![expect(unsafe_code, reason = \"redb::\")]\nfn f() { unsafe { g() } }",
        ),
        (
            "src/key.rs",
            "// unsafe redb:: crate::cache\n/* x.unwrap() */ fn f<'a>() { r#\"redb::\"# }",
        ),
        ("src/key/tests.rs", "use crate::engine::E;\nfn f() { x.unwrap() }"),
    ];
    for (path, text) in tidy {
        let errors = source_errors(path, &format!("//! A sample.\n{text}{tests}\n"));
        assert!(errors.is_empty(), "{path}: {text}: {errors:?}");
    }
}

#[test]
fn strangers_in_the_manifest_are_caught() {
    let complaints = |text| manifest_errors(text).join("\n");
    assert_eq!(complaints("[dependencies]\nredb = \"4\"\n\n[dev-dependencies]\nclap = \"4\""), "");
    assert!(complaints("[dependencies]\nleft-pad = \"1\"").contains("`left-pad` has no door"));
    assert!(complaints("[dependencies.left-pad]\nversion = \"1\"").contains("`left-pad` has no"));
    assert!(
        complaints("[target.'cfg(unix)'.dependencies]\nlibc = \"1\"").contains("`libc` has no")
    );
    assert!(complaints("[dependencies]\ntokio.workspace = true").contains("everybody's build"));
    let optional = "[dependencies]\ntokio = { version = \"1\", optional = true }";
    assert_eq!(complaints(optional), "Cargo.toml: `tokio` has no door");
    assert!(complaints("[dev-dependencies]\nrusqlite = \"1\"").contains("SQLite"));
    assert_eq!(sqlite_errors("Cargo.lock", "name = \"libsqlite3-sys\"").len(), 1);
    assert!(test_file_errors("crash.rs").is_some());
    assert!(
        ["tidy.rs", "shuttle.rs", "it", "README.md"]
            .iter()
            .all(|name| test_file_errors(name).is_none())
    );
}
