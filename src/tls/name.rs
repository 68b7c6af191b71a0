//! Names in certificates: which node, client or administrator of which trail.
//!
//! A name is a URI in the certificate's subject alternative names, in the form of a SPIFFE ID:
//! `spiffe://<trail id>.indelible/node/2`, `.../client/billing`, `.../admin/alice`.

use std::fmt;
use std::str::FromStr;

use indelible_core::TrailId;

/// Characters of a client's or an administrator's name, at most.
pub const NAME_LENGTH_MAX: usize = 64;

/// Begins every name.
const SCHEME: &str = "spiffe://";
/// Ends the trust domain, after the trail id.
const DOMAIN: &str = ".indelible";
/// Where a template of other certificate authorities has the node id.
const PLACEHOLDER: &str = "{id}";

/// Who a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The trail in which the name means something.
    pub trail: TrailId,
    /// What it is there.
    pub role: Role,
}

/// What the holder of a certificate is in a trail.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A node, by its id; never 0.
    Node(u64),
    /// A program or a person that appends and reads.
    Client(String),
    /// Somebody who may change the group.
    Admin(String),
}

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Another scheme, trust domain or path.
    #[error(
        "{0:?} is not a name of this system; hint: spiffe://<trail id>.indelible/node/<id>, \
         .../client/<name> or .../admin/<name>"
    )]
    Form(String),
    /// A node id that is 0, too large, or not written in its shortest form.
    #[error("node id {0:?} is not a number from 1 to {max} without leading zeros", max = u64::MAX)]
    NodeId(String),
    /// A name with other characters, or too long.
    #[error("name {0:?} is refused; hint: 1 to {NAME_LENGTH_MAX} of the characters a-z 0-9 . _ -")]
    Characters(String),
    /// A template without the one place for the node id.
    #[error(
        "{0:?} is no template of node names; hint: a URI with {PLACEHOLDER} in it once, such as \
         spiffe://prod/indelible/{PLACEHOLDER}"
    )]
    Template(String),
}

impl Name {
    /// A name with a valid role.
    pub fn new(trail: TrailId, role: Role) -> Result<Name, NameError> {
        match &role {
            Role::Node(0) => return Err(NameError::NodeId("0".to_owned())),
            Role::Node(_) => {}
            Role::Client(name) | Role::Admin(name) => check_characters(name)?,
        }
        Ok(Name { trail, role })
    }

    /// Reads the form that [`uri`](Self::uri) writes, and no other.
    pub fn parse(uri: &str) -> Result<Name, NameError> {
        let form = || NameError::Form(uri.to_owned());
        let rest = uri.strip_prefix(SCHEME).ok_or_else(form)?;
        let (domain, path) = rest.split_once('/').ok_or_else(form)?;
        let trail = domain.strip_suffix(DOMAIN).and_then(parse_trail).ok_or_else(form)?;
        let (kind, name) = path.split_once('/').ok_or_else(form)?;
        let role = match kind {
            "node" => Role::Node(parse_node_id(name)?),
            "client" => Role::Client(name.to_owned()),
            "admin" => Role::Admin(name.to_owned()),
            _ => return Err(form()),
        };
        Name::new(trail, role)
    }

    /// As it stands in a certificate.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}{DOMAIN}/{}", self.trail, self.role)
    }

    /// As it stands in records and rules: `node/2`, `client/billing`, `admin/alice`.
    pub fn principal(&self) -> String {
        self.role.to_string()
    }

    /// The node's id, if it is a node's name.
    pub fn node_id(&self) -> Option<u64> {
        match self.role {
            Role::Node(id) => Some(id),
            Role::Client(_) | Role::Admin(_) => None,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Node(id) => write!(f, "node/{id}"),
            Role::Client(name) => write!(f, "client/{name}"),
            Role::Admin(name) => write!(f, "admin/{name}"),
        }
    }
}

/// A trail id as it is written in names: lower-case hexadecimal digits only, so that each trail has
/// one spelling.
pub fn parse_trail(text: &str) -> Option<TrailId> {
    let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    TrailId::from_slice(&hex::decode(text).ok().filter(|_| lower)?)
}

fn parse_node_id(text: &str) -> Result<u64, NameError> {
    let id = text.parse::<u64>().ok().filter(|id| *id > 0 && id.to_string() == text);
    id.ok_or_else(|| NameError::NodeId(text.to_owned()))
}

fn check_characters(name: &str) -> Result<(), NameError> {
    let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    // "." and ".." are segments that a URI library takes away.
    let dots = matches!(name, "." | "..");
    if name.is_empty() || name.len() > NAME_LENGTH_MAX || !name.bytes().all(good) || dots {
        return Err(NameError::Characters(name.to_owned()));
    }
    Ok(())
}

