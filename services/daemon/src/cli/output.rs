//! Results on stdout: a table to read, or one JSON document to parse.

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use comfy_table::Table;
use serde::Serialize;

use super::failure::Failure;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}

/// A result. Its fields are the keys of the JSON document, which scripts rely on.
pub trait Render: Serialize {
    /// What a person reads.
    fn text(&self) -> String;
}

impl Output {
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
        }
    }

    pub fn print(self, result: &impl Render) -> Result<(), Failure> {
        match self {
            Self::Table => print(&result.text()),
            Self::Json => print_json(result),
        }
    }
}

pub fn print_json(result: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(result);
    print(&text.map_err(|error| Failure::Failed(format!("cannot print the result: {error}")))?)
}

/// Prints lines. A reader that has seen enough (`| head`) is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("cannot print the result: {error}")))
        }
        _ => Ok(()),
    }
}

/// Columns under upper-case names, or `empty` where there are no rows.
pub fn table<const N: usize>(columns: [&str; N], rows: impl IntoIterator<Item = [String; N]>, empty: &str) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(columns.map(str::to_uppercase));
    table.add_rows(rows);
    match table.is_empty() {
        true => empty.to_owned(),
        false => trim(&table),
    }
}

/// `name  value` lines, without those whose value is empty.
pub fn fields(pairs: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.add_rows(
        pairs.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| [name.to_owned(), value]),
    );
    trim(&table)
}

/// Without the padding that keeps columns off borders which are not drawn.
pub fn trim(table: &Table) -> String {
    let lines: Vec<String> =
        table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Zero, on the wire, is "none".
pub fn some(number: u64) -> Option<u64> {
    (number > 0).then_some(number)
}

pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

pub fn time(ms: Option<u64>) -> String {
    let at = ms.and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
    or_dash(at.map(humantime::format_rfc3339_seconds))
}

pub fn percent(share: Option<f64>) -> String {
    or_dash(share.map(|share| format!("{:.1} %", 100.0 * share)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_say_when_they_are_empty() {
        let rows = [["a".to_owned(), "1".to_owned()], ["bcd".to_owned(), "20".to_owned()]];
        assert_eq!(table(["name", "rows"], rows, ""), "NAME  ROWS\na     1\nbcd   20");
        assert_eq!(table(["name"], [], "no pipelines"), "no pipelines");
        assert_eq!(fields([("run", "7".to_owned()), ("error", String::new())]), "run  7");
    }

    #[test]
    fn figures_as_people_read_them() {
        assert_eq!(time(Some(1_700_000_000_000)), "2023-11-14T22:13:20Z");
        assert_eq!((time(None), percent(Some(0.8125)), or_dash(some(0))), ("-".into(), "81.2 %".into(), "-".into()));
    }
}
