//! Values: any type that derives rkyv's traits, encoded once and read in place.
//!
//! # How it works
//!
//! A value is encoded into a buffer that each thread keeps, and copied from there into its record.
//! Bytes that come from outside are validated by rkyv's bytecheck before a record of them can be
//! seen; after that they are read without checks (see `entry/mod.rs`).
//!
//! What a file was written with is told by three fingerprints: rkyv's format features (byte order,
//! alignment, pointer width, as compiled into this program), the type's name without its path, and
//! the size, alignment and layout of its archived form (see `layout.rs`).

use std::any::type_name;
use std::cell::Cell;

pub(crate) use rkyv::Archived;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::BoxedError as RkyvError;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Portable, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::layout::{LayoutValidator, fingerprint};

/// A type that can be a cache's value: whatever derives rkyv's `Archive`, `Serialize` and
/// `Deserialize` (validation comes with them by default).
///
/// Implemented for all such types; there is nothing to write by hand. The archived form's
/// alignment is at most 16 bytes, which is checked when the program is compiled.
///
/// # Examples
///
/// ```
/// use larder::Cache;
///
/// #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
/// struct User { name: String, logins: u32 }
///
/// let cache: Cache<str, User> = Cache::builder().memory_max_entries(100).open()?;
/// cache.insert("ada", &User { name: "Ada".into(), logins: 3 })?;
/// let user = cache.get("ada")?.expect("just inserted");
/// assert_eq!(user.name, "Ada");   // read in place: an `ArchivedString`
/// # Ok::<(), larder::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a cache's value",
    note = "derive `rkyv::Archive`, `rkyv::Serialize` and `rkyv::Deserialize` for it and for every type in it"
)]
pub trait CacheValue:
    Sized
    + Send
    + Sync
    + 'static
    + Archive<
        Archived: Portable
                      + Send
                      + Sync
                      + for<'a> CheckBytes<HighValidator<'a, RkyvError>>
                      + for<'a> CheckBytes<LayoutValidator<'a, RkyvError>>
                      + Deserialize<Self, HighDeserializer<RkyvError>>,
    >
    + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, RkyvError>>
{
}

#[diagnostic::do_not_recommend]
impl<T> CacheValue for T where
    T: Sized
        + Send
        + Sync
        + 'static
        + Archive<
            Archived: Portable
                          + Send
                          + Sync
                          + for<'a> CheckBytes<HighValidator<'a, RkyvError>>
                          + for<'a> CheckBytes<LayoutValidator<'a, RkyvError>>
                          + Deserialize<Self, HighDeserializer<RkyvError>>,
        >
        + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, RkyvError>>
{
}

/// A buffer above this is not kept by its thread.
const BUFFER_KEPT_BYTES_MAX: usize = 1 << 20;

thread_local! {
    /// The encoding buffer; taken while in use, so that a `Serialize` that uses a cache finds none
    /// and makes its own.
    static BUFFER: Cell<Option<AlignedVec>> = const { Cell::new(None) };
}

/// Encodes `value` and hands the bytes to `then`.
pub(crate) fn encode<V: CacheValue, R>(value: &V, then: impl FnOnce(&[u8]) -> R) -> Result<R> {
    const { assert!(align_of::<Archived<V>>() <= 16, "archived values align to 16 bytes at most") }
    let mut buffer = BUFFER.take().unwrap_or_default();
    buffer.clear();
    let encoded = rkyv::api::high::to_bytes_in::<_, RkyvError>(value, buffer).map_err(|e| {
        let name = short_type_name::<V>();
        Error::with_source(ErrorKind::Encode, format!("a value of type {name} failed to encode"), e)
    })?;
    let result = then(&encoded);
    if encoded.capacity() <= BUFFER_KEPT_BYTES_MAX {
        BUFFER.set(Some(encoded));
    }
    Ok(result)
}

/// Whether `bytes`, 16-byte aligned, are a valid archive of `V`.
pub(crate) fn is_valid<V: CacheValue>(bytes: &[u8]) -> bool {
    rkyv::access::<Archived<V>, RkyvError>(bytes).is_ok()
}

/// Deserializes an archive that was validated or made by us.
pub(crate) fn deserialize<V: CacheValue>(archived: &Archived<V>) -> Result<V> {
    rkyv::deserialize::<V, RkyvError>(archived).map_err(|e| {
        let name = short_type_name::<V>();
        Error::with_source(ErrorKind::Encode, format!("a value of type {name} failed to decode"), e)
    })
}

/// What tells values of different types apart in a file.
pub(crate) fn layout_name<V: CacheValue>() -> String {
    let (size, align) = (size_of::<Archived<V>>(), align_of::<Archived<V>>());
    let layout = fingerprint::<Archived<V>>();
    let name = short_type_name::<V>();
    format!("{name} (archived: {size} bytes, alignment {align}, layout {layout:08x})")
}

/// The rkyv format features of this program, such as `little-endian aligned pointer32`.
pub(crate) fn format_name() -> String {
    let order = match rkyv::to_bytes::<RkyvError>(&0x0102_0304_u32) {
        Ok(bytes) if bytes.first() == Some(&4) => "little-endian",
        _ => "big-endian",
    };
    let aligned = if align_of::<Archived<u64>>() == 1 { "unaligned" } else { "aligned" };
    format!("{order} {aligned} pointer{}", 8 * size_of::<Archived<usize>>())
}

/// The name of a type without the paths of it and of its parameters, so that moving a type to
/// another module does not make its file unreadable.
pub(crate) fn short_type_name<T: ?Sized>() -> String {
    let mut short = String::new();
    let mut word = String::new();
    for c in type_name::<T>().chars() {
        match c {
            ':' => word.clear(),
            c if c.is_alphanumeric() || c == '_' => word.push(c),
            c => {
                short.push_str(&word);
                word.clear();
                short.push(c);
            }
        }
    }
    short + &word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_has_no_paths() {
        assert_eq!(short_type_name::<Vec<Option<String>>>(), "Vec<Option<String>>");
        assert_eq!(short_type_name::<(u8, [std::time::Duration; 3])>(), "(u8, [Duration; 3])");
        assert_eq!(short_type_name::<str>(), "str");
    }

    #[test]
    fn layouts_of_like_shape_and_other_name_differ() {
        assert_ne!(layout_name::<String>(), layout_name::<Vec<u8>>());
        assert_ne!(layout_name::<u64>(), layout_name::<u32>());
    }

    #[test]
    fn the_format_is_the_default_one() {
        assert_eq!(format_name(), "little-endian aligned pointer32");
    }

    #[test]
    fn encoding_within_encoding_is_harmless() {
        encode(&"the outer string".to_owned(), |outer| {
            encode(&"a much longer inner string".to_owned(), |_| ()).unwrap();
            assert!(is_valid::<String>(outer));
        })
        .unwrap();
    }
}
