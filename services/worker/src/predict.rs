//! `predict`: a published version's labels for rows, in their order, as they are read.
//!
//! Rows are read in windows, so that memory is bounded whatever their number, and within one they are batched by length.

mod lines;
mod version;

use std::io::{BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use domain::chunk::Payload;
use indicatif::{ProgressBar, ProgressStyle};
use learn::predict::{Unreadable, predict};
use store::examples::{Columns, Input, Inputs, jsonl_inputs, open_inputs};

use crate::bench::flags::{self, Output};
use lines::Lines;
use version::{Loaded, Version};

/// Rows read before the first of them is answered, unless they hold as many bytes before.
const WINDOW: usize = 2048;
const WINDOW_BYTES: usize = 64 << 20;
/// Rows predicted at once.
const BATCH: usize = 128;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  perennial-worker predict ./champion --input rows.jsonl --model ./minilm")]
pub struct Args {
    /// The folder of a version, as `perennial version pull` leaves it
    #[arg(value_name = "DIR")]
    version: PathBuf,
    /// Parquet, JSONL, CSV, TSV or a WebDataset tar; `-` reads JSONL from standard input
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// The folder of the base model, for a version that is an adapter
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Labels of each row, the likeliest first
    #[arg(long, value_name = "N", default_value = "1")]
    top: std::num::NonZeroUsize,
    /// The rows' task, for a version with a head for each task
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// Default: `image` or `text`, whichever is there
    #[arg(long, value_name = "NAME")]
    input_column: Option<String>,
    /// Of the labels to compare with, if there are any
    #[arg(long, value_name = "NAME", default_value = "label")]
    label_column: String,
    /// A table to read, or one JSON object a line
    #[arg(short, long, value_enum, default_value = "json")]
    output: Output,
}

pub fn main(args: &Args) -> ExitCode {
    flags::exit(run(args))
}

fn run(args: &Args) -> anyhow::Result<()> {
    let version = Version::open(&args.version, args.model.as_deref())?;
    let columns = Columns {
        input: args.input_column.clone(),
        label: args.label_column.clone(),
        labels: version.labels.clone(),
        ..Columns::default()
    };
    let rows = open(&args.input, &columns).with_context(|| format!("`{}`", args.input.display()))?;
    let out = Lines::new(std::io::stdout().lock(), args.output, args.top.get(), &version.labels);
    let mut session = Session { version: &version, task: args.task.as_deref(), loaded: None, out, bar: bar() };
    let outcome = session.answer(rows, &args.input);
    session.bar.finish_and_clear();
    match outcome {
        // A reader that has seen enough (`| head`) is no error.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            if let Some(accuracy) = session.out.accuracy() {
                eprintln!("{accuracy}");
            }
            Ok(())
        }
    }
}

fn open(input: &Path, columns: &Columns) -> anyhow::Result<Inputs> {
    if input.as_os_str() == "-" {
        return Ok(jsonl_inputs(BufReader::new(std::io::stdin()), columns));
    }
    Ok(open_inputs(input, columns)?)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Drawn only where it stands in the way of nothing.
fn bar() -> ProgressBar {
    if std::io::stdout().is_terminal() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {pos} rows, {per_sec}");
    let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

struct Session<'a, W: Write> {
    version: &'a Version,
    task: Option<&'a str>,
    /// Once the first rows are there.
    loaded: Option<Loaded>,
    out: Lines<'a, W>,
    bar: ProgressBar,
}

impl<W: Write> Session<'_, W> {
    /// What stands before a bad row is answered before the row is named.
    fn answer(&mut self, rows: Inputs, source: &Path) -> anyhow::Result<()> {
        let (mut window, mut bytes) = (Vec::with_capacity(WINDOW), 0);
        let named = || format!("`{}`", source.display());
        for row in rows {
            match row {
                Ok(row) => {
                    bytes += size(&row);
                    window.push(row);
                }
                Err(bad) => {
                    self.flush(&mut window).with_context(named)?;
                    return Err(bad).with_context(named);
                }
            }
            if window.len() == WINDOW || bytes >= WINDOW_BYTES {
                self.flush(&mut window).with_context(named)?;
                bytes = 0;
            }
        }
        self.flush(&mut window).with_context(named)
    }

    fn flush(&mut self, window: &mut Vec<Input>) -> anyhow::Result<()> {
        let (places, rows): (Vec<_>, Vec<_>) = window.drain(..).map(|input| (input.place, input.row)).unzip();
        let Some(first) = rows.first() else { return Ok(()) };
        let loaded = match &mut self.loaded {
            Some(loaded) => loaded,
            none => none.insert(self.version.load(first, self.task)?),
        };
        let scored = |rows| predict(&loaded.net, &loaded.reader, rows, self.task, BATCH, loaded.device);
        let (good, unreadable) = match scored(&rows) {
            Ok(scores) => (scores, None),
            Err(bad) => {
                let good = scored(&rows[..bad.position]).map_err(|bad| refused(&places[bad.position], bad))?;
                (good, Some(bad))
            }
        };
        self.out.write(&rows, &good)?;
        self.bar.inc(good.len() as u64);
        unreadable.map_or(Ok(()), |bad| Err(refused(&places[bad.position], bad)))
    }
}

fn size(input: &Input) -> usize {
    match &input.row.payload {
        Payload::Image(bytes) => bytes.len(),
        Payload::Text(text) => text.len(),
    }
}

fn refused(place: &store::examples::Place, bad: Unreadable) -> anyhow::Error {
    anyhow!("{place}: {}; correct the row, or leave it out", bad.reason)
}
