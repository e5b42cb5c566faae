//! From a URL to a store, with bounded retries: a store that is down is an error, not a hang.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};
use url::Url;

use crate::Error;

/// One request, its body included.
const REQUEST: &str = "120s";
const CONNECT: &str = "5s";

/// The store at `url`; a `file://` folder is created, `memory:///` is a new store each time.
///
/// Credentials and endpoints of s3, gs and az come from the environment, under the names their own
/// tools use (`AWS_*`, `GOOGLE_*`, `AZURE_*`).
pub fn open(url: &str) -> Result<Arc<dyn ObjectStore>, Error> {
    let parsed = parse(url)?;
    match parsed.scheme() {
        "file" => local(url, &parsed),
        "memory" => Ok(Arc::new(InMemory::new())),
        "s3" => prefixed(&parsed, s3(url).map_err(|e| invalid(url, e))?),
        "gs" => prefixed(&parsed, gcs(url).map_err(|e| invalid(url, e))?),
        "az" => prefixed(&parsed, azure(url).map_err(|e| invalid(url, e))?),
        other => Err(invalid(url, format!("scheme `{other}` is not known"))),
    }
}

fn invalid(url: &str, reason: impl ToString) -> Error {
    Error::Url { url: url.to_owned(), reason: reason.to_string() }
}

/// A URL with nothing in it that a store would silently drop.
pub(crate) fn parse(url: &str) -> Result<Url, Error> {
    let parsed = Url::parse(url).map_err(|e| invalid(url, e))?;
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(invalid(url, "`?` and `#` have no meaning here (write them as %3F and %23)"));
    }
    let bucket = matches!(parsed.scheme(), "s3" | "gs" | "az");
    if bucket && parsed.host_str().is_none_or(str::is_empty) {
        return Err(invalid(url, "it names no bucket"));
    }
    if parsed.scheme() == "file" && (!url.starts_with("file:///") || parsed.host_str().is_some()) {
        return Err(invalid(url, "a folder is written as file:///absolute/path"));
    }
    Ok(parsed)
}

/// The folder that a `file://` URL names.
pub(crate) fn folder(url: &str, parsed: &Url) -> Result<PathBuf, Error> {
    parsed.to_file_path().map_err(|()| invalid(url, "it is not an absolute path"))
}

fn local(url: &str, parsed: &Url) -> Result<Arc<dyn ObjectStore>, Error> {
    let folder = folder(url, parsed)?;
    std::fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
    let store = LocalFileSystem::new_with_prefix(&folder).map_err(Error::store("open", folder.display()))?;
    Ok(Arc::new(store.with_fsync(true).with_automatic_cleanup(true)))
}

fn prefixed(parsed: &Url, store: impl ObjectStore) -> Result<Arc<dyn ObjectStore>, Error> {
    let path = Path::from_url_path(parsed.path()).map_err(|e| invalid(parsed.as_str(), e))?;
    Ok(Arc::new(PrefixStore::new(store, path)))
}

/// Bounded by time, not by number: refusals come fast, and a store that restarts is away for some seconds.
fn retries() -> RetryConfig {
    let backoff = BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: 1000, retry_timeout: Duration::from_secs(60) }
}

fn s3(url: &str) -> object_store::Result<impl ObjectStore> {
    AmazonS3Builder::from_env()
        .with_url(url)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), REQUEST)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECT)
        .with_retry(retries())
        .build()
}

fn gcs(url: &str) -> object_store::Result<impl ObjectStore> {
    GoogleCloudStorageBuilder::from_env()
        .with_url(url)
        .with_config(GoogleConfigKey::Client(ClientConfigKey::Timeout), REQUEST)
        .with_config(GoogleConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECT)
        .with_retry(retries())
        .build()
}

fn azure(url: &str) -> object_store::Result<impl ObjectStore> {
    MicrosoftAzureBuilder::from_env()
        .with_url(url)
        .with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), REQUEST)
        .with_config(AzureConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECT)
        .with_retry(retries())
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn a_scheme_that_is_not_known_lists_those_that_are() {
        for bad in
            ["ftp://host/x", "/just/a/path", "http://host/x", "s3:///no-bucket", "file://relative/x", "file:///x?y"]
        {
            let error = open(bad).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{bad}");
            let text = error.to_string();
            assert!(text.contains(bad) && text.contains("file:///absolute/folder"), "{text}");
        }
    }

    #[test]
    fn a_folder_is_created() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a b/c");
        open(Url::from_file_path(&folder).unwrap().as_str()).unwrap();
        assert!(folder.is_dir());
    }
}
