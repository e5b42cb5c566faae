//! An update before its first step, or before the one it resumes with.

use collective::Collective;
use domain::buffer::Snapshot;
use domain::draw::Draw;
use domain::manifest::Manifest;
use domain::pipeline::{BufferUpdate, Pipeline, Policy, Reduction, ShrinkPerturb};
use tch::{Device, Tensor};

use super::steps::{Progress, Update};
use super::{Inputs, LOSSES, RESIDUAL};
use crate::carried::Carried;
use crate::descent::Descent;
use crate::heads::Apart;
use crate::kept::{Kept, Widths, numbers};
use crate::memory::Memory;
use crate::method::{self, Keeps, Reads, Start};
use crate::model::Net;
use crate::model::layers::Init;
use crate::selective::Selector;
use crate::validation::Validation;
use crate::{Error, Flat, Pool, optim, stage};

pub fn begin<'a>(
    net: &'a Net,
    weights: &mut Flat,
    mut inputs: Inputs<'a>,
    collective: &'a dyn Collective,
) -> Result<(Update<'a>, Progress), Error> {
    let (manifest, pool) = (inputs.manifest, inputs.pool);
    let (pipeline, draws) = (&manifest.pipeline, Draws(manifest));
    let online = pipeline.buffer_update() == BufferUpdate::Online;
    let remembers = online || !inputs.snapshot.slots.is_empty();
    let phases = method::phases(pipeline.method);
    let stages = stage::stages(phases, &pipeline.training, pool, remembers, draws.of("order"))?;
    let mut method = method::build(pipeline);

    let resume = inputs.resume.take();
    let carried = std::mem::take(&mut inputs.carried);
    let found = resume.as_ref().map_or(&carried, |saved| &saved.carried);
    // A parent that has seen no row here was trained elsewhere, on each of its labels.
    let imported = vec![1; inputs.parent_labels];
    let seen = if inputs.snapshot.seen == 0 { &imported[..] } else { &inputs.snapshot.seen_by_label[..] };
    let fresh = pool.training().len();
    let start = Start { weights, fresh, seen, labels: pool.labels(), draw: draws.of("method") };
    method.begin(&start, found.state(weights));

    let optimizer = optim::build(&pipeline.training, &weights.descending(&weights.values));
    match &resume {
        Some(saved) => saved.restore(&mut weights.values, optimizer.as_ref()),
        None => reinitialize(weights, pipeline.reinitialize(), draws.of("reinitialize")),
    }
    let (snapshot, done, loss, dropped_rows) = match &resume {
        Some(saved) => (saved.snapshot.clone(), saved.step, saved.loss, saved.dropped_rows),
        None => (inputs.snapshot.clone(), 0, None, 0),
    };
    let descent = descent(net, weights, &inputs, collective);
    let history = found.0.get(LOSSES).map_or_else(Vec::new, numbers);
    let saved = resume.as_ref().map(|saved| &saved.carried);
    let keeps = method.keeps();
    let mut memory = memory(keeps, &descent, &inputs, found, snapshot)?;
    match saved {
        Some(saved) => memory.residual = saved.number(RESIDUAL),
        None => complete(&mut memory, &descent, keeps)?,
    }
    let validation = Validation::new(pipeline.training.validation, pool.validation(), saved);
    let update = Update {
        manifest,
        method,
        stages,
        memory,
        descent,
        selector: Selector::new(pipeline.training.selection, draws.of("selection"), history),
        validation,
        base: inputs.base,
        initial: inputs.initial,
        online,
        dropped_rows,
    };
    let order = update.order(update.stage(done));
    Ok((update, Progress { done, loss, optimizer, order }))
}

/// Of this update.
struct Draws<'a>(&'a Manifest);

impl Draws<'_> {
    fn of(&self, purpose: &str) -> Draw {
        Draw::new(self.0.pipeline.seed).named(purpose).at(self.0.update)
    }
}

