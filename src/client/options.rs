//! What a client can be told, with defaults that suit a cluster in one data centre.

use std::path::PathBuf;
use std::time::Duration;

use indelible_core::Policy;

use crate::{ConnectError, TrustMode};

/// Bytes of events that a producer holds at most, unless told otherwise.
pub const BUFFER_BYTES_DEFAULT: usize = 32 * 1024 * 1024;
/// Append requests that a producer has in flight at most, unless told otherwise.
pub const WINDOW_DEFAULT: usize = 4;

/// How a [`crate::Client`] behaves. Fields may be set directly; [`Options::new`] gives the
/// defaults.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to find the nodes first, as `host:port`. One that answers is enough: the others are
    /// learned from it.
    pub endpoints: Vec<String>,
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
    /// Defaults, for these endpoints: `host:port` or `http://host:port`. A bare port repeats the
    /// host before it, so `["http://127.0.0.1:7101", "7102", "7103"]` are three nodes of one
    /// machine.
    pub fn new<E: AsRef<str>>(
        endpoints: impl IntoIterator<Item = E>,
    ) -> Result<Options, ConnectError> {
        Ok(Options {
            endpoints: parse_endpoints(endpoints)?,
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

/// Endpoints as `host:port`, without duplicates, in order.
fn parse_endpoints<E: AsRef<str>>(
    endpoints: impl IntoIterator<Item = E>,
) -> Result<Vec<String>, ConnectError> {
    let mut parsed: Vec<String> = Vec::new();
    for endpoint in endpoints {
        let text = endpoint.as_ref().trim();
        let invalid = |why| ConnectError::Endpoint { endpoint: text.to_owned(), why };
        if text.starts_with("https://") {
            return Err(invalid("TLS is not supported yet"));
        }
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let host_before = parsed.last().and_then(|before| before.rsplit_once(':'));
        let (host, port) = match (bare.rsplit_once(':'), host_before) {
            (Some(pair), _) => pair,
            (None, Some((host, _))) => (host, bare),
            (None, None) => return Err(invalid("the port is missing")),
        };
        match port.parse::<u16>() {
            Ok(port) if port > 0 => {}
            _ => return Err(invalid("the port is not a number from 1 to 65535")),
        }
        if host.is_empty() || host.contains(|c: char| c == '/' || c.is_whitespace()) {
            return Err(invalid("the host is not a name or an address"));
        }
        let address = format!("{host}:{port}");
        if !parsed.contains(&address) {
            parsed.push(address);
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

    #[test]
    fn endpoints_have_a_short_form() {
        let parse = |text: &str| parse_endpoints(text.split(','));
        assert_eq!(
            parse("http://127.0.0.1:7101,7102, b.example:9/").expect("valid"),
            ["127.0.0.1:7101", "127.0.0.1:7102", "b.example:9"]
        );
        assert_eq!(parse("[::1]:7101,7101").expect("valid"), ["[::1]:7101"]);
        for bad in ["", "7101", "https://a:1", "a:0", "a:65536", "a:b", ":7101", "a/b:1"] {
            assert!(parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
