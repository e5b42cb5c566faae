//! The daemon's configuration: a YAML file, `PERENNIAL__SECTION__KEY`, flags; the later wins.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use perennial_proto::limits::{FRAME_BYTES, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES};
use serde::{Deserialize, Serialize};
use tonic::transport::Endpoint;

use crate::telemetry::{self, Format};
use crate::units::{Bytes, Interval, RecoveryBudget};
use crate::yaml::{ConfigError, Document};

/// `configs/perennial.yaml`: every key, its default and what it is for.
pub const EXAMPLE: &str = include_str!("../../../configs/perennial.yaml");

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub listen: SocketAddr,
    /// URL of the object store. A plain path is taken from the working directory.
    pub store: String,
    /// URLs below which chunks and models may be registered.
    pub roots: Vec<String>,
    /// Where an ingest role finds the control role. Default: this process, where it has that role itself.
    pub control: Option<String>,
    /// URL of this process as others reach it. Default: that of `listen` on this machine.
    pub advertise: Option<String>,
    pub worker: Worker,
    pub recovery_budget: RecoveryBudget,
    /// From one listing of the prefixes that pipelines watch to the next.
    pub watch_interval: Interval,
    pub limits: Limits,
    pub log: Log,
}

/// The worker that the role `all` starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    pub spawn: bool,
    /// Ranks it runs at once. Default: one a GPU, or one a CPU core where there is none.
    pub slots: Option<NonZeroU32>,
    pub cache: PathBuf,
    pub roles: Vec<WorkerRole>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerRole {
    Trainer,
    Evaluator,
}

/// Of `limits.decode_memory`.
const LEAST_MEMORY: u64 = 8 << 20;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub max_chunk_bytes: Bytes,
    /// What decoding one chunk may hold in memory, about.
    pub decode_memory: Bytes,
    /// Of a base model's files together.
    pub max_model_bytes: Bytes,
    /// Of one frame of a streamed upload.
    pub max_frame_bytes: Bytes,
    pub client: Allowance,
    pub namespace: Allowance,
}

/// What one address may push at a time, or all that push into one namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Allowance {
    pub pushes: NonZeroU32,
    pub bytes_per_second: Option<Bytes>,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { pushes: NonZeroU32::new(64).expect("not zero"), bytes_per_second: None }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub format: Format,
    /// A level, or directives such as `info,scheduler=debug`.
    pub level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7420)),
            store: "./perennial-data".to_owned(),
            roots: Vec::new(),
            control: None,
            advertise: None,
            worker: Worker::default(),
            recovery_budget: RecoveryBudget::default(),
            watch_interval: Interval::default(),
            limits: Limits::default(),
            log: Log::default(),
        }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            spawn: true,
            slots: None,
            cache: PathBuf::from("./perennial-cache"),
            roles: vec![WorkerRole::Trainer, WorkerRole::Evaluator],
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_chunk_bytes: Bytes(2 << 30),
            decode_memory: Bytes(256 << 20),
            max_model_bytes: Bytes(64 << 30),
            max_frame_bytes: Bytes(MAX_FRAME_BYTES as u64),
            client: Allowance::default(),
            namespace: Allowance { pushes: NonZeroU32::new(256).expect("not zero"), bytes_per_second: None },
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: Format::default(), level: "info".to_owned() }
    }
}

impl Worker {
    /// As `perennial-worker --role` takes it.
    pub fn role(&self) -> &'static str {
        let has = |role| self.roles.contains(&role);
        match (has(WorkerRole::Trainer), has(WorkerRole::Evaluator)) {
            (true, false) => "trainer",
            (false, true) => "evaluator",
            _ => "all",
        }
    }
}

/// A key set on the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Flag {
    /// Dotted, such as `worker.slots`.
    pub key: String,
    pub value: String,
    /// As errors call it, such as `--listen`.
    pub origin: String,
}

impl Config {
    /// Reads and checks everything; paths are taken from the folder `here`.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: &[Flag],
        here: &Path,
    ) -> Result<Self, ConfigError> {
        let mut document = match file {
            Some(file) => Document::read(file)?,
            None => Document::empty("defaults"),
        };
        document.set_from_env(env);
        for flag in flags {
            document.set(&flag.key, &flag.value, &flag.origin);
        }
        let config: Self = document.to()?;
        config.check(&document)?;
        Ok(config.resolve(here))
    }

    /// What types cannot say.
    fn check(&self, document: &Document) -> Result<(), ConfigError> {
        if self.worker.roles.is_empty() {
            return Err(document.unfit("worker.roles", "name `trainer`, `evaluator` or both"));
        }
        let (least, most) = (FRAME_BYTES as u64, MAX_MESSAGE_BYTES as u64 / 2);
        if !(least..=most).contains(&self.limits.max_frame_bytes.0) {
            let expected = format!(
                "expected {}, which is what our own clients send, to {}, which is half of a message",
                Bytes(least),
                Bytes(most)
            );
            return Err(document.unfit("limits.max_frame_bytes", expected));
        }
        if self.limits.decode_memory.0 < LEAST_MEMORY {
            let expected = format!("expected {} or more: a row may take a quarter of it", Bytes(LEAST_MEMORY));
            return Err(document.unfit("limits.decode_memory", expected));
        }
        for (key, url) in [("control", &self.control), ("advertise", &self.advertise)] {
            let fits = |url: &String| url.starts_with("http://") && Endpoint::from_shared(url.clone()).is_ok();
            if url.as_ref().is_some_and(|url| !fits(url)) {
                return Err(document.unfit(key, "expected a URL such as http://127.0.0.1:7420"));
            }
        }
        telemetry::filter(&self.log.level).map_err(|error| document.unfit("log.level", error))?;
        Ok(())
    }

    fn resolve(mut self, here: &Path) -> Self {
        self.store = url(here, &self.store);
        self.roots = self.roots.iter().map(|root| url(here, root)).collect();
        self.worker.cache = absolute(here, &self.worker.cache);
        self
    }
}

