//! Base models on their way to a node: whole and checked, or not at all.

mod support;

use domain::pipeline::ModelFolder;
use perennial_store::fetch::Fetcher;
use perennial_store::objects::{Cache, sha256};
use perennial_store::roots::Roots;
use perennial_store::{Error, Kind};
use support::memory;

/// A node that may read below one folder.
struct Node {
    root: tempfile::TempDir,
    cache: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), cache: tempfile::tempdir().unwrap() }
    }

    fn uri(&self, folder: &str) -> String {
        format!("file://{}/{folder}", self.root.path().display())
    }

    async fn fetch(&self, folder: &str, digest: &str) -> Result<std::path::PathBuf, Error> {
        let roots = Roots::new(&[self.uri("")]).unwrap();
        let cache = Cache::new(memory(), self.cache.path().join("objects"));
        let fetcher = Fetcher::new(cache, roots, self.cache.path().to_owned());
        fetcher.model(&ModelFolder { uri: self.uri(folder), sha256: digest.to_owned() }).await
    }

    /// Names below the folder where models are kept.
    fn kept(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.cache.path().join("models")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[tokio::test]
async fn a_model_is_kept_under_its_digest_and_another_one_leaves_nothing() {
    let node = Node::new();
    std::fs::create_dir_all(node.root.path().join("m")).unwrap();
    std::fs::write(node.root.path().join("m/config.json"), "{}").unwrap();
    let wrong = "0".repeat(64);
    let error = node.fetch("m", &wrong).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert_eq!(node.kept(), Vec::<String>::new());
    let digest = sha256(format!("{}  config.json\n", sha256(b"{}")).as_bytes());
    let folder = node.fetch("m", &digest).await.unwrap();
    assert_eq!(std::fs::read(folder.join("config.json")).unwrap(), b"{}");
    assert_eq!(node.kept(), [digest]);
}

#[tokio::test]
async fn a_place_without_files_is_not_found_rather_than_damaged() {
    let node = Node::new();
    std::fs::create_dir_all(node.root.path().join("empty/inner")).unwrap();
    std::fs::write(node.root.path().join("empty/inner/config.json"), "{}").unwrap();
    let error = node.fetch("empty", &"0".repeat(64)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains(&node.uri("empty")), "{error}");
    assert_eq!(node.kept(), Vec::<String>::new());
}
