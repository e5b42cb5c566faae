//! The publisher over a directory whose every operation fails in turn, and over what can never work.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;

use domain::chunk::{Chunk, Shard, Split};
use domain::id::ChunkId;
use domain::manifest::{Cost, SnapshotMeta};
use domain::planning;
use domain::report::{Baseline, Verdict};
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStoreExt, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

use super::*;

const FILES: [&str; 4] = ["README.md", "adapter_model.safetensors", "head.safetensors", "snapshot.json"];

/// Does so many operations and fails from then on, as a store does that goes away.
#[derive(Debug)]
struct Failing {
    inner: Arc<dyn ObjectStore>,
    left: Mutex<usize>,
    /// The first one to fail is done all the same: only its answer is lost.
    loses_an_answer: bool,
    /// Copies that come out cut in half.
    tears: Mutex<usize>,
}

impl Failing {
    fn after(inner: Arc<dyn ObjectStore>, operations: usize, loses_an_answer: bool) -> Self {
        Self { inner, left: Mutex::new(operations), loses_an_answer, tears: Mutex::new(0) }
    }

    fn tearing(inner: Arc<dyn ObjectStore>, copies: usize) -> Self {
        Self { tears: Mutex::new(copies), ..Self::after(inner, usize::MAX, false) }
    }

    async fn copy_half(&self, from: &Path, to: &Path) -> Result<()> {
        let bytes = self.inner.get(from).await?.bytes().await?;
        self.inner.put(to, bytes.slice(..bytes.len() / 2).into()).await.map(drop)
    }
}

enum Turn {
    Do,
    LoseAnswer,
    Fail,
}

impl Failing {
    fn turn(&self) -> Turn {
        let mut left = self.left.lock().unwrap();
        match *left {
            0 => Turn::Fail,
            1 if self.loses_an_answer => {
                *left = 0;
                Turn::LoseAnswer
            }
            _ => {
                *left -= 1;
                Turn::Do
            }
        }
    }

    async fn through<T>(&self, operation: impl Future<Output = Result<T>>) -> Result<T> {
        let gone = || Err(object_store::Error::Generic { store: "failing", source: "connection reset".into() });
        match self.turn() {
            Turn::Do => operation.await,
            Turn::LoseAnswer => operation.await.and_then(|_| gone()),
            Turn::Fail => gone(),
        }
    }
}

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("failing")
    }
}

#[tonic::async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.through(self.inner.put_opts(path, payload, options)).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.through(self.inner.put_multipart_opts(path, options)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.through(self.inner.get_opts(path, options)).await
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
        let torn = {
            let mut tears = self.tears.lock().unwrap();
            let torn = *tears > 0;
            *tears -= usize::from(torn);
            torn
        };
        if torn {
            return self.copy_half(from, to).await;
        }
        self.through(self.inner.copy_opts(from, to, options)).await
    }
}

