//! What users push, good and bad: every refusal says where, what and what to do.

mod support;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, DictionaryArray, Float64Array, Int32Array, Int64Array, LargeStringArray, RecordBatch,
    StringArray, StructArray,
};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Schema};
use domain::chunk::{Payload, Row};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use perennial_store::examples::{
    BadData, Columns, Delimiter, Format, Input, Place, Unread, detect, jsonl_inputs, open_inputs, read_jsonl,
    read_labels, read_parquet,
};
use support::rows_of;

fn png() -> Vec<u8> {
    let mut bytes = Vec::new();
    let image = image::GrayImage::from_pixel(4, 4, image::Luma([9]));
    image.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}

fn images(values: Vec<Option<&[u8]>>) -> ArrayRef {
    let fields =
        Fields::from(vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)]);
    let paths = StringArray::from(vec![Some("a.png"); values.len()]);
    let bytes: ArrayRef = Arc::new(BinaryArray::from_opt_vec(values));
    Arc::new(StructArray::new(fields, vec![bytes, Arc::new(paths)], None))
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn numbers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    parquet_with(columns, None)
}

fn parquet_with(columns: Vec<(&str, ArrayRef)>, huggingface: Option<&str>) -> Vec<u8> {
    let field = |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let pair = huggingface.map(|json| vec![KeyValue::new("huggingface".to_owned(), json.to_owned())]);
    let properties = WriterProperties::builder().set_key_value_metadata(pair).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).unwrap();
    writer.write(&RecordBatch::try_new(schema, arrays).unwrap()).unwrap();
    writer.into_inner().unwrap()
}

fn rows(bytes: Vec<u8>) -> Result<Vec<Row>, BadData> {
    read_parquet(bytes.into(), &Columns::default())
}

/// The refusal's text holds all of `parts`.
#[track_caller]
fn refused(outcome: Result<Vec<Row>, BadData>, parts: &[&str]) {
    let text = outcome.unwrap_err().to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn hugging_face_images_come_with_their_class_names() {
    let image = png();
    let names =
        r#"{"info":{"features":{"label":{"names":["cat","dog"],"_type":"ClassLabel"},"image":{"_type":"Image"}}}}"#;
    let bytes = parquet_with(
        vec![("image", images(vec![Some(&image); 2])), ("label", numbers(&[1, 0])), ("extra", numbers(&[7, 8]))],
        Some(names),
    );
    let rows = rows(bytes).unwrap();
    assert_eq!(rows[0], Row::new("row:0", Payload::Image(image), "dog"));
    assert_eq!((rows[1].id.as_str(), rows[1].label.as_str()), ("row:1", "cat"));
}

#[test]
fn integer_labels_without_names_take_the_callers_or_stay_numbers() {
    let bytes = parquet(vec![("text", texts(&["a", "b"])), ("label", Arc::new(Int32Array::from(vec![1, 0])))]);
    assert_eq!(rows(bytes.clone()).unwrap()[0].label, "1");
    let columns = Columns { labels: vec!["no".to_owned(), "yes".to_owned()], ..Columns::default() };
    assert_eq!(read_parquet(bytes.into(), &columns).unwrap()[0].label, "yes");
}

#[test]
fn every_width_of_string_and_other_names_are_read() {
    let dictionary: DictionaryArray<Int32Type> = vec!["x", "y", "x"].into_iter().collect();
    let bytes = parquet(vec![
        ("body", Arc::new(LargeStringArray::from(vec!["a", "b", "c"]))),
        ("class", Arc::new(dictionary)),
        ("row_id", texts(&["r1", "r2", "r3"])),
    ]);
    let columns = Columns { input: Some("body".to_owned()), label: "class".to_owned(), ..Columns::default() };
    let rows = read_parquet(bytes.into(), &columns).unwrap();
    assert_eq!(rows[2], Row::new("r3", Payload::Text("c".to_owned()), "x"));
}

#[test]
fn a_file_with_any_byte_changed_comes_to_an_end() {
    let whole = parquet(vec![("text", texts(&["a", "b"])), ("label", texts(&["x", "y"]))]);
    let changed = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        rows_of(Format::Parquet, bytes, &Columns::default())
    };
    let refused = (0..whole.len()).filter(|&at| changed(at).is_err()).count();
    assert!(refused > whole.len() / 10, "{refused} of {}", whole.len());
}

