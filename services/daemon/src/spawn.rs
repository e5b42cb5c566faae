//! Finding and starting `perennial-worker`, the binary that links libtorch.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::config::Config;

const WORKER: &str = "perennial-worker";

#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "`{WORKER}` was not found{}, nor in a folder on PATH; `make build` makes it, in target/release",
    .beside.as_ref().map(|folder| format!(" in {} (beside this program)", folder.display())).unwrap_or_default()
)]
pub struct NotFound {
    beside: Option<PathBuf>,
}

/// The worker beside the running program, else the first on PATH.
pub fn find_worker() -> Result<PathBuf, NotFound> {
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent);
    find_in(beside, std::env::var_os("PATH").as_deref())
}

fn find_in(beside: Option<&Path>, path: Option<&OsStr>) -> Result<PathBuf, NotFound> {
    let on_path = path.into_iter().flat_map(std::env::split_paths);
    let folders = beside.map(Path::to_owned).into_iter().chain(on_path);
    let mut found = folders.map(|folder| folder.join(WORKER)).filter(|file| is_executable(file));
    found.next().ok_or_else(|| NotFound { beside: beside.map(Path::to_owned) })
}

fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A worker that serves `server_url`. It ends with this process: its stdin reaches end of file.
pub fn command(worker: &Path, server_url: &str, config: &Config) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(worker);
    command
        .args(["--server", server_url])
        .args(["--store", &config.store])
        .args(["--role", config.worker.role()])
        .args(config.worker.slots.iter().flat_map(|slots| ["--slots".to_owned(), slots.to_string()]))
        .args(config.roots.iter().flat_map(|root| ["--root", root]))
        .arg("--cache")
        .arg(&config.worker.cache)
        .args(["--log", config.log.format.name()])
        .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| config.log.level.clone()))
        .arg("--die-with-parent")
        .stdin(Stdio::piped())
        .kill_on_drop(true);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_beside_wins_and_what_cannot_run_does_not_count() {
        let (beside, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = |folder: &Path, mode| {
            let file = folder.join(WORKER);
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            file
        };
        let find = || find_in(Some(beside.path()), Some(other.path().as_os_str()));
        let error = find().unwrap_err().to_string();
        assert!(error.contains(&beside.path().display().to_string()), "{error}");
        let on_path = place(other.path(), 0o755);
        place(beside.path(), 0o644);
        assert_eq!(find(), Ok(on_path));
        let here = place(beside.path(), 0o755);
        assert_eq!(find(), Ok(here));
    }

    #[test]
    fn a_worker_is_told_where_everything_is() {
        let config = Config::default();
        let command = command(Path::new("/bin/perennial-worker"), "http://127.0.0.1:1", &config);
        let args: Vec<_> = command.as_std().get_args().map(|arg| arg.to_string_lossy()).collect();
        assert_eq!(args[..6], ["--server", "http://127.0.0.1:1", "--store", &config.store, "--role", "all"]);
        assert_eq!(args[args.len() - 1], "--die-with-parent");
        assert!(!args.contains(&"--slots".into()), "the worker counts its own GPUs or cores: {args:?}");
    }

    #[test]
    fn configured_slots_are_passed_on() {
        let mut config = Config::default();
        config.worker.slots = std::num::NonZeroU32::new(3);
        let command = command(Path::new("/bin/perennial-worker"), "http://127.0.0.1:1", &config);
        let args: Vec<_> = command.as_std().get_args().collect();
        assert!(args.windows(2).any(|pair| pair == ["--slots", "3"]), "{args:?}");
    }
}
