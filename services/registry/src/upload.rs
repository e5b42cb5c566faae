//! A folder's files as a client streams them: each one's name, then its frames. Spooled on disk until all are here.

use std::collections::BTreeMap;
use std::io::Write;

use futures::{Stream, StreamExt};
use perennial_proto::convert::Invalid;
use sha2::{Digest, Sha256};
use tonic::Status;

use crate::error::Error;

/// Longest silence of an upload.
const IDLE: std::time::Duration = std::time::Duration::from_secs(60);

/// A model folder has a dozen files, a large one some dozens of shards. Each is open until the folder is whole.
pub const MAX_FILES: usize = 256;

/// What one upload may cost this process.
#[derive(Clone, Copy, Debug)]
pub struct ModelLimits {
    /// Of all files together.
    pub max_model_bytes: u64,
    pub max_frame_bytes: usize,
}

/// What a message brings.
pub enum Part {
    /// Begins a file: its name within the folder.
    File(String),
    Frame(Vec<u8>),
}

/// A file received whole.
pub struct Received {
    pub content: tempfile::NamedTempFile,
    sha256: Sha256,
    pub bytes: u64,
}

impl Received {
    pub fn sha256(&self) -> String {
        hex::encode(self.sha256.clone().finalize())
    }
}

/// By name.
pub type Files = BTreeMap<String, Received>;

/// SHA-256 over the sorted lines `<sha256 of file>  <name>\n`.
pub fn digest(files: &Files) -> String {
    let mut lines: Vec<String> = files.iter().map(|(name, file)| format!("{}  {name}\n", file.sha256())).collect();
    lines.sort();
    hex::encode(Sha256::digest(lines.concat()))
}

/// Receives files until the stream ends. A message without a part is refused.
pub async fn receive<S>(limits: ModelLimits, parts: &mut S) -> Result<Files, Error>
where
    S: Stream<Item = Result<Option<Part>, Status>> + Unpin,
{
    let mut folder = Folder { limits, files: BTreeMap::new(), current: None, bytes: 0 };
    while let Some(part) = next(parts).await? {
        match part {
            Some(Part::File(name)) => folder.begin(name)?,
            Some(Part::Frame(frame)) => folder.append(&frame)?,
            None => return Err(Invalid::new("part", "is missing").into()),
        }
    }
    Ok(folder.files)
}

/// The next message; a client that has gone silent is an error.
pub async fn next<S, T>(messages: &mut S) -> Result<Option<T>, Error>
where
    S: Stream<Item = Result<T, Status>> + Unpin,
{
    let message = tokio::time::timeout(IDLE, messages.next()).await;
    let silent = || Status::deadline_exceeded(format!("nothing was sent for {} s", IDLE.as_secs()));
    let message = message.unwrap_or_else(|_| Some(Err(silent())));
    message.transpose().map_err(|error| Error::Upload(Box::new(error)))
}

/// What has arrived.
struct Folder {
    limits: ModelLimits,
    files: Files,
    current: Option<String>,
    bytes: u64,
}

impl Folder {
    fn begin(&mut self, name: String) -> Result<(), Error> {
        let name = checked(name)?;
        if self.files.contains_key(&name) {
            return Err(Invalid::new("file", format!("`{name}` came twice")).into());
        }
        if self.files.len() == MAX_FILES {
            let (what, limit) = ("the folder".to_owned(), format!("{MAX_FILES} files"));
            return Err(Error::TooLarge { what, limit, remedy: "push the model's own files alone" });
        }
        let content = tempfile::NamedTempFile::new().map_err(Error::Spool)?;
        self.files.insert(name.clone(), Received { content, sha256: Sha256::new(), bytes: 0 });
        self.current = Some(name);
        Ok(())
    }

    fn append(&mut self, frame: &[u8]) -> Result<(), Error> {
        self.bytes += frame.len() as u64;
        let ModelLimits { max_model_bytes, max_frame_bytes } = self.limits;
        if frame.len() > max_frame_bytes {
            let (what, limit) =
                (format!("a frame of {} bytes", frame.len()), format!("{max_frame_bytes} bytes a frame"));
            return Err(Error::TooLarge { what, limit, remedy: "send smaller frames" });
        }
        if self.bytes > max_model_bytes {
            let (what, limit) = ("the model".to_owned(), format!("{max_model_bytes} bytes a model"));
            return Err(Error::TooLarge { what, limit, remedy: "the daemon's `limits.max_model_bytes` may be raised" });
        }
        let file = self.current.as_ref().and_then(|name| self.files.get_mut(name));
        let file = file.ok_or_else(|| Invalid::new("frame", "came before any file name"))?;
        file.sha256.update(frame);
        file.bytes += frame.len() as u64;
        file.content.write_all(frame).map_err(Error::Spool)
    }
}

fn checked(name: String) -> Result<String, Invalid> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(legal) {
        return Err(Invalid::new("file", format!("`{name}` is not a plain file name")));
    }
    Ok(name)
}
