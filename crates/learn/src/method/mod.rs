//! Update methods: one is its loss, what it reads, and what must outlive it. The loop belongs to `update`.

mod cls_er;
mod copies;
mod der;
mod er;
mod ewc;
mod fine_tune;
mod gdumb;
mod icarl;
mod joint;
mod lwf;
mod offline_er;
mod pod_er;
mod rd;
mod super_er;
mod terms;

use std::cell::RefCell;
use std::collections::BTreeMap;

use domain::draw::Draw;
use domain::pipeline::{FeaturePooling, Method, Normalization, Pipeline};
use tch::Tensor;

use crate::flat::{Flat, Pass};
use crate::input::Input;
use crate::model::dropout::Noise;
use crate::model::{Net, Seen};

/// Rows of one micro-batch.
pub struct Batch {
    pub inputs: Input,
    /// (rows)
    pub labels: Tensor,
    /// (rows, columns): what memory keeps of them, pooled features and then logits; NaN for classes that were not known
    /// when a row entered, or where nothing was kept. None where no method asks.
    pub kept: Option<Tensor>,
    /// (rows): what each row's loss is multiplied by. None where all count the same.
    pub weights: Option<Tensor>,
    /// What a mean divides by: the rows of the whole step that this is a part of. If rows were chosen out of the part, as
    /// many as make the part count what it would whole.
    pub of: f64,
    /// (rows, classes): 0, or −∞ for a class that is left out of a row's cross-entropy. None where none is.
    pub absent: Option<Tensor>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.labels.numel() == 0
    }
}

/// A net at one micro-batch of one step.
pub struct Learner<'a> {
    net: &'a Net,
    weights: &'a Flat,
    /// Of dropout masks; None without.
    noise: Option<Draw>,
    /// What each of its passes measured.
    passes: RefCell<Vec<Pass>>,
}

impl<'a> Learner<'a> {
    pub fn new(net: &'a Net, weights: &'a Flat, noise: Option<Draw>) -> Self {
        Self { net, weights, noise, passes: RefCell::default() }
    }

    /// -> logits (rows, classes), f32, with dropout and the statistics of these rows.
    pub fn forward(&self, input: &Input) -> Tensor {
        self.pass(input, |noise, statistics| self.net.learn(input, noise, statistics))
    }

    /// The logits of each batch, in one pass over all that have rows: a layer that looks at more than one row looks at all
    /// of them.
    pub fn forward_all<const N: usize>(&self, batches: [&Batch; N]) -> [Tensor; N] {
        let logits = self.forward(&joined(&batches));
        let rows = batches.map(|batch| batch.labels.numel() as i64);
        let mut parts = logits.split_with_sizes(&rows[..], 0).into_iter();
        rows.map(|_| parts.next().expect("one part a batch"))
    }

    /// Logits and pooled features of each batch, in one pass over all that have rows.
    pub fn observe_all(&self, pooling: FeaturePooling, batches: &[&Batch]) -> Vec<Seen> {
        let input = joined(batches);
        let all = self.pass(&input, |noise, statistics| self.net.observe(&input, noise, statistics, pooling));
        let mut start = 0;
        let seen = batches.iter().map(|batch| {
            let first = start;
            let logits = part(&all.logits, batch, &mut start);
            let levels = all.levels.iter().map(|level| part(level, batch, &mut { first })).collect();
            Seen { levels, logits }
        });
        seen.collect()
    }

    /// Each pass has masks of its own, and measures its rows.
    fn pass<T>(&self, input: &Input, run: impl FnOnce(Option<Noise>, Option<&Tensor>) -> T) -> T {
        let mut passes = self.passes.borrow_mut();
        let noise = self.noise.map(|draw| Noise::new(draw.at(passes.len() as u64)));
        let statistics = self.weights.statistics();
        let made = run(noise, statistics.as_ref());
        passes.push(Pass { rows: input.rows(), statistics });
        made
    }

    /// What its passes measured until now.
    pub fn measured(self) -> Vec<Pass> {
        self.passes.into_inner()
    }

    /// What the net would answer with other weights: logits without gradient, without dropout, with running statistics.
    pub fn asked(&self, values: &Tensor, input: &Input) -> Tensor {
        self.weights.with(values, || self.net.forward(input))
    }
}

/// The inputs of all batches that have rows.
fn joined(batches: &[&Batch]) -> Input {
    let mut inputs = batches.iter().filter(|batch| !batch.is_empty()).map(|batch| &batch.inputs);
    let first = inputs.next().expect("a micro-batch has rows");
    match inputs.next() {
        Some(second) => inputs.fold(first.then(second), |all, next| all.then(next)),
        None => first.narrow(0, first.rows()),
    }
}

/// A batch's rows of `all`, from `start`, which moves on.
fn part(all: &Tensor, batch: &Batch, start: &mut i64) -> Tensor {
    let rows = batch.labels.numel() as i64;
    *start += rows;
    all.narrow(0, *start - rows, rows)
}

/// What one micro-batch's step comes to.
pub struct Step {
    /// The micro-batch's part of the scalar that a step descends. The parts of a step add up to it.
    pub loss: Tensor,
    /// What memory would keep of the new rows (rows, columns): their logits, if nothing is kept.
    pub fresh: Tensor,
    /// The same of each replay batch, where a method keeps answers.
    pub replayed: Vec<Tensor>,
}

impl Step {
    /// Of a method that keeps nothing of replayed rows.
    pub fn new(loss: Tensor, logits: Tensor) -> Self {
        Self { loss, fresh: logits, replayed: Vec::new() }
    }
}

