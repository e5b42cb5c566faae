//! Stores to test against, and a store that misbehaves on demand.

#![allow(dead_code, reason = "each test binary uses a part")]

mod servers;
pub mod toy;

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use domain::chunk::Row;
use domain::state::{Event, EventKind, State};
use futures::future::join_all;
use futures::stream::BoxStream;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use perennial_store as store;
use perennial_store::examples::{BadData, Columns, Format, Unread};
use perennial_store::log::CommitLog;
use serde_json::json;
use servers::Server;
use tokio::sync::{OnceCell, Semaphore};

pub type Store = Arc<dyn ObjectStore>;

/// Says so once, and past the test harness, which keeps what passing tests print to itself.
pub fn skipped(what: &str, why: &str) {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut said = SAID.lock().unwrap();
    if !said.iter().any(|line| line == what) {
        said.push(what.to_owned());
        let _ = writeln!(std::io::stderr(), "SKIPPED {what}: {why}");
    }
}

/// Every row of a file, or what is wrong with each.
pub fn rows_of(
    format: Format,
    bytes: impl Into<Bytes>,
    columns: &Columns,
) -> Result<Vec<Result<Row, BadData>>, BadData> {
    let mut rows = Vec::new();
    let read = store::examples::read(format, bytes.into(), columns, |row| {
        rows.push(row);
        Ok::<_, Unread>(())
    });
    match read {
        Ok(()) => Ok(rows),
        Err(Unread::Bad(error)) => Err(error),
        Err(Unread::Io(error)) => panic!("memory can be read: {error}"),
    }
}

pub fn memory() -> Store {
    Arc::new(InMemory::new())
}

/// The servers that are staged here, shared by the tests of this process.
async fn servers() -> &'static [Server] {
    static UP: OnceCell<Vec<Server>> = OnceCell::const_new();
    UP.get_or_init(async || join_all(servers::GOOD.map(Server::start)).await.into_iter().flatten().collect()).await
}

/// An empty place on a server. `store::open` asks the environment, in which two servers of one kind cannot both be.
fn place_on(server: &Server) -> Store {
    static USED: AtomicUsize = AtomicUsize::new(0);
    let place = format!("place-{}", USED.fetch_add(1, Ordering::Relaxed));
    let settings = server.environment.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    if server.url.starts_with("az:") {
        let builder = MicrosoftAzureBuilder::new().with_url(&server.url);
        let builder = settings.fold(builder, |to, (name, value)| to.with_config(name.parse().unwrap(), value));
        Arc::new(PrefixStore::new(builder.build().unwrap(), place))
    } else {
        let builder = AmazonS3Builder::new().with_url(&server.url);
        let builder = settings.fold(builder, |to, (name, value)| to.with_config(name.parse().unwrap(), value));
        Arc::new(PrefixStore::new(builder.build().unwrap(), place))
    }
}

/// Runs a test in an empty place on every store there is. Prints which, for a test that fails.
pub async fn everywhere<F: Future<Output = ()>>(test: impl Fn(Store) -> F) {
    println!("on memory");
    test(memory()).await;
    println!("on a folder");
    let folder = tempfile::tempdir().unwrap();
    test(store::open(&format!("file://{}", folder.path().display())).unwrap()).await;
    for server in servers().await {
        println!("on {}", server.name);
        test(place_on(server)).await;
    }
    // A bucket of one's own, in a cloud: `store::open` and the environment find it.
    for url in ["PERENNIAL_TEST_S3", "PERENNIAL_TEST_AZURE"].into_iter().flat_map(std::env::var) {
        println!("on {url}");
        test(store::open(&format!("{url}/{}", folder.path().file_name().unwrap().display())).unwrap()).await;
    }
}

/// An event that shows in the state: pipeline `name` exists.
pub fn applied(name: &str) -> Event {
    let spec = json!({ "name": name, "model": "mlp:100,100", "labels": ["a", "b"], "method": "er" });
    Event {
        pipeline: format!("namespaces/default/pipelines/{name}").parse().unwrap(),
        kind: EventKind::PipelineApplied { pipeline_spec: serde_json::from_value(spec).unwrap() },
    }
}

