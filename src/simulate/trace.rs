//! A trace: a file, or bytes, of which every reading gives the same requests again.
//!
//! Start with [`Trace::open`]; [`Trace::requests`] reads it from the beginning, as a stream. What is
//! gzip by its first bytes is unpacked on the way. What a line means is known to [`Format`] alone.
//!
//! # Failure
//!
//! Nothing in a trace makes reading it panic, or take more memory than one line: lines have a limit,
//! and so has what one of them may ask for. After an error the stream is over.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::format::{Format, Line};
use crate::error::{Error, ErrorKind, Result};

/// The longest line: a key of the longest kind, a size, and white space to spare.
const LINE_BYTES_MAX: usize = 8 << 10;
/// How much of a line an error shows.
const SHOWN_BYTES: usize = 60;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One request of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// The key, as in the trace; of a block, its number in decimal digits.
    pub key: Vec<u8>,
    /// The size in bytes, if the trace or [`Trace::size_bytes`] says it.
    pub size_bytes: Option<u64>,
    /// The number of its line in the unpacked trace, from 1.
    pub line: u64,
}

/// A request trace, to be read as often as one likes, unless it is a pipe.
///
/// # Examples
///
/// ```
/// use larder::simulate::Trace;
///
/// let trace = Trace::from_bytes("three", "/index.html 512\n/a.png 9000\n/index.html 512\n");
/// let keys: Vec<_> = trace.requests()?.map(|request| Ok(request?.key)).collect::<larder::Result<_>>()?;
/// assert_eq!(keys, [b"/index.html".as_slice(), b"/a.png", b"/index.html"]);
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone)]
pub struct Trace {
    name: String,
    source: Source,
    format: Format,
    size_bytes: Option<u64>,
}

/// How often a trace can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readings {
    /// It is a pipe, or the like.
    One,
    Any,
}

#[derive(Clone)]
enum Source {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, format, size_bytes, source: _ } = self;
        f.debug_struct("Trace")
            .field("name", name)
            .field("format", format)
            .field("size_bytes", size_bytes)
            .finish_non_exhaustive()
    }
}

impl Trace {
    /// The trace in a file, plain or gzip, in the format that its name stands for ([`Format::of`]).
    ///
    /// # Errors
    ///
    /// `Io` if there is no such file, or it is a folder.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::simulate::Trace;
    ///
    /// let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("blocks.lis");
    /// std::fs::write(&path, "10 3 0 1\n")?;
    /// let trace = Trace::open(&path)?;
    /// assert_eq!(trace.requests()?.count(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let shown = path.display();
        let metadata = std::fs::metadata(path).map_err(|error| unreadable(&shown, error))?;
        if metadata.is_dir() {
            let sentence = format!("{shown} is a folder; name the file of a trace");
            return Err(Error::new(ErrorKind::Io, sentence));
        }
        let name =
            path.file_name().map_or_else(|| shown.to_string(), |name| name.display().to_string());
        let (format, source) = (Format::of(path), Source::File(path.to_owned()));
        Ok(Self { name, source, format, size_bytes: None })
    }

    /// The trace that these bytes are, plain or gzip, with a name for reports and errors.
    pub fn from_bytes(name: impl Into<String>, bytes: impl AsRef<[u8]>) -> Self {
        let name = name.into();
        let format = Format::of(&name);
        Self { name, source: Source::Bytes(bytes.as_ref().into()), format, size_bytes: None }
    }

    /// Reads it in this format, whatever its name.
    #[must_use]
    pub fn format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    /// Another name, for reports: rows of one name belong to one trace there.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::simulate::Trace;
    ///
    /// let trace = Trace::from_bytes("access.log", "a\nb\n").named("access.log of Monday");
    /// assert_eq!(trace.name(), "access.log of Monday");
    /// ```
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// What a request without a size counts, in bytes: 512 for the traces of the ARC paper. Default:
    /// nothing, and such a trace cannot be measured in bytes.
    #[must_use]
    pub fn size_bytes(self, size_bytes: u64) -> Self {
        Self { size_bytes: Some(size_bytes), ..self }
    }

    /// Its name: that of the file without folders, unless it was given another one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What errors call it: the path, or the name.
    pub(super) fn shown(&self) -> String {
        match &self.source {
            Source::File(path) => path.display().to_string(),
            Source::Bytes(_) => self.name.clone(),
        }
    }

    pub(super) fn can_be_read(&self) -> Readings {
        let is_pipe = match &self.source {
            Source::File(path) => std::fs::metadata(path).is_ok_and(|found| !found.is_file()),
            Source::Bytes(_) => false,
        };
        if is_pipe { Readings::One } else { Readings::Any }
    }

    /// Reads it from the beginning.
    ///
    /// # Errors
    ///
    /// `Io` if the file cannot be opened or read; so do the requests, which give `InvalidTrace` for a
    /// line that is not as its format asks, and for gzip that is damaged or cut short.
    pub fn requests(&self) -> Result<Requests> {
        let shown = self.shown();
        let (input, len_bytes): (Box<dyn Read + Send>, u64) = match &self.source {
            Source::File(path) => {
                let file = File::open(path).map_err(|error| unreadable(&shown, error))?;
                let len_bytes = file.metadata().map_or(0, |metadata| metadata.len());
                (Box::new(file), len_bytes)
            }
            Source::Bytes(bytes) => (Box::new(Cursor::new(bytes.clone())), bytes.len() as u64),
        };
        let input = Input::open(input).map_err(|error| unreadable(&shown, error))?;
        Ok(Requests {
            shown,
            input,
            len_bytes,
            format: self.format,
            size_bytes: self.size_bytes,
            line: 0,
            text: Vec::new(),
            blocks: 0..0,
            state: State::Reading,
        })
    }
}

