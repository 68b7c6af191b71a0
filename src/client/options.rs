//! What a client can be told, with defaults that suit a cluster in one data centre.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indelible_core::Policy;

use crate::connect::{Tls, Transport};
use crate::profile::Profile;
use crate::{ConnectError, TrustMode};

/// Bytes of events that a producer holds at most, unless told otherwise.
pub const BUFFER_BYTES_DEFAULT: usize = 32 * 1024 * 1024;
/// Append requests that a producer has in flight at most, unless told otherwise.
pub const WINDOW_DEFAULT: usize = 4;

/// How a [`crate::Client`] behaves. Fields may be set directly; [`Options::new`] gives the
/// defaults.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to find the nodes first, as [`Options::new`] says. One that answers is enough: the
    /// others are learned from it.
    pub endpoints: Vec<String>,
    /// The certificates. Default: none, see [`Options::from_profile`].
    pub tls: Option<Tls>,
    /// Whether to connect without TLS, to nodes with `[tls] mode = "off"`: then neither end proves who
    /// he is, and anybody on the way reads along. Default: no.
    pub clear_text: bool,
    /// How long [`crate::Client::connect_with`] waits for the first node to answer. Default 5 s.
    pub reach_timeout: Duration,
    /// How long one attempt to connect may take. Default 1 s.
    pub connect_timeout: Duration,
    /// How long one request may stay unanswered before it is sent again. Default 5 s.
    pub attempt_timeout: Duration,
    /// How long a call without a deadline of its own may take, retries included. Default 30 s.
    pub request_timeout: Duration,
    /// Nodes that one read asks at most, one after the other, before it fails. Default 6: each of
    /// three nodes twice.
    pub read_attempts_max: u32,
    /// Who has to have signed before this client believes something; `indelible init` writes the
    /// file, and it travels by a way that an attacker of the cluster does not control. Without one
    /// every answer says that it is unverified. Default: none.
    pub policy: Option<Policy>,
    /// Whether that is what counts. Default: it is.
    pub trust: TrustMode,
    /// Where to keep the newest checkpoint from one run to the next, so that a trail that was
    /// rolled back or forked meanwhile is noticed, and beside it what the policy has become.
    /// Default: nowhere.
    pub checkpoint_file: Option<PathBuf>,
    /// How old a checkpoint may be that something is proven against. Nodes sign one every ten
    /// seconds even if nothing happens. Default 60 s.
    pub checkpoint_age_max: Duration,
    /// With a policy: how often receipts are held against a checkpoint, many together. Default 1 s.
    pub settle_every: Duration,
    /// With a policy: how long a receipt may wait for a checkpoint that covers it before there is
    /// an alarm. Default 60 s.
    pub unsettled_max: Duration,
}

impl Options {
    /// What a profile file says: endpoints, certificates and policy, with defaults for the rest.
    ///
    /// The file is TOML, and paths in it are relative to its folder:
    ///
    /// ```toml
    /// endpoints = ["10.0.0.1:7101", "10.0.0.2:7101", "10.0.0.3:7101"]
    /// trail = "00112233445566778899aabbccddeeff"   # whose nodes are believed
    /// ca = "ca.crt"             # who issues their certificates
    /// cert = "client.crt"       # who this client is
    /// key = "client.key"        # readable by its owner only
    /// policy = "policy.txt"     # may be left out: then nothing is called verified
    /// ```
    ///
    /// Certificates and key are read again for every new connection, so they may be replaced while
    /// the client runs.
    ///
    /// # Errors
    /// [`ConnectError`] says which file, and what is wrong with it.
    pub fn from_profile(path: impl AsRef<Path>) -> Result<Options, ConnectError> {
        Profile::read(path)?.options()
    }

    /// Defaults, for these endpoints: `host:port`, `https://host:port`, or with
    /// [`Options::clear_text`] `http://host:port`. A bare port repeats the host before it, so
    /// `["127.0.0.1:7101", "7102", "7103"]` are three nodes of one machine.
    ///
    /// Either [`Options::tls`] or [`Options::clear_text`] has to be set before connecting.
    ///
    /// # Errors
    /// [`ConnectError::Endpoint`] if one of them cannot be an endpoint.
    pub fn new<E: AsRef<str>>(
        endpoints: impl IntoIterator<Item = E>,
    ) -> Result<Options, ConnectError> {
        Ok(Options {
            endpoints: parse_endpoints(endpoints)?.iter().map(Endpoint::to_string).collect(),
            tls: None,
            clear_text: false,
            reach_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
            attempt_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            read_attempts_max: 6,
            policy: None,
            trust: TrustMode::Policy,
            checkpoint_file: None,
            checkpoint_age_max: Duration::from_secs(60),
            settle_every: Duration::from_secs(1),
            unsettled_max: Duration::from_secs(60),
        })
    }
}

