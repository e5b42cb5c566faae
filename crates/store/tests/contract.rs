//! Probe and objects, on every store.

mod support;

use std::sync::atomic::Ordering;

use domain::chunk::ObjectRef;
use futures::future::join_all;
use perennial_store::objects::{self, Cache};
use perennial_store::{Kind, probe};
use support::{Bad, Store, everywhere, memory};

#[tokio::test(flavor = "multi_thread")]
async fn a_good_store_passes_the_probe_and_is_left_clean() {
    everywhere(|store| async move {
        probe::check(&store).await.unwrap();
        let left = objects::list(store.as_ref(), "probe").await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    })
    .await;
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let bad = Bad::over(memory());
    bad.ignores_conditions.store(true, Ordering::Relaxed);
    let error = probe::check(&(bad.clone() as Store)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsuitable);
    let text = error.to_string();
    assert!(text.contains("a second object under a name that was taken") && text.contains("AWS S3"), "{text}");
    assert!(objects::list(bad.as_ref(), "probe").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_store_that_checks_without_a_lock_is_refused() {
    let bad = Bad::over(memory());
    bad.races.store(true, Ordering::Relaxed);
    let error = probe::check(&(bad as Store)).await.unwrap_err().to_string();
    assert!(error.contains("of 16 concurrent creates of one name"), "{error}");
}

#[tokio::test]
async fn an_object_reads_back_and_a_damaged_one_names_path_and_sums() {
    everywhere(|store| async move {
        let store = store.as_ref();
        let object = objects::put(store, "a/b", "hello".into()).await.unwrap();
        assert_eq!(object, objects::put(store, "a/b", "hello".into()).await.unwrap());
        assert_eq!(objects::get(store, &object).await.unwrap(), "hello");
        let other = objects::put(store, "a/b", "hullo".into()).await.unwrap();
        let error = objects::get(store, &object).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged);
        let text = error.to_string();
        assert!(text.contains("a/b") && text.contains(&object.sha256) && text.contains(&other.sha256), "{text}");
    })
    .await;
}

#[tokio::test]
async fn an_object_that_is_not_there_is_not_found_and_may_be_removed() {
    everywhere(|store| async move {
        let object = objects::put(store.as_ref(), "x", "x".into()).await.unwrap();
        objects::delete(store.as_ref(), "x").await.unwrap();
        objects::delete(store.as_ref(), "x").await.unwrap();
        let error = objects::get(store.as_ref(), &object).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
    })
    .await;
}

#[tokio::test]
async fn what_exists_is_not_created_again_with_other_bytes() {
    everywhere(|store| async move {
        let store = store.as_ref();
        let object = objects::create(store, "m", "one".into()).await.unwrap();
        assert_eq!(objects::create(store, "m", "one".into()).await.unwrap(), object);
        let error = objects::create(store, "m", "two".into()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exists);
        assert_eq!(objects::get(store, &object).await.unwrap(), "one");
    })
    .await;
}

#[tokio::test]
async fn a_folder_goes_up_whole_and_copies() {
    everywhere(|store| async move {
        let store = store.as_ref();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("inner")).unwrap();
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        // More than one part, and a part that is exactly full.
        std::fs::write(folder.path().join("inner/big"), vec![7; 16 << 20]).unwrap();
        std::fs::write(folder.path().join("inner/odd"), vec![8; (8 << 20) + 1]).unwrap();
        let objects = objects::upload_dir(store, folder.path(), "models/m").await.unwrap();
        let paths: Vec<&str> = objects.iter().map(|object| object.path.as_str()).collect();
        assert_eq!(paths, ["models/m/config.json", "models/m/inner/big", "models/m/inner/odd"]);
        for object in &objects {
            let copy = objects::copy(store, object, &format!("copy/{}", object.path)).await.unwrap();
            assert_eq!(objects::get(store, &copy).await.unwrap().len() as u64, object.bytes);
        }
    })
    .await;
}

#[tokio::test]
async fn a_copy_is_made_where_none_or_another_lies_and_kept_where_it_is_whole() {
    everywhere(|store| async move {
        let store = store.as_ref();
        let object = objects::put(store, "from", "true".into()).await.unwrap();
        objects::put(store, "to", "fals".into()).await.unwrap();
        let copy = objects::copy(store, &object, "to").await.unwrap();
        assert_eq!(objects::get(store, &copy).await.unwrap(), "true");
        objects::delete(store, "from").await.unwrap();
        assert_eq!(objects::copy(store, &object, "to").await.unwrap(), copy);
        let error = objects::copy(store, &object, "elsewhere").await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_fetches_once_for_many_and_never_shows_a_part() {
    everywhere(|store| async move {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(store.clone(), folder.path().to_owned());
        let object = objects::put(store.as_ref(), "o", vec![5; 100_000].into()).await.unwrap();
        let fetches = (0..16).map(|_| cache.fetch(&object));
        for file in join_all(fetches).await {
            assert_eq!(std::fs::read(file.unwrap()).unwrap(), vec![5; 100_000]);
        }
        objects::delete(store.as_ref(), "o").await.unwrap();
        let file = cache.fetch(&object).await.unwrap();
        std::fs::write(&file, "cut short").unwrap();
        let error = cache.fetch(&object).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "a file of the wrong size is fetched again");
    })
    .await;
}

#[tokio::test]
async fn the_cache_refuses_other_bytes_and_leaves_no_part_behind() {
    let (store, folder) = (memory(), tempfile::tempdir().unwrap());
    let cache = Cache::new(store.clone(), folder.path().to_owned());
    let object = objects::put(store.as_ref(), "o", "true".into()).await.unwrap();
    objects::put(store.as_ref(), "o", "fals".into()).await.unwrap();
    assert_eq!(cache.fetch(&object).await.unwrap_err().kind(), Kind::Damaged);
    let left: Vec<_> = std::fs::read_dir(folder.path().join(&object.sha256[..2])).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let hostile = ObjectRef { sha256: "../../etc/passwd".to_owned(), ..object };
    assert!(cache.fetch(&hostile).await.is_err());
}