fn descent<'a>(net: &'a Net, weights: &Flat, inputs: &Inputs<'a>, collective: &'a dyn Collective) -> Descent<'a> {
    let &Inputs { manifest, pool, reader, prefix, .. } = inputs;
    let (pipeline, draws) = (&manifest.pipeline, Draws(manifest));
    let (training, device) = (&pipeline.training, weights.values.device());
    Descent {
        net,
        pool,
        reader,
        prefix,
        collective,
        reduction: training.reduction.unwrap_or_else(|| default_reduction(device)),
        parts: training.micro_batches(),
        noise: training.dropout.then(|| draws.of("dropout")),
        augment: &pipeline.input.augment,
        variation: (!pipeline.input.augment.is_empty()).then(|| draws.of("augment")),
        apart: net.heads.as_ref().map(|heads| Apart::new(heads, manifest, pool, device)),
        absent: pipeline.loss.mask_absent_classes.then(|| absent(pipeline, pool, manifest.labels.len(), device)),
    }
}

fn memory<'a>(
    keeps: Keeps,
    descent: &Descent,
    inputs: &Inputs<'a>,
    found: &Carried,
    snapshot: Snapshot,
) -> Result<Memory<'a>, Error> {
    let (pipeline, labels) = (&inputs.manifest.pipeline, inputs.manifest.labels.len());
    let kept = kept(keeps, descent, found, &snapshot, labels)?;
    let replay = Draws(inputs.manifest).of("replay");
    let mut memory = Memory::new(snapshot, kept, pipeline.rehearsal.weights, inputs.pool, replay, inputs.clock);
    let matches = pipeline.policy() == Policy::Gmc || pipeline.rehearsal.measure_residual;
    // A head that grew has other gradients, and their projection shows nothing of it.
    let grew = pipeline.rehearsal.gmc.projection.is_some() && inputs.parent_labels != labels;
    memory.target = found.target().filter(|_| matches && !grew);
    Ok(memory)
}

/// What another method remembered has none: the parent's own answers are the best there are.
fn complete(memory: &mut Memory, descent: &Descent, keeps: Keeps) -> Result<(), Error> {
    let unknown = memory.unknown();
    if !unknown.is_empty() {
        let answers = descent.answers(keeps, &memory.positions(&unknown))?;
        memory.complete(&unknown, &answers);
    }
    Ok(())
}

/// (classes): −∞ for each of which the update reads no row, else 0.
fn absent(pipeline: &Pipeline, pool: &Pool, classes: usize, device: Device) -> Tensor {
    let chunk_alone = method::phases(pipeline.method).iter().all(|phase| phase.reads == Reads::Chunk);
    let rows = if chunk_alone { pool.fresh } else { pool.labels().len() };
    let mut absent = vec![f32::NEG_INFINITY; classes];
    pool.labels()[..rows].iter().for_each(|&label| absent[label as usize] = 0.0);
    Tensor::from_slice(&absent).to_device(device)
}

/// Shrink and perturb (Ash and Adams, 2020): `θ ← s·θ + σ·N(0, 1)`.
fn reinitialize(weights: &Flat, how: Option<ShrinkPerturb>, draw: Draw) {
    let Some(ShrinkPerturb { shrink, sigma }) = how else { return };
    let _guard = tch::no_grad_guard();
    let mut values = weights.descending(&weights.values);
    let noise = Init::Normal(sigma.get()).draw(draw.bits(), "perturbation", &values.size());
    let shrunk = &values * shrink.get() + noise.to_device(values.device());
    values.copy_(&shrunk);
}

/// What was kept of the snapshot's rows, as far as it is known; None where the method keeps nothing.
fn kept(
    keeps: Keeps,
    descent: &Descent,
    found: &Carried,
    snapshot: &Snapshot,
    labels: usize,
) -> Result<Option<Kept>, Error> {
    if !keeps.anything() {
        return Ok(None);
    }
    let classes = if keeps.logits { labels } else { 0 };
    // How wide features are shows in one row's.
    let columns = if keeps.features.is_some() { descent.answers(keeps, &[0])?.size()[1] as usize } else { classes };
    let widths = Widths { features: columns - classes, classes };
    let (features, logits) = found.kept();
    Ok(Some(Kept::read(features, logits, snapshot.slots.len(), widths)))
}

fn default_reduction(device: Device) -> Reduction {
    if device == Device::Cpu { Reduction::Ordered } else { Reduction::Fast }
}
