//! From step to step.

use domain::manifest::Manifest;
use domain::pipeline::Training;
use tch::{Kind, Tensor};

use super::{Left, Moment, Outcome};
use crate::batch::Order;
use crate::descent::{Descent, Slope, Sweep};
use crate::intake::{Initial, Intake};
use crate::memory::{Memory, Rows};
use crate::method::{End, Reads, UpdateMethod};
use crate::model::normalised;
use crate::optim::{self, Optimizer};
use crate::selective::Selector;
use crate::stage::Stage;
use crate::validation::Validation;
use crate::{Error, Flat, files};

/// Rows that show whether a net has diverged.
const SAMPLE: usize = 256;

/// How far an update has come.
pub struct Progress {
    /// Steps.
    pub done: u64,
    pub loss: Option<f64>,
    pub optimizer: Box<dyn Optimizer>,
    /// Of the rows of the stage it is in.
    pub order: Order,
}

/// Everything that does not change from step to step, but for what the method, memory and the choice of rows keep.
pub struct Update<'a> {
    pub manifest: &'a Manifest,
    pub method: Box<dyn UpdateMethod>,
    pub stages: Vec<Stage>,
    pub memory: Memory<'a>,
    pub descent: Descent<'a>,
    pub selector: Selector,
    pub validation: Option<Validation>,
    pub base: Option<Tensor>,
    pub initial: Initial<'a>,
    /// Rows are offered as they come.
    pub online: bool,
    pub dropped_rows: u64,
}

/// What a step reads.
struct Drawn {
    fresh: Rows,
    memory: Vec<Rows>,
}

impl Drawn {
    fn rows(&self) -> usize {
        self.fresh.len() + self.memory.iter().map(Rows::len).sum::<usize>()
    }
}

impl<'a> Update<'a> {
    pub fn total(&self) -> u64 {
        self.stages.last().map_or(0, Stage::end)
    }

    /// Which stage a step belongs to.
    pub fn stage(&self, step: u64) -> &Stage {
        let after = self.stages.partition_point(|stage| stage.start <= step);
        &self.stages[after - 1]
    }

    pub fn order(&self, stage: &Stage) -> Order {
        let rows = stage.rows(self.descent.pool, self.memory.snapshot.slots.len());
        Order::new(stage.draw, rows, stage.batch)
    }

