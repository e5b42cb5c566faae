//! Takes a payload in: rows are checked and sealed, objects made durable, then the chunk is
//! recorded. In this order, so that a crash leaves at worst objects that the next push of the same
//! payload writes again.

use std::net::IpAddr;
use std::sync::Arc;

use domain::Timestamp;
use domain::chunk::{BadRow, BadRows, Chunk, ObjectRef, SourceObject};
use domain::id::{ChunkId, TaskName};
use futures::Stream;
use object_store::ObjectStore;
use perennial_proto::convert::pipeline_id;
use perennial_proto::v1;
use store::examples::Columns;
use store::roots::Roots;
use store::{layout, objects};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, spawn_blocking};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tracing::info;

use crate::admission::{Admission, Turn};
use crate::control::Control;
use crate::header::{self, Header, Resume};
use crate::limits::Limits;
use crate::prepare::{Ready, Work};
use crate::push::Push;
use crate::shards::Stored;
use crate::spool::{Payload, Spool};
use crate::upload::{self, Upload};
use crate::{Error, register};

/// The ingest role. It knows the store, the roots and the control role's address, not its journal.
#[derive(Clone)]
pub struct Ingest {
    store: Arc<dyn ObjectStore>,
    roots: Arc<Roots>,
    pub(crate) control: Control,
    limits: Limits,
    clock: fn() -> Timestamp,
    sealing: Arc<Semaphore>,
    admission: Arc<Admission>,
}

/// What a payload without a name is called.
const PUSHED: &str = "payload";

/// What became of a push.
#[derive(Clone, Debug)]
pub struct Taken {
    pub chunk: v1::Chunk,
    /// The same content had been recorded before; nothing changed.
    pub already_exists: bool,
}

