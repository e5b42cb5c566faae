//! What a producer sees when it pushes, and what is left when it does.

use domain::chunk::ChunkState;
use domain::id::ChunkId;
use perennial_proto::v1;
use perennial_proto::v1::push_chunk_request::Part;
use serde_json::json;
use store::examples::read_shard_bytes;
use store::objects;
use tonic::Code;

use crate::harness::{FRAME, Harness, TICKETS, header, jsonl, many, refused};

async fn nothing_is_left(harness: &Harness) {
    assert!(harness.state(|state| state.chunks.is_empty()));
    assert_eq!(harness.objects().await, Vec::<String>::new());
}

fn id(chunk: &v1::Chunk) -> ChunkId {
    ChunkId(chunk.name.rsplit('/').next().unwrap().to_owned())
}

#[tokio::test]
async fn pushed_rows_are_sealed_and_read_back() {
    let harness = Harness::start(json!({})).await;
    let answer = harness.push(header(), &many(200)).await.unwrap();
    let chunk = answer.chunk.unwrap();
    assert!(!answer.already_exists);
    assert!(chunk.name.starts_with(&format!("{TICKETS}/chunks/")), "{}", chunk.name);
    assert_eq!(
        (chunk.state.as_str(), chunk.task.as_str(), chunk.received_at_ms),
        ("sealed", "main", 1_700_000_000_000)
    );
    assert_eq!(chunk.train_rows + chunk.held_out_rows, 200);
    assert!((5..40).contains(&chunk.held_out_rows), "{}", chunk.held_out_rows);
    assert_eq!(chunk.labels.values().sum::<u64>(), chunk.train_rows);

    let known = harness.state(|state| state.chunks[&id(&chunk)].clone());
    let raw = objects::get(&*harness.store, &known.raw).await.unwrap();
    assert_eq!(raw, many(200));
    let shard = objects::get(&*harness.store, &known.train[0].object).await.unwrap();
    let rows = read_shard_bytes(shard).unwrap();
    assert_eq!(rows.len() as u64, chunk.train_rows);
    assert!(rows[0].1.id.starts_with(&format!("{}:", known.id)), "{}", rows[0].1.id);
}

#[tokio::test]
async fn the_same_content_again_changes_nothing() {
    let harness = Harness::start(json!({})).await;
    let first = harness.push(header(), &many(20)).await.unwrap();
    let (state, objects) = (harness.state(Clone::clone), harness.objects().await);
    let second = harness.push(header(), &many(20)).await.unwrap();
    assert!(second.already_exists);
    assert_eq!(second.chunk, first.chunk);
    assert_eq!((harness.state(Clone::clone), harness.objects().await), (state, objects));
}

#[tokio::test]
async fn a_payload_stays_on_the_side_where_it_was_pushed_first() {
    let harness = Harness::start(json!({})).await;
    let first = harness.push(header(), &many(20)).await.unwrap().chunk.unwrap();
    let state = harness.state(Clone::clone);
    let other = [
        v1::ChunkHeader { split: v1::Split::Train.into(), ..header() },
        v1::ChunkHeader { split: v1::Split::HeldOut.into(), ..header() },
        v1::ChunkHeader { task: "other".to_owned(), ..header() },
    ];
    for header in other {
        let parts = [id(&first).0, "task `main`, split `auto`".to_owned(), "Push only rows that are new".to_owned()];
        let answer = harness.push(header, &many(20)).await;
        refused(answer, Code::AlreadyExists, &parts.each_ref().map(String::as_str));
    }
    assert_eq!(harness.state(Clone::clone), state);
}

#[tokio::test]
async fn a_payload_that_was_never_sealed_binds_nobody() {
    let harness = Harness::start(json!({})).await;
    let rows = jsonl(&[("a", "ham"), ("b", "eggs")]);
    assert_eq!(harness.push(header(), &rows).await.unwrap().chunk.unwrap().state, "quarantined");
    harness.apply(json!({"labels": ["ham", "spam", "eggs"]})).await;
    let other = v1::ChunkHeader { task: "other".to_owned(), ..header() };
    assert_eq!(harness.push(other, &rows).await.unwrap().chunk.unwrap().state, "sealed");
}

