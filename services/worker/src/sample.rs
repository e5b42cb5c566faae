//! Writes drawn glyphs to a file, for whoever wants rows to push before having any.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::builder::PossibleValuesParser;
use domain::chunk::{Payload, Row};
use serde_json::json;

use crate::glyphs::{DOMAINS, glyphs};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  perennial sample inverted.jsonl --look inverted --rows 600")]
pub struct Args {
    /// JSONL: an image in base64 and its label, a line each
    file: PathBuf,
    /// How the glyphs look
    #[arg(long, default_value = DOMAINS[0], value_parser = PossibleValuesParser::new(DOMAINS))]
    look: String,
    #[arg(long, default_value_t = 600)]
    rows: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn main(args: &Args) -> ExitCode {
    let look = DOMAINS.iter().position(|name| *name == args.look).unwrap_or(0);
    let lines: String = glyphs(look, args.rows, args.seed).iter().map(line).collect();
    let written = std::fs::File::create(&args.file).and_then(|mut file| file.write_all(lines.as_bytes()));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot write {}: {error}", args.file.display());
            ExitCode::FAILURE
        }
    }
}

fn line(row: &Row) -> String {
    let payload = match &row.payload {
        Payload::Image(bytes) => json!({"row_id": row.id, "image": STANDARD.encode(bytes), "label": row.label}),
        Payload::Text(text) => json!({"row_id": row.id, "text": text, "label": row.label}),
    };
    payload.to_string() + "\n"
}
