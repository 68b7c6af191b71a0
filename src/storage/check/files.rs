//! The small files: identity, genesis, hard state, the markers and the notes.

use indelible_core::TrailId;

use super::{Problem, Problems};
use crate::disk::{Dir, DiskError, SLOT_FILE_SIZE, SLOT_STRIDE, SlotKind};
use crate::storage::hard_state::{HARD_STATE_FILE, HARD_STATE_SLOTS, HardStateFile};
use crate::storage::identity::{GENESIS_FILE, Genesis, IDENTITY_FILE, Identity, IdentityError};
use crate::storage::ledger::{DERIVED_DIR, sums};
use crate::storage::lineage::LINEAGE_FILES;
use crate::storage::notes::{self, NOTES_FILE};
use crate::storage::recovery::OpenError;
use crate::storage::signed::SIGNED_SLOTS;
use crate::storage::start;
use crate::storage::synced::{SYNCED_FILE, SYNCED_SLOTS, Synced, SyncedFile};

/// What the rest of the check needs to know.
#[derive(Debug)]
pub(super) struct Files {
    /// None if the identity cannot be read: then only the segments say which trail they are of.
    pub(super) identity: Option<Identity>,
    pub(super) synced: Synced,
    /// Whether the node was closed: there is a manifest, sound or not.
    pub(super) closed: bool,
}

impl Files {
    pub(super) fn trail_id(&self) -> Option<TrailId> {
        self.identity.as_ref().map(|identity| identity.trail_id)
    }
}

pub(super) fn check(data: &Dir, problems: &mut Problems) -> Result<Files, DiskError> {
    let identity = match Identity::read(data.path()) {
        Ok(identity) => Some(identity),
        Err(IdentityError::Disk(error)) => return Err(error),
        Err(error) => {
            problems.push(Problem::new(data.path().join(IDENTITY_FILE), error));
            None
        }
    };
    check_genesis(data, identity.as_ref(), problems)?;
    let started = data.exists(HARD_STATE_FILE)? || data.exists(SYNCED_FILE)?;
    let mut synced = Synced::EMPTY;
    // A directory that `init` made and no node has started on has neither.
    if started {
        if let Err(error) = HardStateFile::open(data) {
            problems.push(Problem::new(data.path().join(HARD_STATE_FILE), error));
        }
        if let Some(identity) = &identity {
            check_boots(data, identity, problems)?;
        }
        match SyncedFile::read(data) {
            Ok(value) => synced = value,
            Err(error) => problems.push(Problem::new(data.path().join(SYNCED_FILE), error)),
        }
        check_slots(data, HARD_STATE_SLOTS, problems)?;
        check_slots(data, SYNCED_SLOTS, problems)?;
        check_slots(data, SIGNED_SLOTS, problems)?;
        check_notes(data, problems)?;
    }
    let closed = data.exists(&format!("{DERIVED_DIR}/{}", sums::SUMS_FILE))?;
    Ok(Files { identity, synced, closed })
}

fn check_genesis(
    data: &Dir,
    identity: Option<&Identity>,
    problems: &mut Problems,
) -> Result<(), DiskError> {
    let path = data.path().join(GENESIS_FILE);
    match (Genesis::read(data.path()), identity) {
        (Ok(Some(genesis)), Some(identity)) if genesis.trail_id != identity.trail_id => {
            problems.push(Problem::new(path, "it is of another trail than the identity"));
        }
        (Ok(_), _) => {}
        (Err(IdentityError::Disk(error)), _) => return Err(error),
        (Err(error), _) => problems.push(Problem::new(path, error)),
    }
    Ok(())
}

/// The boots: files of one age, and two copies that are the same.
fn check_boots(data: &Dir, identity: &Identity, problems: &mut Problems) -> Result<(), DiskError> {
    let path = data.path().join(LINEAGE_FILES[0]);
    match start::check(data, start::root_of(identity)) {
        Ok(checked) if checked.is_whole() => {}
        Ok(_) => {
            let what = "it is not as the boots say, or its copy is not: a start makes it anew";
            problems.push(Problem::new(path, what));
        }
        Err(OpenError::Disk(error)) => return Err(error),
        // Said already.
        Err(OpenError::NoHardState { .. }) => {}
        Err(error) => problems.push(Problem::new(path, error)),
    }
    Ok(())
}

fn check_notes(data: &Dir, problems: &mut Problems) -> Result<(), DiskError> {
    let path = data.path().join(NOTES_FILE);
    match data.read_file(NOTES_FILE)? {
        None => problems.push(Problem::new(path, "it does not exist")),
        Some(bytes) => {
            if let Some((offset, what)) = notes::check(&bytes) {
                problems.push(Problem::new(path, what).at(offset as u64));
            }
        }
    }
    Ok(())
}

/// Both slots must be whole, though one is enough for a start: the other is what would be missing
/// next.
fn check_slots(data: &Dir, kind: SlotKind, problems: &mut Problems) -> Result<(), DiskError> {
    let path = data.path().join(kind.name);
    let Some(bytes) = data.read_file(kind.name)? else {
        problems.push(Problem::new(path, "it does not exist"));
        return Ok(());
    };
    if bytes.len() != SLOT_FILE_SIZE {
        let what = format!("{} bytes, the format has {SLOT_FILE_SIZE}", bytes.len());
        problems.push(Problem::new(path, what));
        return Ok(());
    }
    for start in (0..SLOT_FILE_SIZE).step_by(SLOT_STRIDE) {
        let (slot, rest) = bytes[start..start + SLOT_STRIDE].split_at(kind.slot_size);
        let (covered, crc) = slot.split_at(kind.slot_size - 4);
        if crc != crc32c::crc32c(covered).to_le_bytes() {
            problems.push(Problem::new(&path, "the slot is damaged").at(start as u64));
        }
        if let Some(position) = rest.iter().position(|byte| *byte != 0) {
            let offset = (start + kind.slot_size + position) as u64;
            problems
                .push(Problem::new(&path, "bytes outside of the slots are not zero").at(offset));
        }
    }
    Ok(())
}
