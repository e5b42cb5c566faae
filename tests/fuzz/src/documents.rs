//! Documents that people and peers write: pipeline files, the daemon's configuration, manifests.

use domain::manifest::Manifest;
use domain::pipeline::{ModelFolder, Pipeline};
use domain::planning;
use domain::state::{Event, EventKind, State};
use perennial::config::Config;
use perennial::yaml::Document;
use perennial_proto::convert::{from_json, to_json};

/// As `perennial pipeline apply` reads it. What it sends, the daemon reads as the same pipeline.
pub fn pipeline(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(mut document) = Document::parse("p.yaml", text) else { return };
    if document.get("namespace").is_none() {
        document.set("namespace", "default", "--namespace");
    }
    let model = document.get("model").is_some_and(serde_json::Value::is_object);
    if model && document.part::<ModelFolder>("model").is_err() {
        return;
    }
    let Ok(pipeline) = document.to::<Pipeline>() else { return };
    let sent: Pipeline = from_json("spec_json", &to_json(&pipeline)).expect("the daemon takes what the client sends");
    assert_eq!(sent, pipeline);
    applied(&pipeline);
}

/// As the daemon is sent it, by whichever client.
pub fn spec_json(input: &[u8]) {
    let Ok(pipeline) = from_json::<Pipeline>("spec_json", input) else { return };
    let again: Pipeline = from_json("spec_json", &to_json(&pipeline)).expect("what is taken can be recorded");
    assert_eq!(again, pipeline);
    applied(&pipeline);
}

/// It is registered, and applying it again changes nothing.
fn applied(pipeline: &Pipeline) {
    let mut state = State::default();
    for event in planning::apply_spec(&state, pipeline).expect("nothing depends on a new pipeline") {
        state.apply(&event, 0).expect("a pipeline can be registered");
    }
    assert_eq!(planning::apply_spec(&state, pipeline), Ok(Vec::new()));
    assert!(planning::triggered(&state).is_empty(), "there is nothing to train");
}

/// The daemon's own file.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(document) = Document::parse("perennial.yaml", text) {
        let _ = document.to::<Config>();
    }
}

/// As a worker is sent it, and as the log keeps it.
pub fn manifest(input: &[u8]) {
    let Ok(manifest) = from_json::<Manifest>("manifest_json", input) else { return };
    let again: Manifest = from_json("manifest_json", &to_json(&manifest)).expect("what is taken can be recorded");
    assert_eq!(to_json(&again), to_json(&manifest));
    let shards = manifest.shards().count();
    assert!(shards <= input.len(), "{shards} shards");
    let (id, spec) = (manifest.pipeline.id(), Box::new(manifest.pipeline.clone()));
    let queued = EventKind::RunQueued { manifest: Box::new(manifest), opened: Vec::new() };
    let mut state = State::default();
    for kind in [EventKind::PipelineApplied { pipeline_spec: spec }, queued] {
        if state.apply(&Event { pipeline: id.clone(), kind }, 0).is_err() {
            return;
        }
    }
    super::log::decided(&state);
}
