//! Whose signatures make a checkpoint believable
//! ([c2sp.org/tlog-policy](https://c2sp.org/tlog-policy)).
//!
//! A policy names the keys of a log, those of cosigners (nodes of the group and witnesses outside
//! it; C2SP calls all of them witnesses), and a quorum: a group of which enough members must have
//! signed. It is a file that travels to verifiers out of band; all trust begins here.
//!
//! Groups name only what stands before them, and every name is a member of one group at most. So
//! there are no cycles, and no signature counts twice.

mod error;
mod nodes;
mod syntax;

use crate::limits::{NOTE_SIGNATURES_MAX, POLICY_NAMES_MAX};
use crate::{Checkpoint, KeyType, Note, NoteSignature, VerifierKey};

pub use error::{NodesError, PolicyError, PolicyFault, PolicySyntaxError};

/// Name of the group that [`Policy::majority`] makes of the nodes.
const NODES: &str = "nodes";
/// Name of the group that [`Policy::with_witnesses`] makes of the witnesses.
const WITNESSES: &str = "witnesses";
/// Name of the group of both.
const NODES_AND_WITNESSES: &str = "nodes-and-witnesses";
/// The quorum that asks for no cosignature.
const NONE: &str = "none";

/// Whose signatures count, and how many are enough. Well-formed by construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// At least one; all have the same name, which is the trail's origin.
    logs: Vec<Log>,
    /// Witnesses and groups, in the order in which they were defined.
    names: Vec<Name>,
    /// Position in `names`; `None` if no cosignature is asked for.
    quorum: Option<usize>,
}

/// A log that a policy names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Its key, of type 0x01.
    pub key: VerifierKey,
    /// Where it is reached.
    pub url: Option<String>,
}

/// A cosigner that a policy names: a node of the group, or a witness outside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// What the policy calls it; need not be the key's name.
    pub name: String,
    /// Its key, of type 0x04.
    pub key: VerifierKey,
    /// Where it takes checkpoints.
    pub url: Option<String>,
}

/// What a quorum is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Witness(Witness),
    Group {
        name: String,
        /// Members that must have signed: at least 1, at most all.
        threshold: usize,
        /// Positions in the policy's names, all before this one.
        members: Vec<usize>,
    },
}

impl Name {
    fn name(&self) -> &str {
        match self {
            Name::Witness(witness) => &witness.name,
            Name::Group { name, .. } => name,
        }
    }
}

/// A checkpoint that a policy believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// The newest time, in Unix seconds, at or after which a whole quorum had signed: as fresh as
    /// the checkpoint is, by clocks of which a quorum would have to be wrong. 0 if the policy asks
    /// for no cosignature, since a log's own signature says no time.
    pub unix_s: u64,
    /// Names of the keys whose signatures were verified, in the order of the note, each once.
    pub signers: Vec<String>,
}

impl Policy {
    /// What `indelible init` writes: the log, and a majority of the nodes.
    pub fn majority(log: VerifierKey, nodes: Vec<VerifierKey>) -> Result<Policy, PolicyFault> {
        let threshold = nodes.len() / 2 + 1;
        let nodes = nodes.into_iter().map(|key| Witness { name: key.name.clone(), key, url: None });
        let mut builder = Builder::default();
        builder.log(log, None)?;
        builder.group_of(NODES, threshold, nodes)?;
        builder.quorum(NODES)?;
        builder.finish()
    }

    /// The same policy, which also asks for the cosignatures of `threshold` of these witnesses.
    /// Refuses a policy that asks for none, or that already has groups of these names.
    pub fn with_witnesses(
        self,
        witnesses: Vec<Witness>,
        threshold: usize,
    ) -> Result<Policy, PolicyFault> {
        let quorum = self.quorum.map_or(NONE, |position| self.names[position].name()).to_owned();
        let mut builder = Builder { logs: self.logs, names: self.names, quorum: None };
        builder.group_of(WITNESSES, threshold, witnesses)?;
        builder.group(NODES_AND_WITNESSES, Threshold::All, &[&quorum, WITNESSES])?;
        builder.quorum(NODES_AND_WITNESSES)?;
        builder.finish()
    }

    /// Name of the trail: that of all its log keys.
    pub fn origin(&self) -> &str {
        &self.logs[0].key.name
    }

    /// The keys that sign as the log; at least one.
    pub fn logs(&self) -> &[Log] {
        &self.logs
    }

    /// Every cosigner that the policy names, nodes and witnesses, in order.
    pub fn witnesses(&self) -> impl Iterator<Item = &Witness> {
        self.names.iter().filter_map(|name| match name {
            Name::Witness(witness) => Some(witness),
            Name::Group { .. } => None,
        })
    }

    /// The key of a node of the group, if the policy names it.
    pub fn node_key(&self, node_id: u64) -> Option<&VerifierKey> {
        let name = crate::node_key_name(self.origin(), node_id);
        self.witnesses().map(|witness| &witness.key).find(|key| key.name == name)
    }