/// Where the rows of a phase come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The chunk alone.
    Chunk,
    /// The chunk, with replay batches beside each of its batches.
    Replay,
    /// Every remembered row, as if it were the chunk's.
    Everything,
    /// Remembered rows alone, which the chunk's have joined. As many steps as an update on the chunk would take.
    Memory,
}

/// A part of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    pub reads: Reads,
    /// Starts from the base's weights instead of those before it.
    pub anew: bool,
}

/// What memory keeps of its rows, besides where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Pooled so.
    pub features: Option<FeaturePooling>,
    pub logits: bool,
    /// What the update's last weights answer to every row, instead of what those of its time answered to it.
    pub refreshed: bool,
}

impl Keeps {
    pub const NOTHING: Self = Self { features: None, logits: false, refreshed: false };
    pub const LOGITS: Self = Self { logits: true, ..Self::NOTHING };

    pub fn anything(self) -> bool {
        self.features.is_some() || self.logits
    }

    /// What is kept of rows that were seen: (rows, columns).
    pub fn of(self, seen: &Seen) -> Tensor {
        let levels = seen.levels.iter().filter(|_| self.features.is_some());
        let parts: Vec<&Tensor> = levels.chain(Some(&seen.logits).filter(|_| self.logits)).collect();
        Tensor::cat(&parts, 1)
    }
}

/// What a method knows before the first step.
pub struct Start<'a> {
    /// The parent's.
    pub weights: &'a Flat,
    /// Rows of the chunk.
    pub fresh: usize,
    /// Rows of each label in all chunks before it.
    pub seen: &'a [u64],
    /// Labels of the rows that the update reads.
    pub labels: &'a [u32],
    /// Of the method's own draws.
    pub draw: Draw,
}

/// What a method may look at after the last step.
pub struct End<'a> {
    /// The gradient of the negative log-likelihood of one of the chunk's rows.
    pub gradient: &'a mut dyn FnMut(usize) -> Result<Tensor, crate::Error>,
    pub fresh: usize,
}

/// A method's tensors, by name. One as long as the weights is laid out as they are; NaN where a head has grown since.
pub type State = BTreeMap<String, Tensor>;

pub trait UpdateMethod {
    fn loss(&self, learner: &Learner, fresh: &Batch, memory: &[Batch]) -> Step;

    /// Replay batches of a step, each drawn on its own.
    fn draws(&self) -> usize {
        1
    }

    fn keeps(&self) -> Keeps {
        Keeps::NOTHING
    }

    /// Whether the mean features of memory's classes decide, and not the head.
    fn decides_by_means(&self) -> bool {
        false
    }

    /// `state` is what the parent's update left, or what a checkpoint holds.
    fn begin(&mut self, _start: &Start, _state: State) {}

    /// The gradient and the value of what does not depend on rows.
    fn pull(&self, _values: &Tensor) -> Option<(Tensor, f64)> {
        None
    }

    fn after_step(&mut self, _values: &Tensor, _step: u64) {}

    /// The weights that would become the version now, where those that train would not.
    fn deployed(&self) -> Option<&Tensor> {
        None
    }

    fn end(&mut self, _weights: &Flat, _end: End) -> Result<(), crate::Error> {
        Ok(())
    }

    /// What a checkpoint holds, and the next update begins with.
    fn state(&self) -> State {
        State::new()
    }
}

/// What a method goes through, one after the other.
pub const fn phases(method: Method) -> &'static [Phase] {
    const fn phase(reads: Reads) -> Phase {
        Phase { reads, anew: false }
    }
    match method {
        Method::Ft | Method::Ewc | Method::OnlineEwc | Method::Lwf => const { &[phase(Reads::Chunk)] },
        Method::Er
        | Method::OfflineEr
        | Method::Der
        | Method::DerPlusPlus
        | Method::PodEr
        | Method::ClsEr
        | Method::SuperEr => const { &[phase(Reads::Replay)] },
        Method::Joint | Method::Icarl => const { &[phase(Reads::Everything)] },
        Method::Gdumb => &[Phase { reads: Reads::Memory, anew: true }],
        Method::Rd => &[Phase { reads: Reads::Chunk, anew: true }, Phase { reads: Reads::Memory, anew: true }],
    }
}

pub fn build(pipeline: &Pipeline) -> Box<dyn UpdateMethod> {
    let number = |name| pipeline.parameter(name);
    match pipeline.method {
        Method::Ft => Box::new(fine_tune::FineTune),
        Method::Er => Box::new(er::ExperienceReplay { alpha: number("alpha"), sum: normalizes(pipeline) }),
        Method::OfflineEr => Box::new(offline_er::OfflineReplay::default()),
        Method::Der | Method::DerPlusPlus => Box::new(der::DarkReplay::new(pipeline)),
        Method::PodEr => Box::new(pod_er::PooledReplay::new(pipeline)),
        Method::ClsEr => Box::new(cls_er::ComplementarySystems::new(pipeline)),
        Method::SuperEr => Box::new(super_er::SuperReplay::new(pipeline)),
        Method::Rd => Box::new(rd::RepeatedDistillation),
        Method::Ewc => Box::new(ewc::Consolidation::new(number("lambda"), None)),
        Method::OnlineEwc => Box::new(ewc::Consolidation::new(number("lambda"), Some(number("gamma")))),
        Method::Lwf => {
            Box::new(lwf::WithoutForgetting::new(number("alpha"), number("temperature"), normalizes(pipeline)))
        }
        Method::Icarl => Box::new(icarl::Icarl::default()),
        Method::Gdumb => Box::new(gdumb::Gdumb),
        Method::Joint => Box::new(joint::Joint),
    }
}

/// Whether terms are divided by the sum of their weights.
fn normalizes(pipeline: &Pipeline) -> bool {
    pipeline.loss.normalization == Normalization::Sum
}
