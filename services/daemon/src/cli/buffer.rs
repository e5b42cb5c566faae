//! `perennial buffer`.

use std::collections::BTreeMap;

use domain::id::PipelineName;
use perennial_proto::v1;
use serde::Serialize;

use super::client::Context;
use super::erase;
use super::failure::Failure;
use super::output::{Render, fields, table};
use super::pipeline::pipeline_of;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Show what the next run will rehearse
    #[command(after_help = "Example:\n  perennial buffer stats tickets")]
    Stats { pipeline: PipelineName },
    /// Forget rows: nothing trains on them, replays or scores them any more, and they are removed from the store
    #[command(after_help = "Example:\n  perennial buffer erase tickets --subject anna@example.org\n\n\
                            A run under way that has read them begins anew. Versions that learnt from them are listed; `perennial \
                            run start --without` makes one that has not")]
    Erase {
        pipeline: PipelineName,
        #[command(flatten)]
        which: erase::Which,
    },
    /// List what was erased, and the versions that had learnt from it
    #[command(after_help = "Example:\n  perennial buffer erasures tickets")]
    Erasures { pipeline: PipelineName },
}

impl Verb {
    pub async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let pipeline = match self {
            Self::Stats { pipeline } => pipeline,
            Self::Erase { pipeline, which } => return erase::erase(ctx, &pipeline, which).await,
            Self::Erasures { pipeline } => return erase::list(ctx, &pipeline).await,
        };
        let request = ctx.request(v1::GetBufferStatsRequest { pipeline: ctx.pipeline(&pipeline) });
        let stats = ctx.rehearsal().await?.get_buffer_stats(request).await?.into_inner();
        ctx.show(&BufferView::new(&ctx.pipeline(&pipeline), stats))
    }
}

#[derive(Serialize)]
struct BufferView {
    pipeline: String,
    policy: String,
    capacity: u64,
    /// None before the first version.
    snapshot: Option<SnapshotView>,
    items_by_task: BTreeMap<String, u64>,
    items_by_chunk: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct SnapshotView {
    version: u64,
    items: u64,
    seen: u64,
    sha256: String,
}

impl BufferView {
    fn new(resource: &str, wire: v1::GetBufferStatsResponse) -> Self {
        let snapshot = wire.snapshot.map(|snapshot| SnapshotView {
            version: snapshot.version,
            items: snapshot.items,
            seen: snapshot.seen,
            sha256: snapshot.sha256,
        });
        Self {
            pipeline: pipeline_of(resource),
            policy: wire.policy,
            capacity: wire.capacity,
            snapshot,
            items_by_task: wire.items_by_task.into_iter().collect(),
            items_by_chunk: wire.items_by_chunk.into_iter().collect(),
        }
    }
}

impl Render for BufferView {
    fn text(&self) -> String {
        let Some(snapshot) = &self.snapshot else {
            let Self { pipeline, policy, capacity, .. } = self;
            return format!(
                "the buffer of `{pipeline}` is empty ({policy}, {capacity} rows): nothing was published yet"
            );
        };
        let head = fields([
            ("policy", self.policy.clone()),
            ("rows", format!("{} of {}", snapshot.items, self.capacity)),
            ("seen", snapshot.seen.to_string()),
            ("of version", format!("v{}", snapshot.version)),
            ("sha256", snapshot.sha256.clone()),
        ]);
        let rows = self.items_by_task.iter().map(|(task, rows)| [task.clone(), rows.to_string()]);
        format!("{head}\n\n{}", table(["task", "rows"], rows, ""))
    }
}
