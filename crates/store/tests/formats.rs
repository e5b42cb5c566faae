//! CSV, WebDataset and dialogues: what is read of them, and every refusal says where and what.

mod support;

use domain::chunk::{Payload, Row};
use perennial_store::examples::{BadData, Columns, Delimiter, Format, Input, Place, open_inputs, read_jsonl};
use support::rows_of;

fn png() -> Vec<u8> {
    let mut bytes = Vec::new();
    let image = image::GrayImage::from_pixel(4, 4, image::Luma([9]));
    image.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}

fn columns(labels: &[&str]) -> Columns {
    Columns { labels: labels.iter().map(|&label| label.to_owned()).collect(), ..Columns::default() }
}

fn text(id: &str, text: &str, label: &str) -> Row {
    Row::new(id, Payload::Text(text.to_owned()), label)
}

/// The refusal's text holds all of `parts`.
#[track_caller]
fn refused(outcome: Result<Vec<Row>, BadData>, parts: &[&str]) {
    let text = outcome.unwrap_err().to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

/// Every row, or what is wrong with the first that is not good.
fn strict(format: Format, bytes: bytes::Bytes, columns: &Columns) -> Result<Vec<Row>, BadData> {
    rows_of(format, bytes, columns)?.into_iter().collect()
}

fn csv(bytes: &str, columns: &Columns) -> Result<Vec<Row>, BadData> {
    strict(Format::Csv(Delimiter::Comma), bytes.as_bytes().to_vec().into(), columns)
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn web_dataset(files: &[(&str, &[u8])], columns: &Columns) -> Result<Vec<Row>, BadData> {
    strict(Format::Tar, tar(files).into(), columns)
}

#[test]
fn records_of_csv_are_rows() {
    let bytes = "\u{feff}text,label,row_id,extra\r\n\"a, \"\"b\"\"\nc\",ham,r1,\r\nd,spam,,x\r\n";
    let found = csv(bytes, &columns(&[])).unwrap();
    assert_eq!(found, [text("r1", "a, \"b\"\nc", "ham"), text("row:1", "d", "spam")]);
    let tabs = strict(Format::Csv(Delimiter::Tab), "text\tlabel\na,b\tx\n".into(), &columns(&[])).unwrap();
    assert_eq!(tabs, [text("row:0", "a,b", "x")]);
    let quotes = strict(Format::Csv(Delimiter::Tab), "text\tlabel\n\"a\tx\nb\" c\ty\n".into(), &columns(&[])).unwrap();
    assert_eq!(quotes, [text("row:0", "\"a", "x"), text("row:1", "b\" c", "y")], "quotes are letters");
}

#[test]
fn a_number_in_csv_is_an_index_unless_it_is_a_name() {
    let label =
        |cell: &str, names: &[&str]| csv(&format!("text,label\na,{cell}\n"), &columns(names)).unwrap()[0].label.clone();
    assert_eq!(label("007", &[]), "007");
    assert_eq!(label("1", &["ham", "spam"]), "spam");
    assert_eq!(label("1", &["0", "1"]), "1");
    refused(csv("text,label\na,9\n", &columns(&["ham"])), &["line 2, field `label`: found 9", "below 1"]);
}

#[test]
fn a_bad_csv_file_says_which_line() {
    let read = |bytes: &str| csv(bytes, &columns(&[]));
    refused(read("text,label\na,x\nb\n"), &["line 3: it has 1 cells, the first line 2"]);
    refused(read("text,label,text\na,x,b\n"), &["line 1: column `text` comes twice"]);
    refused(read("text,label\na,\n"), &["line 2, field `label`: found null"]);
    refused(read("text,class\na,x\n"), &["line 2, field `label`", "`class`, `text`"]);
    refused(read("text,label\na,x\n\"b,x\nc,x\n"), &["line 3: it has 1 cells"]);
    refused(read("label,text\nx,a\nx,\"b\nx,c\n"), &["line 3: its last cell begins with a quote that nothing ends"]);
    assert_eq!(read("label,text,,\nx,\"a\nb\",,\n").unwrap(), [text("row:0", "a\nb", "x")]);
    refused(read("image,label\n%%,x\n"), &["line 2, field `image`", "base64"]);
    assert_eq!(read("text,label\n"), Err(BadData::Empty));
    assert_eq!(read(""), Err(BadData::Empty));
    let bytes = b"text,label\n\xff,x\n".to_vec();
    refused(strict(Format::Csv(Delimiter::Comma), bytes.into(), &columns(&[])), &["line 2 is not UTF-8"]);
}

#[test]
fn a_row_that_cannot_be_used_leaves_the_others_in_their_places() {
    let image = png();
    let files: [(&str, &[u8]); 4] = [("0.png", b"oops"), ("0.cls", b"0"), ("1.png", &image), ("1.cls", b"0")];
    let formats = [
        (Format::Jsonl, b"{\"text\": \"a\"}\n\n{\"text\": \"b\", \"label\": \"x\"}\n{\"text\"\n\xff\n".to_vec()),
        (Format::Csv(Delimiter::Comma), b"text,label\na,\nb,x\n".to_vec()),
        (Format::Tar, tar(&files)),
    ];
    for (format, bytes) in formats {
        let found = rows_of(format, bytes, &columns(&["x"])).unwrap();
        let good: Vec<_> = found.iter().enumerate().filter_map(|(at, row)| Some((at, row.as_ref().ok()?))).collect();
        assert!(good.len() == 1 && good[0].0 == 1, "{format:?} {found:?}");
        assert!(good[0].1.id == "row:1" || format == Format::Tar, "{found:?}");
    }
}

#[test]
fn files_of_one_name_in_a_tar_are_a_row() {
    let image = png();
    let files: Vec<(&str, &[u8])> = vec![
        ("train/0.png", &image),
        ("train/0.cls", b"cat\n"),
        ("train/0.seg.png", b"passed over"),
        ("train/1.jpg", &image),
        ("train/1.json", b"{\"label\": 1}"),
        ("train/README", b"passed over"),
        ("train/.hidden.txt", b"passed over"),
        ("train/2.txt", b"words\n"),
        ("train/2.cls", b"0"),
    ];
    let found = web_dataset(&files, &columns(&["cat", "dog"])).unwrap();
    let picture = |id: &str, label: &str| Row::new(id, Payload::Image(image.clone()), label);
    assert_eq!(found, [picture("train/0", "cat"), picture("train/1", "dog"), text("train/2", "words", "cat")]);
}

#[test]
fn a_bad_tar_says_which_file() {
    let image = png();
    let read = |files: &[(&str, &[u8])]| web_dataset(files, &columns(&["cat", "dog"]));
    refused(read(&[("0.png", b"oops"), ("0.cls", b"0")]), &["row 0, column `0.png`", "no known image format"]);
    refused(read(&[("0.png", &image), ("0.cls", b"2")]), &["row 0, column `0.cls`: found 2", "below 2"]);
    refused(read(&[("0.png", &image)]), &["row 0, column `0`: found no label", ".cls"]);
    refused(read(&[("0.cls", b"0")]), &["row 0, column `0`: found no input"]);
    refused(read(&[("0.txt", b"a"), ("0.json", b"{")]), &["row 0, column `0.json`", "no JSON"]);
    let both: [(&str, &[u8]); 3] = [("0.txt", b"a"), ("0.png", &image), ("0.cls", b"0")];
    refused(read(&both), &["both an image and a text"]);
    let named = Columns { input: Some("txt".to_owned()), ..columns(&["cat"]) };
    assert_eq!(web_dataset(&both, &named).unwrap(), [text("0", "a", "cat")]);
    assert_eq!(web_dataset(&[("0.txt", b"a"), ("0.cls", b"007")], &columns(&[])).unwrap(), [text("0", "a", "007")]);
    assert_eq!(read(&[]), Err(BadData::Empty));
    assert_eq!(read(&[("README", b"a")]), Err(BadData::Empty));
    let whole = tar(&[("0.txt", &[b'a'; 2000]), ("0.cls", b"0"), ("1.txt", b"a"), ("1.cls", b"0")]);
    let read = |bytes: Vec<u8>| strict(Format::Tar, bytes.into(), &columns(&[]));
    assert_eq!(read(whole.clone()).unwrap().len(), 2);
    refused(read(whole[..1200].to_vec()), &["not a whole tar"]);
    let after_a_row = 512 + 2048 + 2 * 512;
    refused(read(whole[..after_a_row].to_vec()), &["not a whole tar (it has no end)"]);
    refused(read([whole.clone(), whole].concat()), &["something follows its end"]);
}

#[test]
fn what_was_said_is_the_input_and_the_answer_the_label() {
    let read = |line: &str| read_jsonl(line.as_bytes(), &columns(&[]));
    let prompt = r#"{"prompt": "Where is my card?", "completion": "card_arrival"}"#;
    assert_eq!(read(prompt).unwrap(), [text("row:0", "Where is my card?", "card_arrival")]);
    let labelled = r#"{"prompt": "a", "completion": "b", "label": "c"}"#;
    assert_eq!(read(labelled).unwrap(), [text("row:0", "a", "c")]);
    let said = r#"{"messages": [{"role": "system", "content": "Sort."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "greeting"}]}"#;
    assert_eq!(read(said).unwrap(), [text("row:0", "Sort.\nHi", "greeting")]);
    refused(
        read(r#"{"messages": [{"role": "user", "content": "Hi"}]}"#),
        &["line 1, field `messages`: found no answer"],
    );
    refused(read(r#"{"messages": [{"role": "user"}]}"#), &["a message without role or content"]);
    refused(
        read(r#"{"messages": [{"role": "assistant", "content": "x"}]}"#),
        &["field `messages`: found an empty string"],
    );
    refused(read(r#"{"prompt": "a", "completion": "b", "label": null}"#), &["field `label`: found null"]);
    let intent = Columns { label: "intent".to_owned(), ..columns(&[]) };
    refused(read_jsonl(prompt.as_bytes(), &intent), &["field `intent`"]);
    refused(read_jsonl(said.as_bytes(), &intent), &["field `intent`"]);
    refused(read(r#"{"prompt": "a"}"#), &["field `completion`", "`prompt`"]);
}

#[test]
fn rows_of_each_format_can_be_predicted_without_labels() {
    let folder = tempfile::tempdir().unwrap();
    let found = |name: &str, bytes: &[u8]| -> Vec<Input> {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        open_inputs(&file, &columns(&[])).unwrap().map(Result::unwrap).collect()
    };
    let one = |place, id: &str| vec![Input { place, row: text(id, "a", "") }];
    assert_eq!(found("rows.csv", b"text\na\n"), one(Place::Line(2), "row:0"));
    assert_eq!(found("rows.tsv", b"text\tlabel\na\t\n"), one(Place::Line(2), "row:0"));
    assert_eq!(found("rows.tar", &tar(&[("7.txt", b"a")])), one(Place::Row(0), "7"));
    assert_eq!(
        found("rows.jsonl", br#"{"messages": [{"role": "user", "content": "a"}]}"#),
        one(Place::Line(1), "row:0")
    );
}
