//! Whether what was signed is gone, and telling the cluster that it is.

use std::sync::Arc;

use futures_util::future::join_all;
use indelible_proto::v1::{ReadLevel, ReportCheckpointRequest, TreeHeadRequest};
use tokio::time::timeout;

use super::alarm::Alarm;
use super::evidence::RolledBack;
use super::signed::SignedCheckpoint;
use crate::error::Failure;
use crate::table::Link;
use crate::{Client, Level};

impl Client {
    /// Asks every node whether the trail ends before a checkpoint that the policy accepts. It does
    /// if more than half of the voters answer, each of them with what the leader has committed, and
    /// none has a tree of that size: what was signed was on the disks of a majority, so it cannot
    /// be missing otherwise. Then the checkpoint is reported to all of them.
    pub(crate) async fn look_for_rollback(
        &self,
        checkpoint: &Arc<SignedCheckpoint>,
    ) -> Option<RolledBack> {
        let links = self.table().links();
        let sizes = join_all(links.iter().map(|link| self.committed_size(link))).await;
        let sizes: Vec<u64> = sizes.into_iter().flatten().collect();
        let voters = self.members().iter().filter(|member| member.voter).count();
        let tree_size = *sizes.iter().max()?;
        if sizes.len() * 2 <= voters || tree_size >= checkpoint.checkpoint.size {
            return None;
        }
        let reports = self.report_checkpoint(&checkpoint.note).await;
        let reported = reports.iter().filter(|(_, taken)| matches!(taken, Ok(true))).count();
        let rolled_back =
            RolledBack::Checkpoint { checkpoint: checkpoint.clone(), tree_size, reported };
        self.trust().alarms.raise(Alarm::RolledBack(rolled_back.clone()));
        Some(rolled_back)
    }

    /// Hands a signed note that reaches past the trail to every node. Returns, by node id, whether
    /// the node takes it as evidence of a rollback, or why it did not answer.
    pub async fn report_checkpoint(&self, note: &str) -> Vec<(u64, Result<bool, String>)> {
        let links = self.table().links();
        let limit = self.options().attempt_timeout;
        join_all(links.iter().map(|link| async move {
            let request = ReportCheckpointRequest { checkpoint: note.to_owned() };
            let answer = timeout(limit, link.audit().report_checkpoint(request)).await;
            let taken = match answer {
                Err(_) => Err(Failure::TimedOut(limit).text()),
                Ok(Err(status)) => Err(Failure::from(status).text()),
                Ok(Ok(response)) => Ok(response.into_inner().rolled_back),
            };
            (link.node_id, taken)
        }))
        .await
    }

    /// Size of the tree that the leader has committed, as this node has it from there.
    async fn committed_size(&self, link: &Link) -> Option<u64> {
        let request = TreeHeadRequest { level: Some(ReadLevel::from(Level::Linearizable)) };
        let answer = timeout(self.options().attempt_timeout, link.audit().tree_head(request)).await;
        Some(answer.ok()?.ok()?.into_inner().tree_size)
    }
}
