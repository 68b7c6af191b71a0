//! What certificates, requests and revocation lists say, whether or not anybody believes them.

use std::fmt;
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use sha2::{Digest, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;

use crate::pem::{PemError, certificates, revocation_lists};

/// The content of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it is for, as a distinguished name; for people.
    pub subject: String,
    /// Who issued it, as a distinguished name; for people.
    pub issuer: String,
    /// The names that count.
    pub names: Names,
    /// Valid from, in seconds since 1970.
    pub not_before: i64,
    /// Valid until, in seconds since 1970.
    pub not_after: i64,
    /// Serial number in hexadecimal digits, as revocation lists name it.
    pub serial: String,
    /// SHA-256 of the whole certificate, in hexadecimal digits.
    pub fingerprint: String,
    /// What it may be used for. Empty: anything.
    pub usages: Vec<Usage>,
    /// Whether it may issue others.
    pub is_ca: bool,
}

/// Subject alternative names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// URIs; [`crate::Name`]s are among these.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

/// What a certificate may be used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Usage {
    /// To answer TLS connections.
    Server,
    /// To open TLS connections.
    Client,
    /// Something else, which TLS does not ask for.
    Other(String),
}

/// The content of a request for a certificate. Its signature is right: who made it has the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whom the certificate is to be for, as a distinguished name; for people.
    pub subject: String,
    /// The names that are asked for.
    pub names: Names,
}

/// The content of a certificate revocation list. Nobody has checked its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    /// Who made it, as a distinguished name; for people.
    pub issuer: String,
    /// Its number; a newer list of the same issuer has a larger one. 0 if it has none.
    pub number: u64,
    /// When it was made, in seconds since 1970.
    pub made: i64,
    /// When a newer one is due, in seconds since 1970.
    pub next: Option<i64>,
    /// The certificates that are taken back.
    pub revoked: Vec<Revoked>,
}

/// A certificate that was taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Serial number in hexadecimal digits.
    pub serial: String,
    /// When, in seconds since 1970.
    pub at: i64,
}

impl Certificate {
    /// Reads one certificate.
    pub fn from_der(der: &CertificateDer<'_>) -> Result<Certificate, PemError> {
        Certificate::decode(der, 1)
    }

    /// Reads all certificates of a PEM file: mostly a leaf, then those that lead to its root.
    pub fn from_pem(text: &[u8]) -> Result<Vec<Certificate>, PemError> {
        let ders = certificates(text)?;
        (1..).zip(&ders).map(|(position, der)| Certificate::decode(der, position)).collect()
    }

    fn decode(der: &[u8], position: usize) -> Result<Certificate, PemError> {
        let bad = |reason: String| PemError::Content { kind: "certificate", position, reason };
        let (_, parsed) = X509Certificate::from_der(der).map_err(|error| bad(error.to_string()))?;
        let names = parsed.subject_alternative_name().map_err(|error| bad(error.to_string()))?;
        let usages = parsed.extended_key_usage().map_err(|error| bad(error.to_string()))?;
        Ok(Certificate {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            names: names.map(|names| names_of(&names.value.general_names)).unwrap_or_default(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            serial: serial_text(parsed.raw_serial()),
            fingerprint: hex::encode(Sha256::digest(der)),
            usages: usages.map(|usages| usages_of(usages.value)).unwrap_or_default(),
            is_ca: parsed.is_ca(),
        })
    }
}

impl Request {
    /// Reads a request and checks its signature.
    pub fn from_pem(text: &[u8]) -> Result<Request, PemError> {
        let bad = |reason: String| PemError::Content { kind: "request", position: 1, reason };
        let der = request_der(text)?;
        let (_, parsed) =
            X509CertificationRequest::from_der(&der).map_err(|error| bad(error.to_string()))?;
        parsed.verify_signature().map_err(|error| bad(error.to_string()))?;
        let mut names = Names::default();
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(found) = extension {
                names = names_of(&found.general_names);
            }
        }
        Ok(Request { subject: parsed.certification_request_info.subject.to_string(), names })
    }
}

