//! Real object stores, as `make stores` left them on this machine.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Deserialize;

/// Servers whose conditional put is atomic.
pub const GOOD: [&str; 3] = ["minio", "moto", "azurite"];

/// Nothing that starts takes longer, on a machine that does other things besides.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs a server until standard input closes, which the end of this process does however it comes, and removes its folder.
const KEEPER: &str = r#""$@" & read -r _; kill -9 $!; wait $! 2>/dev/null; rm -rf "$0""#;

type Variables = BTreeMap<String, String>;

/// An entry of `stores.json`; `scripts/stores.py` says what is in it.
#[derive(Deserialize)]
struct Recipe {
    url: String,
    command: Vec<String>,
    environment: Variables,
    ready: String,
    client: Variables,
}

/// A server with an empty bucket. It ends when this is dropped or this process ends.
pub struct Server {
    pub name: String,
    /// Of the bucket.
    pub url: String,
    /// By which `store::open` finds it.
    pub environment: Variables,
    keeper: Child,
}

fn recipe(name: &str, folder: &Path) -> Option<Recipe> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
    let staged = std::fs::read_to_string(cache.join("perennial/stores.json")).ok()?;
    let staged = staged.replace("{port}", &free_port().to_string()).replace("{folder}", folder.to_str()?);
    serde_json::from_str::<BTreeMap<String, Recipe>>(&staged).expect("`make stores` wrote it").remove(name)
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// Starts a server that writes to `log`.
fn keep(recipe: &Recipe, folder: &Path, log: &Path) -> Child {
    let log = File::create(log).expect("a file can be made");
    let mut command = Command::new("sh");
    command.args(["-c", KEEPER]).arg(folder).args(&recipe.command).envs(&recipe.environment);
    command.stdin(Stdio::piped()).stdout(log.try_clone().expect("it is open")).stderr(log);
    // Else a Ctrl-C would end the keeper, and not what it keeps.
    command.process_group(0);
    command.spawn().expect("there is a shell")
}

impl Server {
    /// None where it is not staged, which it says.
    pub async fn start(name: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let data = folder.path().join("data");
        let Some(recipe) = recipe(name, &data) else {
            // Past the test harness, which keeps what passing tests print to itself.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {name} is not staged here; `make stores`");
            return None;
        };
        // To MinIO and s3rver this is a bucket.
        std::fs::create_dir_all(data.join("perennial")).expect("a folder can be made");
        let folder = folder.keep();
        let log = folder.join("log");
        let keeper = keep(&recipe, &folder, &log);
        let server = Self { name: name.to_owned(), url: recipe.url, environment: recipe.client, keeper };
        server.ready(&log, &recipe.ready).await;
        Some(server)
    }

    async fn ready(&self, log: &Path, word: &str) {
        let said = || String::from_utf8_lossy(&std::fs::read(log).expect("it is there")).into_owned();
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        let up = async {
            while !said().contains(word) {
                pace.tick().await;
            }
        };
        let up = tokio::time::timeout(DEADLINE, up).await;
        assert!(up.is_ok(), "{} does not come up: {}", self.name, said());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It closes the keeper's standard input first.
        let _ = self.keeper.wait();
    }
}
