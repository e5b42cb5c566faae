//! Which places users may refer to: `RegisterChunk` and `model` name a URI, and the daemon reads it
//! with its own rights.

use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, OnceLock};

use object_store::ObjectStore;
use object_store::path::Path;
use url::Url;

use crate::objects::Entry;
use crate::{Error, Kind, objects, open};

/// The URLs under which everything may be read.
pub struct Roots(Vec<Root>);

struct Root {
    url: Url,
    store: OnceLock<Arc<dyn ObjectStore>>,
}

impl Roots {
    pub fn new<S: AsRef<str>>(urls: &[S]) -> Result<Self, Error> {
        let root = |url: &S| {
            let url = open::parse(url.as_ref())?;
            let known = matches!(url.scheme(), "file" | "memory" | "s3" | "gs" | "az");
            let reason = || format!("scheme `{}` is not known", url.scheme());
            if !known {
                return Err(Error::Url { url: url.to_string(), reason: reason() });
            }
            Ok(Root { url, store: OnceLock::new() })
        };
        urls.iter().map(root).collect::<Result<_, _>>().map(Self)
    }

    /// The store and path of a URI under one of the roots.
    ///
    /// The path of a local file is the one it has after links were followed.
    pub fn resolve(&self, uri: &str) -> Result<(Arc<dyn ObjectStore>, Path), Error> {
        let refused = |reason: &str| Error::OutsideRoots {
            uri: uri.to_owned(),
            reason: reason.to_owned(),
            roots: self.to_string(),
        };
        // The URL parser would resolve `..` without a word.
        if climbs(uri) {
            return Err(refused("`..` is not allowed"));
        }
        let url = Url::parse(uri).map_err(|e| refused(&format!("it is not a URL ({e})")))?;
        let mut roots = self.0.iter().filter(|root| root.url.scheme() == url.scheme()).peekable();
        if roots.peek().is_none() {
            return Err(refused(&format!("no root has scheme `{}`", url.scheme())));
        }
        let url = open::parse(uri)?;
        for root in roots {
            let inside = match url.scheme() {
                "file" => root.local(&url, uri)?,
                _ => root.remote(&url),
            };
            if let Some(path) = inside {
                return Ok((root.store()?, path));
            }
        }
        Err(refused("it lies outside"))
    }
}

/// An object below a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub uri: String,
    pub entry: Entry,
}

impl Roots {
    /// Everything below a URI under one of the roots; nothing where there is nothing.
    pub async fn list(&self, uri: &str) -> Result<Vec<Found>, Error> {
        let (store, folder) = match self.resolve(uri) {
            Err(error) if error.kind() == Kind::NotFound => return Ok(Vec::new()),
            resolved => resolved?,
        };
        let entries = objects::entries(&*store, folder.as_ref()).await?;
        entries.into_iter().map(|entry| Ok(Found { uri: below(uri, folder.as_ref(), &entry.path)?, entry })).collect()
    }
}

/// The URI of an object that lies at `path` where `folder` is at `uri`.
fn below(uri: &str, folder: &str, path: &str) -> Result<String, Error> {
    let mut url = open::parse(uri)?;
    let rest = path.strip_prefix(folder).unwrap_or(path).trim_start_matches('/');
    let no_path = || Error::Url { url: uri.to_owned(), reason: "it has no path".to_owned() };
    url.path_segments_mut().map_err(|()| no_path())?.pop_if_empty().extend(rest.split('/'));
    Ok(url.into())
}

/// What is inside `..`, plain or percent-encoded, and behind either slash.
fn climbs(uri: &str) -> bool {
    let decoded = uri.replace("%2e", ".").replace("%2E", ".").replace("%2f", "/").replace("%2F", "/");
    let decoded = decoded.replace("%5c", "/").replace("%5C", "/");
    decoded.split(['/', '\\']).any(|segment| segment == "..")
}

impl Root {
    /// The path below this root after links were followed, or none if it leads elsewhere.
    fn local(&self, url: &Url, uri: &str) -> Result<Option<Path>, Error> {
        let Some(root) = canonical(&open::folder(self.url.as_str(), &self.url)?) else {
            return Ok(None);
        };
        let file = open::folder(uri, url)?;
        let Some(found) = canonical(&file) else {
            // Say "not there" only of places one may ask about.
            return match file.starts_with(open::folder(self.url.as_str(), &self.url)?) {
                true => Err(Error::file("read", &file)(std::io::ErrorKind::NotFound.into())),
                false => Ok(None),
            };
        };
        let Ok(below) = found.strip_prefix(&root) else {
            return Ok(None);
        };
        let parts = below.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
        let path = Path::parse(parts.collect::<Vec<_>>().join("/"));
        path.map(Some).map_err(|e| Error::store("name", uri)(e.into()))
    }

