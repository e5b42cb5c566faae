//! `pretrain`: a small model from scratch, saved as a Hugging Face folder for pipelines to start from.
//!
//! One update of a pipeline with the whole model trained: the same code as any other update.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use collective::Solo;
use domain::chunk::Row;
use domain::evalset::EvalSet;
use domain::id::TaskName;
use domain::manifest::{ChunkData, Manifest};
use domain::pipeline::{
    Adapter, Contamination, Data, Evaluation, Input, LabelsMode, Method, Model, Normalize, OptimizerKind, Pipeline,
    Positive, Resources, Schedule, Spec, Training,
};
use evaluator::score::{self, EvalJob};
use learn::model::folder;
use serde::Serialize;
use store::streams::Split;
use trainer::job::TrainJob;
use trainer::rank;

use crate::bench::flags::{self, Output, Usage, number, one_of, percent};
use crate::bench::shelf::Shelf;
use crate::bench::stream;
use crate::bench::watch::{Watch, clock};
use crate::glyphs;

const EXAMPLES: &str = "\
Examples:
  # On drawn glyphs, nothing to download
  perennial pretrain --glyphs plain --out vit

  # On the first two alphabets of a stream, with images of 28 pixels
  perennial pretrain --data streams/omniglot_class_8_alphabets.json --task 0 --task 1 --image-size 28 --epochs 20 --out vit";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// The folder that the stream's paths start from. Default: the parent of the stream's folder
    #[arg(long, value_name = "ROOT", requires = "data")]
    data_root: Option<PathBuf>,
    /// Train on this task of the stream, from 0; repeat for several. Default: all
    #[arg(long = "task", value_name = "K", requires = "data")]
    tasks: Vec<usize>,
    /// Train on N rows at most (of each task, or of each domain of glyphs, where the default is 4000)
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// `mlp:<widths>`, `vit:<settings>` or `resnet18:<form>`
    #[arg(long, default_value = "vit:d=64,layers=4,heads=4,patch=4,mlp=128")]
    model: String,
    /// Side of the model's images. Default: the data's
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<NonZeroU32>,
    #[arg(long, default_value = "dataset", value_parser = one_of::<Normalize>(["unit", "dataset"]))]
    normalize: Normalize,
    #[arg(long, default_value = "4")]
    epochs: NonZeroU32,
    #[arg(long, default_value = "32")]
    batch: NonZeroU32,
    #[arg(long, default_value = "adamw", value_parser = one_of::<OptimizerKind>(["sgd", "adamw"]))]
    optimizer: OptimizerKind,
    #[arg(long, default_value = "0.002", allow_negative_numbers = true, value_parser = number::<Positive>)]
    lr: Positive,
    #[arg(long, default_value = "cosine", value_parser = one_of::<Schedule>(["constant", "cosine"]))]
    schedule: Schedule,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long, default_value = "2")]
    threads: NonZeroU32,
    /// The new folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, clap::Args)]
#[group(required = true)]
struct Source {
    /// A stream of images
    #[arg(long, value_name = "STREAM.json")]
    data: Option<PathBuf>,
    /// A domain of drawn glyphs; repeat for several
    #[arg(long, value_name = "DOMAIN", conflicts_with = "data", value_parser = domain_of_glyphs())]
    glyphs: Vec<usize>,
}

fn domain_of_glyphs() -> impl TypedValueParser<Value = usize> {
    let position = |name: String| glyphs::DOMAINS.iter().position(|known| *known == name).ok_or("no such domain");
    PossibleValuesParser::new(glyphs::DOMAINS).try_map(position)
}

/// What is printed; field names are the JSON's keys.
#[derive(Debug, Serialize)]
pub struct Pretrained {
    pub folder: PathBuf,
    /// What a pipeline's `model: {uri, sha256}` pins.
    pub sha256: String,
    pub accuracy: f64,
    pub train_rows: u64,
    pub held_out_rows: u64,
    pub steps: u64,
    pub seconds: f64,
}

/// What to learn from, what to be judged by.
pub struct Lesson {
    pub labels: Vec<String>,
    pub train: Vec<Row>,
    pub held_out: Vec<Row>,
}

/// How to learn it.
pub struct Recipe {
    pub model: String,
    pub input: Input,
    pub training: Training,
    pub threads: NonZeroU32,
    pub seed: u64,
}

const GLYPHS: usize = 4000;
/// Not the seed of any chunk, so that held-out drawings are others.
const HELD_OUT_SEED: u64 = 1 << 32;

