//! What sshd and PAM say, as actions.
//!
//! NB: an attacker chooses the user names in these messages, spaces and all. So patterns are
//! matched at the start of a message, and the address is the last one: the part that sshd wrote.

use indelible_proto::v1::Outcome;

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Finding<'a> {
    pub(super) action: &'static str,
    pub(super) event_type: &'static str,
    pub(super) outcome: Outcome,
    /// The account that is named; not empty.
    pub(super) user: Option<&'a str>,
    /// The other end: an address, or a name where the program wrote one; not empty.
    pub(super) address: Option<&'a str>,
    pub(super) port: Option<&'a str>,
    /// How often it happened, where the line stands for several.
    pub(super) repeated: Option<&'a str>,
}

/// Action, event type and outcome of a pattern.
type Meaning = (&'static str, &'static str, Outcome);

const LOGIN: Meaning = ("LOGIN", "user.login.success", Outcome::Success);
const LOGIN_FAILURE: Meaning = ("LOGIN", "user.login.failure", Outcome::Failure);
const AUTHENTICATE_FAILURE: Meaning =
    ("AUTHENTICATE", "user.authenticate.failure", Outcome::Failure);
const DISCONNECT: Meaning = ("DISCONNECT", "connection.disconnect", Outcome::Unknown);
const SESSION_OPEN: Meaning = ("SESSION_OPEN", "session.open", Outcome::Success);
const SESSION_CLOSE: Meaning = ("SESSION_CLOSE", "session.close", Outcome::Success);
const REVERSE_MAPPING: Meaning =
    ("REVERSE_MAPPING_CHECK", "network.reverse_mapping_check.failure", Outcome::Failure);
const LOG: Meaning = ("LOG", "log", Outcome::Unknown);

/// Reads a message; one that no pattern fits is a [`LOG`].
pub(super) fn understand(message: &str) -> Finding<'_> {
    if let Some((count, inner)) = repeated(message) {
        return Finding { repeated: Some(count), ..understand_one(inner) };
    }
    understand_one(message)
}

/// Count and message of "message repeated 5 times: [ Failed password ...]".
fn repeated(message: &str) -> Option<(&str, &str)> {
    let rest = message.trim_end().strip_prefix("message repeated ")?;
    let (count, rest) = rest.split_once(" times: [")?;
    let is_count = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    is_count.then_some((count, rest.strip_suffix(']')?.trim_start()))
}

fn understand_one(message: &str) -> Finding<'_> {
    let message = message.trim_end();
    let message = message.strip_suffix("[preauth]").unwrap_or(message).trim_end();
    let message = ["error: ", "fatal: "]
        .iter()
        .find_map(|severity| message.strip_prefix(severity))
        .unwrap_or(message);
    login(message)
        .or_else(|| pam(message))
        .or_else(|| connection(message))
        .unwrap_or_else(|| unnamed(message))
}

/// "Accepted password for alice from 10.0.0.1 port 22 ssh2", "Failed ...", "Invalid user ...".
fn login(message: &str) -> Option<Finding<'_>> {
    let (meaning, who) = if let Some(rest) = message.strip_prefix("Invalid user ") {
        (LOGIN_FAILURE, rest)
    } else {
        let (meaning, rest) = match message.strip_prefix("Accepted ") {
            Some(rest) => (LOGIN, rest),
            None => (LOGIN_FAILURE, message.strip_prefix("Failed ")?),
        };
        // The method is one word: "password", "publickey", "keyboard-interactive/pam".
        let (method, who) = rest.split_once(" for ")?;
        if method.contains(' ') {
            return None;
        }
        (meaning, who.strip_prefix("invalid user ").unwrap_or(who))
    };
    // "Invalid user  from 10.0.0.1" is of the empty name.
    let (user, end) =
        who.rsplit_once(" from ").or_else(|| Some(("", who.strip_prefix("from ")?)))?;
    let mut words = end.split(' ');
    let address = words.next();
    let port = words.next().filter(|word| *word == "port").and(words.next());
    Some(finding(meaning, user, address, port))
}

