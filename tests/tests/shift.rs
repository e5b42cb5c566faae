//! Every chunk is compared with what its pipeline knew when it came: what its rows look like, how its labels are spread, and
//! whether they still mean the same.

use std::collections::BTreeMap;

use perennial_proto::v1::Split;
use perennial_tests::cluster::{binary, pipeline};
use perennial_tests::digits::{clean, mislabelled};
use perennial_tests::{Cluster, Options};
use serde_json::{Value, json};

/// `perennial shift --wait` of a chunk.
fn shift(cluster: &Cluster, chunk: &str, more: &[&str]) -> (Option<i32>, Value, String) {
    let mut command = std::process::Command::new(binary("perennial"));
    command.args(["shift", chunk, "--wait", "-o", "json"]).args(more).env("PERENNIAL_SERVER", cluster.url());
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
}

/// By reference and test.
fn p_values(shift: &Value) -> BTreeMap<(String, String), f64> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let shifts = shift["shifts"].as_array().unwrap().iter();
    let tests = shifts.flat_map(|shift| shift["tests"].as_array().unwrap().iter().map(move |test| (shift, test)));
    tests
        .map(|(shift, test)| ((text(&shift["against"]), text(&test["detector"])), test["p_value"].as_f64().unwrap()))
        .collect()
}

struct Scene {
    cluster: Cluster,
}

impl Scene {
    /// With a version that knows clean digits.
    async fn new() -> (Self, String) {
        let cluster = Cluster::start(Options::default()).await;
        let mut spec = pipeline("digits");
        spec["data"] = json!({"shift": true, "late_labels": {"coverage": 0.5}});
        cluster.apply(&spec).await.unwrap();
        let scene = Self { cluster };
        let first = scene.push("clean", &clean(1, 0, 600)).await;
        let run = scene.cluster.update("digits").await;
        assert_eq!(run.state, "published", "{run:?}\n{}", scene.cluster.last_log());
        (scene, first)
    }

    async fn push(&self, task: &str, rows: &[u8]) -> String {
        self.cluster.push("digits", task, Split::Auto, rows).await.unwrap().chunk.unwrap().name
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_is_compared_with_what_is_remembered_and_held_out() {
    let (scene, first) = Scene::new().await;
    let cluster = &scene.cluster;
    let (_, before, _) = shift(cluster, &first, &[]);
    assert!(before["version"].is_null() && before["pending"] == false, "{before}");

    let alike = scene.push("clean", &clean(2, 0, 300)).await;
    let (code, found, errors) = shift(cluster, &alike, &[]);
    assert_eq!((code, &found["version"]), (Some(0), &1.into()), "{found} {errors}\n{}", cluster.last_log());
    let p = p_values(&found);
    for (against, test) in [
        ("buffer", "mmd"),
        ("buffer", "ks"),
        ("buffer", "labels"),
        ("clean", "mmd"),
        ("clean", "labels"),
        ("clean", "concept"),
    ] {
        let p = p[&(against.to_owned(), test.to_owned())];
        assert!(p > 0.001, "{against} {test} {p}");
    }
    assert!(
        !p.contains_key(&("buffer".to_owned(), "concept".to_owned())),
        "the champion has learnt what is remembered"
    );

    let other = scene.push("inverted", &clean(3, 1, 300)).await;
    let p = p_values(&shift(cluster, &other, &[]).1);
    for against in ["buffer", "clean"] {
        assert!(p[&(against.to_owned(), "mmd".to_owned())] < 0.002, "{against} {p:?}");
    }

    let wrong = scene.push("clean", &mislabelled(4, 0, 300)).await;
    let (_, found, _) = shift(cluster, &wrong, &["--against", "clean"]);
    let p = p_values(&found);
    assert!(p[&("clean".to_owned(), "concept".to_owned())] < 0.002 && p.len() == 4, "{p:?}");
    let moved = found["shifts"][0]["tests"].as_array().unwrap().last().unwrap()["moved"][0]["by"].as_f64().unwrap();
    assert!(moved > 0.5, "{found}");

    let rows = String::from_utf8(clean(5, 0, 300)).unwrap();
    let bare = rows.lines().map(|line| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row.as_object_mut().unwrap().remove("label");
        format!("{row}\n")
    });
    let unlabelled = scene.push("clean", bare.collect::<String>().as_bytes()).await;
    let found = shift(cluster, &unlabelled, &[]).1;
    let tests: Vec<(String, String)> = p_values(&found).into_keys().collect();
    let wanted = [("buffer", "ks"), ("buffer", "mmd"), ("clean", "ks"), ("clean", "labels"), ("clean", "mmd")];
    assert_eq!(tests, wanted.map(|(against, test)| (against.to_owned(), test.to_owned())), "{found}");

    let (code, _, errors) = shift(cluster, &wrong, &["--against", "july"]);
    assert!(code == Some(1) && errors.contains("`july`") && errors.contains("clean"), "{code:?} {errors}");
    let listed = cluster.list_chunks("digits").await;
    let measured = |name: &str| &listed.iter().find(|chunk| chunk.name == name).unwrap().shift_p_values;
    assert!(measured(&first).is_empty() && measured(&wrong)["concept"] < 0.002);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_before_a_comparison_and_no_restart_loses_it() {
    let (mut scene, _) = Scene::new().await;
    let chunk = scene.push("clean", &clean(5, 0, 200)).await;
    scene.cluster.kill();
    scene.cluster.boot().await;
    let (_, found, errors) = shift(&scene.cluster, &chunk, &[]);
    assert_eq!(found["version"], 1, "{found} {errors}\n{}", scene.cluster.last_log());
    let run = scene.cluster.update("digits").await;
    assert_eq!(run.state, "published", "{run:?}");
    let (_, again, _) = shift(&scene.cluster, &chunk, &[]);
    assert_eq!(again, found, "what was found stays");
}
