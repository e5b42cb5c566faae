//! `perennial chunk`: data in, and what became of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::ValueEnum;
use domain::id::PipelineName;
use perennial_proto::v1;
use serde::Serialize;

use super::client::{Context, all_pages, present, within};
use super::failure::Failure;
use super::header::Header;
use super::output::{Render, fields, or_dash, some, table, time};
use super::pipeline::{last, pipeline_of};
use super::push::Push;
use super::upload;
use super::{labels, producer, quarantine};

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Send a file of rows; when this returns, it is durable and known by its content
    #[command(after_help = "Example:\n  perennial chunk push tickets june.parquet --task june --wait\n\n\
                            Its rows are checked next; only then can it train. `--wait` waits for that, and exits with 1 and the \
                            reason when they go to quarantine")]
    Push {
        pipeline: PipelineName,
        /// Parquet, JSONL, CSV, TSV, or a WebDataset tar
        file: PathBuf,
        #[command(flatten)]
        header: Header,
    },
    /// Take in an object that lies in a store already, below one of the daemon's `roots`
    #[command(after_help = "Example:\n  perennial chunk register tickets s3://bucket/june.parquet --task june --wait")]
    Register {
        pipeline: PipelineName,
        uri: String,
        #[command(flatten)]
        header: Header,
    },
    /// Say what rows are that came without a label, or with another one
    #[command(after_help = "Example:\n  perennial chunk label tickets labels.csv\n\n\
                            Each line has a row's id and its label. What is known already changes nothing, so that a file may be \
                            sent again")]
    Label {
        pipeline: PipelineName,
        /// JSONL, CSV or TSV
        file: PathBuf,
        /// The chunk that holds the rows [default: it is looked for, the newest first]
        #[arg(long, value_name = "CHUNK")]
        chunk: Option<String>,
        /// Default: `row_id`
        #[arg(long, value_name = "NAME")]
        id_column: Option<String>,
        /// Default: `label`
        #[arg(long, value_name = "NAME")]
        label_column: Option<String>,
    },
    /// List labels that changed after they had been trained on, and the versions that learnt the old ones
    #[command(after_help = "Example:\n  perennial chunk corrections tickets")]
    Corrections { pipeline: PipelineName },
    /// List the chunks of a pipeline and where each stands
    #[command(after_help = "Example:\n  perennial chunk ls tickets --state refused")]
    Ls {
        pipeline: PipelineName,
        /// Only those in this state
        #[arg(long)]
        state: Option<State>,
    },
    /// List the producers that number their pushes, and the number of each one's next
    #[command(after_help = "Example:\n  perennial chunk producers tickets")]
    Producers { pipeline: PipelineName },
    /// Rows that cannot be used, and the chunks that wait because of them
    #[command(subcommand, after_help = "Example:\n  perennial chunk quarantine ls tickets")]
    Quarantine(quarantine::Verb),
    /// Make chunks trainable again that a refused run or a rollback set aside
    #[command(after_help = "Example:\n  perennial chunk release tickets 3f0c9a7be2d14c55a8e01b2c3d4e5f60")]
    Release {
        pipeline: PipelineName,
        #[arg(required = true, value_name = "CHUNK")]
        chunks: Vec<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum State {
    Received,
    Labelling,
    Sealed,
    InRun,
    Absorbed,
    Refused,
    Quarantined,
}

impl Verb {
    pub async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Push { pipeline, file, header } => push(ctx, &pipeline, file, header).await,
            Self::Register { pipeline, uri, header } => register(ctx, &pipeline, uri, header).await,
            Self::Label { pipeline, file, chunk, id_column, label_column } => {
                let columns = labels::columns(id_column, label_column);
                labels::push(ctx, &pipeline, file, chunk, columns).await
            }
            Self::Corrections { pipeline } => labels::corrections(ctx, &pipeline).await,
            Self::Ls { pipeline, state } => list(ctx, &pipeline, state).await,
            Self::Producers { pipeline } => producer::list(ctx, &pipeline).await,
            Self::Quarantine(verb) => verb.run(ctx).await,
            Self::Release { pipeline, chunks } => release(ctx, &pipeline, chunks).await,
        }
    }
}

