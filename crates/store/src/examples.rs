//! Rows of data: the one canonical shard, and what users push.

mod bad_data;
mod columns;
mod csv;
mod inputs;
mod intake;
mod jsonl;
mod labels;
mod object;
mod pages;
mod scan;
mod shard;
mod table;
mod web_dataset;

pub use bad_data::{BadData, Place};
pub use csv::Delimiter;
pub use inputs::{Input, Inputs, Unread, jsonl_inputs, open_inputs};
pub use intake::{Columns, Format, HEAD, detect, read};
pub use jsonl::read_jsonl;
pub use labels::read_labels;
pub use scan::scan_shard;
pub use shard::{LateLabels, Placed, erase_rows, read_shard, read_shard_bytes, read_shard_rows, write_shard};
pub use table::read_parquet;

pub(crate) use columns::{Cells, open_table};
