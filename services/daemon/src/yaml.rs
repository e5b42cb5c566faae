//! YAML into typed values, with errors that name the key, what it is and what it should be.
//!
//! Knows nothing of what it loads: the daemon's configuration and pipeline files both come through here.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read `{file}`")]
    Read { file: String, source: std::io::Error },
    #[error("{origin}: not YAML")]
    Syntax { origin: String, source: serde_yaml_ng::Error },
    #[error("{origin}: unknown key `{key}`; {hint}")]
    UnknownKey { origin: String, key: String, hint: String },
    #[error("{origin}: `{key}` is missing")]
    Missing { origin: String, key: String },
    #[error("{origin}: `{key}` is {given}: {expected}")]
    Unfit { origin: String, key: String, given: String, expected: String },
    /// A value out of range, or fields that do not agree; the reason names them.
    #[error("{origin}: {reason}")]
    Inconsistent { origin: String, reason: String },
}

/// A YAML document and where its parts come from.
pub struct Document {
    name: String,
    root: Value,
    /// Dotted keys that did not come from the file, and what set them.
    overrides: Vec<(String, String)>,
}

/// The value that `text`, called `name` in errors, describes.
pub fn load<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, ConfigError> {
    Document::parse(name, text)?.to()
}

impl Document {
    pub fn empty(name: &str) -> Self {
        Self { name: name.to_owned(), root: Value::Object(Map::new()), overrides: Vec::new() }
    }

    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        let syntax = |source| ConfigError::Syntax { origin: name.to_owned(), source };
        // By way of YAML's own value, which refuses a key given twice.
        let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).map_err(syntax)?;
        let root = match serde_json::to_value(value) {
            Ok(Value::Null) => Value::Object(Map::new()),
            Ok(root) => root,
            Err(error) => {
                return Err(ConfigError::Inconsistent { origin: name.to_owned(), reason: error.to_string() });
            }
        };
        Ok(Self { root, ..Self::empty(name) })
    }

    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Read { file: name.clone(), source })?;
        Self::parse(&name, &text)
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        key.split('.').try_fold(&self.root, |at, key| match at {
            Value::Array(items) => items.get(key.parse::<usize>().ok()?),
            _ => at.get(key),
        })
    }

    /// Sets a dotted key. `text` is YAML, so that numbers, booleans and lists can be given.
    pub fn set(&mut self, key: &str, text: &str, origin: &str) {
        let value = serde_yaml_ng::from_str(text).unwrap_or_else(|_| Value::from(text));
        let mut at = &mut self.root;
        for part in key.split('.') {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = &mut at[part];
        }
        *at = value;
        self.overrides.push((key.to_owned(), origin.to_owned()));
    }

    /// Sets what variables such as `PERENNIAL__WORKER__SLOTS` say. Empty ones count as not set.
    pub fn set_from_env(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        for (name, text) in variables {
            if let Some(key) = name.strip_prefix("PERENNIAL__")
                && !text.is_empty()
            {
                self.set(&key.to_lowercase().replace("__", "."), &text, &name);
            }
        }
    }

    pub fn to<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        serde_path_to_error::deserialize(&self.root)
            .map_err(|error| self.explain(&error.path().to_string(), &error.inner().to_string()))
    }

    /// Checks what is below `key` as a `T` of its own, where the whole would not say what is wrong with it.
    pub fn part<T: DeserializeOwned>(&self, key: &str) -> Result<T, ConfigError> {
        let part = self.get(key).unwrap_or(&Value::Null);
        serde_path_to_error::deserialize(part).map_err(|error| {
            let below = error.path().to_string();
            let key = if below == "." { key.to_owned() } else { format!("{key}.{below}") };
            self.explain(&key, &error.inner().to_string())
        })
    }

    /// The error for a value that parsed and still cannot be used.
    pub fn unfit(&self, key: &str, expected: impl ToString) -> ConfigError {
        ConfigError::Unfit {
            origin: self.origin(key),
            key: key.to_owned(),
            given: self.get(key).map_or("missing".to_owned(), Value::to_string),
            expected: expected.to_string(),
        }
    }

    /// What set `key`: the last override of it, of a part or of a whole around it; else the file.
    fn origin(&self, key: &str) -> String {
        let within = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('.'));
        let set = self.overrides.iter().rev();
        let mut set = set.filter(|(path, _)| within(key, path) || within(path, key));
        set.next().map_or_else(|| self.name.clone(), |(_, origin)| origin.clone())
    }

    /// Serde's errors are texts only; these are the forms its derives produce.
    fn explain(&self, key: &str, message: &str) -> ConfigError {
        let origin = self.origin(key);
        if let Some((_, known)) = quoted(message, "unknown field ") {
            let last = key.rsplit('.').next().unwrap_or(key);
            let (key, hint) = (key.to_owned(), hint(last, &known, "known keys"));
            return ConfigError::UnknownKey { origin, key, hint };
        }
        if let Some((name, _)) = quoted(message, "missing field ") {
            let key = match key {
                "." => name,
                parent => format!("{parent}.{name}"),
            };
            return ConfigError::Missing { origin, key };
        }
        if let Some((given, known)) = quoted(message, "unknown variant ") {
            return self.unfit(key, hint(&given, &known, "one of"));
        }
        if let Some((_, expected)) = message.strip_prefix("invalid ").and_then(|m| m.split_once(", expected ")) {
            return self.unfit(key, format!("expected {}", plain(expected)));
        }
        let reason = match key {
            "." => message.to_owned(),
            key => format!("`{key}`: {message}"),
        };
        ConfigError::Inconsistent { origin, reason }
    }
}

