//! Fixed-size values: hashes, salts, ids.

use std::fmt;

macro_rules! bytes_type {
    ($(#[$doc:meta])* $name:ident, $size:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $size]);

        impl $name {
            /// Size in bytes.
            pub const SIZE: usize = $size;

            /// From a slice of exactly [`Self::SIZE`] bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
    };
}

bytes_type!(
    /// A 32-byte hash: SHA-256 in the tree, SHA3-256 in the chain.
    Hash,
    32
);
bytes_type!(
    /// What keeps a leaf from being a guessable fingerprint: 16 bytes from a CSPRNG, fresh for
    /// every record.
    Salt,
    16
);
bytes_type!(
    /// Names a trail: 16 random bytes, made by `indelible init`, bound into the first link of the
    /// chain.
    TrailId,
    16
);
bytes_type!(
    /// Names a producer for its whole life: 16 bytes, never all zero.
    ProducerId,
    16
);
