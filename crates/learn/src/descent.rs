//! What a step's rows say: the gradient, the same on every rank.

use collective::Collective;
use domain::draw::Draw;
use domain::pipeline::{Augmentation, Reduction};
use tch::{Kind, Tensor};

use crate::batch::part;
use crate::data::Reader;
use crate::heads::Apart;
use crate::input::Input;
use crate::kept::numbers;
use crate::memory::Rows;
use crate::method::{Batch, Keeps, Learner, Step, UpdateMethod};
use crate::model::Net;
use crate::selective::{Chosen, Selector, Sight};
use crate::{Error, Flat, Pool, Prefix};

/// Rows that are only looked at go through the net in groups of this size.
const GROUP: usize = 256;

pub struct Descent<'a> {
    pub net: &'a Net,
    pub pool: &'a Pool,
    pub reader: &'a Reader,
    pub prefix: Option<&'a Prefix<'a>>,
    pub collective: &'a dyn Collective,
    pub reduction: Reduction,
    /// L
    pub parts: usize,
    /// Of dropout masks.
    pub noise: Option<Draw>,
    /// How images are varied while training, and by which draws; None where they are not.
    pub augment: &'a [Augmentation],
    pub variation: Option<Draw>,
    /// (classes): 0, or −∞ for one that is left out of the cross-entropy. None where none is.
    pub absent: Option<Tensor>,
    /// Where tasks have heads: what else is left out, row by row.
    pub apart: Option<Apart>,
}

/// Which way a step goes, the same on every rank.
pub struct Slope {
    /// (values): in the place of running statistics stand the step's.
    pub gradient: Tensor,
    pub loss: f64,
    /// Of the new rows, (rows, columns), and of each replay batch: what memory would keep, where it is wanted. On the CPU.
    pub answers: Vec<Tensor>,
    /// Of the new rows, where they are wanted.
    pub losses: Vec<f32>,
}

/// Rows of a step, and what of them is wanted besides the gradient.
pub struct Sweep<'a> {
    pub step: u64,
    pub fresh: &'a Rows,
    pub memory: &'a [Rows],
    pub selector: &'a Selector,
    /// Columns of each answer; 0 where none are wanted.
    pub answers: i64,
}

/// A micro-batch of one source before it is fetched.
struct Part {
    rows: Rows,
    of: f64,
}

