//! What can go wrong below: one type for redb's many errors and its panics.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, ErrorKind};
use crate::store::disk::blocks::mildly;

/// A call into the disk tier that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) damaged: bool,
    pub(crate) source: Box<dyn std::error::Error + Send + Sync>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Failure {
    pub(crate) fn damage(what: impl Into<String>) -> Self {
        Self { damaged: true, source: what.into().into() }
    }

    /// Anything else.
    pub(crate) fn because(reason: &str) -> Self {
        Self { damaged: false, source: reason.into() }
    }

    /// Whether there is no room left on the device.
    pub(crate) fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let io = match self.source.downcast_ref::<redb::Error>() {
            Some(redb::Error::Io(e)) => Some(e),
            _ => self.source.downcast_ref::<std::io::Error>(),
        };
        io.is_some_and(|e| matches!(e.kind(), StorageFull | QuotaExceeded))
    }

    /// Whether it only says that something failed before.
    pub(crate) fn is_echo(&self) -> bool {
        matches!(self.source.downcast_ref(), Some(redb::Error::PreviousIo))
    }

    /// The error for a caller, with a sentence of what could not be done.
    pub(crate) fn into_error(self, sentence: impl Into<String>) -> Error {
        let kind = if self.damaged { ErrorKind::Corrupt } else { ErrorKind::Io };
        let sentence = format!("{}: {}", sentence.into(), self.source);
        Error::with_source(kind, sentence, self.source)
    }
}

impl From<redb::Error> for Failure {
    fn from(error: redb::Error) -> Self {
        use std::io::ErrorKind as Io;
        let damaged = match &error {
            // All but the first: a file of ours that lacks what ours have, or says that it is another.
            redb::Error::Corrupted(_)
            | redb::Error::TableDoesNotExist(_)
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableTypeMismatch { .. } => true,
            // A file that is cut short, or whose first bytes are not redb's.
            redb::Error::Io(e) => matches!(e.kind(), Io::UnexpectedEof | Io::InvalidData),
            _ => false,
        };
        Self { damaged, source: Box::new(error) }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self { damaged: false, source: Box::new(error) }
    }
}

/// redb's errors by operation, all of which convert to its one big error.
macro_rules! from_redb {
    ($($error:ident)*) => {$(
        impl From<redb::$error> for Failure {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}

from_redb! {
    StorageError TableError DatabaseError CommitError TransactionError SetDurabilityError CursorError
}

/// Likewise, reading rows.
pub(super) fn guarded_mildly<R>(call: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    guarded(|| mildly(call))
}

/// Runs a call into redb; a panic below becomes a failure, for damage is what makes redb panic.
pub(super) fn guarded<R>(call: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(Failure::damage(format!("the storage engine panicked: {text}")))
    })
}