    /// Believes a note, or says why not: its text must be a checkpoint of this trail, signed by the
    /// log, and cosigned by a quorum. Signatures of keys that the policy does not name are
    /// skipped; one of a key that it does name must be right, and counts once.
    pub fn check(&self, note: &Note) -> Result<Trusted, PolicyError> {
        let checkpoint = Checkpoint::parse(&note.text)?;
        if checkpoint.origin != self.origin() {
            let (expected, actual) = (self.origin().to_owned(), checkpoint.origin);
            return Err(PolicyError::Origin { expected, actual });
        }
        let mut signers: Vec<String> = Vec::new();
        let mut log_has_signed = false;
        // When each witness says that it signed; groups are filled in afterwards.
        let mut times: Vec<Option<u64>> = vec![None; self.names.len()];
        for signature in &note.signatures {
            let Some((key, position)) = self.key_of(signature) else { continue };
            let signed = key.verify(&note.text, signature).map_err(|source| {
                PolicyError::Signature { name: signature.name.clone(), source }
            })?;
            match position {
                None => log_has_signed = true,
                Some(position) => times[position] = times[position].max(signed.unix_s),
            }
            if !signers.contains(&key.name) {
                signers.push(key.name.clone());
            }
        }
        if !log_has_signed {
            return Err(PolicyError::NoLogSignature { origin: checkpoint.origin });
        }
        let unix_s = self.quorum_time(&mut times).ok_or_else(|| self.not_enough(&times))?;
        Ok(Trusted { checkpoint, unix_s, signers })
    }

    /// The key that a signature says it is by, and its position if it is a cosigner's.
    fn key_of(&self, signature: &NoteSignature) -> Option<(&VerifierKey, Option<usize>)> {
        let logs = self.logs.iter().map(|log| (&log.key, None));
        let witnesses = self.names.iter().enumerate().filter_map(|(position, name)| match name {
            Name::Witness(witness) => Some((&witness.key, Some(position))),
            Name::Group { .. } => None,
        });
        logs.chain(witnesses).find(|(key, _)| key.is_named_by(signature))
    }

    /// The newest time at or after which the quorum had signed. Fills in the times of groups: that
    /// of a group of `k` is the k-th newest of its members.
    fn quorum_time(&self, times: &mut [Option<u64>]) -> Option<u64> {
        for (position, name) in self.names.iter().enumerate() {
            if let Name::Group { threshold, members, .. } = name {
                let mut signed: Vec<u64> = members.iter().filter_map(|m| times[*m]).collect();
                signed.sort_unstable_by(|a, b| b.cmp(a));
                times[position] = signed.get(threshold - 1).copied();
            }
        }
        self.quorum.map_or(Some(0), |quorum| times[quorum])
    }

    /// Says what is there and what is missing.
    fn not_enough(&self, times: &[Option<u64>]) -> PolicyError {
        let quorum = self.quorum.map_or(NONE, |position| self.names[position].name()).to_owned();
        let (mut signed, mut missing) = (Vec::new(), Vec::new());
        for (name, time) in self.names.iter().zip(times) {
            if let Name::Witness(witness) = name {
                let list = if time.is_some() { &mut signed } else { &mut missing };
                list.push(witness.name.clone());
            }
        }
        PolicyError::Quorum { quorum, signed, missing }
    }
}

/// How many members of a group must have signed.
#[derive(Clone, Copy)]
enum Threshold {
    Any,
    All,
    Number(u64),
}

/// A policy under construction; checks every rule that does not need the whole.
#[derive(Default)]
struct Builder {
    logs: Vec<Log>,
    names: Vec<Name>,
    /// Set by the quorum line; the inner one is `None` for "none".
    quorum: Option<Option<usize>>,
}

impl Builder {
    fn log(&mut self, key: VerifierKey, url: Option<String>) -> Result<(), PolicyFault> {
        url.iter().try_for_each(|url| check_word(url))?;
        self.check_key(&key, KeyType::Log)?;
        if let Some(log) = self.logs.first().filter(|log| log.key.name != key.name) {
            let (first, second) = (log.key.name.clone(), key.name);
            return Err(PolicyFault::TwoOrigins { first, second });
        }
        self.logs.push(Log { key, url });
        Ok(())
    }

    fn witness(&mut self, witness: Witness) -> Result<(), PolicyFault> {
        witness.url.iter().try_for_each(|url| check_word(url))?;
        self.check_new(&witness.name)?;
        self.check_key(&witness.key, KeyType::Cosigner)?;
        self.names.push(Name::Witness(witness));
        Ok(())
    }

