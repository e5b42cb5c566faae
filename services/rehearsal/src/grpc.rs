//! RehearsalService.

use std::collections::HashMap;
use std::sync::Arc;

use domain::buffer::Snapshot;
use domain::chunk::ObjectRef;
use domain::id::ChunkId;
use domain::planning;
use domain::state::PipelineState;
use domain::version::AdapterVersion;
use object_store::ObjectStore;
use perennial_proto::convert::{from_json, pipeline_id};
use perennial_proto::limits::page_of;
use perennial_proto::v1;
use perennial_proto::v1::rehearsal_service_server::RehearsalService;
use store::journal::Journal;
use tonic::{Request, Response, Status};

use crate::erase::Eraser;
use crate::error::Error;

pub struct Rehearsal {
    journal: Arc<Journal>,
    store: Arc<dyn ObjectStore>,
    eraser: Eraser,
}

fn describe(current: &PipelineState, version: &AdapterVersion) -> v1::Snapshot {
    v1::Snapshot {
        version: version.number.0,
        items: version.snapshot.items,
        seen: version.snapshot.seen,
        sha256: version.snapshot.object.sha256.clone(),
        current: current.tip == Some(version.number),
    }
}

impl Rehearsal {
    pub fn new(journal: Arc<Journal>, store: Arc<dyn ObjectStore>) -> Self {
        let eraser = Eraser::new(journal.clone(), store.clone());
        Self { journal, store, eraser }
    }

    async fn stats(&self, name: &str) -> Result<v1::GetBufferStatsResponse, Error> {
        let id = pipeline_id("pipeline", name)?;
        let (mut stats, object) = self.journal.read(|state| {
            let current = planning::pipeline(state, &id).map_err(Error::from)?;
            let tip = current.tip.map(|tip| &current.versions[&tip]);
            let stats = v1::GetBufferStatsResponse {
                snapshot: tip.map(|version| describe(current, version)),
                policy: current.pipeline.policy().name().to_owned(),
                capacity: u64::from(current.pipeline.rehearsal.memory_size.get()),
                ..Default::default()
            };
            Ok::<_, Error>((stats, tip.map(|version| version.snapshot.object.clone())))
        })?;
        if let Some(object) = object {
            let snapshot = self.load(&object).await?;
            stats.items_by_chunk = by_chunk(&snapshot).into_iter().map(|(id, n)| (id.0, n)).collect();
            stats.items_by_task = self.journal.read(|state| by_task(&state.pipelines[&id], &snapshot));
        }
        Ok(stats)
    }

    async fn load(&self, object: &ObjectRef) -> Result<Snapshot, Error> {
        let bytes = store::objects::get(&*self.store, object).await?;
        Ok(from_json("snapshot", &bytes)?)
    }
}

fn by_chunk(snapshot: &Snapshot) -> HashMap<ChunkId, u64> {
    let mut counts = HashMap::new();
    for slot in &snapshot.slots {
        *counts.entry(snapshot.chunks[slot.chunk as usize].clone()).or_default() += 1;
    }
    counts
}

fn by_task(current: &PipelineState, snapshot: &Snapshot) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for (chunk, items) in by_chunk(snapshot) {
        if let Some(chunk) = current.chunks.get(&chunk) {
            *counts.entry(chunk.task.to_string()).or_default() += items;
        }
    }
    counts
}

#[tonic::async_trait]
impl RehearsalService for Rehearsal {
    async fn get_buffer_stats(
        &self,
        request: Request<v1::GetBufferStatsRequest>,
    ) -> Result<Response<v1::GetBufferStatsResponse>, Status> {
        Ok(Response::new(self.stats(&request.into_inner().pipeline).await?))
    }

    async fn erase_rows(
        &self,
        request: Request<v1::EraseRowsRequest>,
    ) -> Result<Response<v1::EraseRowsResponse>, Status> {
        let erasure = self.eraser.erase_rows(request.into_inner()).await?;
        Ok(Response::new(v1::EraseRowsResponse { erasure }))
    }

    async fn list_erasures(
        &self,
        request: Request<v1::ListErasuresRequest>,
    ) -> Result<Response<v1::ListErasuresResponse>, Status> {
        Ok(Response::new(self.eraser.list(request.into_inner()).await?))
    }

    async fn list_snapshots(
        &self,
        request: Request<v1::ListSnapshotsRequest>,
    ) -> Result<Response<v1::ListSnapshotsResponse>, Status> {
        let request = request.into_inner();
        let id = pipeline_id("parent", &request.parent)?;
        let (snapshots, next_page_token) = self.journal.read(|state| {
            let current = planning::pipeline(state, &id)?;
            let (page, next) = page_of(current.versions.values(), request.page_size, &request.page_token)?;
            Ok::<_, Error>((page.into_iter().map(|version| describe(current, version)).collect(), next))
        })?;
        Ok(Response::new(v1::ListSnapshotsResponse { snapshots, next_page_token }))
    }
}
