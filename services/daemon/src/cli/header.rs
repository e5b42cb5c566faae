//! What the client says about a payload, as flags.

use std::num::NonZeroU64;
use std::path::Path;

use clap::ValueEnum;
use domain::id::{PipelineName, ProducerName, TaskName};
use perennial_proto::v1;

use super::client::Context;
use super::failure::Failure;
use super::producer;

#[derive(clap::Args)]
pub struct Header {
    /// The slice of the data it belongs to; a new name opens a task [default: the pipeline's]
    #[arg(long)]
    task: Option<TaskName>,
    /// Whether its rows train, are held out for evaluation, or are divided
    #[arg(long, default_value = "auto")]
    split: Split,
    /// Default: by the name's ending
    #[arg(long)]
    format: Option<Format>,
    /// Default: `image` or `text`, whichever is there; without either, `prompt` (its label is `completion`) or `messages`
    #[arg(long, value_name = "NAME")]
    input_column: Option<String>,
    /// Default: `label`
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,
    /// Push as this producer: its pushes are numbered, each number is taken once and in order, and whoever else pushes under
    /// its name is shut out
    #[arg(long, value_name = "NAME")]
    producer: Option<ProducerName>,
    /// The push's number, from 1: once taken, it stands for these rows [default: the producer's next]
    #[arg(long, value_name = "N", requires = "producer")]
    sequence: Option<NonZeroU64>,
    /// Return when the rows are checked, and fail if they go to quarantine; a payload that cannot be read is refused then
    /// [default: return when the payload is durable]
    #[arg(long)]
    wait: bool,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Split {
    Auto,
    Train,
    HeldOut,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Format {
    Parquet,
    Jsonl,
    /// With a line of column names
    Csv,
    /// CSV with tabs
    Tsv,
    /// WebDataset: `a.png` and `a.cls` are a row
    Tar,
}

impl Header {
    /// Opens the producer, if there is one.
    pub async fn origin(&self, ctx: &Context, pipeline: &PipelineName) -> Result<Option<v1::Origin>, Failure> {
        let Some(name) = &self.producer else { return Ok(None) };
        let v1::Producer { name, epoch, next_sequence } = producer::open(ctx, pipeline, name).await?;
        let sequence = self.sequence.map_or(next_sequence, NonZeroU64::get);
        Ok(Some(v1::Origin { producer: name, epoch, sequence }))
    }

    pub fn into_wire(
        self,
        pipeline: String,
        format: Format,
        sha256: String,
        origin: Option<v1::Origin>,
    ) -> v1::ChunkHeader {
        let split = match self.split {
            Split::Auto => v1::Split::Auto,
            Split::Train => v1::Split::Train,
            Split::HeldOut => v1::Split::HeldOut,
        };
        let format = match format {
            Format::Parquet => v1::Format::Parquet,
            Format::Jsonl => v1::Format::Jsonl,
            Format::Csv => v1::Format::Csv,
            Format::Tsv => v1::Format::Tsv,
            Format::Tar => v1::Format::Tar,
        };
        v1::ChunkHeader {
            pipeline,
            task: self.task.map(String::from).unwrap_or_default(),
            split: split.into(),
            format: format.into(),
            sha256,
            input_column: self.input_column.unwrap_or_default(),
            label_column: self.label_column.unwrap_or_default(),
            origin,
            wait: self.wait,
            ..Default::default()
        }
    }

    pub fn format(&self, name: &str) -> Result<Format, Failure> {
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str()).map(str::to_lowercase);
        let guess = match ending.as_deref() {
            Some("parquet" | "pq") => Some(Format::Parquet),
            Some("jsonl" | "ndjson" | "json") => Some(Format::Jsonl),
            Some("csv") => Some(Format::Csv),
            Some("tsv") => Some(Format::Tsv),
            Some("tar") => Some(Format::Tar),
            _ => None,
        };
        let unknown = || {
            let known = "parquet, jsonl, csv, tsv or tar";
            Failure::Usage(format!(
                "`{name}` does not end in a format's name: say which of {known} it is with --format"
            ))
        };
        self.format.or(guess).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_guessed_from_the_ending_or_asked_for() {
        let header = |format| Header {
            task: None,
            split: Split::Auto,
            format,
            input_column: None,
            label_column: None,
            producer: None,
            sequence: None,
            wait: false,
        };
        assert_eq!(header(None).format("s3://b/x.Parquet").unwrap(), Format::Parquet);
        assert_eq!(header(Some(Format::Jsonl)).format("rows.txt").unwrap(), Format::Jsonl);
        assert!(header(None).format("rows.txt").unwrap_err().to_string().contains("tar it is with --format"));
        assert_eq!(header(None).format("rows.tsv").unwrap(), Format::Tsv);
    }
}