#[test]
fn a_file_that_was_cut_or_scrambled_is_refused() {
    let whole = parquet(vec![("text", texts(&["a"; 100])), ("label", texts(&["x"; 100]))]);
    for length in [0, 4, 11, whole.len() / 2, whole.len() - 1] {
        refused(rows(whole[..length].to_vec()), &["not a whole Parquet file", "push all of it"]);
    }
    let mut scrambled = whole;
    scrambled[4..40].fill(0xff);
    refused(rows(scrambled), &["not a whole Parquet file"]);
}

#[test]
fn a_missing_column_lists_those_there_are() {
    let bytes = parquet(vec![("txt", texts(&["a"])), ("label", texts(&["x"]))]);
    refused(rows(bytes), &["`image` or `text` is missing", "`txt`, `label`", "rename"]);
    let bytes = parquet(vec![("text", texts(&["a"])), ("class", texts(&["x"]))]);
    refused(rows(bytes), &["`label` is missing", "`text`, `class`"]);
    let bytes = parquet(vec![("text", texts(&["a"])), ("image", texts(&["b"])), ("label", texts(&["x"]))]);
    refused(rows(bytes), &["both an image and a text"]);
}

#[test]
fn a_mistyped_column_says_expected_and_found() {
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![0.5]));
    let bytes = parquet(vec![("text", texts(&["a"])), ("label", floats.clone())]);
    refused(rows(bytes), &["column `label`", "Float64", "expected"]);
    let bytes = parquet(vec![("text", numbers(&[1])), ("label", texts(&["x"]))]);
    refused(rows(bytes), &["column `text` has type integer, expected a string column"]);
    let bytes = parquet(vec![("image", texts(&["a"])), ("label", texts(&["x"]))]);
    refused(rows(bytes), &["column `image` has type string", "binary or struct { bytes, path }"]);
}

#[test]
fn a_bad_value_names_its_row() {
    let (image, cut) = (png(), png()[..40].to_vec());
    let labels = || texts(&["x", "y"]);
    let null: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    refused(rows(parquet(vec![("text", null.clone()), ("label", labels())])), &["row 1, column `text`", "found null"]);
    refused(rows(parquet(vec![("text", labels()), ("label", null)])), &["row 1, column `label`", "label the row"]);
    refused(
        rows(parquet(vec![("image", images(vec![Some(&image), None])), ("label", labels())])),
        &["row 1, column `image`", "embed the image's bytes"],
    );
    refused(
        rows(parquet(vec![("image", images(vec![Some(&image), Some(&cut)])), ("label", labels())])),
        &["row 1, column `image`", "does not decode", "a PNG or JPEG file"],
    );
    refused(
        rows(parquet(vec![("image", images(vec![Some(b"GIF89a......"), Some(&image)])), ("label", labels())])),
        &["row 0, column `image`", "Gif"],
    );
    refused(rows(parquet(vec![("text", texts(&["a", ""])), ("label", labels())])), &["row 1", "an empty string"]);
    let columns = Columns { labels: vec!["only".to_owned()], ..Columns::default() };
    let bytes = parquet(vec![("text", labels()), ("label", numbers(&[0, -1]))]);
    refused(read_parquet(bytes.into(), &columns), &["row 1, column `label`: found -1", "below 1"]);
}

#[test]
fn no_rows_are_refused() {
    let bytes = parquet(vec![("text", texts(&[])), ("label", texts(&[]))]);
    assert_eq!(rows(bytes), Err(BadData::Empty));
    assert_eq!(read_jsonl(b"\n \n", &Columns::default()), Err(BadData::Empty));
    assert_eq!(detect("x", b""), Err(BadData::Empty));
}

#[test]
fn json_lines_are_read() {
    use base64::Engine;
    let image = base64::engine::general_purpose::STANDARD.encode(png());
    let lines =
        format!("\u{feff}{{\"text\":\"a\",\"label\":\"x\",\"row_id\":17}}\r\n\n{{\"image\":\"{image}\",\"label\":3}}");
    let rows = read_jsonl(lines.as_bytes(), &Columns::default()).unwrap();
    assert_eq!(rows[0], Row::new("17", Payload::Text("a".to_owned()), "x"));
    assert_eq!(rows[1], Row::new("row:1", Payload::Image(png()), "3"));
}

