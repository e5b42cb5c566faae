//! `perennial demo`, started as a user starts it.

use std::path::Path;
use std::process::Command;

use perennial_tests::cluster::binary;
use serde_json::Value;

#[path = "../../services/worker/tests/support/mod.rs"]
mod support;

/// What `perennial` prints with `-o json` after the given words.
fn json_of(args: &[&str]) -> Value {
    // Found beside `perennial`, and asked for here so that a missing build is named.
    ["perenniald", "perennial-worker"].iter().for_each(|name| drop(binary(name)));
    let output = Command::new(binary("perennial")).args(args).args(["-o", "json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?} ended with {}: {said}", output.status);
    serde_json::from_slice(&output.stdout).expect("one JSON document on stdout")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn the_demo_tells_its_whole_story_without_data() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let told = json_of(&["demo", "--report", path(&page)]);
    assert_eq!(keys(&told), ["arms", "refused", "report", "versions"]);
    assert_eq!(keys(&told["arms"]), ["fine_tune", "perennial"]);
    let figure = |arm: &str, name: &str| told["arms"][arm][name].as_f64().unwrap();
    for arm in ["perennial", "fine_tune"] {
        assert_eq!(keys(&told["arms"][arm]), ["accuracy_matrix", "average_accuracy", "forgetting"]);
        assert_eq!(told["arms"][arm]["accuracy_matrix"].as_array().unwrap().len(), 5, "{told}");
        let versions = told["versions"].as_array().unwrap().iter();
        assert_eq!(versions.filter(|version| version["pipeline"] == arm.replace('_', "-")).count(), 5, "{told}");
    }
    assert!(figure("perennial", "average_accuracy") > figure("fine_tune", "average_accuracy"), "{told}");
    assert!(figure("perennial", "forgetting") < figure("fine_tune", "forgetting"), "{told}");
    let refused = told["refused"].as_array().unwrap();
    assert!(refused.len() == 1 && !refused[0]["reasons"].as_array().unwrap().is_empty(), "{refused:?}");
    assert_eq!(told["report"].as_str(), page.to_str());
    assert!(std::fs::read_to_string(&page).unwrap().ends_with("</html>"));
}

/// Three tasks, since joint training orders two remembered chunks only at the third. The daemon's ranks are two
/// processes, the bench's is itself.
fn demo_and_bench_agree(model: &str, method: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let stream = support::stream(folder.path(), &[0, 1, 2], 80);
    let flags = ["--model", model, "--batch", "8", "--epochs", "2", "--seed", "5", "--micro-batches", "2"];
    let more = ["--replay-batch", "8", "--buffer-size", "40", "--threads-per-rank", "1"];
    let flags = [&flags[..], &more, &["--method"], method].concat();
    let report = folder.path().join("report.html");
    let demo = ["demo", "--data", path(&stream), "--no-baseline", "--ranks", "2", "--report", path(&report)];
    let demo = json_of(&[&demo[..], &flags].concat());
    let bench = &json_of(&[&["bench", path(&stream)][..], &flags].concat())["runs"][0];
    assert_eq!(demo["arms"]["perennial"]["accuracy_matrix"], bench["accuracy_matrix"], "{method:?}");
    assert_eq!(demo["arms"]["perennial"]["forgetting"], bench["forgetting"], "{method:?}");
    let (versions, evaluations) = (demo["versions"].as_array().unwrap(), bench["evaluations"].as_array().unwrap());
    for (version, evaluation) in versions.iter().zip(evaluations) {
        for figure in ["expected_calibration_error", "brier_score"] {
            assert!(version[figure].is_f64() && version[figure] == evaluation[figure], "{method:?}: {version}");
        }
        // The gate compares with the champion, the bench with the parent.
        if version["compared_with"] == version["parent"] {
            assert_eq!(version["flips"], evaluation["flips"], "{method:?}");
        }
    }
    assert_eq!((&versions[0]["flips"], &versions[0]["compared_with"]), (&Value::Null, &Value::Null), "{method:?}");
    assert_eq!(versions[1]["compared_with"], 1, "{method:?}");
    let last = versions.last().unwrap();
    assert_eq!((&last["version"], &last["weights_sha256"]), (&Value::from(3), &bench["weights_sha256"]), "{method:?}");
}

#[test]
fn every_method_through_the_daemon_gives_the_numbers_of_the_bench() {
    let methods = domain::pipeline::Method::ALL.map(|method| vec![method.name()]);
    let coreset = vec!["der++", "--buffer", "gmc", "--gmc-initialisations", "3"];
    methods.into_iter().chain([coreset]).for_each(|method| demo_and_bench_agree("mlp:24", &method));
}

#[test]
fn a_resnet_through_the_daemon_gives_the_numbers_of_the_bench() {
    ["er", "rd"].iter().for_each(|method| demo_and_bench_agree("resnet18:slim,nf=4", &[method]));
}
