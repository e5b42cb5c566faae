use std::collections::BTreeMap;

use domain::chunk::{Row, Shard};
use domain::manifest::ChunkData;

use super::*;
use collective::Solo;
use domain::buffer::Snapshot;
use domain::chunk::{ObjectRef, Payload};
use domain::evalset::EvalSet;
use domain::manifest::{Parent, Preprocessing, SnapshotData};
use serde_json::{Value, json};

use crate::job::Probe;

/// Two chunks of 30 tiny images, and the folder everything lies in.
struct Place {
    folder: tempfile::TempDir,
    chunks: Vec<ChunkData>,
    shards: BTreeMap<String, PathBuf>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut place = Self { folder, chunks: Vec::new(), shards: BTreeMap::new() };
        for name in ["one", "two"] {
            let train = (0..3).map(|number| place.shard(&format!("{name}-{number}"))).collect();
            place.chunks.push(ChunkData { id: ChunkId(name.to_owned()), task: name.parse().unwrap(), train });
        }
        place
    }

    fn shard(&mut self, name: &str) -> Shard {
        let rows: Vec<Row> = (0..10).map(|number| row(name, number)).collect();
        let path = self.folder.path().join(name);
        fs::write(&path, store::examples::write_shard(&rows, &"t".parse().unwrap(), "train").unwrap()).unwrap();
        self.shards.insert(name.to_owned(), path);
        Shard::new(ObjectRef { path: String::new(), sha256: name.to_owned(), bytes: 0 }, 10)
    }

    /// The job of the first chunk, or of the second after `parent`.
    fn job(&self, name: &str, parent: Option<&Path>) -> TrainJob {
        let spec = json!({
            "name": "p", "model": "mlp:8", "labels": ["a", "b"], "method": "er", "seed": 3,
            "rehearsal": {"memory_size": 12, "update": "chunk"}, "input": {"normalize": "dataset"},
            "training": {"batch_size": 8, "micro_batches": 2, "checkpoint_steps": 1},
        });
        let object = ObjectRef { path: String::new(), sha256: String::new(), bytes: 0 };
        let update = u64::from(parent.is_some());
        let manifest = Manifest {
            run: 1 + update,
            update,
            pipeline: serde_json::from_value(spec).unwrap(),
            labels: vec!["a".to_owned(), "b".to_owned()],
            parent: parent.map(|_| Parent { version: domain::id::Version(1), files: Vec::new() }),
            chunks: vec![self.chunks[update as usize].clone()],
            late: Vec::new(),
            snapshot: parent.map(|_| SnapshotData { object, chunks: vec![self.chunks[0].clone()] }),
            eval_sets: Vec::new(),
            import: None,
        };
        TrainJob {
            manifest,
            base_model: None,
            parent: parent.map(Path::to_owned),
            import: None,
            snapshot: parent.map(|parent| parent.join("snapshot.json")),
            shards: self.shards.clone(),
            out: self.folder.path().join(name),
            checkpoints: self.folder.path().join(format!("{name}-checkpoints")),
            resume: None,
            device: "cpu".to_owned(),
            probe: None,
        }
    }
}

/// PNG files of 2 by 2 grey pixels.
const BLACK: &[u8] = b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x02\x00\x00\x00\x02\x08\x00\x00\x00\x00\x57\xdd\x52\xf8\x00\x00\x00\x0b\x49\x44\x41\x54\x78\x9c\x63\x60\x00\x01\x00\x00\x06\x00\x01\xfe\x8c\x67\xc8\x00\x00\x00\x00\x49\x45\x4e\x44\xae\x42\x60\x82";
const WHITE: &[u8] = b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x02\x00\x00\x00\x02\x08\x00\x00\x00\x00\x57\xdd\x52\xf8\x00\x00\x00\x0e\x49\x44\x41\x54\x78\x9c\x63\xf8\xff\x9f\xe1\xff\x7f\x00\x0b\xfa\x03\xfd\xe0\x25\x8a\x10\x00\x00\x00\x00\x49\x45\x4e\x44\xae\x42\x60\x82";

