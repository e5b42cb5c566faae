//! Takes a payload in. Of one that nobody waits for: made durable, recorded as received, and answered; then its rows are checked
//! and sealed, objects made durable, and the chunk recorded again. Of another, the first part falls away. In this order, so that
//! a crash leaves at worst objects that are written again.

use std::net::IpAddr;
use std::sync::Arc;

use domain::Timestamp;
use domain::chunk::{BadRow, BadRows, Chunk, ObjectRef, Shard, SourceObject};
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
use crate::record::Recorded;
use crate::seal::Facts;
use crate::shards::Stored;
use crate::spool::{Payload, Spool};
use crate::unchecked::{Held, Job, Lines, Waiting};
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
    /// Payloads of which the first row is read at a time.
    beginning: Arc<Semaphore>,
    pub(crate) lines: Arc<Lines>,
    /// For payloads of those.
    places: Arc<Semaphore>,
    /// For larger payloads that go into the store as they come.
    copies: Arc<Semaphore>,
    admission: Arc<Admission>,
}

/// Payloads that wait on this process's disk until their rows are checked; more are fetched again.
const HELD: usize = 16;

/// Larger payloads that go into the store as they come; more wait on this process's disk until they are whole.
const COPIES: usize = 4;

/// The state of a chunk whose rows nobody has checked.
pub const RECEIVED: &str = "received";

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
            beginning: Arc::new(Semaphore::new(limits.sealing.max(1))),
            lines: Arc::default(),
            places: Arc::new(Semaphore::new(HELD)),
            copies: Arc::new(Semaphore::new(COPIES)),
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
        // Before the payload travels.
        let facts = self.control.facts(&header.pipeline).await?;
        if let Some(resume) = &header.resume {
            return self.resume(&header, resume, push, turn, facts).await;
        }
        let mut spool = self.spool(&header, &facts)?;
        while let Some(frame) = push.frame().await? {
            self.admission.pace(&turn, frame.len()).await;
            spool.write(&frame).await?;
        }
        self.take(&header, spool.finish(header.sha256.as_deref()).await?, PUSHED, None, facts).await
    }

    async fn resume<S>(
        &self,
        header: &Header,
        resume: &Resume,
        mut push: Push<'_, S>,
        turn: Turn,
        facts: Facts,
    ) -> Result<Taken, Error>
    where
        S: Stream<Item = Result<v1::PushChunkRequest, Status>> + Unpin,
    {
        if resume.total_bytes > self.limits.max_chunk_bytes {
            return Err(Error::ChunkTooLarge { limit: self.limits.max_chunk_bytes });
        }
        upload::sweep(&*self.store, &header.pipeline, (self.clock)()).await?;
        let upload = Upload::open(&*self.store, &header.pipeline, &resume.sha256).await?;
        let mut receiver = upload.resume(resume.offset, self.spool(header, &facts)?, &self.limits).await?;
        while let Some(frame) = push.frame().await? {
            self.admission.pace(&turn, frame.len()).await;
            receiver.write(&frame).await?;
        }
        let (payload, upload) = receiver.finish(resume).await?;
        let taken = self.take(header, payload, PUSHED, None, facts).await;
        // What cannot be taken will not be when it comes again.
        if taken.as_ref().map_or_else(|error| error.code() == Code::InvalidArgument, |_| true) {
            upload.clear().await;
        }
        taken
    }

    /// For a payload that comes with its header. What a record of it would name, if it is the one announced, is known then.
    fn spool(&self, header: &Header, facts: &Facts) -> Result<Spool, Error> {
        let spool = Spool::new(self.limits.max_chunk_bytes)?;
        // Who waits for its rows to be checked would hold a place until then; what goes on was sent in part before.
        let goes_on = header.resume.as_ref().is_some_and(|resume| resume.offset > 0);
        let Some(sha256) = header.sha256.as_ref().filter(|_| !header.wait && !goes_on) else { return Ok(spool) };
        let id = header.chunk_id(sha256, &header.task(facts));
        Ok(spool.copied(self.store.clone(), layout::chunk_raw(&header.pipeline, &id), self.copies.clone()))
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
        let facts = self.control.facts(&header.pipeline).await?;
        let payload = register::fetch(&self.roots, uri, header.sha256.as_deref(), &self.limits).await?;
        self.take(&header, payload, uri, None, facts).await
    }

    /// A payload that was received, from where it is durable.
    pub(crate) async fn fetch_received(&self, raw: &ObjectRef) -> Result<Payload, Error> {
        register::copy(&*self.store, raw, &self.limits).await
    }

    /// Takes an object below a watched prefix.
    pub(crate) async fn take_from(&self, header: &Header, source: SourceObject) -> Result<Taken, Error> {
        let payload = register::fetch(&self.roots, &source.uri, None, &self.limits).await?;
        let (facts, uri) = (self.control.facts(&header.pipeline).await?, source.uri.clone());
        self.take(header, payload, &uri, Some(source), facts).await
    }

    async fn take(
        &self,
        header: &Header,
        payload: Payload,
        name: &str,
        source: Option<SourceObject>,
        facts: Facts,
    ) -> Result<Taken, Error> {
        let task = header.task(&facts);
        let id = header.chunk_id(&payload.sha256, &task);
        let known = self.control.known(&header.pipeline, &id).await?;
        // Rows that were checked before are checked now, or not at all: what is known of them is not to be lost.
        let waits = header.wait || known.as_ref().is_some_and(|chunk| chunk.state != RECEIVED);
        if let Some(chunk) = known.filter(|chunk| !chunk.checked_again) {
            return match header.origin {
                Some(_) => Ok(self.control.record_again(header, &id).await?.into()),
                None => Ok(Taken { chunk, already_exists: true }),
            };
        }
        let job = Job { header: header.clone(), id, task, name: name.to_owned(), payload, source, raw: None };
        if waits { self.seal(job).await } else { self.receive(job, facts).await }
    }

    /// Makes the payload durable and has it recorded; its rows are checked later.
    async fn receive(&self, job: Job, facts: Facts) -> Result<Taken, Error> {
        let most = self.limits.unchecked;
        if self.lines.own() >= most {
            return Err(Error::Full { most });
        }
        let turn = self.beginning.clone().acquire_owned().await.expect("the semaphore is never closed");
        let work = self.work(&job, facts);
        let begins = move || work.begins(&job.payload).map(|format| (format, job));
        let (begins, turn) = blocking(turn, begins).await?;
        drop(turn);
        let (format, mut job) = begins?;
        let raw = self.put_raw(&mut job).await?;
        let Job { header, id, task, payload, .. } = job;
        let received = Chunk::received(id, task, header.split, raw, (self.clock)());
        let chunk = Chunk { reading: Some(header.reading(format)), ..received };
        let recorded = self.control.receive(&header, &chunk).await?;
        self.forget(&chunk, &recorded).await?;
        let held = self.places.clone().try_acquire_owned().ok().map(|place| Held { payload, place });
        self.check_later(&header.pipeline, Waiting { chunk, held, own: true });
        Ok(recorded.into())
    }

    /// Checks the rows, makes the objects durable, then has the chunk recorded.
    pub(crate) async fn seal(&self, job: Job) -> Result<Taken, Error> {
        let turn = self.sealing.clone().acquire_owned().await.expect("the semaphore is never closed");
        // As they are by now: labels may have grown.
        let facts = self.control.facts(&job.header.pipeline).await?;
        let work = self.work(&job, facts);
        let seal = move || work.run(&job.payload).map(|ready| (ready, job));
        let (ready, _turn) = blocking(turn, seal).await?;
        let (ready, job) = ready?;
        let taken = self.keep(job, ready).await?;
        let chunk = &taken.chunk;
        info!(chunk = %chunk.name, state = %chunk.state, train = chunk.train_rows, held_out = chunk.held_out_rows, "chunk taken in");
        Ok(taken)
    }

    fn work(&self, job: &Job, facts: Facts) -> Work {
        let Job { header, id, .. } = job;
        Work {
            name: job.name.clone(),
            format: header.format,
            columns: Columns { memory: self.limits.decode_memory, ..header.columns(&facts, id) },
            split: header.split,
            task: job.task.clone(),
            facts,
            keeps_unreadable: job.source.is_some() || job.raw.is_some(),
        }
    }

    async fn put_raw(&self, job: &mut Job) -> Result<ObjectRef, Error> {
        let path = layout::chunk_raw(&job.header.pipeline, &job.id);
        job.payload.keep(&*self.store, &path).await
    }

    /// Makes the objects durable, then has the chunk recorded.
    async fn keep(&self, mut job: Job, ready: Ready) -> Result<Taken, Error> {
        let raw = match job.raw.take() {
            Some(raw) => raw,
            None => self.put_raw(&mut job).await?,
        };
        let Job { header, id, task, source, .. } = &job;
        let (store, folder) = (&*self.store, layout::chunk(&header.pipeline, id));
        let Ready { shards, sealed, reason } = ready;
        let Stored { train, held_out } = shards.write(store, &folder).await?;
        let mut chunk = Chunk {
            train,
            held_out,
            labels: sealed.labels,
            duplicates: sealed.duplicates,
            source: source.clone(),
            names_subjects: sealed.names_subjects,
            newest: sealed.newest,
            ..Chunk::received(id.clone(), task.clone(), header.split, raw, (self.clock)())
        };
        let new_labels = sealed.new_labels;
        let (new_labels, reason) = match reason {
            None => (new_labels, String::new()),
            Some(reason) if sealed.bad.is_empty() => (Vec::new(), reason),
            Some(reason) => {
                let object = keep_bad_rows(store, &folder, &sealed.bad).await?;
                chunk.bad = Some(BadRows { rows: sealed.bad_rows, object, new_labels, settled: false });
                (Vec::new(), reason)
            }
        };
        let recorded = self.control.record(header, &chunk, new_labels, reason).await?;
        self.forget(&chunk, &recorded).await?;
        Ok(recorded.into())
    }

    /// Somebody else recorded the same rows, and some were erased since: what was written now would bring them back.
    async fn forget(&self, written: &Chunk, recorded: &Recorded) -> Result<(), Error> {
        let Some(now) = recorded.chunk.as_ref().filter(|now| now.erased) else { return Ok(()) };
        let kept: Vec<&str> =
            now.train.iter().chain(&now.held_out).flat_map(Shard::objects).map(|object| &*object.path).collect();
        let shards = written.train.iter().chain(&written.held_out).flat_map(Shard::objects);
        let bad = written.bad.as_ref().map(|bad| &bad.object);
        for object in shards.chain(bad).chain([&written.raw]).filter(|object| !kept.contains(&&*object.path)) {
            objects::delete(&*self.store, &object.path).await?;
        }
        Ok(())
    }
}

