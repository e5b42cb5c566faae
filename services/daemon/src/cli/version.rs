//! `perennial version`.

use std::path::PathBuf;

use clap::ValueEnum;
use domain::flips::{Figures, Flips};
use domain::id::PipelineName;
use perennial_proto::v1;
use serde::Serialize;

use super::client::{Context, all_pages, present};
use super::failure::Failure;
use super::output::{Render, fields, or_dash, percent, some, table, time};
use super::pipeline::pipeline_of;
use super::reference::{Reference, Which};
use super::{import, pull};

#[derive(clap::Subcommand)]
pub enum Verb {
    /// List the versions of a pipeline
    #[command(after_help = "Example:\n  perennial version ls tickets")]
    Ls { pipeline: PipelineName },
    /// Show one version: what it came from, what is in it
    #[command(
        after_help = "Example:\n  perennial version show tickets@champion\n  perennial version show models:/tickets/3"
    )]
    Show {
        #[arg(value_name = "VERSION")]
        reference: Reference,
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
            Self::Ls { pipeline } => list(ctx, &pipeline).await,
            Self::Show { reference } => ctx.show(&VersionView::from(get(ctx, &reference).await?)),
            Self::Promote { reference, chunks, expect } => promote(ctx, &reference, chunks, expect).await,
            Self::Rollback { pipeline, to, chunks, expect } => rollback(ctx, &pipeline, to, chunks, expect).await,
            Self::Import { pipeline, folder, no_wait } => import::import(ctx, &pipeline, &folder, !no_wait).await,
            Self::Pull { reference, folder } => pull::pull(ctx, &reference, &folder).await,
        }
    }
}

