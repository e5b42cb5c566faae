//! What has to be true when everything is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use domain::chunk::{Chunk, ObjectRef};
use domain::id::PipelineId;
use domain::report::Verdict;
use domain::state::{EventKind, PipelineState, State};
use domain::version::{Alias, lineage};
use perennial_proto::convert;
use store::log::{Follower, Record};
use store::objects::sha256;
use tokio::time::sleep;

use crate::client::{Client, PIPELINE};
use crate::history::{ALIASES, Told};
use crate::life::Life;
use crate::linear::{Call, Did, is_linearizable};
use crate::store::{Recorded, Store};
use crate::workload::{PRODUCERS, payload};
use crate::world::World;

/// A record that counts, and when it was created.
struct Link {
    record: Record,
    moment: u64,
}

/// Waits until everything is absorbed.
pub async fn settle(client: &Client) {
    let limit = client.world.elapsed() + Duration::from_secs(600);
    loop {
        if client.world.elapsed() > limit {
            let runs = client.all_runs().await.unwrap_or_default();
            let open = runs.iter().rev().find(|run| run.ended_at_ms > 0);
            let chunks = client.all_chunks().await.unwrap_or_default().into_iter().map(|chunk| chunk.state);
            client.world.broken(format!("it does not settle: {:?} {open:?}", chunks.collect::<Vec<_>>()));
        }
        if let Ok(chunks) = client.all_chunks().await
            && client.release(&chunks).await.is_ok()
            && chunks.iter().any(|chunk| chunk.state != "absorbed")
        {
            // One may be under way.
            let _ = client.start_run().await;
        } else if let Ok(runs) = client.all_runs().await
            && runs.iter().all(|run| run.ended_at_ms > 0)
            && let Ok(chunks) = client.all_chunks().await
            && !chunks.is_empty()
            && chunks.iter().all(|chunk| chunk.state == "absorbed")
        {
            return;
        }
        sleep(Duration::from_millis(700)).await;
    }
}

pub async fn everything(world: &Arc<World>, client: &Client) {
    let told = client.history.told();
    let chain = chain(world);
    let state = fold(world, &chain);
    let store = Arc::new(Store { world: world.clone(), host: "reader", life: Life::new() });
    let reader = Follower::open(store, world.setting.log()).await;
    match reader {
        Ok(reader) if *reader.state() == state => {}
        Ok(_) => world.broken("the state from the newest snapshot is not the state from the first record"),
        Err(error) => world.broken(format!("the log cannot be read: {error}")),
    }
    let id: PipelineId = PIPELINE.parse().expect("a name");
    let current = &state.pipelines[&id];
    served(client, &id, current).await;
    acked(world, &told, &chain, current).await;
    numbered(world, &chain, current);
    in_one_place(world, current);
    versions(world, &told, current).await;
    aliases(world, &told, &chain, current);
    if let Some(run) = told.runs.iter().find(|run| !current.runs.contains_key(run)) {
        world.broken(format!("run {run} was started and is not there"));
    }
    for (name, epoch) in &told.epochs {
        let known = current.producers.iter().find(|(known, _)| known.to_string() == *name);
        if known.is_none_or(|(_, known)| known.epoch < *epoch) {
            world.broken(format!("{name} was given epoch {epoch}, and {known:?} is there"));
        }
    }
    let counts = (chain.len(), told.acks.len(), current.versions.len(), chain.last().map(|link| link.record.epoch));
    world.note("check", format!("records, acks, versions, epoch: {counts:?}"));
}

/// The records that count: of each number the one that was created first. Others lie over numbers that were retired.
fn chain(world: &World) -> Vec<Link> {
    let mut first: BTreeMap<u64, Recorded> = BTreeMap::new();
    for recorded in world.bucket.records() {
        first.entry(recorded.number).or_insert(recorded);
    }
    let mut writers = BTreeMap::new();
    let mut chain: Vec<Link> = Vec::new();
    for (expected, (number, recorded)) in (1..).zip(first) {
        let line = recorded.bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let record: Record = serde_json::from_slice(line).expect("a record");
        let before = chain.last().map_or(0, |link| link.record.epoch);
        let moved_on = record.epoch == before + 1 && record.events.is_empty();
        if number != expected || !(record.epoch == before || moved_on) {
            world.broken(format!("record {number} of epoch {} comes after epoch {before}", record.epoch));
        }
        let writer = writers.entry(record.epoch).or_insert(record.writer.clone());
        if *writer != record.writer {
            world.broken(format!("epoch {} has two writers: {writer} and {}", record.epoch, record.writer));
        }
        chain.push(Link { record, moment: recorded.moment });
    }
    chain
}

fn fold(world: &World, chain: &[Link]) -> State {
    let mut state = State::default();
    for link in chain {
        for event in &link.record.events {
            if let Err(error) = state.apply(event, link.record.at) {
                world.broken(format!("{event:?} does not apply: {error}"));
            }
        }
    }
    state
}

/// Whoever serves says what the log says.
async fn served(client: &Client, id: &PipelineId, current: &PipelineState) {
    let world = &client.world;
    let says = |what: &str, agree: bool| {
        if !agree {
            world.broken(format!("the {what} that are served are not those of the log"));
        }
    };
    let chunks: Vec<_> = current.chunks_in_order().map(|chunk| convert::chunk(id, chunk, None)).collect();
    says("chunks", client.insist(|| client.all_chunks()).await == chunks);
    let runs: Vec<_> = current.runs.values().map(|run| convert::run(current, run, None)).collect();
    says("runs", client.insist(|| client.all_runs()).await == runs);
    let producers: Vec<_> = current.producers.iter().map(|(name, known)| convert::producer(name, known)).collect();
    says("producers", client.insist(|| client.all_producers()).await == producers);
    let versions: Vec<_> =
        current.versions.values().map(|version| convert::adapter_version(current, version)).collect();
    says("versions", client.insist(|| client.all_versions()).await == versions);
}

