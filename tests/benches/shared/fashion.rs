//! A pipeline over the first training rows of Fashion-MNIST as one chunk, trained from scratch.

use domain::buffer::Snapshot;
use domain::chunk::Row;
use domain::id::ChunkId;
use domain::manifest::Manifest;
use domain::pipeline::{Precision, Spec};
use learn::assemble::{Assembled, Sources, assemble};
use learn::data::Reader;
use learn::update::{self, Inputs, Moment, Outcome};
use learn::{Carried, Flat, Part, Pool};
use serde_json::Value;
use store::examples::{Columns, read_parquet};
use tch::{Device, Tensor};

pub struct Fashion {
    pub manifest: Manifest,
    pub reader: Reader,
    pub pool: Pool,
    sample: Row,
}

/// None where `PERENNIAL_DATA` names no folder that holds the data.
pub fn rows(count: usize) -> Option<Vec<Row>> {
    let file = std::path::PathBuf::from(std::env::var_os("PERENNIAL_DATA")?).join("fashion_mnist/train-00000.parquet");
    let bytes = std::fs::read(file).ok()?;
    let labels = (0..10).map(|class| class.to_string()).collect();
    let mut rows = read_parquet(bytes.into(), &Columns { labels, ..Columns::default() }).expect("rows");
    rows.truncate(count);
    Some(rows)
}

impl Fashion {
    /// `spec` without name, model and labels.
    pub fn new(rows: &[Row], mut spec: Value) -> Self {
        let mut labels: Vec<String> = rows.iter().map(|row| row.label.clone()).collect();
        labels.sort_unstable();
        labels.dedup();
        spec["name"] = "bench".into();
        spec["model"] = "mlp:100,100".into();
        spec["labels"] = labels.clone().into();
        let pipeline = serde_json::from_value(spec).expect("a pipeline");
        let (chunks, eval_sets) = (Vec::new(), Vec::new());
        let manifest = Manifest {
            run: 1,
            update: 0,
            import: None,
            pipeline,
            labels,
            parent: None,
            chunks,
            late: Vec::new(),
            snapshot: None,
            eval_sets,
        };
        let sample = rows[0].clone();
        let reader = assembled(&manifest.pipeline, &manifest.labels, &sample).reader;
        let data = reader.decode(rows, "the bench", &manifest.labels).expect("rows");
        let pool =
            Pool::new(vec![Part::whole(ChunkId("x".to_owned()), rows.len())], data, Vec::new(), None, Device::Cpu);
        Self { manifest, reader, pool, sample }
    }

    /// With the initial weights of a seed.
    pub fn made(&self, seed: u64) -> Assembled {
        let spec = Spec { seed, ..Spec::clone(&self.manifest.pipeline) };
        assembled(&spec, &self.manifest.labels, &self.sample)
    }

    /// One update on the chunk.
    pub fn update(&self, initial: &dyn Fn(u64), after_step: &mut dyn FnMut(&Moment)) -> (Assembled, Outcome) {
        let pipeline = &self.manifest.pipeline;
        let made = self.made(pipeline.seed);
        let named = made.trained.iter().map(|(name, leaf)| (name.clone(), leaf.shallow_clone())).collect();
        let (mut weights, clock) = (Flat::over(named), || 0.0);
        let initial = |seed| {
            initial(seed);
            let made = self.made(seed);
            Ok((made.net, Flat::over(made.trained)))
        };
        let inputs = Inputs {
            manifest: &self.manifest,
            pool: &self.pool,
            reader: &self.reader,
            prefix: None,
            snapshot: Snapshot::empty(
                pipeline.policy(),
                u64::from(pipeline.rehearsal.memory_size.get()),
                pipeline.seed,
            ),
            carried: Carried::default(),
            parent_labels: 0,
            base: None,
            initial: &initial,
            resume: None,
            clock: &clock,
        };
        let done = update::run(&made.net, &mut weights, inputs, &collective::Solo, &mut |moment| {
            after_step(moment);
            Ok(())
        });
        (made, done.expect("an update"))
    }

    /// Rows as the model reads them, and their labels.
    pub fn taken(&self, positions: std::ops::Range<usize>) -> (learn::input::Input, Tensor) {
        let (rows, labels) = self.pool.data.take(&positions.map(|row| row as i64).collect::<Vec<_>>());
        (self.reader.apply(rows), labels)
    }
}

fn assembled(pipeline: &Spec, labels: &[String], sample: &Row) -> Assembled {
    let sources = Sources {
        pipeline,
        labels,
        base: None,
        version: None,
        preprocessor: None,
        device: Device::Cpu,
        precision: Precision::F32,
    };
    assemble(sources, sample).expect("a net")
}
