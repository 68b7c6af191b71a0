//! Whom a chain of certificates names.

use rustls::pki_types::CertificateDer;

use crate::inspect::Certificate;
use crate::name::{Name, Naming};
use crate::trust::Refusal;

/// Who is at the other end of a connection, once its chain is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: Name,
    /// End of its certificate's validity, in seconds since 1970.
    pub not_after: i64,
    /// Its certificate's serial number in hexadecimal digits, as revocation lists name it.
    pub serial: String,
    /// SHA-256 of its certificate, in hexadecimal digits.
    pub fingerprint: String,
}

impl Peer {
    /// Reads the leaf of a chain, which comes first. This verifies nothing: the chain must come out
    /// of a handshake of this crate's configurations, or be judged by [`crate::Trust::judge`].
    pub fn of(chain: &[CertificateDer<'_>], naming: &Naming) -> Result<Peer, Refusal> {
        let leaf = chain.first().ok_or(Refusal::NoCertificate)?;
        let leaf = Certificate::from_der(leaf).map_err(|_| Refusal::Encoding)?;
        Peer::of_leaf(leaf, naming)
    }

    /// One name, not two: which of them a right is given to must not depend on their order.
    pub(crate) fn of_leaf(leaf: Certificate, naming: &Naming) -> Result<Peer, Refusal> {
        let mut names = leaf.names.uris.iter().filter_map(|uri| naming.name(uri));
        let Some(name) = names.next() else {
            return Err(Refusal::NoName { found: leaf.names.uris, subject: leaf.subject });
        };
        if names.next().is_some() {
            return Err(Refusal::SeveralNames { found: leaf.names.uris });
        }
        let Certificate { not_after, serial, fingerprint, .. } = leaf;
        Ok(Peer { name, not_after, serial, fingerprint })
    }
}