/// Appends one event, takes the snapshot that is due and sweeps.
pub async fn push(log: &mut CommitLog, state: &mut State, name: &str) {
    let event = applied(name);
    log.append(2, vec![event.clone()]).await.unwrap();
    state.apply(&event, 2).unwrap();
    if log.snapshot_due() {
        log.snapshot(state).await.unwrap();
        log.sweep().await.unwrap();
    }
}

/// An event that applies to no state.
pub fn inapplicable() -> Event {
    Event {
        pipeline: "namespaces/default/pipelines/nobody".parse().unwrap(),
        kind: EventKind::ChunkReleased { chunk: domain::id::ChunkId("00".to_owned()) },
    }
}

pub fn names(state: &State) -> Vec<String> {
    state.pipelines.keys().map(|id| id.name.to_string()).collect()
}

pub async fn records(store: &Store) -> Vec<u64> {
    let paths = store::objects::list(store.as_ref(), "log").await.unwrap();
    let number = |path: &String| path.strip_prefix("log/")?.strip_suffix(".json")?.parse().ok();
    paths.iter().filter_map(number).collect()
}

pub fn record_path(number: u64) -> String {
    format!("log/{number:020}.json")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Put,
    Get,
}

/// A store that misbehaves as told.
#[derive(Debug)]
pub struct Bad {
    inner: Store,
    /// Takes a conditional put for a plain one, as Garage does.
    pub ignores_conditions: AtomicBool,
    /// Looks first and puts afterwards, as s3s-fs does.
    pub races: AtomicBool,
    /// Does what it is told and says that it failed.
    pub lies_once: AtomicBool,
    pub down: AtomicBool,
    /// The next request of this kind under this path waits at a gate.
    gated: Mutex<Option<(Verb, String)>>,
    arrived: Semaphore,
    opened: Semaphore,
}

impl Bad {
    pub fn over(inner: Store) -> Arc<Self> {
        Arc::new(Self {
            inner,
            ignores_conditions: AtomicBool::default(),
            races: AtomicBool::default(),
            lies_once: AtomicBool::default(),
            down: AtomicBool::default(),
            gated: Mutex::default(),
            arrived: Semaphore::new(0),
            opened: Semaphore::new(0),
        })
    }

    /// Holds the next request of this kind under `path`.
    pub fn gate(&self, verb: Verb, path: &str) {
        *self.gated.lock().unwrap() = Some((verb, path.to_owned()));
    }

    /// Waits until a request stands at the gate.
    pub async fn arrival(&self) {
        self.arrived.acquire().await.unwrap().forget();
    }

    pub fn open_gate(&self) {
        self.opened.add_permits(1);
    }

    async fn wait_at_gate(&self, verb: Verb, path: &Path) {
        let here = |gated: &mut (Verb, String)| gated.0 == verb && path.as_ref().starts_with(&gated.1);
        let held = self.gated.lock().unwrap().take_if(here).is_some();
        if held {
            self.arrived.add_permits(1);
            self.opened.acquire().await.unwrap().forget();
        }
    }
}

fn failure() -> object_store::Error {
    object_store::Error::Generic { store: "bad", source: "connection reset".into() }
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bad")
    }
}

#[async_trait]
impl ObjectStore for Bad {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        self.wait_at_gate(Verb::Put, path).await;
        if self.down.load(Ordering::Relaxed) {
            return Err(failure());
        }
        if self.ignores_conditions.load(Ordering::Relaxed) {
            options.mode = PutMode::Overwrite;
        }
        if self.races.load(Ordering::Relaxed) && options.mode == PutMode::Create {
            if self.inner.head(path).await.is_ok() {
                return self.inner.put_opts(path, payload, options).await;
            }
            tokio::task::yield_now().await;
            options.mode = PutMode::Overwrite;
        }
        let done = self.inner.put_opts(path, payload, options).await;
        if self.lies_once.swap(false, Ordering::Relaxed) {
            return Err(failure());
        }
        done
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.wait_at_gate(Verb::Get, path).await;
        if self.down.load(Ordering::Relaxed) {
            return Err(failure());
        }
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
