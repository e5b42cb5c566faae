//! Small pipelines, procedural images, and ranks that are threads.

#![allow(dead_code, unused_imports)] // each test file uses its part

mod ranks;
pub mod updates;

use std::cell::Cell;
use std::path::{Path, PathBuf};

use collective::Collective;
use domain::buffer::Snapshot;
use domain::chunk::{Payload, Row};
use domain::draw::Draw;
use domain::id::ChunkId;
use domain::manifest::Manifest;
use domain::pipeline::{Input as Settings, Pooling, Spec};
use image::{DynamicImage, GrayImage, ImageFormat};
use perennial_learn::assemble::{Assembled, Sources, assemble};
use perennial_learn::checkpoint::Saved;
use perennial_learn::data::images::Preprocess;
use perennial_learn::data::texts::TextReader;
use perennial_learn::data::{Dataset, Reader};
use perennial_learn::input::Input;
use perennial_learn::model::bert::{Bert, Config};
use perennial_learn::model::{Geometry, Net, TextLimits, folder, layers, scratch};
use perennial_learn::update::{self, Inputs, Moment, Outcome};
use perennial_learn::{Carried, Flat, Part, Pool, Prefix, publish};
use serde_json::{Value, json};
use tch::{Device, Tensor};

pub use ranks::{Loopback, ranks};

pub const SIDE: u32 = 8;
pub const IMAGES: Geometry = Geometry { channels: 1, side: SIDE as i64 };
pub const MLP: &str = "mlp:16,12";
pub const VIT: &str = "vit:d=16,layers=2,heads=2,patch=4,mlp=24";
pub const RESNET: &str = "resnet18:slim,nf=4";

/// A run over one chunk with labels `a`, `b`, `c`; batches of 8 in 4 micro-batches.
pub fn manifest(change: Value) -> Manifest {
    let mut spec = json!({
        "name": "small", "model": MLP, "labels": ["a", "b", "c"], "method": "er", "seed": 11,
        "rehearsal": {"memory_size": 20},
        "training": {"batch_size": 8, "micro_batches": 4, "learning_rate": 0.01},
    });
    merge(&mut spec, change);
    let pipeline = serde_json::from_value(spec).unwrap();
    Manifest {
        run: 1,
        update: 0,
        labels: ["a", "b", "c"].map(str::to_owned).to_vec(),
        pipeline,
        parent: None,
        chunks: Vec::new(),
        late: Vec::new(),
        snapshot: None,
        eval_sets: Vec::new(),
        import: None,
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

const WORDS: [&str; 8] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "paint"];

fn text_config() -> Config {
    Config {
        vocab_size: WORDS.len() as i64,
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 24,
        max_position_embeddings: 12,
        ..Config::default()
    }
}

/// A tokenizer that splits at spaces, and pads and cuts as nobody asked it to.
pub fn tokenizer() -> Value {
    let vocabulary: serde_json::Map<String, Value> =
        WORDS.iter().zip(0..).map(|(word, id)| (word.to_string(), json!(id))).collect();
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    })
}

pub const LIMITS: TextLimits = TextLimits { vocabulary: WORDS.len() as i64, positions: 12 };

