//! The story without data of one's own: five new looks of drawn glyphs, one bad chunk, one change of mind.

use std::time::Duration;

use anyhow::ensure;
use domain::chunk::{Payload, Row, Split};
use domain::draw::Draw;
use domain::id::TaskName;
use domain::pipeline::{ModelFolder, Pipeline};
use serde_json::{Value, json};

use super::arm::{Arm, FINE_TUNE, Learned, PERENNIAL};
use super::client::Client;
use super::progress::{Progress, now};
use crate::glyphs::{CLASSES, DOMAINS, glyphs};
use crate::report::{Pictures, percent};

/// Domains that arrive, in order. The base model knows domain 0.
const ARRIVING: std::ops::RangeInclusive<usize> = 1..=5;
/// Rows of a chunk; a tenth of them is held out.
const ROWS: usize = 2000;
/// The domain whose labels are shuffled.
const CONTRADICTED: usize = 1;
pub const SEED: u64 = 7;
/// Ranks of both arms together, and one for an evaluation beside them.
pub const SLOTS: u32 = 4;

pub struct Told {
    pub arms: Vec<Learned>,
    pub pictures: Vec<Pictures>,
    pub moved: Moved,
}

/// How long the champion's alias took to move.
pub struct Moved {
    pub from: u64,
    pub to: u64,
    pub back: Duration,
    pub forward: Duration,
}

/// The two pipelines differ in method, ranks and gate alone.
fn spec(name: &str, model: &ModelFolder, difference: Value) -> Pipeline {
    let mut spec = json!({
        "name": name,
        "model": model,
        "adapter": {"lora": {"r": 16, "alpha": 16, "target_modules": ["query", "key", "value", "dense"]}},
        "labels": CLASSES,
        "rehearsal": {"memory_size": 2000},
        "training": {
            "epochs": 5, "batch_size": 32, "replay": {"batch": 96}, "micro_batches": 4,
            "optimizer": "adamw", "learning_rate": 0.006, "schedule": "cosine",
        },
        "seed": SEED,
    });
    if let (Some(spec), Value::Object(difference)) = (spec.as_object_mut(), difference) {
        spec.extend(difference);
    }
    serde_json::from_value(spec).expect("checked by a test")
}

fn perennial(model: &ModelFolder) -> Pipeline {
    let own = json!({"method": "er", "gate": {"mode": "enforce", "max_forgetting": 0.15}, "resources": {"ranks": 2, "threads_per_rank": 1}});
    spec(PERENNIAL, model, own)
}

fn fine_tune(model: &ModelFolder) -> Pipeline {
    spec(FINE_TUNE, model, json!({"method": "ft", "gate": {"mode": "report"}}))
}

pub async fn tell(client: &Client, progress: &Progress, model: &ModelFolder) -> anyhow::Result<Told> {
    let title = "Perennial: experience replay, two ranks".to_owned();
    let mut perennial = Arm::open(client, progress, &perennial(model), title).await?;
    let title = "Fine-tuning on the same stream".to_owned();
    let mut fine_tune = Arm::open(client, progress, &fine_tune(model), title).await?;
    for domain in ARRIVING {
        let (name, task) = (DOMAINS[domain], task(domain));
        let rows = glyphs(domain, ROWS, SEED);
        tokio::try_join!(perennial.push(&task, Split::Auto, &rows), fine_tune.push(&task, Split::Auto, &rows))?;
        tokio::try_join!(perennial.publish(name), fine_tune.publish(name))?;
    }
    contradict(&mut perennial, client, progress).await?;
    let moved = change_of_mind(client, progress, &perennial).await?;
    let arms = vec![perennial.learned().await?, fine_tune.learned().await?];
    Ok(Told { arms, pictures: pictures(), moved })
}

fn task(domain: usize) -> TaskName {
    DOMAINS[domain].parse().expect("checked where the domains are named")
}

/// New drawings of a domain already learned, with labels dealt at random. All of them train, so that
/// what they break is measured on clean items.
async fn contradict(arm: &mut Arm<'_>, client: &Client, progress: &Progress) -> anyhow::Result<()> {
    let before = client.champion(&arm.pipeline).await?;
    let rows = shuffled(glyphs(CONTRADICTED, 2 * ROWS, SEED + 1), SEED);
    arm.push(&task(CONTRADICTED), Split::Train, &rows).await?;
    let run = arm.update(&format!("{}, labels shuffled", DOMAINS[CONTRADICTED])).await?;
    ensure!(run.state == "rejected", "the gate let a chunk with shuffled labels through (run {})", run.number);
    let after = client.champion(&arm.pipeline).await?;
    ensure!(
        after == before,
        "the champion moved from v{before:04} to v{after:04} although run {} was refused",
        run.number
    );
    progress.say(format!("the champion is still v{after:04}"));
    Ok(())
}

