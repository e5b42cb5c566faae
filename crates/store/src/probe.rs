//! Does this store put if absent, atomically? Asked once at start-up.
//!
//! "S3 compatible" does not say so: there are servers that ignore the condition and servers that
//! check it without a lock. On both, two writers would each believe that they own the log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};

use crate::{Error, unique};

const ROUNDS: usize = 5;
const RACERS: usize = 16;
const DEADLINE: Duration = Duration::from_secs(60);

/// Refuses a store whose conditional put is not atomic. Leaves nothing behind.
pub async fn check(store: &Arc<dyn ObjectStore>) -> Result<(), Error> {
    let folder = Path::from(format!("probe/{}", unique::token()));
    let outcome = tokio::time::timeout(DEADLINE, rounds(store, &folder)).await;
    clean(store, &folder).await;
    outcome.unwrap_or_else(|_| Err(Error::Timeout { action: "probe", path: folder.to_string(), after: DEADLINE }))
}

async fn rounds(store: &Arc<dyn ObjectStore>, folder: &Path) -> Result<(), Error> {
    sequential(store, &folder.clone().join("sequential")).await?;
    for round in 0..ROUNDS {
        race(store, &folder.clone().join(format!("race-{round}"))).await?;
    }
    Ok(())
}

async fn sequential(store: &Arc<dyn ObjectStore>, key: &Path) -> Result<(), Error> {
    if !create(store, key, "first").await? {
        return unsuitable("creating a new object reported that it exists");
    }
    if create(store, key, "second").await? {
        return unsuitable("it accepted a second object under a name that was taken (it ignores `If-None-Match`)");
    }
    if read(store, key).await? != "first" {
        return unsuitable("a create that it refused changed the object");
    }
    let overwritten = store.put(key, "third".into()).await;
    overwritten.map_err(Error::store("overwrite", key))?;
    if read(store, key).await? != "third" {
        return unsuitable("an object that was overwritten still reads as before");
    }
    Ok(())
}

async fn race(store: &Arc<dyn ObjectStore>, key: &Path) -> Result<(), Error> {
    let racers = (0..RACERS).map(|racer| {
        let (store, key) = (store.clone(), key.clone());
        tokio::spawn(async move { create(&store, &key, &racer.to_string()).await })
    });
    let mut winners = Vec::new();
    for (racer, outcome) in join_all(racers).await.into_iter().enumerate() {
        if outcome.expect("a racer only awaits the store")? {
            winners.push(racer.to_string());
        }
    }
    match winners.as_slice() {
        [winner] if read(store, key).await? == *winner => Ok(()),
        [_] => unsuitable("of concurrent creates of one name, a loser's bytes were kept"),
        _ => unsuitable(&format!("of {RACERS} concurrent creates of one name {} succeeded", winners.len())),
    }
}

/// Whether this call created the object.
async fn create(store: &Arc<dyn ObjectStore>, key: &Path, text: &str) -> Result<bool, Error> {
    let bytes = Bytes::from(text.to_owned());
    match store.put_opts(key, bytes.into(), PutMode::Create.into()).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
        Err(e @ (object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. })) => {
            unsuitable(&e.to_string())
        }
        Err(e) => Err(Error::store("create", key)(e)),
    }
}

async fn read(store: &Arc<dyn ObjectStore>, key: &Path) -> Result<Bytes, Error> {
    let found = store.get(key).await.map_err(Error::store("read", key))?;
    found.bytes().await.map_err(Error::store("read", key))
}

fn unsuitable<T>(what: &str) -> Result<T, Error> {
    Err(Error::Unsuitable { what: what.to_owned() })
}

async fn clean(store: &Arc<dyn ObjectStore>, folder: &Path) {
    let races = (0..ROUNDS).map(|round| format!("race-{round}"));
    for name in races.chain(["sequential".to_owned()]) {
        let removed = store.delete(&folder.clone().join(name)).await;
        if let Err(error) = removed.or_else(|e| match e {
            object_store::Error::NotFound { .. } => Ok(()),
            e => Err(e),
        }) {
            tracing::warn!(%folder, %error, "a probe object was left behind");
        }
    }
}
