//! `perennial shift`.

use std::str::FromStr;
use std::time::Duration;

use domain::id::PipelineName;
use perennial_proto::v1;
use serde::Serialize;

use super::client::Context;
use super::failure::Failure;
use super::output::{Render, fields, some, table};
use super::pipeline::{last, pipeline_of};

const EXAMPLE: &str = "\
Example:
  perennial shift tickets/3f0c9a7be2d14c55a8e01b2c3d4e5f60 --against june

Tests, each of the hypothesis that nothing has changed:
  mmd      rows look different (maximum mean discrepancy of the base model's features, by 1000 permutations)
  ks       some feature is distributed differently (Kolmogorov and Smirnov, corrected by Bonferroni)
  labels   labels come in other proportions (chi-squared; counts under five make p too small); of rows that nobody has labelled, answers
  concept  rows are harder than rows of the same label were (the version's loss, by 1000 permutations): noise, another look, or labels that
           mean something else

p is how often so much would be found if nothing had changed: of twenty chunks that bring nothing new, one has p < 0.05. A chunk is compared
with what the version that the next run continues from knew, or the last one that had not learnt the chunk; up to 1000 rows of each side
are looked at, by an evaluator, while no run of the pipeline is under way.";

/// A chunk: `tickets/3f0c…`, or its whole resource name.
#[derive(Clone, Debug, PartialEq)]
pub enum ChunkName {
    Of { pipeline: PipelineName, chunk: String },
    Resource(String),
}

impl FromStr for ChunkName {
    type Err = String;
    fn from_str(given: &str) -> Result<Self, String> {
        if given.starts_with("namespaces/") {
            return Ok(Self::Resource(given.to_owned()));
        }
        let (pipeline, chunk) = given.split_once('/').filter(|(_, chunk)| !chunk.is_empty()).ok_or_else(|| {
            format!("write PIPELINE/CHUNK, such as tickets/{given}; `perennial chunk ls PIPELINE` lists chunks")
        })?;
        let pipeline = pipeline.parse().map_err(|error: domain::id::InvalidName| error.to_string())?;
        Ok(Self::Of { pipeline, chunk: chunk.to_owned() })
    }
}

#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// `PIPELINE/CHUNK`
    chunk: ChunkName,
    /// Only with these: `buffer`, or a task. Default: with the buffer and every task
    #[arg(long, value_name = "TASK|buffer")]
    against: Vec<String>,
    /// Wait until it is compared, for `--timeout` at most
    #[arg(long)]
    wait: bool,
}

/// Between two looks of `--wait`.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Args {
    pub async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let name = match self.chunk {
            ChunkName::Of { pipeline, chunk } => format!("{}/chunks/{chunk}", ctx.pipeline(&pipeline)),
            ChunkName::Resource(name) => name,
        };
        let mut chunks = ctx.chunks().await?;
        let mut ask = async || {
            let request = v1::GetShiftRequest { name: name.clone(), against: self.against.clone() };
            Ok::<_, Failure>(chunks.get_shift(ctx.request(request)).await?.into_inner())
        };
        let mut found = ask().await?;
        let patience = tokio::time::Instant::now() + ctx.timeout();
        while self.wait && found.pending && tokio::time::Instant::now() < patience {
            tokio::time::sleep(LOOK_AGAIN).await;
            found = ask().await?;
        }
        let waits = self.wait && found.pending;
        ctx.show(&View::new(&name, found))?;
        match waits {
            true => Err(Failure::Failed("nobody has compared it yet; wait longer with --timeout".to_owned())),
            false => Ok(()),
        }
    }
}

#[derive(Serialize)]
struct View {
    pipeline: String,
    chunk: String,
    /// An evaluator has yet to look at it.
    pending: bool,
    /// Of the memory, the tasks and the losses. None: it was not compared.
    version: Option<u64>,
    failure: Option<String>,
    shifts: Vec<ShiftView>,
}

#[derive(Serialize)]
struct ShiftView {
    /// `buffer`, or a task.
    against: String,
    tests: Vec<TestView>,
}

#[derive(Serialize)]
struct TestView {
    detector: String,
    statistic: f64,
    p_value: f64,
    /// 1 − p.
    score: f64,
    reference_rows: u64,
    rows: u64,
    moved: Vec<MovedView>,
}

#[derive(Serialize)]
struct MovedView {
    name: String,
    by: f64,
}

