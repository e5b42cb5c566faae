//! Stands before an S3 server, knows whose each request is, and kills whoever makes a certain one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use perennial_tests::cluster;
use procfs::process::{FDTarget, Process, all_processes};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::boundary::{self, Boundary};

/// When a process dies over a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The store never hears of it.
    Before,
    /// It is done, and nobody hears of it.
    After,
}

/// Stops when dropped.
pub struct Front {
    port: u16,
    watch: Arc<Watch>,
    _accepting: JoinSet<()>,
}

struct Watch {
    client: Client<HttpConnector, Full<Bytes>>,
    server: u16,
    /// Deaths still to be died at each, and how often it was met otherwise.
    known: Mutex<BTreeMap<Boundary, Met>>,
    /// Whether whoever comes to a boundary dies there, once in each way.
    kills: bool,
}

#[derive(Clone, Debug)]
pub struct Met {
    pub to_die: Vec<Death>,
    pub times: u64,
}

impl Front {
    /// In front of 127.0.0.1:`server`.
    pub async fn before(server: u16, kills: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let watch = Arc::new(Watch { client, server, known: Mutex::default(), kills });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, watch.clone()));
        Self { port, watch, _accepting: accepting }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn met(&self) -> BTreeMap<Boundary, Met> {
        self.watch.known.lock().expect("nobody panics with it").clone()
    }
}

async fn accept(listener: TcpListener, watch: Arc<Watch>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, client)) = listener.accept().await {
        connections.spawn(serve(stream, client, watch.clone()));
    }
}

/// A process of whom a connection is.
#[derive(Clone, Copy)]
struct Asker {
    pid: i32,
    role: &'static str,
}

async fn serve(stream: TcpStream, client: SocketAddr, watch: Arc<Watch>) {
    let Ok(front) = stream.local_addr() else { return };
    // It may be gone already.
    let asked = tokio::task::spawn_blocking(move || asker(client, front)).await.expect("it does not panic");
    let Some(asker) = asked else { return };
    let service = service_fn(move |request| watch.clone().pass(asker, request));
    // However a connection ends, whoever made it sees that.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// The process at the other end of a connection on this machine. Its port alone does not tell: other connections had it before,
/// and are listed for a minute after their end.
fn asker(client: SocketAddr, front: SocketAddr) -> Option<Asker> {
    let mut entries = procfs::net::tcp().ok()?.into_iter();
    let entry = entries.find(|entry| (entry.local_address, entry.remote_address) == (client, front))?;
    let target = FDTarget::Socket(entry.inode);
    let holds = |process: &Process| process.fd().is_ok_and(|fds| fds.flatten().any(|fd| fd.target == target));
    all_processes().ok()?.flatten().find_map(|process| {
        let role = cluster::role(&(process.cmdline().ok()?.join("\0") + "\0"))?;
        holds(&process).then_some(Asker { pid: process.pid, role })
    })
}

impl Watch {
    async fn pass(
        self: Arc<Self>,
        asker: Asker,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (mut head, body) = request.into_parts();
        let Ok(body) = body.collect().await else { return pending().await };
        let body = body.to_bytes();
        let name = boundary::name(&head.method, &head.uri, &body);
        let death = name.and_then(|name| self.meet(Boundary { name, role: asker.role }));
        if death == Some(Death::Before) {
            return kill(asker).await;
        }
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        head.uri = Uri::try_from(format!("http://127.0.0.1:{}{target}", self.server)).expect("it was one");
        let answer = self.client.request(Request::from_parts(head, Full::new(body))).await;
        if death == Some(Death::After) {
            return kill(asker).await;
        }
        let (head, body) = answer.expect("the server answers").into_parts();
        let body = body.collect().await.expect("the server answers whole").to_bytes();
        Ok(Response::from_parts(head, Full::new(body)))
    }

    /// How whoever comes to a boundary has to die there.
    fn meet(&self, boundary: Boundary) -> Option<Death> {
        let mut known = self.known.lock().expect("nobody panics with it");
        let all = if self.kills { vec![Death::After, Death::Before] } else { Vec::new() };
        let met = known.entry(boundary).or_insert(Met { to_die: all, times: 0 });
        let death = met.to_die.pop();
        met.times += u64::from(death.is_none());
        death
    }
}

/// SIGKILL; nobody is there to be answered.
async fn kill<T>(asker: Asker) -> T {
    let _ = Command::new("kill").args(["-9", &asker.pid.to_string()]).status();
    pending().await
}
