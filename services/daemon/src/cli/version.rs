//! `perennial version`.

mod diff;
mod lineage;
mod view;

use std::path::PathBuf;

use clap::ValueEnum;
use domain::id::PipelineName;
use perennial_proto::v1;

use super::client::{Context, all_pages, present};
use super::failure::Failure;
use super::reference::{Reference, Which};
use super::{import, pull};
pub use view::FileView;
use view::{VersionList, VersionView};

#[derive(clap::Subcommand)]
pub enum Verb {
    /// List the versions of a pipeline
    #[command(
        after_help = "Example:\n  perennial version ls tickets\n  perennial version ls tickets --chunk 3f0c9a7be2d14c55a8e01b2c3d4e5f60"
    )]
    Ls {
        pipeline: PipelineName,
        /// Only those that saw this chunk: they absorbed it, or continue from one that did
        #[arg(long)]
        chunk: Option<String>,
    },
    /// Show one version: what it came from, what is in it
    #[command(
        after_help = "Example:\n  perennial version show tickets@champion\n  perennial version show models:/tickets/3"
    )]
    Show {
        #[arg(value_name = "VERSION")]
        reference: Reference,
    },
    /// Show what a version continues from, and what continues from it
    #[command(after_help = "Example:\n  perennial version lineage tickets/3")]
    Lineage {
        #[arg(value_name = "VERSION")]
        reference: Reference,
    },
    /// Show how two versions of a pipeline differ: data, settings, accuracy, memory
    #[command(after_help = "Example:\n  perennial version diff tickets/41 tickets@champion")]
    Diff {
        #[arg(value_name = "VERSION")]
        reference: Reference,
        #[arg(value_name = "OTHER")]
        other: Reference,
    },
    /// Make a version the champion
    #[command(
        after_help = "Example:\n  perennial version promote tickets/3 --expect 2\n  perennial version promote tickets@challenger"
    )]
    Promote {
        #[arg(value_name = "VERSION")]
        reference: Reference,
        /// What becomes of chunks that the new champion's lineage has not absorbed
        #[arg(long, default_value = "hold")]
        chunks: Chunks,
        /// Only if the champion is still this version; 0: only if there is none yet
        #[arg(long, value_name = "N")]
        expect: Option<u64>,
    },
    /// Go back to an older version and what it remembered; the next run continues from there
    #[command(
        after_help = "Example:\n  perennial version rollback tickets --expect 3 --chunks requeue\n  perennial version rollback tickets --to 2"
    )]
    Rollback {
        pipeline: PipelineName,
        /// Default: the version that the champion continues from
        #[arg(long, value_name = "N")]
        to: Option<u64>,
        /// What becomes of chunks that the versions left behind had absorbed
        #[arg(long, default_value = "hold")]
        chunks: Chunks,
        /// Only if the champion is still this version: a command that is repeated does not go back twice
        #[arg(long, value_name = "N")]
        expect: Option<u64>,
    },
    /// Keep a version's files, whatever the pipeline's `retention` says
    #[command(after_help = "Example:\n  perennial version hold tickets/3 --reason \"served to the auditors\"")]
    Hold {
        #[arg(value_name = "VERSION")]
        reference: Reference,
        /// What it is kept for
        #[arg(long)]
        reason: String,
    },
    /// End a hold
    #[command(after_help = "Example:\n  perennial version release tickets/3")]
    Release {
        #[arg(value_name = "VERSION")]
        reference: Reference,
    },
    /// Make an adapter that PEFT trained a pipeline's first version
    #[command(after_help = "Example:\n  perennial version import tickets ./my-adapter\n\n\
                            Exits with 3 when the gate refuses it")]
    Import {
        pipeline: PipelineName,
        /// adapter_config.json, adapter_model.safetensors, and what published versions have besides: head.safetensors,
        /// labels.json, preprocessor_config.json, perennial_manifest.json
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Show the run that makes it a version, and do not wait for its end
        #[arg(long)]
        no_wait: bool,
    },
    /// Download a version's files into a new folder, verified
    #[command(after_help = "Example:\n  perennial version pull tickets@champion ./tickets-champion")]
    Pull {
        #[arg(value_name = "VERSION")]
        reference: Reference,
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Chunks {
    /// They train again in the next run
    Requeue,
    /// They wait for `chunk release`
    Hold,
    /// They never train again
    Drop,
}

impl From<Chunks> for i32 {
    fn from(chunks: Chunks) -> i32 {
        let wire = match chunks {
            Chunks::Requeue => v1::ChunkDisposition::Requeue,
            Chunks::Hold => v1::ChunkDisposition::Hold,
            Chunks::Drop => v1::ChunkDisposition::Drop,
        };
        wire.into()
    }
}

impl Verb {
    pub async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Ls { pipeline, chunk } => list(ctx, &pipeline, chunk).await,
            Self::Show { reference } => ctx.show(&VersionView::from(get(ctx, &reference).await?)),
            Self::Lineage { reference } => lineage::lineage(ctx, &reference).await,
            Self::Diff { reference, other } => diff::diff(ctx, &reference, &other).await,
            Self::Promote { reference, chunks, expect } => promote(ctx, &reference, chunks, expect).await,
            Self::Rollback { pipeline, to, chunks, expect } => rollback(ctx, &pipeline, to, chunks, expect).await,
            Self::Hold { reference, reason } => hold(ctx, &reference, reason).await,
            Self::Release { reference } => release(ctx, &reference).await,
            Self::Import { pipeline, folder, no_wait } => import::import(ctx, &pipeline, &folder, !no_wait).await,
            Self::Pull { reference, folder } => pull::pull(ctx, &reference, &folder).await,
        }
    }
}

