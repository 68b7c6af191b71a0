//! The files of one node, checked as a whole before anything uses them.

use std::fmt;
use std::sync::Arc;

use indelible_core::TrailId;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use rustls::sign::CertifiedKey;
use webpki::{OwnedCertRevocationList, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;
use zeroize::{Zeroize, Zeroizing};

use crate::inspect::{Certificate, date};
use crate::name::{Name, Naming, NodeUri, Role};
use crate::peer::Peer;
use crate::pem::{self, PemError};
use crate::trust::{List, Port, Refusal, Trust, provider};

/// The content of a node's files, as it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// Roots of nodes; two while one replaces the other.
    pub ca: Vec<u8>,
    /// This node's certificate, then those that lead to its root.
    pub cert: Vec<u8>,
    /// Its private key.
    pub key: Zeroizing<Vec<u8>>,
    /// Roots of clients and administrators, if they are not those of the nodes.
    pub client_ca: Option<Vec<u8>>,
    /// Revocation lists of any of these roots.
    pub crl: Option<Vec<u8>>,
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pem").finish_non_exhaustive()
    }
}

/// Whose files they must be.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The trail.
    pub trail: TrailId,
    /// The node.
    pub node_id: u64,
    /// How a certificate authority of others names nodes.
    pub node_uri: Option<NodeUri>,
    /// What to do if this node's certificate is not valid now.
    pub expiry: Expiry,
}

/// What to do with a certificate that is not valid now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// An error: for a file that is to replace one in use.
    Refuse,
    /// A [`Warning`]: for the start of a node, whose raft port works with it.
    Warn,
}

/// Something that a person must look at, though the files can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// This node's certificate is not valid now.
    #[error("this node's certificate is not valid now, and clients refuse it: {0}")]
    Validity(Refusal),
    /// This node's certificate is on a revocation list.
    #[error(
        "this node's certificate {serial} is revoked, and every other node and client with the \
         same list refuses it; hint: issue another one with a new key"
    )]
    Revoked {
        /// Serial number of the certificate.
        serial: String,
    },
    /// A root is not valid now.
    #[error(
        "the root {subject:?} expired on {}; hint: add its successor to the ca file of every node, \
         then issue new certificates",
        date(*not_after)
    )]
    Root {
        /// The root's name.
        subject: String,
        /// End of its validity, in seconds since 1970.
        not_after: i64,
    },
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// A file is no PEM text of the right kind.
    #[error("{file}: {problem}")]
    Pem {
        /// The configuration's name of the file.
        file: &'static str,
        /// What is wrong.
        problem: PemError,
    },
    /// A root is no certificate authority.
    #[error(
        "{file}: the certificate of {subject:?} may not issue others; hint: give the certificate \
         of the authority, not one that it issued"
    )]
    NotAnAuthority {
        /// The configuration's name of the file.
        file: &'static str,
        /// The certificate's subject.
        subject: String,
    },
    /// The key is that of another certificate, or of an unknown kind.
    #[error("key: it does not belong to cert ({reason}); hint: replace both files together")]
    Key {
        /// What rustls says.
        reason: String,
    },
    /// The certificate is for another node, or for no node.
    #[error(
        "cert: it is for {found}, this node is {expected}; hint: issue one with `indelible cert \
         node --config FILE`"
    )]
    Holder {
        /// The name in the certificate.
        found: String,
        /// The name that it must have.
        expected: String,
    },
    /// Other nodes or clients would refuse the certificate.
    #[error("cert: {0}")]
    Cert(Refusal),
    /// A revocation list is not by the authority that it names.
    #[error(
        "crl: the list by {issuer:?} is not signed by that authority ({reason}); hint: make it \
         anew with `indelible cert revoke`"
    )]
    Crl {
        /// The issuer that the list names.
        issuer: String,
        /// What the verification says.
        reason: String,
    },
    /// rustls takes no configuration of these files.
    #[error("the files cannot be used: {reason}; hint: look at them with `indelible cert show`")]
    Rustls {
        /// What it says.
        reason: String,
    },
}