/// Every chunk that was acked was recorded before, is there once, and can be read; and there are no others.
async fn acked(world: &World, told: &Told, chain: &[Link], current: &PipelineState) {
    let mut recorded: BTreeMap<&str, u64> = BTreeMap::new();
    for link in chain {
        for event in &link.record.events {
            if let EventKind::ChunkReceived { chunk } = &event.kind {
                recorded.entry(&chunk.raw.sha256).or_insert(link.moment);
            }
        }
    }
    for ack in &told.acks {
        let there = current.chunks.values().filter(|chunk| chunk.raw.sha256 == ack.sha256).count();
        if there != 1 || recorded.get(ack.sha256.as_str()).is_none_or(|moment| *moment > ack.moment) {
            world.broken(format!("push {} of {} was acked, and is there {there} times", ack.sequence, ack.producer));
        }
    }
    for chunk in current.chunks.values() {
        if !told.sent.contains(&chunk.raw.sha256) {
            world.broken(format!("chunk {} is what nobody pushed", chunk.id));
        }
        let shards = chunk.train.iter().chain(&chunk.held_out).map(|shard| &shard.object);
        for object in shards.chain([&chunk.raw]) {
            whole(world, object).await;
        }
    }
}

async fn whole(world: &World, object: &ObjectRef) {
    let found = world.bucket.look(&object.path).await.map(|bytes| sha256(&bytes));
    if found.as_ref() != Some(&object.sha256) {
        world.broken(format!("{} is not what was recorded", object.path));
    }
}

/// A producer's pushes were taken in the order of their numbers, none twice.
fn numbered(world: &World, chain: &[Link], current: &PipelineState) {
    for name in PRODUCERS {
        let events = chain.iter().flat_map(|link| &link.record.events);
        let taken = events.filter_map(|event| match &event.kind {
            EventKind::ProducerAdvanced { producer, chunk } if producer.to_string() == name => Some(chunk),
            _ => None,
        });
        for (sequence, chunk) in (1..).zip(taken) {
            let wanted = sha256(&payload(name, sequence));
            if current.chunks.get(chunk).is_none_or(|chunk| chunk.raw.sha256 != wanted) {
                world.broken(format!("push {sequence} of {name} was counted as {chunk}"));
            }
        }
    }
}

/// Along the lineage of what serves, each chunk was absorbed once.
fn in_one_place(world: &World, current: &PipelineState) {
    let line = lineage(&current.versions, current.tip);
    for chunk in current.chunks.values() {
        let times = line.iter().filter(|version| current.versions[version].chunks.contains(&chunk.id)).count();
        if times != 1 {
            world.broken(format!("chunk {} is absorbed {times} times along {line:?}", chunk.id));
        }
    }
    let arrivals: BTreeSet<_> = current.arrivals.iter().collect();
    let chunks: Vec<&Chunk> = current.chunks.values().collect();
    if arrivals.len() != current.arrivals.len() || arrivals.len() != chunks.len() {
        world.broken(format!("{} chunks arrived {} times", chunks.len(), current.arrivals.len()));
    }
}

/// What was seen of versions is what is there, unless it was retired, and each passed.
async fn versions(world: &World, told: &Told, current: &PipelineState) {
    let weights = |number: &u64| current.versions.get(&domain::id::Version(*number)).map(|known| &known.weights_sha256);
    if let Some((number, _)) = told.versions.iter().find(|(number, seen)| weights(number) != Some(seen)) {
        world.broken(format!("version {number} was seen and is not there"));
    }
    if !current.leaving.is_empty() {
        world.broken(format!("files of retired versions are still there: {:?}", current.leaving));
    }
    for version in current.versions.values() {
        let stays = !current.retired.contains_key(&version.number);
        for file in version.files.iter().filter(|_| stays) {
            whole(world, file).await;
        }
        if version.report.verdict != Verdict::Pass {
            world.broken(format!("version {} did not pass", version.number));
        }
    }
}

fn aliases(world: &World, told: &Told, chain: &[Link], current: &PipelineState) {
    for (alias, of) in ALIASES.into_iter().zip([Alias::Champion, Alias::Challenger]) {
        let mut calls = told.calls.get(alias).cloned().unwrap_or_default();
        if of == Alias::Champion {
            calls.extend(published(chain));
        }
        let (now, did) = (world.moment(), Did::Read(current.aliases.get(&of).map(|version| version.0)));
        calls.push(Call { did, began: now, ended: now });
        if !is_linearizable(&calls) {
            calls.sort_by_key(|call| call.began);
            calls.iter().for_each(|call| println!("{call:?}"));
            world.broken(format!("{alias} cannot have moved as it was seen to"));
        }
    }
}

/// A version that is published becomes the champion, some time after its record was created.
fn published(chain: &[Link]) -> impl Iterator<Item = Call> {
    chain.iter().flat_map(|link| {
        link.record.events.iter().filter_map(|event| match &event.kind {
            EventKind::VersionPublished { version } => {
                let did = Did::Perhaps { to: version.number.0, from: None };
                Some(Call { did, began: link.moment, ended: link.moment })
            }
            _ => None,
        })
    })
}
