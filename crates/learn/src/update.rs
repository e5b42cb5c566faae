//! The loop: one update of a pipeline, from the parent's weights to the candidate's.
//!
//! A step's batch is cut into L micro-batches whatever the number of ranks; whatever looks at more
//! than one row looks at one micro-batch only. With `ordered` reduction the L partial gradients are
//! added in the same order on every rank, so that the world size does not change a bit.

use collective::Collective;
use domain::buffer::Snapshot;
use domain::draw::Draw;
use domain::manifest::Manifest;
use domain::pipeline::{BufferUpdate, Policy, Reduction};
use tch::{Device, Kind, Tensor};

use crate::batch::Order;
use crate::carried::Carried;
use crate::checkpoint::Saved;
use crate::data::Reader;
use crate::descent::Descent;
use crate::intake::{Initial, Intake};
use crate::memory::{Logits, Memory, Rows};
use crate::method::{self, End, Keeps, Reads, Start, UpdateMethod};
use crate::model::{Net, normalised};
use crate::optim::{self, Optimizer};
use crate::stage::{self, Stage};
use crate::{Error, Flat, Pool, Prefix, files};

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
    left: Left<'a>,
}

impl Moment<'_> {
    /// What a checkpoint holds besides.
    pub fn carried(&self) -> Carried {
        self.left.carried()
    }

    /// What `ask` finds in the net with the weights that would become the version now.
    pub fn deployed<T>(&self, ask: impl FnOnce() -> T) -> T {
        match self.left.method.deployed() {
            Some(values) => self.left.weights.with(values, ask),
            None => ask(),
        }
    }
}

/// Where what an update hands over is at hand.
struct Left<'a> {
    method: &'a dyn UpdateMethod,
    memory: &'a Memory<'a>,
    weights: &'a Flat,
}

impl Left<'_> {
    fn carried(&self) -> Carried {
        Carried::new(self.method.state(), self.memory, self.weights)
    }
}

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
}

/// Trains `weights`, the leaves of `net`, through all remaining steps.
pub fn run(
    net: &Net,
    weights: &mut Flat,
    inputs: Inputs,
    collective: &dyn Collective,
    after_step: &mut dyn FnMut(&Moment) -> Result<(), Error>,
) -> Result<Outcome, Error> {
    let (mut update, mut at) = Update::begin(net, weights, inputs, collective)?;
    while at.done < update.total() {
        let (loss, epoch) = update.step(weights, &mut at)?;
        at.loss = Some(loss);
        if !loss.is_finite() {
            break;
        }
        at.done += 1;
        after_step(&update.moment(weights, &at, loss, epoch))?;
    }
    update.end(weights, at)
}

/// How far an update has come.
struct Progress {
    /// Steps.
    done: u64,
    loss: Option<f64>,
    optimizer: Box<dyn Optimizer>,
    /// Of the rows of the stage it is in.
    order: Order,
}

/// Everything that does not change from step to step, but for the method's state and memory.
struct Update<'a> {
    manifest: &'a Manifest,
    method: Box<dyn UpdateMethod>,
    stages: Vec<Stage>,
    memory: Memory<'a>,
    descent: Descent<'a>,
    base: Option<Tensor>,
    initial: Initial<'a>,
    /// Rows are offered as they come.
    online: bool,
}

