//! grpcurl, which knows of the daemon only what reflection tells it, gets from rows to a version.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use perennial_tests::cluster::{pipeline, resource};
use perennial_tests::digits::clean;
use perennial_tests::{Cluster, Options};
use serde_json::{Value, json};

/// As `make stores` left it. None where it is not staged, which it says.
fn program() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")));
    let staged = cache.and_then(|cache| std::fs::read(cache.join("perennial/tools.json")).ok());
    let staged: Value =
        staged.map_or(Value::Null, |text| serde_json::from_slice(&text).expect("`make stores` wrote it"));
    let program = staged["grpcurl"].as_str().map(PathBuf::from);
    if program.is_none() {
        // Past the test harness, which keeps what passing tests print to itself.
        let _ = writeln!(std::io::stderr(), "SKIPPED: grpcurl is not staged here; `make stores`");
    }
    program
}

struct Grpcurl {
    program: PathBuf,
    address: String,
}

impl Grpcurl {
    /// Several messages are a stream.
    async fn call(&self, method: &str, messages: &[Value]) -> Output {
        let lines: String = messages.iter().map(|message| format!("{message}\n")).collect();
        let mut command = Command::new(&self.program);
        command.args(["-plaintext", "-max-time", "60", "-d", "@", &self.address, &format!("perennial.v1.{method}")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = move || {
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    async fn answer(&self, method: &str, messages: &[Value]) -> Value {
        let output = self.call(method, messages).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_applies_pushes_runs_and_reads() {
    let Some(program) = program() else { return };
    let cluster = Cluster::start(Options::default()).await;
    let grpcurl = Grpcurl { program, address: cluster.url().replace("http://", "") };
    let listed = Command::new(&grpcurl.program).args(["-plaintext", &grpcurl.address, "list"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for service in ["Pipeline", "Chunk", "Ingest", "Run", "Registry", "Rehearsal", "Evaluation"] {
        assert!(listed.contains(&format!("perennial.v1.{service}Service")), "{listed}");
    }

    let spec = STANDARD.encode(pipeline("digits").to_string());
    grpcurl.answer("PipelineService/ApplyPipeline", &[json!({"spec_json": spec})]).await;
    let header =
        json!({"header": {"pipeline": resource("digits"), "task": "clean", "format": "FORMAT_JSONL", "wait": true}});
    let rows = clean(1, 0, 300);
    let frames = rows.chunks(64 << 10).map(|frame| json!({"frame": STANDARD.encode(frame)}));
    let parts: Vec<Value> = [header].into_iter().chain(frames).collect();
    let pushed = grpcurl.answer("IngestService/PushChunk", &parts).await;
    assert_eq!(pushed["chunk"]["state"], "sealed", "{pushed}");
    let run = grpcurl.answer("RunService/StartRun", &[json!({"pipeline": resource("digits")})]).await;
    let name = run["run"]["name"].as_str().unwrap();
    cluster.ended(name).await;
    let champion = format!("{}/versions/@champion", resource("digits"));
    let version = grpcurl.answer("RegistryService/GetVersion", &[json!({"name": champion})]).await;
    assert_eq!(version["version"]["number"], "1", "{version}");

    let wrong = grpcurl.call("RunService/StartRun", &[json!({"pipeline": "digits"})]).await;
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success() && said.contains("Code: InvalidArgument"), "{said}");
    assert!(said.contains("pipeline") && said.contains("google.rpc.BadRequest"), "{said}");
}