async fn push(ctx: &Context, pipeline: &PipelineName, path: PathBuf, header: Header) -> Result<(), Failure> {
    let name = path.display().to_string();
    let format = header.format(&name)?;
    let file = upload::inspect(path).await?;
    let origin = header.origin(ctx, pipeline).await?;
    let header = header.into_wire(ctx.pipeline(pipeline), format, file.sha256.clone(), origin);
    let pushed = Push { ctx, header, file }.until_answered().await?;
    taken_in(ctx, pushed.chunk, pushed.already_exists)
}

async fn register(ctx: &Context, pipeline: &PipelineName, uri: String, header: Header) -> Result<(), Failure> {
    let format = header.format(&uri)?;
    let origin = header.origin(ctx, pipeline).await?;
    let header = header.into_wire(ctx.pipeline(pipeline), format, String::new(), origin);
    let request = v1::RegisterChunkRequest { header: Some(header), uri };
    // The server reads the object; how large it is only it knows.
    let request = within(upload::deadline(0, ctx.timeout), request);
    let registered = ctx.ingest().await?.register_chunk(request).await?.into_inner();
    taken_in(ctx, registered.chunk, registered.already_exists)
}

/// Quarantine is an answer, and still not what was wanted.
fn taken_in(ctx: &Context, chunk: Option<v1::Chunk>, already_exists: bool) -> Result<(), Failure> {
    let chunk = ChunkView::from(present(chunk)?);
    let quarantined = (chunk.state == "quarantined")
        .then(|| format!("chunk {} is quarantined: {}", chunk.chunk, or_dash(chunk.reason.as_ref())));
    ctx.show(&Taken { chunk, already_exists })?;
    quarantined.map_or(Ok(()), |text| Err(Failure::Failed(text)))
}

pub async fn list(ctx: &Context, pipeline: &PipelineName, state: Option<State>) -> Result<(), Failure> {
    let state = state.and_then(|state| state.to_possible_value()).map(|value| value.get_name().to_owned());
    let mut client = ctx.chunks().await?;
    let chunks = all_pages(async |page_token| {
        let request = v1::ListChunksRequest {
            parent: ctx.pipeline(pipeline),
            page_size: 0,
            page_token,
            state: state.clone().unwrap_or_default(),
        };
        let page = client.list_chunks(ctx.request(request)).await?.into_inner();
        Ok((page.chunks, page.next_page_token))
    });
    ctx.show(&ChunkList::from(chunks.await?))
}

pub async fn release(ctx: &Context, pipeline: &PipelineName, chunks: Vec<String>) -> Result<(), Failure> {
    let request = ctx.request(v1::ReleaseChunksRequest { pipeline: ctx.pipeline(pipeline), chunks });
    let released = ctx.chunks().await?.release_chunks(request).await?.into_inner();
    ctx.show(&ChunkList::from(released.chunks))
}

#[derive(Serialize)]
struct ChunkView {
    resource: String,
    pipeline: String,
    chunk: String,
    task: String,
    split: &'static str,
    state: String,
    reason: Option<String>,
    train_rows: u64,
    held_out_rows: u64,
    duplicate_rows: u64,
    bad_rows: u64,
    unlabelled_rows: u64,
    erased_rows: u64,
    bytes: u64,
    labels: BTreeMap<String, u64>,
    run: Option<u64>,
    version: Option<u64>,
    received_at_ms: Option<u64>,
    labelling_until_ms: Option<u64>,
    /// By test, the smallest over what the chunk was compared with.
    shift_p_values: BTreeMap<String, f64>,
}

#[derive(Serialize)]
struct Taken {
    #[serde(flatten)]
    chunk: ChunkView,
    already_exists: bool,
}

#[derive(Serialize)]
pub struct ChunkList {
    chunks: Vec<ChunkView>,
}

impl From<Vec<v1::Chunk>> for ChunkList {
    fn from(chunks: Vec<v1::Chunk>) -> Self {
        Self { chunks: chunks.into_iter().map(ChunkView::from).collect() }
    }
}