impl<'a> Update<'a> {
    fn begin(
        net: &'a Net,
        weights: &mut Flat,
        inputs: Inputs<'a>,
        collective: &'a dyn Collective,
    ) -> Result<(Self, Progress), Error> {
        let Inputs { manifest, pool, reader, prefix, snapshot, carried, parent_labels, base, initial, resume, clock } =
            inputs;
        let pipeline = &manifest.pipeline;
        let draw = |purpose| Draw::new(pipeline.seed).named(purpose).at(manifest.update);
        let online = pipeline.buffer_update() == BufferUpdate::Online;
        let remembers = online || !snapshot.slots.is_empty();
        let mut method = method::build(pipeline);
        let stages =
            stage::stages(method::phases(pipeline.method), &pipeline.training, pool, remembers, draw("order"))?;

        let found = resume.as_ref().map_or(&carried, |saved| &saved.carried);
        // A parent that has seen no row here was trained elsewhere, on each of its labels.
        let imported = vec![1; parent_labels];
        let seen = if snapshot.seen == 0 { &imported[..] } else { &snapshot.seen_by_label[..] };
        let start = Start { weights, fresh: pool.fresh, seen, labels: pool.labels(), draw: draw("method") };
        method.begin(&start, found.state(weights));
        let (snapshot, done, loss) = match &resume {
            Some(saved) => (saved.snapshot.clone(), saved.step, saved.loss),
            None => (snapshot, 0, None),
        };
        let logits = (method.keeps() != Keeps::Nothing).then(|| remembered(found, &snapshot, manifest.labels.len()));
        let optimizer = optim::build(&pipeline.training, &weights.values);
        if let Some(saved) = &resume {
            saved.restore(&mut weights.values, optimizer.as_ref());
        }
        let training = &pipeline.training;
        let descent = Descent {
            net,
            pool,
            reader,
            prefix,
            collective,
            reduction: training.reduction.unwrap_or_else(|| default_reduction(weights.values.device())),
            parts: training.micro_batches(),
            noise: training.dropout.then(|| draw("dropout")),
        };
        let uses = pipeline.rehearsal.weights;
        let mut memory = Memory::new(snapshot, logits, uses, pool, draw("replay"), clock);
        memory.target = found.target().filter(|_| pipeline.policy() == Policy::Gmc);
        let mut update = Self { manifest, method, stages, memory, descent, base, initial, online };
        if resume.is_none() {
            // What another method remembered has none: the parent's own are the best there are.
            let unknown = update.memory.unknown();
            update.intake().keep(&unknown)?;
        }
        let order = update.order(update.stage(done));
        Ok((update, Progress { done, loss, optimizer, order }))
    }

    fn total(&self) -> u64 {
        self.stages.last().map_or(0, Stage::end)
    }

    /// Which stage a step belongs to.
    fn stage(&self, step: u64) -> &Stage {
        let after = self.stages.partition_point(|stage| stage.start <= step);
        &self.stages[after - 1]
    }

    fn order(&self, stage: &Stage) -> Order {
        let rows = stage.rows(self.descent.pool, self.memory.snapshot.slots.len());
        Order::new(stage.draw, rows, stage.batch)
    }

    /// One step: its loss, and the epoch it belongs to.
    fn step(&mut self, weights: &mut Flat, at: &mut Progress) -> Result<(f64, u64), Error> {
        if self.stage(at.done).start == at.done {
            self.enter(weights, at)?;
        }
        let (training, stage) = (&self.manifest.pipeline.training, self.stage(at.done));
        let (within, steps, replayed, reads) = (at.done - stage.start, stage.steps, stage.replayed, stage.phase.reads);
        let (epoch, numbers) = (at.order.epoch_of(within), at.order.rows(within));
        let memory = self.memory.draw(at.done, self.method.draws(), replayed);
        let fresh = match reads {
            Reads::Memory => self.memory.rows(&numbers),
            _ => Rows { positions: numbers.iter().map(|&row| row as i64).collect(), logits: None, weights: None },
        };
        let wants_logits = self.memory.logits.is_some() && self.offers(epoch);
        let (mut gradient, mut loss, logits) =
            self.descent.gradient(self.method.as_ref(), weights, at.done, &fresh, &memory, wants_logits)?;
        if let Some((pull, value)) = self.method.pull(&weights.values) {
            gradient += pull;
            loss += value;
        }
        if loss.is_finite() {
            at.optimizer.step(&mut weights.values, &gradient, within, optim::rate(training, within, steps));
            self.method.after_step(&weights.values, at.done);
            if self.offers(epoch) {
                self.memory.offer(&numbers, logits.as_ref());
            }
        }
        Ok((loss, epoch))
    }

