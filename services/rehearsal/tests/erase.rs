//! Erasures over a store in memory.

use std::sync::Arc;

use domain::Timestamp;
use domain::chunk::{Chunk, Payload, Row, Shard, SourceObject, Split};
use domain::id::{ChunkId, PipelineId};
use domain::pipeline::Pipeline;
use domain::planning;
use domain::state::{Event, EventKind, PipelineState};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use perennial_proto::v1;
use perennial_proto::v1::erase_rows_request::Scope;
use perennial_proto::v1::rehearsal_service_server::RehearsalService;
use perennial_rehearsal::{Eraser, Rehearsal};
use serde_json::{Value, json};
use store::examples::{read_shard_bytes, write_shard};
use store::journal::Journal;
use store::{layout, objects};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

const NAME: &str = "namespaces/default/pipelines/tickets";
const NOW: Timestamp = 1_800_000_000_000;
const DAY: u64 = 24 * 60 * 60 * 1000;

struct Place {
    store: Arc<dyn ObjectStore>,
    journal: Arc<Journal>,
    service: Rehearsal,
}

/// `anna` in every third row.
fn rows(chunk: &str) -> Vec<Row> {
    let row = |at: usize| Row {
        subject: Some(if at.is_multiple_of(3) { "anna" } else { "berta" }.to_owned()),
        ..Row::new(format!("{chunk}-{at}"), Payload::Text(format!("text {at}")), if at == 1 { "" } else { "ham" })
    };
    (0..9).map(row).collect()
}

impl Place {
    async fn new(change: Value) -> Self {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let journal = Arc::new(Journal::open(store.clone(), "test", || NOW).await.unwrap());
        let mut spec = json!({"name": "tickets", "model": "mlp:10", "method": "er", "labels": ["ham", "spam"]});
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let spec: Pipeline = serde_json::from_value(spec).unwrap();
        let apply = move |state: &_, _| Ok::<_, planning::Refusal>((planning::apply_spec(state, &spec)?, ()));
        journal.commit(apply).await.unwrap();
        let service = Rehearsal::new(journal.clone(), store.clone());
        Self { store, journal, service }
    }