/// "pam_unix(sshd:auth): authentication failure; ... rhost=10.0.0.1  user=root" and the sessions.
fn pam(message: &str) -> Option<Finding<'_>> {
    let module = message.strip_prefix("pam_").and_then(|rest| rest.split_once("): "));
    let text = match module {
        Some((_, text)) => text,
        None => message.strip_prefix("PAM ")?.trim_start_matches(|c: char| c.is_ascii_digit()),
    };
    let sessions =
        [(SESSION_OPEN, "session opened for user "), (SESSION_CLOSE, "session closed for user ")];
    for (meaning, pattern) in sessions {
        if let Some(rest) = text.strip_prefix(pattern) {
            // "root(uid=0) by (uid=0)" where PAM is newer.
            let user = rest.split(' ').next().unwrap_or_default();
            let user = user.split_once('(').map_or(user, |(name, _)| name);
            return Some(finding(meaning, user, None, None));
        }
    }
    let (verdict, fields) = text.split_once(';')?;
    let verdicts =
        ["authentication failure", " more authentication failure", " more authentication failures"];
    verdicts.contains(&verdict).then(|| {
        // The user comes last and may hold spaces.
        let (fields, user) = fields.split_once(" user=").unwrap_or((fields, ""));
        let address = fields.rsplit_once("rhost=").map(|(_, address)| address.trim());
        finding(AUTHENTICATE_FAILURE, user.trim(), address, None)
    })
}

/// The end of connections, and names that do not fit their addresses.
fn connection(message: &str) -> Option<Finding<'_>> {
    let rest = ["Received disconnect from ", "Connection closed by ", "Connection reset by "]
        .iter()
        .find_map(|pattern| message.strip_prefix(pattern));
    if let Some(rest) = rest {
        return Some(disconnect(rest));
    }
    if let Some(rest) = message.strip_prefix("Disconnecting: Too many authentication failures for ")
    {
        return Some(finding(DISCONNECT, rest, None, None));
    }
    if let Some(rest) = message.strip_prefix("Disconnected from ") {
        return Some(disconnect(rest));
    }
    if !message.trim_end_matches('!').ends_with("POSSIBLE BREAK-IN ATTEMPT") {
        return None;
    }
    let address = match message.strip_prefix("reverse mapping checking ") {
        Some(rest) => rest.rsplit_once('[').and_then(|(_, rest)| Some(rest.split_once(']')?.0)),
        None => Some(message.strip_prefix("Address ")?.split(' ').next()?),
    };
    Some(finding(REVERSE_MAPPING, "", address, None))
}

/// "10.0.0.1: 11: Bye Bye", "10.0.0.1 port 22:11: ...", "invalid user bob 10.0.0.1 port 22".
fn disconnect(rest: &str) -> Finding<'_> {
    let named = ["authenticating user ", "invalid user ", "user "]
        .iter()
        .find_map(|pattern| rest.strip_prefix(pattern));
    let Some(named) = named else {
        let (address, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let port = rest.strip_prefix("port ").and_then(|port| port.split([':', ' ']).next());
        return finding(DISCONNECT, "", Some(address.strip_suffix(':').unwrap_or(address)), port);
    };
    let (before, port) = match named.rsplit_once(" port ") {
        Some((before, port)) => (before, port.split([':', ' ']).next()),
        None => (named, None),
    };
    let (user, address) = before.rsplit_once(' ').unwrap_or(("", before));
    finding(DISCONNECT, user, Some(address), port)
}

/// A message without a pattern, which may still end in an address.
fn unnamed(message: &str) -> Finding<'_> {
    let user = message.strip_prefix("input_userauth_request: invalid user ").unwrap_or_default();
    let last_word = message.rsplit_once(" from ").map(|(_, end)| end);
    let address = last_word.filter(|word| word.parse::<std::net::IpAddr>().is_ok());
    finding(LOG, user, address, None)
}

fn finding<'a>(
    (action, event_type, outcome): Meaning,
    user: &'a str,
    address: Option<&'a str>,
    port: Option<&'a str>,
) -> Finding<'a> {
    let filled = |text: &&str| !text.is_empty();
    let (user, address) = (Some(user.trim()).filter(filled), address.filter(filled));
    Finding { action, event_type, outcome, user, address, port, repeated: None }
}
