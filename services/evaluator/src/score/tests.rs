use domain::buffer::Snapshot;
use domain::chunk::ObjectRef;
use domain::manifest::{Cost, SnapshotMeta};
use learn::publish::{self, Publication};
use learn::{Carried, Flat};
use serde_json::json;
use tch::Device;

use super::*;

/// A candidate in a folder of its own, and the job that scores it on nothing.
struct Scene {
    folder: tempfile::TempDir,
    job: EvalJob,
}

impl Scene {
    /// Weights are the seed's, and whatever `train` makes of them.
    fn new(train: impl FnOnce(&mut Flat)) -> Self {
        let spec = json!({
            "name": "p", "model": "mlp:8,8", "labels": ["a", "b"], "method": "er",
            "adapter": {"lora": {"r": 2, "target_modules": ["fc1", "fc2"]}},
            "input": {"channels": 1, "image_size": 4},
        });
        let manifest = Manifest {
            run: 1,
            update: 0,
            pipeline: serde_json::from_value(spec).unwrap(),
            labels: vec!["a".to_owned(), "b".to_owned()],
            parent: None,
            chunks: Vec::new(),
            late: Vec::new(),
            snapshot: None,
            eval_sets: Vec::new(),
            import: None,
        };
        let folder = tempfile::tempdir().unwrap();
        let candidate = trained(&manifest, folder.path(), train);
        let job = EvalJob {
            manifest,
            base_model: None,
            subject: Some(folder.path().to_owned()),
            candidate: Some(candidate),
            preprocessor: None,
            sets: Vec::new(),
            shards: BTreeMap::new(),
            device: "cpu".to_owned(),
            threads: 1,
        };
        Self { folder, job }
    }

    fn evaluated(&self) -> Result<Vec<Score>, Error> {
        evaluate(&self.job, &mut |_| ())
    }
}

fn trained(manifest: &Manifest, out: &std::path::Path, train: impl FnOnce(&mut Flat)) -> Candidate {
    let sources = Sources {
        pipeline: &manifest.pipeline,
        labels: &manifest.labels,
        base: None,
        version: None,
        preprocessor: None,
        device: Device::Cpu,
        precision: manifest.pipeline.training.precision,
    };
    let Assembled { net, trained, reader } = assemble::assemble_version(sources).unwrap();
    let mut weights = Flat::over(trained);
    tch::no_grad(|| train(&mut weights));
    let snapshot = Snapshot::empty(manifest.pipeline.policy(), 4, 0);
    let publication = Publication {
        pipeline: &manifest.pipeline,
        labels: &manifest.labels,
        net: &net,
        trained: weights.named(),
        reader: &reader,
        snapshot: &snapshot,
        carried: &Carried::default(),
        means: None,
        imported: false,
    };
    publish::publish(out, &publication).unwrap();
    let object = ObjectRef { path: "s".to_owned(), sha256: String::new(), bytes: 0 };
    Candidate {
        files: Vec::new(),
        weights_sha256: publish::weights_sha256(weights.named()),
        finite: true,
        preprocessing: None,
        golden: verify::golden(&net, &reader),
        snapshot: SnapshotMeta { object, chunks: Vec::new(), items: 0, seen: 0 },
        cost: Cost { steps: 4, ..Cost::default() },
    }
}

fn moved(by: f64) -> impl FnOnce(&mut Flat) {
    move |weights| drop(weights.values.g_add_scalar_(by))
}

#[test]
fn a_candidate_is_loaded_and_verified_also_where_nothing_is_held_out() {
    assert_eq!(Scene::new(moved(0.1)).evaluated().unwrap(), []);
}

#[test]
fn what_is_not_what_was_trained_is_spoiled() {
    let scene = Scene::new(moved(0.1));
    let adapter = scene.folder.path().join("adapter_model.safetensors");
    let spoiled = |wanted: &str| {
        let error = scene.evaluated().unwrap_err();
        let said = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(error.fault() == Fault::Spoiled && said.contains(wanted), "{said}");
    };
    let other = Scene::new(moved(0.2));
    std::fs::copy(other.folder.path().join("adapter_model.safetensors"), &adapter).unwrap();
    spoiled("the candidate is not what was trained: its weights have the SHA-256");
    let bytes = std::fs::read(&adapter).unwrap();
    std::fs::write(&adapter, &bytes[..bytes.len() / 2]).unwrap();
    spoiled("the candidate cannot be loaded: `");
    let zeroed = Scene::new(|_| ());
    std::fs::copy(zeroed.folder.path().join("adapter_model.safetensors"), &adapter).unwrap();
    spoiled("its weights have the SHA-256");
    std::fs::remove_file(&adapter).unwrap();
    spoiled("adapter_model.safetensors");
}

#[test]
fn an_adapter_that_trained_and_is_zero_fails_for_good() {
    let error = Scene::new(|_| ()).evaluated().unwrap_err();
    assert_eq!(error.fault(), Fault::Permanent);
    assert!(error.to_string().starts_with("its adapter is all zero: 4 steps changed nothing"), "{error}");
}
