//! The store as a process sees it that dies in the middle of its work.

use std::sync::{Arc, Mutex};

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

/// What becomes of the write at which the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It never happens.
    Before,
    /// It happens, and nobody hears of it.
    After,
    /// Half a copy is there. Other writes happen whole or not at all, as on every store that has a conditional put.
    Midway,
}

/// Does so many writes and then answers nothing any more, reads included.
#[derive(Debug)]
pub struct Dying {
    inner: Arc<dyn ObjectStore>,
    death: Death,
    left: Mutex<Option<usize>>,
    dead: watch::Sender<bool>,
}

enum Turn {
    Live,
    Die,
}

impl Dying {
    /// Lives until it is told when to die.
    pub fn new(inner: Arc<dyn ObjectStore>, death: Death) -> Self {
        Self { inner, death, left: Mutex::new(None), dead: watch::Sender::new(false) }
    }

    /// From here on it does `writes` writes and dies at the next.
    pub fn dies_after(&self, writes: usize) {
        *self.left.lock().expect("no holder panics") = Some(writes);
    }

    pub async fn died(&self) {
        let mut dead = self.dead.subscribe();
        dead.wait_for(|dead| *dead).await.expect("the sender is here");
    }

    fn turn(&self) -> Turn {
        let mut left = self.left.lock().expect("no holder panics");
        match left.as_mut() {
            Some(0) => Turn::Die,
            Some(left) => {
                *left -= 1;
                Turn::Live
            }
            None => Turn::Live,
        }
    }

    /// Nothing comes back from the dead.
    async fn never<T>(&self) -> Result<T> {
        self.dead.send_replace(true);
        std::future::pending().await
    }

    async fn alive(&self) {
        if *self.dead.borrow() {
            std::future::pending().await
        }
    }

    async fn write<T>(&self, operation: impl Future<Output = Result<T>>) -> Result<T> {
        self.alive().await;
        self.carry_out(self.turn(), operation).await
    }

    async fn carry_out<T>(&self, turn: Turn, operation: impl Future<Output = Result<T>>) -> Result<T> {
        match (turn, self.death) {
            (Turn::Live, _) => operation.await,
            (Turn::Die, Death::After) => {
                let _ = operation.await;
                self.never().await
            }
            (Turn::Die, _) => self.never().await,
        }
    }

    async fn half(&self, from: &Path, to: &Path) -> Result<()> {
        let bytes = self.inner.get(from).await?.bytes().await?;
        self.inner.put(to, bytes.slice(..bytes.len() / 2).into()).await.map(drop)
    }
}

impl std::fmt::Display for Dying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, until death", self.inner)
    }
}

#[tonic::async_trait]
impl ObjectStore for Dying {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.write(self.inner.put_opts(path, payload, options)).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.write(self.inner.put_multipart_opts(path, options)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.alive().await;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let dead = *self.dead.borrow();
        // One that is dead or dies takes nothing more from the stream.
        match (dead, self.turn(), self.death) {
            (false, Turn::Live, _) => self.inner.delete_stream(paths),
            (false, Turn::Die, Death::After) => {
                self.dead.send_replace(true);
                let deleted = self.inner.delete_stream(paths).try_collect::<Vec<_>>();
                let silent = async move {
                    let _ = deleted.await;
                    std::future::pending().await
                };
                futures::stream::once(silent).boxed()
            }
            _ => {
                self.dead.send_replace(true);
                futures::stream::pending().boxed()
            }
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if *self.dead.borrow() { futures::stream::pending().boxed() } else { self.inner.list(prefix) }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.alive().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.alive().await;
        match (self.turn(), self.death) {
            (Turn::Die, Death::Midway) => {
                self.half(from, to).await?;
                self.never().await
            }
            (turn, _) => self.carry_out(turn, self.inner.copy_opts(from, to, options)).await,
        }
    }
}
