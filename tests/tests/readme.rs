//! The README's tour, its daemon's block and its clients', run as they stand.

use std::path::{Path, PathBuf};
use std::process::Command;

use perennial_tests::Cluster;
use perennial_tests::cluster::path;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the workspace").to_owned()
}

/// The text of the fenced block that opens with `fence`.
fn block(fence: &str) -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("there is a README");
    let after = readme.split_once(&format!("```{fence}\n")).unwrap_or_else(|| panic!("no block `{fence}`")).1;
    after.split_once("```").expect("the block ends").0.to_owned()
}

#[tokio::test]
async fn the_tour_runs_as_written_against_the_daemon_it_starts() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("configs"), folder.path().join("configs")).unwrap();
    let cluster = Cluster::start_by(block("sh daemon").trim(), folder).await;
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &block("sh tour")])
        .current_dir(cluster.folder())
        .env("PATH", path())
        .env("PERENNIAL_SERVER", cluster.url())
        .env("XDG_CACHE_HOME", cluster.folder().join("client-cache"))
        .output()
        .unwrap();
    let said = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(cluster.folder().join("champion/perennial_manifest.json").is_file(), "{said}");
    assert_eq!(cluster.version("glyphs", "@champion").await.unwrap().number, 1);
    assert!(cluster.folder().join("perennial-data/adapters/default/glyphs-v0001").is_dir(), "{said}");
}
