//! Text models: a folder with its tokenizer, from the file to a version and back.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use domain::chunk::{Payload, Row};
use domain::pipeline::{Input as Settings, Pooling};
use perennial_learn::assemble::{Assembled, Sources, assemble};
use perennial_learn::data::Reader;
use perennial_learn::data::texts::TextReader;
use perennial_learn::import::import;
use perennial_learn::input::Input;
use perennial_learn::model::{TextLimits, folder, layers};
use perennial_learn::{Flat, publish};
use serde_json::{Value, json};
use support::{LIMITS, manifest, text_model as model, tokenizer};
use tch::{Device, Kind, Tensor};

fn row(text: &str, label: &str) -> Row {
    Row::new("r0", Payload::Text(text.to_owned()), label)
}

fn reader(folder: &Path, settings: Value) -> Result<TextReader, String> {
    let settings = serde_json::from_value(settings).unwrap();
    TextReader::load(folder, &settings, LIMITS).map_err(|error| error.to_string())
}

fn ids(reader: TextReader, texts: &[&str]) -> Vec<Vec<i64>> {
    let rows: Vec<Row> = texts.iter().map(|text| row(text, "a")).collect();
    let data = Reader::Texts(reader).decode(&rows, "a test", &["a".to_owned()]).unwrap();
    let all: Vec<i64> = (0..rows.len() as i64).collect();
    Vec::try_from(&data.take(&all).0.tokens().ids).unwrap()
}

#[test]
fn texts_are_cut_and_padded_as_the_pipeline_says_and_not_as_the_tokenizer_s_file_does() {
    let home = tempfile::tempdir().unwrap();
    let folder = model(home.path());
    let texts = ["red green blue paint", "red violet"];
    let whole = ids(reader(&folder, json!({})).unwrap(), &texts);
    assert_eq!(whole, [[2, 4, 5, 6, 7, 3], [2, 4, 1, 3, 0, 0]]);
    assert_eq!(ids(reader(&folder, json!({"max_length": 4})).unwrap(), &texts), [[2, 4, 5, 3], [2, 4, 1, 3]]);
    let long = "red ".repeat(8000);
    assert_eq!(ids(reader(&folder, json!({})).unwrap(), &[&long])[0].len(), 12);
}

#[test]
fn a_tokenizer_that_is_not_the_model_s_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let folder = model(home.path());
    let refused = |settings| reader(&folder, settings).err().unwrap();
    let long = refused(json!({"max_length": 13}));
    assert!(long.contains("input.max_length is 13; the model takes at most 12 tokens"), "{long}");
    let mut larger = tokenizer();
    larger["model"]["vocab"]["violet"] = json!(8);
    fs::write(folder.join("tokenizer.json"), larger.to_string()).unwrap();
    let other = refused(json!({}));
    assert!(other.contains("vocabulary is 9 tokens; the model knows 8"), "{other}");
    fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    assert!(refused(json!({})).contains("tokenizer.json` is damaged"));
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    assert!(refused(json!({})).ends_with("has no `tokenizer.json`"));
}

#[test]
fn an_image_for_a_text_model_is_named() {
    let home = tempfile::tempdir().unwrap();
    let reader = Reader::Texts(reader(&model(home.path()), json!({})).unwrap());
    let image = Row { payload: Payload::Image(vec![1]), ..row("", "a") };
    let error = reader.decode(&[row("red", "a"), image], "chunk 1", &["a".to_owned()]).err().unwrap();
    assert_eq!(error.to_string(), "row `r0` of chunk 1: it is an image, and the model takes text");
}

#[test]
fn settings_of_the_other_kind_of_row_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let base = model(home.path());
    let refused = |base: Option<&Path>, row: &Row, change: Value| {
        let run = manifest(change);
        let error = assemble(Sources { base, ..support::sources(&run, None) }, row).err().unwrap();
        assert!(error.is_permanent());
        error.to_string()
    };
    let folder = json!({"uri": "file:///m", "sha256": "0".repeat(64)});
    for (key, value) in [("normalize", json!("unit")), ("channels", json!(3)), ("image_size", json!(8))] {
        let change = json!({"model": folder, "input": {key: value}});
        let said = refused(Some(&base), &row("red", "a"), change);
        assert_eq!(said, format!("`input.{key}` is set, and the model reads texts: leave it out"));
    }
    let said = refused(None, &support::sample(), json!({"input": {"max_length": 8}}));
    assert_eq!(said, "`input.max_length` is set, and the model reads images: leave it out");
}

