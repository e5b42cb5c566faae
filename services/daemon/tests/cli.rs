//! The command line as its users and their scripts see it.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Nothing listens at port 1.
const NOBODY: &str = "http://127.0.0.1:1";

fn perennial(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perennial"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PERENNIAL") {
            command.env_remove(name);
        }
    }
    command.args(args).env("PERENNIAL_SERVER", NOBODY).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn every_noun_explains_itself() {
    let nouns = ["pipeline", "chunk", "run", "version", "buffer", "eval", "model", "schema", "config", "completion"];
    for noun in nouns {
        let help = perennial(&[noun, "--help"]);
        assert_eq!(code(&help), Some(0), "{noun}");
        assert!(stdout(&help).contains("Usage: perennial"), "{noun}");
    }
    let help = stdout(&perennial(&["--help"]));
    assert!(nouns.iter().chain(&["bench", "demo", "pretrain"]).all(|noun| help.contains(noun)), "{help}");
    assert!(!help.contains("--namespace"));
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_right() {
    for (args, said) in [
        (&[][..], "Usage: perennial"),
        (&["pipelin"], "similar"),
        (&["pipeline", "show"], "<PIPELINE>"),
        (&["pipeline", "show", "Tickets"], "not a valid pipeline name"),
        (&["version", "show", "tickets"], "tickets@champion"),
        (&["chunk", "push", "tickets", "rows.xls"], "which of parquet, jsonl, csv, tsv or tar it is with --format"),
        (&["--server", "localhost:7420", "run", "ls", "tickets"], "write a URL such as"),
        (&["run", "ls", "tickets", "--timeout", "soon"], "--timeout"),
        (&["version", "rollback", "tickets", "--expect", "latest"], "--expect"),
    ] {
        let output = perennial(args);
        assert_eq!(code(&output), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn without_a_server_it_exits_with_4_and_says_how_to_start_one() {
    for args in [
        &["pipeline", "ls"][..],
        &["run", "start", "tickets", "--watch"],
        &["run", "watch", "tickets", "7"],
        &["version", "rollback", "tickets"],
        &["-o", "json", "eval", "matrix", "tickets"],
    ] {
        let output = perennial(args);
        assert_eq!(code(&output), Some(4), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with(&format!("error: cannot reach {NOBODY}: ")), "{}", stderr(&output));
        assert!(stderr(&output).contains("is perenniald running?"));
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn a_pipeline_file_is_checked_before_any_connection() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tickets.yaml");
    let apply = |text: &str| {
        std::fs::write(&file, text).unwrap();
        perennial(&["pipeline", "apply", "-f", file.to_str().unwrap()])
    };
    let valid = "name: tickets\nmodel: mlp:100\nlabels: [a, b]\nmethod: er\n";
    let typo = apply(&format!("{valid}training: {{learing_rate: 0.1}}\n"));
    assert_eq!(code(&typo), Some(1));
    let said =
        format!("error: {}: unknown key `training.learing_rate`; did you mean `learning_rate`?\n", file.display());
    assert_eq!(stderr(&typo), said);
    assert_eq!(code(&apply(valid)), Some(4));
    let missing = perennial(&["pipeline", "apply", "-f", "/nowhere.yaml"]);
    assert!(stderr(&missing).starts_with("error: cannot read `/nowhere.yaml`: No such file"), "{}", stderr(&missing));
}

#[test]
fn a_file_that_is_not_there_is_named_before_any_connection() {
    let output = perennial(&["chunk", "push", "tickets", "/nowhere/rows.parquet"]);
    assert_eq!(code(&output), Some(1));
    assert!(stderr(&output).contains("cannot read `/nowhere/rows.parquet`"));
}

#[test]
fn the_schema_is_json_and_knows_the_keys() {
    let output = perennial(&["schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        schema["properties"]["training"].is_object() && schema["required"].as_array().is_some_and(|r| r.len() >= 3)
    );
}

#[test]
fn the_defaults_can_be_saved_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("perennial.yaml");
    std::fs::write(&file, perennial(&["config", "print-defaults"]).stdout).unwrap();
    let checked = perennial(&["config", "check", file.to_str().unwrap(), "-o", "json"]);
    let config: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(config["listen"], "127.0.0.1:7420");
    std::fs::write(&file, "worker: {slot: 1}").unwrap();
    let refused = perennial(&["config", "check", file.to_str().unwrap()]);
    assert_eq!(code(&refused), Some(1));
    assert!(stderr(&refused).contains("unknown key `worker.slot`; did you mean `slots`?"));
}

#[test]
fn completions_are_generated() {
    assert!(stdout(&perennial(&["completion", "bash"])).contains("_perennial"));
}

fn folder_of_programs() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The program in a folder of its own; beside it, maybe, a worker that prints its arguments.
///
/// Links, since a file that was just written may count as busy while other tests fork.
fn with_worker(folder: &Path, worker: bool) -> Command {
    let program = folder.join("perennial");
    if !program.exists() {
        std::fs::hard_link(env!("CARGO_BIN_EXE_perennial"), &program).unwrap();
        if worker {
            std::os::unix::fs::symlink("/bin/echo", folder.join("perennial-worker")).unwrap();
        }
    }
    let mut command = Command::new(program);
    command.env("PATH", "/usr/bin:/bin");
    command
}

#[test]
fn bench_demo_and_pretrain_become_the_worker() {
    let folder = folder_of_programs();
    for args in
        [&["bench", "stream.json", "--method", "er", "-o", "json"][..], &["demo", "--help"], &["pretrain", "--", "-x"]]
    {
        let output = with_worker(folder.path(), true).args(args).output().unwrap();
        assert_eq!(stdout(&output), format!("{}\n", args.join(" ")));
    }
    let output = with_worker(folder.path(), true).args(["-o", "json", "demo", "--seed", "1"]).output().unwrap();
    assert_eq!(stdout(&output), "demo --seed 1 -o json\n");
}

#[test]
fn without_a_worker_it_says_where_it_looked() {
    let folder = folder_of_programs();
    let output = with_worker(folder.path(), false).arg("demo").output().unwrap();
    assert_eq!(code(&output), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains(&folder.path().display().to_string()) && said.contains("PATH") && said.contains("make build"),
        "{said}"
    );
}

#[test]
fn the_daemon_names_a_wrong_key_and_where_it_came_from() {
    let daemon = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_perenniald"));
        let output = command.args(args).envs(env.iter().copied()).output().unwrap();
        assert_ne!(code(&output), Some(0));
        stderr(&output)
    };
    let said = daemon(&[], &[("PERENNIAL__WORKER__SLOTS", "-1")]);
    assert_eq!(
        said,
        "perenniald: PERENNIAL__WORKER__SLOTS: `worker.slots` is -1: expected a whole number, 1 or above\n"
    );
    let said = daemon(&["--set", "log.levle=debug"], &[]);
    assert_eq!(said, "perenniald: --set log.levle: unknown key `log.levle`; did you mean `level`?\n");
    let said = daemon(&["--listen", "7420"], &[]);
    assert!(said.starts_with("perenniald: --listen: `listen`"), "{said}");
    assert!(daemon(&["--config", "/nowhere.yaml"], &[]).contains("cannot read `/nowhere.yaml`: No such file"));
    let said = daemon(&["--role", "ingest", "--store", "memory:///"], &[]);
    assert!(said.contains("the role `ingest` alone needs `control`") && said.contains("--control http://"), "{said}");
}

#[test]
fn sigterm_gives_a_worker_that_hangs_its_seconds_and_no_more() {
    let folder = folder_of_programs();
    let (program, worker) = (folder.path().join("perenniald"), folder.path().join("perennial-worker"));
    std::fs::hard_link(env!("CARGO_BIN_EXE_perenniald"), &program).unwrap();
    std::fs::write(&worker, "#!/bin/sh\necho started\nexec tail -f /dev/null\n").unwrap();
    std::fs::set_permissions(&worker, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    command.args(["--listen", "127.0.0.1:0", "--store", "memory:///"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut daemon = command.spawn().unwrap();
    // Held to the end: `tail` stops when nobody reads it.
    let (mut said, mut line) = (BufReader::new(daemon.stdout.take().unwrap()), String::new());
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    let told = tokio::time::Instant::now();
    assert!(Command::new("kill").args(["-TERM", &daemon.id().to_string()]).status().unwrap().success());
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert!(told.elapsed() > Duration::from_secs(4), "it did not wait: {:?}", told.elapsed());
}