fn row(shard: &str, number: usize) -> Row {
    // The second chunk has other statistics than the first.
    let image = if number.is_multiple_of(2) && shard.starts_with("one") { BLACK } else { WHITE };
    Row::new(format!("{shard}:{number}"), Payload::Image(image.to_vec()), ["a", "b"][number % 2])
}

fn run(job: &TrainJob) -> Result<Trained, Error> {
    train(job, &Solo, &|| 0.0, &mut |_| ())
}

#[test]
fn a_second_update_continues_from_the_first_and_replays_its_rows() {
    let place = Place::new();
    let first = place.job("v1", None);
    let trained = run(&first).unwrap();
    assert_eq!((trained.items, trained.seen, trained.cost.steps), (12, 30, 4));
    assert!(trained.finite && trained.cost.peak_memory_bytes > 0 && trained.files.contains(&"labels.json".to_owned()));
    assert!(trained.golden.iter().flatten().all(Option::is_some) && trained.golden.len() == 3, "{:?}", trained.golden);

    let second = place.job("v2", Some(&first.out));
    let trained = run(&second).unwrap();
    assert_eq!((trained.items, trained.seen), (12, 60));
    let kept: Value = serde_json::from_slice(&fs::read(second.out.join("snapshot.json")).unwrap()).unwrap();
    assert_eq!(kept["slots"].as_array().unwrap().len(), 12);
}

#[test]
fn the_first_update_measures_the_data_and_later_ones_keep_its_numbers() {
    let place = Place::new();
    let (first, mut other) = (place.job("v1", None), place.job("other", None));
    other.manifest.chunks = vec![place.chunks[1].clone()];
    let second = place.job("v2", Some(&first.out));
    let [first, second, other] = [first, second, other].map(|job| run(&job).unwrap().preprocessing);
    assert_eq!(first, Preprocessing::Image { channels: 1, size: 2, mean: vec![0.5], std: vec![0.5] });
    assert_eq!(second, first);
    assert_ne!(other, first);
}

#[test]
fn an_import_is_published_as_it_is_and_the_next_update_continues_from_it() {
    let place = Place::new();
    let adapted = |mut job: TrainJob| {
        let mut spec = domain::pipeline::Spec::from(job.manifest.pipeline);
        spec.adapter = serde_json::from_value(json!({"lora": {"r": 2, "target_modules": ["fc1"]}})).unwrap();
        job.manifest.pipeline = spec.try_into().unwrap();
        job
    };
    let first = adapted(place.job("elsewhere", None));
    let trained = run(&first).unwrap();
    let mut job = adapted(place.job("v1", None));
    job.manifest.chunks.clear();
    job.manifest.import = Some(domain::manifest::Import { files: Vec::new() });
    job.import = Some(first.out);
    let imported = run(&job).unwrap();
    assert_eq!(imported.weights_sha256, trained.weights_sha256);
    assert_eq!(imported.preprocessing, trained.preprocessing, "nothing is left to measure");
    assert_eq!((imported.items, imported.seen, imported.cost.steps), (0, 0, 0));
    let trained = run(&adapted(place.job("v2", Some(&job.out)))).unwrap();
    assert_eq!((trained.items, trained.seen), (12, 30));
}

#[test]
fn a_run_resumed_from_its_newest_checkpoint_leaves_the_same_weights() {
    let place = Place::new();
    let mut job = place.job("v1", None);
    let whole = run(&job).unwrap();
    let kept = fs::read_dir(&job.checkpoints).unwrap().count();
    let newest = checkpoint::newest(&job.checkpoints, &job.manifest).unwrap();
    assert!(kept == 2 && newest.ends_with("3"), "{kept} {newest:?}");
    job.resume = Some(job.checkpoints.join("2"));
    assert_eq!(run(&job).unwrap().weights_sha256, whole.weights_sha256);
}