    /// What comes before a stage's first step.
    fn enter(&mut self, weights: &mut Flat, at: &mut Progress) -> Result<(), Error> {
        let phase = self.stage(at.done).phase;
        if phase.reads == Reads::Memory {
            let keeps = self.method.keeps();
            self.intake().take(keeps)?;
        }
        if let (true, Some(base)) = (phase.anew, &self.base) {
            let _guard = tch::no_grad_guard();
            weights.values.copy_(base);
        }
        at.order = self.order(self.stage(at.done));
        at.optimizer = optim::build(&self.manifest.pipeline.training, &weights.values);
        Ok(())
    }

    fn intake(&mut self) -> Intake<'_, 'a> {
        let Self { memory, descent, manifest, initial, .. } = self;
        Intake { memory, descent, pipeline: &manifest.pipeline, initial: *initial }
    }

    fn offers(&self, epoch: u64) -> bool {
        // Each row comes once in an epoch, so offering only in the first offers it once an update.
        self.online && epoch == 0
    }

    fn moment<'m>(&'m self, weights: &'m Flat, at: &'m Progress, loss: f64, epoch: u64) -> Moment<'m> {
        let (values, optimizer, snapshot) = (&weights.values, at.optimizer.as_ref(), &self.memory.snapshot);
        let left = Left { method: self.method.as_ref(), memory: &self.memory, weights };
        Moment { step: at.done, total: self.total(), epoch, loss, values, optimizer, snapshot, left }
    }

    fn end(mut self, weights: &mut Flat, at: Progress) -> Result<Outcome, Error> {
        let whole = at.done == self.total();
        if whole {
            self.conclude(weights)?;
        }
        let left = Left { method: self.method.as_ref(), memory: &self.memory, weights };
        let (carried, finite) = (left.carried(), whole && files::is_finite(&weights.values));
        let means = if whole && self.method.decides_by_means() { Some(self.means()?) } else { None };
        let Memory { mut snapshot, seconds: rehearsal_seconds, .. } = self.memory;
        buffer::compact(&mut snapshot);
        Ok(Outcome { steps: at.done, loss: at.loss, finite, snapshot, carried, means, rehearsal_seconds })
    }

    /// What comes after the last step.
    fn conclude(&mut self, weights: &Flat) -> Result<(), Error> {
        let offered = self.online || self.stages.iter().any(|stage| stage.phase.reads == Reads::Memory);
        let keeps = self.method.keeps();
        if !offered {
            self.intake().take(keeps)?;
        }
        if keeps == Keeps::Refreshed {
            let all: Vec<usize> = (0..self.memory.snapshot.slots.len()).collect();
            self.intake().keep(&all)?;
        }
        let descent = &self.descent;
        let mut gradient = |row| descent.row_gradient(weights, row);
        self.method.end(weights, End { gradient: &mut gradient, fresh: descent.pool.fresh })
    }
}

impl Update<'_> {
    /// Of memory's rows, class by class: NaN where there is none.
    fn means(&self) -> Result<Tensor, Error> {
        let slots = &self.memory.snapshot.slots;
        if slots.is_empty() {
            let shape = [self.manifest.labels.len() as i64, self.descent.net.body.width()];
            return Ok(Tensor::full(shape, f64::NAN, tch::kind::FLOAT_CPU));
        }
        let features = self.descent.features(&self.memory.positions(&(0..slots.len()).collect::<Vec<_>>()))?;
        let labels: Vec<i64> = slots.iter().map(|slot| i64::from(slot.label)).collect();
        let classes = self.manifest.labels.len() as i64;
        let members = Tensor::from_slice(&labels).one_hot(classes).to_kind(Kind::Float).transpose(0, 1);
        let sums = members.matmul(&normalised(&features));
        let counts = members.sum_dim_intlist(&[1i64][..], true, Kind::Float);
        Ok(normalised(&sums) / counts.clamp_max(1.0).masked_fill(&counts.eq(0.0), f64::NAN))
    }
}

/// The logits of a snapshot's rows, as far as they are known.
fn remembered(found: &Carried, snapshot: &Snapshot, classes: usize) -> Logits {
    let slots = snapshot.slots.len();
    match found.logits() {
        Some(stored) => Logits::read(stored, slots, classes),
        None => Logits::unknown(slots, classes),
    }
}

fn default_reduction(device: Device) -> Reduction {
    if device == Device::Cpu { Reduction::Ordered } else { Reduction::Fast }
}
