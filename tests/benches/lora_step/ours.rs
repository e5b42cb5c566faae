//! Our side: what a rank does in an update, paused between turns.

use std::path::Path;
use std::time::Instant;

use domain::buffer::Snapshot;
use domain::chunk::{Payload, Row};
use domain::draw::Draw;
use domain::id::ChunkId;
use domain::manifest::Manifest;
use image::{DynamicImage, ImageFormat, RgbImage};
use learn::assemble::{Assembled, Sources, assemble};
use learn::data::images::Preprocess;
use learn::data::{Dataset, Reader};
use learn::input::Input;
use learn::model::{Geometry, folder, layers, scratch};
use learn::publish::{self, Publication};
use learn::update::{self, Inputs, Moment};
use learn::{Carried, Flat, Part, Pool, Prefix};
use serde_json::json;
use tch::{Device, Tensor};

use crate::case::{BATCH, Base, Case, SIDE, VIT};

const CLASSES: usize = 77;

/// Lays down what the other side reads: `base`, the untrained version in `version`, and `rows.safetensors`.
pub fn prepare(case: &Case, at: &Path) {
    match &case.base {
        Base::MiniLm(model) => std::os::unix::fs::symlink(model, at.join("base")).expect("a link"),
        Base::Vit => {
            let images = Geometry { channels: 3, side: i64::from(SIDE) };
            let vit = scratch::build(VIT, images, &mut layers::drawn(1, Device::Cpu)).expect("a ViT");
            let reader = Reader::Images(Preprocess::unit(images));
            folder::save(&at.join("base"), vit.as_ref(), &reader).expect("a model folder");
        }
    }
    let manifest = manifest(case, at);
    let (made, dataset) = assembled(case, &manifest, at);
    let publication = Publication {
        pipeline: &manifest.pipeline,
        labels: &manifest.labels,
        net: &made.net,
        trained: &made.trained,
        reader: &made.reader,
        snapshot: &snapshot(&manifest),
        carried: &Carried::default(),
        means: None,
        imported: false,
    };
    publish::publish(&at.join("version"), &publication).expect("a version");
    let (rows, labels) = dataset.take(&(0..BATCH as i64).collect::<Vec<_>>());
    let rows = match made.reader.apply(rows) {
        Input::Pixels(pixels) => ("pixel_values", pixels),
        Input::Tokens(tokens) => ("input_ids", tokens.ids),
        Input::Hidden(_) => unreachable!("no reader runs a model"),
    };
    Tensor::write_safetensors(&[rows, ("labels", labels)], at.join("rows.safetensors")).expect("rows");
}

/// Takes as many steps as each line asks for.
pub fn serve(case: &Case, at: &Path) {
    let manifest = manifest(case, at);
    let (Assembled { net, trained, reader }, dataset) = assembled(case, &manifest, at);
    let pool = Pool::new(vec![Part::whole(ChunkId("x".to_owned()), BATCH)], dataset, Vec::new(), None, Device::Cpu);
    let mut weights = Flat::over(trained);
    let clock = || 0.0;
    let snapshot = snapshot(&manifest);
    let limits = manifest.pipeline.resources.prefix_cache;
    let prefix = Prefix::fill(&net, &pool, &reader, limits, at, &mut |_| ()).expect("a prefix");
    let prefix = prefix.as_ref();
    let (manifest, pool, reader) = (&manifest, &pool, &reader);
    let initial = |_| unreachable!("no coreset is chosen");
    let inputs = Inputs {
        manifest,
        pool,
        reader,
        prefix,
        snapshot,
        carried: Carried::default(),
        parent_labels: 0,
        base: None,
        initial: &initial,
        resume: None,
        clock: &clock,
    };
    println!("ready");
    let mut turn = Turn::next();
    let _ = update::run(&net, &mut weights, inputs, &collective::Solo, &mut |moment: &Moment| {
        turn.after_step(moment.loss);
        Ok(())
    });
}

/// The steps that were asked for, and how far they are.
struct Turn {
    steps: usize,
    ms: Vec<f64>,
    since: Instant,
}

impl Turn {
    fn next() -> Self {
        let mut line = String::new();
        if std::io::stdin().read_line(&mut line).expect("a line") == 0 {
            std::process::exit(0);
        }
        let steps = line.trim().parse().expect("a number of steps");
        Self { steps, ms: Vec::new(), since: Instant::now() }
    }

    fn after_step(&mut self, loss: f64) {
        self.ms.push(self.since.elapsed().as_secs_f64() * 1e3);
        if self.ms.len() == self.steps {
            println!("{}", json!({"ms": self.ms, "loss": loss}));
            *self = Self::next();
        }
        self.since = Instant::now();
    }
}

fn manifest(case: &Case, at: &Path) -> Manifest {
    let labels: Vec<String> = (0..CLASSES).map(|class| format!("c{class}")).collect();
    Manifest {
        run: 1,
        update: 0,
        import: None,
        pipeline: serde_json::from_value(case.spec(&at.join("base"), &labels)).expect("a pipeline"),
        labels,
        parent: None,
        chunks: Vec::new(),
        late: Vec::new(),
        snapshot: None,
        eval_sets: Vec::new(),
    }
}

fn snapshot(manifest: &Manifest) -> Snapshot {
    Snapshot::empty(manifest.pipeline.policy(), 1, manifest.pipeline.seed)
}

fn assembled(case: &Case, manifest: &Manifest, at: &Path) -> (Assembled, Dataset) {
    let rows: Vec<Row> = (0..BATCH).map(|number| row(case, number)).collect();
    let (pipeline, labels, base) = (&manifest.pipeline, &manifest.labels, at.join("base"));
    let sources = Sources {
        pipeline,
        labels,
        base: Some(&base),
        version: None,
        preprocessor: None,
        device: Device::Cpu,
        precision: pipeline.training.precision,
    };
    let made = assemble(sources, &rows[0]).expect("a net");
    let dataset = made.reader.decode(&rows, "the bench", labels).expect("rows");
    (made, dataset)
}

/// A text that fills its tokens, or an image of noise.
fn row(case: &Case, number: usize) -> Row {
    const WORDS: [&str; 10] = ["card", "transfer", "not", "arrived", "my", "why", "cash", "top", "the", "fee"];
    let draw = Draw::new(5).at(number as u64);
    let payload = if case.is_text() {
        let words = (0..60).map(|place| WORDS[draw.at(place).below(WORDS.len() as u64) as usize]);
        Payload::Text(words.collect::<Vec<_>>().join(" "))
    } else {
        let pixel = |x, y| image::Rgb([0, 1, 2].map(|c| draw.at(u64::from((y * SIDE + x) * 3 + c)).below(256) as u8));
        let mut bytes = std::io::Cursor::new(Vec::new());
        DynamicImage::from(RgbImage::from_fn(SIDE, SIDE, pixel)).write_to(&mut bytes, ImageFormat::Png).expect("a PNG");
        Payload::Image(bytes.into_inner())
    };
    Row::new(format!("r{number}"), payload, format!("c{}", draw.named("class").below(CLASSES as u64)))
}
