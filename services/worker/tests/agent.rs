//! The worker as whoever starts one by hand sees it.

use std::process::{Command, Output};

fn worker(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perennial-worker"));
    command.args(args).env_remove("PERENNIAL_STORE").env("RUST_LOG", "info").output().unwrap()
}

#[test]
fn without_a_store_it_does_not_guess_one() {
    let output = worker(&["--server", "http://127.0.0.1:1"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--store is missing") && said.contains("the daemon's `store`"), "{said}");
    assert!(said.contains("PERENNIAL_STORE"), "{said}");
}

#[test]
fn a_log_that_is_no_terminal_holds_no_colours() {
    let output = worker(&["--store", "ftp://nowhere", "--log", "text"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("scheme `ftp` is not known"), "{said}");
    assert!(!said.contains('\u{1b}'), "{said:?}");
}