#[tokio::test]
async fn a_push_whose_answer_was_lost_before_its_record_is_taken_in_whole() {
    // The objects of a push that died, sealed under another spec, lie in the store already.
    let (dead, harness) = (Harness::start(json!({"seed": 1})).await, Harness::start(json!({})).await);
    dead.push(header(), &many(100)).await.unwrap();
    for path in dead.objects().await {
        let bytes = object_store::ObjectStoreExt::get(&*dead.store, &path.as_str().into())
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        objects::put(&*harness.store, &path, bytes).await.unwrap();
    }
    let chunk = harness.push(header(), &many(100)).await.unwrap().chunk.unwrap();
    let known = harness.state(|state| state.chunks[&id(&chunk)].clone());
    for shard in known.train.iter().chain(&known.held_out) {
        objects::get(&*harness.store, &shard.object).await.unwrap();
    }
}

#[tokio::test]
async fn two_pushes_of_the_same_content_at_once_are_one_chunk() {
    let harness = Harness::start(json!({})).await;
    let payload = many(50);
    let (one, two) = tokio::join!(harness.push(header(), &payload), harness.push(header(), &payload));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.chunk, two.chunk);
    assert_ne!(one.already_exists, two.already_exists);
    assert_eq!(harness.state(|state| state.arrivals.len()), 1);
}

#[tokio::test]
async fn splits_say_where_rows_go() {
    let harness = Harness::start(json!({})).await;
    for (split, train, held_out) in [(v1::Split::Train, 20, 0), (v1::Split::HeldOut, 0, 21)] {
        let header = v1::ChunkHeader { split: split.into(), ..header() };
        let chunk = harness.push(header, &many(train + held_out)).await.unwrap().chunk.unwrap();
        assert_eq!((chunk.train_rows, chunk.held_out_rows), (train as u64, held_out as u64));
    }
}

#[tokio::test]
async fn open_labels_are_appended() {
    let harness = Harness::start(json!({"labels_mode": "open"})).await;
    harness.push(header(), &jsonl(&[("a", "eggs"), ("b", "ham"), ("c", "bacon")])).await.unwrap();
    assert_eq!(harness.state(|state| state.labels.clone()), ["ham", "spam", "eggs", "bacon"]);
}

#[tokio::test]
async fn integers_that_no_list_names_are_their_own_names_whatever_came_first() {
    let harness = Harness::start(json!({"labels_mode": "open", "labels": []})).await;
    for label in [7, 0] {
        let row = json!({"text": "a", "label": label}).to_string();
        harness.push(header(), row.as_bytes()).await.unwrap();
    }
    assert_eq!(harness.state(|state| state.labels.clone()), ["7", "0"]);
}

#[tokio::test]
async fn an_unknown_label_quarantines_until_the_pipeline_knows_it() {
    let harness = Harness::start(json!({})).await;
    let rows = jsonl(&[("a", "ham"), ("b", "spma")]);
    let chunk = harness.push(header(), &rows).await.unwrap().chunk.unwrap();
    assert_eq!(chunk.state, "quarantined");
    for part in [":1`)", "label `spma`", "did you mean `spam`?", "labels_mode: open"] {
        assert!(chunk.reason.contains(part), "{}", chunk.reason);
    }
    let again = harness.push(header(), &rows).await.unwrap();
    assert!(again.already_exists);
    harness.apply(json!({"labels": ["ham", "spam", "spma"]})).await;
    let again = harness.push(header(), &rows).await.unwrap();
    assert_eq!((again.chunk.unwrap().state.as_str(), again.already_exists), ("sealed", false));
    assert_eq!(harness.state(|state| state.arrivals.len()), 1);
}

