//! Who this node is, and with whom the trail began: two files that are written once
//! (docs/FORMAT.md, "Identity", "Genesis").

use std::fmt;
use std::path::{Path, PathBuf};

use indelible_core::TrailId;
use indelible_core::limits::{MEMBERS_MAX, NAME_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use zeroize::Zeroizing;

use super::fields::Fields;
use crate::disk::{Dir, DiskError, read_secret};

/// Name of the identity file; only its owner may read it.
pub const IDENTITY_FILE: &str = "identity";
/// Name of the genesis file: the same bytes on every initial node, absent on nodes that were added
/// later.
pub const GENESIS_FILE: &str = "genesis";

const IDENTITY_MAGIC: [u8; 8] = *b"INDIDENT";
const GENESIS_MAGIC: [u8; 8] = *b"INDGENES";
const VERSION: u32 = 1;

/// Who this node is. Made by `indelible init` or `indelible node-key`, never changed.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its id; never used for another node, not even after this one is gone.
    pub node_id: u64,
    /// The trail that it belongs to.
    pub trail_id: TrailId,
    /// Name of the trail in checkpoints.
    pub origin: String,
    /// Size in bytes that closes a segment; the same on all nodes.
    pub segment_bytes: u64,
    /// Ed25519 seed of the node's key.
    pub secret_key: Zeroizing<[u8; 32]>,
    /// Its public half.
    pub public_key: [u8; 32],
}

impl fmt::Debug for Identity {
    /// Without the secret key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("node_id", &self.node_id)
            .field("trail_id", &self.trail_id)
            .field("origin", &self.origin)
            .field("segment_bytes", &self.segment_bytes)
            .field("public_key", &hex::encode(self.public_key))
            .finish_non_exhaustive()
    }
}

/// One of the initial voters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenesisNode {
    /// Its id.
    pub id: u64,
    /// Where clients reach it.
    pub client_addr: String,
    /// Where other nodes reach it.
    pub raft_addr: String,
    /// Where it serves HTTP.
    pub http_addr: String,
    /// Its public key.
    pub public_key: [u8; 32],
}

/// The initial voters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// The trail that they began.
    pub trail_id: TrailId,
    /// In order of id.
    pub nodes: Vec<GenesisNode>,
}

/// Why identity or genesis could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no such file.
    #[error(
        "{} does not exist; hint: `indelible init` makes the first nodes of a trail, \
         `indelible node-key` a later one",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what was written.
    #[error(
        "{} is damaged: {what}; hint: restore it from a backup, or join as a new node",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file exists already, or could not be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Identity {
    /// Writes the file durably, readable by its owner only; refuses to replace one.
    pub fn write_new(dir: &Path, identity: &Identity) -> Result<(), IdentityError> {
        assert!(identity.origin.len() <= NAME_BYTES_MAX, "the origin is too long");
        let mut out = header(IDENTITY_MAGIC, &identity.trail_id);
        out.extend_from_slice(&identity.node_id.to_le_bytes());
        out.extend_from_slice(&identity.segment_bytes.to_le_bytes());
        out.extend_from_slice(&identity.secret_key[..]);
        out.extend_from_slice(&identity.public_key);
        put_string(&mut out, &identity.origin);
        // Crash before the return: there is no identity, and `init` starts over. After: there is
        // one, whole.
        Ok(Dir::open(dir, true)?.write_new(IDENTITY_FILE, 0o600, &finish(out))?)
    }

    /// Reads the file.
    pub fn read(dir: &Path) -> Result<Identity, IdentityError> {
        let path = dir.join(IDENTITY_FILE);
        if !Dir::open(dir, true)?.exists(IDENTITY_FILE)? {
            return Err(IdentityError::Missing { path });
        }
        let bytes = Zeroizing::new(read_secret(&path)?);
        let damaged = |what| IdentityError::Damaged { path: path.clone(), what };
        let (trail_id, mut fields) = open(IDENTITY_MAGIC, &bytes).map_err(damaged)?;
        let mut read = || -> Option<Identity> {
            Some(Identity {
                trail_id,
                node_id: fields.u64()?,
                segment_bytes: fields.u64()?,
                secret_key: Zeroizing::new(fields.array()?),
                public_key: fields.array()?,
                origin: string(&mut fields)?,
            })
        };
        let identity = read().ok_or_else(|| damaged("a field is cut off"))?;
        end(&fields).map_err(damaged)?;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&identity.segment_bytes) {
            return Err(damaged("its segment size is out of range"));
        }
        Ok(identity)
    }
}

impl Genesis {
    /// Writes the file durably; refuses to replace one.
    pub fn write_new(dir: &Path, genesis: &Genesis) -> Result<(), IdentityError> {
        assert!(genesis.nodes.len() <= MEMBERS_MAX, "too many initial nodes");
        assert!(genesis.nodes.is_sorted_by_key(|node| node.id), "nodes are in order of id");
        let mut out = header(GENESIS_MAGIC, &genesis.trail_id);
        out.extend_from_slice(&(genesis.nodes.len() as u32).to_le_bytes());
        for node in &genesis.nodes {
            out.extend_from_slice(&node.id.to_le_bytes());
            out.extend_from_slice(&node.public_key);
            put_string(&mut out, &node.client_addr);
            put_string(&mut out, &node.raft_addr);
            put_string(&mut out, &node.http_addr);
        }
        // Crash before the return: there is no genesis, and `init` starts over. After: there is
        // one, whole.
        Ok(Dir::open(dir, true)?.write_new(GENESIS_FILE, 0o600, &finish(out))?)
    }