impl View {
    fn new(name: &str, wire: v1::GetShiftResponse) -> Self {
        Self {
            pipeline: pipeline_of(name),
            chunk: last(name),
            pending: wire.pending,
            version: some(wire.version),
            failure: Some(wire.failure).filter(|failure| !failure.is_empty()),
            shifts: wire.shifts.into_iter().map(ShiftView::from).collect(),
        }
    }

    fn standing(&self) -> String {
        match (&self.failure, self.pending, self.version) {
            (Some(failure), _, _) => format!("could not be compared: {failure}"),
            (_, true, None) => "waits for an evaluator".to_owned(),
            (_, true, Some(_)) => "compared; waits to be compared again, since it changed".to_owned(),
            (_, false, Some(version)) if self.shifts.is_empty() => {
                format!(
                    "compared with what v{version} knew; there was nothing, or so many chunks came since that details are gone"
                )
            }
            (_, false, Some(version)) => format!("compared with what v{version} knew"),
            (_, false, None) => {
                "not compared: it came before there was a version, among too many others, or `data.shift` is off"
                    .to_owned()
            }
        }
    }
}

impl From<v1::Shift> for ShiftView {
    fn from(wire: v1::Shift) -> Self {
        let moved = |moved: v1::ShiftedPart| MovedView { name: moved.name, by: moved.by };
        let test = |test: v1::ShiftTest| TestView {
            detector: test.detector,
            statistic: test.statistic,
            p_value: test.p_value,
            score: 1.0 - test.p_value,
            reference_rows: test.reference_rows,
            rows: test.rows,
            moved: test.moved.into_iter().map(moved).collect(),
        };
        let against = if wire.task.is_empty() { "buffer".to_owned() } else { wire.task };
        Self { against, tests: wire.tests.into_iter().map(test).collect() }
    }
}

impl Render for View {
    fn text(&self) -> String {
        let head =
            fields([("chunk", self.chunk.clone()), ("pipeline", self.pipeline.clone()), ("shift", self.standing())]);
        let tests = self.shifts.iter().flat_map(|shift| shift.tests.iter().map(move |test| (&shift.against, test)));
        let rows = tests.map(|(against, test)| {
            let moved: Vec<String> = test.moved.iter().take(3).map(|m| format!("{} {:+.3}", m.name, m.by)).collect();
            [
                against.clone(),
                test.detector.clone(),
                format!("{:.4}", test.statistic),
                p_value(test.p_value),
                format!("{} / {}", test.rows, test.reference_rows),
                moved.join(", "),
            ]
        });
        if self.shifts.is_empty() {
            return head;
        }
        format!("{head}\n\n{}", table(["against", "test", "statistic", "p", "rows", "moved most"], rows, ""))
    }
}

fn p_value(p: f64) -> String {
    if p < 1e-3 { format!("{p:.0e}") } else { format!("{p:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_named_with_its_pipeline() {
        let of = ChunkName::Of { pipeline: "tickets".parse().unwrap(), chunk: "3f".to_owned() };
        assert_eq!("tickets/3f".parse(), Ok(of));
        let whole = "namespaces/default/pipelines/tickets/chunks/3f";
        assert_eq!(whole.parse(), Ok(ChunkName::Resource(whole.to_owned())));
        assert!(ChunkName::from_str("3f").unwrap_err().contains("tickets/3f"));
    }

    #[test]
    fn a_shift_shows_what_moved_and_a_chunk_without_one_why() {
        let test = v1::ShiftTest {
            detector: "mmd".to_owned(),
            statistic: 0.25,
            p_value: 0.000_999,
            reference_rows: 500,
            rows: 80,
            moved: vec![v1::ShiftedPart { name: "spam".to_owned(), by: 0.5 }],
        };
        let shift = v1::Shift { task: String::new(), tests: vec![test] };
        let name = "namespaces/default/pipelines/tickets/chunks/3f";
        let wire = v1::GetShiftResponse { version: 4, shifts: vec![shift], ..Default::default() };
        let text = View::new(name, wire).text();
        assert!(text.contains("compared with what v4 knew") && text.contains("80 / 500"), "{text}");
        assert!(text.contains("1e-3") && text.contains("spam +0.500"), "{text}");
        let pending = View::new(name, v1::GetShiftResponse { pending: true, ..Default::default() });
        assert!(pending.text().contains("waits for an evaluator"));
        let json = serde_json::to_value(&pending).unwrap();
        assert!(json["version"].is_null() && json["chunk"] == "3f" && json["pipeline"] == "tickets");
    }
}