#[test]
fn a_classifier_that_reads_bert_s_pooler_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let base = model(home.path());
    let run = manifest(json!({
        "model": {"uri": "file:///m", "sha256": "0".repeat(64)},
        "adapter": {"lora": {"r": 2, "target_modules": ["query"]}},
    }));
    let sources = Sources { base: Some(&base), ..support::sources(&run, None) };
    let Assembled { trained, net, .. } = assemble(sources, &row("red", "a")).unwrap();
    let adapters = trained.iter().filter(|(name, _)| name.contains("lora_"));
    let mut tensors: Vec<_> =
        adapters.map(|(name, tensor)| (format!("base_model.model.bert.{name}"), tensor.shallow_clone())).collect();
    tensors.push(("base_model.model.classifier.weight".to_owned(), net.head.weight.ones_like()));
    tensors.push(("base_model.model.classifier.bias".to_owned(), net.head.bias.ones_like()));
    Tensor::write_safetensors(&tensors, home.path().join("adapter_model.safetensors")).unwrap();
    let with = |config: Value| {
        fs::write(home.path().join("adapter_config.json"), config.to_string()).unwrap();
        import(sources, home.path())
    };
    let said = with(json!({"task_type": "SEQ_CLS", "modules_to_save": ["classifier"]})).err().unwrap().to_string();
    assert!(said.contains("modules_to_save is [\"classifier\"]") && said.contains("head.safetensors"), "{said}");
    let own = with(json!({"task_type": null})).unwrap();
    assert!(own.net.head.weight.equal(&own.net.head.weight.ones_like()), "a classifier of someone's own class");
}

fn stored(file: &Path) -> Vec<(String, Tensor)> {
    Tensor::read_safetensors(file).unwrap()
}

