//! What memory takes of the chunk once it has been trained on.

use domain::buffer::Snapshot;
use domain::draw::Draw;
use domain::pipeline::{Gmc, GmcRows, Model as Origin, Pipeline, Policy, SlotWeights};
use tch::{Device, Tensor};

use crate::coreset::sketch::Sketch;
use crate::coreset::{self, Chosen, Gradients};
use crate::descent::Descent;
use crate::memory::Memory;
use crate::method::Keeps;
use crate::model::Net;
use crate::model::head::Head;
use crate::selection::{self, Candidates};
use crate::{Error, Flat, Pool};

/// The base with initial weights of another seed, and those of them that train.
pub type Initial<'a> = &'a dyn Fn(u64) -> Result<(Net, Flat), Error>;

pub struct Intake<'a, 'm> {
    pub memory: &'a mut Memory<'m>,
    pub descent: &'a Descent<'m>,
    pub pipeline: &'a Pipeline,
    pub initial: Initial<'m>,
    /// Whether rows that the net does not answer with numbers stay out.
    pub drops: bool,
}

impl Intake<'_, '_> {
    /// Shows memory the rows of the chunks, and keeps what the weights answer to those that it takes.
    pub fn take(&mut self, keeps: Keeps) -> Result<(), Error> {
        let before = self.memory.target.as_ref().map(Tensor::shallow_clone);
        let rows = self.offered()?;
        let taken = match self.memory.snapshot.policy.selects() {
            true => self.select(&rows)?,
            false => self.memory.offer(&rows, None),
        };
        if self.pipeline.rehearsal.measure_residual && !rows.is_empty() {
            let start = (self.memory.clock)();
            self.measure(before, &rows)?;
            self.memory.measuring += (self.memory.clock)() - start;
        }
        self.keep(keeps, &taken)
    }

    /// In ascending order.
    fn offered(&self) -> Result<Vec<usize>, Error> {
        let rows = self.descent.pool.training();
        if !self.drops {
            return Ok(rows.to_vec());
        }
        let sound = self.descent.sound(&rows.iter().map(|&row| row as i64).collect::<Vec<_>>())?;
        // Where most are not, it is the net that has diverged.
        let most = 2 * sound.len() >= rows.len();
        Ok(if most { sound.into_iter().map(|row| rows[row]).collect() } else { rows.to_vec() })
    }

    /// How far memory's gradient is from that of everything ever offered: `before`, and the chunks' rows.
    fn measure(&mut self, before: Option<Tensor>, rows: &[usize]) -> Result<(), Error> {
        let ones = |rows: usize| Tensor::from_slice(&vec![1f32; rows]);
        let fresh: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let new = self.gradients(&fresh)?.sum(&ones(fresh.len()));
        let target = match before.filter(|before| before.size() == new.size()) {
            Some(before) => before + new,
            None => new,
        };
        let slots = &self.memory.snapshot.slots;
        let held = self.gradients(&self.memory.positions(&(0..slots.len()).collect::<Vec<_>>()))?;
        let weighs = self.memory.snapshot.policy == Policy::Gmc && self.pipeline.rehearsal.weights != SlotWeights::Unit;
        let masses = match weighs {
            true => Tensor::from_slice(&slots.iter().map(|slot| slot.weight).collect::<Vec<_>>()),
            false => ones(slots.len()) * (self.memory.snapshot.seen as f64 / slots.len() as f64),
        };
        self.memory.residual = Some(((&target - held.sum(&masses)).norm() / target.norm()).double_value(&[]));
        self.memory.target = Some(target);
        Ok(())
    }

    /// Keeps what the weights answer to the rows of these slots.
    pub fn keep(&mut self, keeps: Keeps, slots: &[usize]) -> Result<(), Error> {
        if slots.is_empty() || !keeps.anything() {
            return Ok(());
        }
        let answers = self.descent.answers(keeps, &self.memory.positions(slots))?;
        self.memory.keep(slots, &answers);
        Ok(())
    }

    /// Chunk by chunk, among memory's rows and those of the chunk. The slots that hold rows of the chunks.
    fn select(&mut self, offered: &[usize]) -> Result<Vec<usize>, Error> {
        let pool = self.descent.pool;
        // A chunk may be held out altogether.
        for (chunk, rows) in pool.chunks(offered).filter(|(_, rows)| !rows.is_empty()) {
            let held = self.memory.snapshot.slots.len();
            let mut positions = self.memory.positions(&(0..held).collect::<Vec<_>>());
            positions.extend(rows.iter().map(|&row| row as i64));
            let chosen = self.chosen(&positions, held)?;
            let offered = rows.iter().map(|&row| (pool.origin(row).1, pool.label(row))).collect::<Vec<_>>();
            self.memory.select(chunk, &offered, &chosen);
        }
        let snapshot = &self.memory.snapshot;
        let is_new = |slot: &usize| {
            let chunk = &snapshot.chunks[snapshot.slots[*slot].chunk as usize];
            pool.chunks(&[]).any(|(id, _)| id == chunk)
        };
        Ok((0..snapshot.slots.len()).filter(is_new).collect())
    }