pub fn main(args: &Args) -> ExitCode {
    flags::exit(run(args))
}

fn run(args: &Args) -> anyhow::Result<()> {
    let (Model::Scratch(model), _) = flags::model(&args.model)? else {
        return Err(Usage::Model { given: args.model.clone() }.into());
    };
    check_out(&args.out)?;
    let watch = Watch::new();
    watch.begin("reading");
    let lesson = match &args.source.data {
        Some(file) => of_stream(file, args)?,
        None => of_glyphs(&args.source.glyphs, args.limit.unwrap_or(GLYPHS), args.seed),
    };
    let recipe = Recipe {
        model,
        input: Input { normalize: Some(args.normalize), image_size: args.image_size, ..Input::default() },
        training: training(args),
        threads: args.threads,
        seed: args.seed,
    };
    let pretrained = pretrain(&lesson, &recipe, &args.out, &watch)?;
    watch.end();
    flags::print(args.output, &pretrained, text)
}

fn text(done: &Pretrained) -> String {
    let folder = done.folder.display();
    format!(
        "{folder}: {} % of {} held-out rows right, after {} steps on {} rows in {:.1} s\nmodel:\n  uri: file://{folder}\n  sha256: {}",
        percent(Some(done.accuracy)),
        done.held_out_rows,
        done.steps,
        done.train_rows,
        done.seconds,
        done.sha256,
    )
}

fn training(args: &Args) -> Training {
    Training {
        epochs: args.epochs,
        batch_size: args.batch,
        optimizer: args.optimizer,
        learning_rate: args.lr,
        schedule: args.schedule,
        ..training_defaults()
    }
}

/// Nothing resumes here, so no checkpoints.
pub fn training_defaults() -> Training {
    Training { checkpoint_steps: NonZeroU64::MAX, checkpoint_seconds: NonZeroU64::MAX, ..Training::default() }
}

fn check_out(out: &Path) -> anyhow::Result<()> {
    let occupied = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    ensure!(!occupied, "`{}` is not empty; name a new folder with --out", out.display());
    Ok(())
}

fn of_stream(file: &Path, args: &Args) -> anyhow::Result<Lesson> {
    let source = stream::open(file, args.data_root.as_deref())?;
    let all: Vec<usize> = (0..source.tasks().len()).collect();
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for &k in if args.tasks.is_empty() { &all } else { &args.tasks } {
        train.extend(source.task_rows(k, Split::Train, args.limit)?);
        held_out.extend(source.task_rows(k, Split::Test, None)?);
    }
    let mut labels = source.labels();
    labels.retain(|label| train.iter().chain(&held_out).any(|row| row.label == *label));
    Ok(Lesson { labels, train, held_out })
}

/// `rows` drawings of each domain.
pub fn of_glyphs(domains: &[usize], rows: usize, seed: u64) -> Lesson {
    let draw = |rows, seed| domains.iter().flat_map(|&domain| glyphs::glyphs(domain, rows, seed)).collect();
    Lesson {
        labels: glyphs::CLASSES.map(str::to_owned).to_vec(),
        train: draw(rows, seed),
        held_out: draw(500, seed ^ HELD_OUT_SEED),
    }
}

/// Trains in this process and leaves the folder at `out`, whole.
pub fn pretrain(lesson: &Lesson, recipe: &Recipe, out: &Path, watch: &Watch) -> anyhow::Result<Pretrained> {
    let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
    let mut shelf = Shelf::new(scratch.path().to_owned());
    let task: TaskName = "pretraining".parse()?;
    let chunk = shelf.train(&lesson.train, &task)?;
    let set = shelf.held_out(&lesson.held_out, &task)?;
    let manifest = manifest(lesson, recipe, chunk, set)?;
    lesson.train.first().map_or(Ok(()), |row| flags::check_model(&manifest.pipeline, None, row))?;
    watch.begin("pretraining");
    let job = TrainJob {
        manifest,
        base_model: None,
        parent: None,
        import: None,
        snapshot: None,
        shards: shelf.files.clone(),
        out: scratch.path().join("out"),
        checkpoints: scratch.path().join("checkpoints"),
        resume: None,
        device: flags::device().to_owned(),
        probe: None,
    };
    let trained = rank::train(&job, &Solo, &clock(), &mut |at| watch.step(at))?;
    ensure!(trained.finite, "pretraining ended in NaN or infinite weights; try a smaller --lr");
    let accuracy = accuracy(&job, recipe)?;
    let folder = keep(&job.out, out)?;
    Ok(Pretrained {
        sha256: learn::folder_digest(&folder)?,
        folder,
        accuracy,
        train_rows: lesson.train.len() as u64,
        held_out_rows: lesson.held_out.len() as u64,
        steps: trained.cost.steps,
        seconds: trained.cost.train_seconds,
    })
}