    fn training(&self) -> &'a Training {
        &self.manifest.pipeline.training
    }

    /// One step: its loss, and the epoch it belongs to.
    pub fn step(&mut self, weights: &mut Flat, at: &mut Progress) -> Result<(f64, u64), Error> {
        if self.stage(at.done).start == at.done {
            self.enter(weights, at)?;
        }
        let stage = self.stage(at.done);
        let (within, steps, replayed, reads) = (at.done - stage.start, stage.steps, stage.replayed, stage.phase.reads);
        let (epoch, numbers) = (at.order.epoch_of(within), at.order.rows(within));
        let memory = self.memory.draw(at.done, self.method.draws(), replayed);
        let fresh = match reads {
            Reads::Memory => self.memory.rows(&numbers),
            _ => Rows::fresh(numbers.iter().map(|&number| self.descent.pool.trains(number) as i64).collect()),
        };
        let mut drawn = Drawn { fresh, memory };
        let Slope { mut gradient, mut loss, answers, losses } = self.slope(weights, at.done, epoch, &mut drawn)?;
        if let Some((pull, value)) = self.method.pull(&weights.values) {
            gradient += pull;
            loss += value;
        }
        if loss.is_finite() {
            let rate = optim::rate(self.training(), within, steps);
            let (mut values, along) = (weights.descending(&weights.values), weights.descending(&gradient));
            at.optimizer.step(&mut values, &along, within, rate);
            weights.follow(&gradient);
            self.method.after_step(&weights.values, at.done);
            self.selector.remember(&losses);
            self.remember(epoch, &drawn, &answers);
        }
        Ok((loss, epoch))
    }

    /// Where the loss is no number, rows to whose inputs the net answers none are left out, and counted.
    fn slope(&mut self, weights: &Flat, step: u64, epoch: u64, drawn: &mut Drawn) -> Result<Slope, Error> {
        let wants = self.memory.kept.is_some() && (self.offers(epoch) || self.refreshes());
        let answers = if wants { self.memory.kept_columns() } else { 0 };
        let descend = |drawn: &Drawn| {
            let (fresh, memory, selector) = (&drawn.fresh, &drawn.memory[..], &self.selector);
            self.descent.gradient(self.method.as_ref(), weights, &Sweep { step, fresh, memory, selector, answers })
        };
        let slope = descend(drawn)?;
        if slope.loss.is_finite() {
            return Ok(slope);
        }
        let sound = |rows: &Rows| Ok::<_, Error>(rows.pick(&self.descent.sound(&rows.positions)?));
        let memory = drawn.memory.iter().map(sound).collect::<Result<_, _>>()?;
        let kept = Drawn { fresh: sound(&drawn.fresh)?, memory };
        let dropped = (drawn.rows() - kept.rows()) as u64;
        if dropped == 0 || self.has_diverged()? {
            return Ok(slope);
        }
        let slope = descend(&kept)?;
        self.dropped_rows += dropped;
        *drawn = kept;
        Ok(slope)
    }

    /// Whether the net answers more than half of the rows with no numbers: then it is not the rows.
    fn has_diverged(&self) -> Result<bool, Error> {
        let rows = self.descent.pool.training();
        let some = rows.iter().step_by(rows.len().div_ceil(SAMPLE).max(1)).map(|&row| row as i64);
        let some: Vec<i64> = some.collect();
        Ok(2 * self.descent.sound(&some)?.len() < some.len())
    }

    /// What memory takes from a step.
    fn remember(&mut self, epoch: u64, drawn: &Drawn, answers: &[Tensor]) {
        if self.refreshes() {
            let decay = self.manifest.pipeline.rehearsal.refresh_decay.get();
            for (rows, answers) in drawn.memory.iter().zip(answers.iter().skip(1)) {
                self.memory.refresh(rows, answers, decay);
            }
        }
        if self.offers(epoch) {
            let rows: Vec<usize> = drawn.fresh.positions.iter().map(|&row| row as usize).collect();
            self.memory.offer(&rows, answers.first());
        }
    }

    fn refreshes(&self) -> bool {
        self.manifest.pipeline.rehearsal.refresh_decay.get() < 1.0
    }

    /// What comes before a stage's first step.
    fn enter(&mut self, weights: &mut Flat, at: &mut Progress) -> Result<(), Error> {
        let phase = self.stage(at.done).phase;
        if phase.reads == Reads::Memory {
            let keeps = self.method.keeps();
            // Nothing was dropped yet, if there is anything to drop.
            self.intake(true).take(keeps)?;
        }
        if let (true, Some(base)) = (phase.anew, &self.base) {
            let _guard = tch::no_grad_guard();
            weights.values.copy_(base);
        }
        at.order = self.order(self.stage(at.done));
        at.optimizer = optim::build(self.training(), &weights.descending(&weights.values));
        Ok(())
    }

    /// `drops`: memory takes only rows that the net answers with numbers.
    fn intake(&mut self, drops: bool) -> Intake<'_, 'a> {
        let Self { memory, descent, manifest, initial, .. } = self;
        Intake { memory, descent, pipeline: &manifest.pipeline, initial: *initial, drops }
    }

    fn offers(&self, epoch: u64) -> bool {
        // Each row comes once in an epoch, so offering only in the first offers it once an update.
        self.online && epoch == 0
    }

    /// After each epoch of the last stage: how it does on the rows set aside.
    pub fn validate(&mut self, weights: &Flat, done: u64) -> Result<(), Error> {
        let (Some(validation), Some(last)) = (&mut self.validation, self.stages.last()) else { return Ok(()) };
        let epoch = last.steps / u64::from(self.manifest.pipeline.training.epochs.get());
        match done > last.start && (done - last.start).is_multiple_of(epoch) {
            true => validation.look(&self.descent, weights, self.descent.collective),
            false => Ok(()),
        }
    }

    /// Whether enough epochs have gone by without a better one.
    pub fn is_over(&self) -> bool {
        self.validation.as_ref().is_some_and(Validation::is_over)
    }

    pub fn moment<'m>(&'m self, weights: &'m Flat, at: &'m Progress, loss: f64, epoch: u64) -> Moment<'m> {
        Moment {
            step: at.done,
            total: self.total(),
            epoch,
            loss,
            values: &weights.values,
            optimizer: at.optimizer.as_ref(),
            snapshot: &self.memory.snapshot,
            dropped_rows: self.dropped_rows,
            left: Left { update: self, weights },
        }
    }

    pub fn end(mut self, weights: &mut Flat, at: Progress) -> Result<Outcome, Error> {
        let whole = at.done == self.total() || self.is_over();
        if whole {
            self.conclude(weights)?;
        }
        let carried = Left { update: &self, weights }.handed_over();
        let finite = whole && files::is_finite(&weights.values);
        let means = if whole && self.method.decides_by_means() { Some(self.means()?) } else { None };
        let best_epoch = self.validation.as_ref().and_then(Validation::best).map(|best| best.epoch);
        let Memory { mut snapshot, seconds, residual, measuring, .. } = self.memory;
        buffer::compact(&mut snapshot);
        Ok(Outcome {
            steps: at.done,
            loss: at.loss,
            finite,
            snapshot,
            carried,
            means,
            rehearsal_seconds: seconds,
            dropped_rows: self.dropped_rows,
            best_epoch,
            memory_residual: residual,
            measuring_seconds: measuring,
        })
    }

    /// What comes after the last step.
    fn conclude(&mut self, weights: &Flat) -> Result<(), Error> {
        if let Some(validation) = &self.validation {
            validation.restore(weights);
        }
        let offered = self.online || self.stages.iter().any(|stage| stage.phase.reads == Reads::Memory);
        let (keeps, drops) = (self.method.keeps(), self.dropped_rows > 0);
        if !offered {
            self.intake(drops).take(keeps)?;
        }
        if keeps.refreshed {
            let all: Vec<usize> = (0..self.memory.snapshot.slots.len()).collect();
            self.intake(drops).keep(keeps, &all)?;
        }
        let (descent, rows) = (&self.descent, self.descent.pool.training());
        let mut gradient = |row: usize| descent.row_gradient(weights, rows[row]);
        self.method.end(weights, End { gradient: &mut gradient, fresh: rows.len() })
    }

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