async fn list(ctx: &Context, pipeline: &PipelineName) -> Result<(), Failure> {
    let mut client = ctx.registry().await?;
    let versions = all_pages(async |page_token| {
        let request = v1::ListVersionsRequest { parent: ctx.pipeline(pipeline), page_size: 0, page_token };
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

#[derive(Serialize)]
struct VersionView {
    resource: String,
    pipeline: String,
    version: u64,
    /// None: the base model.
    parent: Option<u64>,
    run: u64,
    aliases: Vec<String>,
    chunks: Vec<String>,
    folder: String,
    files: Vec<FileView>,
    weights_sha256: String,
    snapshot_sha256: String,
    verdict: String,
    average_accuracy: Option<f64>,
    expected_calibration_error: Option<f64>,
    brier_score: Option<f64>,
    /// None: its gate compared it with the base model.
    flips: Option<FlipsView>,
    imported: bool,
    contaminated_rows: u64,
    dropped_rows: u64,
    published_at_ms: Option<u64>,
}

#[derive(Serialize)]
struct FlipsView {
    baseline_version: u64,
    #[serde(flatten)]
    figures: Figures,
    #[serde(skip)]
    counted: Flips,
}

impl From<v1::Flips> for FlipsView {
    fn from(wire: v1::Flips) -> Self {
        let (baseline_version, counted) = (wire.baseline, Flips::from(wire));
        Self { baseline_version, figures: counted.into(), counted }
    }
}

impl FlipsView {
    /// `7 of 500 items since v3 (rate 1.4 %, impact 10.3 %)`
    fn said(&self, flipped: u64, rate: f64, impact: f64) -> String {
        let (items, since) = (self.counted.items, self.baseline_version);
        format!(
            "{flipped} of {items} items since v{since} (rate {}, impact {})",
            percent(Some(rate)),
            percent(Some(impact))
        )
    }

    fn negative(&self) -> String {
        self.said(self.counted.negative, self.figures.negative_flip_rate, self.figures.negative_flip_impact)
    }

    fn positive(&self) -> String {
        self.said(self.counted.positive, self.figures.positive_flip_rate, self.figures.positive_flip_impact)
    }
}

#[derive(Debug, Serialize)]
pub struct FileView {
    pub path: String,
    pub sha256: String,
    pub bytes: u64,
}

#[derive(Serialize)]
struct VersionList {
    versions: Vec<VersionView>,
}

impl From<v1::File> for FileView {
    fn from(wire: v1::File) -> Self {
        Self { path: wire.path, sha256: wire.sha256, bytes: wire.bytes }
    }
}

impl From<v1::Version> for VersionView {
    fn from(wire: v1::Version) -> Self {
        Self {
            pipeline: pipeline_of(&wire.name),
            resource: wire.name,
            version: wire.number,
            parent: some(wire.parent),
            run: wire.run,
            aliases: wire.aliases,
            chunks: wire.chunks,
            folder: wire.folder,
            files: wire.files.into_iter().map(FileView::from).collect(),
            weights_sha256: wire.weights_sha256,
            snapshot_sha256: wire.snapshot_sha256,
            verdict: wire.verdict,
            average_accuracy: wire.average_accuracy,
            expected_calibration_error: wire.expected_calibration_error,
            brier_score: wire.brier_score,
            flips: wire.flips.map(FlipsView::from),
            imported: wire.imported,
            contaminated_rows: wire.contaminated_rows,
            dropped_rows: wire.dropped_rows,
            published_at_ms: some(wire.published_at_ms),
        }
    }
}

impl VersionView {
    /// Rows that did not train, where there were any.
    fn left_out(&self) -> String {
        let counts = [
            (self.contaminated_rows, "rows that are held-out items"),
            (self.dropped_rows, "rows that the model answered with no numbers"),
        ];
        let said: Vec<String> =
            counts.iter().filter(|(rows, _)| *rows > 0).map(|(rows, what)| format!("{rows} {what}")).collect();
        said.join(", ")
    }
}

impl Render for VersionView {
    fn text(&self) -> String {
        let files: Vec<_> = self.files.iter().map(|f| format!("{} {} {} B", f.sha256, f.path, f.bytes)).collect();
        fields([
            ("version", format!("v{} of {}", self.version, self.pipeline)),
            ("aliases", self.aliases.join(", ")),
            ("verdict", self.verdict.clone()),
            ("average accuracy", percent(self.average_accuracy)),
            (
                "calibration error",
                self.expected_calibration_error.map_or_else(String::new, |error| percent(Some(error))),
            ),
            ("brier score", self.brier_score.map_or_else(String::new, |score| format!("{score:.3}"))),
            ("negative flips", self.flips.as_ref().map_or_else(String::new, FlipsView::negative)),
            ("positive flips", self.flips.as_ref().map_or_else(String::new, FlipsView::positive)),
            ("left out", self.left_out()),
            ("parent", self.parent.map_or("the base model".to_owned(), |v| format!("v{v}"))),
            ("run", if self.imported { format!("{}, an import", self.run) } else { self.run.to_string() }),
            ("chunks", self.chunks.join("\n")),
            ("published", time(self.published_at_ms)),
            ("weights sha256", self.weights_sha256.clone()),
            ("snapshot sha256", self.snapshot_sha256.clone()),
            ("folder", self.folder.clone()),
            ("files", files.join("\n")),
        ])
    }
}

impl Render for VersionList {
    fn text(&self) -> String {
        let rows = self.versions.iter().map(|v| {
            let parent = or_dash(v.parent.map(|parent| format!("v{parent}")));
            let (accuracy, run) = (percent(v.average_accuracy), v.run.to_string());
            [
                format!("v{}", v.version),
                v.aliases.join(","),
                v.verdict.clone(),
                accuracy,
                parent,
                run,
                time(v.published_at_ms),
            ]
        });
        table(["version", "aliases", "verdict", "accuracy", "parent", "run", "published"], rows, "no versions yet")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_a_version_keeps_its_keys() {
        let wire = v1::Version {
            name: "namespaces/default/pipelines/tickets/versions/3".to_owned(),
            number: 3,
            ..Default::default()
        };
        let json = serde_json::to_value(VersionView::from(wire)).unwrap();
        assert_eq!(
            (&json["version"], &json["parent"], &json["pipeline"]),
            (&3.into(), &serde_json::Value::Null, &"tickets".into())
        );
        let mut keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        let wanted = [
            "aliases",
            "average_accuracy",
            "brier_score",
            "chunks",
            "contaminated_rows",
            "dropped_rows",
            "expected_calibration_error",
            "files",
            "flips",
            "folder",
            "imported",
            "parent",
            "pipeline",
            "published_at_ms",
            "resource",
            "run",
            "snapshot_sha256",
            "verdict",
            "version",
            "weights_sha256",
        ];
        assert_eq!(keys, wanted);
    }

    #[test]
    fn a_version_says_what_it_changed() {
        let flips = v1::Flips { baseline: 3, items: 500, negative: 5, positive: 20, right: 450 };
        let wire = v1::Version {
            number: 4,
            expected_calibration_error: Some(0.0625),
            flips: Some(flips),
            ..Default::default()
        };
        let view = VersionView::from(wire);
        let text = view.text();
        assert!(text.contains("negative flips     5 of 500 items since v3 (rate 1.0 %, impact 10.0 %)"), "{text}");
        assert!(text.contains("positive flips     20 of 500 items since v3 (rate 4.0 %, impact 4.4 %)"), "{text}");
        assert!(text.contains("calibration error  6.2 %") && !text.contains("brier"), "{text}");
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(
            (&json["flips"]["baseline_version"], &json["flips"]["negative_flip_rate"]),
            (&3.into(), &0.01.into())
        );
        assert!(json["brier_score"].is_null());
    }
}
