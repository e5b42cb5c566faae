//! A TCP proxy that breaks, slows and silences connections on purpose.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What happens to one connection. Bytes are those from the client.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Both ends are closed after so many.
    Cut { after: u64 },
    /// Nothing passes any more, either way, and nobody is told.
    Silence { after: u64 },
    /// Every piece waits.
    Delay(Duration),
    /// So many pass in a second.
    Throttle { bytes_per_second: u64 },
}

/// Stops when dropped.
pub struct Proxy {
    port: u16,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    passed: Arc<AtomicU64>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// In front of 127.0.0.1:`port`. Connections take `faults` in turn; later ones pass unharmed.
    pub async fn before(port: u16, faults: impl IntoIterator<Item = Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let own = listener.local_addr().expect("it is bound").port();
        let faults = Arc::new(Mutex::new(faults.into_iter().collect::<VecDeque<_>>()));
        let passed = Arc::new(AtomicU64::new(0));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, port, faults.clone(), passed.clone()));
        Self { port: own, faults, passed, _accepting: accepting }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Bytes that clients got through.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Faults that no connection has met yet.
    pub fn left(&self) -> usize {
        self.faults.lock().expect("nobody panics with it").len()
    }
}

async fn accept(listener: TcpListener, port: u16, faults: Arc<Mutex<VecDeque<Fault>>>, passed: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let fault = faults.lock().expect("nobody panics with it").pop_front();
        let passed = passed.clone();
        connections.spawn(async move {
            if let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await {
                connect(client, server, fault, passed).await;
            }
        });
    }
}

/// Ends with the first direction that does: dropping both sockets closes both ends.
async fn connect(client: TcpStream, server: TcpStream, fault: Option<Fault>, passed: Arc<AtomicU64>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut up = Direction { from: from_client, to: to_server, fault, sent: 0 };
    let answers = match fault {
        Some(Fault::Cut { .. } | Fault::Silence { .. }) => None,
        fault => fault,
    };
    let mut down = Direction { from: from_server, to: to_client, fault: answers, sent: 0 };
    let back = AtomicU64::new(0);
    tokio::select! {
        silent = up.pump(&passed) => if silent { std::future::pending().await },
        _ = down.pump(&back) => {}
    }
}

struct Direction {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    fault: Option<Fault>,
    sent: u64,
}

impl Direction {
    /// Passes pieces on until either end closes or the fault says so. True: the connection stays open in silence.
    async fn pump(&mut self, passed: &AtomicU64) -> bool {
        let mut piece = vec![0; 16 << 10];
        while let Ok(read @ 1..) = self.from.read(&mut piece).await {
            let most = match self.fault {
                Some(Fault::Cut { after } | Fault::Silence { after }) => after - self.sent,
                _ => u64::MAX,
            };
            let piece = &piece[..read.min(usize::try_from(most).unwrap_or(usize::MAX))];
            self.slow_down(piece.len() as u64).await;
            if self.to.write_all(piece).await.is_err() {
                break;
            }
            self.sent += piece.len() as u64;
            passed.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if piece.len() < read {
                return matches!(self.fault, Some(Fault::Silence { .. }));
            }
        }
        false
    }

    async fn slow_down(&self, bytes: u64) {
        match self.fault {
            Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
            Some(Fault::Throttle { bytes_per_second }) => {
                tokio::time::sleep(Duration::from_secs(bytes) / u32::try_from(bytes_per_second).unwrap_or(u32::MAX))
                    .await;
            }
            _ => {}
        }
    }
}