#[tokio::test]
async fn a_digest_that_does_not_match_names_both() {
    let harness = Harness::start(json!({})).await;
    let (wrong, right) = ("0".repeat(64), objects::sha256(&many(3)));
    let header = v1::ChunkHeader { sha256: wrong.clone(), ..header() };
    refused(harness.push(header, &many(3)).await, Code::InvalidArgument, &[&wrong, &right, "push it again"]);
    nothing_is_left(&harness).await;
}

#[tokio::test]
async fn frames_and_chunks_have_limits() {
    let harness = Harness::start(json!({})).await;
    let parts = vec![Part::Header(header()), Part::Frame(vec![b'x'; FRAME + 1])];
    refused(harness.send(parts).await, Code::InvalidArgument, &["frame of 65 bytes", "limit of 64 bytes"]);
    let parts = vec![Part::Header(header()), Part::Frame(vec![b'x'; 5 << 20])];
    refused(harness.send(parts).await, Code::InvalidArgument, &["limit of 64 bytes", "smaller frames"]);
    refused(
        harness.push(header(), &vec![b'x'; 100_001]).await,
        Code::InvalidArgument,
        &["limit of 100000 bytes", "several chunks"],
    );
    refused(harness.send(vec![Part::Frame(vec![b'x'])]).await, Code::InvalidArgument, &["begins with its header"]);
    nothing_is_left(&harness).await;
}

#[tokio::test]
async fn a_header_that_cannot_be_used_names_its_field() {
    let harness = Harness::start(json!({})).await;
    let unknown = v1::ChunkHeader { pipeline: "namespaces/default/pipelines/none".to_owned(), ..header() };
    let parts = ["`namespaces/default/pipelines/none` is not registered", "perennial pipeline apply"];
    refused(harness.push(unknown, &many(3)).await, Code::NotFound, &parts);
    let unnamed = v1::ChunkHeader { pipeline: "tickets".to_owned(), ..header() };
    refused(harness.push(unnamed, &many(3)).await, Code::InvalidArgument, &["`header.pipeline`", "`tickets`"]);
    let archive = v1::ChunkHeader { task: "archive".to_owned(), ..header() };
    refused(harness.push(archive, &many(3)).await, Code::InvalidArgument, &["`header.task`", "choose another name"]);
    nothing_is_left(&harness).await;
}

#[tokio::test]
async fn chunks_are_listed_in_order_in_pages_and_by_state() {
    let harness = Harness::start(json!({})).await;
    for n in 1..=3 {
        harness.push(header(), &many(n)).await.unwrap();
    }
    harness.push(header(), &jsonl(&[("a", "eggs")])).await.unwrap();
    let list = async |state: &str, page_size, page_token: String| {
        let request =
            v1::ListChunksRequest { parent: TICKETS.to_owned(), page_size, page_token, state: state.to_owned() };
        harness.chunks.clone().list_chunks(request).await.map(tonic::Response::into_inner)
    };
    let page = list("sealed", 2, String::new()).await.unwrap();
    let rest = list("sealed", 2, page.next_page_token).await.unwrap();
    let rows: Vec<u64> = page.chunks.iter().chain(&rest.chunks).map(|c| c.train_rows + c.held_out_rows).collect();
    assert_eq!((rows, rest.next_page_token.as_str()), (vec![1, 2, 3], ""));
    let all = list("", 0, String::new()).await.unwrap().chunks;
    assert_eq!(all[3].state, "quarantined");
    assert!(harness.state(|state| matches!(state.chunks[&id(&all[3])].state, ChunkState::Quarantined { .. })));
    refused(list("done", 0, String::new()).await, Code::InvalidArgument, &["`done` is not a state", "absorbed"]);

    let name = format!("{TICKETS}/chunks/none");
    let got = harness.chunks.clone().get_chunk(v1::GetChunkRequest { name }).await;
    refused(got, Code::NotFound, &["chunk none is not known"]);
    let nothing = v1::ReleaseChunksRequest { pipeline: TICKETS.to_owned(), chunks: Vec::new() };
    refused(harness.chunks.clone().release_chunks(nothing).await, Code::InvalidArgument, &["at least one"]);
}
