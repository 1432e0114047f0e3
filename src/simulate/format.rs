//! Formats of traces: what one line of each asks for.
//!
//! A line is a key, or a run of blocks with consecutive numbers; [`Format::line`] says which, and
//! knows nothing of files. Fields are apart by ASCII white space, of which any may be around them, so
//! lines that end in CR LF are as good as others. Empty lines ask for nothing.

use std::ops::Range;
use std::path::Path;

use crate::record::{CHARGE_MAX, KEY_BYTES_MAX};

/// How the lines of a trace are written.
///
/// # Examples
///
/// ```
/// use larder::simulate::Format;
///
/// assert_eq!(Format::of("traces/P1.lis.gz"), Format::Arc);
/// assert_eq!(Format::of("traces/multi1.trc"), Format::Lirs);
/// assert_eq!(Format::of("traces/web12.txt"), Format::Text);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `key` or `key size`, the size in bytes. A key is any bytes but white space and NUL.
    Text,
    /// The traces of the ARC paper (Megiddo, Modha, FAST 2003): first block, number of blocks, a field
    /// that is not looked at, and the number of the request. Each block is a request of its own, of 512
    /// bytes if the trace is to have sizes: [`Trace::size_bytes`](super::Trace::size_bytes).
    Arc,
    /// The traces of the LIRS paper (Jiang, Zhang, SIGMETRICS 2002): a block number, or a mark `*`,
    /// which asks for nothing.
    Lirs,
}

/// The most blocks that one line of an [`Format::Arc`] trace may ask for: 32 MiB of them, where the
/// published traces have a few thousand at most. A line of a few bytes must not ask for all numbers.
const BLOCKS_MAX: u64 = 1 << 16;

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Nothing,
    Key { key: &'a [u8], size: Option<u64> },
    Blocks(Range<u64>),
}

impl Format {
    /// The format that the name of a file stands for: `.lis` and `.trc` (or `.lirs`), with or without
    /// `.gz`; all others are [`Format::Text`].
    pub fn of(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let extension = |path: &Path| {
            let extension = path.extension().unwrap_or_default();
            extension.to_string_lossy().to_ascii_lowercase()
        };
        let outer = extension(path);
        let name = match outer.as_str() {
            "gz" => extension(Path::new(path.file_stem().unwrap_or_default())),
            _ => outer,
        };
        match name.as_str() {
            "lis" => Self::Arc,
            "trc" | "lirs" => Self::Lirs,
            _ => Self::Text,
        }
    }

    /// What `line` asks for, or a sentence about what is wrong with it.
    pub(super) fn line(self, line: &[u8]) -> Result<Line<'_>, String> {
        if line.contains(&0) {
            return Err(
                "it has a NUL byte, so this is no text; name the file of a trace".to_owned()
            );
        }
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let Some(first) = fields.next() else { return Ok(Line::Nothing) };
        let rest = [fields.next(), fields.next(), fields.next(), fields.next()];
        match (self, rest) {
            (Self::Text, [size, None, ..]) => text(first, size),
            (Self::Text, _) => {
                Err("it has more than two fields; write `key` or `key size`".to_owned())
            }
            (Self::Arc, [Some(count), Some(_), Some(_), None]) => blocks(first, count),
            (Self::Arc, _) => {
                Err("it has not four fields: first block, number of blocks, a field that is not \
                     looked at, number of the request"
                    .to_owned())
            }
            (Self::Lirs, [None, ..]) if first == b"*" => Ok(Line::Nothing),
            (Self::Lirs, [None, ..]) => {
                let block = number(first, "the block", u64::MAX - 1)?;
                Ok(Line::Blocks(block..block + 1))
            }
            (Self::Lirs, _) => Err("it has more than one field; write a block number".to_owned()),
        }
    }
}

fn text<'a>(key: &'a [u8], size: Option<&[u8]>) -> Result<Line<'a>, String> {
    if key.len() > KEY_BYTES_MAX {
        return Err(format!("its key has {} bytes, at most {KEY_BYTES_MAX}", key.len()));
    }
    let size = size.map(|size| number(size, "the size", CHARGE_MAX)).transpose()?;
    Ok(Line::Key { key, size })
}

fn blocks<'a>(first: &[u8], count: &[u8]) -> Result<Line<'a>, String> {
    let count = number(count, "the number of blocks", BLOCKS_MAX)?;
    let first = number(first, "the first block", u64::MAX - count)?;
    Ok(Line::Blocks(first..first + count))
}

/// The number that the digits of `field` stand for.
fn number(field: &[u8], what: &str, max: u64) -> Result<u64, String> {
    let wrong = || format!("{what} is not a whole number from 0 to {max}");
    // The standard library also takes a sign.
    let digits = field.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(field).ok().filter(|_| digits).ok_or_else(wrong)?;
    text.parse().ok().filter(|number| *number <= max).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(format: Format, line: &str, expected: Result<Line<'_>, &str>) {
        match (format.line(line.as_bytes()), expected) {
            (Err(found), Err(part)) => assert!(found.contains(part), "{line:?}: {found}"),
            (found, expected) => assert_eq!(found, expected.map_err(str::to_owned), "{line:?}"),
        }
    }

    fn key(key: &str, size: Option<u64>) -> Line<'_> {
        Line::Key { key: key.as_bytes(), size }
    }

    #[test]
    fn a_text_line_is_a_key_or_a_key_and_a_size() {
        check(Format::Text, "/a/b.html 12\r\n", Ok(key("/a/b.html", Some(12))));
        check(Format::Text, "\t k\u{e9}y\n", Ok(key("k\u{e9}y", None)));
        check(Format::Text, "-1", Ok(key("-1", None)));
        check(Format::Text, "*", Ok(key("*", None)));
        check(Format::Text, " \r\n", Ok(Line::Nothing));
        check(Format::Text, "a 1 2", Err("more than two fields"));
        check(Format::Text, "a -1", Err("the size is not a whole number"));
        check(Format::Text, "a +1", Err("the size is not a whole number"));
        check(Format::Text, "a 72057594037927936", Ok(key("a", Some(1 << 56))));
        check(Format::Text, "a 72057594037927937", Err("from 0 to 72057594037927936"));
        check(Format::Text, "a 99999999999999999999999", Err("the size"));
        check(Format::Text, "a\0b", Err("NUL"));
        check(Format::Text, &"k".repeat(4097), Err("4097 bytes, at most 4096"));
    }

    #[test]
    fn an_arc_line_is_a_run_of_blocks() {
        check(Format::Arc, "7 3 0 1", Ok(Line::Blocks(7..10)));
        check(Format::Arc, "7 0 0 1\r\n", Ok(Line::Blocks(7..7)));
        check(Format::Arc, "", Ok(Line::Nothing));
        check(Format::Arc, "7 65536 x y", Ok(Line::Blocks(7..65_543)));
        check(Format::Arc, "7 65537 0 1", Err("number of blocks is not a whole number from 0 to"));
        check(Format::Arc, "18446744073709551615 1 0 1", Err("the first block"));
        check(Format::Arc, "7 3", Err("four fields"));
        check(Format::Arc, "7 3 0 1 2", Err("four fields"));
    }

    #[test]
    fn a_lirs_line_is_a_block_or_a_mark() {
        check(Format::Lirs, "42\n", Ok(Line::Blocks(42..43)));
        check(Format::Lirs, "*\n", Ok(Line::Nothing));
        check(Format::Lirs, "* 1", Err("more than one field"));
        check(Format::Lirs, "x", Err("the block is not"));
        check(Format::Lirs, "18446744073709551615", Err("the block is not"));
    }
}