impl From<Refusal> for MaterialError {
    fn from(refusal: Refusal) -> MaterialError {
        MaterialError::Cert(refusal)
    }
}

/// A node's certificate and key, and whom it believes.
#[derive(Debug)]
pub struct Material {
    pub(crate) trust: Arc<Trust>,
    pub(crate) identity: Arc<CertifiedKey>,
    peer: Peer,
    warnings: Vec<Warning>,
    authority_not_after: i64,
}

impl Material {
    /// Checks a node's files at a time in seconds since 1970: the key is that of the certificate,
    /// the certificate is this node's and leads to a root, and every list is genuine.
    pub fn parse(pem: &Pem, expected: &Expected, now: i64) -> Result<Material, MaterialError> {
        let identity = identity(&pem.cert, &pem.key)?;
        let nodes = roots("ca", &pem.ca)?;
        let clients = match &pem.client_ca {
            Some(text) => roots("client_ca", text)?,
            None => nodes.clone(),
        };
        let crl = pem.crl.as_deref();
        let lists = crl.map(|text| lists(text, &[&nodes, &clients, &identity.cert]));
        let naming = Naming { trail: Some(expected.trail), node_uri: expected.node_uri.clone() };
        let trust = Trust {
            nodes: anchors("ca", &nodes)?,
            clients: anchors("client_ca", &clients)?,
            lists: lists.transpose()?.unwrap_or_default(),
            naming,
        };
        let mut warnings = Vec::new();
        let authority_not_after = judge_roots(&[&nodes, &clients], now, &mut warnings)?;
        let peer = judge_own(&trust, &identity.cert, expected, now, &mut warnings)?;
        Ok(Material {
            trust: Arc::new(trust),
            identity: Arc::new(identity),
            peer,
            warnings,
            authority_not_after,
        })
    }

    /// This node's own certificate.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What a person must look at.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// When the first of the roots expires, in seconds since 1970.
    pub fn authority_not_after(&self) -> i64 {
        self.authority_not_after
    }

