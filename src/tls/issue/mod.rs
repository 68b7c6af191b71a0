//! A small certificate authority, for trails whose operators have none.
//!
//! Keys are ECDSA P-256, which every TLS library knows. Everything is dated back by
//! [`BACKDATED_DAYS`], so that a node whose clock is late takes a certificate that was just made.

mod leaf;

use std::time::SystemTime;

use indelible_core::TrailId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

pub use leaf::{LEAF_DAYS_MAX, Leaf, LeafError, csr};

use crate::inspect::{Certificate, Revoked};
use crate::name::parse_trail;
use crate::pem::{self, PemError};

/// How long before it was made a certificate's validity begins.
pub const BACKDATED_DAYS: u32 = 7;
/// How long a new authority is valid.
pub const AUTHORITY_DAYS: u32 = 3653;
/// How long a leaf is valid unless it is asked for otherwise: what browsers accept at most, and a
/// month more than a year.
pub const LEAF_DAYS: u32 = 397;

const DAY: i64 = 86_400;
/// Stands before the trail id in the name of an authority.
const OF_TRAIL: &str = " of trail ";

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A file of the authority, or a request, is no PEM text of the right kind.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// What is asked for makes no sense.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The authority's certificate may not issue others.
    #[error("the certificate of {subject:?} may not issue others; hint: give that of an authority")]
    NotAnAuthority {
        /// Its subject.
        subject: String,
    },
    /// The authority's key is that of another certificate.
    #[error(
        "the authority's key does not belong to its certificate; hint: they are a pair of files"
    )]
    OtherKey,
    /// The authority's key cannot be used.
    #[error(
        "the authority's key cannot be used: {0}; hint: give an unencrypted PKCS#8 key, as \
         `openssl pkcs8 -topk8 -nocrypt -in KEY` prints it"
    )]
    Key(rcgen::Error),
    /// A serial number has other characters than hexadecimal digits, or too many.
    #[error(
        "serial number {0:?} is refused; hint: 2 to 40 hexadecimal digits, as `indelible cert show` prints them"
    )]
    Serial(String),
    /// The request cannot be used.
    #[error(
        "the request is refused: {0}; hint: its key must be ECDSA, Ed25519 or RSA, and sign it"
    )]
    Request(rcgen::Error),
    /// The library that makes certificates gave up.
    #[error("the certificate could not be made: {0}")]
    Make(rcgen::Error),
}

impl From<rcgen::Error> for IssueError {
    fn from(error: rcgen::Error) -> IssueError {
        IssueError::Make(error)
    }
}

/// A certificate and its private key.
pub struct Issued {
    /// The certificate, followed by the authority's own unless that is a root.
    pub cert_pem: String,
    /// The key, PKCS#8.
    pub key_pem: Zeroizing<String>,
}

/// A certificate authority: its certificate and its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
    content: Certificate,
}

impl Authority {
    /// Makes a new one for a trail, as of now.
    pub fn new(trail: &TrailId) -> Result<Authority, IssueError> {
        Authority::new_at(trail, now())
    }

    /// Makes a new one as of another time, in seconds since 1970.
    pub fn new_at(trail: &TrailId, now: i64) -> Result<Authority, IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        // Two authorities of one trail have different names, so that a revocation list says whose
        // it is.
        let suffix = hex::encode(rand::random::<[u8; 4]>());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = format!("indelible CA {suffix}{OF_TRAIL}{trail}");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params.serial_number = Some(random_serial());
        params.not_before = date_time(now - i64::from(BACKDATED_DAYS) * DAY)?;
        params.not_after = date_time(now + i64::from(AUTHORITY_DAYS) * DAY)?;
        let cert = params.self_signed(&key)?;
        let content = Certificate::from_der(cert.der())?;
        Ok(Authority { issuer: Issuer::new(params, key), cert_pem: cert.pem(), content })
    }

    /// One that exists: this system's, or another, whose certificate comes first in its file.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Authority, IssueError> {
        let ders = pem::certificates(cert_pem.as_bytes())?;
        let content = Certificate::from_der(&ders[0])?;
        if !content.is_ca {
            return Err(IssueError::NotAnAuthority { subject: content.subject });
        }
        let key = KeyPair::from_pem(key_pem).map_err(IssueError::Key)?;
        let parsed = X509Certificate::from_der(&ders[0]);
        if !parsed.is_ok_and(|(_, cert)| cert.public_key().raw == key.subject_public_key_info()) {
            return Err(IssueError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_der(&ders[0], key)?;
        Ok(Authority { issuer, cert_pem: cert_pem.to_owned(), content })
    }

    /// The certificate, for the `ca` file of nodes and clients.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The private key, PKCS#8.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// What the certificate says.
    pub fn content(&self) -> &Certificate {
        &self.content
    }

    /// The trail that it was made for; none if it is an authority of others.
    pub fn trail(&self) -> Option<TrailId> {
        parse_trail(self.content.subject.rsplit_once(OF_TRAIL)?.1)
    }

    /// Makes a key and a certificate for it.
    pub fn issue(&self, leaf: &Leaf) -> Result<Issued, IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let cert_pem = self.sign(leaf, &key)?;
        Ok(Issued { cert_pem, key_pem: Zeroizing::new(key.serialize_pem()) })
    }

    /// Makes a certificate for the key of a request. Nothing else of the request is used: the names
    /// are those of `leaf`.
    pub fn sign_csr(&self, csr_pem: &str, leaf: &Leaf) -> Result<String, IssueError> {
        let request =
            CertificateSigningRequestParams::from_pem(csr_pem).map_err(IssueError::Request)?;
        self.sign(leaf, &request.public_key)
    }

    /// Makes a revocation list. It replaces the list before it, so it names everything that is
    /// revoked, and has a larger number.
    pub fn revoke(&self, revoked: &[Revoked], number: u64) -> Result<String, IssueError> {
        let entries = revoked.iter().map(|entry| {
            let bytes = hex::decode(&entry.serial).ok();
            let bytes = bytes.filter(|bytes| (1..=20).contains(&bytes.len()));
            let bytes = bytes.ok_or_else(|| IssueError::Serial(entry.serial.clone()))?;
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&bytes),
                revocation_time: date_time(entry.at)?,
                reason_code: None,
                invalidity_date: None,
            })
        });
        let params = CertificateRevocationListParams {
            this_update: date_time(now() - i64::from(BACKDATED_DAYS) * DAY)?,
            // As long as the authority: a list does not become wrong with time.
            next_update: date_time(self.content.not_after.max(now() + DAY))?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: entries.collect::<Result<_, IssueError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }

    fn sign(&self, leaf: &Leaf, key: &impl PublicKeyData) -> Result<String, IssueError> {
        let mut params = leaf.params()?;
        let (begin, end) = leaf.validity(now(), &self.content);
        params.not_before = date_time(begin)?;
        params.not_after = date_time(end)?;
        params.serial_number = Some(random_serial());
        params.use_authority_key_identifier_extension = true;
        let mut text = params.signed_by(key, &self.issuer)?.pem();
        if self.content.subject != self.content.issuer {
            text.push_str(&self.cert_pem);
        }
        Ok(text)
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn date_time(unix_seconds: i64) -> Result<OffsetDateTime, LeafError> {
    OffsetDateTime::from_unix_timestamp(unix_seconds).map_err(|_| LeafError::Time(unix_seconds))
}

/// 16 random bytes; positive, and always 16 of them.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}
