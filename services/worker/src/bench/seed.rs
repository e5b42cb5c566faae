//! One seed: the stream's updates in order, each followed by an evaluation of every task.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use collective::{Solo, StoreServer};
use domain::chunk::ObjectRef;
use domain::evalset::EvalSet;
use domain::id::Version;
use domain::manifest::{ChunkData, Manifest, Parent, SnapshotData};
use domain::matrix::AccuracyMatrix;
use domain::pipeline::Pipeline;
use domain::report::Score;
use evaluator::score::{self, EvalJob};
use sha2::{Digest, Sha256};
use trainer::gang::{self, Meeting, Ranks};
use trainer::job::{Probe, Progress, TrainJob, Trained};
use trainer::rank;

use super::evaluation::Evaluation;
use super::flags::percent;
use super::outcome::{Found, Run};
use super::stability::Curve;
use super::stream::Tasks;
use super::watch::{Watch, clock};

/// What every seed has in common.
pub struct Setup<'a> {
    pub base_model: Option<&'a Path>,
    pub tasks: &'a Tasks,
    /// Evaluate tasks that have not trained yet, too.
    pub future: bool,
    /// One update on every task's rows.
    pub at_once: bool,
    /// Evaluate within updates, every so many steps.
    pub eval_every: Option<NonZeroU64>,
    pub device: &'static str,
    pub folder: &'a Path,
    /// None: this process is the only rank.
    pub gang: Option<Gang>,
    pub watch: &'a Watch,
}

/// Ranks as processes of their own.
pub struct Gang {
    ranks: u32,
    program: PathBuf,
    runtime: tokio::runtime::Runtime,
    meeting: StoreServer,
}

const LOCAL: &str = "127.0.0.1";
/// A rank waits so long for another before it gives up.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest silence of a rank.
const STALL: Duration = Duration::from_secs(600);

impl Gang {
    pub fn for_ranks(ranks: u32) -> anyhow::Result<Option<Self>> {
        if ranks == 1 {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Some(Self {
            ranks,
            program: std::env::current_exe().context("cannot find this binary")?,
            runtime: runtime.context("cannot start a runtime")?,
            meeting: StoreServer::start(LOCAL, 0, PATIENCE)?,
        }))
    }

    fn train(
        &self,
        job: &TrainJob,
        prefix: &str,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> anyhow::Result<Trained> {
        let file = job.out.with_extension("json");
        std::fs::write(&file, serde_json::to_vec(job)?)
            .with_context(|| format!("cannot write `{}`", file.display()))?;
        let ranks = Ranks { first: 0, slots: (0..self.ranks).collect(), world: self.ranks };
        let meeting = Meeting {
            host: LOCAL.to_owned(),
            port: self.meeting.port(),
            prefix: prefix.to_owned(),
            own_host: LOCAL.to_owned(),
            patience_ms: PATIENCE.as_millis() as u64,
            timeout_ms: PATIENCE.as_millis() as u64,
        };
        Ok(self.runtime.block_on(gang::run(&self.program, &file, &ranks, Some(&meeting), STALL, progress))?)
    }
}

/// What an update leaves to the next one.
struct Finished {
    out: PathBuf,
    trained: Trained,
    scores: Vec<Score>,
}

impl Setup<'_> {
    /// The chunks of each update.
    fn updates(&self) -> Vec<&[ChunkData]> {
        let chunks = &self.tasks.train;
        if self.at_once { vec![chunks] } else { chunks.chunks(1).collect() }
    }

    /// Tasks that trained once this update has.
    fn seen(&self, update: usize) -> usize {
        if self.at_once { self.tasks.test.len() } else { update + 1 }
    }

    /// What an update is called.
    fn title(&self, update: usize) -> String {
        if self.at_once { "all tasks".to_owned() } else { self.tasks.test[update].task.to_string() }
    }
}

pub fn run(setup: &Setup, pipeline: Pipeline) -> anyhow::Result<Run> {
    let (seed, tasks, updates) = (pipeline.seed, setup.tasks, setup.updates());
    forget_peak();
    let (mut found, mut curve) = (Found::default(), Curve::new(tasks.test.len()));
    let mut parent: Option<Finished> = None;
    for (update, chunks) in updates.iter().enumerate() {
        let task = setup.title(update);
        setup.watch.begin(&format!("seed {seed}, update {}/{}: {task}", update + 1, updates.len()));
        let manifest = manifest(setup, &pipeline, (update, chunks), parent.as_ref())?;
        let job = job(setup, manifest, parent.as_ref());
        let trained = train(setup, &job).with_context(|| format!("update {} (`{task}`) of seed {seed}", update + 1))?;
        if !trained.finite {
            bail!(
                "update {} (`{task}`) of seed {seed} ended in NaN or infinite weights; try a smaller --lr",
                update + 1
            );
        }
        if update == 0 {
            found.initial = base(setup, &job)?;
        }
        let time = clock();
        let scores = evaluate(&job, Subject::Version)?;
        found.spent.seconds.evaluate += time() + trained.probed.seconds;
        found.spent.add(&trained.cost);
        let row = row(&scores, tasks.test.len());
        curve.push(update, setup.seen(update), &trained, &row);
        found.evaluations.push(Evaluation::new(update, &scores, parent.as_ref().map(|parent| &parent.scores[..])));
        found.matrix.push(row);
        if setup.at_once {
            found.matrix = AccuracyMatrix::new(found.matrix.rows, vec![Some(0); tasks.test.len()]);
        }
        say(setup, seed, update, &trained, &found.matrix);
        if let Some(old) = parent.replace(Finished { out: job.out, trained, scores }) {
            // What cannot be removed now goes with the temporary folder.
            let _ = std::fs::remove_dir_all(old.out);
        }
    }
    found.weights_sha256 = parent.map(|last| last.trained.weights_sha256).unwrap_or_default();
    let learned = (0..tasks.test.len()).map(|task| Some(if setup.at_once { 0 } else { task })).collect();
    found.stability = setup.eval_every.map(|every| curve.stability(every, learned));
    let items: Vec<u64> = tasks.test.iter().map(EvalSet::items).collect();
    Ok(Run::new(seed, &items, found))
}

