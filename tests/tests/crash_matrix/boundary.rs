//! The writes to the store that something hangs on, by name.

use hyper::{Method, Uri};

/// Where a write falls, and who makes it, such as `put a chunk's payload (ingest)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boundary {
    pub name: &'static str,
    pub role: &'static str,
}

impl std::fmt::Display for Boundary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.role)
    }
}

/// What is put, by a part of its path. The first that fits.
const PUTS: [(&str, &str); 8] = [
    ("/perennial_manifest.json", "put a version's manifest"),
    ("adapters/", "put a file of a version"),
    ("log/", "put a record"),
    ("/checkpoints/", "put a part of a checkpoint"),
    ("/candidate/", "put a part of a candidate"),
    ("/raw", "put a payload"),
    ("/labels-", "put late labels"),
    ("/chunks/", "put a shard"),
];

/// What is removed.
const DELETES: [(&str, &str); 3] = [
    ("adapters/", "remove a file of a version"),
    ("/runs/", "remove what a run needed"),
    ("/chunks/", "remove what held erased rows"),
];

/// None: it changes nothing, or nothing hangs on it.
///
/// # Panics
///
/// If it has no name here.
pub fn name(method: &Method, target: &Uri, body: &[u8]) -> Option<&'static str> {
    let removed = removed(method, target, body);
    let (names, path): (&[_], _) = match &removed {
        Some(path) => (&DELETES, path.as_str()),
        None if *method == Method::PUT => (&PUTS, target.path()),
        None => return None,
    };
    if path.contains("probe/") {
        return None;
    }
    let found = names.iter().find(|(part, _)| path.contains(part)).map(|(_, name)| *name);
    Some(found.unwrap_or_else(|| panic!("{method} {path} has no name")))
}

/// The object that a request removes, or the first of them.
fn removed(method: &Method, target: &Uri, body: &[u8]) -> Option<String> {
    if *method == Method::DELETE {
        return Some(target.path().to_owned());
    }
    let is_bulk = *method == Method::POST && target.query().is_some_and(|query| query.starts_with("delete"));
    let text = is_bulk.then(|| String::from_utf8_lossy(body).into_owned())?;
    let (_, key) = text.split_once("<Key>").expect("S3's DeleteObjects names keys");
    key.split_once("</Key>").map(|(key, _)| key.to_owned())
}