    fn group(
        &mut self,
        name: &str,
        threshold: Threshold,
        members: &[&str],
    ) -> Result<(), PolicyFault> {
        self.check_new(name)?;
        let members =
            members.iter().map(|name| self.position(name)).collect::<Result<Vec<_>, _>>()?;
        for (n, member) in members.iter().enumerate() {
            if self.is_member(*member) || members[..n].contains(member) {
                let name = self.names[*member].name().to_owned();
                return Err(PolicyFault::MemberTwice { name });
            }
        }
        let count = members.len();
        let threshold = match threshold {
            Threshold::Any => 1,
            Threshold::All => count,
            Threshold::Number(number) => usize::try_from(number).unwrap_or(usize::MAX),
        };
        if !(1..=count).contains(&threshold) {
            return Err(PolicyFault::Threshold { name: name.to_owned(), threshold, count });
        }
        self.names.push(Name::Group { name: name.to_owned(), threshold, members });
        Ok(())
    }

    /// Witnesses, and the group of them.
    fn group_of(
        &mut self,
        name: &str,
        threshold: usize,
        witnesses: impl IntoIterator<Item = Witness>,
    ) -> Result<(), PolicyFault> {
        let first = self.names.len();
        witnesses.into_iter().try_for_each(|witness| self.witness(witness))?;
        let members: Vec<String> =
            self.names[first..].iter().map(|name| name.name().to_owned()).collect();
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        self.group(name, Threshold::Number(threshold as u64), &members)
    }

    fn quorum(&mut self, name: &str) -> Result<(), PolicyFault> {
        if self.quorum.is_some() {
            return Err(PolicyFault::TwoQuorums);
        }
        self.quorum = Some(if name == NONE { None } else { Some(self.position(name)?) });
        Ok(())
    }

    fn finish(self) -> Result<Policy, PolicyFault> {
        if self.logs.is_empty() {
            return Err(PolicyFault::NoLog);
        }
        let quorum = self.quorum.ok_or(PolicyFault::NoQuorum)?;
        let policy = Policy { logs: self.logs, names: self.names, quorum };
        // One more is the log's.
        let needed = policy.signatures_needed() + 1;
        if needed > NOTE_SIGNATURES_MAX {
            return Err(PolicyFault::TooManySignatures { needed });
        }
        Ok(policy)
    }

    /// A key that is one, of its type, and that no line before has.
    fn check_key(&self, key: &VerifierKey, expected: KeyType) -> Result<(), PolicyFault> {
        self.check_room()?;
        VerifierKey::new(key.name.as_str(), key.key_type, key.public_key)?;
        check_word(&key.name)?;
        if key.key_type != expected {
            return Err(PolicyFault::KeyType { name: key.name.clone(), expected: expected.name() });
        }
        let witnesses = self.names.iter().filter_map(|name| match name {
            Name::Witness(witness) => Some(&witness.key),
            Name::Group { .. } => None,
        });
        // A second key that a note cannot tell from the first is as bad as the same one again.
        let same = |other: &VerifierKey| {
            let alike = other.name == key.name && other.key_id() == key.key_id();
            other.public_key == key.public_key || alike
        };
        match self.logs.iter().map(|log| &log.key).chain(witnesses).find(|other| same(other)) {
            Some(other) => {
                let (first, second) = (other.name.clone(), key.name.clone());
                Err(PolicyFault::KeyTwice { first, second })
            }
            None => Ok(()),
        }
    }

    /// A name that can be given to something new.
    fn check_new(&self, name: &str) -> Result<(), PolicyFault> {
        self.check_room()?;
        check_word(name)?;
        if name == NONE || self.names.iter().any(|other| other.name() == name) {
            return Err(PolicyFault::NameTaken { name: name.to_owned() });
        }
        Ok(())
    }

    fn check_room(&self) -> Result<(), PolicyFault> {
        let full = self.logs.len() + self.names.len() >= POLICY_NAMES_MAX;
        if full { Err(PolicyFault::TooManyNames) } else { Ok(()) }
    }

    fn position(&self, name: &str) -> Result<usize, PolicyFault> {
        let unknown = || PolicyFault::UnknownName { name: name.to_owned() };
        self.names.iter().position(|other| other.name() == name).ok_or_else(unknown)
    }

    fn is_member(&self, position: usize) -> bool {
        self.names.iter().any(|name| match name {
            Name::Witness(_) => false,
            Name::Group { members, .. } => members.contains(&position),
        })
    }
}

/// What stands between spaces in a policy file.
fn check_word(word: &str) -> Result<(), PolicyFault> {
    let bad = |c: char| c <= ' ' || c == '\u{7f}';
    if word.is_empty() || word.contains(bad) {
        return Err(PolicyFault::Word { word: word.to_owned() });
    }
    Ok(())
}

impl Policy {
    /// Fewest cosignatures that make a quorum.
    fn signatures_needed(&self) -> usize {
        let mut needed: Vec<usize> = Vec::with_capacity(self.names.len());
        for name in &self.names {
            needed.push(match name {
                Name::Witness(_) => 1,
                Name::Group { threshold, members, .. } => {
                    let mut costs: Vec<usize> = members.iter().map(|m| needed[*m]).collect();
                    costs.sort_unstable();
                    costs[..*threshold].iter().sum()
                }
            });
        }
        self.quorum.map_or(0, |quorum| needed[quorum])
    }
}