fn shuffled(mut rows: Vec<Row>, seed: u64) -> Vec<Row> {
    let order = Draw::new(seed).named("shuffled labels").permutation(rows.len());
    let labels: Vec<String> = order.into_iter().map(|from| rows[from].label.clone()).collect();
    for (row, label) in rows.iter_mut().zip(labels) {
        row.label = label;
    }
    rows
}

/// Back to the previous champion and forward again. No worker is asked.
async fn change_of_mind(client: &Client, progress: &Progress, arm: &Arm<'_>) -> anyhow::Result<Moved> {
    let from = client.champion(&arm.pipeline).await?;
    let start = now();
    let to = client.roll_back(&arm.pipeline).await?.number;
    let turn = now();
    client.promote(&arm.pipeline, from, to).await?;
    let (back, forward) = (turn - start, now() - turn);
    let champion = client.champion(&arm.pipeline).await?;
    ensure!(champion == from, "the champion is v{champion:04} after rolling back and forward, not v{from:04}");
    progress.say(format!(
        "rolled back to v{to:04} in {:.3} s, forward to v{from:04} in {:.3} s",
        back.as_secs_f64(),
        forward.as_secs_f64()
    ));
    Ok(Moved { from, to, back, forward })
}

/// What was done, for the report.
pub fn summary(base_accuracy: f64) -> Vec<String> {
    let domains: Vec<&str> = ARRIVING.map(|domain| DOMAINS[domain]).collect();
    vec![
        format!(
            "A small vision transformer was trained on plain glyphs ({} right). Then {} chunks of {ROWS} drawings in new looks \
             arrived, one after the other: {}. Two pipelines learned from them with LoRA: one replays remembered rows and \
             publishes only what its gate lets pass, the other fine-tunes on the newest chunk.",
            percent(Some(base_accuracy)),
            domains.len(),
            domains.join(", "),
        ),
        format!(
            "At last {} more drawings of “{}” arrived with their labels dealt at random. The gate refused what came of them.",
            2 * ROWS,
            DOMAINS[CONTRADICTED],
        ),
    ]
}

fn pictures() -> Vec<Pictures> {
    const EACH: usize = 6;
    let of = |domain: usize| {
        let png = glyphs(domain, EACH, SEED).into_iter().filter_map(|row| match row.payload {
            Payload::Image(png) => Some(png),
            Payload::Text(_) => None,
        });
        let role = if domain == 0 { ", known before" } else { "" };
        Pictures { caption: format!("{}{role}", DOMAINS[domain]), png: png.collect() }
    };
    std::iter::once(0).chain(ARRIVING).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::pipeline::{GateMode, Method};

    fn model() -> ModelFolder {
        ModelFolder { uri: "file:///m".to_owned(), sha256: "0".repeat(64) }
    }

    #[test]
    fn the_arms_differ_in_method_and_gate() {
        let (ours, theirs) = (perennial(&model()), fine_tune(&model()));
        assert_eq!((ours.method, theirs.method), (Method::Er, Method::Ft));
        assert_eq!((ours.gate.mode, theirs.gate.mode), (GateMode::Enforce, GateMode::Report));
        assert_eq!((ours.resources.ranks.get(), &ours.training, ours.seed), (2, &theirs.training, theirs.seed));
        assert!(ours.resources.ranks.get() + theirs.resources.ranks.get() < SLOTS);
    }

    #[test]
    fn shuffling_moves_labels_and_nothing_else() {
        let (clean, dealt) = (glyphs(1, 200, 3), shuffled(glyphs(1, 200, 3), 1));
        assert!(clean.iter().zip(&dealt).all(|(a, b)| a.payload == b.payload && a.id == b.id));
        let kept = clean.iter().zip(&dealt).filter(|(a, b)| a.label == b.label).count();
        assert!((5..45).contains(&kept), "{kept} of 200 kept their label by chance");
        let counts = |rows: &[Row]| {
            let mut labels: Vec<String> = rows.iter().map(|row| row.label.clone()).collect();
            labels.sort();
            labels
        };
        assert_eq!(counts(&clean), counts(&dealt));
    }

    #[test]
    fn every_domain_is_pictured_once() {
        let pictures = pictures();
        assert_eq!(pictures.len(), 6);
        assert!(pictures.iter().all(|kind| kind.png.len() == 6));
    }
}
