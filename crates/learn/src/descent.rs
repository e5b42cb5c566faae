//! What a step's rows say: the gradient, the same on every rank.

use std::ops::Range;

use collective::Collective;
use domain::draw::Draw;
use domain::pipeline::Reduction;
use tch::{Kind, Tensor};

use crate::batch::part;
use crate::data::Reader;
use crate::input::Input;
use crate::memory::Rows;
use crate::method::{Batch, Learner, Step, UpdateMethod};
use crate::model::Net;
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
}

/// The gradient (values), the loss, and the new rows' logits (rows, classes) where they are wanted, on the CPU.
pub type Slope = (Tensor, f64, Option<Tensor>);

impl Descent<'_> {
    pub fn gradient(
        &self,
        method: &dyn UpdateMethod,
        weights: &Flat,
        step: u64,
        fresh: &Rows,
        memory: &[Rows],
        wants_logits: bool,
    ) -> Result<Slope, Error> {
        let classes = self.net.head.bias.numel() as i64;
        let seen = wants_logits.then(|| Tensor::zeros([fresh.positions.len() as i64, classes], tch::kind::FLOAT_CPU));
        let mine = part(self.parts, self.collective.rank(), self.collective.world());
        let partials = mine.map(|l| {
            let span = part(fresh.positions.len(), l, self.parts);
            let batches = self.batches(l, fresh, memory)?;
            if batches.iter().all(Batch::is_empty) {
                return Ok(weights.nothing());
            }
            let learner = Learner::new(self.net, weights, self.noise.map(|draw| draw.at(step).at(l as u64)));
            let Step { loss, logits } = method.loss(&learner, &batches[0], &batches[1..]);
            if let Some(seen) = &seen {
                seen.narrow(0, span.start as i64, span.len() as i64).copy_(&logits.detach());
            }
            Ok(weights.partial(&loss))
        });
        let sum = self.reduce(partials)?;
        let logits = seen.map(|seen| self.together(seen, weights)).transpose()?;
        let values = weights.values.numel() as i64;
        Ok((sum.narrow(0, 0, values), sum.double_value(&[values]), logits))
    }

    /// Micro-batch `l` of the new rows, then of each replay batch, fetched together.
    fn batches(&self, l: usize, fresh: &Rows, memory: &[Rows]) -> Result<Vec<Batch>, Error> {
        let sources: Vec<(&Rows, Range<usize>)> = std::iter::once(fresh)
            .chain(memory)
            .map(|rows| (rows, part(rows.positions.len(), l, self.parts)))
            .collect();
        let positions: Vec<i64> =
            sources.iter().flat_map(|(rows, span)| &rows.positions[span.clone()]).copied().collect();
        if positions.is_empty() {
            return Ok(Vec::new());
        }
        let (inputs, labels) = self.fetched(&positions)?;
        let mut start = 0;
        let batch = |(rows, span): (&Rows, Range<usize>)| {
            let (first, count) = (start, span.len() as i64);
            start += count;
            let part = |all: &Tensor| all.narrow(0, span.start as i64, count);
            let (logits, weights) = (rows.logits.as_ref().map(part), rows.weights.as_ref().map(part));
            Batch {
                inputs: inputs.narrow(first, count),
                labels: labels.narrow(0, first, count),
                logits: logits.map(|logits| logits.to_device(labels.device())),
                weights: weights.map(|weights| weights.to_device(labels.device())),
                of: rows.positions.len(),
            }
        };
        Ok(sources.into_iter().map(batch).collect())
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
        let logits = self.net.forward(&self.inputs(&[row as i64])?);
        let label = self.pool.data.labels(&[row as i64]).unsqueeze(1);
        let loss = -logits.log_softmax(-1, Kind::Float).gather(1, &label, false).sum(Kind::Float);
        Ok(weights.partial(&loss).narrow(0, 0, weights.values.numel() as i64))
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