/// The accuracy of the base with its initial head, where forward transfer is defined.
///
/// `first` is the first update, done: its version says how pixels become numbers.
fn base(setup: &Setup, first: &TrainJob) -> anyhow::Result<Option<Vec<Option<f64>>>> {
    if setup.tasks.class_incremental || !setup.future {
        return Ok(None);
    }
    let scores = evaluate(first, Subject::Base)?;
    Ok(Some(row(&scores, setup.tasks.test.len())))
}

fn manifest(
    setup: &Setup,
    pipeline: &Pipeline,
    (update, chunks): (usize, &[ChunkData]),
    parent: Option<&Finished>,
) -> anyhow::Result<Manifest> {
    let tasks = setup.tasks;
    let measured = if setup.future { tasks.test.len() } else { setup.seen(update) };
    let snapshot = match parent {
        Some(parent) => Some(SnapshotData {
            object: describe(&parent.out.join("snapshot.json"))?,
            chunks: tasks.train.iter().filter(|chunk| parent.trained.chunks.contains(&chunk.id)).cloned().collect(),
        }),
        None => None,
    };
    Ok(Manifest {
        run: update as u64 + 1,
        update: update as u64,
        pipeline: pipeline.clone(),
        labels: pipeline.labels.clone(),
        parent: parent.map(|_| Parent { version: Version(update as u64), files: Vec::new() }),
        chunks: chunks.to_vec(),
        late: Vec::new(),
        snapshot,
        eval_sets: tasks.test[..measured].to_vec(),
        import: None,
    })
}

fn describe(file: &Path) -> anyhow::Result<ObjectRef> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    Ok(ObjectRef {
        path: file.display().to_string(),
        sha256: hex::encode(Sha256::digest(&bytes)),
        bytes: bytes.len() as u64,
    })
}

fn job(setup: &Setup, manifest: Manifest, parent: Option<&Finished>) -> TrainJob {
    let seen = setup.seen(manifest.update as usize);
    let name = format!("seed-{}-update-{}", manifest.pipeline.seed, manifest.update);
    TrainJob {
        base_model: setup.base_model.map(Path::to_owned),
        parent: parent.map(|parent| parent.out.clone()),
        import: None,
        snapshot: parent.map(|parent| parent.out.join("snapshot.json")),
        shards: setup.tasks.shelf.files.clone(),
        out: setup.folder.join(&name),
        checkpoints: setup.folder.join(format!("{name}-checkpoints")),
        resume: None,
        device: setup.device.to_owned(),
        probe: setup.eval_every.map(|every| Probe { every, sets: setup.tasks.test[..seen].to_vec() }),
        manifest,
    }
}

fn train(setup: &Setup, job: &TrainJob) -> anyhow::Result<Trained> {
    let mut progress = |at| setup.watch.step(at);
    match &setup.gang {
        Some(gang) => {
            gang.train(job, &format!("{}/{}", job.manifest.pipeline.seed, job.manifest.update), &mut progress)
        }
        None => Ok(rank::train(job, &Solo, &clock(), &mut progress)?),
    }
}

enum Subject {
    /// What the update left.
    Version,
    /// The base with its initial head.
    Base,
}

/// Scores on the EvalSets of an update that is done.
fn evaluate(update: &TrainJob, subject: Subject) -> anyhow::Result<Vec<Score>> {
    let (version, preprocessor) = match subject {
        Subject::Version => (Some(update.out.clone()), None),
        Subject::Base => (None, Some(update.out.join(learn::data::images::PREPROCESSOR))),
    };
    let job = EvalJob {
        manifest: update.manifest.clone(),
        base_model: update.base_model.clone(),
        subject: version,
        candidate: None,
        preprocessor,
        sets: update.manifest.eval_sets.clone(),
        shards: update.shards.clone(),
        device: update.device.clone(),
        threads: update.manifest.pipeline.resources.threads_per_rank.get(),
    };
    Ok(score::evaluate(&job, &mut |_| ())?)
}

/// Lets the kernel measure the largest resident set from here on. Where it refuses, peaks of earlier
/// seeds still count.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn row(scores: &[Score], tasks: usize) -> Vec<Option<f64>> {
    let mut row: Vec<Option<f64>> = scores.iter().map(|score| Some(score.accuracy())).collect();
    row.resize(tasks, None);
    row
}

fn say(setup: &Setup, seed: u64, update: usize, trained: &Trained, matrix: &AccuracyMatrix) {
    let own = if setup.at_once { None } else { matrix.rows[update][update] };
    let own = own.map(|own| format!("{} % on it, ", percent(Some(own)))).unwrap_or_default();
    setup.watch.say(&format!(
        "seed {seed}, update {}/{} ({}): {} steps in {:.1} s; accuracy {own}{} % on all so far",
        update + 1,
        setup.updates().len(),
        setup.title(update),
        trained.cost.steps,
        trained.cost.train_seconds,
        percent(matrix.average_after(update)),
    ));
}
