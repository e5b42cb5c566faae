//! A head for each task.

mod support;

use domain::manifest::{ChunkData, Manifest};
use perennial_learn::evaluate::evaluate;
use perennial_learn::heads::Heads;
use serde_json::json;
use support::{Trial, chunk, dataset, manifest, rows};

/// A run whose chunk `x` is of task `one`, and `y` of `two`.
fn two_tasks(heads: &str) -> Manifest {
    let mut manifest = manifest(json!({"method": "ft", "heads": heads, "training": {"optimizer": "sgd", "epochs": 4}}));
    manifest.labels.push("d".to_owned());
    let data = |name: &str, task: &str| ChunkData { id: chunk(name), task: task.parse().unwrap(), train: Vec::new() };
    manifest.chunks = vec![data("x", "one"), data("y", "two")];
    manifest
}

/// Trained where the first chunk has labels a and b, and the second c.
fn trained(heads: &str) -> Trial {
    let mut trial = Trial::new(two_tasks(heads));
    let of = |labels: &[&str]| -> Vec<_> {
        rows(90, 5).into_iter().filter(|row| labels.contains(&row.label.as_str())).take(20).collect()
    };
    let (first, second) = (of(&["a", "b"]), of(&["c"]));
    let chunks = vec![
        perennial_learn::Part::whole(chunk("x"), first.len()),
        perennial_learn::Part::whole(chunk("y"), second.len()),
    ];
    let all = dataset(&[first, second].concat());
    trial.pool = perennial_learn::Pool::new(chunks, all, vec![], None, tch::Device::Cpu);
    trial.net.heads = trial.net.heads.take().map(|heads| heads.grown(&trial.manifest, &trial.pool));
    trial.run();
    trial
}

/// How far each label's row of the head has moved.
fn moved(trial: &Trial) -> Vec<f64> {
    let parts = trial.weights.split(&(&trial.weights.values - &trial.base));
    let rows = parts.into_iter().find(|(_, part)| part.size() == [4, 12]).unwrap().1;
    (0..4).map(|label| rows.get(label).abs().max().double_value(&[])).collect()
}

#[test]
fn rows_teach_nothing_to_the_heads_of_other_tasks() {
    let own = moved(&trained("tasks"));
    // Nothing but its own label can be the answer to a row of the second task, and nobody has the fourth label.
    assert!(own[0] > 1e-3 && own[1] > 1e-3 && own[2] == 0.0 && own[3] == 0.0, "{own:?}");
    assert!(moved(&trained("labels")).iter().all(|row| *row > 1e-4));
}

#[test]
fn where_the_task_is_known_only_its_labels_are_answers() {
    let trial = trained("tasks");
    let of_c: Vec<_> = rows(60, 9).into_iter().filter(|row| row.label == "c").collect();
    let accuracy = |task| {
        let scored = evaluate(&trial.net, &dataset(&of_c), &trial.reader, task, 32, &mut |_| ());
        scored.correct as f64 / scored.items as f64
    };
    assert_eq!(accuracy(Some("two")), 1.0);
    assert_eq!(accuracy(Some("one")), 0.0);
    // A task without a head may have any label.
    assert_eq!(accuracy(Some("three")), accuracy(None));
}

#[test]
fn heads_go_with_the_version() {
    let folder = tempfile::tempdir().unwrap();
    let mut trial = trained("tasks");
    let outcome = trial.run();
    let names = trial.publish(folder.path(), &outcome);
    assert!(names.contains(&"heads.json".to_owned()));
    let text: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("heads.json")).unwrap()).unwrap();
    assert_eq!(text, json!({"one": ["a", "b"], "two": ["c"]}));
    let read = Heads::load(folder.path(), &trial.manifest.labels).unwrap();
    assert_eq!(read, trial.net.heads);
    let card = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
    assert!(card.contains("`heads.json`"));
}