/// The requests of a trace, one by one; made by [`Trace::requests`].
#[derive(Debug)]
pub struct Requests {
    /// The trace in errors: its path, or its name.
    shown: String,
    input: Input,
    /// The length of the file, packed if it is; 0 if unknown.
    len_bytes: u64,
    format: Format,
    size_bytes: Option<u64>,
    /// The number of the line that was read last.
    line: u64,
    /// That line.
    text: Vec<u8>,
    /// What it still asks for.
    blocks: Range<u64>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Over,
}

impl Requests {
    /// How much of the file has been read, and its length, in bytes, packed if it is; a length of 0 if
    /// it is unknown.
    pub fn progress_bytes(&self) -> (u64, u64) {
        (self.input.read_bytes(), self.len_bytes)
    }

    fn read(&mut self) -> Result<Option<Request>> {
        loop {
            if let Some(block) = self.blocks.next() {
                return Ok(Some(self.request(block.to_string().into_bytes(), None)));
            }
            if !self.read_line()? {
                return Ok(None);
            }
            match self.format.line(&self.text) {
                Ok(Line::Nothing) => {}
                Ok(Line::Key { key, size }) => return Ok(Some(self.request(key.to_vec(), size))),
                Ok(Line::Blocks(blocks)) => self.blocks = blocks,
                Err(what) => return Err(self.wrong_line(&what)),
            }
        }
    }

    fn request(&self, key: Vec<u8>, size_bytes: Option<u64>) -> Request {
        Request { key, size_bytes: size_bytes.or(self.size_bytes), line: self.line }
    }

    /// Whether there was another line.
    fn read_line(&mut self) -> Result<bool> {
        self.text.clear();
        self.line += 1;
        let result = self.input.read_line(&mut self.text);
        if let Err(error) = result {
            return Err(self.broken(error));
        }
        if self.text.len() > LINE_BYTES_MAX {
            return Err(self.wrong_line(&format!("it has more than {LINE_BYTES_MAX} bytes")));
        }
        if self.line == 1 && self.text.starts_with(BYTE_ORDER_MARK) {
            self.text.drain(..BYTE_ORDER_MARK.len());
            return Ok(true);
        }
        Ok(!self.text.is_empty())
    }

    #[cold]
    fn wrong_line(&self, what: &str) -> Error {
        let text = self.text.trim_ascii();
        let shown = text.get(..SHOWN_BYTES).map_or(text, |shown| shown);
        let more = if shown.len() < text.len() { ".." } else { "" };
        let (trace, line, shown) = (&self.shown, self.line, shown.escape_ascii());
        invalid(format!("{trace}, line {line}, \"{shown}{more}\": {what}"))
    }

    #[cold]
    fn broken(&self, error: io::Error) -> Error {
        let (trace, line) = (&self.shown, self.line);
        match (&self.input, error.kind()) {
            (
                Input::Gzip(_),
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::InvalidData
                | io::ErrorKind::InvalidInput,
            ) => {
                let sentence = format!(
                    "{trace}, line {line}: the gzip is damaged or cut short; get the file anew"
                );
                Error::with_source(ErrorKind::InvalidTrace, sentence, error)
            }
            _ => unreadable(trace, error),
        }
    }
}

impl Iterator for Requests {
    type Item = Result<Request>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Over {
            return None;
        }
        let request = self.read().transpose();
        if !matches!(request, Some(Ok(_))) {
            self.state = State::Over;
        }
        request
    }
}

/// A trace that cannot be used as it is.
#[cold]
pub(super) fn invalid(sentence: String) -> Error {
    Error::new(ErrorKind::InvalidTrace, sentence)
}

#[cold]
fn unreadable(trace: &impl fmt::Display, error: io::Error) -> Error {
    Error::with_source(ErrorKind::Io, format!("cannot read the trace {trace}"), error)
}

/// The bytes of a trace, unpacked.
enum Input {
    Plain(BufReader<Counted>),
    Gzip(Box<BufReader<MultiGzDecoder<Counted>>>),
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Gzip(_) => "Gzip",
        })
    }
}

impl Input {
    fn open(mut input: Box<dyn Read + Send>) -> io::Result<Self> {
        let mut head = Vec::new();
        input.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut head)?;
        let gzip = head == GZIP_MAGIC;
        let counted = Counted { input: Box::new(Cursor::new(head).chain(input)), read_bytes: 0 };
        Ok(if gzip {
            Self::Gzip(Box::new(BufReader::new(MultiGzDecoder::new(counted))))
        } else {
            Self::Plain(BufReader::new(counted))
        })
    }

    /// Adds the next line with its end to `text`, or one byte more than a line may have.
    fn read_line(&mut self, text: &mut Vec<u8>) -> io::Result<usize> {
        let max_bytes = LINE_BYTES_MAX as u64 + 1;
        match self {
            Self::Plain(input) => input.take(max_bytes).read_until(b'\n', text),
            Self::Gzip(input) => input.take(max_bytes).read_until(b'\n', text),
        }
    }

    fn read_bytes(&self) -> u64 {
        match self {
            Self::Plain(input) => input.get_ref().read_bytes,
            Self::Gzip(input) => input.get_ref().get_ref().read_bytes,
        }
    }
}

/// Counts what is read.
struct Counted {
    input: Box<dyn Read + Send>,
    read_bytes: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.read_bytes += count as u64;
        Ok(count)
    }
}