async fn list(ctx: &Context, pipeline: &PipelineName, chunk: Option<String>) -> Result<(), Failure> {
    let mut client = ctx.registry().await?;
    let chunk = chunk.unwrap_or_default();
    let versions = all_pages(async |page_token| {
        let (parent, chunk) = (ctx.pipeline(pipeline), chunk.clone());
        let request = v1::ListVersionsRequest { parent, page_token, chunk, ..Default::default() };
        let page = client.list_versions(ctx.request(request)).await?.into_inner();
        Ok((page.versions, page.next_page_token))
    });
    let versions = versions.await?.into_iter().map(VersionView::from).collect();
    ctx.show(&VersionList { versions })
}

pub async fn show(ctx: &Context, pipeline: &PipelineName, number: u64) -> Result<(), Failure> {
    let reference = Reference { pipeline: pipeline.clone(), which: Which::Number(number) };
    ctx.show(&VersionView::from(get(ctx, &reference).await?))
}

pub async fn get(ctx: &Context, reference: &Reference) -> Result<v1::Version, Failure> {
    let request = ctx.request(v1::GetVersionRequest { name: reference.resource(&ctx.pipeline(&reference.pipeline)) });
    present(ctx.registry().await?.get_version(request).await?.into_inner().version)
}

async fn promote(ctx: &Context, reference: &Reference, chunks: Chunks, expect: Option<u64>) -> Result<(), Failure> {
    let version = match reference.which {
        Which::Number(number) => number,
        Which::Alias(_) => get(ctx, reference).await?.number,
    };
    let request = ctx.request(v1::SetAliasRequest {
        pipeline: ctx.pipeline(&reference.pipeline),
        alias: "champion".to_owned(),
        version,
        expected_version: expect,
        chunks: chunks.into(),
    });
    let response = ctx.registry().await?.set_alias(request).await?.into_inner();
    ctx.show(&VersionView::from(present(response.version)?))
}

async fn rollback(
    ctx: &Context,
    pipeline: &PipelineName,
    to: Option<u64>,
    chunks: Chunks,
    expect: Option<u64>,
) -> Result<(), Failure> {
    let request = ctx.request(v1::RollbackRequest {
        pipeline: ctx.pipeline(pipeline),
        version: to.unwrap_or_default(),
        chunks: chunks.into(),
        expected_version: expect,
    });
    let response = ctx.registry().await?.rollback(request).await?.into_inner();
    ctx.show(&VersionView::from(present(response.version)?))
}

async fn hold(ctx: &Context, reference: &Reference, reason: String) -> Result<(), Failure> {
    let name = reference.resource(&ctx.pipeline(&reference.pipeline));
    let request = ctx.request(v1::HoldVersionRequest { name, reason });
    let held = ctx.registry().await?.hold_version(request).await?.into_inner();
    ctx.show(&VersionView::from(present(held.version)?))
}

async fn release(ctx: &Context, reference: &Reference) -> Result<(), Failure> {
    let name = reference.resource(&ctx.pipeline(&reference.pipeline));
    let request = ctx.request(v1::ReleaseVersionRequest { name });
    let released = ctx.registry().await?.release_version(request).await?.into_inner();
    ctx.show(&VersionView::from(present(released.version)?))
}