impl Options {
    /// What is spoken with the nodes.
    ///
    /// # Errors
    /// [`ConnectError::NoTransport`] if nothing says it, [`ConnectError::TwoTransports`] if two
    /// things are said.
    pub fn transport(&self) -> Result<Transport, ConnectError> {
        match (&self.tls, self.clear_text) {
            (Some(tls), false) => Ok(Transport::Tls(tls.clone())),
            (None, true) => Ok(Transport::ClearText),
            (None, false) => Err(ConnectError::NoTransport),
            (Some(_), true) => Err(ConnectError::TwoTransports),
        }
    }

    /// The endpoints as `host:port`.
    pub(crate) fn addresses(&self) -> Result<Vec<String>, ConnectError> {
        let mut addresses: Vec<String> = Vec::new();
        for endpoint in parse_endpoints(&self.endpoints)? {
            let invalid = |why| ConnectError::Endpoint { endpoint: endpoint.to_string(), why };
            match (endpoint.scheme, self.clear_text) {
                (Some(HTTP), false) => {
                    return Err(invalid("it asks for clear text, and this client speaks TLS"));
                }
                (Some(HTTPS), true) => {
                    return Err(invalid("it asks for TLS, and this client speaks clear text"));
                }
                _ if addresses.contains(&endpoint.address) => {}
                _ => addresses.push(endpoint.address),
            }
        }
        Ok(addresses)
    }
}

const HTTP: &str = "http://";
const HTTPS: &str = "https://";

/// One endpoint, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Endpoint {
    /// [`HTTP`] or [`HTTPS`], if it is said.
    scheme: Option<&'static str>,
    /// `host:port`.
    address: String,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.scheme.unwrap_or_default(), self.address)
    }
}

/// Takes endpoints apart, and leaves out duplicates.
fn parse_endpoints<E: AsRef<str>>(
    endpoints: impl IntoIterator<Item = E>,
) -> Result<Vec<Endpoint>, ConnectError> {
    let mut parsed: Vec<Endpoint> = Vec::new();
    for endpoint in endpoints {
        let text = endpoint.as_ref().trim();
        let invalid = |why| ConnectError::Endpoint { endpoint: text.to_owned(), why };
        let scheme = [HTTP, HTTPS].into_iter().find(|scheme| text.starts_with(scheme));
        let bare = text.strip_prefix(scheme.unwrap_or_default()).unwrap_or(text);
        let bare = bare.trim_end_matches('/');
        let before = parsed.last().map(|before| (before.scheme, before.address.as_str()));
        let before = before.and_then(|(scheme, address)| Some((scheme, address.rsplit_once(':')?)));
        let (scheme, (host, port)) = match (bare.rsplit_once(':'), before) {
            (Some(pair), _) => (scheme, pair),
            (None, Some((scheme, (host, _)))) => (scheme, (host, bare)),
            (None, None) => return Err(invalid("the port is missing")),
        };
        match port.parse::<u16>() {
            Ok(port) if port > 0 => {}
            _ => return Err(invalid("the port is not a number from 1 to 65535")),
        }
        if host.is_empty() || host.contains(|c: char| c == '/' || c.is_whitespace()) {
            return Err(invalid("the host is not a name or an address"));
        }
        let endpoint = Endpoint { scheme, address: format!("{host}:{port}") };
        if !parsed.contains(&endpoint) {
            parsed.push(endpoint);
        }
    }
    if parsed.is_empty() {
        return Err(ConnectError::Endpoint { endpoint: String::new(), why: "there is none" });
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(endpoints: &str, clear_text: bool) -> Result<Vec<String>, ConnectError> {
        Options { clear_text, ..Options::new(endpoints.split(','))? }.addresses()
    }

    #[test]
    fn endpoints_have_a_short_form() {
        assert_eq!(
            addresses("http://127.0.0.1:7101,7102, b.example:9/", true).expect("valid"),
            ["127.0.0.1:7101", "127.0.0.1:7102", "b.example:9"]
        );
        assert_eq!(addresses("[::1]:7101,7101", true).expect("valid"), ["[::1]:7101"]);
        for bad in ["", "7101", "a:0", "a:65536", "a:b", ":7101", "a/b:1", "ftp://a:1"] {
            assert!(Options::new(bad.split(',')).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_scheme_says_what_is_spoken() {
        for (endpoints, clear_text) in [("https://a:1,2", false), ("http://a:1,2", true)] {
            assert_eq!(addresses(endpoints, clear_text).expect("fits"), ["a:1", "a:2"]);
            let error = addresses(endpoints, !clear_text).expect_err("does not fit");
            assert!(error.to_string().contains("and this client speaks"), "{error}");
        }
        assert_eq!(addresses("https://a:1,a:1", false).expect("fits"), ["a:1"]);
    }

    #[test]
    fn clear_text_has_to_be_asked_for() {
        let options = Options::new(["a:1"]).expect("valid");
        let error = options.transport().expect_err("nothing says what is spoken");
        assert!(error.to_string().contains("INDELIBLE_PROFILE"), "{error}");
        let clear = Options { clear_text: true, ..options };
        assert!(matches!(clear.transport(), Ok(Transport::ClearText)));
    }
}