impl Ingest {
    /// `control` is a connection of its own: on one shared with producers, the frames of a push could
    /// fill the window that the calls about it need.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        roots: Roots,
        control: Channel,
        limits: Limits,
        clock: fn() -> Timestamp,
    ) -> Self {
        Self {
            store,
            roots: Arc::new(roots),
            control: Control::new(control, limits.control),
            sealing: Arc::new(Semaphore::new(limits.sealing.max(1))),
            admission: Arc::new(Admission::new(limits.client, limits.namespace, limits.max_frame_bytes)),
            limits,
            clock,
        }
    }

    pub(crate) async fn push<S>(&self, stream: S, client: Option<IpAddr>) -> Result<Taken, Error>
    where
        S: Stream<Item = Result<v1::PushChunkRequest, Status>> + Unpin,
    {
        let mut push = Push::new(stream, &self.limits);
        let header = push.header().await?;
        let turn = self.admission.enter(client, &header.pipeline.namespace)?;
        // Before the payload travels. Asked again when it is there, by when labels may have grown.
        self.control.facts(&header.pipeline).await?;
        if let Some(resume) = &header.resume {
            return self.resume(&header, resume, push, turn).await;
        }
        let mut spool = Spool::new(self.limits.max_chunk_bytes)?;
        while let Some(frame) = push.frame().await? {
            self.admission.pace(&turn, frame.len()).await;
            spool.write(&frame).await?;
        }
        self.take(&header, spool.finish(header.sha256.as_deref()).await?, PUSHED, None).await
    }

    async fn resume<S>(
        &self,
        header: &Header,
        resume: &Resume,
        mut push: Push<'_, S>,
        turn: Turn,
    ) -> Result<Taken, Error>
    where
        S: Stream<Item = Result<v1::PushChunkRequest, Status>> + Unpin,
    {
        if resume.total_bytes > self.limits.max_chunk_bytes {
            return Err(Error::ChunkTooLarge { limit: self.limits.max_chunk_bytes });
        }
        upload::sweep(&*self.store, &header.pipeline, (self.clock)()).await?;
        let upload = Upload::open(&*self.store, &header.pipeline, &resume.sha256).await?;
        let mut receiver = upload.resume(resume.offset, &self.limits).await?;
        while let Some(frame) = push.frame().await? {
            self.admission.pace(&turn, frame.len()).await;
            receiver.write(&frame).await?;
        }
        let (payload, upload) = receiver.finish(resume).await?;
        let taken = self.take(header, payload, PUSHED, None).await;
        // What cannot be taken will not be when it comes again.
        if taken.as_ref().map_or_else(|error| error.code() == Code::InvalidArgument, |_| true) {
            upload.clear().await;
        }
        taken
    }

    pub(crate) async fn durable_bytes(&self, request: v1::QueryUploadRequest) -> Result<u64, Error> {
        let pipeline = pipeline_id("pipeline", &request.pipeline)?;
        let sha256 = header::sha256("sha256", request.sha256)?;
        Ok(Upload::open(&*self.store, &pipeline, &sha256).await?.durable_bytes())
    }

    pub(crate) async fn register(
        &self,
        header: v1::ChunkHeader,
        uri: &str,
        client: Option<IpAddr>,
    ) -> Result<Taken, Error> {
        let header: Header = header.try_into()?;
        let _turn = self.admission.enter(client, &header.pipeline.namespace)?;
        register::check(uri)?;
        self.control.facts(&header.pipeline).await?;
        let payload = register::fetch(&self.roots, uri, header.sha256.as_deref(), &self.limits).await?;
        self.take(&header, payload, uri, None).await
    }

    /// Takes an object below a watched prefix.
    pub(crate) async fn take_from(&self, header: &Header, source: SourceObject) -> Result<Taken, Error> {
        let payload = register::fetch(&self.roots, &source.uri, None, &self.limits).await?;
        let uri = source.uri.clone();
        self.take(header, payload, &uri, Some(source)).await
    }

    async fn take(
        &self,
        header: &Header,
        payload: Payload,
        name: &str,
        source: Option<SourceObject>,
    ) -> Result<Taken, Error> {
        let turn = self.sealing.clone().acquire_owned().await.expect("the semaphore is never closed");
        let facts = self.control.facts(&header.pipeline).await?;
        let task = header.task(&facts);
        let id = header.chunk_id(&payload.sha256, &task);
        let known = self.control.known(&header.pipeline, &id).await?;
        if let Some(chunk) = known.filter(|chunk| !chunk.checked_again) {
            return match header.origin {
                Some(_) => self.control.record_again(header, &id).await,
                None => Ok(Taken { chunk, already_exists: true }),
            };
        }
        let work = Work {
            name: name.to_owned(),
            format: header.format,
            columns: Columns { memory: self.limits.decode_memory, ..header.columns(&facts, &id) },
            split: header.split,
            task: task.clone(),
            facts,
            keeps_unreadable: source.is_some(),
        };
        let work = move || work.run(&payload).map(|ready| (ready, payload));
        let (ready, _turn) = blocking(turn, work).await?;
        let (ready, payload) = ready?;
        let taken = self.keep(header, (id, task), source, &payload, ready).await?;
        let chunk = &taken.chunk;
        info!(chunk = %chunk.name, state = %chunk.state, train = chunk.train_rows, held_out = chunk.held_out_rows, "chunk taken in");
        Ok(taken)
    }

    /// Makes the objects durable, then has the chunk recorded.
    async fn keep(
        &self,
        header: &Header,
        (id, task): (ChunkId, TaskName),
        source: Option<SourceObject>,
        payload: &Payload,
        ready: Ready,
    ) -> Result<Taken, Error> {
        let (store, folder) = (&*self.store, layout::chunk(&header.pipeline, &id));
        let raw = objects::put_open(store, &layout::chunk_raw(&header.pipeline, &id), payload.open()?).await?;
        let Ready { shards, sealed, reason } = ready;
        let Stored { train, held_out } = shards.write(store, &folder).await?;
        let mut chunk = Chunk {
            train,
            held_out,
            labels: sealed.labels,
            duplicates: sealed.duplicates,
            source,
            names_subjects: sealed.names_subjects,
            newest: sealed.newest,
            ..Chunk::received(id, task, header.split, raw, (self.clock)())
        };
        let Some(reason) = reason else {
            return self.control.record(header, &chunk, sealed.new_labels, String::new()).await;
        };
        if !sealed.bad.is_empty() {
            let object = keep_bad_rows(store, &folder, &sealed.bad).await?;
            chunk.bad = Some(BadRows { rows: sealed.bad_rows, object, new_labels: sealed.new_labels, settled: false });
        }
        self.control.record(header, &chunk, Vec::new(), reason).await
    }
}

/// Named by its content, as shards are.
async fn keep_bad_rows(store: &dyn ObjectStore, folder: &str, bad: &[BadRow]) -> Result<ObjectRef, Error> {
    let mut lines = Vec::new();
    for row in bad {
        serde_json::to_writer(&mut lines, row).expect("a number and a text");
        lines.push(b'\n');
    }
    let digest = objects::sha256(&lines);
    Ok(objects::put(store, &format!("{folder}/bad-{}.jsonl", &digest[..16]), lines.into()).await?)
}

/// Runs `work`, which keeps its turn to the end: a caller that goes away does not stop it.
async fn blocking<T: Send + 'static>(
    turn: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<(T, OwnedSemaphorePermit), JoinError> {
    spawn_blocking(move || (work(), turn)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_keeps_its_turn_until_it_ends() {
        let turns = Arc::new(Semaphore::new(1));
        let (started, starting) = tokio::sync::oneshot::channel();
        let (end, ending) = std::sync::mpsc::channel::<()>();
        let work = move || {
            started.send(()).unwrap();
            ending.recv()
        };
        let pushed = tokio::spawn(blocking(turns.clone().acquire_owned().await.unwrap(), work));
        starting.await.unwrap();
        pushed.abort();
        assert!(pushed.await.unwrap_err().is_cancelled());
        assert_eq!(turns.available_permits(), 0);
        end.send(()).unwrap();
        turns.acquire().await.unwrap().forget();
    }
}
