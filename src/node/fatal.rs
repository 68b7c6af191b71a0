//! What a node must not go on with. Whoever finds it says so here; the server stops the process,
//! without closing anything, and the exit code says why (README, "Exit codes").

use tokio::sync::watch;

/// Why a node stops itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// Its trail is not the one that the majority has, or its disk was rolled back.
    #[error("{0}")]
    Diverged(String),
    /// It was removed from the group.
    #[error("{0}")]
    Removed(String),
    /// Something failed that must not be tried again.
    #[error("{0}")]
    Failed(String),
}

/// Stops the node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop(watch::Sender<Option<Fatal>>);

impl Default for Stop {
    fn default() -> Self {
        Stop(watch::Sender::new(None))
    }
}

impl Stop {
    /// Stops the node. The first reason stays.
    pub fn stop(&self, fatal: Fatal) {
        self.0.send_if_modified(|reason| {
            let first = reason.is_none();
            if first {
                tracing::error!(%fatal, "this node must not go on");
                *reason = Some(fatal);
            }
            first
        });
    }

    /// Completes when the node must stop.
    pub async fn stopped(&self) -> Fatal {
        let mut reason = self.0.subscribe();
        match reason.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(Some(fatal)) => fatal,
            Ok(None) | Err(_) => unreachable!("waited for a reason, and this holds a sender"),
        }
    }
}
