//! A `perenniald` of the demo's own: found, started, waited for, and gone when it is dropped.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::{Child, ChildStdin, Command};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const DAEMON: &str = "perenniald";
/// From start to the first healthy answer.
const READY_WITHIN: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How much of the log's end an error shows.
const TAIL_BYTES: u64 = 2000;
const TAIL_LINES: usize = 8;

pub struct Daemon {
    child: Child,
    /// Held here, since waiting for a child closes its standard input.
    _alive: Option<ChildStdin>,
    pub url: String,
    pub log: PathBuf,
}

impl Daemon {
    /// Starts a `program` that keeps everything in `folder` and runs up to `slots` ranks at once.
    pub fn start(program: &Path, folder: &Path, slots: u32) -> anyhow::Result<Self> {
        let port = free_port().context("no free port on 127.0.0.1")?;
        let (config, log) = (folder.join("perennial.yaml"), folder.join("perenniald.log"));
        let write = || -> std::io::Result<File> {
            std::fs::write(&config, settings(folder, port, slots))?;
            File::create(&log)
        };
        let output = write().with_context(|| format!("cannot write to `{}`", folder.display()))?;
        let mut command = Command::new(program);
        // The open pipe is the daemon's sign that the demo lives.
        command.args(["--role", "all", "--die-with-parent", "--config"]).arg(&config).stdin(Stdio::piped());
        command.stdout(output.try_clone()?).stderr(output).kill_on_drop(true);
        // The environment would beat the file.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PERENNIAL__") {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { _alive: child.stdin.take(), child, url: format!("http://127.0.0.1:{port}"), log })
    }

    /// A connection, once the daemon says that it serves.
    pub async fn ready(&mut self) -> anyhow::Result<Channel> {
        let endpoint = Endpoint::from_shared(self.url.clone())?.connect_timeout(Duration::from_secs(2));
        let channel = endpoint.connect_lazy();
        let healthy = async {
            while !is_serving(&channel).await {
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        tokio::select! {
            served = tokio::time::timeout(READY_WITHIN, healthy) => match served {
                Ok(()) => Ok(channel),
                Err(_) => bail!("{DAEMON} was not ready within {} s{}", READY_WITHIN.as_secs(), tail(&self.log)),
            },
            error = self.ended() => Err(error),
        }
    }

    /// Waits for it to end, which it should not.
    pub async fn ended(&mut self) -> anyhow::Error {
        let how = self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
        anyhow::anyhow!("{DAEMON} ended ({how}){}", tail(&self.log))
    }

    /// Ends it; its worker follows, because its standard input closes.
    pub async fn stop(mut self) {
        // Gone already is as good.
        let _ = self.child.kill().await;
    }
}

async fn is_serving(channel: &Channel) -> bool {
    let mut request = tonic::Request::new(HealthCheckRequest { service: String::new() });
    request.set_timeout(Duration::from_secs(1));
    let answer = HealthClient::new(channel.clone()).check(request).await;
    answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
}

/// The daemon's program.
pub fn program() -> anyhow::Result<PathBuf> {
    find(std::env::current_exe().ok().as_deref(), std::env::var_os("PATH").as_deref())
}

/// Beside this program, else on PATH.
fn find(program: Option<&Path>, path: Option<&OsStr>) -> anyhow::Result<PathBuf> {
    let beside = program.and_then(Path::parent);
    let folders = beside.map(Path::to_owned).into_iter().chain(path.into_iter().flat_map(std::env::split_paths));
    let mut files = folders.map(|folder| folder.join(DAEMON));
    files.find(|file| file.is_file()).with_context(|| {
        let beside = beside.map_or_else(|| "(unknown)".to_owned(), |folder| folder.display().to_string());
        format!("`{DAEMON}` was not found in {beside} (beside this program), nor in a folder on PATH; `make build` makes it, in target/release")
    })
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn settings(folder: &Path, port: u16, slots: u32) -> String {
    let settings = serde_json::json!({
        "listen": format!("127.0.0.1:{port}"),
        "store": folder.join("store"),
        "worker": {"slots": slots, "cache": folder.join("cache")},
    });
    serde_yaml_ng::to_string(&settings).expect("plain strings and numbers")
}

/// Where the log is and how it ends.
pub fn tail(log: &Path) -> String {
    let end = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let end = end().unwrap_or_default();
    let lines: Vec<&str> = end.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    let last: String = last.iter().map(|line| format!("\n  {line}")).collect();
    format!("; its log, {}, ends:{last}", log.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_is_not_there_is_missed_by_place() {
        let error =
            find(Some(Path::new("/opt/bin/perennial-worker")), Some(OsStr::new("/a:/b"))).unwrap_err().to_string();
        assert!(error.contains("not found in /opt/bin") && error.contains("make build"), "{error}");
    }

    #[test]
    fn the_one_beside_wins() {
        let (beside, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let program = beside.path().join("perennial-worker");
        std::fs::write(other.path().join(DAEMON), "").unwrap();
        let found = || find(Some(&program), Some(other.path().as_os_str())).unwrap();
        assert_eq!(found(), other.path().join(DAEMON));
        std::fs::write(beside.path().join(DAEMON), "").unwrap();
        assert_eq!(found(), beside.path().join(DAEMON));
    }

    #[test]
    fn an_error_shows_the_end_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(&log, (0..100).map(|line| format!("line {line}\n")).collect::<String>()).unwrap();
        let text = tail(&log);
        assert!(text.contains("line 99") && text.contains("line 92") && !text.contains("line 91"), "{text}");
    }

    #[test]
    fn settings_are_yaml_that_names_the_folder() {
        let text = settings(Path::new("/tmp/x y"), 7, 3);
        let read: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!((&read["listen"], &read["worker"]["slots"]), (&"127.0.0.1:7".into(), &3.into()));
        assert_eq!(read["store"], "/tmp/x y/store");
    }
}