/// Accuracies on a set of both chunks' images, every `every` steps.
fn probed(place: &Place, mut job: TrainJob, every: u64) -> TrainJob {
    let part =
        |chunk: &ChunkData| domain::evalset::Part { chunk: chunk.id.clone(), rows: 15, shards: chunk.train.clone() };
    let set = EvalSet { task: "both".parse().unwrap(), number: 1, parts: place.chunks.iter().map(part).collect() };
    job.probe = Some(Probe { every: every.try_into().unwrap(), sets: vec![set] });
    job
}

#[test]
fn accuracies_taken_within_an_update_change_no_bit_of_it() {
    let place = Place::new();
    for method in domain::pipeline::Method::ALL {
        let with = |name: &str, parent: Option<&Path>| {
            let mut job = place.job(&format!("{}-{name}", method.name()), parent);
            let mut spec = domain::pipeline::Spec::from(job.manifest.pipeline);
            spec.method = method;
            spec.rehearsal.update = None;
            job.manifest.pipeline = spec.try_into().unwrap();
            job
        };
        let first = with("v1", None);
        run(&first).unwrap();
        let plain = run(&with("plain", Some(&first.out))).unwrap();
        let seen = run(&probed(&place, with("seen", Some(&first.out)), 2)).unwrap();
        assert_eq!((&seen.weights_sha256, &seen.files), (&plain.weights_sha256, &plain.files), "{}", method.name());
        assert_eq!(plain.probed, Probed::default());
        let steps: Vec<u64> = seen.probed.points.iter().map(|point| point.step).collect();
        let wanted: Vec<u64> = (1..seen.cost.steps).filter(|step| step % 2 == 0).collect();
        assert_eq!(steps, wanted, "{}", method.name());
        for point in &seen.probed.points {
            assert!(point.accuracies.len() == 1 && (0.0..=1.0).contains(&point.accuracies[0]), "{point:?}");
        }
    }
}

#[test]
fn what_a_probe_takes_is_no_training_time() {
    let place = Place::new();
    let seconds = |job: &TrainJob| {
        let ticks = std::cell::Cell::new(0.0);
        let clock = || ticks.replace(ticks.get() + 1.0);
        let trained = train(job, &Solo, &clock, &mut |_| ()).unwrap();
        (trained.cost.train_seconds, trained.probed.seconds)
    };
    let (plain, nothing) = seconds(&place.job("plain", None));
    let (train, probe) = seconds(&probed(&place, place.job("seen", None), 1));
    // Each reading asks twice, and what lies between is the probe's.
    assert_eq!((nothing, probe, train), (0.0, 3.0, plain + 3.0));
}

#[test]
fn a_probe_names_the_held_out_rows_that_are_not_there() {
    let place = Place::new();
    let mut job = probed(&place, place.job("v1", None), 1);
    job.probe.as_mut().unwrap().sets[0].parts[1].rows = 31;
    let error = run(&job).unwrap_err();
    let wanted = "chunk two holds 30 held-out rows, and the EvalSet of `both` names 31";
    assert!(error.to_string() == wanted && error.is_permanent(), "{error}");
}

#[test]
fn shards_and_rows_that_are_not_there_are_named() {
    let place = Place::new();
    let first = place.job("v1", None);
    run(&first).unwrap();

    let mut job = place.job("v2", Some(&first.out));
    job.shards.remove("two-1");
    assert_eq!(run(&job).unwrap_err().to_string(), "shard two-1 was not fetched");

    let mut job = place.job("v2", Some(&first.out));
    job.manifest.snapshot.as_mut().unwrap().chunks[0].train.clear();
    let error = run(&job).unwrap_err();
    assert!(matches!(error, Error::NoRow { rows: 0, .. }) && error.is_permanent(), "{error}");

    job.device = "tpu".to_owned();
    assert_eq!(run(&job).unwrap_err().to_string(), "`tpu` is not a device: expected `cpu` or `cuda:N`");
}