impl Descent<'_> {
    pub fn gradient(&self, method: &dyn UpdateMethod, weights: &Flat, sweep: &Sweep) -> Result<Slope, Error> {
        let nothing = |rows: usize, columns: i64| Tensor::zeros([rows as i64, columns], tch::kind::FLOAT_CPU);
        let wanted = std::iter::once(sweep.fresh).chain(sweep.memory).filter(|_| sweep.answers > 0);
        let answers: Vec<Tensor> = wanted.map(|rows| nothing(rows.len(), sweep.answers)).collect();
        let losses = sweep.selector.remembers().then(|| nothing(sweep.fresh.len(), 1));
        let mine = part(self.parts, self.collective.rank(), self.collective.world());
        let partials = mine.map(|l| {
            let parts = self.micro_batch(l, sweep, losses.as_ref())?;
            let batches = self.batches(&parts, sweep.step, l)?;
            if batches.iter().all(Batch::is_empty) {
                return Ok(weights.nothing());
            }
            let learner = Learner::new(self.net, weights, self.noise.map(|draw| draw.at(sweep.step).at(l as u64)));
            let Step { loss, fresh, replayed } = method.loss(&learner, &batches[0], &batches[1..]);
            // Rows that were not chosen have no answer; where they might be, nobody asks for one.
            let known = std::iter::once(&fresh).filter(|_| sweep.selector.is_all()).chain(&replayed);
            let asked = answers.iter().skip(usize::from(!sweep.selector.is_all()));
            for (all, own) in asked.zip(known) {
                let span = part(all.size()[0] as usize, l, self.parts);
                all.narrow(0, span.start as i64, span.len() as i64).copy_(&own.detach());
            }
            Ok(weights.partial(&loss, &learner.measured()))
        });
        let sum = self.reduce(partials)?;
        let answers = answers.into_iter().map(|own| self.together(own, weights)).collect::<Result<_, _>>()?;
        let losses = losses.map(|own| self.together(own, weights)).transpose()?;
        let (gradient, loss) = weights.slope(&sum);
        Ok(Slope { gradient, loss, answers, losses: losses.map_or_else(Vec::new, |losses| numbers(&losses)) })
    }

    /// Micro-batch `l` of the new rows, less those that are not chosen, then of each replay batch.
    fn micro_batch(&self, l: usize, sweep: &Sweep, losses: Option<&Tensor>) -> Result<Vec<Part>, Error> {
        let cut = |rows: &Rows| {
            let span = part(rows.len(), l, self.parts);
            (rows.span(span.clone()), span)
        };
        let (mut fresh, span) = cut(sweep.fresh);
        let mut of = sweep.fresh.len().max(1) as f64;
        if !sweep.selector.is_all() && !fresh.is_empty() {
            let sight = sweep.selector.looks().then(|| self.sight(&fresh.positions)).transpose()?;
            if let (Some(losses), Some(sight)) = (losses, &sight) {
                losses.narrow(0, span.start as i64, span.len() as i64).copy_(&sight.losses().unsqueeze(1));
            }
            let Chosen { rows, weights, share } = sweep.selector.choose(sweep.step, &fresh.positions, sight.as_ref());
            fresh = fresh.pick(&rows).weighed(weights);
            of *= share;
        }
        let memory = sweep.memory.iter().map(|rows| Part { rows: cut(rows).0, of: rows.len().max(1) as f64 });
        Ok(std::iter::once(Part { rows: fresh, of }).chain(memory).collect())
    }

    /// The rows of all parts, fetched together.
    fn batches(&self, parts: &[Part], step: u64, l: usize) -> Result<Vec<Batch>, Error> {
        let positions: Vec<i64> = parts.iter().flat_map(|part| &part.rows.positions).copied().collect();
        if positions.is_empty() {
            return Ok(Vec::new());
        }
        let (inputs, labels) = self.varied(&positions, step, l)?;
        let device = labels.device();
        let absent = self.left_out(&positions);
        let mut start = 0;
        let batch = |Part { rows, of }: &Part| {
            let (first, count) = (start, rows.len() as i64);
            start += count;
            let moved = |tensor: &Option<Tensor>| tensor.as_ref().map(|tensor| tensor.to_device(device));
            Batch {
                inputs: inputs.narrow(first, count),
                labels: labels.narrow(0, first, count),
                kept: moved(&rows.kept),
                weights: moved(&rows.weights),
                of: *of,
                absent: absent.as_ref().map(|all| all.narrow(0, first, count)),
            }
        };
        Ok(parts.iter().map(batch).collect())
    }

    /// (rows, classes): 0, or −∞ for what is left out of a row's cross-entropy. None where nothing is.
    fn left_out(&self, positions: &[i64]) -> Option<Tensor> {
        let apart = self.apart.as_ref().map(|apart| apart.of(positions));
        match (&self.absent, apart) {
            (None, apart) => apart,
            (Some(absent), Some(apart)) => Some(apart + absent),
            (Some(absent), None) => Some(absent.unsqueeze(0).repeat([positions.len() as i64, 1])),
        }
    }

    /// (rows), on the CPU.
    pub fn labels(&self, positions: &[i64]) -> Tensor {
        self.pool.data.labels(positions).to_device(tch::Device::Cpu)
    }

    /// Rows as the net reads them, and their labels.
    fn fetched(&self, positions: &[i64]) -> Result<(Input, Tensor), Error> {
        if let Some(prefix) = self.prefix {
            return Ok((prefix.take(positions)?, self.pool.data.labels(positions)));
        }
        let (rows, labels) = self.pool.data.take(positions);
        Ok((self.reader.apply(rows), labels))
    }

    fn inputs(&self, positions: &[i64]) -> Result<Input, Error> {
        Ok(self.fetched(positions)?.0)
    }

    /// The same for training: each image varied anew, if any are.
    fn varied(&self, positions: &[i64], step: u64, l: usize) -> Result<(Input, Tensor), Error> {
        let Some(draw) = self.variation else { return self.fetched(positions) };
        let (rows, labels) = self.pool.data.take(positions);
        Ok((self.reader.varied(rows, self.augment, draw.at(step).at(l as u64)), labels))
    }

    /// Rows before any of them is chosen.
    fn sight(&self, positions: &[i64]) -> Result<Sight, Error> {
        let _guard = tch::no_grad_guard();
        let features = self.net.features(&self.inputs(positions)?);
        let logits = self.net.head.forward(&features);
        let logits = self.left_out(positions).map_or_else(|| logits.shallow_clone(), |absent| &logits + absent);
        let cpu = |tensor: &Tensor| tensor.to_device(tch::Device::Cpu);
        Ok(Sight { features: cpu(&features), logits: cpu(&logits), labels: self.labels(positions) })
    }

    /// Which of these rows the net answers with numbers.
    pub fn sound(&self, positions: &[i64]) -> Result<Vec<usize>, Error> {
        let finite = self.logits(positions)?.isfinite().all_dim(1, false);
        let finite = Vec::<bool>::try_from(finite).expect("a vector of bool");
        Ok((0..positions.len()).filter(|&row| finite[row]).collect())
    }

    /// Rows of which each rank knows its own, the others being zero.
    fn together(&self, mut rows: Tensor, weights: &Flat) -> Result<Tensor, Error> {
        if self.collective.world() > 1 {
            rows = rows.to_device(weights.values.device());
            self.collective.all_reduce(&mut rows)?;
        }
        // −0 plus another rank's 0 is 0: alone, too.
        Ok(rows.to_device(tch::Device::Cpu) + 0.0)
    }

    /// What the net answers to rows of the pool, without dropout: (rows, classes), on the CPU.
    pub fn logits(&self, positions: &[i64]) -> Result<Tensor, Error> {
        grouped(positions, |rows| Ok(self.net.forward(&self.inputs(rows)?)))
    }

    /// The same, −∞ for what is left out of a row's cross-entropy.
    pub fn told_apart(&self, positions: &[i64]) -> Result<Tensor, Error> {
        let logits = self.logits(positions)?;
        Ok(match self.left_out(positions) {
            Some(absent) => &logits + absent.to_device(tch::Device::Cpu),
            None => logits,
        })
    }

    /// What memory keeps of rows of the pool, by the weights as they are: (rows, columns), on the CPU.
    pub fn answers(&self, keeps: Keeps, positions: &[i64]) -> Result<Tensor, Error> {
        match keeps.features {
            None => self.logits(positions),
            Some(pooling) => {
                grouped(positions, |rows| Ok(keeps.of(&self.net.observe(&self.inputs(rows)?, None, None, pooling))))
            }
        }
    }

    /// What the net sees in rows of the pool, without dropout: (rows, width), on the CPU.
    pub fn features(&self, positions: &[i64]) -> Result<Tensor, Error> {
        grouped(positions, |rows| Ok(self.net.features(&self.inputs(rows)?)))
    }

    /// The same of another net.
    pub fn features_of(&self, net: &Net, positions: &[i64]) -> Result<Tensor, Error> {
        grouped(positions, |rows| Ok(net.features(&self.reader.apply(self.pool.data.take(rows).0))))
    }

    /// Of `−log p(y|x)` at one row of the pool, without dropout: (values).
    pub fn row_gradient(&self, weights: &Flat, row: usize) -> Result<Tensor, Error> {
        self.gradient_of(self.net, weights, row as i64)
    }

    /// The same of another net, whose leaves `weights` holds.
    pub fn gradient_of(&self, net: &Net, weights: &Flat, row: i64) -> Result<Tensor, Error> {
        // A prefix is of this net's blocks.
        let own = std::ptr::eq(net, self.net);
        let input = if own { self.inputs(&[row])? } else { self.reader.apply(self.pool.data.take(&[row]).0) };
        let label = self.pool.data.labels(&[row]).unsqueeze(1);
        let loss = -net.forward(&input).log_softmax(-1, Kind::Float).gather(1, &label, false).sum(Kind::Float);
        Ok(weights.partial(&loss, &[]).narrow(0, 0, weights.values.numel() as i64))
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

/// Rows that are only looked at, group by group: what `look` finds, on the CPU.
fn grouped(positions: &[i64], look: impl Fn(&[i64]) -> Result<Tensor, Error>) -> Result<Tensor, Error> {
    let _guard = tch::no_grad_guard();
    let found = |rows| Ok(look(rows)?.to_kind(Kind::Float).to_device(tch::Device::Cpu));
    Ok(Tensor::cat(&positions.chunks(GROUP).map(found).collect::<Result<Vec<_>, Error>>()?, 0))
}
