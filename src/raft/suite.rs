//! openraft's own storage suite, run against [`LogStore`] on real files.
//!
//! Left out, each by name:
//!
//! * `purge_logs_upto_0`, `purge_logs_upto_5`, `purge_logs_upto_20`, `append_to_log`,
//!   `get_initial_state_log_ids`, `get_initial_state_membership_from_empty_log_and_sm`,
//!   `get_initial_state_membership_from_sm_inlog_is_smaller`,
//!   `get_initial_state_membership_from_log_insm_is_smaller`,
//!   `get_initial_state_re_apply_committed`, `get_log_id`, `get_log_state`, `last_id_in_log`,
//!   `try_get_log_entry`: they purge, and nothing is ever purged here. What else they look at is
//!   repeated below: `log_state_follows_appends`, `key_log_ids_are_the_last_of_each_leader`.
//! * `get_initial_state_last_log_lt_sm`: a state machine ahead of the log makes openraft purge up
//!   to it; ours cannot be ahead, since it applies only what is durable here.
//! * `snapshot_meta`, `snapshot_meta_optional`, `transfer_snapshot`: there are no snapshots.
//!
//! The suite applies entries that were never appended, with gaps between them. The ledger refuses
//! to know such a trail, so the suite gets a state machine in memory; the ledger has tests of its
//! own. Its first append may be at any index, which a log allows only with `first_index_any`.

use std::io;

use futures_util::{Stream, TryStreamExt};
use indelible_core::TrailId;
use indelible_core::limits::SEGMENT_BYTES_MIN;
use indelible_lineage::{Boot, Draw};
use openraft::StorageError as RaftStorageError;
use openraft::StoredMembership;
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::{RaftEntry, RaftPayload};
use openraft::storage::{
    EntryResponder, RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftStateMachine,
};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;

use super::log_store::LogStore;
use super::state_machine::NoSnapshot;
use super::types::{Entry, LogId, Payload, TypeConfig, entry_id, log_id};
use crate::storage::ledger::Applied;
use crate::storage::log::{Log, LogOptions, SyncPolicy};
use crate::storage::start::NewBoot;

/// Remembers only what openraft asks for.
#[derive(Default)]
struct MemoryStateMachine {
    applied: Option<LogId>,
    membership: StoredMembershipOf<TypeConfig>,
}

impl RaftStateMachine<TypeConfig> for MemoryStateMachine {
    type SnapshotData = ();
    type SnapshotBuilder = NoSnapshot;

    async fn applied_state(
        &mut self,
    ) -> io::Result<(Option<LogId>, StoredMembershipOf<TypeConfig>)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied = Some(entry.log_id());
            if let Some(membership) = entry.get_membership() {
                self.membership = StoredMembership::new(Some(entry.log_id()), membership);
            }
            if let Some(responder) = responder {
                let id = entry_id(&entry.log_id());
                responder.send(Applied { id, first_leaf: 0, accepted: 0, rejected: Vec::new() });
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<NoSnapshot> {
        None
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshot {
        NoSnapshot
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TypeConfig>,
        _snapshot: (),
    ) -> io::Result<()> {
        Err(io::Error::other("no snapshots"))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, ()>>> {
        Ok(None)
    }
}

struct Builder;

fn open(dir: &std::path::Path) -> LogStore {
    let options = LogOptions {
        segment_bytes: SEGMENT_BYTES_MIN,
        trail_id: TrailId::default(),
        cache_bytes_max: 1 << 20,
        boot: NewBoot { root: Boot::root(&[7; 16], 1, &[1; 32]), draw: Draw([1; 16]) },
        first_index_any: true,
        sync: SyncPolicy::Never,
    };
    let (log, _recovered) = Log::open(dir, options).expect("an empty folder opens");
    LogStore::new(log)
}

impl StoreBuilder<TypeConfig, LogStore, MemoryStateMachine, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, MemoryStateMachine), RaftStorageError<TypeConfig>>
    {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = open(dir.path());
        Ok((dir, store, MemoryStateMachine::default()))
    }
}

type LogSuite = Suite<TypeConfig, LogStore, MemoryStateMachine, Builder, tempfile::TempDir>;

macro_rules! suite {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            TypeConfig::run(async {
                let (_dir, store, state_machine) = Builder.build().await.expect("a store");
                LogSuite::$name(store, state_machine).await.expect("the suite's test passes");
            });
        }
    )*};
}

