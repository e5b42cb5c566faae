//! The README's own blocks, run as they stand.

use std::path::{Path, PathBuf};
use std::process::Command;

use perennial_tests::cluster::binary;
use perennial_tests::{Cluster, Options};

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
async fn the_tour_runs_as_written() {
    assert_eq!(block("sh daemon"), "perenniald --config configs/perennial.yaml\n");
    let cluster = Cluster::start(Options::default()).await;
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("configs"), folder.path().join("configs")).unwrap();
    let binaries = binary("perennial").parent().unwrap().to_owned();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &block("sh tour")])
        .current_dir(folder.path())
        .env("PATH", path)
        .env("PERENNIAL_SERVER", cluster.url())
        .output()
        .unwrap();
    let said = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(folder.path().join("champion/perennial_manifest.json").is_file(), "{said}");
    assert_eq!(cluster.version("glyphs", "@champion").await.unwrap().number, 1);
}
