//! A network of byte streams: late, partitioned, broken at any piece.
//!
//! What a connection carries comes whole and in order, as TCP promises, or the connection breaks. Real gRPC runs on it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::life::Life;
use crate::world::World;

/// A name that leads to whichever control role takes connections, as a load balancer's does.
pub const CONTROL: &str = "control";
const PIECE: usize = 16 << 10;
/// How long at most somebody tries to get through a partition, in milliseconds.
const PATIENCE: [u64; 3] = [500, 3000, 15_000];

pub type Incoming = UnboundedReceiverStream<io::Result<DuplexStream>>;

#[derive(Default)]
pub struct Net {
    listeners: Mutex<BTreeMap<&'static str, Listener>>,
    /// Pairs that do not reach each other, the lesser name first.
    apart: watch::Sender<BTreeSet<(String, String)>>,
}

struct Listener {
    accepts: mpsc::UnboundedSender<io::Result<DuplexStream>>,
    life: Arc<Life>,
}

fn pair(a: &str, b: &str) -> (String, String) {
    (a.min(b).to_owned(), a.max(b).to_owned())
}

impl Net {
    /// Whoever comes to `host` from here on.
    pub fn listen(&self, host: &'static str, life: &Arc<Life>) -> Incoming {
        let (accepts, incoming) = mpsc::unbounded_channel();
        self.listeners.lock().unwrap().insert(host, Listener { accepts, life: life.clone() });
        UnboundedReceiverStream::new(incoming)
    }

    pub fn part(&self, a: &str, b: &str) {
        self.apart.send_if_modified(|apart| apart.insert(pair(a, b)));
    }

    pub fn join(&self, a: &str, b: &str) {
        self.apart.send_if_modified(|apart| apart.remove(&pair(a, b)));
    }

    pub fn join_all(&self) {
        self.apart.send_modify(BTreeSet::clear);
    }

    /// Waits until the two reach each other; false if that takes too long.
    pub async fn open(&self, world: &World, a: &str, b: &str) -> bool {
        let pair = pair(a, b);
        if !self.apart.borrow().contains(&pair) {
            return true;
        }
        let mut apart = self.apart.subscribe();
        let joined = apart.wait_for(|apart| !apart.contains(&pair));
        let patience = world.dice.one(&PATIENCE);
        timeout(world.dice.time(100, patience), joined).await.is_ok()
    }

    /// Hosts that answer to a name now.
    fn hosts(&self, name: &str) -> Vec<&'static str> {
        let listeners = self.listeners.lock().unwrap();
        let open = listeners.iter().filter(|(_, listener)| !listener.accepts.is_closed() && !listener.life.is_dead());
        let is = |host: &&'static str| **host == *name || (name == CONTROL && host.starts_with(CONTROL));
        open.map(|(host, _)| *host).filter(is).collect()
    }

    fn listener(&self, host: &str) -> Option<(mpsc::UnboundedSender<io::Result<DuplexStream>>, Arc<Life>)> {
        let listeners = self.listeners.lock().unwrap();
        listeners.get(host).map(|listener| (listener.accepts.clone(), listener.life.clone()))
    }
}

/// Connections of the process that lives `life` on `host`.
pub fn dial(
    world: &Arc<World>,
    host: &'static str,
    life: &Arc<Life>,
) -> Arc<dyn Fn(Endpoint) -> Channel + Send + Sync> {
    let (world, life) = (world.clone(), life.clone());
    Arc::new(move |endpoint| {
        let (world, life) = (world.clone(), life.clone());
        endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
            let (world, life) = (world.clone(), life.clone());
            async move { connect(world, host, life, uri.host().unwrap_or_default()).await.map(TokioIo::new) }
        }))
    })
}

async fn connect(world: Arc<World>, from: &'static str, life: Arc<Life>, name: &str) -> io::Result<DuplexStream> {
    life.awake().await;
    sleep(world.latency()).await;
    let hosts = world.net.hosts(name);
    if hosts.is_empty() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let to = world.dice.one(&hosts);
    if !world.net.open(&world, from, to).await {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let Some((accepts, other)) = world.net.listener(to) else { return Err(io::ErrorKind::ConnectionRefused.into()) };
    let (ours, near) = tokio::io::duplex(PIECE);
    let (theirs, far) = tokio::io::duplex(PIECE);
    if accepts.send(Ok(theirs)).is_err() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let link = Arc::new(Link { world, hosts: [from, to], lives: [life, other], broken: CancellationToken::new() });
    let ((from_near, to_near), (from_far, to_far)) = (tokio::io::split(near), tokio::io::split(far));
    tokio::spawn(link.clone().carry(from_near, to_far));
    tokio::spawn(link.carry(from_far, to_near));
    Ok(ours)
}

/// A connection.
struct Link {
    world: Arc<World>,
    hosts: [&'static str; 2],
    lives: [Arc<Life>; 2],
    broken: CancellationToken,
}

impl Link {
    /// Carries what comes one way, until the connection ends or breaks.
    async fn carry(self: Arc<Self>, from: ReadHalf<DuplexStream>, to: WriteHalf<DuplexStream>) {
        let carried = tokio::select! {
            biased;
            () = self.broken.cancelled() => Ok(()),
            () = self.lives[0].broke() => Err(io::ErrorKind::ConnectionReset.into()),
            () = self.lives[1].broke() => Err(io::ErrorKind::ConnectionReset.into()),
            carried = self.pieces(from, to) => carried,
        };
        if carried.is_err() {
            self.broken.cancel();
        }
    }

    async fn pieces(&self, mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        loop {
            let length = from.read(&mut piece).await?;
            self.pass().await?;
            match length {
                0 => return to.shutdown().await,
                length => to.write_all(&piece[..length]).await?,
            }
        }
    }

    async fn pass(&self) -> io::Result<()> {
        sleep(self.world.latency()).await;
        for life in &self.lives {
            life.awake().await;
        }
        let open = self.world.net.open(&self.world, self.hosts[0], self.hosts[1]).await;
        if !open || self.world.fault(self.world.setting.cuts) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}