/// The URL under which processes of this machine reach a server listening at `address`.
pub fn reachable(mut address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    format!("http://{address}")
}

/// A path as a URL; a URL as it is. The store says which schemes it knows.
fn url(here: &Path, given: &str) -> String {
    if given.contains("://") {
        return given.to_owned();
    }
    url::Url::from_file_path(absolute(here, Path::new(given))).map_or_else(|()| given.to_owned(), String::from)
}

/// By its components: `./` and doubled slashes are no part of the name.
fn absolute(here: &Path, path: &Path) -> PathBuf {
    here.join(path).components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, env: &[(&str, &str)], flags: &[Flag]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("perennial.yaml");
        std::fs::write(&file, text).unwrap();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let short = |error: ConfigError| error.to_string().replace(&format!("{}/", folder.path().display()), "");
        Config::load(Some(&file), env, flags, Path::new("/srv/my data")).map_err(short)
    }

    fn flag(key: &str, value: &str) -> Flag {
        let origin = format!("--{key}");
        Flag { key: key.to_owned(), value: value.to_owned(), origin }
    }

    #[test]
    fn the_example_holds_every_key_at_its_default() {
        let example: Config = crate::yaml::load("configs/perennial.yaml", EXAMPLE).unwrap();
        assert_eq!(example, Config::default());
        let keys = Document::parse("example", EXAMPLE).unwrap();
        for key in ["control", "worker.slots", "limits.max_model_bytes", "log.level"] {
            assert!(keys.get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn flags_beat_env_beats_file_beats_defaults() {
        let file = "worker: {slots: 2}\nlisten: 127.0.0.1:1\n";
        let env = [("PERENNIAL__WORKER__SLOTS", "3"), ("PERENNIAL__LISTEN", "127.0.0.1:2"), ("PERENNIAL__STORE", "")];
        let config = load(file, &env, &[flag("listen", "127.0.0.1:3")]).unwrap();
        assert_eq!((config.worker.slots.map(NonZeroU32::get), config.listen.port()), (Some(3), 3));
        assert!(config.worker.spawn);
        let roots = load("", &[("PERENNIAL__ROOTS", "[s3://a/b, c]")], &[]).unwrap().roots;
        assert_eq!(roots, ["s3://a/b", "file:///srv/my%20data/c"]);
    }

    #[test]
    fn a_plain_path_becomes_a_url() {
        let config = load("", &[], &[]).unwrap();
        assert_eq!(config.store, "file:///srv/my%20data/perennial-data");
        assert_eq!(config.worker.cache, Path::new("/srv/my data/perennial-cache"));
        let config = load("store: s3://bucket/prefix", &[], &[]).unwrap();
        assert_eq!(config.store, "s3://bucket/prefix");
    }

    #[test]
    fn errors_name_the_source_the_key_and_the_remedy() {
        let error = |text: &str, env: &[(&str, &str)]| load(text, env, &[]).unwrap_err();
        assert_eq!(error("wroker: {slots: 1}", &[]), "perennial.yaml: unknown key `wroker`; did you mean `worker`?");
        assert_eq!(
            error("", &[("PERENNIAL__WORKER__SLOT", "1")]),
            "PERENNIAL__WORKER__SLOT: unknown key `worker.slot`; did you mean `slots`?"
        );
        assert_eq!(
            error("worker: {slots: two}", &[]),
            "perennial.yaml: `worker.slots` is \"two\": expected a whole number, 1 or above"
        );
        assert!(error("listen: here", &[]).starts_with("perennial.yaml: `listen`: "));
        assert!(error("control: https://x", &[]).contains("`control` is \"https://x\": expected a URL such as"));
        assert!(error("advertise: 'http://my host:7420'", &[]).contains("`advertise` is \"http://my host:7420\""));
        assert!(error("log: {level: 'a=b=c'}", &[]).contains("`log.level` is \"a=b=c\""));
        for size in ["1 GiB", "1 KiB"] {
            let error = error(&format!("limits: {{max_frame_bytes: {size}}}"), &[]);
            assert!(error.contains("expected 128 KiB, which is what our own clients send, to 8 MiB"), "{error}");
        }
        let little = error("limits: {decode_memory: 1 MiB}", &[]);
        assert!(little.contains("`limits.decode_memory` is \"1 MiB\": expected 8 MiB or more"), "{little}");
        assert!(error("recovery_budget: 10ms", &[]).contains("`recovery_budget`: 10ms is out of range"));
    }

    #[test]
    fn a_server_that_listens_everywhere_is_reached_here() {
        assert_eq!(reachable("0.0.0.0:7420".parse().unwrap()), "http://127.0.0.1:7420");
        assert_eq!(reachable("[::]:7420".parse().unwrap()), "http://[::1]:7420");
        assert_eq!(reachable("10.0.0.7:1".parse().unwrap()), "http://10.0.0.7:1");
    }
}
