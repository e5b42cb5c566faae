//! What clients do while things go wrong: producers push in order, people start runs and move aliases, others look.

use std::ops::ControlFlow;
use std::sync::Arc;

use perennial_proto::v1;
use serde_json::json;
use store::objects::sha256;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::client::{Client, PIPELINE, is_refusal, within};
use crate::history::ALIASES;
use crate::linear::Did;
use crate::world::World;

pub const PRODUCERS: [&str; 3] = ["kiosk", "desk", "phone"];
pub const CHATTERERS: [&str; 3] = ["radio", "parrot", "neighbour"];
const PUSHES: u64 = 12;

pub async fn apply(client: &Client) {
    let spec = json!({
        "name": "notes", "model": "mlp:8", "method": "er", "labels": ["a", "b"], "seed": 7,
        "evaluation": {"held_out_fraction": 0.25}, "retention": {"versions": client.world.setting.versions_kept},
    });
    let spec_json = spec.to_string().into_bytes();
    let apply = || {
        let request = within(v1::ApplyPipelineRequest { spec_json: spec_json.clone() });
        async move { client.pipelines().apply_pipeline(request).await }
    };
    client.insist(apply).await;
}

/// Push `sequence` of a producer. No two are equal.
pub fn payload(producer: &str, sequence: u64) -> Vec<u8> {
    let row = |row: u64| {
        let label = ["a", "b"][(row % 2) as usize];
        format!("{}\n", json!({"text": format!("{producer} says {row} of {sequence}"), "label": label}))
    };
    (0..2 + sequence % 4).map(row).collect::<String>().into_bytes()
}

/// Pushes everything in order, whatever it takes. Now and then it forgets what it was told, as after a restart.
pub async fn produce(client: Client, name: &'static str) {
    let (world, history) = (&client.world, &client.history);
    let (mut known, mut sent) = (0, 0);
    while known < PUSHES {
        let open = || {
            let (pipeline, producer) = (PIPELINE.to_owned(), name.to_owned());
            let request = within(v1::OpenProducerRequest { pipeline, producer });
            let mut chunks = client.chunks();
            async move { Ok(chunks.open_producer(request).await?.into_inner().producer.unwrap_or_default()) }
        };
        let opened = client.insist(open).await;
        world.note(name, format!("has epoch {} and goes on at {}", opened.epoch, opened.next_sequence));
        if !(known + 1..=sent + 1).contains(&opened.next_sequence) {
            world.broken(format!("{name} knows of {known} and sent {sent}, and is told to go on at {opened:?}"));
        }
        for sequence in known + 1..opened.next_sequence {
            history.acked(world, name, sequence, sha256(&payload(name, sequence)));
        }
        known = opened.next_sequence - 1;
        while known < PUSHES {
            sleep(world.dice.time(0, 2000)).await;
            sent = known + 1;
            if push(&client, name, opened.epoch, sent).await.is_break() {
                break;
            }
            known = sent;
        }
    }
    world.note(name, "has pushed everything");
}

/// Opens again and again a producer that pushes nothing: the log grows quickly, and each epoch is later than the last.
pub async fn chatter(client: Client, name: &'static str) {
    let (world, mut last) = (&client.world, 0);
    while !world.is_over() {
        sleep(world.dice.time(50, 700)).await;
        let (pipeline, producer) = (PIPELINE.to_owned(), name.to_owned());
        let request = within(v1::OpenProducerRequest { pipeline, producer });
        let Ok(answer) = client.chunks().open_producer(request).await else { continue };
        let epoch = answer.into_inner().producer.unwrap_or_default().epoch;
        if epoch <= last {
            world.broken(format!("{name} was given epoch {epoch} after {last}"));
        }
        last = epoch;
        client.history.opened(name, epoch);
    }
}

/// Breaks where the producer has to open anew.
async fn push(client: &Client, name: &str, epoch: u64, sequence: u64) -> ControlFlow<()> {
    let (world, bytes) = (&client.world, payload(name, sequence));
    let digest = sha256(&bytes);
    client.history.sent(&digest);
    if world.dice.chance(0.1) {
        // Somebody pushes the same at the same time and counts nothing.
        let (client, bytes) = (client.clone(), bytes.clone());
        tokio::spawn(async move { try_push(&client, None, &bytes).await });
    }
    loop {
        let origin = v1::Origin { producer: name.to_owned(), epoch, sequence };
        let status = match try_push(client, Some(origin), &bytes).await {
            Ok(_) => {
                world.note(name, format!("{sequence} is acked"));
                client.history.acked(world, name, sequence, digest);
                push_again(client, name, epoch, sequence).await;
                return ControlFlow::Continue(());
            }
            Err(status) => status,
        };
        world.note(name, format!("{sequence} failed: {:?} {}", status.code(), status.message()));
        match status.code() {
            // Its own call to open it, whose answer was lost, may have come late.
            Code::Aborted if status.message().contains("was opened again") => return ControlFlow::Break(()),
            // Somebody else's upload of the same, or its own.
            Code::Aborted => {}
            _ if is_refusal(&status) => world.broken(format!("push {sequence} of {name} is refused: {status:?}")),
            _ if world.dice.chance(0.15) => return ControlFlow::Break(()),
            _ => {}
        }
        sleep(world.dice.time(50, 1500)).await;
    }
}

