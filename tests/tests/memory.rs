//! A chunk may be larger than what the process that decodes it may hold in memory.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use perennial_proto::limits::FRAME_BYTES;
use perennial_proto::v1::{self, Format, Split};
use perennial_tests::cluster::{resource, role};
use perennial_tests::{Cluster, Options, Worker};
use serde_json::json;

const MIB: u64 = 1 << 20;
/// Of each payload.
const BYTES: u64 = 160 * MIB;
/// More than the process may take for them: what decoding holds, parts of 8 MiB on their way to the store, and what the allocator
/// does not give back.
const MOST: u64 = 128 * MIB;
const LABELS: [&str; 2] = ["ham", "spam"];

/// Texts of some KiB that do not compress to nothing, each with a label; no two are equal.
fn rows() -> impl Iterator<Item = (String, &'static str)> {
    (0..BYTES / 4096).map(|row| {
        let words = (0..64).map(|word| domain::draw::Draw::new(row).at(word).bits());
        (words.fold(String::new(), |text, word| text + &format!("{word:064x}")), LABELS[row as usize % 2])
    })
}

fn jsonl() -> Vec<u8> {
    let mut lines = String::new();
    rows().for_each(|(text, label)| writeln!(lines, "{}", json!({"text": text, "label": label})).unwrap());
    lines.into_bytes()
}

fn parquet() -> Vec<u8> {
    let (texts, labels): (Vec<_>, Vec<_>) = rows().unzip();
    let columns: [(&str, ArrayRef); 2] =
        [("text", Arc::new(StringArray::from(texts))), ("label", Arc::new(StringArray::from(labels)))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    // Row groups as `datasets` writes them.
    for from in (0..batch.num_rows()).step_by(1000) {
        writer.write(&batch.slice(from, 1000.min(batch.num_rows() - from))).unwrap();
        writer.flush().unwrap();
    }
    writer.into_inner().unwrap()
}

fn tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    for (at, (text, label)) in rows().enumerate() {
        add(format!("{at}.txt"), text.as_bytes());
        add(format!("{at}.cls"), label.as_bytes());
    }
    builder.into_inner().unwrap()
}

/// The most that the ingest process ever had in memory.
fn peak(cluster: &Cluster) -> u64 {
    let (pid, _) = cluster.all_processes().into_iter().find(|(_, line)| role(line) == Some("ingest")).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

/// Has an ingest process of its own take the payload in.
async fn take_in(format: Format, payload: Vec<u8>) {
    let apart = vec![Worker { role: "evaluator", slots: 1 }];
    let set = vec!["limits.decode_memory=16MiB"];
    let cluster = Cluster::start(Options { apart, set, ..Options::default() }).await;
    let evaluation = json!({"held_out_fraction": 0.5});
    let spec =
        json!({"name": "tickets", "model": "mlp:10", "method": "er", "labels": LABELS, "evaluation": evaluation});
    cluster.apply(&spec).await.unwrap();
    let before = peak(&cluster);
    let header = v1::ChunkHeader {
        pipeline: resource("tickets"),
        task: "texts".to_owned(),
        split: Split::Auto.into(),
        format: format.into(),
        wait: true,
        ..Default::default()
    };
    let chunk = cluster.push_as(header, &payload, FRAME_BYTES).await.unwrap().chunk.unwrap();
    let rows = chunk.train_rows + chunk.held_out_rows;
    assert_eq!((chunk.state.as_str(), rows), ("sealed", BYTES / 4096), "{format:?}");
    let (bytes, grown) = (payload.len() as u64, peak(&cluster) - before);
    println!("{format:?}: {} MiB taken in, {} MiB more in memory", bytes / MIB, grown / MIB);
    assert!(bytes >= BYTES && grown < MOST, "{format:?} of {} MiB took {} MiB", bytes / MIB, grown / MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_memory_is_taken_in() {
    take_in(Format::Jsonl, jsonl()).await;
    take_in(Format::Parquet, parquet()).await;
    take_in(Format::Tar, tar()).await;
}
