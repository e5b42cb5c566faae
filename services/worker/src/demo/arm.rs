//! One pipeline of the demo, from its spec to what it learned.

use anyhow::{Context, ensure};
use domain::chunk::{Row, Split};
use domain::flips::Flips;
use domain::id::{PipelineName, TaskName};
use domain::matrix::AccuracyMatrix;
use domain::pipeline::Pipeline;
use perennial_proto::v1;
use serde::Serialize;

use super::client::{Client, Push};
use super::progress::Progress;
use crate::scores::Answers;

pub const PERENNIAL: &str = "perennial";
pub const FINE_TUNE: &str = "fine-tune";

/// What a run that the gate refused had been given, and the gate's reasons.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refused {
    pub pipeline: String,
    pub run: u64,
    pub what: String,
    pub chunks: Vec<String>,
    pub reasons: Vec<String>,
}

/// A published version, as scripts read it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Published {
    pub pipeline: String,
    pub version: u64,
    /// None: the base model.
    pub parent: Option<u64>,
    pub run: u64,
    pub verdict: String,
    pub aliases: Vec<String>,
    /// Those that are only measured yet, too: another mean than an arm's, which is over the tasks learned.
    pub average_over_all_tasks: Option<f64>,
    /// Over all held-out items; flips are those since the version in `compared_with`.
    #[serde(flatten)]
    pub answers: Answers,
    /// None: the base model.
    pub compared_with: Option<u64>,
    pub weights_sha256: String,
    pub folder: String,
}

pub struct Arm<'a> {
    client: &'a Client,
    progress: &'a Progress,
    pub pipeline: PipelineName,
    /// As people read it.
    title: String,
    refused: Vec<Refused>,
}

/// Everything an arm leaves.
pub struct Learned {
    pub pipeline: String,
    pub title: String,
    pub tasks: Vec<String>,
    pub matrix: AccuracyMatrix,
    pub versions: Vec<Published>,
    pub refused: Vec<Refused>,
}

impl<'a> Arm<'a> {
    /// Registers the pipeline.
    pub async fn open(
        client: &'a Client,
        progress: &'a Progress,
        spec: &Pipeline,
        title: String,
    ) -> anyhow::Result<Self> {
        client.apply(spec).await?;
        Ok(Self { client, progress, pipeline: spec.name.clone(), title, refused: Vec::new() })
    }

    pub async fn push(&self, task: &TaskName, split: Split, rows: &[Row]) -> anyhow::Result<()> {
        self.client.push(&Push { pipeline: &self.pipeline, task, split, rows }).await?;
        Ok(())
    }

    /// One run over what was pushed; `what` says what that was.
    pub async fn update(&mut self, what: &str) -> anyhow::Result<v1::Run> {
        let track = self.progress.track(&format!("{what} → {}", self.pipeline));
        let run = self.client.run(&self.pipeline, |run| track.run(run)).await?;
        drop(track);
        self.progress.say(format!("{what} → {} run {}: {}", self.pipeline, run.number, outcome(&run)));
        if run.state == "rejected" {
            self.refused.push(Refused {
                pipeline: self.pipeline.to_string(),
                run: run.number,
                what: what.to_owned(),
                chunks: run.chunks.clone(),
                reasons: run.reasons.clone(),
            });
        }
        Ok(run)
    }

    /// One run over what was pushed, which has to end in a version.
    pub async fn publish(&mut self, what: &str) -> anyhow::Result<()> {
        let run = self.update(what).await?;
        must_be_published(&run).with_context(|| format!("`{}` did not learn {what}", self.pipeline))
    }

    pub async fn learned(self) -> anyhow::Result<Learned> {
        let (tasks, matrix) = self.client.matrix(&self.pipeline).await?;
        let versions = self.client.versions(&self.pipeline).await?;
        let pipeline = self.pipeline.to_string();
        Ok(Learned {
            versions: versions.into_iter().map(|version| published(&pipeline, version)).collect(),
            title: self.title,
            refused: self.refused,
            pipeline,
            tasks,
            matrix,
        })
    }
}

fn must_be_published(run: &v1::Run) -> anyhow::Result<()> {
    ensure!(run.state == "published", "run {} was {}: {}", run.number, run.state, run.reasons.join("; "));
    Ok(())
}

fn outcome(run: &v1::Run) -> String {
    match run.state.as_str() {
        "published" if run.verdict == "PASS" => format!("published v{:04}", run.version),
        "published" => {
            format!("published v{:04} although the gate says {}: {}", run.version, run.verdict, run.reasons.join("; "))
        }
        state => format!("{state} by the gate: {}", run.reasons.join("; ")),
    }
}

fn published(pipeline: &str, version: v1::Version) -> Published {
    Published {
        pipeline: pipeline.to_owned(),
        version: version.number,
        parent: (version.parent > 0).then_some(version.parent),
        run: version.run,
        verdict: version.verdict,
        aliases: version.aliases,
        average_over_all_tasks: version.average_accuracy,
        answers: Answers {
            expected_calibration_error: version.expected_calibration_error,
            brier_score: version.brier_score,
            flips: version.flips.map(|flips| Flips::from(flips).into()),
        },
        compared_with: version.flips.map(|flips| flips.baseline),
        weights_sha256: version.weights_sha256,
        folder: version.folder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_that_the_gate_refused_is_not_taken_for_learned() {
        let run = |state: &str| v1::Run {
            number: 4,
            state: state.to_owned(),
            reasons: vec!["task `a` fell".to_owned()],
            ..Default::default()
        };
        assert!(must_be_published(&run("published")).is_ok());
        let error = must_be_published(&run("rejected")).unwrap_err().to_string();
        assert_eq!(error, "run 4 was rejected: task `a` fell");
    }

    #[test]
    fn an_outcome_says_what_the_gate_found() {
        let run = |state: &str, verdict: &str| v1::Run {
            state: state.to_owned(),
            verdict: verdict.to_owned(),
            reasons: vec!["task `a` fell".to_owned()],
            version: 3,
            ..Default::default()
        };
        assert_eq!(outcome(&run("published", "PASS")), "published v0003");
        assert!(outcome(&run("published", "FAIL")).ends_with("although the gate says FAIL: task `a` fell"));
        assert_eq!(outcome(&run("rejected", "FAIL")), "rejected by the gate: task `a` fell");
    }
}
