//! Starts, kills and talks to `perenniald --role all` with its worker.

mod client;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

use crate::digits::labels;
use crate::proxy::{Fault, Proxy};

/// Nothing in a test takes longer.
pub const DEADLINE: Duration = Duration::from_secs(240);

pub struct Options {
    /// Rows of [`crate::digits`] may be registered from here.
    pub roots: Vec<PathBuf>,
    pub slots: u32,
    /// Roles in processes of their own, control and ingest too, with these workers. Empty: all in one, with its worker.
    pub apart: Vec<Worker>,
    /// Where everything is kept, if not in the cluster's own folder.
    pub bucket: Option<Bucket>,
    /// Settings of the daemon's processes, as `--set` takes them.
    pub set: Vec<&'static str>,
    /// What becomes of the connections of ingest and workers apart to the control role, in turn; later ones pass unharmed.
    pub faults: Vec<Fault>,
    /// Whatever ends badly is started again, as by Kubernetes, and with roles apart there are two for control.
    pub supervised: bool,
}

/// A place in an object store.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub url: String,
    /// Variables by which it is reached.
    pub environment: BTreeMap<String, String>,
}

/// A `perennial-worker` of its own.
#[derive(Clone, Copy)]
pub struct Worker {
    /// `trainer`, `evaluator` or `all`.
    pub role: &'static str,
    pub slots: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            slots: 4,
            apart: Vec::new(),
            bucket: None,
            set: Vec::new(),
            faults: Vec::new(),
            supervised: false,
        }
    }
}

/// A daemon with its worker and a folder of its own. Killed when dropped.
pub struct Cluster {
    folder: tempfile::TempDir,
    options: Options,
    port: u16,
    /// Where chunks are pushed.
    ingest_port: u16,
    daemon: Option<Child>,
    /// Waits to take the control role over.
    standby: Option<Child>,
    /// The roles apart, but for control.
    others: Vec<Child>,
    /// Between those and control.
    between: Option<Proxy>,
}

/// Starts a process again whenever it ends badly, while this test goes on.
const SUPERVISOR: &str = r#"until "$@"; do sleep 0.1; kill -0 $PPID || exit; done"#;

/// What a process of Perennial does, by a part of its command line.
const ROLES: [(&str, &str); 6] = [
    ("\0rank\0", "rank"),
    ("\0score\0", "evaluation"),
    ("\0--role\0trainer\0", "trainer"),
    ("\0--role\0evaluator\0", "evaluator"),
    ("\0--role\0control\0", "control"),
    ("\0--role\0ingest\0", "ingest"),
];

/// What a process does, by its command line, whose parts end with NUL.
pub fn role(line: &str) -> Option<&'static str> {
    ROLES.iter().find(|(part, _)| line.contains(part)).map(|(_, role)| *role)
}

/// A binary of this workspace, built into the folder that this test runs from.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    let binary = folder.join(name);
    assert!(binary.is_file(), "{} is not built: `cargo build --workspace` first", binary.display());
    binary
}

fn to(port: u16) -> Channel {
    Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("a URL").timeout(DEADLINE).connect_lazy()
}

/// `PATH` with the binaries of this workspace first.
pub fn path() -> String {
    let folder = binary("perennial").parent().expect("a file lies in a folder").to_owned();
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default())
}