    /// The name in the chain of a connection that was accepted or made with a configuration of this
    /// material.
    pub fn peer_of(&self, chain: &[CertificateDer<'_>]) -> Result<Peer, Refusal> {
        Peer::of(chain, &self.trust.naming)
    }

    /// Judges the chain of a connection anew, at a time in seconds since 1970: after the files
    /// changed, and because certificates expire while connections last. Raft ports forgive expiry.
    pub fn still_trusts(
        &self,
        port: Port,
        chain: &[CertificateDer<'_>],
        now: i64,
    ) -> Result<Peer, Refusal> {
        self.trust.judge(port, chain, now)
    }
}

/// A certificate chain and its key.
pub(crate) fn identity(cert: &[u8], key: &[u8]) -> Result<CertifiedKey, MaterialError> {
    let chain = pem::certificates(cert);
    let chain = chain.map_err(|problem| MaterialError::Pem { file: "cert", problem })?;
    let mut key =
        pem::private_key(key).map_err(|problem| MaterialError::Pem { file: "key", problem })?;
    let identity = CertifiedKey::from_der(chain, key.clone_key(), &provider());
    key.zeroize();
    identity.map_err(|error| MaterialError::Key { reason: error.to_string() })
}

/// Certificates of authorities.
pub(crate) fn roots(
    file: &'static str,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let wrap = |problem| MaterialError::Pem { file, problem };
    let roots = pem::certificates(text).map_err(wrap)?;
    for content in Certificate::from_pem(text).map_err(wrap)? {
        if !content.is_ca {
            return Err(MaterialError::NotAnAuthority { file, subject: content.subject });
        }
    }
    Ok(roots)
}

pub(crate) fn anchors(
    file: &'static str,
    roots: &[CertificateDer<'static>],
) -> Result<Vec<TrustAnchor<'static>>, MaterialError> {
    let anchor = |(position, root): (usize, &CertificateDer<'static>)| {
        let anchor = anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned());
        anchor.map_err(|error| {
            let (kind, reason) = ("certificate", error.to_string());
            MaterialError::Pem { file, problem: PemError::Content { kind, position, reason } }
        })
    };
    (1..).zip(roots).map(anchor).collect()
}

/// Decodes the lists, and verifies those whose issuer is among the certificates that are known.
pub(crate) fn lists(
    text: &[u8],
    known: &[&Vec<CertificateDer<'static>>],
) -> Result<Vec<List>, MaterialError> {
    let lists = pem::revocation_lists(text);
    let lists = lists.map_err(|problem| MaterialError::Pem { file: "crl", problem })?;
    let list = |(position, der): (usize, &CertificateRevocationListDer<'_>)| {
        let bad = |reason: String| {
            let kind = "revocation list";
            let problem = PemError::Content { kind, position, reason };
            MaterialError::Pem { file: "crl", problem }
        };
        let content = OwnedCertRevocationList::from_der(der);
        let content = content.map_err(|error| bad(error.to_string()))?;
        let (_, parsed) =
            CertificateRevocationList::from_der(der).map_err(|error| bad(error.to_string()))?;
        Ok(List { content: content.into(), verified: verify_list(&parsed, known)? })
    };
    (1..).zip(&lists).map(list).collect()
}

/// Whether the list's issuer is known; an error if it is, and did not sign it.
fn verify_list(
    list: &CertificateRevocationList<'_>,
    known: &[&Vec<CertificateDer<'static>>],
) -> Result<bool, MaterialError> {
    let mut reason = None;
    for der in known.iter().copied().flatten() {
        let Ok((_, issuer)) = X509Certificate::from_der(der) else { continue };
        if issuer.subject().as_raw() != list.issuer().as_raw() {
            continue;
        }
        match list.verify_signature(issuer.public_key()) {
            Ok(()) => return Ok(true),
            Err(error) => reason = Some(error.to_string()),
        }
    }
    match reason {
        None => Ok(false),
        Some(reason) => Err(MaterialError::Crl { issuer: list.issuer().to_string(), reason }),
    }
}

/// When the first root expires; roots are used beyond that, with a warning.
fn judge_roots(
    roots: &[&Vec<CertificateDer<'static>>],
    now: i64,
    warnings: &mut Vec<Warning>,
) -> Result<i64, MaterialError> {
    let mut first = i64::MAX;
    for root in roots.iter().copied().flatten() {
        let content = Certificate::from_der(root);
        let content = content.map_err(|problem| MaterialError::Pem { file: "ca", problem })?;
        let Certificate { subject, not_after, .. } = content;
        first = first.min(not_after);
        let warning = Warning::Root { subject, not_after };
        if now > not_after && !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    Ok(first)
}

/// This node's chain, as other nodes judge it, and whether clients will like it too.
fn judge_own(
    trust: &Trust,
    chain: &[CertificateDer<'static>],
    expected: &Expected,
    now: i64,
    warnings: &mut Vec<Warning>,
) -> Result<Peer, MaterialError> {
    let peer = Peer::of(chain, &trust.naming)?;
    let name = Name { trail: expected.trail, role: Role::Node(expected.node_id) };
    if peer.name != name {
        let (found, expected) = (peer.name.to_string(), name.to_string());
        return Err(MaterialError::Holder { found, expected });
    }
    for port in [Port::RaftIn, Port::RaftOut, Port::Client, Port::Sdk] {
        let warning = match trust.judge(port, chain, now) {
            Ok(_) => continue,
            // Without its list this node would go on believing others that are on it.
            Err(Refusal::Revoked) => Warning::Revoked { serial: peer.serial.clone() },
            Err(late @ (Refusal::Expired { .. } | Refusal::NotYetValid { .. }))
                if expected.expiry == Expiry::Warn =>
            {
                Warning::Validity(late)
            }
            Err(refusal) => return Err(refusal.into()),
        };
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    Ok(peer)
}
