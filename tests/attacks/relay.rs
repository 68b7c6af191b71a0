//! Something between the nodes and one of them, which lets only so many connections, or bytes,
//! through.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// It relays for as long as this lives.
pub struct Relay {
    pub addr: String,
    is_open: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// To `target`. The first `through` connections get there; later ones wait.
    pub async fn start(target: String, through: usize) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (is_open, opened) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let (mut near, _) = listener.accept().await.unwrap();
                let (target, mut opened) = (target.clone(), opened.clone());
                connections.spawn(async move {
                    if number >= through && opened.wait_for(|open| *open).await.is_err() {
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    let closed = async {
                        match number >= through {
                            true => drop(opened.wait_for(|open| !*open).await),
                            false => std::future::pending().await,
                        }
                    };
                    // It ends when either end does.
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = closed => {}
                    }
                });
            }
        });
        Relay { addr, is_open, _tasks: tasks }
    }

    /// To `target`. So many bytes get there, of all connections together; then no more.
    pub async fn narrow(target: String, bytes: usize) -> Relay {
        Relay::narrow_with(target, Arc::new(Semaphore::new(bytes))).await.0
    }

    async fn narrow_with(target: String, budget: Arc<Semaphore>) -> (Relay, Arc<Semaphore>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (is_open, opened) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let shared = budget.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let (target, budget, mut opened) =
                    (target.clone(), budget.clone(), opened.clone());
                connections.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    let ((mut from, mut back), (mut answers, mut to)) = (near.split(), far.split());
                    let forward = async {
                        let mut buffer = [0; 4096];
                        while let Ok(count @ 1..) = from.read(&mut buffer).await {
                            tokio::select! {
                                permit = budget.acquire_many(count as u32) => permit.unwrap().forget(),
                                _ = opened.wait_for(|open| *open) => {}
                            }
                            if to.write_all(&buffer[..count]).await.is_err() {
                                break;
                            }
                        }
                    };
                    tokio::select! {
                        () = forward => {}
                        _ = copy(&mut answers, &mut back) => {}
                    }
                });
            }
        });
        (Relay { addr, is_open, _tasks: tasks }, shared)
    }

    /// To `target`. So many bytes a second get there, of all connections together.
    pub async fn slow(target: String, bytes_per_s: usize) -> Relay {
        const TICKS_PER_S: usize = 50;
        let (mut relay, budget) = Relay::narrow_with(target, Arc::new(Semaphore::new(0))).await;
        relay._tasks.spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(1) / TICKS_PER_S as u32);
            loop {
                tick.tick().await;
                // What was not used is not saved up for more than a second.
                let free = bytes_per_s.saturating_sub(budget.available_permits());
                budget.add_permits(free.min(bytes_per_s / TICKS_PER_S));
            }
        });
        relay
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Lets nothing through from now on, and cuts what it had let through.
    pub fn close(&self) {
        self.is_open.send_replace(false);
    }
}