suite! {
    last_membership_in_log_initial
    last_membership_in_log
    last_membership_in_log_multi_step
    get_membership_initial
    get_membership_from_log_and_empty_sm
    get_membership_from_empty_log_and_sm
    get_membership_from_log_le_sm_last_applied
    get_membership_from_log_gt_sm_last_applied_1
    get_membership_from_log_gt_sm_last_applied_2
    get_initial_state_without_init
    get_initial_state_with_state
    get_initial_state_last_log_gt_sm
    get_initial_state_inverted_log_order
    get_initial_state_conflict_at_same_index
    save_vote
    get_log_entries
    limited_get_log_entries
    leader_bounded_stream
    entries_stream
    log_reader_reads_new_entries
    initial_logs
    last_applied_state
    delete_logs_after_11
    delete_logs_after_5
    delete_logs_after_0
    delete_logs_after_none
    apply_single
    apply_multiple
}

fn blank(index: u64) -> Entry {
    let id = indelible_core::EntryId { index, term: 1, leader: 1 };
    Entry::new(log_id(id), Payload::blank())
}

#[test]
fn log_state_follows_appends() {
    TypeConfig::run(async {
        let (_dir, mut store, _) = Builder.build().await.expect("a store");
        let empty = store.get_log_state().await.expect("a state");
        assert_eq!((empty.last_purged_log_id, empty.last_log_id), (None, None));
        store.blocking_append([blank(0), blank(1), blank(2)]).await.expect("appended");
        let state = store.get_log_state().await.expect("a state");
        assert_eq!(state.last_log_id, Some(blank(2).log_id()));
    });
}

#[test]
fn key_log_ids_are_the_last_of_each_leader() {
    TypeConfig::run(async {
        let (_dir, mut store, _) = Builder.build().await.expect("a store");
        let terms = [1, 1, 2, 2, 2, 5];
        let entry = |(index, term)| {
            let id = indelible_core::EntryId { index, term, leader: 1 };
            Entry::new(log_id(id), Payload::blank())
        };
        let entries: Vec<Entry> = (0..).zip(terms).map(entry).collect();
        let ids: Vec<LogId> = entries.iter().map(|entry| entry.log_id()).collect();
        store.blocking_append(entries).await.expect("appended");
        let keys = store.get_key_log_ids(ids[0]..=ids[5]).await.expect("read");
        assert_eq!(keys, [ids[1], ids[4], ids[5]]);
        let keys = store.get_key_log_ids(ids[2]..=ids[3]).await.expect("read");
        assert_eq!(keys, [ids[3]]);
    });
}

#[test]
fn a_purge_is_refused_and_changes_nothing() {
    TypeConfig::run(async {
        let (_dir, mut store, _) = Builder.build().await.expect("a store");
        store.blocking_append([blank(0), blank(1)]).await.expect("appended");
        assert!(store.purge(blank(0).log_id()).await.is_err());
        let state = store.get_log_state().await.expect("a state");
        assert_eq!((state.last_purged_log_id, state.last_log_id), (None, Some(blank(1).log_id())));
    });
}

#[test]
fn committed_entries_are_not_truncated() {
    TypeConfig::run(async {
        let (_dir, mut store, _) = Builder.build().await.expect("a store");
        store.blocking_append([blank(0), blank(1), blank(2)]).await.expect("appended");
        store.save_committed(Some(blank(1).log_id())).await.expect("noted");
        assert!(store.truncate_after(Some(blank(0).log_id())).await.is_err());
        store.truncate_after(Some(blank(1).log_id())).await.expect("entry 2 may go");
        let state = store.get_log_state().await.expect("a state");
        assert_eq!(state.last_log_id, Some(blank(1).log_id()));
    });
}