/// Two ranks, of which the other one holds `other`.
struct Pair {
    other: i64,
}

impl Collective for Pair {
    fn rank(&self) -> usize {
        0
    }
    fn world(&self) -> usize {
        2
    }
    fn all_reduce(&self, _: &mut Tensor) -> Result<(), collective::Error> {
        Ok(())
    }
    fn broadcast(&self, _: &mut Tensor, _: usize) -> Result<(), collective::Error> {
        Ok(())
    }
    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, collective::Error> {
        Ok(vec![tensor.copy(), Tensor::from_slice(&[self.other])])
    }
    fn barrier(&self) -> Result<(), collective::Error> {
        Ok(())
    }
    fn abort(&mut self) {}
}

#[test]
fn ranks_that_would_resume_from_different_steps_do_not_begin() {
    assert!(together(&Pair { other: 40 }, Device::Cpu, 40).is_ok());
    let error = together(&Pair { other: 20 }, Device::Cpu, 40).unwrap_err();
    assert!(matches!(&error, Error::Apart(steps) if steps == &[40, 20]) && !error.is_permanent(), "{error}");
}

/// With an EvalSet of the first `rows` images of a shard.
fn measured(place: &Place, mut job: TrainJob, shard: &Shard, rows: u64) -> TrainJob {
    let part = domain::evalset::Part { chunk: place.chunks[0].id.clone(), rows, shards: vec![shard.clone()] };
    job.manifest.eval_sets = vec![EvalSet { task: "both".parse().unwrap(), number: 1, parts: vec![part] }];
    job
}

#[test]
fn held_out_items_neither_train_nor_enter_memory_nor_are_replayed() {
    let place = Place::new();
    let black = &place.chunks[0].train[0];
    let clean = run(&measured(&place, place.job("clean", None), black, 1)).unwrap();
    assert_eq!((clean.cost.contaminated_rows, clean.seen, clean.cost.steps), (15, 15, 2));

    // A row that came to be held out after memory had taken it.
    let first = place.job("v1", None);
    assert_eq!(run(&first).unwrap().cost.contaminated_rows, 0);
    let slots =
        |out: &Path| -> Snapshot { serde_json::from_slice(&fs::read(out.join("snapshot.json")).unwrap()).unwrap() };
    let is_black = |snapshot: &Snapshot| {
        let one = |slot: &&domain::buffer::Slot| {
            snapshot.chunks[slot.chunk as usize].0 == "one" && slot.row.is_multiple_of(2)
        };
        snapshot.slots.iter().filter(one).count() as u64
    };
    let before = is_black(&slots(&first.out));
    let second = measured(&place, place.job("v2", Some(&first.out)), black, 1);
    let trained = run(&second).unwrap();
    assert!(before > 0);
    assert_eq!((trained.cost.contaminated_rows, is_black(&slots(&second.out))), (before, 0));
}

#[test]
fn rows_are_compared_as_the_pipeline_says_and_some_must_be_left() {
    let place = Place::new();
    let white = &place.chunks[1].train[0];
    let mut job = measured(&place, place.job("v1", None), white, 10);
    job.manifest.chunks = vec![place.chunks[1].clone()];
    let error = run(&job).unwrap_err();
    assert!(error.is_permanent() && error.to_string().starts_with("all 30 rows to train on are held-out"), "{error}");
    let mut spec = domain::pipeline::Spec::from(job.manifest.pipeline);
    spec.evaluation.contamination = domain::pipeline::Contamination::Off;
    job.manifest.pipeline = spec.try_into().unwrap();
    assert_eq!(run(&job).unwrap().cost.contaminated_rows, 0);
}

/// The snapshot that a job left.
fn left(job: &TrainJob) -> Snapshot {
    serde_json::from_slice(&fs::read(job.out.join("snapshot.json")).unwrap()).unwrap()
}

