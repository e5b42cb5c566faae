//! `perennial chunk label` and `corrections`: what rows are, said after they came.

use std::path::PathBuf;

use domain::id::PipelineName;
use perennial_proto::v1;
use serde::Serialize;
use store::examples::{Columns, detect, read_labels};

use super::client::{Context, all_pages, present};
use super::failure::Failure;
use super::output::{Render, fields, table, time};
use super::pipeline::last;

/// Labels of one call: what the server takes at most.
const BATCH: usize = 10_000;

pub fn columns(row_id: Option<String>, label: Option<String>) -> Columns {
    let usual = Columns::default();
    Columns { row_id: row_id.unwrap_or(usual.row_id), label: label.unwrap_or(usual.label), ..Columns::default() }
}

/// Goes on where some ids are unknown, and fails at the end.
pub async fn push(
    ctx: &Context,
    pipeline: &PipelineName,
    file: PathBuf,
    chunk: Option<String>,
    columns: Columns,
) -> Result<(), Failure> {
    let shown = file.display().to_string();
    let bytes = std::fs::read(&file).map_err(Failure::file("read", &file))?;
    let refused = |e: store::examples::BadData| Failure::Usage(format!("`{shown}`: {e}"));
    let format = detect(&shown, &bytes).map_err(refused)?;
    let labels = read_labels(format, &bytes, &Columns { labels: names(ctx, pipeline).await?, ..columns });
    let mut client = ctx.chunks().await?;
    let mut total = Labelled::default();
    for part in labels.map_err(refused)?.chunks(BATCH) {
        let labels = part.iter().cloned().map(|(row_id, label)| v1::RowLabel { row_id, label });
        let request = v1::PushLabelsRequest {
            pipeline: ctx.pipeline(pipeline),
            labels: labels.collect(),
            chunk: chunk.clone().unwrap_or_default(),
        };
        total.add(client.push_labels(ctx.request(request)).await?.into_inner());
    }
    ctx.show(&total)?;
    match total.unknown_rows.first() {
        None => Ok(()),
        Some(first) => Err(Failure::Failed(format!(
            "{} of the rows are in no chunk, such as `{first}`; push them, then their labels again",
            total.unknown_count
        ))),
    }
}

/// What integers count into.
async fn names(ctx: &Context, pipeline: &PipelineName) -> Result<Vec<String>, Failure> {
    let request = ctx.request(v1::GetPipelineRequest { name: ctx.pipeline(pipeline) });
    Ok(present(ctx.pipelines().await?.get_pipeline(request).await?.into_inner().pipeline)?.labels)
}

pub async fn corrections(ctx: &Context, pipeline: &PipelineName) -> Result<(), Failure> {
    let mut client = ctx.chunks().await?;
    let corrections = all_pages(async |page_token| {
        let request = v1::ListCorrectionsRequest { parent: ctx.pipeline(pipeline), page_size: 0, page_token };
        let page = client.list_corrections(ctx.request(request)).await?.into_inner();
        Ok((page.corrections, page.next_page_token))
    });
    let corrections = corrections.await?.into_iter().map(|wire| CorrectionView {
        chunk: last(&wire.chunk),
        at_ms: wire.at_ms,
        rows: wire.rows,
        versions: wire.versions,
    });
    ctx.show(&CorrectionList { corrections: corrections.collect() })
}

#[derive(Default, Serialize)]
struct Labelled {
    labelled_rows: u64,
    changed_rows: u64,
    unchanged_rows: u64,
    /// The first of them.
    unknown_rows: Vec<String>,
    unknown_count: u64,
    chunks: Vec<Standing>,
}

#[derive(Serialize)]
struct Standing {
    chunk: String,
    state: String,
    unlabelled_rows: u64,
}

impl Labelled {
    fn add(&mut self, answer: v1::PushLabelsResponse) {
        self.labelled_rows += answer.labelled_rows;
        self.changed_rows += answer.changed_rows;
        self.unchanged_rows += answer.unchanged_rows;
        self.unknown_count += answer.unknown_count;
        self.unknown_rows.extend(answer.unknown_rows);
        for wire in answer.chunks {
            let chunk = last(&wire.name);
            self.chunks.retain(|known| known.chunk != chunk);
            self.chunks.push(Standing { chunk, state: wire.state, unlabelled_rows: wire.unlabelled_rows });
        }
    }
}

impl Render for Labelled {
    fn text(&self) -> String {
        let standing = |one: &Standing| format!("{} ({}, {} rows left)", one.chunk, one.state, one.unlabelled_rows);
        let counts = [
            ("labelled", self.labelled_rows),
            ("changed", self.changed_rows),
            ("unchanged", self.unchanged_rows),
            ("unknown", self.unknown_count),
        ];
        let counts = counts.map(|(name, rows)| (name, if rows > 0 { format!("{rows} rows") } else { String::new() }));
        let chunks = self.chunks.iter().map(standing).collect::<Vec<_>>().join(", ");
        fields(counts.into_iter().chain([("chunks", chunks)]))
    }
}

#[derive(Serialize)]
struct CorrectionView {
    chunk: String,
    at_ms: u64,
    rows: u64,
    versions: Vec<u64>,
}

#[derive(Serialize)]
struct CorrectionList {
    corrections: Vec<CorrectionView>,
}

impl Render for CorrectionList {
    fn text(&self) -> String {
        let rows = self.corrections.iter().map(|one| {
            let versions: Vec<_> = one.versions.iter().map(|version| format!("v{version}")).collect();
            [time(Some(one.at_ms)), one.chunk.clone(), one.rows.to_string(), versions.join(", ")]
        });
        table(["at", "chunk", "rows", "learnt by"], rows, "no label changed after it had been trained on")
    }
}