    fn chosen(&mut self, positions: &[i64], held: usize) -> Result<Chosen, Error> {
        let capacity = self.memory.snapshot.capacity as usize;
        let (policy, labels) = (self.memory.snapshot.policy, labels(self.descent.pool, positions));
        if policy == Policy::Gmc {
            return self.matched(positions, &labels, held, capacity);
        }
        let features = self.descent.features(positions)?;
        let rows = selection::choose(policy, &Candidates { labels, held, features }, capacity);
        Ok(rows.into_iter().map(|row| (row, 1.0)).collect())
    }

    fn matched(&mut self, positions: &[i64], labels: &[u32], held: usize, capacity: usize) -> Result<Chosen, Error> {
        let Gmc { per_class, carries_target, rows, .. } = self.pipeline.rehearsal.gmc;
        let gradients = self.gradients(positions)?;
        let slots = self.memory.snapshot.slots.iter().map(|slot| slot.weight);
        let masses: Vec<f32> = slots.chain(std::iter::repeat(1.0)).take(labels.len()).collect();
        let before = self.memory.target.take();
        if per_class {
            return Ok(coreset::choose_by_label(&gradients, labels, &masses, capacity));
        }
        let everything = gradients.sum(&Tensor::from_slice(&masses));
        // At other draws, or with classes that came since, the old sum is of other gradients: memory's masses stand for it.
        let target = match before.filter(|before| carries_target && before.size() == everything.size()) {
            Some(before) => {
                let new: Vec<f32> = (0..labels.len()).map(|row| f32::from(row >= held)).collect();
                before + gradients.sum(&Tensor::from_slice(&new))
            }
            None => everything,
        };
        let chosen = match rows {
            GmcRows::Matched => coreset::choose(&gradients, &masses, &target, capacity),
            GmcRows::Uniform => gradients.weighed(&target, &self.uniform(positions, held)),
        };
        self.memory.target = carries_target.then_some(target);
        Ok(chosen)
    }

    /// Which candidates a reservoir would hold after the chunk.
    fn uniform(&self, positions: &[i64], held: usize) -> Vec<usize> {
        let pool = self.descent.pool;
        let mut reservoir = Snapshot { policy: Policy::Reservoir, ..self.memory.snapshot.clone() };
        let mut kept: Vec<usize> = (0..held).collect();
        for (candidate, &position) in positions.iter().enumerate().skip(held) {
            let (chunk, row) = pool.origin(position as usize);
            match buffer::offer(&mut reservoir, chunk, row, pool.label(position as usize)) {
                Some(slot) if slot == kept.len() => kept.push(candidate),
                Some(slot) => kept[slot] = candidate,
                None => (),
            }
        }
        kept
    }

    fn gradients(&self, positions: &[i64]) -> Result<Gradients, Error> {
        match self.pipeline.rehearsal.gmc.projection {
            Some(columns) => self.projected(positions, i64::from(columns.get())),
            None => self.last_layer(positions),
        }
    }

    /// Of draw `draw` of the initial weights.
    fn seed(&self, draw: u64) -> u64 {
        Draw::new(self.pipeline.seed).named("coreset").at(draw).bits()
    }

    /// The gradients by all weights that train, a backward pass each.
    fn projected(&self, positions: &[i64], columns: i64) -> Result<Gradients, Error> {
        let draws = u64::from(self.pipeline.rehearsal.gmc.initialisations.get());
        let at = |draw: u64| {
            let (net, weights) = (self.initial)(self.seed(draw))?;
            let draw = Draw::new(self.pipeline.seed).named("sketch").at(draw);
            let sketch = Sketch::new(weights.values.numel(), columns, draw);
            let rows = positions.iter().map(|&row| Ok(sketch.of(&self.descent.gradient_of(&net, &weights, row)?)));
            Ok::<_, Error>(Tensor::stack(&rows.collect::<Result<Vec<_>, Error>>()?, 0))
        };
        Ok(Gradients::projected(&(0..draws).map(at).collect::<Result<Vec<_>, _>>()?))
    }

    /// At as many draws of the initial weights as the pipeline says. Where the base is given, its features are the same
    /// at every draw.
    fn last_layer(&self, positions: &[i64]) -> Result<Gradients, Error> {
        let draws = u64::from(self.pipeline.rehearsal.gmc.initialisations.get());
        let at = |draw: u64| {
            let (net, _) = (self.initial)(self.seed(draw))?;
            let features = self.descent.features_of(&net, positions)?;
            let logits = net.head.to_device(Device::Cpu).forward(&features);
            Ok::<_, Error>((features, logits))
        };
        let labels: Vec<i64> = labels(self.descent.pool, positions).into_iter().map(i64::from).collect();
        let (features, logits) = at(0)?;
        let (mut features, mut logits) = (vec![features], vec![logits]);
        for draw in 1..draws {
            match &self.pipeline.model {
                Origin::Scratch(_) => {
                    let (seen, answered) = at(draw)?;
                    features.push(seen);
                    logits.push(answered);
                }
                Origin::Folder(_) => {
                    let [classes, width] = [&logits[0], &features[0]].map(|rows| rows.size()[1]);
                    logits.push(Head::new(self.seed(draw), classes as usize, width).forward(&features[0]));
                }
            }
        }
        Ok(Gradients::new(&features, &logits, &Tensor::from_slice(&labels)))
    }
}

fn labels(pool: &Pool, positions: &[i64]) -> Vec<u32> {
    positions.iter().map(|&position| pool.label(position as usize)).collect()
}