impl RevocationList {
    /// Reads all lists of a PEM file.
    pub fn from_pem(text: &[u8]) -> Result<Vec<RevocationList>, PemError> {
        let ders = revocation_lists(text)?;
        (1..).zip(&ders).map(|(position, der)| RevocationList::decode(der, position)).collect()
    }

    fn decode(der: &[u8], position: usize) -> Result<RevocationList, PemError> {
        let bad = |reason: String| PemError::Content { kind: "revocation list", position, reason };
        let (_, parsed) =
            CertificateRevocationList::from_der(der).map_err(|error| bad(error.to_string()))?;
        let number = parsed.crl_number().map(|number| number.try_into()).transpose();
        let revoked = parsed.iter_revoked_certificates().map(|entry| Revoked {
            serial: serial_text(entry.raw_serial()),
            at: entry.revocation_date.timestamp(),
        });
        Ok(RevocationList {
            issuer: parsed.issuer().to_string(),
            number: number
                .map_err(|_| bad("its number has more than 64 bits".to_owned()))?
                .unwrap_or(0),
            made: parsed.last_update().timestamp(),
            next: parsed.next_update().map(|time| time.timestamp()),
            revoked: revoked.collect(),
        })
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Usage::Server => f.write_str("TLS server"),
            Usage::Client => f.write_str("TLS client"),
            Usage::Other(purpose) => f.write_str(purpose),
        }
    }
}

/// A day in UTC, for people.
pub(crate) fn date(unix_seconds: i64) -> String {
    let Ok(time) = ASN1Time::from_timestamp(unix_seconds) else {
        return format!("second {unix_seconds}");
    };
    let time = time.to_datetime();
    format!("{:04}-{:02}-{:02}", time.year(), u8::from(time.month()), time.day())
}

fn request_der(text: &[u8]) -> Result<Vec<u8>, PemError> {
    let mut sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(text);
    let request = |section: &Result<(SectionKind, Vec<u8>), pem::Error>| {
        section.as_ref().map_or(true, |(kind, _)| *kind == SectionKind::Csr)
    };
    match sections.find(request) {
        Some(Ok((_, der))) => Ok(der),
        Some(Err(error)) => Err(PemError::Damaged { reason: error.to_string() }),
        None => Err(PemError::Missing {
            kind: "certificate request",
            bytes: text.len(),
            hint: "give a file that begins with -----BEGIN CERTIFICATE REQUEST-----",
        }),
    }
}

fn names_of(general: &[GeneralName<'_>]) -> Names {
    let mut names = Names::default();
    for name in general {
        match name {
            GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => names.dns.push((*dns).to_owned()),
            GeneralName::IPAddress(bytes) => names.addresses.extend(address(bytes)),
            _ => {}
        }
    }
    names
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn usages_of(usages: &ExtendedKeyUsage<'_>) -> Vec<Usage> {
    let mut found = Vec::new();
    if usages.server_auth {
        found.push(Usage::Server);
    }
    if usages.client_auth {
        found.push(Usage::Client);
    }
    for (set, name) in [
        (usages.any, "any purpose"),
        (usages.code_signing, "code signing"),
        (usages.email_protection, "e-mail"),
        (usages.time_stamping, "time stamping"),
        (usages.ocsp_signing, "OCSP signing"),
    ] {
        if set {
            found.push(Usage::Other(name.to_owned()));
        }
    }
    found.extend(usages.other.iter().map(|oid| Usage::Other(oid.to_id_string())));
    found
}

/// A serial number as other tools print it: without the zero byte that keeps it positive.
fn serial_text(bytes: &[u8]) -> String {
    match bytes {
        [0, rest @ ..] if !rest.is_empty() => hex::encode(rest),
        _ => hex::encode(bytes),
    }
}