/// How another certificate authority names nodes: a URI with the node id in it, as
/// `spiffe://prod/indelible/{id}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUri {
    /// What stands before the id.
    before: String,
    /// What stands after it; mostly nothing.
    after: String,
}

impl NodeUri {
    /// The node id in a URI of this form.
    pub fn node_id(&self, uri: &str) -> Option<u64> {
        let id = uri.strip_prefix(&self.before)?.strip_suffix(&self.after)?;
        parse_node_id(id).ok()
    }

    /// The URI of a node, in this form.
    pub fn uri(&self, node_id: u64) -> String {
        format!("{}{node_id}{}", self.before, self.after)
    }
}

impl FromStr for NodeUri {
    type Err = NameError;

    fn from_str(text: &str) -> Result<NodeUri, NameError> {
        let error = || NameError::Template(text.to_owned());
        let (before, after) = text.split_once(PLACEHOLDER).ok_or_else(error)?;
        // A digit beside the id would make two readings of one URI.
        let digit = |c: char| c.is_ascii_digit();
        let beside = before.ends_with(digit) || after.starts_with(digit);
        if !before.contains("://") || after.contains(PLACEHOLDER) || beside || !text.is_ascii() {
            return Err(error());
        }
        Ok(NodeUri { before: before.to_owned(), after: after.to_owned() })
    }
}

impl fmt::Display for NodeUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{PLACEHOLDER}{}", self.before, self.after)
    }
}

/// Which URIs are names here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Naming {
    /// The only trail whose names count. Without one those of every trail do: for clients that
    /// have yet to learn which trail they talk to.
    pub trail: Option<TrailId>,
    /// A second form of nodes' names. Such a name says no trail, so the certificate authority
    /// must not use it for nodes of another one.
    pub node_uri: Option<NodeUri>,
}

impl Naming {
    /// Names of one trail, in this system's own form only.
    pub fn of(trail: TrailId) -> Naming {
        Naming { trail: Some(trail), node_uri: None }
    }

    /// The name that a URI stands for; none if it is something else.
    pub fn name(&self, uri: &str) -> Option<Name> {
        if let Ok(name) = Name::parse(uri) {
            return Some(name);
        }
        let id = self.node_uri.as_ref()?.node_id(uri)?;
        Some(Name { trail: self.trail.unwrap_or_default(), role: Role::Node(id) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAIL: TrailId = TrailId([0xab; 16]);
    const BASE: &str = "spiffe://abababababababababababababababab.indelible";

    #[test]
    fn a_name_reads_back() {
        for role in [Role::Node(7), Role::Client("a.b_c-9".into()), Role::Admin("alice".into())] {
            let name = Name::new(TRAIL, role).unwrap();
            assert_eq!(Name::parse(&name.uri()), Ok(name));
        }
        assert_eq!(Name::new(TRAIL, Role::Node(7)).unwrap().uri(), format!("{BASE}/node/7"));
    }

    #[test]
    fn other_spellings_are_refused() {
        for path in [
            "",
            "/",
            "/node",
            "/node/",
            "/node/0",
            "/node/01",
            "/node/+1",
            "/node/1/",
            "/node/-1",
            "/node/18446744073709551616",
            "/Node/1",
            "/client/",
            "/client/Alice",
            "/client/a b",
            "/client/..",
            "/client/a/b",
            "/admin/a?x",
            "/other/a",
            "/node/1#a",
        ] {
            let uri = format!("{BASE}{path}");
            assert!(Name::parse(&uri).is_err(), "{uri}");
        }
        for uri in [
            "spiffe://ABABABABABABABABABABABABABABABAB.indelible/node/1",
            "spiffe://abababababababababababababababab/node/1",
            "spiffe://abababababababababababababababab.indelible.example/node/1",
            "spiffe://ababab.indelible/node/1",
            "https://abababababababababababababababab.indelible/node/1",
            " spiffe://abababababababababababababababab.indelible/node/1",
        ] {
            assert!(Name::parse(uri).is_err(), "{uri}");
        }
        let long = "a".repeat(NAME_LENGTH_MAX + 1);
        assert!(Name::new(TRAIL, Role::Client(long)).is_err());
    }

    #[test]
    fn a_template_finds_the_node_id_and_nothing_else() {
        let template: NodeUri = "spiffe://prod/indelible/{id}/log".parse().unwrap();
        assert_eq!(template.node_id("spiffe://prod/indelible/12/log"), Some(12));
        for uri in ["spiffe://prod/indelible/12", "spiffe://prod/indelible/012/log", "12"] {
            assert_eq!(template.node_id(uri), None, "{uri}");
        }
        for text in ["spiffe://prod/1", "{id}", "x://{id}{id}", "x://a1{id}", "x://{id}/\u{e9}"] {
            assert!(text.parse::<NodeUri>().is_err(), "{text}");
        }
        assert_eq!(template.to_string(), "spiffe://prod/indelible/{id}/log");
    }
}