fn supervised(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", SUPERVISOR, "sh"]).arg(command.get_program()).args(command.get_args());
    shell
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// The shortest pipeline over [`crate::digits`]: a small network, experience replay, quick checkpoints, no comparing of chunks.
pub fn pipeline(name: &str) -> Value {
    json!({
        "name": name,
        "model": "mlp:32",
        "labels": labels(),
        "method": "er",
        "rehearsal": {"memory_size": 200},
        "training": {
            "epochs": 4, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.2,
            "checkpoint_steps": 20,
        },
        "evaluation": {"held_out_fraction": 0.2},
        "gate": {"max_forgetting": 0.2, "max_average_accuracy_drop": 0.05},
        "data": {"shift": false},
        "seed": 7,
    })
}

impl Cluster {
    pub async fn start(options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let port = free_port();
        let ingest_port = if options.apart.is_empty() { port } else { free_port() };
        let mut cluster =
            Self { folder, options, port, ingest_port, daemon: None, standby: None, others: Vec::new(), between: None };
        cluster.boot().await;
        cluster
    }

    /// A daemon started by a line of shell, such as the README's, that works in `folder`. Only its port and its end are
    /// this test's.
    pub async fn start_by(line: &str, folder: tempfile::TempDir) -> Self {
        let port = free_port();
        let (options, others) = (Options::default(), Vec::new());
        let mut cluster =
            Self { folder, options, port, ingest_port: port, daemon: None, standby: None, others, between: None };
        let line = format!("exec {line} --die-with-parent --listen 127.0.0.1:{port}");
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &line]).current_dir(cluster.folder.path()).env("PATH", path());
        cluster.daemon = Some(cluster.spawn(command));
        cluster.wait_until_serving(port).await;
        cluster
    }

    /// Where everything of it lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts what the options ask for over what the folder holds, and waits until it serves.
    pub async fn boot(&mut self) {
        if self.options.apart.is_empty() {
            self.daemon = Some(self.daemon("all", self.port, false));
            return self.wait_until_serving(self.port).await;
        }
        let supervised = self.options.supervised;
        self.daemon = Some(self.daemon("control", self.port, supervised));
        self.standby = supervised.then(|| self.daemon("control", self.port, true));
        self.wait_until_serving(self.port).await;
        if !self.options.faults.is_empty() {
            self.between = Some(Proxy::before(self.port, self.options.faults.drain(..)).await);
        }
        self.others.push(self.daemon("ingest", self.ingest_port, false));
        for (number, worker) in self.options.apart.clone().into_iter().enumerate() {
            self.others.push(self.worker(number, worker));
        }
        self.wait_until_serving(self.ingest_port).await;
    }

    fn worker(&self, number: usize, worker: Worker) -> Child {
        let mut command = Command::new(binary("perennial-worker"));
        command.args(["--server", &self.control_url(), "--role", worker.role, "--slots", &worker.slots.to_string()]);
        command.args(["--store", &self.store_url(), "--die-with-parent"]);
        command.arg("--cache").arg(self.folder.path().join(format!("cache-{number}")));
        self.spawn(command)
    }

    /// Starts one more worker.
    pub fn join(&mut self, worker: Worker) {
        let worker = self.worker(self.others.len(), worker);
        self.others.push(worker);
    }

    fn spawn(&self, command: Command) -> Child {
        let mut command = if self.options.supervised { supervised(&command) } else { command };
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log can be opened");
        command.envs(self.options.bucket.iter().flat_map(|bucket| &bucket.environment));
        // A test that is killed takes its processes with it: their standard input closes.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        command.spawn().expect("the process starts")
    }

    fn daemon(&self, role: &str, port: u16, standby: bool) -> Child {
        let mut command = Command::new(binary("perenniald"));
        command.args(["--role", role, "--die-with-parent", "--listen", &format!("127.0.0.1:{port}")]);
        command.args(["--store", &self.store_url()]);
        if role == "ingest" {
            command.args(["--control", &self.control_url()]);
        }
        if standby {
            command.arg("--standby");
        }
        command.args(self.options.set.iter().flat_map(|setting| ["--set", *setting]));
        command.args(["--set", "recovery_budget=3s", "--set", &format!("worker.slots={}", self.options.slots)]);
        command.args(["--set", &format!("worker.cache={}", self.folder.path().join("cache").display())]);
        let roots: Vec<&str> = self.options.roots.iter().map(|root| root.to_str().expect("a plain path")).collect();
        command.args(["--set", &format!("roots={}", json!(roots))]);
        self.spawn(command)
    }

    /// The store, unless the options name a bucket.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn store_url(&self) -> String {
        let folder = || format!("file://{}", self.store().display());
        self.options.bucket.as_ref().map_or_else(folder, |bucket| bucket.url.clone())
    }

    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log.jsonl")
    }

    /// Where the control role listens, or everything.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where ingest and workers apart find the control role.
    fn control_url(&self) -> String {
        self.between.as_ref().map_or_else(|| self.url(), Proxy::url)
    }

    /// Faults that no connection has met yet.
    pub fn faults_left(&self) -> usize {
        self.between.as_ref().map_or(0, Proxy::left)
    }

    /// Starts a second control role and waits until it stands by. Once the first is gone it listens where that did.
    pub async fn stand_by(&mut self) {
        let said = || std::fs::read_to_string(self.log()).expect("it is there").matches("standing by").count();
        let before = said();
        let standby = self.daemon("control", self.port, true);
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        let stands = async {
            while said() == before {
                pace.tick().await;
            }
        };
        tokio::time::timeout(DEADLINE, stands).await.expect("it stands by");
        self.standby = Some(standby);
    }

    /// SIGKILL for the control role, and waits until the standby serves.
    pub async fn fail_over(&mut self) {
        self.kill();
        self.daemon = self.standby.take();
        self.wait_until_serving(self.port).await;
    }

    /// SIGKILL. The worker notices that its parent is gone.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().expect("it runs");
            daemon.wait().expect("it was ours");
        }
    }

    /// SIGKILL for every role apart but control.
    pub fn kill_others(&mut self) {
        for mut process in self.others.drain(..) {
            process.kill().expect("it runs");
            process.wait().expect("it was ours");
        }
    }

    /// SIGTERM, and how the daemon ended.
    pub async fn terminate(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("it runs");
        // Waiting closes it, which would ask the daemon to stop a second time.
        let alive = daemon.stdin.take();
        let told = Command::new("kill").args(["-TERM", &daemon.id().to_string()]).status();
        assert!(told.expect("there is a `kill`").success());
        let ended = tokio::task::spawn_blocking(move || daemon.wait());
        let ended = tokio::time::timeout(DEADLINE, ended).await.expect("it ends").expect("waiting does not panic");
        drop(alive);
        ended.expect("it was ours")
    }

    /// This cluster's worker, ranks and evaluations whose command line holds `word`: its cache or scratch folder is
    /// in it, too.
    pub fn processes(&self, word: &str) -> Vec<u32> {
        let all = self.all_processes().into_iter();
        all.filter(|(_, line)| line.contains("perennial-worker\0") && line.contains(word)).map(|(pid, _)| pid).collect()
    }

    /// Every process of this cluster's, with its command line.
    pub fn all_processes(&self) -> Vec<(u32, String)> {
        let cache = self.folder.path().join("cache");
        let ours = |pid: u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let program = line.split('\0').next().unwrap_or_default();
            let is_ours =
                Path::new(program).file_name().is_some_and(|name| name.to_string_lossy().starts_with("perennial"));
            (is_ours && line.contains(cache.to_str().expect("plain"))).then_some((pid, line))
        };
        let entries = std::fs::read_dir("/proc").expect("this is Linux").flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(ours).collect()
    }

    async fn wait_until_serving(&mut self, port: u16) {
        let log = self.log();
        let mut health = tonic_health::pb::health_client::HealthClient::new(to(port));
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        let asked = async {
            loop {
                pace.tick().await;
                let request = tonic_health::pb::HealthCheckRequest::default();
                if health.check(request).await.is_ok() {
                    return;
                }
                if let Ok(Some(status)) = self.daemon.as_mut().expect("just started").try_wait() {
                    panic!(
                        "perenniald ended with {status}: {}",
                        std::fs::read_to_string(self.log()).unwrap_or_default()
                    );
                }
            }
        };
        let served = tokio::time::timeout(DEADLINE, asked).await;
        assert!(served.is_ok(), "not serving: {}", std::fs::read_to_string(&log).unwrap_or_default());
    }

    pub fn last_log(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(40).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.daemon.iter_mut().chain(&mut self.standby).chain(&mut self.others) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// `namespaces/default/pipelines/{name}`.
pub fn resource(pipeline: &str) -> String {
    format!("namespaces/default/pipelines/{pipeline}")
}
