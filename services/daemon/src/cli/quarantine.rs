//! `perennial chunk quarantine`: rows that cannot be used, and what becomes of the others.

use domain::id::PipelineName;
use perennial_proto::v1;
use serde::Serialize;

use super::chunk::{ChunkList, State, list, release};
use super::client::{Context, all_pages};
use super::failure::Failure;
use super::output::{Render, table};

#[derive(clap::Subcommand)]
pub enum Verb {
    /// List the chunks in quarantine, or the bad rows of one of them
    #[command(after_help = "Example:\n  perennial chunk quarantine ls tickets 3f0c9a7be2d14c55a8e01b2c3d4e5f60")]
    Ls {
        pipeline: PipelineName,
        /// Say what is wrong with each of its bad rows
        chunk: Option<String>,
    },
    /// Make the good rows of chunks trainable
    #[command(after_help = "Example:\n  perennial chunk quarantine release tickets 3f0c9a7be2d14c55a8e01b2c3d4e5f60")]
    Release {
        pipeline: PipelineName,
        #[arg(required = true, value_name = "CHUNK")]
        chunks: Vec<String>,
    },
    /// Give chunks up: neither a release nor another push brings them back
    #[command(after_help = "Example:\n  perennial chunk quarantine drop tickets 3f0c9a7be2d14c55a8e01b2c3d4e5f60")]
    Drop {
        pipeline: PipelineName,
        #[arg(required = true, value_name = "CHUNK")]
        chunks: Vec<String>,
    },
}

impl Verb {
    pub async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Ls { pipeline, chunk: None } => list(ctx, &pipeline, Some(State::Quarantined)).await,
            Self::Ls { pipeline, chunk: Some(chunk) } => bad_rows(ctx, &pipeline, &chunk).await,
            Self::Release { pipeline, chunks } => release(ctx, &pipeline, chunks).await,
            Self::Drop { pipeline, chunks } => drop(ctx, &pipeline, chunks).await,
        }
    }
}

async fn bad_rows(ctx: &Context, pipeline: &PipelineName, chunk: &str) -> Result<(), Failure> {
    let name = format!("{}/chunks/{chunk}", ctx.pipeline(pipeline));
    let mut client = ctx.chunks().await?;
    let rows = all_pages(async |page_token| {
        let request = v1::ListBadRowsRequest { chunk: name.clone(), page_size: 1000, page_token };
        let page = client.list_bad_rows(ctx.request(request)).await?.into_inner();
        Ok((page.rows, page.next_page_token))
    });
    let rows = rows.await?.into_iter().map(|v1::BadRow { row, reason }| BadRowView { row, reason }).collect();
    ctx.show(&BadRowList { rows })
}

async fn drop(ctx: &Context, pipeline: &PipelineName, chunks: Vec<String>) -> Result<(), Failure> {
    let request = ctx.request(v1::DropChunksRequest { pipeline: ctx.pipeline(pipeline), chunks });
    let dropped = ctx.chunks().await?.drop_chunks(request).await?.into_inner();
    ctx.show(&ChunkList::from(dropped.chunks))
}

#[derive(Serialize)]
struct BadRowView {
    row: u64,
    reason: String,
}

#[derive(Serialize)]
struct BadRowList {
    rows: Vec<BadRowView>,
}

impl Render for BadRowList {
    fn text(&self) -> String {
        let rows = self.rows.iter().map(|bad| [bad.row.to_string(), bad.reason.clone()]);
        table(["row", "reason"], rows, "no bad rows")
    }
}
