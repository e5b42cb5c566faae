//! An object store that answers late, loses requests and answers, carries requests out late or twice, and lists with a lag.
//!
//! What it does carry out it does at once and whole, and what was put is what is got: that is what real stores promise.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::life::{Life, Pace};
use crate::nemesis::LONGEST;
use crate::world::World;

/// Its name on the network.
pub const STORE: &str = "store";
/// The file that makes a version's folder whole.
const MANIFEST: &str = "perennial_manifest.json";
/// The longest that a request is carried out after its client was told something, in milliseconds.
const LATE: u64 = 5000;
/// The share of changing requests over which their process dies.
const STRIKES: f64 = 0.005;
/// The longest wait for something that fails, in milliseconds.
const FAILS_AFTER: u64 = 6000;

/// What is stored, and what was ever recorded.
#[derive(Default)]
pub struct Bucket {
    objects: InMemory,
    /// When listings begin to show what is not there yet.
    listed: Mutex<BTreeMap<Path, Instant>>,
    records: Mutex<Vec<Recorded>>,
}

/// A record of the commit log that was created.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub number: u64,
    pub bytes: Bytes,
    /// See [`World::moment`].
    pub moment: u64,
}

impl Bucket {
    /// Every record of the commit log that was ever created, in that order.
    pub fn records(&self) -> Vec<Recorded> {
        self.records.lock().unwrap().clone()
    }

    /// The bytes of an object, without any delay.
    pub async fn look(&self, path: &str) -> Option<Bytes> {
        self.objects.get(&Path::from(path)).await.ok()?.bytes().await.ok()
    }

    async fn has(&self, path: &Path) -> bool {
        self.objects.head(path).await.is_ok()
    }

    async fn put(&self, world: &World, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (bytes, is_new) = (Bytes::from(payload.clone()), !self.has(path).await);
        self.check(world, path, &bytes).await;
        let done = self.objects.put_opts(path, payload, options).await?;
        self.written(world, path, &bytes, is_new);
        Ok(done)
    }

    async fn copy(&self, world: &World, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (bytes, is_new) = (self.objects.get(from).await?.bytes().await?, !self.has(to).await);
        self.check(world, to, &bytes).await;
        self.objects.copy_opts(from, to, options).await?;
        self.written(world, to, &bytes, is_new);
        Ok(())
    }

    fn written(&self, world: &World, path: &Path, bytes: &Bytes, is_new: bool) {
        if is_new {
            let lag = world.dice.time(0, world.setting.list_lag);
            self.listed.lock().unwrap().insert(path.clone(), Instant::now() + lag);
        }
        let number = path.as_ref().strip_prefix("log/").and_then(|name| name.strip_suffix(".json")?.parse().ok());
        if let Some(number) = number {
            if !is_new {
                world.broken(format!("record {number} was written over"));
            }
            let moment = world.moment();
            self.records.lock().unwrap().push(Recorded { number, bytes: bytes.clone(), moment });
        }
    }

    /// A version whose manifest is there does not change any more.
    async fn check(&self, world: &World, path: &Path, bytes: &Bytes) {
        let Some((folder, _)) = path.as_ref().strip_prefix("adapters/").and_then(|path| path.rsplit_once('/')) else {
            return;
        };
        let whole = self.has(&Path::from(format!("adapters/{folder}/{MANIFEST}"))).await;
        let same = self.look(path.as_ref()).await.as_ref() == Some(bytes);
        // An attempt to create what exists changes nothing.
        if whole && !same && !path.as_ref().ends_with(MANIFEST) {
            world.broken(format!("{path} changed after its version was whole"));
        }
    }

    async fn list(&self, prefix: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let all: Vec<ObjectMeta> = self.objects.list(prefix).try_collect().await?;
        let (listed, now) = (self.listed.lock().unwrap(), Instant::now());
        let shows = |found: &ObjectMeta| listed.get(&found.location).is_none_or(|from| *from <= now);
        Ok(all.into_iter().filter(shows).collect())
    }
}

/// The store as one process reaches it.
#[derive(Clone)]
pub struct Store {
    pub world: Arc<World>,
    pub host: &'static str,
    pub life: Arc<Life>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    LostRequest,
    LostReply,
    Late,
    Repeated,
}

fn failure() -> Error {
    Error::Generic { store: "simulated", source: "connection reset".into() }
}