impl Place {
    /// The shard with these labels on top.
    fn labelled(&mut self, shard: &Shard, labels: Value) -> Shard {
        let name = format!("{}-labels-{}", shard.object.sha256, self.shards.len());
        let path = self.folder.path().join(&name);
        fs::write(&path, labels.to_string()).unwrap();
        self.shards.insert(name.clone(), path);
        Shard { labels: Some(ObjectRef { sha256: name, ..shard.object.clone() }), ..shard.clone() }
    }

    /// The shard without these rows.
    fn erased(&mut self, shard: &Shard, rows: &[u32]) -> Shard {
        let bytes = fs::read(&self.shards[&shard.object.sha256]).unwrap();
        let places = rows.iter().copied().collect();
        let bytes = store::examples::erase_rows(bytes.into(), &places, &"t".parse().unwrap(), "train").unwrap();
        let name = format!("{}-erased", shard.object.sha256);
        let path = self.folder.path().join(&name);
        fs::write(&path, bytes).unwrap();
        self.shards.insert(name.clone(), path);
        let object = ObjectRef { sha256: name, ..shard.object.clone() };
        Shard { object, erased: rows.len() as u64, ..shard.clone() }
    }
}

#[test]
fn rows_without_a_label_neither_train_nor_enter_memory_and_train_once_they_have_one() {
    let mut place = Place::new();
    let bare = json!({"0": "", "1": "", "2": "", "3": ""});
    let shard = place.chunks[0].train[0].clone();
    let before = place.labelled(&shard, bare);
    place.chunks[0].train[0] = before.clone();
    let first = place.job("v1", None);
    let trained = run(&first).unwrap();
    assert_eq!((trained.seen, trained.cost.steps), (26, 4));
    assert!(left(&first).slots.iter().all(|slot| slot.row > 3), "{:?}", left(&first).slots);

    // Two of them get a label before the next run.
    let after = place.labelled(&shard, json!({"0": "b", "1": "", "2": "a", "3": ""}));
    place.chunks[0].train[0] = after;
    let mut second = place.job("v2", Some(&first.out));
    let labels = |shard: &Shard| shard.labels.clone();
    let before: Vec<_> = std::iter::once(&before).chain(&place.chunks[0].train[1..]).map(labels).collect();
    second.manifest.late = vec![domain::manifest::LateRows { data: place.chunks[0].clone(), before }];
    assert_eq!(run(&second).unwrap().seen, 26 + 30 + 2);
}

#[test]
fn memory_takes_the_labels_that_its_rows_have_by_now_and_forgets_what_is_gone() {
    let mut place = Place::new();
    let first = place.job("v1", None);
    run(&first).unwrap();
    let remembered = left(&first);
    let here: Vec<u32> = remembered.slots.iter().map(|slot| slot.row).filter(|row| *row < 10).collect();
    let [changed, gone] = here[..2] else { panic!("memory holds {here:?} of the first shard") };

    let shard = place.erased(&place.chunks[0].train[0].clone(), &[gone]);
    let other = ["b", "a"][changed as usize % 2];
    place.chunks[0].train[0] = place.labelled(&shard, json!({changed.to_string(): other}));
    let mut second = place.job("v2", Some(&first.out));
    // Large enough to keep everything that may be kept.
    let mut spec = domain::pipeline::Spec::from(second.manifest.pipeline);
    spec.rehearsal.memory_size = 100.try_into().unwrap();
    second.manifest.pipeline = spec.try_into().unwrap();
    run(&second).unwrap();
    let snapshot = left(&second);
    let old = |row: u32| {
        let is_old = |slot: &&domain::buffer::Slot| snapshot.chunks[slot.chunk as usize].0 == "one" && slot.row == row;
        snapshot.slots.iter().find(is_old)
    };
    assert_eq!(old(changed).unwrap().label, u32::from(other == "b"));
    assert_eq!(old(gone), None);
    assert_eq!(snapshot.slots.len(), 12 - 1 + 30);
}