/// A folder with a small BERT and its tokenizer.
pub fn text_model(home: &Path) -> PathBuf {
    std::fs::write(home.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let reader = Reader::Texts(TextReader::load(home, &Settings::default(), LIMITS).unwrap());
    let bert = Bert::new(text_config(), Pooling::Mean, &mut layers::drawn(3, Device::Cpu)).unwrap();
    let folder = home.join("bert");
    folder::save(&folder, &bert, &reader).unwrap();
    folder
}

pub fn lora(model: &str) -> Value {
    let targets = if model == MLP { ["fc1", "fc2"] } else { ["query", "value"] };
    json!({"model": model, "adapter": {"lora": {"r": 3, "alpha": 6.0, "target_modules": targets}}})
}

/// A dark square with a bright stripe, whose place is the label.
pub fn rows(count: usize, seed: u64) -> Vec<Row> {
    (0..count).map(|number| row(number, seed)).collect()
}

fn row(number: usize, seed: u64) -> Row {
    let draw = Draw::new(seed).at(number as u64);
    let class = draw.named("class").below(3) as u32;
    let image = GrayImage::from_fn(SIDE, SIDE, |x, y| {
        let noise = draw.at(u64::from(y * SIDE + x)).below(80) as u8;
        image::Luma([if y / 3 == class { 170 + noise } else { noise }])
    });
    let mut bytes = Vec::new();
    let written = DynamicImage::from(image).write_to(&mut std::io::Cursor::new(&mut bytes), ImageFormat::Png);
    written.unwrap();
    Row::new(format!("r{number}"), Payload::Image(bytes), ["a", "b", "c"][class as usize])
}

pub fn dataset(rows: &[Row]) -> Dataset {
    Reader::Images(Preprocess::unit(IMAGES)).decode(rows, "a test", &["a", "b", "c"].map(str::to_owned)).unwrap()
}

/// A folder with a ViT of two blocks that drops activations.
pub fn vit_with_dropout(folder: &Path) {
    let vit = scratch::build(VIT, IMAGES, &mut layers::drawn(3, Device::Cpu)).unwrap();
    folder::save(folder, vit.as_ref(), &Reader::Images(Preprocess::unit(IMAGES))).unwrap();
    let file = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["hidden_dropout_prob"] = json!(0.2);
    config["attention_probs_dropout_prob"] = json!(0.2);
    std::fs::write(file, config.to_string()).unwrap();
}

/// The rows `start..start + rows`.
pub fn span(start: i64, rows: i64) -> Vec<i64> {
    (start..start + rows).collect()
}

/// What `make reference` left: an interpreter, PYTHONPATHs, a model. None where it was not run.
pub fn staged() -> Option<Value> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    serde_json::from_slice(&std::fs::read(cache.join("perennial/reference.json")).ok()?).ok()
}

/// A row to assemble with.
pub fn sample() -> Row {
    row(0, 0)
}

pub fn preprocess(reader: &Reader) -> &Preprocess {
    match reader {
        Reader::Images(preprocess) => preprocess,
        Reader::Texts(_) => panic!("these models take images"),
    }
}

pub fn chunk(name: &str) -> ChunkId {
    ChunkId(name.to_owned())
}

/// Everything one rank holds.
pub struct Trial {
    pub manifest: Manifest,
    pub net: Net,
    pub weights: Flat,
    pub reader: Reader,
    pub pool: Pool,
    pub snapshot: Snapshot,
    pub carried: Carried,
    /// Weights of the base.
    pub base: Tensor,
}

/// The model from scratch, by another seed.
fn untrained(manifest: &Manifest, seed: u64) -> (Net, Flat) {
    let spec = Spec { seed, ..Spec::from(manifest.pipeline.clone()) };
    let made = assemble(Sources { pipeline: &spec, ..sources(manifest, None) }, &sample()).unwrap();
    (made.net, Flat::over(made.trained))
}

/// The same tensors.
pub fn handles(carried: &Carried) -> Carried {
    Carried(carried.0.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect())
}

impl Trial {
    /// A first run over 45 rows.
    pub fn new(manifest: Manifest) -> Self {
        Self::over(manifest, 45, None, None)
    }

    /// The same from the model in a folder.
    pub fn based(manifest: Manifest, base: &Path) -> Self {
        Self::over(manifest, 45, Some(6), Some(base))
    }

    /// A first run over so many rows.
    pub fn of(manifest: Manifest, rows: usize) -> Self {
        Self::over(manifest, rows, None, None)
    }

    /// With a memory of `remembered` rows of another chunk.
    pub fn with_memory(manifest: Manifest, remembered: u32) -> Self {
        Self::over(manifest, 45, Some(remembered), None)
    }

    fn over(manifest: Manifest, fresh: usize, remembered: Option<u32>, base: Option<&Path>) -> Self {
        let sources = Sources { base, ..sources(&manifest, None) };
        let Assembled { net, trained, reader } = assemble(sources, &sample()).unwrap();
        let policy = manifest.pipeline.policy();
        let capacity = u64::from(manifest.pipeline.rehearsal.memory_size.get());
        let mut snapshot = Snapshot::empty(policy, capacity, manifest.pipeline.seed);
        let old = remembered.unwrap_or(0);
        for row in 0..old {
            buffer::offer(&mut snapshot, &chunk("old"), row, row % 3);
        }
        let known = Part::whole(chunk("old"), old as usize);
        let memory = remembered.map(|count| dataset(&rows(count as usize, 99)));
        let chunks = vec![Part::whole(chunk("x"), fresh / 3), Part::whole(chunk("y"), fresh - fresh / 3)];
        let aside = manifest.pipeline.training.validation.fraction.get();
        let pool = Pool::new(chunks, dataset(&rows(fresh, 5)), vec![known], memory, Device::Cpu);
        let pool = pool.set_aside(aside, Draw::new(manifest.pipeline.seed).named("validation"));
        let weights = Flat::over(trained);
        let (base, carried) = (weights.values.copy(), Carried::default());
        Self { manifest, net, weights, reader, pool, snapshot, carried, base }
    }

