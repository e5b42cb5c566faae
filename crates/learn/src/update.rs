//! The loop: one update of a pipeline, from the parent's weights to the candidate's.
//!
//! A step's batch is cut into L micro-batches whatever the number of ranks; whatever looks at more
//! than one row looks at one micro-batch only. With `ordered` reduction the L partial gradients are
//! added in the same order on every rank, so that the world size does not change a bit.

mod begin;
mod steps;

use collective::Collective;
use domain::buffer::Snapshot;
use domain::manifest::Manifest;
use tch::Tensor;

use crate::carried::Carried;
use crate::checkpoint::Saved;
use crate::data::Reader;
use crate::intake::Initial;
use crate::model::Net;
use crate::optim::Optimizer;
use crate::validation::Validation;
use crate::{Error, Flat, Pool, Prefix};
use steps::Update;

/// What an update reads.
pub struct Inputs<'a> {
    pub manifest: &'a Manifest,
    pub pool: &'a Pool,
    pub reader: &'a Reader,
    /// Where blocks below every adapter have been run.
    pub prefix: Option<&'a Prefix<'a>>,
    /// The parent's rehearsal buffer, or an empty one.
    pub snapshot: Snapshot,
    /// What the parent left besides, its slots being the snapshot's.
    pub carried: Carried,
    /// Labels of the parent's head; 0 without a parent.
    pub parent_labels: usize,
    /// The base's weights, laid out as the net's: what a method that starts anew starts from.
    pub base: Option<Tensor>,
    /// What a coreset's gradients are taken at.
    pub initial: Initial<'a>,
    pub resume: Option<Saved>,
    /// Seconds from any fixed moment.
    pub clock: &'a dyn Fn() -> f64,
}

/// The state after a step.
pub struct Moment<'a> {
    /// Steps done.
    pub step: u64,
    pub total: u64,
    pub epoch: u64,
    pub loss: f64,
    pub values: &'a Tensor,
    pub optimizer: &'a dyn Optimizer,
    pub snapshot: &'a Snapshot,
    pub dropped_rows: u64,
    left: Left<'a>,
}

impl Moment<'_> {
    /// What a checkpoint holds besides.
    pub fn carried(&self) -> Carried {
        self.left.carried()
    }

    /// What `ask` finds in the net with the weights that would become the version now.
    pub fn deployed<T>(&self, ask: impl FnOnce() -> T) -> T {
        match self.left.update.method.deployed() {
            Some(values) => self.left.weights.with(values, ask),
            None => ask(),
        }
    }
}

/// Where what an update hands over is at hand.
struct Left<'a> {
    update: &'a Update<'a>,
    weights: &'a Flat,
}

impl Left<'_> {
    /// What the next update begins with.
    fn handed_over(&self) -> Carried {
        Carried::new(self.update.method.state(), &self.update.memory, self.weights)
    }

    /// And what the rest of this one goes by.
    fn carried(&self) -> Carried {
        let mut carried = self.handed_over();
        carried.0.extend(self.update.validation.iter().flat_map(Validation::state));
        if self.update.selector.remembers() {
            carried.0.insert(LOSSES.to_owned(), Tensor::from_slice(self.update.selector.history()));
        }
        let residual = self.update.memory.residual.map(|residual| Tensor::from_slice(&[residual]));
        carried.0.extend(residual.map(|residual| (RESIDUAL.to_owned(), residual)));
        carried
    }
}

/// Among what a checkpoint holds: how far memory's gradient is from its target.
const RESIDUAL: &str = "memory.residual";
/// The losses that `sb-history` compares with.
const LOSSES: &str = "selection.losses";

/// What an update leaves, besides the weights.
pub struct Outcome {
    pub steps: u64,
    /// Of the last step.
    pub loss: Option<f64>,
    /// False if training stopped at, or ended in, NaN or infinite values.
    pub finite: bool,
    pub snapshot: Snapshot,
    pub carried: Carried,
    /// (classes, width), where the nearest one decides.
    pub means: Option<Tensor>,
    /// What the rehearsal buffer's draws and offers took.
    pub rehearsal_seconds: f64,
    /// Rows left out of a step because the net's answers to them were no numbers.
    pub dropped_rows: u64,
    /// Where rows were set aside: the epoch whose weights these are, from 1.
    pub best_epoch: Option<u64>,
    /// Where it is measured: `‖b − Σ w·g‖ / ‖b‖` of memory's rows, b being the gradient of everything ever offered.
    pub memory_residual: Option<f64>,
    /// What measuring it took.
    pub measuring_seconds: f64,
}

impl Outcome {
    /// Of weights that no step has changed.
    pub fn untrained(snapshot: Snapshot, carried: Carried) -> Self {
        Self {
            steps: 0,
            loss: None,
            finite: true,
            snapshot,
            carried,
            means: None,
            rehearsal_seconds: 0.0,
            dropped_rows: 0,
            best_epoch: None,
            memory_residual: None,
            measuring_seconds: 0.0,
        }
    }
}

/// Trains `weights`, the leaves of `net`, through all remaining steps.
pub fn run(
    net: &Net,
    weights: &mut Flat,
    inputs: Inputs,
    collective: &dyn Collective,
    after_step: &mut dyn FnMut(&Moment) -> Result<(), Error>,
) -> Result<Outcome, Error> {
    let (mut update, mut at) = begin::begin(net, weights, inputs, collective)?;
    while at.done < update.total() && !update.is_over() {
        let (loss, epoch) = update.step(weights, &mut at)?;
        at.loss = Some(loss);
        if !loss.is_finite() {
            break;
        }
        at.done += 1;
        update.validate(weights, at.done)?;
        after_step(&update.moment(weights, &at, loss, epoch))?;
    }
    update.end(weights, at)
}
