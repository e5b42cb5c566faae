//! Local files as streams of frames.

use std::io::{Read, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use indicatif::ProgressBar;
use perennial_proto::limits::FRAME_BYTES;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::failure::Failure;

/// A file and what it held when it was read first.
#[derive(Clone, Debug)]
pub struct LocalFile {
    pub path: PathBuf,
    pub bytes: u64,
    pub sha256: String,
}

/// Reads the file once, for its digest: the receiver can tell a torn upload from a whole one.
pub async fn inspect(path: PathBuf) -> Result<LocalFile, Failure> {
    let name = path.clone();
    let inspected = tokio::task::spawn_blocking(move || digest(&path)).await;
    let inspected = inspected.map_err(|error| Failure::Failed(format!("cannot read `{}`: {error}", name.display())))?;
    let (bytes, sha256) = inspected.map_err(Failure::file("read", &name))?;
    Ok(LocalFile { path: name, bytes, sha256 })
}

fn digest(path: &Path) -> std::io::Result<(u64, String)> {
    let (mut file, mut hash) = (std::fs::File::open(path)?, Sha256::new());
    let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, hex::encode(hash.finalize()))),
            read => {
                hash.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}

/// Why a stream of frames ended early. A gRPC stream cannot say so itself.
#[derive(Clone, Default)]
pub struct Broken(Arc<OnceLock<Failure>>);

impl Broken {
    fn set(&self, failure: Failure) {
        // The first cause counts.
        let _ = self.0.set(failure);
    }

    /// The cause here, if there is one, else what the server made of it.
    pub fn or<T>(self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        match Arc::into_inner(self.0).and_then(OnceLock::into_inner) {
            Some(failure) => Err(failure),
            None => outcome,
        }
    }
}

/// The file's content from `offset` on. Stops at an error, which `broken` keeps.
pub fn frames(
    path: PathBuf,
    offset: u64,
    bar: ProgressBar,
    broken: Broken,
) -> impl Stream<Item = Bytes> + Send + 'static {
    let open = async move {
        let opened = async {
            let mut file = tokio::fs::File::open(&path).await?;
            file.seek(SeekFrom::Start(offset)).await?;
            Ok(file)
        };
        opened.await.map_err(Failure::file("read", &path)).map(|file| (file, path))
    };
    let frames = stream::once(open).flat_map(|opened| match opened {
        Ok((file, path)) => stream::try_unfold((file, path), next_frame).boxed(),
        Err(failure) => stream::iter([Err(failure)]).boxed(),
    });
    frames
        .map(move |frame| match frame {
            Ok(frame) => {
                bar.inc(frame.len() as u64);
                Some(frame)
            }
            Err(failure) => {
                broken.set(failure);
                None
            }
        })
        .take_while(|frame| std::future::ready(frame.is_some()))
        .filter_map(std::future::ready)
}

type Open = (tokio::fs::File, PathBuf);

async fn next_frame((mut file, path): Open) -> Result<Option<(Bytes, Open)>, Failure> {
    let mut frame = vec![0; FRAME_BYTES];
    let mut filled = 0;
    while filled < frame.len() {
        match file.read(&mut frame[filled..]).await.map_err(Failure::file("read", &path))? {
            0 => break,
            read => filled += read,
        }
    }
    frame.truncate(filled);
    Ok((filled > 0).then(|| (frame.into(), (file, path))))
}

/// How long an upload may take: ten minutes for the server's checks, and 1 MiB/s.
pub fn deadline(bytes: u64, timeout: Duration) -> Duration {
    Duration::from_secs(600 + (bytes >> 20)).max(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_add_up_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        let content: Vec<u8> = (0..FRAME_BYTES as u32 * 2 + 5).map(|i| i as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = inspect(path.clone()).await.unwrap();
        assert_eq!((file.bytes, file.sha256), (content.len() as u64, hex::encode(Sha256::digest(&content))));
        let broken = Broken::default();
        let rest: Vec<Bytes> = frames(path.clone(), 7, ProgressBar::hidden(), broken.clone()).collect().await;
        assert_eq!(rest.concat(), content[7..]);
        let frames: Vec<Bytes> = frames(path, 0, ProgressBar::hidden(), broken.clone()).collect().await;
        assert_eq!(frames.iter().map(Bytes::len).collect::<Vec<_>>(), [FRAME_BYTES, FRAME_BYTES, 5]);
        assert_eq!(frames.concat(), content);
        assert!(broken.or(Ok(())).is_ok());
    }

    #[tokio::test]
    async fn a_file_that_goes_away_is_named() {
        let broken = Broken::default();
        let frames = frames("/nowhere/rows".into(), 0, ProgressBar::hidden(), broken.clone());
        assert_eq!(frames.count().await, 0);
        assert!(broken.or(Ok(())).unwrap_err().to_string().starts_with("cannot read `/nowhere/rows`: "));
    }
}
