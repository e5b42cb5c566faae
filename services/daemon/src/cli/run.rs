//! `perennial run`.

use domain::id::PipelineName;
use perennial_proto::v1;
use serde::Serialize;

use super::client::{Context, all_pages, present};
use super::failure::Failure;
use super::output::{Render, fields, or_dash, some, table, time};
use super::pipeline::pipeline_of;
use super::watch;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Start an update from every chunk that waits, or from those named
    #[command(after_help = "Example:\n  perennial run start tickets --watch\n\n\
                            With --watch, exits with 3 when the gate refuses the candidate")]
    Start {
        pipeline: PipelineName,
        /// Only these chunks; they may be refused ones
        #[arg(long, value_delimiter = ',', value_name = "CHUNK,…")]
        chunks: Vec<String>,
        /// Train anew what versions in use learnt from rows about SUBJECT and after them, without those rows: they must have been
        /// erased (`perennial buffer erase`)
        #[arg(long, value_name = "SUBJECT", conflicts_with = "chunks")]
        without: Option<String>,
        /// Wait for its end
        #[arg(long)]
        watch: bool,
    },
    /// Follow a run to its end
    #[command(
        after_help = "Example:\n  perennial run watch tickets 7\n\nExits with 3 when the gate refuses the candidate"
    )]
    Watch { pipeline: PipelineName, run: u64 },
    /// List the runs of a pipeline
    #[command(after_help = "Example:\n  perennial run ls tickets")]
    Ls { pipeline: PipelineName },
    /// Show one run
    #[command(after_help = "Example:\n  perennial run show tickets 7")]
    Show { pipeline: PipelineName, run: u64 },
    /// Stop a run; its chunks are set aside as refused
    #[command(after_help = "Example:\n  perennial run cancel tickets 7")]
    Cancel { pipeline: PipelineName, run: u64 },
}

impl Verb {
    pub async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let name = |pipeline: &PipelineName, run: u64| format!("{}/runs/{run}", ctx.pipeline(pipeline));
        match self {
            Self::Start { pipeline, chunks, without, watch } => {
                let (pipeline, without_subject) = (ctx.pipeline(&pipeline), without.unwrap_or_default());
                start(ctx, v1::StartRunRequest { pipeline, chunks, without_subject }, watch).await
            }
            Self::Watch { pipeline, run } => follow(ctx, name(&pipeline, run), false).await,
            Self::Ls { pipeline } => list(ctx, &pipeline).await,
            Self::Show { pipeline, run } => show(ctx, name(&pipeline, run)).await,
            Self::Cancel { pipeline, run } => cancel(ctx, name(&pipeline, run)).await,
        }
    }
}

async fn start(ctx: &Context, request: v1::StartRunRequest, watch: bool) -> Result<(), Failure> {
    let started = ctx.runs().await?.start_run(ctx.request(request)).await?.into_inner();
    let run = present(started.run)?;
    match watch {
        true => follow(ctx, run.name, true).await,
        false => ctx.show(&RunView::from(run)),
    }
}

async fn follow(ctx: &Context, name: String, reached: bool) -> Result<(), Failure> {
    let run = RunView::from(watch::to_the_end(ctx, name, reached).await?);
    ctx.show(&run)?;
    run.outcome()
}

/// The number of the version that a run just started ends in.
pub async fn published(ctx: &Context, name: String) -> Result<u64, Failure> {
    let run = watch::to_the_end(ctx, name, true).await?;
    let version = run.version;
    RunView::from(run).outcome().map(|()| version)
}

async fn list(ctx: &Context, pipeline: &PipelineName) -> Result<(), Failure> {
    let mut client = ctx.runs().await?;
    let runs = all_pages(async |page_token| {
        let request = v1::ListRunsRequest { parent: ctx.pipeline(pipeline), page_size: 0, page_token };
        let page = client.list_runs(ctx.request(request)).await?.into_inner();
        Ok((page.runs, page.next_page_token))
    });
    let runs = runs.await?.into_iter().map(RunView::from).collect();
    ctx.show(&RunList { runs })
}

async fn show(ctx: &Context, name: String) -> Result<(), Failure> {
    let request = ctx.request(v1::GetRunRequest { name });
    let response = ctx.runs().await?.get_run(request).await?.into_inner();
    ctx.show(&RunView::from(present(response.run)?))
}

async fn cancel(ctx: &Context, name: String) -> Result<(), Failure> {
    let request = ctx.request(v1::CancelRunRequest { name });
    let response = ctx.runs().await?.cancel_run(request).await?.into_inner();
    ctx.show(&RunView::from(present(response.run)?))
}

#[derive(Serialize)]
pub struct RunView {
    resource: String,
    pipeline: String,
    run: u64,
    state: String,
    verdict: Option<String>,
    reasons: Vec<String>,
    attempts: u32,
    chunks: Vec<String>,
    parent_version: Option<u64>,
    version: Option<u64>,
    queued_at_ms: Option<u64>,
    ended_at_ms: Option<u64>,
    progress: Option<ProgressView>,
    last_error: Option<String>,
}