    pub fn run(&mut self) -> Outcome {
        self.run_on(&collective::Solo, None, &mut |_| Ok(()))
    }

    pub fn run_on(
        &mut self,
        collective: &dyn Collective,
        resume: Option<Saved>,
        after_step: &mut dyn FnMut(&Moment) -> Result<(), perennial_learn::Error>,
    ) -> Outcome {
        let ticks = Cell::new(0.0);
        // Every look at the clock is a second later than the last.
        let clock = || ticks.replace(ticks.get() + 1.0);
        let scratch = tempfile::tempdir().unwrap();
        let limits = self.manifest.pipeline.resources.prefix_cache;
        let prefix = Prefix::fill(&self.net, &self.pool, &self.reader, limits, scratch.path(), &mut |_| ()).unwrap();
        let inputs = Inputs {
            manifest: &self.manifest,
            pool: &self.pool,
            reader: &self.reader,
            prefix: prefix.as_ref(),
            snapshot: self.snapshot.clone(),
            carried: handles(&self.carried),
            parent_labels: 0,
            base: Some(self.base.copy()),
            initial: &|seed| Ok(untrained(&self.manifest, seed)),
            resume,
            clock: &clock,
        };
        update::run(&self.net, &mut self.weights, inputs, collective, after_step).unwrap()
    }

    pub fn hash(&self) -> String {
        publish::weights_sha256(self.weights.named())
    }

    pub fn inputs(&self) -> Input {
        self.reader.apply(self.pool.data.take(&span(0, 12)).0)
    }

    /// How images become numbers here.
    pub fn preprocess(&self) -> &Preprocess {
        preprocess(&self.reader)
    }

    pub fn logits(&self) -> Tensor {
        let _guard = tch::no_grad_guard();
        self.net.forward(&self.inputs())
    }
}

pub fn sources<'a>(manifest: &'a Manifest, version: Option<&'a Path>) -> Sources<'a> {
    let Manifest { pipeline, labels, .. } = manifest;
    let precision = pipeline.training.precision;
    Sources { pipeline, labels, base: None, version, preprocessor: None, device: Device::Cpu, precision }
}

impl Trial {
    pub fn publish(&self, folder: &Path, outcome: &Outcome) -> Vec<String> {
        let publication = publish::Publication {
            pipeline: &self.manifest.pipeline,
            labels: &self.manifest.labels,
            net: &self.net,
            trained: self.weights.named(),
            reader: &self.reader,
            snapshot: &outcome.snapshot,
            carried: &outcome.carried,
            means: outcome.means.as_ref(),
            imported: false,
        };
        publish::publish(folder, &publication).unwrap()
    }
}

/// A version that is not the base it started from, and its logits for these rows as they are read.
pub fn published(run: &Manifest, base: &Path, rows: &[Row], out: &Path) -> (Input, Tensor) {
    let sources = Sources { base: Some(base), ..sources(run, None) };
    let Assembled { net, trained, reader } = assemble(sources, &rows[0]).unwrap();
    let mut flat = Flat::over(trained);
    let _guard = tch::no_grad_guard();
    flat.values += layers::Init::Normal(0.2).draw(1, "elsewhere", &flat.values.size());
    let snapshot = domain::buffer::Snapshot::empty(run.pipeline.policy(), 4, 0);
    let publication = publish::Publication {
        pipeline: &run.pipeline,
        labels: &run.labels,
        net: &net,
        trained: flat.named(),
        reader: &reader,
        snapshot: &snapshot,
        carried: &Carried::default(),
        means: None,
        imported: false,
    };
    publish::publish(out, &publication).unwrap();
    let all: Vec<i64> = (0..rows.len() as i64).collect();
    let input = reader.apply(reader.decode(rows, "a test", &run.labels).unwrap().take(&all).0);
    let logits = net.forward(&input);
    (input, logits)
}

/// Whether there is no Python to compare with, which it says.
pub fn skipped() -> bool {
    let missing = staged().is_none();
    if missing {
        println!("SKIPPED: no PEFT or transformers to compare with; `make reference` stages it");
    }
    missing
}
