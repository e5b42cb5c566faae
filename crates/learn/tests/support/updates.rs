//! An update on what memory holds and on new rows, as several tests compare them.

use perennial_learn::Carried;
use perennial_learn::model::layers::Init;
use perennial_learn::update::Outcome;
use serde_json::{Value, json};

use super::{Trial, manifest};

pub const LOGITS: &str = "memory.logits";

/// After an update on 30 remembered rows with logits, and 45 new ones.
pub fn updated(change: Value) -> (Trial, Outcome) {
    let mut trial = Trial::with_memory(manifest(change), 30);
    let rows = trial.snapshot.slots.len() as i64;
    let logits = Init::Normal(1.0).draw(9, "logits", &[rows, 3]);
    trial.carried = Carried([(LOGITS.to_owned(), logits)].into());
    let outcome = trial.run();
    assert!(outcome.finite);
    (trial, outcome)
}

pub fn hash(change: Value) -> String {
    updated(change).0.hash()
}

pub fn with(method: &str, parameters: Value) -> Value {
    json!({"method": method, "loss": {"parameters": parameters}})
}
