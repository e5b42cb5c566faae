//! `bench` and `pretrain` as a user starts them, on a stream of drawn glyphs and on real data.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::stream;

mod support;

const RUN_KEYS: [&str; 17] = [
    "seed",
    "accuracy_matrix",
    "average_accuracy",
    "average_incremental_accuracy",
    "forgetting",
    "backward_transfer",
    "forward_transfer",
    "learning_accuracy",
    "expected_calibration_error",
    "brier_score",
    "flips",
    "evaluations",
    "steps",
    "dropped_rows",
    "seconds",
    "peak_memory_bytes",
    "weights_sha256",
];

fn worker(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_perennial-worker")).args(args).output().expect("the binary starts")
}

fn json_of(args: &[&str]) -> Value {
    let output = worker(&[args, &["-o", "json"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("one JSON document on stdout")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn a_small_stream_gives_every_key_and_a_full_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let stream = stream(folder.path(), &[0, 1], 80);
    let flags = ["bench", path(&stream), "--model", "mlp:16", "--method", "er", "--batch", "8", "--seeds", "2"];
    let outcome = json_of(&[&flags[..], &["--replay-batch", "8", "--buffer-size", "20"]].concat());
    assert_eq!((&outcome["stream"], &outcome["method"]), (&json!("glyphs"), &json!("er")));
    assert_eq!(outcome["settings"]["training"]["replay"], json!({"batch": 8}));
    let runs = outcome["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for (seed, run) in runs.iter().enumerate() {
        for key in RUN_KEYS {
            assert!(!run[key].is_null(), "{key} of {run}");
        }
        assert_eq!((&run["seed"], &run["steps"]), (&json!(seed), &json!(20)));
        assert!(run["accuracy_matrix"].as_array().unwrap().iter().all(|row| row.as_array().unwrap().len() == 2));
        assert!(run["stability"].is_null(), "nobody asked for it");
        assert!(["train", "rehearsal", "evaluate"].iter().all(|part| run["seconds"][part].as_f64().unwrap() > 0.0));
    }
    assert_ne!(runs[0]["weights_sha256"], runs[1]["weights_sha256"]);
    assert!(outcome["average_accuracy"]["std"].is_f64() && outcome["forgetting"]["mean"].is_f64());
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn negative_less_positive_flips_are_what_accuracy_fell_by_all_the_way_to_the_json() {
    let folder = tempfile::tempdir().unwrap();
    let stream = stream(folder.path(), &[0, 1, 2], 80);
    let flags = ["bench", path(&stream), "--model", "mlp:16", "--method", "ft", "--batch", "8", "--seed", "0"];
    for (future, more) in [(true, &[][..]), (false, &["--no-future"][..])] {
        let run = &json_of(&[&flags[..], more].concat())["runs"][0];
        let evaluations = run["evaluations"].as_array().unwrap();
        assert_eq!((evaluations.len(), &evaluations[0]["flips"]), (3, &Value::Null));
        for (update, now) in evaluations.iter().enumerate() {
            let tasks = now["tasks"].as_array().unwrap();
            assert_eq!((&now["update"], tasks.len()), (&json!(update + 1), if future { 3 } else { update + 1 }));
            let [mut fell, mut items] = [0.0, 0.0];
            for (position, task) in tasks.iter().enumerate() {
                assert_eq!(task["accuracy"], run["accuracy_matrix"][update][position]);
                let Some(before) = evaluations[..update].last().and_then(|last| last["tasks"].get(position)) else {
                    assert!(task["flips"].is_null(), "{task}");
                    continue;
                };
                let fall = number(&before["accuracy"]) - number(&task["accuracy"]);
                let rate = |of: &str| number(&task["flips"][of]);
                assert!((rate("negative_flip_rate") - rate("positive_flip_rate") - fall).abs() < 1e-12, "{task}");
                fell += fall * number(&task["items"]);
                items += number(&task["items"]);
            }
            if update > 0 {
                let rate = |of: &str| number(&now["flips"][of]);
                assert_eq!(rate("items"), items);
                assert!(
                    (rate("negative_flip_rate") - rate("positive_flip_rate") - fell / items).abs() < 1e-12,
                    "{now}"
                );
            }
            let error = number(&now["expected_calibration_error"]);
            let gap = |task: &Value| number(&task["expected_calibration_error"]);
            let most = tasks.iter().map(gap).fold(0.0, f64::max);
            assert!(error > 0.0 && error <= most + 1e-12, "tasks of one size: {error} {most}");
        }
        for figure in ["flips", "expected_calibration_error", "brier_score"] {
            assert_eq!(run[figure], evaluations[2][figure]);
        }
    }
}

#[test]
fn looking_within_updates_shows_how_low_accuracy_fell_and_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let stream = stream(folder.path(), &[0, 1, 2], 80);
    let flags = ["bench", path(&stream), "--model", "mlp:16", "--method", "er", "--batch", "8", "--seed", "0"];
    let flags = [&flags[..], &["--micro-batches", "2", "--threads-per-rank", "1"]].concat();
    let plain = json_of(&flags)["runs"][0].clone();
    let report = folder.path().join("report");
    let seen = json_of(&[&flags[..], &["--eval-every", "3", "--report", path(&report)]].concat());
    assert_eq!(seen["settings"]["eval_every"], 3);
    let seen = &seen["runs"][0];
    for same in ["weights_sha256", "accuracy_matrix", "evaluations", "steps"] {
        assert_eq!(seen[same], plain[same], "{same}");
    }
    let stability = &seen["stability"];
    let curve = stability["curve"].as_array().unwrap();
    // Ten steps an update: after the third, sixth and ninth, and at the end.
    let steps: Vec<u64> = curve.iter().map(|point| point["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [3, 6, 9, 10, 13, 16, 19, 20, 23, 26, 29, 30]);
    for (update, end) in [3, 7, 11].into_iter().enumerate() {
        let seen = &curve[end]["accuracies"].as_array().unwrap()[..=update];
        assert_eq!(seen, &plain["accuracy_matrix"][update].as_array().unwrap()[..=update]);
        assert!(curve[end]["accuracies"].as_array().unwrap()[update + 1..].iter().all(Value::is_null));
    }
    let lowest = |task: usize| {
        let after = curve[4 * (task + 1)..].iter().map(|point| number(&point["accuracies"][task]));
        after.fold(f64::INFINITY, f64::min)
    };
    assert_eq!(stability["min_accuracies"], json!([lowest(0), lowest(1), null]));
    let average = (lowest(0) + lowest(1)) / 2.0;
    assert!((number(&stability["average_min_accuracy"]) - average).abs() < 1e-12);
    let worst = number(&plain["accuracy_matrix"][2][2]) / 3.0 + average * 2.0 / 3.0;
    assert!((number(&stability["worst_case_accuracy"]) - worst).abs() < 1e-12);
    let page = std::fs::read_to_string(report.join("report.html")).unwrap();
    assert!(page.contains("Accuracy within updates") && page.contains("Calibration and flips"));

    let two = json_of(&[&flags[..], &["--eval-every", "3", "--ranks", "2"]].concat())["runs"][0].clone();
    for same in ["weights_sha256", "stability", "evaluations"] {
        assert_eq!(two[same], seen[same], "{same}");
    }
    let table = worker(&[&flags[..], &["--eval-every", "3"]].concat());
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    let columns = "learning  ece   nfr   pfr   min-acc  wc-acc  train s";
    assert!(columns.split_whitespace().all(|column| table.contains(column)), "{table}");
}

#[test]
fn the_base_is_measured_as_its_first_version_sees_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let stream = stream(folder.path(), &[0, 1, 2], 40);
    // A rate that moves no weight: whatever is measured later, nothing was learned and nothing transfers.
    let flags = ["bench", path(&stream), "--model", "mlp:16", "--method", "ft", "--lr", "1e-30", "--seed", "0"];
    let run = &json_of(&[&flags[..], &["--normalize", "dataset"]].concat())["runs"][0];
    assert_eq!((&run["forward_transfer"], &run["backward_transfer"]), (&json!(0.0), &json!(0.0)));
}

#[test]
fn forward_transfer_is_unknown_where_later_tasks_bring_new_classes() {
    let folder = tempfile::tempdir().unwrap();
    let domains = stream(folder.path(), &[0, 1], 40);
    let classes = folder.path().join("streams/classes.json");
    let mut spec: Value = serde_json::from_slice(&std::fs::read(&domains).unwrap()).unwrap();
    spec["scenario"] = json!("class-incremental");
    for (task, labels) in [json!([0, 1, 2, 3, 4]), json!([5, 6, 7, 8, 9])].into_iter().enumerate() {
        spec["tasks"][task]["filter"] = json!({"label": labels});
    }
    std::fs::write(&classes, spec.to_string()).unwrap();
    let transfer = |stream: &Path| {
        let run = &json_of(&["bench", path(stream), "--model", "mlp:8", "--method", "ft", "--seed", "0"])["runs"][0];
        assert!(run["accuracy_matrix"][0][1].is_f64(), "{run}");
        run["forward_transfer"].clone()
    };
    assert!(transfer(&domains).is_f64());
    assert_eq!(transfer(&classes), Value::Null);
}

#[test]
fn a_step_is_all_new_rows_while_there_is_nothing_to_replay() {
    let folder = tempfile::tempdir().unwrap();
    let stream = stream(folder.path(), &[0, 1], 40);
    let flags = ["bench", path(&stream), "--model", "mlp:8", "--method", "er", "--batch", "32", "--seed", "0"];
    let flags = [&flags[..], &["--replay-fraction", "0.5"]].concat();
    let steps = |update| json_of(&[&flags[..], &["--buffer-update", update]].concat())["runs"][0]["steps"].clone();
    // 40 rows by 32, then by 16; a buffer that fills during the first task has half of its batches too.
    assert_eq!((steps("chunk"), steps("online")), (json!(2 + 3), json!(3 + 3)));
}

#[test]
fn all_tasks_at_once_are_one_update_over_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let stream = stream(folder.path(), &[0, 1, 2], 40);
    let flags = ["bench", path(&stream), "--model", "mlp:8", "--method", "ft", "--batch", "32", "--seed", "0"];
    let run = &json_of(&[&flags[..], &["--at-once"]].concat())["runs"][0];
    let rows = run["accuracy_matrix"].as_array().unwrap();
    assert_eq!((rows.len(), rows[0].as_array().unwrap().len(), &run["steps"]), (1, 3, &json!(4)));
    let mean = rows[0].as_array().unwrap().iter().map(|a| a.as_f64().unwrap()).sum::<f64>() / 3.0;
    assert!((run["average_accuracy"].as_f64().unwrap() - mean).abs() < 1e-12);
    // Every task has as many test rows.
    assert!((run["micro_average_accuracy"].as_f64().unwrap() - mean).abs() < 1e-12);
    assert_eq!(run["forgetting"], json!(0.0));
}

#[test]
fn the_number_of_ranks_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let stream = stream(folder.path(), &[0, 2], 64);
    let flags = ["bench", path(&stream), "--model", "vit:d=16,layers=1,heads=2,patch=7,mlp=16", "--adapter", "lora:4"];
    let more = ["--method", "er", "--batch", "16", "--micro-batches", "4", "--threads-per-rank", "1", "--seed", "5"];
    let hash = |ranks| json_of(&[&flags[..], &more, &["--no-future", "--ranks", ranks]].concat())["runs"][0].clone();
    let (one, two) = (hash("1"), hash("2"));
    assert_eq!(one["weights_sha256"], two["weights_sha256"]);
    assert_eq!(one["accuracy_matrix"], two["accuracy_matrix"]);
    assert_eq!((&one["accuracy_matrix"][0][1], &one["forward_transfer"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_pretrained_folder_is_a_model_to_bench() {
    let folder = tempfile::tempdir().unwrap();
    let (stream, model) = (stream(folder.path(), &[3], 40), folder.path().join("vit"));
    let small = ["--model", "vit:d=16,layers=1,heads=2,patch=7,mlp=16", "--limit", "100", "--epochs", "1"];
    let done = json_of(&[&["pretrain", "--glyphs", "plain", "--out", path(&model)], &small[..]].concat());
    assert_eq!(done["sha256"].as_str().map(str::len), Some(64));
    let flags =
        ["bench", path(&stream), "--model", path(&model), "--adapter", "lora:4", "--method", "ft", "--seed", "0"];
    let outcome = json_of(&flags);
    assert_eq!(outcome["settings"]["model"]["sha256"], done["sha256"]);
    assert_eq!(outcome["average_accuracy"]["std"], Value::Null);
}

#[test]
fn mistakes_are_named_and_have_their_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let stream = stream(folder.path(), &[0], 20);
    let wrong: [(&[&str], i32, &str); 12] = [
        (&["--model", "mlp:8", "--method", "dark"], 2, "ft, er, offline-er, der, der++"),
        (&["--model", "mlp:8"], 2, "--method"),
        (&["--model", "mlp:8", "--method", "ft", "--eval-every", "0"], 2, "--eval-every"),
        (&["--model", "no-such-folder", "--method", "ft"], 2, "neither a folder nor a model"),
        (&["--model", "mlp:8", "--method", "ft", "--ranks", "9"], 2, "resources.ranks"),
        (&["--model", "mlp:x", "--method", "ft"], 2, "`x` is not a whole number"),
        (
            &["--model", "mlp:8,9", "--method", "ft", "--adapter", "lora:4"],
            2,
            "targets=A,B: no linear layer is called `query`; the model has: fc1, fc2",
        ),
        (&["--model", "mlp:8", "--method", "ft", "--adapter", "lora:9,targets=fc1"], 2, "at most 8"),
        (&["--model", "resnet18:slim", "--method", "ft", "--adapter", "lora:4"], 2, "use `adapter: full`"),
        (&["--model", "resnet18:slim,norm=continual", "--method", "ft"], 2, "20 would do"),
        (&["--model", "vit:patch=5", "--method", "ft", "--micro-batches", "2", "--ranks", "2"], 2, "patch_size is 5"),
        (&["--model", "mlp:8", "--method", "ft", "--batch", "4", "--lr", "1e30"], 1, "smaller --lr"),
    ];
    for (flags, code, words) in wrong {
        let output = worker(&[&["bench", path(&stream)], flags].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {stderr}");
        assert!(stderr.contains(words), "{flags:?}: {stderr}");
    }
    let output = worker(&[
        "pretrain",
        "--glyphs",
        "plain",
        "--limit",
        "9",
        "--out",
        path(&folder.path().join("vit")),
        "--model",
        "mlp:0",
    ]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && stderr.contains("`0` is not a whole number"), "{stderr}");
    let output = worker(&["bench", "no-such-stream.json", "--model", "mlp:8", "--method", "ft"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("no-such-stream.json"), "{stderr}");
}

/// A stream of real data; None, which it says, where there is none.
fn real(name: &str) -> Option<PathBuf> {
    let given = std::env::var_os("PERENNIAL_DATA").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let stream = given.unwrap_or(beside).join("streams").join(name);
    if !stream.exists() {
        println!("SKIPPED: no `{}`; set PERENNIAL_DATA to a folder with streams/", stream.display());
        return None;
    }
    Some(stream)
}

#[test]
fn a_slim_resnet_on_real_images_is_the_same_at_one_and_two_ranks() {
    let Some(whole) = real("cifar10_class_5x2.json") else { return };
    let (folder, root) = (tempfile::tempdir().unwrap(), whole.parent().unwrap().parent().unwrap());
    let mut spec: Value = serde_json::from_slice(&std::fs::read(&whole).unwrap()).unwrap();
    spec["tasks"].as_array_mut().unwrap().truncate(2);
    let stream = folder.path().join("two_tasks.json");
    std::fs::write(&stream, spec.to_string()).unwrap();
    let flags = ["bench", path(&stream), "--data", path(root), "--model", "resnet18:slim,nf=4", "--method", "der++"];
    let more = [
        "--batch",
        "8",
        "--micro-batches",
        "2",
        "--limit-per-task",
        "24",
        "--buffer-size",
        "20",
        "--seed",
        "0",
        "--no-future",
    ];
    let run = |ranks| {
        let flags =
            [&flags[..], &more, &["--normalize", "dataset", "--threads-per-rank", "1", "--ranks", ranks]].concat();
        json_of(&flags)["runs"][0].clone()
    };
    let (one, two) = (run("1"), run("2"));
    assert_eq!((&one["weights_sha256"], &one["steps"]), (&two["weights_sha256"], &json!(6)));
    assert_eq!(one["accuracy_matrix"], two["accuracy_matrix"]);
}

#[test]
fn real_data_forgets_without_replay_and_less_with_it() {
    let Some(stream) = real("fashion_mnist_class_5x2.json") else { return };
    let flags = ["bench", path(&stream), "--model", "mlp:100,100", "--batch", "10", "--lr", "0.03"];
    let more =
        ["--limit-per-task", "500", "--seed", "0", "--replay-batch", "10", "--buffer-size", "200", "--no-future"];
    let average = |method| {
        json_of(&[&flags[..], &more, &["--method", method]].concat())["average_accuracy"]["mean"].as_f64().unwrap()
    };
    let (forgetful, replayed) = (average("ft"), average("er"));
    assert!(forgetful < 0.35 && replayed > forgetful + 0.2, "ft {forgetful}, er {replayed}");
}