async fn try_push(client: &Client, origin: Option<v1::Origin>, bytes: &[u8]) -> Result<v1::PushChunkResponse, Status> {
    let (pipeline, digest, dice) = (PIPELINE.to_owned(), sha256(bytes), &client.world.dice);
    let mut header = v1::ChunkHeader {
        pipeline: pipeline.clone(),
        format: v1::Format::Jsonl.into(),
        split: v1::Split::Auto.into(),
        origin,
        wait: dice.chance(0.3),
        ..Default::default()
    };
    if dice.chance(0.3) {
        let query = v1::QueryUploadRequest { pipeline, sha256: digest.clone() };
        header.offset = client.ingest().query_upload(within(query)).await?.into_inner().durable_bytes;
        (header.sha256, header.total_bytes) = (digest, bytes.len() as u64);
    }
    client.push(header, bytes).await
}

/// What is there is there once; and an epoch that is over pushes nothing.
async fn push_again(client: &Client, name: &str, epoch: u64, sequence: u64) {
    let (world, bytes) = (&client.world, payload(name, sequence));
    if world.dice.chance(0.2)
        && let Ok(again) = try_push(client, None, &bytes).await
        && !again.already_exists
    {
        world.broken(format!("{name} pushed {sequence} again, and it was new"));
    }
    if world.dice.chance(0.2) && epoch > 1 {
        let origin = v1::Origin { producer: name.to_owned(), epoch: epoch - 1, sequence: sequence + 1 };
        let stale = format!("{{\"text\": \"{name} of old, {sequence}\", \"label\": \"a\"}}\n");
        if try_push(client, Some(origin), stale.as_bytes()).await.is_ok() {
            world.broken(format!("{name} pushed under epoch {}, and {epoch} was open", epoch - 1));
        }
    }
}

/// Starts runs, now and then cancels one, and gives refused chunks another chance.
pub async fn operate(client: Client) {
    let world = &client.world;
    while !world.is_over() {
        sleep(world.dice.time(500, 4000)).await;
        match client.start_run().await {
            Ok(()) => {}
            Err(status) if is_refusal(&status) => {
                if let Ok(chunks) = client.all_chunks().await {
                    let _ = client.release(&chunks).await;
                }
            }
            Err(status) => world.note("operator", format!("no run: {}", status.message())),
        }
        if world.dice.chance(0.1)
            && let Ok(runs) = client.all_runs().await
            && let Some(run) = runs.last()
        {
            let _ = client.runs().cancel_run(within(v1::CancelRunRequest { name: run.name.clone() })).await;
        }
    }
}

/// Looks at an alias. None where nobody answers.
pub async fn look(client: &Client, alias: &'static str) -> Option<Option<u64>> {
    let (world, began) = (&client.world, client.world.moment());
    let request = v1::GetVersionRequest { name: format!("{PIPELINE}/versions/@{alias}") };
    let found = match client.registry().get_version(within(request)).await {
        Ok(answer) => {
            let version = answer.into_inner().version.unwrap_or_default();
            client.history.saw(world, &version).await;
            Some(version.number)
        }
        Err(status) if status.code() == Code::NotFound => None,
        Err(_) => return None,
    };
    client.history.called(world, alias, began, Did::Read(found));
    Some(found)
}

pub async fn read(client: Client) {
    while !client.world.is_over() {
        sleep(client.world.dice.time(50, 1000)).await;
        look(&client, client.world.dice.one(&ALIASES)).await;
    }
}

/// Waits until there are so many.
pub async fn versions(client: &Client, wanted: usize) {
    while client.all_versions().await.is_ok_and(|versions| versions.len() < wanted) {
        sleep(client.world.dice.time(100, 500)).await;
    }
}

/// Moves aliases to versions that are there, most of the time from where they were seen.
pub async fn promote(client: Client) {
    let world = &client.world;
    while !world.is_over() {
        sleep(world.dice.time(200, 2500)).await;
        let Ok(versions) = client.all_versions().await else { continue };
        let numbers: Vec<u64> = versions.iter().map(|version| version.number).collect();
        if numbers.is_empty() {
            continue;
        }
        let alias = world.dice.one(&ALIASES);
        let from = match world.dice.below(10) {
            0..7 => look(&client, alias).await,
            7..9 => Some(Some(world.dice.one(&numbers))),
            _ => None,
        };
        set(&client, alias, world.dice.one(&numbers), from).await;
    }
}

async fn set(client: &Client, alias: &'static str, to: u64, from: Option<Option<u64>>) {
    let (world, began): (&Arc<World>, u64) = (&client.world, client.world.moment());
    let request = v1::SetAliasRequest {
        pipeline: PIPELINE.to_owned(),
        alias: alias.to_owned(),
        version: to,
        expected_version: from.map(Option::unwrap_or_default),
        chunks: v1::ChunkDisposition::Requeue.into(),
    };
    let did = match client.registry().set_alias(within(request)).await {
        Ok(_) => Did::Set { to, from },
        Err(status) if status.code() == Code::Aborted => Did::Refused { from: from.expect("it expected something") },
        // A run is being published.
        Err(status) if status.code() == Code::FailedPrecondition => return,
        Err(status) if is_refusal(&status) => world.broken(format!("{alias} to {to}: {status:?}")),
        Err(_) => Did::Perhaps { to, from },
    };
    client.history.called(world, alias, began, did);
}
