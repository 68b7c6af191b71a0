//! Why a connection was not made, and what to do about it.

use std::error::Error;
use std::io;
use std::time::Duration;

use indelible_tls::Refusal;
use indelible_tls::rustls::{self, AlertDescription, CertificateError};

use super::tls::About;

/// A node cannot be talked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The address cannot be one.
    #[error("the address {0}\nhint: write host:port, for example 127.0.0.1:7101")]
    Address(String),
    /// Nobody answers there, or the network broke.
    #[error("{0}")]
    Unreachable(String),
    /// Nothing came in time.
    #[error("no connection within {0:.1?}")]
    TimedOut(Duration),
    /// The node wants TLS.
    #[error(
        "the node speaks TLS, and this client speaks clear text to it\n\
         hint: connect with a profile (INDELIBLE_PROFILE), and without clear text"
    )]
    NodeSpeaksTls,
    /// The server at that address does not speak TLS.
    #[error(
        "what answers there speaks no TLS\n\
         hint: is it the client port of a node? One with `[tls] mode = \"off\"` is reached in clear text (--clear-text)"
    )]
    NodeSpeaksClearText,
    /// Something else than a client port is there.
    #[error(
        "what answers there is no client port\n\
         hint: it may be the raft port or the HTTP port of a node; `client_addr` in its configuration is the right one"
    )]
    OtherPort,
    /// It is not shown that a node of this cluster answers there.
    #[error("the certificate that the node shows is not believed: {what}")]
    NotBelieved {
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// The node does not accept our certificate.
    #[error("the node refuses {certificate}: {what}")]
    Refused {
        /// Which certificate.
        certificate: String,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// The node went away where it should have spoken.
    #[error("{what}\nhint: {hint}")]
    Closed {
        /// What happened.
        what: String,
        /// What may be the reason.
        hint: String,
    },
    /// The handshake failed in another way.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
}

/// What a profile that does not fit has in common with an attack.
const OTHER_CLUSTER: &str = "is the profile the one of this cluster, and the address one of its nodes? A cluster that was made anew \
     has a new certificate authority";

impl DialError {
    /// Whether another attempt would end in the same way, until a person changes something.
    pub fn is_final(&self) -> bool {
        use DialError::*;
        match self {
            Address(_) | NodeSpeaksTls | NodeSpeaksClearText | OtherPort => true,
            NotBelieved { .. } | Refused { .. } => true,
            Unreachable(_) | TimedOut(_) | Closed { .. } | Handshake(_) => false,
        }
    }

    pub(super) fn from_tcp(error: io::Error) -> DialError {
        DialError::Unreachable(error.to_string())
    }

    /// During the handshake.
    pub(super) fn from_handshake(error: &io::Error, about: &About) -> DialError {
        if let Some(reason) = DialError::in_tls(error, about) {
            return reason;
        }
        let is_closed = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset];
        if is_closed.contains(&error.kind()) {
            let what = format!("the connection was closed during the TLS handshake ({error})");
            let hint = "is it the client port of a node, and does that speak TLS? \
                        The node's log says more";
            return DialError::Closed { what, hint: hint.into() };
        }
        DialError::Unreachable(error.to_string())
    }

    /// The handshake was over for us, and the node has said nothing since.
    pub(super) fn closed_at_once(error: &io::Error, about: &About) -> DialError {
        let what = format!("the node closed the connection right after the handshake ({error})");
        let hint = format!(
            "the node's log says whether it refused {}, or had too many connections",
            about.certificate
        );
        DialError::Closed { what, hint }
    }

    /// What TLS says of it.
    pub(super) fn in_tls(error: &io::Error, about: &About) -> Option<DialError> {
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        Some(match error {
            rustls::Error::InvalidMessage(_) => DialError::NodeSpeaksClearText,
            rustls::Error::InvalidCertificate(reason) => {
                DialError::NotBelieved { what: not_believed(error, reason, about) }
            }
            rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                DialError::OtherPort
            }
            rustls::Error::AlertReceived(alert) => match refused(*alert, about) {
                Some(what) => DialError::Refused { certificate: about.certificate.clone(), what },
                None => DialError::Handshake(format!("the node answers {alert:?}")),
            },
            other => DialError::Handshake(other.to_string()),
        })
    }

    /// In what tonic makes of it; otherwise "Connection refused" rather than "transport error".
    pub(super) fn inside(error: &(dyn Error + 'static)) -> DialError {
        let mut innermost = error;
        loop {
            if let Some(reason) = innermost.downcast_ref::<DialError>() {
                return reason.clone();
            }
            match innermost.source() {
                Some(source) => innermost = source,
                None => return DialError::Unreachable(innermost.to_string()),
            }
        }
    }
}

/// What is wrong with the node's certificate.
fn not_believed(error: &rustls::Error, reason: &CertificateError, about: &About) -> String {
    if let Some(refusal) = Refusal::of(error) {
        let text = refusal.to_string();
        return match refusal {
            Refusal::Trail { .. } | Refusal::Role { .. } => {
                format!("{text}\nhint: {OTHER_CLUSTER}")
            }
            _ => text,
        };
    }
    match reason {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("it is not issued by {}\nhint: {OTHER_CLUSTER}", about.ca)
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired\n\
             hint: renew it on the node (`indelible cert renew`); is the clock of this machine right?"
                .into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet\nhint: are the clocks of this machine and of the node right?".into()
        }
        other => other.to_string(),
    }
}

/// What the node says is wrong with ours; none if the alert is not about certificates.
fn refused(alert: AlertDescription, about: &About) -> Option<String> {
    let again = "`indelible cert client NAME` issues another one; running clients take it up";
    Some(match alert {
        AlertDescription::CertificateExpired => {
            format!("it is expired or not valid yet ({})\nhint: {again}", about.validity)
        }
        AlertDescription::CertificateRevoked => {
            format!("it is revoked\nhint: {again}")
        }
        AlertDescription::UnknownCA | AlertDescription::BadCertificate => {
            format!("it is not issued by an authority that the node accepts\nhint: {OTHER_CLUSTER}")
        }
        AlertDescription::UnsupportedCertificate => "it may not open TLS connections\n\
             hint: its extended key usage must allow `client`"
            .into(),
        AlertDescription::CertificateUnknown => "its name does not count there: it is of another trail, or of a role that may not connect\n\
             hint: `indelible cert show FILE` prints the name; is the endpoint a client port? Raft ports let nodes in only"
            .into(),
        AlertDescription::CertificateRequired => {
            "the node demands one\nhint: name `cert` and `key` in the profile".into()
        }
        AlertDescription::AccessDenied => {
            format!("it may not connect\nhint: {again}")
        }
        _ => return None,
    })
}
