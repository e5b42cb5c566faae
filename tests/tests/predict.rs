//! `perennial predict`: a version's own accuracy on rows it never saw, from a client that holds no store.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use perennial_proto::v1::Split;
use perennial_tests::cluster::{binary, pipeline};
use perennial_tests::digits::{clean, digits};
use perennial_tests::{Cluster, Options};
use serde_json::{Value, json};

/// The client's home: what it fetched lies below it.
struct Client {
    home: tempfile::TempDir,
    server: String,
}

impl Client {
    fn of(cluster: &Cluster) -> Self {
        Self { home: tempfile::tempdir().unwrap(), server: cluster.url() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary("perennial"));
        command.args(args).env("XDG_CACHE_HOME", self.home.path()).env("PERENNIAL_SERVER", &self.server);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn write(&self, name: &str, rows: &[u8]) -> PathBuf {
        let file = self.home.path().join(name);
        std::fs::write(&file, rows).unwrap();
        file
    }

    fn kept(&self, what: &str) -> usize {
        std::fs::read_dir(self.home.path().join("perennial").join(what)).map_or(0, Iterator::count)
    }
}

fn plain(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn lines(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Without a label, with an id.
fn unlabelled(rows: &[u8]) -> Vec<u8> {
    let strip = |(number, line): (usize, &str)| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row.as_object_mut().unwrap().remove("label");
        row["row_id"] = json!(format!("digit-{number}"));
        row.to_string() + "\n"
    };
    text(rows).lines().enumerate().map(strip).collect::<String>().into_bytes()
}

/// A cluster whose pipeline `digits` has a version, what it scored, and the rows it was scored on.
async fn trained(spec: Value) -> (Cluster, f64, Vec<u8>) {
    let cluster = Cluster::start(Options::default()).await;
    // A quarter of the labels is wrong, so that the accuracy says something.
    let held_out = digits(9, 0, 120, |class, index| format!("c{}", if index % 16 < 4 { 3 - class } else { class }));
    let spec = if spec["model"].is_null() { with_base(&cluster, spec) } else { spec };
    cluster.apply(&spec).await.unwrap();
    cluster.push("digits", "clean", Split::Train, &clean(3, 0, 400)).await.unwrap();
    cluster.push("digits", "clean", Split::HeldOut, &held_out).await.unwrap();
    let run = cluster.update("digits").await;
    assert_eq!(run.state, "published", "{run:?}\n{}", cluster.last_log());
    let accuracy = cluster.version("digits", "@champion").await.unwrap().average_accuracy.unwrap();
    (cluster, accuracy, held_out)
}

/// The pipeline over a small pretrained model that was pushed.
fn with_base(cluster: &Cluster, mut spec: Value) -> Value {
    let base = cluster.folder().join("base");
    let model = "vit:d=16,layers=1,heads=2,patch=4,mlp=16";
    let made = ["pretrain", "--glyphs", "plain", "--limit", "64", "--epochs", "1", "--model", model, "--out"];
    let made = Command::new(binary("perennial")).args(made).arg(&base).output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let pushed = Command::new(binary("perennial"))
        .args(["model", "push", plain(&base), "-o", "json", "--server", &cluster.url()])
        .output()
        .unwrap();
    let pushed: Value = serde_json::from_slice(&pushed.stdout).unwrap();
    // Only the store has it now.
    std::fs::remove_dir_all(&base).unwrap();
    spec["model"] = json!({"uri": pushed["uri"], "sha256": pushed["sha256"]});
    spec
}

fn lora() -> Value {
    let mut spec = pipeline("digits");
    spec["model"] = Value::Null;
    spec["adapter"] = json!({"lora": {"r": 4, "target_modules": ["query", "value"]}});
    spec["training"] = json!({"epochs": 4, "batch_size": 32, "learning_rate": 0.01});
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_predicts_as_well_as_it_was_judged_with_a_daemon_and_without() {
    let (cluster, accuracy, held_out) = trained(lora()).await;
    let client = Client::of(&cluster);
    let rows = client.write("rows.jsonl", &held_out);
    let predicted = client.run(&["predict", "digits@champion", "--input", plain(&rows)]);
    assert!(predicted.status.success(), "{}", text(&predicted.stderr));
    let found = lines(&predicted);
    assert_eq!(found.len(), 120);
    let right = found.iter().filter(|line| line["label"] == line["expected"]).count();
    assert_eq!(right as f64 / 120.0, accuracy, "the version was judged on these rows");
    let said = format!("accuracy {accuracy:.4}: {right} of 120 labelled rows");
    assert!(text(&predicted.stderr).contains(&said), "{}", text(&predicted.stderr));
    let base = std::fs::read_dir(cluster.store().join("models")).unwrap().next().unwrap().unwrap().path();

    let version = client.home.path().join("champion");
    let pulled = client.run(&["version", "pull", "digits/1", plain(&version)]);
    assert!(pulled.status.success(), "{}", text(&pulled.stderr));
    let nowhere = Client { home: client.home, server: "http://127.0.0.1:1".to_owned() };
    let alone = ["predict", plain(&version), "--input", plain(&rows), "--model", plain(&base), "--top", "2"];
    let alone = nowhere.run(&alone);
    assert!(alone.status.success(), "{}", text(&alone.stderr));
    for (one, two) in found.iter().zip(lines(&alone)) {
        assert_eq!((&one["row_id"], &one["label"]), (&two["row_id"], &two["label"]));
        assert_eq!(two["scores"].as_object().unwrap().len(), 2);
    }
    let other = nowhere.run(&["predict", plain(&version), "--input", plain(&rows), "--model", plain(&version)]);
    let said = text(&other.stderr);
    assert!(other.status.code() == Some(1) && said.contains("the version was trained on"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_model_that_only_the_server_reaches_is_fetched_once() {
    let (cluster, _, held_out) = trained(lora()).await;
    let client = Client::of(&cluster);
    let rows = client.write("rows.jsonl", &unlabelled(&held_out));
    let version = client.home.path().join("champion");
    assert!(client.run(&["version", "pull", "digits/1", plain(&version)]).status.success());
    // As it is where the store is a bucket: the client cannot open its URI.
    let manifest = version.join("perennial_manifest.json");
    let hidden = std::fs::read_to_string(&manifest).unwrap().replace("\"uri\": \"file://", "\"uri\": \"s3://bucket");
    std::fs::write(&manifest, hidden).unwrap();
    for _ in 0..2 {
        let predicted = client.run(&["predict", plain(&version), "--input", plain(&rows)]);
        assert!(predicted.status.success(), "{}", text(&predicted.stderr));
        let found = lines(&predicted);
        assert!(found.iter().zip(0..).all(|(line, n)| line["row_id"] == format!("digit-{n}")), "{found:?}");
        assert!(found.len() == 120 && found[0].get("expected").is_none() && found[0].get("scores").is_none());
        assert_eq!(client.kept("models"), 1);
    }
    let offline = Client { home: client.home, server: "http://127.0.0.1:1".to_owned() };
    assert!(offline.run(&["predict", plain(&version), "--input", plain(&rows)]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_answered_up_to_the_bad_one_which_is_named() {
    let (cluster, _, held_out) = trained(pipeline("digits")).await;
    let client = Client::of(&cluster);
    let good: Vec<u8> =
        unlabelled(&held_out).split_inclusive(|byte| *byte == b'\n').take(3).flatten().copied().collect();
    let cases: [(&[u8], &[&str]); 5] = [
        (b"{\"row_id\": \"x\"}\n", &["line 4", "`text`", "no such field"]),
        (b"{\"image\": \"\xff\"}\n", &["line 4 is not UTF-8"]),
        (b"{\"text\": \"a word\"}\n", &["line 4", "it is text, and the model takes images"]),
        (b"{\"image\": \"aGk=\"}\n", &["line 4", "PNG or JPEG"]),
        (b"nonsense\n", &["line 4 is not a JSON object"]),
    ];
    for (bad, words) in cases {
        let rows = client.write("rows.jsonl", &[&good, bad, &good].concat());
        let predicted = client.run(&["predict", "digits@champion", "--input", plain(&rows)]);
        let said = text(&predicted.stderr);
        assert_eq!((predicted.status.code(), lines(&predicted).len()), (Some(1), 3), "{said}");
        assert!(words.iter().all(|word| said.contains(word)) && said.contains("rows.jsonl"), "{said}");
    }
    assert_eq!(client.kept("versions"), 1);

    let missing = client.run(&["predict", "digits@champion", "--input", "/nowhere/rows.jsonl"]);
    assert!(missing.status.code() == Some(1) && text(&missing.stderr).contains("`/nowhere/rows.jsonl`"));
    let unknown = client.run(&["predict", "digits", "--input", "-"]);
    let said = text(&unknown.stderr);
    assert!(unknown.status.code() == Some(2) && said.contains("`digits` is neither a folder nor a version"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_from_a_pipe_and_a_reader_may_leave() {
    let (cluster, _, held_out) = trained(pipeline("digits")).await;
    let client = Client::of(&cluster);
    let mut table = client.command(&["predict", "digits@champion", "--input", "-", "-o", "table"]);
    let mut table = table.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    table.stdin.take().unwrap().write_all(&held_out).unwrap();
    let table = text(&table.wait_with_output().unwrap().stdout);
    assert!(table.starts_with("ROW") && table.lines().count() == 121, "{table}");

    let rows = client.write("rows.jsonl", &unlabelled(&held_out).repeat(100));
    let line = format!(
        "{} predict digits/1 --input {} | head -n 2; exit ${{PIPESTATUS[0]}}",
        plain(&binary("perennial")),
        plain(&rows)
    );
    let mut shell = Command::new("bash");
    shell.args(["-c", &line]).env("XDG_CACHE_HOME", client.home.path()).env("PERENNIAL_SERVER", &client.server);
    let head = shell.output().unwrap();
    assert_eq!((head.status.code(), lines(&head).len()), (Some(0), 2), "{}", text(&head.stderr));
    assert_eq!(text(&head.stderr), "");
}