/// The first name in backquotes after `prefix`, and those that follow it.
fn quoted(message: &str, prefix: &str) -> Option<(String, Vec<String>)> {
    let mut names = message.strip_prefix(prefix)?.split('`').skip(1).step_by(2).map(str::to_owned);
    Some((names.next()?, names.collect()))
}

fn hint(given: &str, known: &[String], list: &str) -> String {
    match nearest(given, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "no keys are known there".to_owned(),
        None => format!("{list}: {}", known.join(", ")),
    }
}

/// The name that was probably meant: a slip or two away, or cut short.
fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let slips = |name: &str| strsim::damerau_levenshtein(given, name);
    let close = |name: &str| slips(name) <= 1.max(name.len().min(given.len()) / 3);
    let cut = |name: &str| given.len() >= 3 && name.starts_with(given);
    known.filter(|name| close(name) || cut(name)).min_by_key(|name| slips(name))
}

/// Rust's names of types, for those who do not write Rust.
fn plain(expected: &str) -> String {
    let text = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or above",
        "a nonzero u32" | "a nonzero u64" => "a whole number, 1 or above",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "newtype variant" => "a mapping with its settings",
        other if other.starts_with("struct ") => "a mapping of keys",
        other => other,
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::pipeline::Pipeline;

    const SHORTEST: &str = "name: tickets\nmodel: mlp:100\nlabels: [a, b]\nmethod: er\n";

    fn refused(extra: &str) -> String {
        let text = format!("{SHORTEST}{extra}");
        load::<Pipeline>("tickets.yaml", &text).unwrap_err().to_string()
    }

    #[test]
    fn a_mistyped_key_is_named_with_its_path_and_the_likely_one() {
        assert_eq!(
            refused("training: {learing_rate: 0.1}"),
            "tickets.yaml: unknown key `training.learing_rate`; did you mean `learning_rate`?"
        );
        assert!(refused("gate: {zzz: 1}").contains("`gate.zzz`; known keys: mode, max_average_accuracy_drop"));
    }

    #[test]
    fn a_wrong_type_names_path_value_and_what_was_expected() {
        assert_eq!(
            refused("training: {epochs: many}"),
            "tickets.yaml: `training.epochs` is \"many\": expected a whole number, 1 or above"
        );
        assert_eq!(
            refused("resources: {ranks: 0}"),
            "tickets.yaml: `resources.ranks` is 0: expected a whole number, 1 or above"
        );
        assert_eq!(
            refused("gate: {mode: enfroce}"),
            "tickets.yaml: `gate.mode` is \"enfroce\": did you mean `enforce`?"
        );
        assert_eq!(
            refused("evaluation: {held_out_fraction: 1.5}"),
            "tickets.yaml: `evaluation.held_out_fraction`: 1.5 is out of range: must be at least 0 and below 1"
        );
    }

    #[test]
    fn fields_that_disagree_and_fields_that_are_missing_are_named() {
        assert!(refused("resources: {ranks: 8}").starts_with("tickets.yaml: `resources.ranks` is 8: at most"));
        let error = load::<Pipeline>("t.yaml", "name: t\nmethod: er\n").unwrap_err();
        assert_eq!(error.to_string(), "t.yaml: `model` is missing");
        assert_eq!(refused("adapter: {lora: {}}"), "tickets.yaml: `adapter.lora.r` is missing");
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        assert!(refused("method: ft\n").starts_with("tickets.yaml: not YAML"));
    }
}