impl Store {
    fn fate(&self, changes: bool) -> Fate {
        let (world, setting) = (&self.world, &self.world.setting);
        match () {
            () if world.fault(setting.lost_requests) => Fate::LostRequest,
            () if world.fault(setting.lost_replies) => Fate::LostReply,
            () if changes && world.fault(setting.late_requests) => Fate::Late,
            () if changes && world.fault(setting.repeated_requests) => Fate::Repeated,
            () => Fate::Fine,
        }
    }

    /// Most promises hang on what happens between a decision and its request, and between that and its answer.
    fn strike(&self, path: &str) {
        let (world, setting) = (self.world.clone(), &self.world.setting);
        if setting.crashes && world.fault(STRIKES) {
            let (life, moment) = (self.life.clone(), world.dice.time(0, 10));
            tokio::spawn(async move {
                sleep(moment).await;
                life.set(Pace::Dead { told: true });
            });
        }
        if setting.pauses && path.starts_with("log/") && world.fault(3.0 * STRIKES) {
            let (life, length) = (self.life.clone(), world.dice.time(1000, LONGEST));
            world.note(self.host, format!("sleeps over {path} for {length:?}"));
            life.set(Pace::Sleeps);
            tokio::spawn(async move {
                sleep(length).await;
                life.set(Pace::Runs);
            });
        }
    }

    /// A request that changes something is carried out whatever becomes of whoever made it.
    async fn request<T, F>(
        &self,
        verb: &str,
        changes: bool,
        path: &str,
        work: impl Fn(Arc<World>) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        let world = self.world.clone();
        if changes {
            self.strike(path);
        }
        self.life.awake().await;
        if !world.net.open(&world, self.host, STORE).await {
            return Err(failure());
        }
        let fate = self.fate(changes);
        if fate != Fate::Fine {
            world.note(self.host, format!("{verb} {path}: {fate:?}"));
        }
        let (reply, answer) = oneshot::channel();
        let (there, late) = (world.latency(), world.dice.time(0, LATE));
        tokio::spawn(async move {
            sleep(there).await;
            match fate {
                Fate::LostRequest => return,
                Fate::Late => sleep(late).await,
                _ => {}
            }
            let done = work(world.clone()).await;
            // Nobody may be there to hear it.
            let _ = reply.send(done);
            if fate == Fate::Repeated {
                sleep(late).await;
                let _ = work(world).await;
            }
        });
        let done = match fate {
            Fate::Fine | Fate::Repeated => answer.await.expect("it is answered"),
            Fate::LostRequest | Fate::LostReply | Fate::Late => {
                sleep(self.world.dice.time(5, FAILS_AFTER)).await;
                Err(failure())
            }
        };
        sleep(self.world.latency()).await;
        self.life.awake().await;
        done
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store as {} reaches it", self.host)
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[async_trait]
impl ObjectStore for Store {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let to = path.clone();
        let put = move |world: Arc<World>| {
            let (to, payload, options) = (to.clone(), payload.clone(), options.clone());
            async move { world.bucket.put(&world, &to, payload, options).await }
        };
        self.request("put", true, path.as_ref(), put).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "put_multipart".to_owned(), implementer: "simulated".to_owned() })
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let from = path.clone();
        let get = move |world: Arc<World>| {
            let (from, options) = (from.clone(), options.clone());
            async move { world.bucket.objects.get_opts(&from, options).await }
        };
        self.request("get", false, path.as_ref(), get).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |path: Result<Path>| {
            let store = store.clone();
            async move {
                let path = path?;
                let gone = path.clone();
                let delete = move |world: Arc<World>| {
                    let gone = gone.clone();
                    async move {
                        match world.refuses_removals() {
                            true => Err(failure()),
                            false => world.bucket.objects.delete(&gone).await,
                        }
                    }
                };
                store.request("delete", true, path.as_ref(), delete).await?;
                Ok(path)
            }
        };
        paths.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let name = prefix.as_ref().map_or_else(String::new, ToString::to_string);
            let list = move |world: Arc<World>| {
                let prefix = prefix.clone();
                async move { world.bucket.list(prefix.as_ref()).await }
            };
            let found = store.request("list", false, &name, list).await?;
            Ok::<_, Error>(futures::stream::iter(found.into_iter().map(Ok)))
        };
        futures::stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(Error::NotImplemented { operation: "list_with_delimiter".to_owned(), implementer: "simulated".to_owned() })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (source, target) = (from.clone(), to.clone());
        let copy = move |world: Arc<World>| {
            let (source, target, options) = (source.clone(), target.clone(), options.clone());
            async move { world.bucket.copy(&world, &source, &target, options).await }
        };
        self.request("copy", true, to.as_ref(), copy).await
    }
}
