//! The loop: one update of a pipeline, from the parent's weights to the candidate's.
//!
//! A step's batch is cut into L micro-batches whatever the number of ranks; whatever looks at more
//! than one row looks at one micro-batch only. With `ordered` reduction the L partial gradients are
//! added in the same order on every rank, so that the world size does not change a bit.

use std::ops::Range;

use collective::Collective;
use domain::buffer::Snapshot;
use domain::draw::Draw;
use domain::manifest::Manifest;
use domain::pipeline::{BufferUpdate, Reduction, Training};
use tch::{Device, Tensor};

use crate::batch::{Order, part};
use crate::checkpoint::Saved;
use crate::data::Reader;
use crate::method::{self, Batch, Learner, Reads, UpdateMethod};
use crate::model::Net;
use crate::optim::{self, Optimizer};
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
}

/// What an update leaves, besides the weights.
pub struct Outcome {
    pub steps: u64,
    /// Of the last step.
    pub loss: Option<f64>,
    /// False if training stopped at, or ended in, NaN or infinite values.
    pub finite: bool,
    pub snapshot: Snapshot,
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
    let Inputs { manifest, pool, reader, prefix, snapshot, resume, clock } = inputs;
    let (pipeline, training) = (&manifest.pipeline, &manifest.pipeline.training);
    let method = method::build(pipeline.method);
    let online = pipeline.rehearsal.update == BufferUpdate::Step;
    let remembers = online || !snapshot.slots.is_empty();
    let (rows, batch, replayed) = extent(method.reads(), pool, remembers, training);
    if rows == 0 {
        return Err(Error::NoRows { purpose: "train on" });
    }
    let mut order = Order::new(pipeline.seed, manifest.update, rows, batch, u64::from(training.epochs.get()));
    let stream = Draw::new(pipeline.seed).named("replay").at(manifest.update);
    let mut rehearsal = Rehearsal { snapshot, pool, stream, clock, seconds: 0.0 };
    let mut optimizer = optim::build(training, &weights.values);
    let (mut done, mut loss) = (0, None);
    if let Some(saved) = resume {
        saved.restore(&mut weights.values, optimizer.as_ref());
        (done, loss, rehearsal.snapshot) = (saved.step, saved.loss, saved.snapshot);
    }
    let reduction = training.reduction.unwrap_or_else(|| default_reduction(weights.values.device()));
    let parts = training.micro_batches();
    let noise = training.dropout.then(|| Draw::new(pipeline.seed).named("dropout").at(manifest.update));
    let descent = Descent { net, method, pool, reader, prefix, collective, reduction, parts, noise };
    let total = order.steps();

    while done < total {
        let (step, epoch) = (done, order.epoch_of(done));
        let fresh = order.rows(step);
        let memory = rehearsal.draw(step, replayed);
        let (gradient, reached) = descent.gradient(weights, step, &fresh, &memory)?;
        loss = Some(reached);
        if !reached.is_finite() {
            break;
        }
        optimizer.step(&mut weights.values, &gradient, step, optim::rate(training, step, total));
        if online && epoch == 0 {
            // Each row comes once in an epoch, so offering only in the first offers it once an update.
            rehearsal.offer(fresh.iter().map(|&row| row as usize));
        }
        done = step + 1;
        let (values, optimizer, snapshot) = (&weights.values, optimizer.as_ref(), &rehearsal.snapshot);
        after_step(&Moment { step: done, total, epoch, loss: reached, values, optimizer, snapshot })?;
    }

    if !online {
        rehearsal.offer(0..pool.fresh);
    }
    let Rehearsal { mut snapshot, seconds: rehearsal_seconds, .. } = rehearsal;
    buffer::compact(&mut snapshot);
    let finite = done == total && files::is_finite(&weights.values);
    Ok(Outcome { steps: done, loss, finite, snapshot, rehearsal_seconds })
}

/// Rows an epoch goes through, and of each step: rows of it, rows replayed beside them. Where nothing is remembered in
/// the whole update, new rows take the others' place.
fn extent(reads: Reads, pool: &Pool, remembers: bool, training: &Training) -> (usize, usize, usize) {
    let (new, memory) = training.split();
    let batch = training.batch_size.get() as usize;
    match reads {
        Reads::Chunk => (pool.fresh, batch, 0),
        Reads::Replay if remembers => (pool.fresh, new, memory),
        Reads::Replay => (pool.fresh, batch, 0),
        Reads::Everything => (pool.data.len(), batch, 0),
    }
}

fn default_reduction(device: Device) -> Reduction {
    if device == Device::Cpu { Reduction::Ordered } else { Reduction::Fast }
}