impl From<v1::Chunk> for ChunkView {
    fn from(wire: v1::Chunk) -> Self {
        Self {
            pipeline: pipeline_of(&wire.name),
            chunk: last(&wire.name),
            split: match wire.split() {
                v1::Split::Train => "train",
                v1::Split::HeldOut => "held_out",
                v1::Split::Auto | v1::Split::Unspecified => "auto",
            },
            resource: wire.name,
            task: wire.task,
            state: wire.state,
            reason: Some(wire.reason).filter(|reason| !reason.is_empty()),
            train_rows: wire.train_rows,
            held_out_rows: wire.held_out_rows,
            duplicate_rows: wire.duplicate_rows,
            bad_rows: wire.bad_rows,
            unlabelled_rows: wire.unlabelled_rows,
            erased_rows: wire.erased_rows,
            bytes: wire.bytes,
            labels: wire.labels.into_iter().collect(),
            run: some(wire.run),
            version: some(wire.version),
            received_at_ms: some(wire.received_at_ms),
            labelling_until_ms: some(wire.labelling_until_ms),
            shift_p_values: wire.shift_p_values.into_iter().collect(),
        }
    }
}

impl ChunkView {
    fn rows(&self) -> String {
        if self.state == "received" {
            return "rows not checked yet".to_owned();
        }
        let left_out = [
            (self.unlabelled_rows, "without a label"),
            (self.duplicate_rows, "duplicate"),
            (self.bad_rows, "bad"),
            (self.erased_rows, "erased"),
        ];
        let left_out = left_out.iter().filter(|(rows, _)| *rows > 0).map(|(rows, what)| format!(", {rows} {what}"));
        format!("{} train, {} held out{}", self.train_rows, self.held_out_rows, left_out.collect::<String>())
    }

    /// The state, and what goes with it.
    fn standing(&self) -> String {
        match (&self.reason, self.run, self.version) {
            (Some(reason), _, _) => format!("{}: {reason}", self.state),
            (_, Some(run), _) => format!("in run {run}"),
            (_, _, Some(version)) => format!("{} by v{version}", self.state),
            _ if self.labelling_until_ms.is_some() => {
                format!("{} until {}", self.state, time(self.labelling_until_ms))
            }
            _ => self.state.clone(),
        }
    }
}

impl Render for Taken {
    fn text(&self) -> String {
        let chunk = &self.chunk;
        let labels: Vec<_> = chunk.labels.iter().map(|(label, rows)| format!("{label} {rows}")).collect();
        let already = if self.already_exists { "the same content was there already" } else { "" };
        fields([
            ("chunk", chunk.chunk.clone()),
            ("task", chunk.task.clone()),
            ("state", chunk.standing()),
            ("rows", chunk.rows()),
            ("labels", labels.join(", ")),
            ("note", already.to_owned()),
        ])
    }
}

impl Render for ChunkList {
    fn text(&self) -> String {
        let rows = self.chunks.iter().map(|c| {
            let (train, held_out) = (c.train_rows.to_string(), c.held_out_rows.to_string());
            [c.chunk.clone(), c.task.clone(), train, held_out, time(c.received_at_ms), c.standing()]
        });
        table(["chunk", "task", "train", "held out", "received", "state"], rows, "no chunks")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> ChunkView {
        ChunkView::from(v1::Chunk {
            name: "namespaces/default/pipelines/tickets/chunks/ab12".to_owned(),
            split: v1::Split::HeldOut.into(),
            state: "quarantined".to_owned(),
            reason: "row 3 has no label".to_owned(),
            train_rows: 5,
            ..Default::default()
        })
    }

    #[test]
    fn the_json_of_a_chunk_says_none_where_the_wire_says_zero() {
        let json = serde_json::to_value(Taken { chunk: view(), already_exists: true }).unwrap();
        assert_eq!(
            (&json["chunk"], &json["pipeline"], &json["split"]),
            (&"ab12".into(), &"tickets".into(), &"held_out".into())
        );
        assert!(json["run"].is_null() && json["already_exists"] == true && json["reason"] == "row 3 has no label");
    }

    #[test]
    fn a_table_says_why() {
        assert!(ChunkList { chunks: vec![view()] }.text().ends_with("quarantined: row 3 has no label"));
    }
}
