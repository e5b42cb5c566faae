//! A folder's files: listed, known by one digest, and streamed one after another.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

use super::failure::Failure;
use super::upload::{self, Broken, LocalFile};

/// What a message of an upload carries.
#[derive(Debug, PartialEq)]
pub enum Part {
    /// Begins a file: its name within the folder.
    File(String),
    Frame(Bytes),
}

/// Files as they were when they were read first.
pub struct Folder(Vec<LocalFile>);

impl Folder {
    /// Those of the paths.
    pub async fn read(paths: Vec<PathBuf>) -> Result<Self, Failure> {
        let mut files = Vec::new();
        for path in paths {
            files.push(upload::inspect(path).await?);
        }
        Ok(Self(files))
    }

    /// Every file directly within it, as a pipeline's `model.sha256` pins a folder.
    pub async fn whole(folder: &Path) -> Result<Self, Failure> {
        Self::read(files(folder)?).await
    }

    /// A model's: its own files, without folders within it and hidden files.
    pub async fn of_model(folder: &Path) -> Result<Self, Failure> {
        Self::read(model_files(folder)?).await
    }

    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|file| file.bytes).sum()
    }

    /// SHA-256 over the sorted lines `<sha256 of file>  <name>\n`.
    pub fn digest(&self) -> String {
        let mut lines: Vec<_> = self.0.iter().map(|file| format!("{}  {}\n", file.sha256, name(file))).collect();
        lines.sort();
        hex::encode(Sha256::digest(lines.concat()))
    }

    pub fn parts(self, bar: ProgressBar, broken: Broken) -> impl Stream<Item = Part> + Send + 'static {
        stream::iter(self.0).flat_map(move |file| {
            let begin = stream::iter([Part::File(name(&file))]);
            begin.chain(upload::frames(file.path, 0, bar.clone(), broken.clone()).map(Part::Frame))
        })
    }
}

impl From<Vec<LocalFile>> for Folder {
    fn from(files: Vec<LocalFile>) -> Self {
        Self(files)
    }
}

/// Sorted by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let read = Failure::file("read", folder);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(&read)? {
        paths.push(entry.map_err(&read)?.path());
    }
    paths.retain(|path| path.is_file());
    paths.sort();
    Ok(paths)
}

fn model_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut names = files(folder)?;
    names.retain(|path| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")));
    if names.iter().all(|name| !name.ends_with("config.json")) {
        return Err(Failure::Failed(format!("`{}` is not a model folder: it has no config.json", folder.display())));
    }
    Ok(names)
}

fn name(file: &LocalFile) -> String {
    file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_is_sent_file_by_file_and_known_by_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("model.safetensors", "weights"), ("config.json", "{}"), (".git", "no")] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let files = Folder::of_model(folder.path()).await.unwrap();
        let of = |content: &str| hex::encode(Sha256::digest(content));
        let mut lines = [format!("{}  config.json\n", of("{}")), format!("{}  model.safetensors\n", of("weights"))];
        lines.sort();
        assert_eq!((files.digest(), files.bytes()), (of(&lines.concat()), 9));
        let parts: Vec<_> = files.parts(ProgressBar::hidden(), Broken::default()).collect().await;
        assert_eq!(parts[0], Part::File("config.json".to_owned()));
        assert_eq!(parts.len(), 4);
    }

    #[test]
    fn a_folder_without_a_config_is_no_model() {
        let folder = tempfile::tempdir().unwrap();
        assert!(model_files(folder.path()).unwrap_err().to_string().contains("has no config.json"));
    }
}