#[test]
fn a_bad_line_is_named() {
    let read = |lines: &[u8]| read_jsonl(lines, &Columns::default());
    let good = b"{\"text\":\"a\",\"label\":\"x\"}\n".as_slice();
    let after = |bad: &[u8]| read(&[good, bad].concat());
    refused(after(b"{\"text\":"), &["line 2 is not a JSON object", "one object per line"]);
    refused(after(b"[1]"), &["line 2 is not a JSON object"]);
    refused(after(b"{\"text\":\"\xff\"}"), &["line 2 is not UTF-8"]);
    refused(after(b"{\"text\":\"a\"}"), &["line 2, field `label`", "no such field among `text`"]);
    refused(after(b"{\"text\":7,\"label\":\"x\"}"), &["line 2, field `text`: found `7`, expected a string"]);
    refused(after(b"{\"text\":\"a\",\"label\":1.5}"), &["line 2, field `label`: found `1.5`"]);
    refused(after(b"{\"image\":\"%%%\",\"label\":1}"), &["line 2, field `image`", "base64"]);
    refused(after(b"{\"image\":\"AAAA\",\"label\":1}"), &["line 2, field `image`", "no known image format"]);
}

#[test]
fn formats_are_told_by_content_then_by_name() {
    assert_eq!(detect("x.bin", b"PAR1...."), Ok(Format::Parquet));
    assert_eq!(detect("x.parquet", b"cut"), Ok(Format::Parquet));
    assert_eq!(detect("x", b"  {\"a\":1}"), Ok(Format::Jsonl));
    assert_eq!(detect("x.JSONL", b"oops"), Ok(Format::Jsonl));
    assert_eq!(detect("x.Csv", b"a,b"), Ok(Format::Csv(Delimiter::Comma)));
    assert_eq!(detect("x.tsv", b"a\tb"), Ok(Format::Csv(Delimiter::Tab)));
    assert_eq!(detect("x.tar", b"cut"), Ok(Format::Tar));
    let text = |name, bytes: &[u8]| detect(name, bytes).unwrap_err().to_string();
    assert!(text("x.xls", b"a,b\n").contains("`x.xls` has no format that is read here"));
    assert!(text("x.tar.gz", &[0x1f, 0x8b, 8]).contains("push it unpacked"));
}

fn inputs(text: &'static [u8]) -> Vec<Result<Input, Unread>> {
    jsonl_inputs(text, &Columns::default()).collect()
}

#[test]
fn rows_to_predict_need_no_label_and_end_at_the_first_bad_one() {
    let text = b"\xef\xbb\xbf{\"text\": \"a\"}\n\n{\"text\": \"b\", \"label\": \"x\", \"row_id\": 7}\n{\"label\": \"x\"}\n{\"text\": \"c\"}";
    let found = inputs(text);
    let row = |id: &str, text: &str, label: &str| Row::new(id, Payload::Text(text.to_owned()), label);
    assert_eq!(found[0].as_ref().unwrap(), &Input { place: Place::Line(1), row: row("row:0", "a", "") });
    assert_eq!(found[1].as_ref().unwrap(), &Input { place: Place::Line(3), row: row("7", "b", "x") });
    assert!(found[2].as_ref().unwrap_err().to_string().starts_with("line 4, field `text`"), "{:?}", found[2]);
    assert_eq!(found.len(), 3);
    assert!(inputs(b"").is_empty(), "no rows are no error");
    assert!(inputs(b"{\"text\": \"a\", \"label\": \"\"}")[0].is_err(), "an empty label is no missing one");
}

/// A line without an end.
struct Endless;

impl std::io::Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        buffer.fill(b'x');
        Ok(buffer.len())
    }
}

#[test]
fn a_line_without_an_end_does_not_fill_the_memory() {
    let source = std::io::BufReader::with_capacity(1 << 20, Endless);
    let found: Vec<_> = jsonl_inputs(source, &Columns::default()).collect();
    assert_eq!(found.len(), 1);
    assert!(found[0].as_ref().unwrap_err().to_string().contains("line 1 is longer than"));
}

