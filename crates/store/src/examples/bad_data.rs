//! Why pushed data is refused, in words its producer can act on.

/// Rows count from 0, lines from 1.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadData {
    #[error("there are no rows; a chunk needs at least one")]
    Empty,
    #[error("`{name}` has no format that is read here; push a file that ends in .parquet, .jsonl, .csv, .tsv or .tar")]
    Format { name: String },
    #[error("{name} is not read for labels; write JSONL or CSV with a row id and a label in each line")]
    NoLabels { name: String },
    #[error("`{name}` is compressed; push it unpacked")]
    Compressed { name: String },
    #[error("not a whole Parquet file ({reason}); write it again and push all of it")]
    Parquet { reason: String },
    #[error("column `{column}` is missing: the file has {present}; rename a column or say which one holds the {role}")]
    Missing {
        column: String,
        /// `input` or `label`.
        role: &'static str,
        /// The columns there are, quoted and comma-separated.
        present: String,
    },
    #[error("a row has both an image and a text; say which one is the input (`--input-column`)")]
    Ambiguous,
    #[error("column `{column}` has type {found}, expected {expected}; convert it before pushing")]
    Type { column: String, expected: &'static str, found: String },
    #[error("row {row}, column `{column}`: found {found}, expected {expected}; {remedy}")]
    Value { row: u64, column: String, expected: String, found: String, remedy: &'static str },
    #[error("line {line} is not UTF-8; save the file as UTF-8")]
    Utf8 { line: u64 },
    #[error("line {line} is longer than {limit} bytes; write one object per line")]
    LongLine { line: u64, limit: u64 },
    #[error("line {line} is not a JSON object ({reason}); write one object per line")]
    Json { line: u64, reason: String },
    #[error("line {line}: {reason}; a CSV file has one line of column names, and as many cells in each record")]
    Csv { line: u64, reason: String },
    #[error("not a whole tar ({reason}); write it again and push all of it")]
    Tar { reason: String },
    #[error("`{path}` in the tar is longer than {limit} bytes; leave it out")]
    LargeFile { path: String, limit: u64 },
    #[error("more than {limit} rows cannot be used, such as: {last}")]
    TooMany { limit: usize, last: String },
    #[error(
        "column `{column}` has a page of {bytes} bytes, over {ratio} times what it takes in the file; write smaller pages"
    )]
    Page { column: String, bytes: u64, ratio: u64 },
    #[error("its rows take more than {limit} bytes, over {ratio} times the file's own; push it in parts")]
    Swells { limit: u64, ratio: u64 },
    #[error("line {line}, field `{column}`: found {found}, expected {expected}; {remedy}")]
    Field { line: u64, column: String, expected: String, found: String, remedy: &'static str },
}

impl BadData {
    /// Whether the other rows can be read nonetheless.
    pub fn is_of_a_row(&self) -> bool {
        matches!(self, Self::Value { .. } | Self::Field { .. } | Self::Json { .. } | Self::Utf8 { .. })
    }
}

/// Where a value stands: a row of a table, or a line of a text file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Row(u64),
    Line(u64),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Row(number) => write!(f, "row {number}"),
            Self::Line(number) => write!(f, "line {number}"),
        }
    }
}

impl Place {
    pub(super) fn bad(
        self,
        column: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
        remedy: &'static str,
    ) -> BadData {
        let (column, found, expected) = (shortened(column.to_owned()), shortened(found.into()), expected.into());
        match self {
            Self::Row(row) => BadData::Value { row, column, expected, found, remedy },
            Self::Line(line) => BadData::Field { line, column, expected, found, remedy },
        }
    }
}

/// Characters of what is repeated to its producer: the errors of 10,000 rows are kept, and a value may be as large as a file.
const MOST_SAID: usize = 300;

fn shortened(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(MOST_SAID) {
        text.truncate(at);
        text.push('…');
    }
    text
}