fn manifest(lesson: &Lesson, recipe: &Recipe, chunk: ChunkData, set: EvalSet) -> anyhow::Result<Manifest> {
    let spec = Spec {
        namespace: domain::id::Namespace::default(),
        name: "pretrain".parse()?,
        model: Model::Scratch(recipe.model.clone()),
        adapter: Adapter::Full,
        labels: lesson.labels.clone(),
        labels_mode: LabelsMode::Closed,
        heads: domain::pipeline::Heads::default(),
        task: chunk.task.clone(),
        input: recipe.input.clone(),
        method: Method::Ft,
        loss: domain::pipeline::Loss::default(),
        rehearsal: domain::pipeline::Rehearsal::default(),
        training: recipe.training.clone(),
        resources: Resources { threads_per_rank: recipe.threads, ..Resources::default() },
        // A recipe says which rows train.
        evaluation: Evaluation { contamination: Contamination::Off, ..Evaluation::default() },
        gate: domain::pipeline::GateSpec::default(),
        trigger: domain::pipeline::Trigger::Manual,
        data: Data::default(),
        sources: Vec::new(),
        retention: domain::pipeline::Retention::default(),
        seed: recipe.seed,
    };
    Ok(Manifest {
        run: 1,
        update: 0,
        pipeline: Pipeline::try_from(spec).map_err(Usage::from)?,
        labels: lesson.labels.clone(),
        parent: None,
        chunks: vec![chunk],
        late: Vec::new(),
        snapshot: None,
        eval_sets: vec![set],
        import: None,
    })
}

fn accuracy(job: &TrainJob, recipe: &Recipe) -> anyhow::Result<f64> {
    let job = EvalJob {
        manifest: job.manifest.clone(),
        base_model: None,
        subject: Some(job.out.clone()),
        candidate: None,
        preprocessor: None,
        sets: job.manifest.eval_sets.clone(),
        shards: job.shards.clone(),
        device: job.device.clone(),
        threads: recipe.threads.get(),
    };
    Ok(score::evaluate(&job, &mut |_| ())?.iter().map(domain::report::Score::accuracy).sum())
}

/// Copies what makes a base model: not the head, which the next pipeline makes for its own labels.
fn keep(version: &Path, out: &Path) -> anyhow::Result<PathBuf> {
    let out = std::path::absolute(out)?;
    let parent = out.parent().context("--out has no parent folder")?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot create `{}`", parent.display()))?;
    let partial = tempfile::Builder::new().prefix(".pretrain-").tempdir_in(parent)?;
    for name in [folder::CONFIG, folder::WEIGHTS, learn::data::images::PREPROCESSOR] {
        std::fs::copy(version.join(name), partial.path().join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    // An empty folder is replaced; one that filled up meanwhile is not.
    std::fs::rename(partial.keep(), &out).with_context(|| format!("cannot create `{}`", out.display()))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pretrained_folder_is_a_base_model_and_knows_its_glyphs() {
        let place = tempfile::tempdir().unwrap();
        let recipe = Recipe {
            model: "vit:d=16,layers=1,heads=2,patch=7,mlp=32".to_owned(),
            input: Input { normalize: Some(Normalize::Dataset), ..Input::default() },
            training: Training { epochs: NonZeroU32::new(3).unwrap(), ..training_defaults() },
            threads: NonZeroU32::MIN,
            seed: 1,
        };
        let out = place.path().join("vit");
        let done = pretrain(&of_glyphs(&[0], 300, 1), &recipe, &out, &Watch::new()).unwrap();
        assert_eq!((done.train_rows, done.held_out_rows, done.sha256.len()), (300, 500, 64));
        let mut names: Vec<_> = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [folder::CONFIG, folder::WEIGHTS, learn::data::images::PREPROCESSOR]);
        assert!(folder::load(&out, domain::pipeline::Pooling::Mean, tch::Device::Cpu).is_ok());
        assert!(check_out(&out).unwrap_err().to_string().contains("not empty"));
    }
}
