//! What is asked of a certificate.

use std::net::IpAddr;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::DnsName;
use zeroize::Zeroizing;

use super::{BACKDATED_DAYS, DAY, IssueError, LEAF_DAYS};
use crate::inspect::Certificate;
use crate::name::{Name, Role};

/// Days of validity, at most.
pub const LEAF_DAYS_MAX: u32 = 3650;

/// A certificate of a node, a client or an administrator, before it is issued.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Whom it is for. Nodes may open and answer connections, others only open them.
    pub name: Name,
    /// DNS names and addresses, for programs that check them, such as browsers.
    pub hosts: Vec<String>,
    /// Days of validity from now on.
    pub days: u32,
    /// Another begin of the validity, in seconds since 1970.
    pub not_before: Option<i64>,
    /// Another end of the validity, in seconds since 1970.
    pub not_after: Option<i64>,
}

/// Why what is asked for makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// Neither a DNS name nor an address.
    #[error(
        "{0:?} is neither a DNS name nor an address; hint: without port and brackets, such as \
         node1.example.com, 10.0.0.1 or ::1"
    )]
    Host(String),
    /// A validity of no days, or of too many.
    #[error("a validity of {0} days is refused; hint: 1 to {LEAF_DAYS_MAX}")]
    Days(u32),
    /// A time that no certificate can hold.
    #[error("second {0} since 1970 is not a time that a certificate can hold")]
    Time(i64),
}

impl Leaf {
    /// With the usual validity and no hosts.
    pub fn new(name: Name) -> Leaf {
        Leaf { name, hosts: Vec::new(), days: LEAF_DAYS, not_before: None, not_after: None }
    }

    /// Begin and end. Nothing outlives its authority or is older: other software looks at both.
    pub(super) fn validity(&self, now: i64, authority: &Certificate) -> (i64, i64) {
        let begin = (now - i64::from(BACKDATED_DAYS) * DAY).max(authority.not_before);
        let end = (now + i64::from(self.days) * DAY).min(authority.not_after);
        (self.not_before.unwrap_or(begin), self.not_after.unwrap_or(end))
    }

    /// All but serial number and validity.
    pub(super) fn params(&self) -> Result<CertificateParams, IssueError> {
        if !(1..=LEAF_DAYS_MAX).contains(&self.days) {
            return Err(LeafError::Days(self.days).into());
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.name.principal());
        params.subject_alt_names = vec![SanType::URI(self.name.uri().try_into()?)];
        for host in &self.hosts {
            params.subject_alt_names.push(host_name(host)?);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match self.name.role {
            Role::Node(_) => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Role::Client(_) | Role::Admin(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        Ok(params)
    }
}

/// Makes a key and a request for a certificate, to be signed where the authority's key is.
pub fn csr(leaf: &Leaf) -> Result<(String, Zeroizing<String>), IssueError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = leaf.params()?.serialize_request(&key)?;
    Ok((request.pem()?, Zeroizing::new(key.serialize_pem())))
}

fn host_name(host: &str) -> Result<SanType, IssueError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    // "1.2.3" is a DNS name by its characters, and nobody means one.
    let digits = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if digits || DnsName::try_from(host).is_err() {
        return Err(LeafError::Host(host.to_owned()).into());
    }
    Ok(SanType::DnsName(host.to_owned().try_into()?))
}
