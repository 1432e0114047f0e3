//! Key encodings: bytes in the order of the keys, back to the same key, and no panic on garbage.
//!
//! - **K1** encoded keys compare, bytewise, as the keys do.
//! - **K2** decoding an encoded key gives the key.
//! - **K3** decoding any bytes gives nothing, or a key that encodes to those very bytes.
#![no_main]

use std::borrow::Borrow;
use std::fmt::Debug;

use arbitrary::Arbitrary;
use larder::CacheKey;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    unsigned: [u128; 2],
    signed: [i128; 2],
    texts: [&'a str; 2],
    bytes: [&'a [u8]; 2],
    garbage: &'a [u8],
}

/// Checks every integer type on the low bits of two wide integers.
macro_rules! check_integers {
    ($($integer:ty),*; $pair:expr, $garbage:expr) => {$(
        let [a, b] = $pair.map(|wide| wide as $integer);
        check(&a, &b, $garbage);
    )*};
}

fuzz_target!(|input: Input<'_>| {
    check_integers!(u8, u16, u32, u64, u128; input.unsigned, input.garbage);
    check_integers!(i8, i16, i32, i64, i128; input.signed, input.garbage);
    check::<str>(input.texts[0], input.texts[1], input.garbage);
    check::<[u8]>(input.bytes[0], input.bytes[1], input.garbage);
});

fn check<K>(a: &K, b: &K, garbage: &[u8])
where
    K: CacheKey + Ord + Debug + ?Sized,
    K::Owned: Borrow<K>,
{
    let (a_bytes, b_bytes) = (a.to_key_bytes(), b.to_key_bytes());
    assert_eq!(a_bytes.as_ref().cmp(b_bytes.as_ref()), a.cmp(b), "K1: {a:?} and {b:?}");
    let back = K::from_key_bytes(a_bytes.as_ref()).expect("K2: an encoded key decodes");
    let back: &K = back.borrow();
    assert_eq!(back, a, "K2");
    if let Some(key) = K::from_key_bytes(garbage) {
        let key: &K = key.borrow();
        assert_eq!(key.to_key_bytes().as_ref(), garbage, "K3");
    }
}