/// The rehearsal buffer at work, and how long that took.
struct Rehearsal<'a> {
    snapshot: Snapshot,
    pool: &'a Pool,
    stream: Draw,
    clock: &'a dyn Fn() -> f64,
    seconds: f64,
}

impl Rehearsal<'_> {
    /// Where the rows of a step's replay batch stand.
    fn draw(&mut self, step: u64, rows: usize) -> Vec<i64> {
        let start = (self.clock)();
        let slots = buffer::draw(&self.snapshot, self.stream, step, rows);
        let slots = slots.into_iter().map(|slot| &self.snapshot.slots[slot]);
        let positions = slots.map(|slot| self.pool.position(&self.snapshot, slot) as i64).collect();
        self.seconds += (self.clock)() - start;
        positions
    }

    /// Shows the buffer those of the rows that are the chunks'.
    fn offer(&mut self, rows: impl Iterator<Item = usize>) {
        let start = (self.clock)();
        for position in rows.filter(|&row| row < self.pool.fresh) {
            let (chunk, row) = self.pool.origin(position);
            buffer::offer(&mut self.snapshot, chunk, row, self.pool.label(position));
        }
        self.seconds += (self.clock)() - start;
    }
}

/// What it takes to know a step's gradient.
struct Descent<'a> {
    net: &'a Net,
    method: Box<dyn UpdateMethod>,
    pool: &'a Pool,
    reader: &'a Reader,
    prefix: Option<&'a Prefix<'a>>,
    collective: &'a dyn Collective,
    reduction: Reduction,
    /// L
    parts: usize,
    /// Of dropout masks.
    noise: Option<Draw>,
}

impl Descent<'_> {
    /// The gradient and the loss of a step's rows: the same on every rank.
    fn gradient(&self, weights: &Flat, step: u64, fresh: &[i64], memory: &[i64]) -> Result<(Tensor, f64), Error> {
        let mine = part(self.parts, self.collective.rank(), self.collective.world());
        let partials = mine.map(|l| {
            let (new, old) = (part(fresh.len(), l, self.parts), part(memory.len(), l, self.parts));
            if new.is_empty() && old.is_empty() {
                return Ok(weights.nothing());
            }
            let [new, old] = self.gather((fresh, new), (memory, old))?;
            let learner = Learner::new(self.net, self.noise.map(|draw| draw.at(step).at(l as u64)));
            Ok(weights.partial(&self.method.loss(&learner, &new, &old)))
        });
        let sum = self.reduce(partials)?;
        let values = weights.values.numel() as i64;
        Ok((sum.narrow(0, 0, values), sum.double_value(&[values])))
    }

    /// The micro-batch's new and remembered rows, fetched together.
    fn gather(
        &self,
        (fresh, new): (&[i64], Range<usize>),
        (memory, old): (&[i64], Range<usize>),
    ) -> Result<[Batch; 2], Error> {
        let (new_rows, old_rows) = (new.len() as i64, old.len() as i64);
        let rows = [&fresh[new], &memory[old]].concat();
        let labels = self.pool.data.labels(&rows);
        let inputs = match self.prefix {
            Some(prefix) => prefix.take(&rows)?,
            None => self.reader.apply(self.pool.data.take(&rows).0),
        };
        let spans = [(0, new_rows, fresh.len()), (new_rows, old_rows, memory.len())];
        Ok(spans.map(|(start, rows, of)| Batch {
            inputs: inputs.narrow(start, rows),
            labels: labels.narrow(0, start, rows),
            of,
        }))
    }

    /// The sum of all L partials.
    fn reduce(&self, mut partials: impl Iterator<Item = Result<Tensor, Error>>) -> Result<Tensor, Error> {
        let world = self.collective.world();
        if world == 1 || self.reduction == Reduction::Fast {
            let first = partials.next().expect("no more ranks than micro-batches")?;
            let mut sum = partials.try_fold(first, |sum, partial| partial.map(|partial| sum + partial))?;
            self.collective.all_reduce(&mut sum)?;
            return Ok(sum);
        }
        let mut block = partials.collect::<Result<Vec<_>, _>>()?;
        // Ranks may own one more or less; a gather wants equal shapes.
        while block.len() < self.parts.div_ceil(world) {
            block.push(block[0].zeros_like());
        }
        let blocks = self.collective.all_gather(&Tensor::stack(&block, 0))?;
        let owned = |rank| (0..part(self.parts, rank, world).len() as i64).map(move |l| (rank, l));
        let mut ordered = (0..world).flat_map(owned).map(|(rank, l)| blocks[rank].get(l));
        let first = ordered.next().expect("at least one micro-batch").copy();
        Ok(ordered.fold(first, |sum, partial| sum + partial))
    }
}
