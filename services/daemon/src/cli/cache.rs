//! What was fetched once: versions and base models, in folders named by digest.

use std::io::Write;
use std::path::{Component, Path, PathBuf};

use domain::pipeline::ModelFolder;
use indicatif::ProgressBar;
use perennial_proto::v1;
use perennial_proto::v1::pull_model_response::Part;
use sha2::{Digest, Sha256};

use super::client::Context;
use super::failure::Failure;
use super::folder::Folder;
use super::reference::{Reference, Which};
use super::upload::LocalFile;
use super::{progress, pull, version};

/// `${XDG_CACHE_HOME:-~/.cache}/perennial`. A folder in it appears whole or not at all.
pub struct Cache(PathBuf);

impl Cache {
    pub fn open() -> Result<Self, Failure> {
        let given = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let base = given("XDG_CACHE_HOME").or_else(|| Some(given("HOME")?.join(".cache")));
        let base = base
            .ok_or_else(|| Failure::Usage("set HOME or XDG_CACHE_HOME: fetched files are kept below it".to_owned()))?;
        Ok(Self(base.join("perennial")))
    }

    /// Where models of the Hugging Face Hub appear as folders.
    pub fn hub(&self) -> PathBuf {
        self.0.join("hub")
    }

    /// The folder of the version that the reference means now.
    pub async fn version(&self, ctx: &Context, reference: &Reference) -> Result<PathBuf, Failure> {
        let found = version::get(ctx, reference).await?;
        // The manifest names every other file by digest.
        let manifest = found.files.iter().find(|file| file.path.ends_with(pull::MANIFEST));
        let manifest = manifest.ok_or_else(|| Failure::Failed(format!("`{}` has no manifest", found.name)))?;
        let folder = self.0.join("versions").join(digest(&manifest.sha256)?);
        if !folder.is_dir() {
            // By number: an alias may have moved meanwhile.
            let exact = Reference { pipeline: reference.pipeline.clone(), which: Which::Number(found.number) };
            whole(pull::fetch(ctx, &exact, &folder).await.map(drop), &folder)?;
        }
        Ok(folder)
    }

    pub fn kept_model(&self, wanted: &ModelFolder) -> Option<PathBuf> {
        Some(self.model_folder(wanted).ok()?).filter(|folder| folder.is_dir())
    }

    fn model_folder(&self, wanted: &ModelFolder) -> Result<PathBuf, Failure> {
        Ok(self.0.join("models").join(digest(&wanted.sha256)?))
    }

    /// Fetches a base model from the server and keeps it.
    pub async fn model(&self, ctx: &Context, wanted: &ModelFolder) -> Result<PathBuf, Failure> {
        let folder = self.model_folder(wanted)?;
        let parent = self.0.join("models");
        let create = Failure::file("create a folder in", &parent);
        std::fs::create_dir_all(&parent).map_err(&create)?;
        let staged = tempfile::Builder::new().prefix(".perennial-pull-").tempdir_in(&parent).map_err(&create)?;
        let bar = progress::transfer(0, &wanted.uri);
        let files = download(ctx, &wanted.sha256, staged.path(), &bar).await?;
        bar.finish_and_clear();
        let found = Folder::from(files).digest();
        if found != wanted.sha256 {
            return Err(Failure::Failed(format!(
                "`{}` is not what the version was trained on: it has SHA-256 {found}, wanted {}; name a copy with --model DIR",
                wanted.uri, wanted.sha256
            )));
        }
        whole(std::fs::rename(staged.path(), &folder).map_err(Failure::file("create", &folder)), &folder)?;
        Ok(folder)
    }
}

/// Somebody else may have put the same folder there meanwhile.
fn whole(outcome: Result<(), Failure>, folder: &Path) -> Result<(), Failure> {
    if folder.is_dir() { Ok(()) } else { outcome }
}

/// It comes from a server or a file, and becomes the name of a folder.
fn digest(given: &str) -> Result<&str, Failure> {
    let is_one = given.len() == 64 && given.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one.then_some(given).ok_or_else(|| Failure::Failed(format!("`{given}` is no SHA-256 in hex")))
}

async fn download(ctx: &Context, sha256: &str, folder: &Path, bar: &ProgressBar) -> Result<Vec<LocalFile>, Failure> {
    let request = ctx.request(v1::PullModelRequest { sha256: sha256.to_owned() });
    let mut parts = ctx.registry().await?.pull_model(request).await?.into_inner();
    let (mut files, mut open) = (Vec::new(), None::<Arriving>);
    while let Some(response) = pull::next(ctx, &mut parts).await? {
        match response.part {
            None => {}
            Some(Part::File(file)) => {
                bar.inc_length(file.bytes);
                files.extend(open.replace(Arriving::begin(folder, &file.name)?).map(Arriving::end));
            }
            Some(Part::Frame(frame)) => {
                bar.inc(frame.len() as u64);
                let open = open.as_mut();
                open.ok_or_else(|| Failure::Failed("the server sent data before a file's name".to_owned()))?
                    .write(&frame)?;
            }
        }
    }
    files.extend(open.map(Arriving::end));
    Ok(files)
}

struct Arriving {
    path: PathBuf,
    file: std::fs::File,
    hash: Sha256,
    bytes: u64,
}

impl Arriving {
    fn begin(folder: &Path, name: &str) -> Result<Self, Failure> {
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(Failure::Failed(format!("the server sent a file named `{name}`: refused")));
        }
        let path = folder.join(name);
        let file = std::fs::File::create_new(&path).map_err(Failure::file("create", &path))?;
        Ok(Self { path, file, hash: Sha256::new(), bytes: 0 })
    }

    fn write(&mut self, frame: &[u8]) -> Result<(), Failure> {
        self.hash.update(frame);
        self.bytes += frame.len() as u64;
        self.file.write_all(frame).map_err(Failure::file("write", &self.path))
    }

    fn end(self) -> LocalFile {
        LocalFile { path: self.path, bytes: self.bytes, sha256: hex::encode(self.hash.finalize()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stays_in_its_folder_and_is_there_once() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["../x", "/etc/x", "", "a/x", "."] {
            assert!(Arriving::begin(folder.path(), name).is_err(), "{name}");
        }
        let mut file = Arriving::begin(folder.path(), "config.json").unwrap();
        file.write(b"{}").unwrap();
        assert_eq!(file.end().sha256, hex::encode(Sha256::digest("{}")));
        assert!(Arriving::begin(folder.path(), "config.json").is_err());
    }

    #[test]
    fn only_a_digest_becomes_a_folder_s_name() {
        assert!(digest(&"0a".repeat(32)).is_ok());
        assert!(digest("../../x").is_err_and(|error| error.to_string().contains("`../../x`")));
    }
}
