use super::*;
use domain::pipeline::Pipeline;
use serde_json::json;
use tonic::{Code, Status};

const OURS: &str = "00000000000000000000000000000000000000000000000000000000000000aa";
const THEIRS: &str = "00000000000000000000000000000000000000000000000000000000000000bb";

fn current(change: impl FnOnce(&mut Value)) -> PipelineState {
    let mut spec = json!({
        "name": "p", "model": {"uri": "file:///m", "sha256": OURS}, "labels": ["a", "b", "c"], "method": "er",
        "adapter": {"lora": {"r": 4, "alpha": 8.0, "target_modules": ["query", "value"]}},
    });
    change(&mut spec);
    let pipeline: Pipeline = serde_json::from_value(spec).unwrap();
    PipelineState::new(pipeline)
}

fn config(change: impl FnOnce(&mut Value)) -> Config {
    let mut config = json!({
        "peft_type": "LORA", "base_model_name_or_path": "google/vit", "task_type": null, "inference_mode": true,
        "r": 4, "lora_alpha": 8, "use_rslora": false, "bias": "none", "use_dora": false, "rank_pattern": {},
        "alpha_pattern": {}, "layers_to_transform": null, "target_modules": ["value", "query"],
        "lora_dropout": 0.1, "modules_to_save": ["classifier"], "init_lora_weights": true,
    });
    change(&mut config);
    serde_json::from_value(config).unwrap()
}

fn adapter(change: impl FnOnce(&mut Value)) -> Adapter {
    Adapter {
        config: config(change),
        labels: Vec::new(),
        published: None,
        base_sha256: String::new(),
        has_preprocessor: false,
    }
}

fn refused(adapter: &Adapter, current: &PipelineState, code: Code, words: &[&str]) {
    let status = Status::from(adapter.check(current).expect_err("it is refused"));
    assert_eq!(status.code(), code, "{status:?}");
    assert!(words.iter().all(|word| status.message().contains(word)), "{status:?}");
}

#[test]
fn an_adapter_that_agrees_is_taken_under_either_naming_of_its_modules() {
    let current = current(|_| ());
    for targets in
        [json!(["query", "value"]), json!(["v_proj", "q_proj"]), json!(["query", "value", "q_proj", "v_proj"])]
    {
        adapter(|config| config["target_modules"] = targets.clone()).check(&current).unwrap();
    }
    let shortest: Config = serde_json::from_value(json!({
        "peft_type": "LORA", "r": 4, "lora_alpha": 8.0, "target_modules": ["query", "value"],
    }))
    .unwrap();
    Adapter { config: shortest, ..adapter(|_| ()) }.check(&current).unwrap();
}

#[test]
fn what_differs_from_the_pipeline_is_named_with_both_values() {
    type Change = fn(&mut Value);
    let cases: [(Change, &[&str]); 5] = [
        (|c| c["r"] = json!(8), &["`r` is 8", "`adapter.lora.r` is 4", "apply it"]),
        (|c| c["lora_alpha"] = json!(16), &["`lora_alpha` is 16", "`adapter.lora.alpha` is 8"]),
        (|c| c["use_rslora"] = json!(true), &["`use_rslora` is true", "`adapter.lora.use_rslora` is false"]),
        (|c| c["target_modules"] = json!(["query"]), &["`target_modules` is query,", "is query, value;"]),
        (|c| c["target_modules"] = json!(["fc1", "q_proj"]), &["`target_modules` is fc1, q_proj,"]),
    ];
    for (change, words) in cases {
        refused(&adapter(change), &current(|_| ()), Code::FailedPrecondition, words);
    }
}

#[test]
fn what_no_pipeline_trains_is_named_with_its_remedy() {
    type Change = fn(&mut Value);
    let cases: [(Change, &[&str]); 8] = [
        (|c| c["peft_type"] = json!("IA3"), &["`peft_type` is \"IA3\"", "LORA"]),
        (|c| c["bias"] = json!("all"), &["`bias` is \"all\"", "`none`"]),
        (|c| c["use_dora"] = json!(true), &["`use_dora` is true"]),
        (|c| c["rank_pattern"] = json!({"query": 8}), &["`rank_pattern` is {\"query\":8}", "one rank"]),
        (|c| c["alpha_pattern"] = json!({"query": 8}), &["`alpha_pattern`", "one alpha"]),
        (|c| c["layers_to_transform"] = json!([0]), &["`layers_to_transform` is [0]", "every layer"]),
        (|c| c["init_lora_weights"] = json!("pissa"), &["`init_lora_weights` is \"pissa\"", "convert it"]),
        (|c| c["target_modules"] = json!("all-linear"), &["`target_modules` is \"all-linear\"", "by name"]),
    ];
    for (change, words) in cases {
        refused(&adapter(change), &current(|_| ()), Code::InvalidArgument, words);
    }
}

#[test]
fn another_base_is_refused_with_both_digests() {
    let scratch = |seed: u64| current(|spec| (spec["model"], spec["seed"]) = (json!("vit:d=8"), json!(seed)));
    let found = Adapter { base_sha256: THEIRS.to_owned(), ..adapter(|_| ()) };
    let words = ["base_model_name_or_path", THEIRS, "`model.sha256`", OURS];
    refused(&found, &current(|_| ()), Code::FailedPrecondition, &words);
    refused(&found, &scratch(0), Code::FailedPrecondition, &[THEIRS, "`vit:d=8` drawn from seed 0"]);
    let origin = |model: Value, seed: u64| {
        let published: Published = serde_json::from_value(json!({"config": {"model": model, "seed": seed}})).unwrap();
        Adapter { published: Some(published.config), ..adapter(|_| ()) }
    };
    let theirs = origin(json!({"uri": "file:///x", "sha256": THEIRS}), 0);
    let words = ["perennial_manifest.json", "config.model", THEIRS, OURS];
    refused(&theirs, &current(|_| ()), Code::FailedPrecondition, &words);
    let words = ["drawn from seed 1", "drawn from seed 2"];
    refused(&origin(json!("vit:d=8"), 1), &scratch(2), Code::FailedPrecondition, &words);
    origin(json!("vit:d=8"), 2).check(&scratch(2)).unwrap();
    let ours = origin(json!({"uri": "file:///elsewhere", "sha256": OURS.to_uppercase()}), 9);
    Adapter { base_sha256: OURS.to_owned(), ..ours }.check(&current(|_| ())).unwrap();
}

#[test]
fn labels_are_the_first_of_the_pipelines() {
    let with =
        |labels: &[&str]| Adapter { labels: labels.iter().map(ToString::to_string).collect(), ..adapter(|_| ()) };
    with(&["a", "b"]).check(&current(|_| ())).unwrap();
    refused(&with(&["b", "a"]), &current(|_| ()), Code::FailedPrecondition, &["b, a", "a, b, c", "in their order"]);
    let more = with(&["a", "b", "c", "d"]);
    refused(&more, &current(|_| ()), Code::FailedPrecondition, &["a, b, c, d"]);
}

#[test]
fn a_dataset_that_nobody_measured_is_refused() {
    let dataset = current(|spec| spec["input"] = json!({"normalize": "dataset"}));
    refused(&adapter(|_| ()), &dataset, Code::FailedPrecondition, &["input.normalize", "preprocessor_config.json"]);
    Adapter { has_preprocessor: true, ..adapter(|_| ()) }.check(&dataset).unwrap();
}