impl From<Recorded> for Taken {
    fn from(recorded: Recorded) -> Self {
        Self { chunk: recorded.wire, already_exists: recorded.already_exists }
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

    /// Two looked at the same rows, and some were erased after the first one's record.
    #[tokio::test]
    async fn what_was_erased_meanwhile_is_removed_again_and_what_is_left_of_the_chunk_stays() {
        let store = Arc::new(object_store::memory::InMemory::new());
        let control = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let roots = Roots::new::<&str>(&[]).unwrap();
        let ingest = Ingest::new(store.clone(), roots, control, Limits::default(), || 0);
        let object = async |path: &str| objects::put(&*store, path, path.to_owned().into()).await.unwrap();
        let raw = object("raw").await;
        let received = Chunk::received(
            domain::id::ChunkId("c".to_owned()),
            "t".parse().unwrap(),
            domain::chunk::Split::Auto,
            raw,
            0,
        );
        let [train, held_out, erased] = [object("train").await, object("held_out").await, object("erased").await];
        let shard = |object: &ObjectRef| vec![Shard::new(object.clone(), 1)];
        let written = Chunk { train: shard(&train), held_out: shard(&held_out), ..received };
        let now = Chunk { train: shard(&erased), erased: true, ..written.clone() };
        for (now, left) in
            [(written.clone(), vec!["erased", "held_out", "raw", "train"]), (now, vec!["erased", "held_out"])]
        {
            let recorded = Recorded { wire: v1::Chunk::default(), chunk: Some(now), already_exists: true };
            ingest.forget(&written, &recorded).await.unwrap();
            assert_eq!(objects::list(&*store, "").await.unwrap(), left);
        }
    }

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
