//! Models of the Hugging Face Hub, from a server that answers as the Hub does.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use perennial_tests::cluster::{binary, pipeline};
use perennial_tests::{Cluster, Options};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves `folder` as the model `google/tiny`, whose branch `main` is at [`COMMIT`]. Returns the endpoint.
fn hub(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let folder = folder.clone();
            // A client that hangs up is none of its business.
            std::thread::spawn(move || drop(answer(connection, &folder)));
        }
    });
    endpoint
}

fn answer(mut connection: TcpStream, folder: &Path) -> std::io::Result<()> {
    let mut head = BufReader::new(connection.try_clone()?).lines();
    let first = head.next().unwrap()?;
    while head.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let (status, headers, body) = respond(path, folder);
    let length = body.len();
    write!(connection, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n")?;
    if method == "GET" { connection.write_all(&body) } else { Ok(()) }
}

fn respond(path: &str, folder: &Path) -> (&'static str, String, Vec<u8>) {
    if path == "/api/models/google/tiny/revision/main" {
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let siblings: Vec<Value> = files.map(|name| json!({"rfilename": name})).collect();
        let info = json!({"id": "google/tiny", "sha": COMMIT, "siblings": siblings});
        return ("200 OK", "Content-Type: application/json\r\n".to_owned(), info.to_string().into_bytes());
    }
    let name = path.strip_prefix(&format!("/google/tiny/resolve/{COMMIT}/"));
    match name.map(|name| std::fs::read(folder.join(name))) {
        Some(Ok(bytes)) => {
            let etag = hex::encode(Sha256::digest(&bytes));
            ("200 OK", format!("ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\n"), bytes)
        }
        _ => ("404 Not Found", "X-Error-Code: RepoNotFound\r\n".to_owned(), Vec::new()),
    }
}

/// A command whose Hub is at `endpoint`, with a cache of its own in `home`.
fn perennial(home: &Path, endpoint: &str, args: &[&str]) -> Output {
    let mut command = Command::new(binary("perennial"));
    command.args(args).env("HF_ENDPOINT", endpoint).env("HF_HOME", home.join("hf")).env("XDG_CACHE_HOME", home);
    command.env_remove("HF_TOKEN").env_remove("HF_HUB_CACHE").output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A small model, and what else a repository holds.
fn repository(home: &Path) -> PathBuf {
    let folder = home.join("repository");
    let model = "vit:d=16,layers=1,heads=2,patch=4,mlp=16";
    let made = ["pretrain", "--glyphs", "plain", "--limit", "32", "--epochs", "1", "--model", model, "--out"];
    let made = Command::new(binary("perennial")).args(made).arg(&folder).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    folder
}

fn pushed(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_the_hub_is_pushed_as_the_folder_of_its_own_files() {
    let cluster = Cluster::start(Options::default()).await;
    let home = tempfile::tempdir().unwrap();
    let folder = repository(home.path());
    let push = ["model", "push", "hf://google/tiny@main", "-o", "json", "--server", &cluster.url()];
    let plain = ["model", "push", folder.to_str().unwrap(), "-o", "json", "--server", &cluster.url()];
    let by_hand = pushed(&perennial(home.path(), "", &plain));
    for extra in ["README.md", ".gitattributes", "pytorch_model.bin", "optimizer.safetensors"] {
        std::fs::write(folder.join(extra), "not the model").unwrap();
    }
    let endpoint = hub(folder.clone());
    for _ in 0..2 {
        let found = pushed(&perennial(home.path(), &endpoint, &push));
        assert_eq!((&found["uri"], &found["sha256"]), (&by_hand["uri"], &by_hand["sha256"]));
    }
    let mut spec = pipeline("digits");
    spec["model"] = json!({"uri": by_hand["uri"], "sha256": by_hand["sha256"]});
    cluster.apply(&spec).await.unwrap();
    spec["model"] = json!({"uri": "hf://google/tiny@main", "sha256": by_hand["sha256"]});
    let refused = cluster.apply(&spec).await.unwrap_err();
    assert!(refused.message().contains("`perennial model push hf://google/tiny@main`"), "{refused:?}");
}

/// Renames the weights to a shard, and lists their tensors.
fn shard(folder: &Path) {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let names = header.as_object().unwrap().keys().filter(|name| *name != "__metadata__");
    let map: serde_json::Map<String, Value> = names.map(|name| (name.clone(), json!("model-1.safetensors"))).collect();
    std::fs::rename(folder.join("model.safetensors"), folder.join("model-1.safetensors")).unwrap();
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_shards_comes_with_all_of_them() {
    let cluster = Cluster::start(Options::default()).await;
    let home = tempfile::tempdir().unwrap();
    let folder = repository(home.path());
    shard(&folder);
    let endpoint = hub(folder.clone());
    let push = ["model", "push", "hf://google/tiny", "-o", "json", "--server", &cluster.url()];
    let found = pushed(&perennial(home.path(), &endpoint, &push));
    let stored = cluster.store().join("models").join(found["sha256"].as_str().unwrap());
    assert!(stored.join("model-1.safetensors").is_file() && stored.join("model.safetensors.index.json").is_file());
    std::fs::remove_file(folder.join("model-1.safetensors")).unwrap();
    let lacking = perennial(&home.path().join("other"), &endpoint, &push);
    assert!(
        lacking.status.code() == Some(1) && said(&lacking).contains("has no `model-1.safetensors`"),
        "{}",
        said(&lacking)
    );
}

#[test]
fn the_learning_core_is_given_a_folder() {
    let home = tempfile::tempdir().unwrap();
    let endpoint = hub(repository(home.path()));
    for model in [&["--model", "hf://google/tiny"][..], &["--model=hf://google/tiny@main"]] {
        let bench = perennial(home.path(), &endpoint, &[&["bench", "/nowhere.json", "--method", "er"], model].concat());
        // The model is looked at first.
        assert!(said(&bench).contains("/nowhere.json"), "{}", said(&bench));
    }
    let kept = home.path().join(format!("perennial/hub/google--tiny--{COMMIT}"));
    let names: Vec<_> = std::fs::read_dir(kept).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let mut direct = Command::new(binary("perennial-worker"));
    direct.args(["bench", "/nowhere.json", "--method", "er", "--model", "hf://a/b"]);
    let direct = direct.output().unwrap();
    assert!(direct.status.code() == Some(2) && said(&direct).contains("`perennial bench`"), "{}", said(&direct));
}

#[test]
fn a_hub_that_does_not_answer_is_named_with_what_else_to_do() {
    let home = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{closed}");
    let refused = perennial(home.path(), &endpoint, &["model", "push", "hf://google/tiny@main"]);
    let words = [endpoint.as_str(), "`google/tiny`", "refused", "HF_ENDPOINT", "local folder"];
    let text = said(&refused);
    assert!(refused.status.code() == Some(1) && words.iter().all(|word| text.contains(word)), "{text}");

    // It takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let text = said(&perennial(home.path(), &endpoint, &["model", "push", "hf://google/tiny@main"]));
    assert!(text.contains(&endpoint) && text.contains("no answer within 20 s"), "{text}");

    let endpoint = hub(home.path().to_owned());
    let unknown = perennial(home.path(), &endpoint, &["model", "push", "hf://google/nothing"]);
    let words = [endpoint.as_str(), "`google/nothing`", "HF_TOKEN"];
    let text = said(&unknown);
    assert!(unknown.status.code() == Some(1) && words.iter().all(|word| text.contains(word)), "{text}");
    let misspelt = perennial(home.path(), &endpoint, &["model", "push", "hf://tiny"]);
    assert!(
        misspelt.status.code() == Some(2) && said(&misspelt).contains("hf://ORG/NAME@REVISION"),
        "{}",
        said(&misspelt)
    );
}
