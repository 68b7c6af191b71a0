//! PEM files: certificates, one key, revocation lists.

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// Why a PEM file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// It has no section of the kind that was looked for.
    #[error("no {kind} in the PEM text ({bytes} bytes); hint: {hint}")]
    Missing {
        /// What was looked for.
        kind: &'static str,
        /// Size of the text.
        bytes: usize,
        /// What to do.
        hint: &'static str,
    },
    /// A section is cut off or is no base64.
    #[error("the PEM text is damaged: {reason}; hint: the file may be cut off, write it anew")]
    Damaged {
        /// What the decoder says.
        reason: String,
    },
    /// The bytes of a section are no certificate, request or revocation list.
    #[error("{kind} {position} of the PEM text cannot be decoded: {reason}")]
    Content {
        /// What it should be.
        kind: &'static str,
        /// Which one, counted from 1.
        position: usize,
        /// What the decoder says.
        reason: String,
    },
}

/// All certificates of a file, at least one.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    sections(text, "certificate", "give a file that begins with -----BEGIN CERTIFICATE-----")
}

/// All revocation lists of a file, at least one.
pub(crate) fn revocation_lists(
    text: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    sections(text, "revocation list", "give a file that begins with -----BEGIN X509 CRL-----")
}

/// The first key of a file.
pub(crate) fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let missing = PemError::Missing {
        kind: "private key",
        bytes: text.len(),
        hint: "give an unencrypted key that begins with -----BEGIN PRIVATE KEY-----; an encrypted \
               one is decrypted by `openssl pkcs8 -in KEY -out NEW`",
    };
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => missing,
        other => PemError::Damaged { reason: other.to_string() },
    })
}

/// A damaged section anywhere is an error: half of a list of roots is another list.
fn sections<T: PemObject>(
    text: &[u8],
    kind: &'static str,
    hint: &'static str,
) -> Result<Vec<T>, PemError> {
    let found: Result<Vec<T>, pem::Error> = T::pem_slice_iter(text).collect();
    let found = found.map_err(|error| PemError::Damaged { reason: error.to_string() })?;
    if found.is_empty() {
        return Err(PemError::Missing { kind, bytes: text.len(), hint });
    }
    Ok(found)
}