    fn remote(&self, url: &Url) -> Option<Path> {
        if url.host_str() != self.url.host_str()
            || url.username() != self.url.username()
            || url.port() != self.url.port()
        {
            return None;
        }
        let root = Path::from_url_path(self.url.path()).ok()?;
        let path = Path::from_url_path(url.path()).ok()?;
        let below = path.prefix_match(&root)?.collect();
        Some(below)
    }

    fn store(&self) -> Result<Arc<dyn ObjectStore>, Error> {
        if let Some(store) = self.store.get() {
            return Ok(store.clone());
        }
        let store = open::open(self.url.as_str())?;
        // A racer may have been first; a memory store must stay the same one.
        Ok(self.store.get_or_init(|| store).clone())
    }
}

fn canonical(path: &FsPath) -> Option<PathBuf> {
    std::fs::canonicalize(path).ok()
}

impl std::fmt::Display for Roots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let urls: Vec<String> = self.0.iter().map(|root| format!("`{}`", root.url)).collect();
        f.write_str(if urls.is_empty() { "none" } else { "" })?;
        f.write_str(&urls.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(path: &FsPath) -> String {
        Url::from_file_path(path).unwrap().to_string()
    }

    #[test]
    fn a_file_below_a_root_resolves() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in side")).unwrap();
        let file = dir.path().join("in side/a.parquet");
        std::fs::write(&file, "x").unwrap();
        let roots = Roots::new(&[url(dir.path())]).unwrap();
        let (_, path) = roots.resolve(&url(&file)).unwrap();
        assert_eq!(path.as_ref(), "in side/a.parquet");
    }

    #[test]
    fn what_leads_out_is_refused_and_the_roots_are_listed() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(other.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(other.path(), dir.path().join("link")).unwrap();
        let (root, elsewhere) = (url(dir.path()), url(other.path()));
        let roots = Roots::new(&[root.clone(), "s3://bucket/data".to_owned()]).unwrap();
        let outside = [
            format!("{root}/../x"),
            format!("{root}/%2e%2E/x"),
            format!("{root}/..%2fx"),
            format!("{root}/link/secret"),
            format!("{elsewhere}/secret"),
            format!("{root}-sibling/x"),
            "gs://bucket/x".to_owned(),
            "s3://bucket/database".to_owned(),
            "s3://other/data/x".to_owned(),
            "no url".to_owned(),
        ];
        for uri in outside {
            let error = roots.resolve(&uri).err().unwrap_or_else(|| panic!("{uri}"));
            let text = error.to_string();
            assert!(text.contains(&uri) && text.contains(&root) && text.contains("`roots`"), "{text}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::new(&[url(dir.path())]).unwrap();
        let error = roots.resolve(&format!("{}/nothing", url(dir.path()))).err().unwrap();
        assert_eq!(error.kind(), Kind::NotFound);
    }

    #[tokio::test]
    async fn what_lies_below_a_prefix_is_listed_by_uris_that_resolve() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("in/june 1")).unwrap();
        std::fs::write(dir.path().join("in/june 1/100%.csv"), "x").unwrap();
        std::fs::write(dir.path().join("other"), "x").unwrap();
        let roots = Roots::new(&[url(dir.path())]).unwrap();
        for uri in [format!("{}/in", url(dir.path())), format!("{}/in/", url(dir.path()))] {
            let found = roots.list(&uri).await.unwrap();
            assert_eq!(found.len(), 1);
            assert!(found[0].uri.ends_with("/in/june%201/100%25.csv"), "{found:?}");
            let (store, path) = roots.resolve(&found[0].uri).unwrap();
            assert_eq!(objects::read(&*store, path.as_ref()).await.unwrap(), "x");
        }
        assert_eq!(roots.list(&format!("{}/none", url(dir.path()))).await.unwrap(), []);
        assert!(roots.list("s3://bucket/x").await.is_err());
    }

    #[test]
    fn no_roots_refuse_everything() {
        let roots = Roots::new::<&str>(&[]).unwrap();
        let error = roots.resolve("file:///etc/passwd").err().unwrap();
        assert!(error.to_string().contains("allowed roots are none"), "{error}");
    }
}