    /// Reads the file; none on a node that was added later.
    pub fn read(dir: &Path) -> Result<Option<Genesis>, IdentityError> {
        let Some(bytes) = Dir::open(dir, true)?.read_file(GENESIS_FILE)? else { return Ok(None) };
        let damaged = |what| IdentityError::Damaged { path: dir.join(GENESIS_FILE), what };
        let (trail_id, mut fields) = open(GENESIS_MAGIC, &bytes).map_err(damaged)?;
        let mut read = || -> Option<Genesis> {
            let count = fields.u32()?;
            let nodes = (0..count).map(|_| genesis_node(&mut fields)).collect::<Option<_>>()?;
            Some(Genesis { trail_id, nodes })
        };
        let genesis = read().ok_or_else(|| damaged("a field is cut off"))?;
        end(&fields).map_err(damaged)?;
        Ok(Some(genesis))
    }
}

fn genesis_node(fields: &mut Fields<'_>) -> Option<GenesisNode> {
    Some(GenesisNode {
        id: fields.u64()?,
        public_key: fields.array()?,
        client_addr: string(fields)?,
        raft_addr: string(fields)?,
        http_addr: string(fields)?,
    })
}

fn header(magic: [u8; 8], trail_id: &TrailId) -> Vec<u8> {
    let mut out = magic.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&trail_id.0);
    out
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    let size = u16::try_from(text.len()).expect("names are far shorter than 64 KiB");
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn finish(mut out: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Checks magic, version and checksum; returns the trail id and the fields that follow it.
fn open(magic: [u8; 8], bytes: &[u8]) -> Result<(TrailId, Fields<'_>), &'static str> {
    let (covered, crc) = bytes.split_last_chunk::<4>().ok_or("it is too short")?;
    if !covered.starts_with(&magic) {
        return Err("it does not start with its magic");
    }
    if crc32c::crc32c(covered) != u32::from_le_bytes(*crc) {
        return Err("its checksum does not match");
    }
    let mut fields = Fields(&covered[magic.len()..]);
    if fields.u32() != Some(VERSION) {
        return Err("its version is unknown");
    }
    let trail_id = fields.array().map(TrailId).ok_or("it is too short")?;
    Ok((trail_id, fields))
}

fn string(fields: &mut Fields<'_>) -> Option<String> {
    let size = fields.u16()?;
    String::from_utf8(fields.bytes(size.into())?.to_vec()).ok()
}

fn end(fields: &Fields<'_>) -> Result<(), &'static str> {
    if fields.0.is_empty() { Ok(()) } else { Err("bytes follow the last field") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            node_id: 3,
            trail_id: TrailId([5; 16]),
            origin: "audit.example/trail".into(),
            segment_bytes: 1 << 20,
            secret_key: [1; 32].into(),
            public_key: [2; 32],
        }
    }

    fn genesis() -> Genesis {
        let node = |id: u64| GenesisNode {
            id,
            client_addr: format!("10.0.0.{id}:7100"),
            raft_addr: format!("10.0.0.{id}:7200"),
            http_addr: String::new(),
            public_key: [id as u8; 32],
        };
        Genesis { trail_id: TrailId([5; 16]), nodes: (1..=3).map(node).collect() }
    }

    #[test]
    fn both_files_are_read_back_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Identity::read(dir.path()), Err(IdentityError::Missing { .. })));
        assert_eq!(Genesis::read(dir.path()).unwrap(), None);
        Identity::write_new(dir.path(), &identity()).unwrap();
        Genesis::write_new(dir.path(), &genesis()).unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), identity());
        assert_eq!(Genesis::read(dir.path()).unwrap(), Some(genesis()));
        let other = Identity { node_id: 4, ..identity() };
        assert!(matches!(Identity::write_new(dir.path(), &other), Err(IdentityError::Disk(_))));
        assert!(Genesis::write_new(dir.path(), &genesis()).is_err());
        assert_eq!(Identity::read(dir.path()).unwrap(), identity());
    }

    #[test]
    fn only_the_owner_may_read_the_key() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Identity::write_new(dir.path(), &identity()).unwrap();
        let mode = dir.path().join(IDENTITY_FILE).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{:?}", identity()).contains("secret"));
    }

    #[test]
    fn every_flipped_or_missing_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        Identity::write_new(dir.path(), &identity()).unwrap();
        Genesis::write_new(dir.path(), &genesis()).unwrap();
        for name in [IDENTITY_FILE, GENESIS_FILE] {
            let path = dir.path().join(name);
            let bytes = std::fs::read(&path).unwrap();
            let is_damaged = || match name {
                IDENTITY_FILE => Identity::read(dir.path()).is_err(),
                _ => Genesis::read(dir.path()).is_err(),
            };
            for position in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[position] ^= 0x10;
                std::fs::write(&path, flipped).unwrap();
                assert!(is_damaged(), "{name} {position}");
                std::fs::write(&path, &bytes[..position]).unwrap();
                assert!(is_damaged(), "{name} cut at {position}");
            }
            std::fs::write(&path, bytes).unwrap();
            assert!(!is_damaged());
        }
    }
}
