//! Something between the nodes and one of them, which lets only so many connections through.

use tokio::net::{TcpListener, TcpStream};
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

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Lets nothing through from now on, and cuts what it had let through.
    pub fn close(&self) {
        self.is_open.send_replace(false);
    }
}
