//! Whether a chain of certificates is believed, and for what.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, DistinguishedName, OtherError};
use webpki::{
    CertRevocationList, EndEntityCert, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use crate::inspect::{Certificate, date};
use crate::material::{self, MaterialError};
use crate::name::{Naming, Role};
use crate::peer::Peer;

/// On which connection a certificate was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// By a node that connected to our raft port.
    RaftIn,
    /// By a node whose raft port we connected to.
    RaftOut,
    /// By who connected to our client port or metrics port.
    Client,
    /// By the node that a client connected to.
    Sdk,
}

/// Why a certificate is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("no certificate was shown; hint: configure a certificate and its key")]
    NoCertificate,
    /// It is no certificate at all.
    #[error("the certificate cannot be decoded; hint: give a PEM file of X.509 certificates")]
    Encoding,
    /// It does not lead to a root that counts for it.
    #[error(
        "the certificate is of another certificate authority; hint: it must be issued by a \
         certificate of the ca file (of the client_ca file if it names a client or an admin)"
    )]
    ForeignCa,
    /// The time of its use is later than its validity.
    #[error(
        "the certificate expired on {}; hint: renew it with `indelible cert renew`, or set the clock",
        date(*not_after)
    )]
    Expired {
        /// End of the validity, in seconds since 1970.
        not_after: i64,
    },
    /// The time of its use is earlier than its validity.
    #[error("the certificate is valid from {} on; hint: set the clock", date(*not_before))]
    NotYetValid {
        /// Begin of the validity, in seconds since 1970.
        not_before: i64,
    },
    /// A revocation list names it.
    #[error("the certificate is revoked; hint: issue another one with a new key")]
    Revoked,
    /// It may not open, or may not answer, TLS connections.
    #[error("the certificate is not for {needed}; hint: the extended key usage must allow it")]
    Usage {
        /// What it should be for.
        needed: &'static str,
    },
    /// It carries no name of this system.
    #[error(
        "the certificate of {subject:?} names nobody here (URIs {found:?}); hint: it needs a URI \
         such as spiffe://<trail id>.indelible/node/1 among its alternative names, or node_uri in \
         the configuration must fit"
    )]
    NoName {
        /// The URIs in it.
        found: Vec<String>,
        /// Its subject.
        subject: String,
    },
    /// It carries more than one name.
    #[error(
        "the certificate names more than one holder (URIs {found:?}); hint: issue one with one name"
    )]
    SeveralNames {
        /// The URIs in it.
        found: Vec<String>,
    },
    /// It is for another trail.
    #[error("the certificate is for {name}, which belongs to another trail than {expected}")]
    Trail {
        /// The name in it.
        name: String,
        /// The trail here.
        expected: String,
    },
    /// It is for a role that may not be at this end of this connection.
    #[error("the certificate is for {principal}, where only {needed} may be")]
    Role {
        /// The name in it.
        principal: String,
        /// Which roles may be here.
        needed: &'static str,
    },
    /// Something else is wrong with it or with the chain.
    #[error("the certificate chain is refused: {0}")]
    Chain(String),
}

impl Refusal {
    /// A short word for metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::NoCertificate => "no_certificate",
            Refusal::Encoding => "encoding",
            Refusal::ForeignCa => "foreign_ca",
            Refusal::Expired { .. } => "expired",
            Refusal::NotYetValid { .. } => "not_yet_valid",
            Refusal::Revoked => "revoked",
            Refusal::Usage { .. } => "usage",
            Refusal::NoName { .. } => "no_name",
            Refusal::SeveralNames { .. } => "several_names",
            Refusal::Trail { .. } => "trail",
            Refusal::Role { .. } => "role",
            Refusal::Chain(_) => "chain",
        }
    }

    /// The refusal inside an error of rustls, if a verifier of this crate put one there.
    pub fn of(error: &rustls::Error) -> Option<&Refusal> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref()
            }
            _ => None,
        }
    }
}

