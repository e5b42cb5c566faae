//! Downloading a version: all of it, verified, or nothing.

use std::io::Write;
use std::path::{Component, Path, PathBuf};

use perennial_proto::v1;
use perennial_proto::v1::pull_version_response::Part;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::client::Context;
use super::failure::Failure;
use super::output::Render;
use super::progress;
use super::reference::Reference;
use super::version::FileView;

/// Written last, so that a folder which has it is whole.
pub const MANIFEST: &str = "perennial_manifest.json";

pub async fn pull(ctx: &Context, reference: &Reference, folder: &Path) -> Result<(), Failure> {
    let files = fetch(ctx, reference, folder).await?;
    ctx.show(&Pulled { version: reference.to_string(), folder: folder.to_owned(), files })
}

/// The version's files, in `folder`.
pub async fn fetch(ctx: &Context, reference: &Reference, folder: &Path) -> Result<Vec<FileView>, Failure> {
    let mut staged = Staging::beside(folder)?;
    let request = ctx.request(v1::PullVersionRequest { name: reference.resource(&ctx.pipeline(&reference.pipeline)) });
    let mut parts = ctx.registry().await?.pull_version(request).await?.into_inner();
    let bar = progress::transfer(0, &reference.to_string());
    while let Some(response) = next(ctx, &mut parts).await? {
        match response.part {
            None => {}
            Some(Part::File(file)) => {
                bar.inc_length(file.bytes);
                staged.begin(file)?;
            }
            Some(Part::Frame(frame)) => {
                bar.inc(frame.len() as u64);
                staged.write(&frame)?;
            }
        }
    }
    bar.finish_and_clear();
    staged.publish(folder)
}

/// The next message of a download; None at its end.
pub async fn next<T>(ctx: &Context, parts: &mut tonic::Streaming<T>) -> Result<Option<T>, Failure> {
    let next = tokio::time::timeout(ctx.timeout, parts.message()).await;
    let silent = |_| Failure::from(tonic::Status::deadline_exceeded("the server stopped sending"));
    Ok(next.map_err(silent)??)
}

/// A folder on the way to its name. Removed if it does not get there.
struct Staging {
    folder: TempDir,
    open: Option<Open>,
    files: Vec<FileView>,
}

struct Open {
    wanted: v1::File,
    path: PathBuf,
    file: std::fs::File,
    hash: Sha256,
    bytes: u64,
}

impl Staging {
    fn beside(folder: &Path) -> Result<Self, Failure> {
        let taken = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
        if taken || folder.is_file() {
            return Err(Failure::Failed(format!("`{}` is not empty: name a new folder", folder.display())));
        }
        // In the same folder, hence on the same file system: a rename has to do.
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let create = Failure::file("create a folder in", parent);
        std::fs::create_dir_all(parent).map_err(&create)?;
        let folder = tempfile::Builder::new().prefix(".perennial-pull-").tempdir_in(parent).map_err(&create)?;
        Ok(Self { folder, open: None, files: Vec::new() })
    }

    fn begin(&mut self, wanted: v1::File) -> Result<(), Failure> {
        self.end()?;
        let relative = Path::new(&wanted.path);
        let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || wanted.path.is_empty() {
            return Err(Failure::Failed(format!("the server sent a file named `{}`: refused", wanted.path)));
        }
        let path = self.folder.path().join(relative);
        let create = Failure::file("create", &path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(&create)?;
        }
        let file = std::fs::File::create_new(&path).map_err(&create)?;
        self.open = Some(Open { wanted, path, file, hash: Sha256::new(), bytes: 0 });
        Ok(())
    }

    fn write(&mut self, frame: &[u8]) -> Result<(), Failure> {
        let open = self
            .open
            .as_mut()
            .ok_or_else(|| Failure::Failed("the server sent data before a file's name".to_owned()))?;
        open.hash.update(frame);
        open.bytes += frame.len() as u64;
        open.file.write_all(frame).map_err(Failure::file("write", &open.path))
    }

    /// Checks the file that has just ended.
    fn end(&mut self) -> Result<(), Failure> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let (found, wanted) = (hex::encode(open.hash.finalize()), open.wanted);
        if found != wanted.sha256 {
            let path = &wanted.path;
            let (bytes, of) = (open.bytes, wanted.bytes);
            return Err(Failure::Failed(format!(
                "`{path}` arrived damaged: SHA-256 {found}, wanted {} ({bytes} of {of} bytes)",
                wanted.sha256
            )));
        }
        open.file.sync_all().map_err(Failure::file("write", &open.path))?;
        self.files.push(wanted.into());
        Ok(())
    }

    fn publish(mut self, folder: &Path) -> Result<Vec<FileView>, Failure> {
        self.end()?;
        if self.files.last().is_none_or(|file| file.path != MANIFEST) {
            return Err(Failure::Failed("the version arrived incomplete: its manifest is missing".to_owned()));
        }
        let rename = Failure::file("create", folder);
        // Temporary folders are for their owner alone; this one was asked for.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(self.folder.path(), mode).map_err(&rename)?;
        std::fs::rename(self.folder.path(), folder).map_err(&rename)?;
        // It is not where it was; nothing is left to remove.
        let _moved = self.folder.keep();
        Ok(self.files)
    }
}

#[derive(Serialize)]
struct Pulled {
    version: String,
    folder: PathBuf,
    files: Vec<FileView>,
}

impl Render for Pulled {
    fn text(&self) -> String {
        let bytes: u64 = self.files.iter().map(|file| file.bytes).sum();
        format!("{} is in {}: {} files, {bytes} bytes, verified", self.version, self.folder.display(), self.files.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &str) -> v1::File {
        v1::File { path: path.to_owned(), sha256: hex::encode(Sha256::digest(content)), bytes: content.len() as u64 }
    }

    fn send(staged: &mut Staging, path: &str, content: &str) -> Result<(), Failure> {
        staged.begin(file(path, content))?;
        content.as_bytes().chunks(2).try_for_each(|frame| staged.write(frame))
    }

    fn entries(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_version_appears_whole() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("v3");
        let mut staged = Staging::beside(&folder).unwrap();
        send(&mut staged, "head.safetensors", "weights").unwrap();
        assert!(!folder.exists());
        send(&mut staged, MANIFEST, "{}").unwrap();
        assert_eq!(staged.publish(&folder).unwrap().len(), 2);
        assert_eq!(std::fs::read_to_string(folder.join("head.safetensors")).unwrap(), "weights");
        assert_eq!(entries(root.path()), 1);
        assert!(Staging::beside(&folder).is_err_and(|e| e.to_string().contains("is not empty")));
    }

    #[test]
    fn what_is_damaged_or_cut_short_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("v3");
        let mut staged = Staging::beside(&folder).unwrap();
        staged.begin(file("head.safetensors", "weights")).unwrap();
        staged.write(b"weighty").unwrap();
        let error = staged.publish(&folder).unwrap_err().to_string();
        assert!(error.starts_with("`head.safetensors` arrived damaged"), "{error}");
        let mut staged = Staging::beside(&folder).unwrap();
        send(&mut staged, "head.safetensors", "weights").unwrap();
        assert!(staged.publish(&folder).unwrap_err().to_string().contains("manifest is missing"));
        assert_eq!(entries(root.path()), 0);
    }

    #[test]
    fn a_file_never_leaves_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let mut staged = Staging::beside(&root.path().join("v3")).unwrap();
        for path in ["../x", "/etc/x", "", "a/../../x", "./x"] {
            assert!(staged.begin(file(path, "")).is_err(), "{path}");
        }
    }
}
