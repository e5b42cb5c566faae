//! Update methods: one is its loss, what it reads, and what must outlive it. The loop belongs to `update`.

mod cls_er;
mod der;
mod er;
mod ewc;
mod fine_tune;
mod gdumb;
mod icarl;
mod joint;
mod lwf;
mod offline_er;
mod rd;
mod terms;

use std::cell::Cell;
use std::collections::BTreeMap;

use domain::draw::Draw;
use domain::pipeline::{Method, Normalization, Pipeline};
use tch::Tensor;

use crate::Flat;
use crate::input::Input;
use crate::model::Net;
use crate::model::dropout::Noise;

/// Rows of one micro-batch.
pub struct Batch {
    pub inputs: Input,
    /// (rows)
    pub labels: Tensor,
    /// (rows, classes): the logits that rows had when they entered memory; NaN for classes that were not known then, or
    /// where none were kept. None where no method asks.
    pub logits: Option<Tensor>,
    /// (rows): what each row's loss is multiplied by. None where all count the same.
    pub weights: Option<Tensor>,
    /// Rows of the whole step that this is a part of: what a mean divides by.
    pub of: usize,
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
    passes: Cell<u64>,
}

impl<'a> Learner<'a> {
    pub fn new(net: &'a Net, weights: &'a Flat, noise: Option<Draw>) -> Self {
        Self { net, weights, noise, passes: Cell::new(0) }
    }

    /// -> logits (rows, classes), f32, with dropout. Each pass has masks of its own.
    pub fn forward(&self, input: &Input) -> Tensor {
        let pass = self.passes.replace(self.passes.get() + 1);
        self.net.learn(input, self.noise.map(|draw| Noise::new(draw.at(pass))))
    }

    /// The logits of each batch, in one pass over all that have rows: no layer looks at more than one row.
    pub fn forward_all<const N: usize>(&self, batches: [&Batch; N]) -> [Tensor; N] {
        let mut inputs = batches.iter().filter(|batch| !batch.is_empty()).map(|batch| &batch.inputs);
        let first = inputs.next().expect("a micro-batch has rows");
        let joined = inputs.fold(None, |all: Option<Input>, next| Some(all.as_ref().unwrap_or(first).then(next)));
        let logits = self.forward(joined.as_ref().unwrap_or(first));
        let rows = batches.map(|batch| batch.labels.numel() as i64);
        let mut parts = logits.split_with_sizes(&rows[..], 0).into_iter();
        rows.map(|_| parts.next().expect("one part a batch"))
    }

    /// What the net would answer with other weights: logits without gradient and without dropout.
    pub fn asked(&self, values: &Tensor, input: &Input) -> Tensor {
        self.weights.with(values, || self.net.forward(input))
    }
}

/// What one micro-batch's step comes to.
pub struct Step {
    /// The micro-batch's part of the scalar that a step descends. The parts of a step add up to it.
    pub loss: Tensor,
    /// Of the new rows (rows, classes).
    pub logits: Tensor,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    Nothing,
    /// The logits that they had when they entered.
    Logits,
    /// The logits that the last update's weights give them.
    Refreshed,
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
        Keeps::Nothing
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
        Method::Er | Method::OfflineEr | Method::Der | Method::DerPlusPlus | Method::ClsEr => {
            const { &[phase(Reads::Replay)] }
        }
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
        Method::ClsEr => Box::new(cls_er::ComplementarySystems::new(pipeline)),
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