/// What a TLS alert can say is said so; the rest stays at this end.
impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> rustls::Error {
        rustls::Error::InvalidCertificate(match refusal {
            Refusal::Encoding => CertificateError::BadEncoding,
            Refusal::ForeignCa => CertificateError::UnknownIssuer,
            Refusal::Expired { .. } => CertificateError::Expired,
            Refusal::NotYetValid { .. } => CertificateError::NotValidYet,
            Refusal::Revoked => CertificateError::Revoked,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// A revocation list, ready for use.
#[derive(Debug)]
pub(crate) struct List {
    /// Its content.
    pub(crate) content: CertRevocationList<'static>,
    /// Its signature was verified with a key of an issuer that is known here. One that was not is
    /// verified when a certificate of its issuer is judged.
    pub(crate) verified: bool,
}

/// Whom this process believes: roots, revocation lists and names.
#[derive(Debug)]
pub struct Trust {
    /// Roots of nodes.
    pub(crate) nodes: Vec<TrustAnchor<'static>>,
    /// Roots of clients and administrators; the same unless configured otherwise.
    pub(crate) clients: Vec<TrustAnchor<'static>>,
    /// Revocation lists of either.
    pub(crate) lists: Vec<List>,
    /// Which names count.
    pub(crate) naming: Naming,
}

/// What is asked of a certificate on one [`Port`].
struct Rules {
    usage: KeyUsage,
    needed: &'static str,
    roles: fn(&Role) -> bool,
    roles_text: &'static str,
    expiry_counts: bool,
}

impl Rules {
    fn of(port: Port) -> Rules {
        let node = |role: &Role| matches!(role, Role::Node(_));
        let (usage, needed) = match port {
            Port::RaftIn | Port::Client => (KeyUsage::client_auth(), "opening TLS connections"),
            Port::RaftOut | Port::Sdk => (KeyUsage::server_auth(), "answering TLS connections"),
        };
        let (roles, roles_text): (fn(&Role) -> bool, _) = match port {
            Port::RaftIn | Port::RaftOut | Port::Sdk => (node, "nodes"),
            Port::Client => (|_| true, "nodes, clients and admins"),
        };
        let expiry_counts = matches!(port, Port::Client | Port::Sdk);
        Rules { usage, needed, roles, roles_text, expiry_counts }
    }
}

impl Trust {
    /// Believes the names of every trail, if they lead to one of these roots and no list names
    /// them: for looking at certificates. Both are PEM texts.
    pub fn of_roots(ca: &[u8], crl: Option<&[u8]>) -> Result<Trust, MaterialError> {
        let roots = material::roots("ca", ca)?;
        let lists = crl.map(|text| material::lists(text, &[&roots])).transpose()?;
        let nodes = material::anchors("ca", &roots)?;
        let lists = lists.unwrap_or_default();
        Ok(Trust { clients: nodes.clone(), nodes, lists, naming: Naming::default() })
    }

    /// Judges a chain, the leaf first, at a time in seconds since 1970.
    pub fn judge(
        &self,
        port: Port,
        chain: &[CertificateDer<'_>],
        now: i64,
    ) -> Result<Peer, Refusal> {
        let (leaf, intermediates) = chain.split_first().ok_or(Refusal::NoCertificate)?;
        let rules = Rules::of(port);
        let content = Certificate::from_der(leaf).map_err(|_| Refusal::Encoding)?;
        let peer = Peer::of_leaf(content, &self.naming);
        // A certificate authority of clients must not name nodes, nor that of nodes clients.
        let roots = match &peer {
            Ok(Peer { name, .. }) if name.node_id().is_none() => &self.clients,
            _ => &self.nodes,
        };
        self.verify_chain(leaf, intermediates, roots, &rules, now)?;
        let peer = peer?;
        if let Some(trail) = self.naming.trail
            && trail != peer.name.trail
        {
            let (name, expected) = (peer.name.uri(), trail.to_string());
            return Err(Refusal::Trail { name, expected });
        }
        if !(rules.roles)(&peer.name.role) {
            let (principal, needed) = (peer.name.principal(), rules.roles_text);
            return Err(Refusal::Role { principal, needed });
        }
        Ok(peer)
    }

    /// Subjects of all roots, which a server names so that a client can choose its certificate.
    pub(crate) fn hints(&self) -> Vec<DistinguishedName> {
        let mut subjects: Vec<&[u8]> = Vec::new();
        for anchor in self.clients.iter().chain(&self.nodes) {
            if !subjects.contains(&anchor.subject.as_ref()) {
                subjects.push(anchor.subject.as_ref());
            }
        }
        subjects.into_iter().map(DistinguishedName::in_sequence).collect()
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        roots: &[TrustAnchor<'static>],
        rules: &Rules,
        now: i64,
    ) -> Result<(), Refusal> {
        use webpki::Error::{CertExpired, CertNotValidYet};
        let cert = EndEntityCert::try_from(leaf).map_err(|error| refusal(error, rules.needed))?;
        let verify = |time: i64| verify_once(&cert, intermediates, roots, rules.usage, time, None);
        let mut time = now;
        let mut verified = verify(time);
        if let Err(CertExpired { .. } | CertNotValidYet { .. }) = verified
            && !rules.expiry_counts
        {
            time = time_inside(leaf, intermediates, now);
            verified = verify(time);
        }
        let root = verified.map_err(|error| refusal(error, rules.needed))?;
        for list in &self.lists {
            let (root, crl) = (std::slice::from_ref(root), Some(&list.content));
            match verify_once(&cert, intermediates, root, rules.usage, time, crl) {
                Ok(_) => {}
                // Of an issuer of the same name with another key: a root that is being replaced.
                Err(webpki::Error::InvalidCrlSignatureForPublicKey) if list.verified => {}
                Err(error) => return Err(refusal(error, rules.needed)),
            }
        }
        Ok(())
    }
}

/// The provider of cryptography of every configuration here.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(ring::default_provider())))
}

/// Seconds since 1970 as the verifiers want them; times before that are 1970.
pub(crate) fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        u64::try_from(seconds).unwrap_or_default(),
    ))
}

/// The root that a chain leads to. One list at a time: webpki asks only the first list of an
/// issuer's name. A list of another issuer says nothing about this certificate, and an old list is
/// still right about what it names.
fn verify_once<'p>(
    cert: &'p EndEntityCert<'_>,
    intermediates: &'p [CertificateDer<'p>],
    roots: &'p [TrustAnchor<'_>],
    usage: KeyUsage,
    time: i64,
    crl: Option<&CertRevocationList<'_>>,
) -> Result<&'p TrustAnchor<'p>, webpki::Error> {
    let algorithms = provider().signature_verification_algorithms.all;
    let lists = crl.map(|crl| [crl]);
    let options = lists.as_ref().and_then(|lists| RevocationOptionsBuilder::new(lists).ok());
    let options = options.map(|options| {
        options
            .with_depth(RevocationCheckDepth::EndEntity)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .build()
    });
    let time = unix_time(time);
    let path =
        cert.verify_for_usage(algorithms, roots, intermediates, time, usage, options, None)?;
    Ok(path.anchor())
}

/// The time nearest to `now` at which all certificates of a chain are valid.
fn time_inside(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], now: i64) -> i64 {
    let (mut begin, mut end) = (i64::MIN, i64::MAX);
    let chain = std::iter::once(leaf).chain(intermediates);
    for content in chain.filter_map(|der| Certificate::from_der(der).ok()) {
        begin = begin.max(content.not_before);
        end = end.min(content.not_after);
    }
    // An empty range is of certificates that were never valid together; the next check says so.
    now.min(end).max(begin)
}

fn refusal(error: webpki::Error, needed: &'static str) -> Refusal {
    use webpki::Error;
    let seconds = |time: UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match error {
        Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => Refusal::Encoding,
        // A root of the same name with another key is another authority all the same.
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => Refusal::ForeignCa,
        Error::CertExpired { not_after, .. } => Refusal::Expired { not_after: seconds(not_after) },
        Error::CertNotValidYet { not_before, .. } => {
            Refusal::NotYetValid { not_before: seconds(not_before) }
        }
        Error::CertRevoked => Refusal::Revoked,
        Error::RequiredEkuNotFoundContext(_) => Refusal::Usage { needed },
        other => Refusal::Chain(other.to_string()),
    }
}