    /// Two shards of nine rows that train, and one that is held out.
    async fn chunk(&self, name: &str, change: impl FnOnce(&mut Chunk)) -> ChunkId {
        let (id, pipeline): (_, PipelineId) = (ChunkId(name.to_owned()), NAME.parse().unwrap());
        let folder = layout::chunk(&pipeline, &id);
        let shard = async |split: &str, number: usize| {
            let bytes = write_shard(&rows(name), &"t".parse().unwrap(), split).unwrap();
            let path = format!("{folder}/sealed/{split}-{number}.parquet");
            Shard { unlabelled: 1, ..Shard::new(objects::put(&*self.store, &path, bytes.into()).await.unwrap(), 9) }
        };
        let raw = objects::put(&*self.store, &layout::chunk_raw(&pipeline, &id), "as it came".into()).await.unwrap();
        let mut chunk = Chunk {
            train: vec![shard("train", 0).await, shard("train", 1).await],
            held_out: vec![shard("held_out", 0).await],
            names_subjects: true,
            ..Chunk::received(id.clone(), "t".parse().unwrap(), Split::Auto, raw, NOW - DAY)
        };
        // The third row's label came later, and was another.
        let (path, late) = (format!("{folder}/labels-0.json"), r#"{"0":"spam","2":"spam"}"#);
        chunk.train[1].labels = Some(objects::put(&*self.store, &path, late.into()).await.unwrap());
        chunk.labels = [("ham".to_owned(), 14), ("spam".to_owned(), 2)].into();
        change(&mut chunk);
        let sealed = EventKind::ChunkSealed { chunk: id.clone(), new_labels: vec![] };
        let kinds = [EventKind::ChunkReceived { chunk: Box::new(chunk) }, sealed];
        let events = kinds.map(|kind| Event { pipeline: pipeline.clone(), kind }).to_vec();
        self.journal.commit(move |_, _| Ok::<_, std::convert::Infallible>((events, ()))).await.unwrap();
        id
    }

    async fn erase(&self, scope: Option<Scope>) -> Result<Option<v1::Erasure>, Status> {
        let request = v1::EraseRowsRequest { pipeline: NAME.to_owned(), scope };
        Ok(self.service.erase_rows(Request::new(request)).await?.into_inner().erasure)
    }

    fn look<T>(&self, look: impl FnOnce(&PipelineState) -> T) -> T {
        self.journal.read(|state| look(&state.pipelines[&NAME.parse().unwrap()]))
    }

    async fn paths(&self, chunk: &ChunkId) -> Vec<String> {
        objects::list(&*self.store, &layout::chunk(&NAME.parse().unwrap(), chunk)).await.unwrap()
    }

    /// Until the last erasure has been swept up after.
    async fn swept(&self) {
        let shutdown = CancellationToken::new();
        let sweep = tokio::spawn(Eraser::new(self.journal.clone(), self.store.clone()).run(shutdown.clone()));
        let mut head = self.journal.watch();
        while self.look(|current| current.erasures.last().is_none_or(|last| last.finished_at.is_none())) {
            head.changed().await.unwrap();
        }
        shutdown.cancel();
        sweep.await.unwrap();
    }
}

#[tokio::test]
async fn a_subjects_rows_leave_their_places_and_nothing_else() {
    let place = Place::new(json!({})).await;
    let id = place.chunk("c", |_| ()).await;
    let old = place.paths(&id).await;
    let erasure = place.erase(Some(Scope::Subject("anna".to_owned()))).await.unwrap().unwrap();
    assert_eq!((erasure.train_rows, erasure.held_out_rows, &erasure.chunks[..]), (6, 3, &["c".to_owned()][..]));
    assert!(erasure.subject_sha256.len() == 64 && erasure.versions.is_empty(), "{erasure:?}");

    let chunk = place.look(|current| current.chunks[&id].clone());
    assert_eq!(
        (chunk.train_rows(), chunk.held_out_rows(), chunk.unlabelled_rows(), chunk.erased_rows()),
        (10, 5, 3, 9)
    );
    assert_eq!(chunk.labels, [("ham".to_owned(), 9), ("spam".to_owned(), 1)].into());
    let bytes = objects::get(&*place.store, &chunk.train[1].object).await.unwrap();
    let left: Vec<u32> = read_shard_bytes(bytes).unwrap().into_iter().map(|(at, _)| at).collect();
    assert_eq!(left, [1, 2, 4, 5, 7, 8]);
    let late = objects::get(&*place.store, chunk.train[1].labels.as_ref().unwrap()).await.unwrap();
    assert_eq!(late, r#"{"2":"spam"}"#);

    place.swept().await;
    let now = place.paths(&id).await;
    assert!(now.iter().all(|path| !old.contains(path)), "{now:?}");
    // The two shards that train differ in their labels alone.
    assert_eq!(now.len(), 3, "{now:?}");
    assert_eq!(place.erase(Some(Scope::Subject("anna".to_owned()))).await.unwrap(), None, "there is nothing left");
}

#[tokio::test]
async fn rows_that_are_not_checked_yet_are_waited_for() {
    let place = Place::new(json!({})).await;
    let (id, pipeline): (_, PipelineId) = (ChunkId("c".to_owned()), NAME.parse().unwrap());
    let raw = objects::put(&*place.store, &layout::chunk_raw(&pipeline, &id), "as it came".into()).await.unwrap();
    let received = Chunk::received(id.clone(), "t".parse().unwrap(), Split::Auto, raw, NOW);
    let event = Event { pipeline, kind: EventKind::ChunkReceived { chunk: Box::new(received) } };
    place.journal.commit(move |_, _| Ok::<_, std::convert::Infallible>((vec![event], ()))).await.unwrap();
    let mut erasing = Box::pin(place.erase(Some(Scope::Subject("anna".to_owned()))));
    assert!(futures::poll!(&mut erasing).is_pending());
    place.chunk("c", |_| ()).await;
    let erasure = erasing.await.unwrap().unwrap();
    assert_eq!((erasure.chunks, erasure.train_rows), (vec!["c".to_owned()], 6));
}

#[tokio::test]
async fn the_labels_that_a_chunk_trained_under_stay_readable_without_the_rows() {
    let place = Place::new(json!({})).await;
    let trained = |chunk: &mut Chunk| chunk.trained_under = Some(vec![None, chunk.train[1].labels.take()]);
    let id = place.chunk("c", trained).await;
    place.erase(Some(Scope::Subject("anna".to_owned()))).await.unwrap().unwrap();
    place.swept().await;
    let under = place.look(|current| current.chunks[&id].trained_under.clone()).unwrap();
    assert_eq!(under[0], None);
    assert_eq!(objects::get(&*place.store, under[1].as_ref().unwrap()).await.unwrap(), r#"{"2":"spam"}"#);
}

#[tokio::test]
async fn what_was_pushed_goes_with_its_chunk_though_no_row_was_sealed() {
    let place = Place::new(json!({})).await;
    let id = place.chunk("c", |chunk| (chunk.train, chunk.held_out) = (Vec::new(), Vec::new())).await;
    let erasure = place.erase(Some(Scope::Chunk("c".to_owned()))).await.unwrap().unwrap();
    assert_eq!((erasure.train_rows, erasure.held_out_rows), (0, 0));
    place.swept().await;
    assert_eq!(place.paths(&id).await, Vec::<String>::new());
    assert_eq!(place.erase(Some(Scope::Chunk("c".to_owned()))).await.unwrap(), None);
}

#[tokio::test]
async fn what_came_from_a_source_goes_with_it_and_its_neighbours_stay() {
    let place = Place::new(json!({})).await;
    let from = |uri: &str| {
        let source = SourceObject { uri: uri.to_owned(), tag: "1".to_owned() };
        move |chunk: &mut Chunk| chunk.source = Some(source)
    };
    place.chunk("c1", from("file:///data/june/a.parquet")).await;
    place.chunk("c2", from("file:///data/june-2/a.parquet")).await;
    place.chunk("pushed", |_| ()).await;
    let erasure = place.erase(Some(Scope::SourceUri("file:///data/june/".to_owned()))).await.unwrap().unwrap();
    assert_eq!((erasure.chunks, erasure.train_rows), (vec!["c1".to_owned()], 18));
    place.swept().await;
    let listed = place
        .service
        .list_erasures(Request::new(v1::ListErasuresRequest { parent: NAME.to_owned(), ..Default::default() }));
    let [erasure] = &listed.await.unwrap().into_inner().erasures[..] else { panic!("one erasure") };
    assert!(erasure.finished_at_ms == NOW && erasure.source_uri == "file:///data/june/", "{erasure:?}");
}

#[tokio::test]
async fn rows_that_are_older_than_the_pipeline_keeps_are_erased_unasked() {
    let place = Place::new(json!({"data": {"ttl_days": 7}})).await;
    let old = place.chunk("old", |chunk| chunk.newest = Some(NOW - 8 * DAY)).await;
    let young = place.chunk("young", |chunk| chunk.newest = Some(NOW - 6 * DAY)).await;
    let arrived = place.chunk("arrived", |_| ()).await;
    place.swept().await;
    let left = |id: &ChunkId| place.look(|current| current.chunks[id].erased_rows());
    assert_eq!([&old, &young, &arrived].map(left), [27, 0, 0]);
    assert!(place.paths(&old).await.iter().all(|path| path.contains("/erased-")));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let place = Place::new(json!({})).await;
    let code = async |scope| place.erase(scope).await.unwrap_err().code();
    assert_eq!(code(None).await, Code::InvalidArgument);
    assert_eq!(code(Some(Scope::Subject(String::new()))).await, Code::InvalidArgument);
    assert_eq!(code(Some(Scope::Chunk("c9".to_owned()))).await, Code::NotFound);
}