#[test]
fn a_table_to_predict_may_lack_labels() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows");
    std::fs::write(&file, parquet(vec![("row_id", numbers(&[5, 6])), ("text", texts(&["a", "b"]))])).unwrap();
    let found: Vec<Input> = open_inputs(&file, &Columns::default()).unwrap().map(Result::unwrap).collect();
    let labels: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), None, Some("y")]));
    assert_eq!((found[1].place, found[1].row.id.as_str(), found[1].row.label.as_str()), (Place::Row(1), "6", ""));
    std::fs::write(&file, parquet(vec![("text", texts(&["a", "b", ""])), ("label", labels)])).unwrap();
    let found: Vec<_> = open_inputs(&file, &Columns::default()).unwrap().collect();
    let label = |at: usize| found[at].as_ref().unwrap().row.label.as_str();
    assert_eq!((label(0), label(1)), ("x", ""));
    assert!(found[2].as_ref().unwrap_err().to_string().contains("row 2, column `text`"));
}

#[test]
fn whom_a_row_is_about_and_when_is_read_wherever_it_stands() {
    let lines = br#"{"text": "a", "label": "x", "subject": "anna", "event_time": "2026-11-27T09:30:00+01:00"}
{"text": "b", "label": "x", "subject": 7, "event_time": 1700000000000}
{"text": "c", "label": "x", "subject": null, "event_time": "yesterday"}"#;
    let rows = rows_of(Format::Jsonl, lines.to_vec(), &Columns::default()).unwrap();
    let found = |at: usize| rows[at].as_ref().map(|row| (row.subject.as_deref(), row.event_time)).unwrap();
    assert_eq!(found(0), (Some("anna"), Some(1_795_768_200_000)));
    assert_eq!(found(1), (Some("7"), Some(1_700_000_000_000)));
    let error = rows[2].as_ref().unwrap_err().to_string();
    assert!(error.contains("line 3, field `event_time`: found `yesterday`") && error.contains("RFC 3339"), "{error}");
    let csv = b"text,label,subject,event_time\na,x,anna,1700000000000\nb,x,,2026-11-27T09:30:00Z\n";
    let rows = rows_of(Format::Csv(Delimiter::Comma), csv.to_vec(), &Columns::default()).unwrap();
    let found = |at: usize| rows[at].as_ref().map(|row| (row.subject.as_deref(), row.event_time)).unwrap();
    assert_eq!(found(0), (Some("anna"), Some(1_700_000_000_000)));
    assert_eq!(found(1), (None, Some(1_795_771_800_000)));
}

#[test]
fn a_label_may_be_missing_where_it_is_not_needed() {
    let columns = Columns { needs_label: false, ..Columns::default() };
    let lines = b"{\"text\": \"a\"}\n{\"text\": \"b\", \"label\": null}\n{\"text\": \"c\", \"label\": \"x\"}";
    let rows = rows_of(Format::Jsonl, lines.to_vec(), &columns).unwrap();
    let labels: Vec<&str> = rows.iter().map(|row| row.as_ref().unwrap().label.as_str()).collect();
    assert_eq!(labels, ["", "", "x"]);
    let whole = rows_of(Format::Jsonl, lines.to_vec(), &Columns::default()).unwrap();
    assert!(whole[0].is_err() && whole[1].is_err());
}

#[test]
fn labels_on_their_own_need_an_id_each() {
    let columns = Columns { labels: vec!["ham".to_owned(), "spam".to_owned()], ..Columns::default() };
    let read = |format, text: &[u8]| read_labels(format, text, &columns).map_err(|e| e.to_string());
    let pairs = |pairs: &[(&str, &str)]| Ok(pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect());
    let lines = b"{\"row_id\": \"r1\", \"label\": 1}\n\n{\"row_id\": 2, \"label\": \"ham\"}\n";
    assert_eq!(read(Format::Jsonl, lines), pairs(&[("r1", "spam"), ("2", "ham")]));
    assert_eq!(read(Format::Csv(Delimiter::Tab), b"row_id\tlabel\nr1\t0\n"), pairs(&[("r1", "ham")]));
    let error = read(Format::Jsonl, b"{\"label\": \"ham\"}").unwrap_err();
    assert!(error.contains("line 1, field `row_id`"), "{error}");
    let error = read(Format::Csv(Delimiter::Comma), b"row_id,label\nr1,\n").unwrap_err();
    assert!(error.contains("line 2, field `label`"), "{error}");
    assert!(read(Format::Parquet, b"").unwrap_err().contains("JSONL or CSV"));
}
