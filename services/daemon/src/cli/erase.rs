//! `perennial buffer erase` and `erasures`.

use domain::id::PipelineName;
use perennial_proto::v1;
use perennial_proto::v1::erase_rows_request::Scope;
use serde::Serialize;

use super::client::{Context, all_pages, within};
use super::failure::Failure;
use super::output::{Render, fields, or_dash, some, table, time};
use super::upload;

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// Rows about somebody: those with this `subject`. Its SHA-256 alone is recorded
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Rows of watched objects at or below this URI. The objects themselves are yours to remove
    #[arg(long, value_name = "URI")]
    source: Option<String>,
    /// Every row of a chunk
    #[arg(long, value_name = "CHUNK")]
    chunk: Option<String>,
}

impl Which {
    fn scope(self) -> Option<Scope> {
        let subject = self.subject.map(Scope::Subject);
        subject.or(self.source.map(Scope::SourceUri)).or(self.chunk.map(Scope::Chunk))
    }
}

pub async fn erase(ctx: &Context, pipeline: &PipelineName, which: Which) -> Result<(), Failure> {
    let request = v1::EraseRowsRequest { pipeline: ctx.pipeline(pipeline), scope: which.scope() };
    // Every chunk may have to be looked through.
    let request = within(upload::deadline(0, ctx.timeout), request);
    let answer = ctx.rehearsal().await?.erase_rows(request).await?.into_inner();
    match answer.erasure {
        Some(erasure) => ctx.show(&ErasureView::from(erasure)),
        None => Err(Failure::Failed("there are no such rows; nothing was erased".to_owned())),
    }
}

pub async fn list(ctx: &Context, pipeline: &PipelineName) -> Result<(), Failure> {
    let mut client = ctx.rehearsal().await?;
    let erasures = all_pages(async |page_token| {
        let request = v1::ListErasuresRequest { parent: ctx.pipeline(pipeline), page_size: 0, page_token };
        let page = client.list_erasures(ctx.request(request)).await?.into_inner();
        Ok((page.erasures, page.next_page_token))
    });
    ctx.show(&ErasureList { erasures: erasures.await?.into_iter().map(ErasureView::from).collect() })
}

#[derive(Serialize)]
struct ErasureView {
    number: u64,
    subject_sha256: Option<String>,
    source_uri: Option<String>,
    chunk: Option<String>,
    expired: bool,
    at_ms: u64,
    train_rows: u64,
    held_out_rows: u64,
    chunks: Vec<String>,
    reissued_run: Option<u64>,
    eval_sets: Vec<String>,
    /// None: objects that hold the rows are still being removed.
    finished_at_ms: Option<u64>,
    versions: Vec<WitnessView>,
}

#[derive(Serialize)]
struct WitnessView {
    version: u64,
    memory_rows: u64,
    keeps_answers: bool,
}

#[derive(Serialize)]
struct ErasureList {
    erasures: Vec<ErasureView>,
}

impl From<v1::Erasure> for ErasureView {
    fn from(wire: v1::Erasure) -> Self {
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let versions = wire.versions.into_iter().map(|witness| WitnessView {
            version: witness.version,
            memory_rows: witness.memory_rows,
            keeps_answers: witness.keeps_answers,
        });
        Self {
            number: wire.number,
            subject_sha256: given(wire.subject_sha256),
            source_uri: given(wire.source_uri),
            chunk: given(wire.chunk),
            expired: wire.expired,
            at_ms: wire.at_ms,
            train_rows: wire.train_rows,
            held_out_rows: wire.held_out_rows,
            chunks: wire.chunks,
            reissued_run: some(wire.reissued_run),
            eval_sets: wire.eval_sets,
            finished_at_ms: some(wire.finished_at_ms),
            versions: versions.collect(),
        }
    }
}

impl ErasureView {
    fn what(&self) -> String {
        let chunk = |id: &String| if self.expired { format!("chunk {id}, expired") } else { format!("chunk {id}") };
        let subject = self.subject_sha256.as_ref().map(|sha256| format!("subject {}…", &sha256[..12]));
        or_dash(subject.or(self.source_uri.clone()).or(self.chunk.as_ref().map(chunk)).as_ref())
    }

    fn rows(&self) -> String {
        format!("{} train, {} held out, in {} chunks", self.train_rows, self.held_out_rows, self.chunks.len())
    }

    fn learnt_by(&self) -> String {
        let one = |witness: &WitnessView| match (witness.memory_rows, witness.keeps_answers) {
            (0, _) => format!("v{}", witness.version),
            (rows, false) => format!("v{} (memory: {rows} rows)", witness.version),
            (rows, true) => format!("v{} (memory: {rows} rows, with answers to them)", witness.version),
        };
        self.versions.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    fn removed(&self) -> String {
        if self.finished_at_ms.is_some() { time(self.finished_at_ms) } else { "under way".to_owned() }
    }
}

impl Render for ErasureView {
    fn text(&self) -> String {
        let run = self.reissued_run.map_or_else(String::new, |run| format!("run {run} begins anew"));
        fields([
            ("erasure", self.number.to_string()),
            ("of", self.what()),
            ("rows", self.rows()),
            ("run", run),
            ("eval sets", self.eval_sets.join(", ")),
            ("learnt by", self.learnt_by()),
            ("removed", self.removed()),
        ])
    }
}

impl Render for ErasureList {
    fn text(&self) -> String {
        let row = |one: &ErasureView| {
            [one.number.to_string(), one.what(), time(Some(one.at_ms)), one.rows(), one.learnt_by(), one.removed()]
        };
        let rows = self.erasures.iter().map(row);
        table(["erasure", "of", "at", "rows", "learnt by", "removed"], rows, "nothing was erased")
    }
}
