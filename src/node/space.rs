//! Free disk space: below the reserve a node takes no more events, and says so before anything
//! fails.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Most that must be free beyond the reserve before a node takes events again, in bytes.
const MARGIN_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Whether the file system of `dir` has less than `reserve` bytes free. Recovers only at a quarter
/// more than the reserve, but at most `MARGIN_BYTES_MAX` more, so that it does not flap.
pub fn is_short(dir: &std::path::Path, reserve: u64, was_short: bool) -> bool {
    match crate::disk::free_bytes(dir) {
        Ok(free) if was_short => free < reserve + (reserve / 4).min(MARGIN_BYTES_MAX),
        Ok(free) => free < reserve,
        Err(error) => {
            tracing::error!(%error, "cannot tell the free disk space");
            was_short
        }
    }
}

/// Looks now and then, and publishes. Ends when nobody listens.
pub async fn watch(dir: PathBuf, reserve: u64, short: watch::Sender<bool>) {
    while !short.is_closed() {
        let was = *short.borrow();
        let dir = dir.clone();
        let look = tokio::task::spawn_blocking(move || is_short(&dir, reserve, was));
        if let Ok(now) = look.await
            && now != was
        {
            if now {
                tracing::error!(reserve_bytes = reserve, "disk space below the reserve: read-only");
            } else {
                tracing::info!("disk space is back: taking events again");
            }
            short.send_replace(now);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