#[derive(Serialize)]
struct ProgressView {
    stage: String,
    step: u64,
    total_steps: u64,
    /// None where it is not finite: JSON has no word for that.
    loss: Option<f64>,
    progress_percentage: u32,
    estimated_remaining_seconds: f64,
}

#[derive(Serialize)]
struct RunList {
    runs: Vec<RunView>,
}

impl From<v1::Run> for RunView {
    fn from(wire: v1::Run) -> Self {
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let progress = |progress: v1::Progress| ProgressView {
            stage: progress.stage,
            step: progress.step,
            total_steps: progress.total_steps,
            loss: Some(progress.loss).filter(|loss| loss.is_finite()),
            progress_percentage: progress.progress_percentage,
            estimated_remaining_seconds: progress.estimated_remaining_seconds,
        };
        Self {
            pipeline: pipeline_of(&wire.name),
            resource: wire.name,
            run: wire.number,
            state: wire.state,
            verdict: text(wire.verdict),
            reasons: wire.reasons,
            attempts: wire.attempts,
            chunks: wire.chunks,
            parent_version: some(wire.parent_version),
            version: some(wire.version),
            queued_at_ms: some(wire.queued_at_ms),
            ended_at_ms: some(wire.ended_at_ms),
            progress: wire.progress.map(progress),
            last_error: text(wire.last_error),
        }
    }
}

impl RunView {
    /// How a run that has ended counts for whoever waited for it.
    fn outcome(&self) -> Result<(), Failure> {
        let Self { pipeline, run, state, .. } = self;
        let why = match self.reasons.is_empty() {
            true => String::new(),
            false => format!(": {}", self.reasons.join("; ")),
        };
        match state.as_str() {
            "published" => Ok(()),
            "rejected" => Err(Failure::Refused(format!("the gate refused run {run} of `{pipeline}`{why}"))),
            _ => Err(Failure::Failed(format!("run {run} of `{pipeline}` is {state}{why}"))),
        }
    }

    fn state(&self) -> String {
        match (&self.progress, self.ended_at_ms) {
            (Some(p), None) => format!("{} {} %", self.state, p.progress_percentage),
            _ => self.state.clone(),
        }
    }

    fn version(&self) -> String {
        or_dash(self.version.map(|version| format!("v{version}")))
    }
}

impl Render for RunView {
    fn text(&self) -> String {
        fields([
            ("run", format!("{} of {}", self.run, self.pipeline)),
            ("state", self.state()),
            ("verdict", self.verdict.clone().unwrap_or_default()),
            ("reasons", self.reasons.join("\n")),
            ("version", self.version.map(|v| format!("v{v}")).unwrap_or_default()),
            ("parent", self.parent_version.map_or("the base model".to_owned(), |v| format!("v{v}"))),
            ("chunks", self.chunks.join("\n")),
            ("attempts", self.attempts.to_string()),
            ("last error", self.last_error.clone().unwrap_or_default()),
            ("queued", time(self.queued_at_ms)),
            ("ended", self.ended_at_ms.map(|at| time(Some(at))).unwrap_or_default()),
        ])
    }
}

impl Render for RunList {
    fn text(&self) -> String {
        let rows = self.runs.iter().map(|r| {
            let (verdict, chunks) = (or_dash(r.verdict.as_ref()), r.chunks.len().to_string());
            [r.run.to_string(), r.state(), verdict, r.version(), chunks, time(r.queued_at_ms), time(r.ended_at_ms)]
        });
        let empty = "no runs; start one by `perennial run start PIPELINE`";
        table(["run", "state", "verdict", "version", "chunks", "queued", "ended"], rows, empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::ExitCode;

    fn ended(state: &str) -> RunView {
        RunView::from(v1::Run {
            name: "namespaces/default/pipelines/tickets/runs/7".to_owned(),
            number: 7,
            state: state.to_owned(),
            reasons: vec!["task `a` fell".to_owned()],
            ..Default::default()
        })
    }

    #[test]
    fn only_a_published_run_is_a_success_and_a_refusal_has_its_own_code() {
        assert!(ended("published").outcome().is_ok());
        let refused = ended("rejected").outcome().unwrap_err();
        assert_eq!(refused.to_string(), "the gate refused run 7 of `tickets`: task `a` fell");
        assert_eq!(format!("{:?}", refused.exit_code()), format!("{:?}", ExitCode::from(3)));
        let failed = ended("failed").outcome().unwrap_err();
        assert_eq!(format!("{:?}", failed.exit_code()), format!("{:?}", ExitCode::from(1)));
    }

    #[test]
    fn the_json_of_a_run_keeps_its_keys() {
        let json = serde_json::to_value(ended("queued")).unwrap();
        let mut keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        let wanted = [
            "attempts",
            "chunks",
            "ended_at_ms",
            "last_error",
            "parent_version",
            "pipeline",
            "progress",
            "queued_at_ms",
            "reasons",
            "resource",
            "run",
            "state",
            "verdict",
            "version",
        ];
        assert_eq!(keys, wanted);
        assert!(json["version"].is_null() && json["verdict"].is_null());
    }
}