/// A run that passed its gate, with its candidate in a directory.
struct Scene {
    id: PipelineId,
    folder: tempfile::TempDir,
    store: Arc<dyn ObjectStore>,
    journal: Arc<Journal>,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = store::open(&format!("file://{}", folder.path().display())).unwrap();
        let journal = Arc::new(Journal::open(Arc::new(InMemory::new()), "test", || 0).await.unwrap());
        let scene = Self { id: "namespaces/default/pipelines/p".parse().unwrap(), folder, store, journal };
        scene.train().await;
        scene
    }

    async fn happen(&self, kinds: Vec<EventKind>) {
        let events = kinds.into_iter().map(|kind| Event { pipeline: self.id.clone(), kind }).collect();
        self.journal.commit(move |_, _| Ok::<_, Refusal>((events, ()))).await.unwrap();
    }

    async fn train(&self) {
        let spec = json!({"name": "p", "model": "mlp:8", "labels": ["a"], "method": "ft"});
        let object = ObjectRef { path: "rows".to_owned(), sha256: "0".repeat(64), bytes: 1 };
        let id = ChunkId("c".to_owned());
        let chunk = Chunk {
            train: vec![Shard::new(object.clone(), 1)],
            labels: [("a".to_owned(), 1)].into(),
            ..Chunk::received(id, "main".parse().unwrap(), Split::Train, object, 0)
        };
        let sealed = EventKind::ChunkSealed { chunk: chunk.id.clone(), new_labels: Vec::new() };
        let applied = EventKind::PipelineApplied { pipeline_spec: serde_json::from_value(spec).unwrap() };
        self.happen(vec![applied, EventKind::ChunkReceived { chunk: Box::new(chunk) }, sealed]).await;
        let id = self.id.clone();
        let start = move |state: &State, _| planning::start_run(state, &id, &[]).map(|(run, events)| (events, run));
        let run = self.journal.commit(start).await.unwrap();
        self.attempt(run, 1).await;
    }

    /// Trains, and passes.
    async fn attempt(&self, run: u64, attempt: u32) {
        let candidate = self.candidate(run, attempt).await;
        let changes = [
            RunEvent::Started,
            RunEvent::Trained { attempt, candidate: Box::new(candidate) },
            RunEvent::Judged { report: report(), version: Some(Version(1)) },
        ];
        self.happen(changes.map(|change| EventKind::Run { run, change: Box::new(change) }).into()).await;
    }

    async fn candidate(&self, run: u64, attempt: u32) -> Candidate {
        let mut files = Vec::new();
        for name in FILES {
            let path = format!("{}/{name}", layout::candidate(&self.id, run, attempt));
            files.push(objects::put(&*self.store, &path, name.into()).await.unwrap());
        }
        let snapshot = SnapshotMeta { object: files[3].clone(), chunks: Vec::new(), items: 0, seen: 0 };
        let (weights_sha256, cost) = ("w".to_owned(), Cost::default());
        Candidate { files, weights_sha256, finite: true, preprocessing: None, golden: Vec::new(), snapshot, cost }
    }

    fn publisher(&self, store: Arc<dyn ObjectStore>) -> Publisher {
        Publisher::new(self.journal.clone(), store)
    }

    fn pending(&self) -> Option<Pending> {
        self.journal.read(pending).pop()
    }

    fn run(&self) -> RunState {
        self.journal.read(|state| state.pipelines[&self.id].runs[&1].state.clone())
    }

    fn version_folder(&self) -> PathBuf {
        self.folder.path().join(layout::version(&self.id, Version(1)))
    }

    /// Whatever lies in the version's folder, seen past the store: it hides some names.
    fn laid_down(&self) -> BTreeSet<String> {
        let Ok(entries) = std::fs::read_dir(self.version_folder()) else { return BTreeSet::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn report() -> EvalReport {
    let scores = Vec::new;
    EvalReport {
        baseline: Baseline::Base,
        candidate_scores: scores(),
        baseline_scores: scores(),
        verdict: Verdict::Pass,
    }
}

fn everything() -> BTreeSet<String> {
    FILES.iter().chain(&[MANIFEST]).map(ToString::to_string).collect()
}

/// The store fails after `operations`; a second attempt has a good one. Whether the first attempt published.
async fn interrupted(operations: usize, loses_an_answer: bool) -> bool {
    let scene = Scene::new().await;
    let failing = Failing::after(scene.store.clone(), operations, loses_an_answer);
    let published = scene.publisher(Arc::new(failing)).settle(scene.pending().unwrap()).await;
    let laid_down = scene.laid_down();
    if laid_down.contains(MANIFEST) {
        assert_eq!(laid_down, everything(), "the manifest is last: {operations}");
    }
    if !published {
        assert!(matches!(scene.run(), RunState::Publishing { .. }), "{operations}");
        assert!(scene.publisher(scene.store.clone()).settle(scene.pending().unwrap()).await);
    }
    assert_eq!(scene.run(), RunState::Published { version: Version(1) });
    assert_eq!(scene.laid_down(), everything(), "{operations}");
    published
}

#[tokio::test]
async fn a_version_is_whole_and_nothing_else_wherever_the_store_fails() {
    for loses_an_answer in [false, true] {
        let mut operations = 0;
        while !interrupted(operations, loses_an_answer).await {
            operations += 1;
        }
        assert!(operations > FILES.len(), "{operations}");
    }
}

#[tokio::test]
async fn a_torn_copy_is_made_again() {
    let scene = Scene::new().await;
    let tearing = Arc::new(Failing::tearing(scene.store.clone(), 1));
    assert!(scene.publisher(tearing).settle(scene.pending().unwrap()).await);
    assert_eq!(scene.run(), RunState::Published { version: Version(1) });
    for file in FILES {
        assert_eq!(std::fs::read_to_string(scene.version_folder().join(file)).unwrap(), file);
    }
}

#[tokio::test]
async fn a_store_that_tears_every_copy_gets_no_manifest() {
    let scene = Scene::new().await;
    let tearing = Arc::new(Failing::tearing(scene.store.clone(), usize::MAX));
    assert!(scene.publisher(tearing).settle(scene.pending().unwrap()).await);
    assert_eq!(scene.run(), RunState::Queued);
    assert!(!scene.laid_down().contains(MANIFEST) && scene.pending().is_none());
    scene.attempt(1, 2).await;
    assert!(scene.publisher(scene.store.clone()).settle(scene.pending().unwrap()).await);
    assert_eq!(scene.run(), RunState::Published { version: Version(1) });
    for file in FILES {
        assert_eq!(std::fs::read_to_string(scene.version_folder().join(file)).unwrap(), file);
    }
}

/// A candidate is trained again if it is gone or damaged, and the second time its run fails.
async fn spoiled(spoil: impl AsyncFn(&Scene, &str)) {
    let scene = Scene::new().await;
    for attempt in 1..=2 {
        let pending = scene.pending().unwrap();
        let victim = &pending.candidate.files[2].path;
        spoil(&scene, victim).await;
        assert!(scene.publisher(scene.store.clone()).settle(pending.clone()).await);
        assert!(!scene.laid_down().contains(MANIFEST) && scene.pending().is_none());
        if attempt == 1 {
            assert_eq!(scene.run(), RunState::Queued);
            scene.attempt(1, 2).await;
            continue;
        }
        let RunState::Failed { reason } = scene.run() else { panic!("{:?}", scene.run()) };
        assert!(reason.starts_with("version v1 cannot be laid down (") && reason.contains(FILES[2]), "{reason}");
    }
}

#[tokio::test]
async fn a_candidate_that_is_gone_is_trained_again_once() {
    spoiled(async |scene, path| objects::delete(&*scene.store, path).await.unwrap()).await;
}

#[tokio::test]
async fn a_candidate_that_is_damaged_is_trained_again_once() {
    spoiled(async |scene, path| {
        objects::put(&*scene.store, path, "head_safetensors".into()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_version_that_others_laid_down_is_not_touched_and_fails_the_run() {
    let scene = Scene::new().await;
    let folder = layout::version(&scene.id, Version(1));
    let path = format!("{folder}/{MANIFEST}");
    let others = [&path, &format!("{folder}/README.md")];
    for path in others {
        objects::put(&*scene.store, path, "another's".into()).await.unwrap();
    }
    assert!(scene.publisher(scene.store.clone()).settle(scene.pending().unwrap()).await);
    let RunState::Failed { reason } = scene.run() else { panic!("{:?}", scene.run()) };
    assert!(reason.contains(&path) && reason.contains("exists with other content"), "{reason}");
    for path in others {
        assert_eq!(objects::read(&*scene.store, path).await.unwrap(), "another's");
    }
}
