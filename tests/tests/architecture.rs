//! The arrows between crates, as the README draws them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Workspace packages and the workspace packages each depends on, without the `perennial-` prefix.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let short = |name: &Value| name.as_str().expect("a name").trim_start_matches("perennial-").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    let ours: BTreeSet<String> = packages.iter().map(|package| short(&package["name"])).collect();
    let normal = |dependency: &&Value| dependency["kind"].is_null();
    let of = |package: &Value| {
        let dependencies = package["dependencies"].as_array().expect("dependencies").iter().filter(normal);
        let names = dependencies.map(|dependency| short(&dependency["name"])).filter(|name| ours.contains(name));
        (short(&package["name"]), names.collect())
    };
    packages.iter().map(of).collect()
}

/// What a package reaches over any number of arrows.
fn reach(arrows: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(name) = open.pop() {
        for next in &arrows[&name] {
            if found.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    found
}

#[test]
fn the_domain_depends_on_nothing_of_ours() {
    assert_eq!(arrows()["domain"], BTreeSet::new());
}

#[test]
fn no_service_depends_on_another() {
    let services = ["ingest", "rehearsal", "scheduler", "trainer", "evaluator", "registry"];
    let arrows = arrows();
    for service in services {
        let others = arrows[service].iter().filter(|name| services.contains(&name.as_str()));
        assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new(), "{service}");
    }
}

#[test]
fn the_learning_core_sees_neither_the_wire_nor_the_store() {
    let seen = reach(&arrows(), "learn");
    assert!(!seen.contains("proto") && !seen.contains("store"), "{seen:?}");
}

#[test]
fn libtorch_lives_behind_one_door() {
    let arrows = arrows();
    for package in ["perennial", "ingest", "rehearsal", "scheduler", "registry", "store", "proto", "buffer"] {
        let seen = reach(&arrows, package);
        assert!(!seen.contains("collective") && !seen.contains("learn"), "{package}: {seen:?}");
    }
}
