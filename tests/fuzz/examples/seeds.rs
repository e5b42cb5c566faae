//! Writes the inputs that each target begins with: `cargo run -p perennial-fuzz --example seeds`. Crashes are not touched.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field};
use domain::chunk::{Payload, Row};
use image::{DynamicImage, ImageFormat};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterVersion};
use perennial_fuzz::wire::call;
use perennial_proto::v1;
use perennial_proto::v1::erase_rows_request::Scope;

const PIPELINE: &str = "namespaces/default/pipelines/p";

fn main() {
    for (target, seeds) in [
        ("jsonl", jsonl()),
        ("csv", csv(',')),
        ("tsv", csv('\t')),
        ("parquet", parquet()),
        ("tar", tar()),
        ("intake", intake()),
        ("labels", labels()),
        ("shard", shard()),
        ("pipeline", pipeline()),
        ("spec_json", spec_json()),
        ("config", config()),
        ("manifest", manifest()),
        ("record", record()),
        ("adapter", adapter()),
        ("requests", requests()),
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/__fuzz__").join(target).join("corpus");
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:02}")), seed).expect("a file can be written");
        }
    }
}

/// Behind the byte that chooses the columns.
fn chosen(choice: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&[choice], bytes.as_ref()].concat()
}

fn picture(format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    DynamicImage::new_rgb8(2, 2).write_to(&mut bytes, format).expect("a picture can be encoded");
    bytes.into_inner()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn jsonl() -> Vec<Vec<u8>> {
    let image = base64(&picture(ImageFormat::Png));
    vec![
        chosen(
            0,
            "{\"text\": \"où\", \"label\": \"a\", \"row_id\": 7, \"subject\": \"anna\", \"event_time\": 12}\n\n{\"text\": \"x\", \"label\": 1}\n",
        ),
        chosen(8, format!("\u{feff}{{\"image\": \"{image}\", \"label\": 1}}\r\nno json\n")),
        chosen(4, "{\"text\": \"x\", \"event_time\": \"2026-11-27T09:30:00Z\"}"),
        chosen(3, format!("{{\"x\": \"{image}\", \"y\": \"a\"}}")),
        chosen(
            0,
            "{\"prompt\": \"why?\", \"completion\": \"so\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"why?\"}, {\"role\": \"assistant\", \"content\": \"so\"}]}",
        ),
    ]
}

fn csv(between: char) -> Vec<Vec<u8>> {
    let seeds = [
        (0, "text,label,row_id,subject,event_time\nx,a,1,anna,12\n\"y\nz\",b,2,,2026-11-27T09:30:00Z\n"),
        (8, "text,label\r\nx,1\r\n\"a \"\"quoted\"\" one\",b\r\n"),
        (7, "x,y,\n1,,3\n"),
    ];
    seeds.map(|(choice, text)| chosen(choice, text.replace(',', &between.to_string()))).into()
}

fn table(columns: Vec<(&str, ArrayRef)>, properties: WriterProperties) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).expect("a schema");
    writer.write(&batch).expect("memory takes everything");
    writer.into_inner().expect("memory takes everything")
}

fn parquet() -> Vec<Vec<u8>> {
    let texts = |rows: &[&str]| Arc::new(StringArray::from(rows.to_vec())) as ArrayRef;
    let with = |compression| WriterProperties::builder().set_compression(compression);
    let rows = vec![
        ("text", texts(&["x", "x", "longer"])),
        ("label", texts(&["a", "b", "a"])),
        ("row_id", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
        ("subject", texts(&["anna", "anna", "otto"])),
        ("event_time", Arc::new(TimestampMillisecondArray::from(vec![1, 2, 3])) as ArrayRef),
    ];
    let second = with(Compression::ZSTD(ZstdLevel::default())).set_writer_version(WriterVersion::PARQUET_2_0);
    let png = picture(ImageFormat::Png);
    let bytes = Arc::new(BinaryArray::from(vec![Some(&*png), None])) as ArrayRef;
    let image = StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), bytes),
        (Arc::new(Field::new("path", DataType::Utf8, true)), texts(&["a.png", "b.png"])),
    ]);
    let classes = "{\"info\": {\"features\": {\"label\": {\"names\": [\"a\", \"b\"], \"_type\": \"ClassLabel\"}}}}";
    let named = vec![KeyValue::new("huggingface".to_owned(), classes.to_owned())];
    let labelled: Vec<(&str, ArrayRef)> =
        vec![("image", Arc::new(image)), ("label", Arc::new(Int64Array::from(vec![0, 1])))];
    vec![
        chosen(0, table(rows.clone(), with(Compression::SNAPPY).build())),
        chosen(0, table(rows.clone(), second.build())),
        chosen(4, table(rows, with(Compression::UNCOMPRESSED).set_dictionary_enabled(false).build())),
        chosen(0, table(labelled, with(Compression::SNAPPY).set_key_value_metadata(Some(named)).build())),
    ]
}

fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, *content).expect("memory takes everything");
    }
    tar.into_inner().expect("memory takes everything")
}

fn tar() -> Vec<Vec<u8>> {
    let (png, jpeg) = (picture(ImageFormat::Png), picture(ImageFormat::Jpeg));
    let long = format!("{}/1.txt", "a-long-folder/".repeat(12));
    vec![
        chosen(8, packed(&[("a/1.png", &png), ("a/1.cls", b"1"), ("a/2.jpg", &jpeg), ("a/2.cls", b"a\n")])),
        chosen(0, packed(&[("1.txt", b"x\n"), ("1.json", b"{\"label\": \"a\", \"subject\": 3, \"event_time\": 12}")])),
        chosen(4, packed(&[(&long, b"x"), (".hidden.txt", b"y")])),
    ]
}

fn intake() -> Vec<Vec<u8>> {
    let named = |name: &str, mut seed: Vec<u8>| {
        seed[0] = 0;
        [name.as_bytes(), &seed].concat()
    };
    let heads =
        [("a.jsonl", jsonl()), ("a.CSV", csv(',')), ("a.tsv", csv('\t')), ("a.parquet", parquet()), ("a", tar())];
    heads.into_iter().map(|(name, mut seeds)| named(name, seeds.remove(0))).collect()
}

fn labels() -> Vec<Vec<u8>> {
    vec![
        chosen(0, "{\"row_id\": 1, \"label\": \"a\"}\n{\"row_id\": \"x\", \"label\": \"b\"}\n"),
        chosen(64 + 8, "row_id,label\n1,0\nx,b\n"),
        chosen(128, "row_id\tlabel\n1\ta\n"),
    ]
}

fn shard() -> Vec<Vec<u8>> {
    let png = picture(ImageFormat::Png);
    let mut rows = vec![Row::new("r0", Payload::Text("x".to_owned()), "a"), Row::new("r1", Payload::Image(png), "b")];
    let write = |rows: &[Row]| {
        store::examples::write_shard(rows, &"t".parse().expect("a name"), "train").expect("rows can be written")
    };
    let plain = write(&rows);
    (rows[0].subject, rows[1].event_time) = (Some("anna".to_owned()), Some(12));
    vec![plain, write(&rows), write(&[])]
}

fn files(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let entries = std::fs::read_dir(folder).expect("a folder of ours");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.sort();
    paths.into_iter().filter(|path| path.is_file()).map(|path| std::fs::read(path).expect("a file of ours")).collect()
}

fn pipeline() -> Vec<Vec<u8>> {
    files("configs/pipelines")
}

fn spec_json() -> Vec<Vec<u8>> {
    let json = |yaml: &Vec<u8>| {
        let text = std::str::from_utf8(yaml).expect("ours are texts");
        let pipeline: domain::pipeline::Pipeline = perennial::yaml::load("p.yaml", text).expect("ours are valid");
        perennial_proto::convert::to_json(&pipeline)
    };
    pipeline().iter().map(json).collect()
}

fn config() -> Vec<Vec<u8>> {
    files("configs")
}

const HISTORY: &str = include_str!("../src/history.jsonl");

fn manifest() -> Vec<Vec<u8>> {
    let records = HISTORY.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("ours are JSON"));
    let events = records.flat_map(|record| record["events"].as_array().expect("events").clone());
    events.filter_map(|event| Some(event.get("manifest")?.to_string().into_bytes())).take(2).collect()
}

fn record() -> Vec<Vec<u8>> {
    let state = store::log::Record { epoch: 1, writer: "w-1".to_owned(), at: 1, events: Vec::new() };
    let single = serde_json::to_vec(&state).expect("a record is JSON");
    let head = serde_json::json!({
        "head": {"number": 1, "epoch": 1, "writer": "w-1", "at": 1}, "state": {"pipelines": folded().pipelines},
    });
    let plain = rmp_serde::to_vec_named(&head).expect("JSON is MessagePack");
    let packed = zstd::encode_all(&*plain, 1).expect("memory takes everything");
    vec![
        chosen(b'r', HISTORY),
        chosen(b'r', HISTORY.lines().take(6).collect::<Vec<_>>().join("\n")),
        chosen(b'p', single),
        chosen(b's', plain),
        chosen(b'z', packed),
        chosen(b'S', head.to_string()),
    ]
}

