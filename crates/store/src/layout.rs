//! Where everything lies, relative to the store's root.
//!
//! ```text
//! log/{n:020}.json                                     the commit log (crate::log)
//! log/snapshots/{n:020}.bin
//! retired/{block:020}                                  says that 512 numbers of the log are used up
//! namespaces/{ns}/pipelines/{p}/chunks/{id}/           raw, and a folder of shards named by their content
//! namespaces/{ns}/pipelines/{p}/runs/{n}/              checkpoints/{step:012}/, candidate/{attempt}/
//! namespaces/{ns}/pipelines/{p}/uploads/{sha256}/      parts of a payload that is not whole yet
//! namespaces/{ns}/pipelines/{p}/imports/{sha256}/      an adapter that was trained elsewhere, as it came
//! adapters/{ns}/{p}-v0001/                             a published version, as serving fleets read it
//! models/{sha256}/                                     base models
//! ```

use domain::id::{ChunkId, Namespace, PipelineId, RunNumber, Version};

/// Everything received as, and derived from, one chunk.
pub fn chunk(pipeline: &PipelineId, chunk: &ChunkId) -> String {
    format!("{pipeline}/chunks/{chunk}")
}

/// A chunk as it was received.
pub fn chunk_raw(pipeline: &PipelineId, id: &ChunkId) -> String {
    format!("{}/raw", chunk(pipeline, id))
}

/// The folder of what runs need until they end.
pub fn runs(pipeline: &PipelineId) -> String {
    format!("{pipeline}/runs")
}

pub fn run(pipeline: &PipelineId, run: RunNumber) -> String {
    format!("{}/{run}", runs(pipeline))
}

/// The run that an object below [`runs`] belongs to.
pub fn run_of(pipeline: &PipelineId, path: &str) -> Option<RunNumber> {
    let below = path.strip_prefix(&runs(pipeline))?.strip_prefix('/')?;
    below.split('/').next()?.parse().ok()
}

/// The folder of a run's checkpoints; their names sort by step.
pub fn checkpoints(pipeline: &PipelineId, number: RunNumber) -> String {
    format!("{}/checkpoints", run(pipeline, number))
}

pub fn checkpoint(pipeline: &PipelineId, number: RunNumber, step: u64) -> String {
    format!("{}/{step:012}", checkpoints(pipeline, number))
}

/// What a trained attempt leaves. Attempts do not share a folder: two may overlap.
pub fn candidate(pipeline: &PipelineId, number: RunNumber, attempt: u32) -> String {
    format!("{}/candidate/{attempt}", run(pipeline, number))
}

/// The folder of payloads that are not whole yet.
pub fn uploads(pipeline: &PipelineId) -> String {
    format!("{pipeline}/uploads")
}

/// The parts of a payload, named by its digest.
pub fn upload(pipeline: &PipelineId, sha256: &str) -> String {
    format!("{}/{sha256}", uploads(pipeline))
}

/// An adapter's folder as it came, named by its digest.
pub fn import(pipeline: &PipelineId, sha256: &str) -> String {
    format!("{pipeline}/imports/{sha256}")
}

/// The folder a serving fleet scans: each folder in it is one version.
pub fn adapters(namespace: &Namespace) -> String {
    format!("adapters/{namespace}")
}

pub fn version(pipeline: &PipelineId, version: Version) -> String {
    format!("{}/{}", adapters(&pipeline.namespace), version.folder(&pipeline.name))
}

/// A base model's folder, named by its digest.
pub fn model(sha256: &str) -> String {
    format!("models/{sha256}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_plain_and_checkpoints_sort_by_step() {
        let id: PipelineId = "namespaces/default/pipelines/tickets".parse().unwrap();
        assert_eq!(version(&id, Version(42)), "adapters/default/tickets-v0042");
        assert_eq!(chunk_raw(&id, &ChunkId("ab12".to_owned())), "namespaces/default/pipelines/tickets/chunks/ab12/raw");
        assert!(checkpoint(&id, 1, 999) < checkpoint(&id, 1, 1000));
        assert_eq!(run_of(&id, &format!("{}/snapshot.json", candidate(&id, 12, 3))), Some(12));
        assert_eq!(run_of(&id, &chunk_raw(&id, &ChunkId("1".to_owned()))), None);
    }
}
