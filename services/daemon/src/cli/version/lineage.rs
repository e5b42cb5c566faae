//! `perennial version lineage`: what a version continues from, and what continues from it.

use perennial_proto::v1;
use serde::Serialize;

use super::view::VersionView;
use crate::cli::client::{Context, all_pages};
use crate::cli::failure::Failure;
use crate::cli::output::{Render, or_dash, percent, table, time};
use crate::cli::reference::Reference;

/// Versions of a page; a line may be long.
const PAGE: i32 = 1000;

pub async fn lineage(ctx: &Context, reference: &Reference) -> Result<(), Failure> {
    let pipeline = ctx.pipeline(&reference.pipeline);
    let name = reference.resource(&pipeline);
    let mut client = ctx.registry().await?;
    let line = all_pages(async |page_token| {
        let request = v1::GetLineageRequest { name: name.clone(), page_size: PAGE, page_token };
        let page = client.get_lineage(ctx.request(request)).await?.into_inner();
        Ok((page.versions, page.next_page_token))
    });
    let mut line = line.await?.into_iter().map(VersionView::from);
    // What never is: a version without itself.
    let Some(version) = line.next() else { return Err(Failure::Failed("the server knows no lineage".to_owned())) };
    let ancestors = line.collect();
    let mut client = ctx.registry().await?;
    let later = all_pages(async |page_token| {
        let request = v1::ListVersionsRequest {
            parent: pipeline.clone(),
            page_size: PAGE,
            page_token,
            descends_from: version.version,
            ..Default::default()
        };
        let page = client.list_versions(ctx.request(request)).await?.into_inner();
        Ok((page.versions, page.next_page_token))
    });
    let descendants = later.await?.into_iter().map(VersionView::from).collect();
    ctx.show(&Lineage { version, ancestors, descendants })
}

#[derive(Serialize)]
struct Lineage {
    version: VersionView,
    /// Newest first.
    ancestors: Vec<VersionView>,
    /// Oldest first.
    descendants: Vec<VersionView>,
}

impl Render for Lineage {
    fn text(&self) -> String {
        let newest_first = self.descendants.iter().rev().map(|version| ("descendant", version));
        let ancestors = self.ancestors.iter().map(|version| ("ancestor", version));
        let all = newest_first.chain([("", &self.version)]).chain(ancestors);
        let rows = all.map(|(relation, version)| {
            [
                format!("v{}", version.version),
                relation.to_owned(),
                or_dash(version.parent.map(|parent| format!("v{parent}"))),
                version.aliases.join(","),
                version.chunks.join(" "),
                percent(version.average_accuracy),
                time(version.published_at_ms),
            ]
        });
        table(["version", "relation", "parent", "aliases", "chunks", "accuracy", "published"], rows, "")
    }
}