fn folded() -> domain::state::State {
    let mut state = domain::state::State::default();
    for line in HISTORY.lines() {
        let record: store::log::Record = serde_json::from_str(line).expect("ours are records");
        for event in &record.events {
            state.apply(event, record.at).expect("ours apply");
        }
    }
    state
}

fn adapter() -> Vec<Vec<u8>> {
    let config = "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"target_modules\": [\"q_proj\", \"v_proj\"], \"bias\": \"none\"}";
    let manifest = "{\"config\": {\"model\": \"mlp:8\", \"seed\": 0}}";
    vec![config.into(), format!("{config}\0[\"a\"]\0{manifest}").into(), "{\"peft_type\": 1}".into()]
}

fn requests() -> Vec<Vec<u8>> {
    let (name, version) = (|| PIPELINE.to_owned(), || format!("{PIPELINE}/versions/@champion"));
    let (run, chunk) = (|number: u32| format!("{PIPELINE}/runs/{number}"), format!("{PIPELINE}/chunks/c1"));
    let spec = br#"{"name": "r", "model": "mlp:8", "labels": ["a"], "method": "er"}"#.to_vec();
    let header = v1::ChunkHeader { pipeline: name(), sha256: "ab".repeat(32), ..Default::default() };
    let push = |part| v1::PushChunkRequest { part: Some(part) };
    let label = v1::RowLabel { row_id: "1".to_owned(), label: "a".to_owned() };
    let lease =
        v1::LeaseRequest { worker: "w".to_owned(), roles: vec!["trainer".to_owned()], slots: 1, ..Default::default() };
    let scope = Some(Scope::Chunk(chunk));
    let recorded = folded().pipelines.into_values().next().expect("there is one").chunks;
    let chunk_json = serde_json::to_vec(recorded.values().next().expect("there is one")).expect("a chunk is JSON");
    let origin = Some(v1::Origin { producer: "sensor".to_owned(), epoch: 1, sequence: 2 });
    vec![
        call("ApplyPipeline", false, &v1::ApplyPipelineRequest { spec_json: spec }),
        call(
            "ListPipelines",
            false,
            &v1::ListPipelinesRequest { parent: "namespaces/-".to_owned(), ..Default::default() },
        ),
        [
            call("PushChunk", true, &push(v1::push_chunk_request::Part::Header(header))),
            call("PushChunk", false, &push(v1::push_chunk_request::Part::Frame(b"{}".to_vec()))),
        ]
        .concat(),
        [
            call("CancelRun", false, &v1::CancelRunRequest { name: run(4) }),
            call("StartRun", false, &v1::StartRunRequest { pipeline: name(), ..Default::default() }),
            call("Lease", false, &lease),
            call("GetRun", false, &v1::GetRunRequest { name: run(5) }),
        ]
        .concat(),
        call("Rollback", false, &v1::RollbackRequest { pipeline: name(), ..Default::default() }),
        call("GetVersion", false, &v1::GetVersionRequest { name: version() }),
        call("ListVersions", false, &v1::ListVersionsRequest { parent: name(), page_size: 1, ..Default::default() }),
        call(
            "DiffVersions",
            false,
            &v1::DiffVersionsRequest { name: version(), other: format!("{PIPELINE}/versions/1") },
        ),
        call("GetLineage", false, &v1::GetLineageRequest { name: version(), ..Default::default() }),
        call("HoldVersion", false, &v1::HoldVersionRequest { name: version(), reason: "served".to_owned() }),
        call("EraseRows", false, &v1::EraseRowsRequest { pipeline: name(), scope }),
        call("OpenProducer", false, &v1::OpenProducerRequest { pipeline: name(), producer: "sensor".to_owned() }),
        call(
            "RecordChunk",
            false,
            &v1::RecordChunkRequest { pipeline: name(), chunk_json, origin, ..Default::default() },
        ),
        call(
            "PushLabels",
            false,
            &v1::PushLabelsRequest { pipeline: name(), labels: vec![label], ..Default::default() },
        ),
        call("GetReport", false, &v1::GetReportRequest { run: run(1) }),
        call("GetMatrix", false, &v1::GetMatrixRequest { pipeline: name(), version: 1 }),
    ]
}
