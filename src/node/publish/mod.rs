//! STUB: gone once the publisher is there.
#![expect(missing_docs, reason = "a stub")]
use super::operations::Why;
use indelible_core::Checkpoint;
use indelible_proto::reason::Rejected;
use std::sync::Arc;
use std::time::Duration;
#[derive(Debug)]
pub struct Published {
    pub note: String,
    pub checkpoint: Checkpoint,
    pub unix_s: u64,
}
#[derive(Clone, Default, Debug)]
pub struct Publication;
impl Publication {
    pub fn newest(&self) -> Option<Arc<Published>> {
        None
    }
    pub fn newest_witnessed(&self) -> Option<Arc<Published>> {
        None
    }
    pub async fn wait(
        &self,
        _size: u64,
        _witnessed: bool,
        timeout: Duration,
    ) -> Option<Arc<Published>> {
        tokio::time::sleep(timeout).await;
        None
    }
    pub fn rolled_back(&self) -> Option<u64> {
        None
    }
    pub async fn report(&self, _note: &str) -> Result<bool, Rejected> {
        Ok(false)
    }
    pub async fn accept_rollback(&self, _why: Why) -> Result<u64, Rejected> {
        Ok(0)
    }
}