#[test]
fn a_checkpoint_in_shards_is_the_whole_one() {
    let home = tempfile::tempdir().unwrap();
    let folder = model(home.path());
    let whole = folder::load(&folder, Pooling::Mean, Device::Cpu).unwrap();
    let file = folder.join("model.safetensors");
    let tensors = stored(&file);
    let (first, second) = tensors.split_at(7);
    let mut map = serde_json::Map::new();
    for (name, part) in [("model-1.safetensors", first), ("model-2.safetensors", second)] {
        Tensor::write_safetensors(part, folder.join(name)).unwrap();
        map.extend(part.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
    }
    fs::remove_file(&file).unwrap();
    let index = folder.join("model.safetensors.index.json");
    fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    let sharded = folder::load(&folder, Pooling::Mean, Device::Cpu).unwrap();
    for ((name, a), (_, b)) in whole.tensors().iter().zip(sharded.tensors()) {
        assert!(a.equal(&b), "{name}");
    }
    fs::write(&index, json!({"weight_map": {"x": "../model.safetensors"}}).to_string()).unwrap();
    let stray = folder::load(&folder, Pooling::Mean, Device::Cpu).err().unwrap().to_string();
    assert!(stray.contains("`../model.safetensors` is not the name of a file"), "{stray}");
}

#[test]
fn a_version_of_a_text_model_gives_the_logits_that_were_trained() {
    let home = tempfile::tempdir().unwrap();
    let base = model(home.path());
    let lora = json!({"adapter": {"lora": {"r": 2, "target_modules": ["query", "value", "dense"]}}});
    for (change, weights) in [(lora, "adapter_model.safetensors"), (json!({}), "model.safetensors")] {
        let mut change = change;
        change["model"] = json!({"uri": "file:///m", "sha256": "0".repeat(64)});
        let (run, out) = (manifest(change), home.path().join(weights));
        let sources = Sources { base: Some(&base), ..support::sources(&run, None) };
        let Assembled { net, trained, reader } = assemble(sources, &row("red", "a")).unwrap();
        let mut flat = Flat::over(trained);
        {
            let _guard = tch::no_grad_guard();
            flat.values += layers::Init::Normal(0.1).draw(1, "elsewhere", &flat.values.size());
        }
        let snapshot = domain::buffer::Snapshot::empty(run.pipeline.policy(), 4, 0);
        let (pipeline, labels, snapshot) = (&run.pipeline, &run.labels, &snapshot);
        let (net, trained, reader) = (&net, flat.named(), &reader);
        let publication = publish::Publication {
            pipeline,
            labels,
            net,
            trained,
            reader,
            snapshot,
            carried: &perennial_learn::Carried::default(),
            means: None,
            imported: false,
        };
        let files = publish::publish(&out, &publication).unwrap();
        assert!(files.contains(&weights.to_owned()) && files.contains(&"tokenizer.json".to_owned()), "{files:?}");

        let again = assemble(Sources { version: Some(&out), ..sources }, &row("red", "a")).unwrap();
        let texts = [row("red green", "a"), row("blue", "b")];
        let logits = |net: &perennial_learn::model::Net, reader: &Reader| {
            let _guard = tch::no_grad_guard();
            let (input, _) = reader.decode(&texts, "a test", &run.labels).unwrap().take(&[0, 1]);
            net.forward(&reader.apply(input))
        };
        assert!(logits(net, reader).equal(&logits(&again.net, &again.reader)), "{weights}");
    }
}

#[test]
fn an_adapter_of_a_bert_carries_peft_s_names() {
    let home = tempfile::tempdir().unwrap();
    let base = model(home.path());
    let run = manifest(json!({
        "model": {"uri": "file:///m", "sha256": "0".repeat(64)},
        "adapter": {"lora": {"r": 2, "target_modules": ["query", "value"]}},
    }));
    let _ = support::published(&run, &base, &[row("red", "a")], home.path());
    let names: Vec<String> =
        stored(&home.path().join("adapter_model.safetensors")).into_iter().map(|(n, _)| n).collect();
    let query = "base_model.model.encoder.layer.1.attention.self.query.lora_A.weight";
    assert!(names.len() == 8 && names.iter().any(|name| name == query), "{names:?}");
    let config: Value = serde_json::from_slice(&fs::read(home.path().join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["target_modules"], json!(["query", "value"]));
    let card = fs::read_to_string(home.path().join("README.md")).unwrap();
    assert!(card.contains("text-classification") && card.contains("max_length=12"), "{card}");
}

#[test]
fn minilm_gives_its_published_embeddings() {
    let Some(staged) = support::staged() else {
        println!("SKIPPED: MiniLM is not here; `make reference` stages it");
        return;
    };
    let folder = PathBuf::from(staged["minilm"].as_str().unwrap());
    let model = folder::load(&folder, Pooling::Mean, Device::Cpu).unwrap();
    let limits = TextLimits { vocabulary: 30522, positions: 512 };
    let reader = Reader::Texts(TextReader::load(&folder, &Settings::default(), limits).unwrap());
    let texts = [
        "This is an example sentence",
        "Each sentence is converted",
        "How do I activate my new card?",
        "I need to switch on the card that just arrived",
    ];
    let rows: Vec<Row> = texts.iter().map(|text| row(text, "a")).collect();
    let _guard = tch::no_grad_guard();
    let (input, _) = reader.decode(&rows, "a test", &["a".to_owned()]).unwrap().take(&[0, 1, 2, 3]);
    let Input::Tokens(tokens) = &input else { panic!("texts are tokens") };
    let first: Vec<Vec<i64>> = Vec::try_from(&tokens.ids).unwrap();
    assert_eq!(first[0][..7], [101, 2023, 2003, 2019, 2742, 6251, 102]);
    let features = model.encode(model.embed(&input));
    let unit = &features / features.norm_scalaropt_dim(2, &[1i64][..], true);
    let begins: Vec<f64> = unit.get(0).narrow(0, 0, 6).to_kind(Kind::Double).try_into().unwrap();
    let published = [0.06765688, 0.06349591, 0.04871309, 0.07930497, 0.03744806, 0.0026528];
    assert!(begins.iter().zip(published).all(|(a, b)| (a - b).abs() < 1e-6), "{begins:?}");
    let cosine = |a: i64, b: i64| (unit.get(a) * unit.get(b)).sum(Kind::Double).double_value(&[]);
    assert!((cosine(0, 1) - 0.405).abs() < 1e-3 && (cosine(2, 3) - 0.749).abs() < 1e-3);
}
