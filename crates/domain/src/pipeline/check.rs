//! Whether the fields of a pipeline file agree with each other.

use super::*;
use crate::evalset::ARCHIVE;

pub(super) fn all(spec: &Spec) -> Result<(), InvalidSpec> {
    if spec.task.as_str() == ARCHIVE {
        return Err(invalid("task", format!("`{ARCHIVE}`"), "old tasks merge under that name; choose another"));
    }
    model(spec)?;
    labels(spec)?;
    steps(spec)?;
    method(spec)?;
    selection(spec)?;
    source::check(&spec.sources)?;
    if spec.adapter == Adapter::Full && spec.training.precision == Precision::Bf16 {
        let reason = "only frozen layers take it, and without an adapter none is frozen; use `f32`, or `adapter.lora`";
        return Err(invalid("training.precision", "bf16", reason));
    }
    if let Adapter::Lora(lora) = &spec.adapter
        && lora.target_modules.is_empty()
    {
        return Err(invalid("adapter.lora.target_modules", "empty", "name at least one linear layer, such as `query`"));
    }
    Ok(())
}

/// A worker reads stores, by digest; the Hub is the client's.
fn hub(spec: &Spec) -> Result<(), InvalidSpec> {
    let (field, place) = match &spec.model {
        Model::Folder(folder) => ("model.uri", &folder.uri),
        Model::Scratch(line) => ("model", line),
    };
    match hub_remedy(place) {
        Some(remedy) => Err(invalid(field, format!("`{place}`"), remedy)),
        None => Ok(()),
    }
}

/// What to do instead of naming a model of the Hub, if `place` is one.
pub fn hub_remedy(place: &str) -> Option<String> {
    place.starts_with("hf://").then(|| {
        format!("`perennial model push {place}` stores a copy and prints the `uri` and `sha256` to write instead")
    })
}

/// The digest names a folder of the worker's cache, so that it must be nothing but a digest.
fn model(spec: &Spec) -> Result<(), InvalidSpec> {
    hub(spec)?;
    match &spec.model {
        Model::Folder(folder) if folder.sha256.len() != 64 || !folder.sha256.bytes().all(|b| b.is_ascii_hexdigit()) => {
            let reason = "expected 64 hex digits, as `perennial model push DIR` prints them";
            Err(invalid("model.sha256", format!("`{}`", folder.sha256), reason))
        }
        Model::Scratch(line) if !is_line(line) => {
            let reason = "expected a line such as `mlp:100,100`, `vit:d=64` or `resnet18:slim`, or the `uri` and `sha256` of \
                          a folder, as `perennial model push DIR` prints them";
            Err(invalid("model", format!("`{line}`"), reason))
        }
        _ => Ok(()),
    }
}

fn labels(spec: &Spec) -> Result<(), InvalidSpec> {
    let mut seen = std::collections::HashSet::new();
    for label in &spec.labels {
        if label.is_empty() {
            return Err(invalid("labels", "holding an empty name", "give each label a name"));
        }
        if !seen.insert(label) {
            return Err(invalid("labels", format!("naming `{label}` twice"), "names must differ"));
        }
    }
    if spec.labels.is_empty() && spec.labels_mode == LabelsMode::Closed {
        let reason = "list the label names, or set `labels_mode: open`";
        return Err(invalid("labels", "empty", reason));
    }
    Ok(())
}

fn method(spec: &Spec) -> Result<(), InvalidSpec> {
    spec.loss.check(spec.method).map_err(|(given, reason)| invalid("loss.parameters", given, reason))?;
    if spec.rehearsal.update == Some(BufferUpdate::Online) && !spec.method.may_offer_online() {
        let reason = format!("`{}` fills its memory after training; use `chunk`", spec.method.name());
        return Err(invalid("rehearsal.update", "online", reason));
    }
    if spec.rehearsal.update == Some(BufferUpdate::Online) && spec.policy().selects() {
        let reason = format!("`{}` chooses among a whole chunk; use `chunk`", spec.policy().name());
        return Err(invalid("rehearsal.update", "online", reason));
    }
    if let Some((field, given)) = spec.loss.idle(spec.method) {
        return Err(invalid(field, given, format!("`{}` would pass it over; leave it out", spec.method.name())));
    }
    if spec.rehearsal.weights == SlotWeights::Sampling && !spec.method.replays() {
        let reason = format!("`{}` draws no replay batches; leave it out", spec.method.name());
        return Err(invalid("rehearsal.weights", "sampling", reason));
    }
    if let (Method::Joint, Some(policy)) = (spec.method, spec.rehearsal.policy)
        && policy != Policy::Infinite
    {
        return Err(invalid("rehearsal.policy", policy.name(), "`joint` keeps everything; leave it out"));
    }
    if spec.rehearsal.refresh_decay.get() < 1.0 && !spec.method.keeps_answers() {
        let reason = format!("`{}` keeps no answers of remembered rows; leave it out", spec.method.name());
        return Err(invalid("rehearsal.refresh_decay", spec.rehearsal.refresh_decay.get(), reason));
    }
    let gmc = &spec.rehearsal.gmc;
    if gmc.per_class && (gmc.projection.is_some() || gmc.rows == GmcRows::Uniform) {
        let reason = "each label is matched by its own row of the last layer; leave out `projection` and `rows`";
        return Err(invalid("rehearsal.gmc.per_class", "true", reason));
    }
    if spec.rehearsal.measure_residual && spec.buffer_update() == BufferUpdate::Online {
        let reason = "it is measured when memory takes a whole chunk; use `rehearsal.update: chunk`";
        return Err(invalid("rehearsal.measure_residual", "true", reason));
    }
    if spec.rehearsal.gmc != Gmc::default() && spec.policy() != Policy::Gmc && !spec.rehearsal.measure_residual {
        let reason = format!("the policy is `{}`; leave it out, or use `gmc`", spec.policy().name());
        return Err(invalid("rehearsal.gmc", "set", reason));
    }
    Ok(())
}

fn selection(spec: &Spec) -> Result<(), InvalidSpec> {
    let selection = &spec.training.selection;
    if let Some((field, given)) = selection.idle() {
        return Err(invalid(field, given, "the rule is `all`, which would pass it over; name a `rule`"));
    }
    if !selection.is_all() && spec.method.keeps_answers() && spec.buffer_update() == BufferUpdate::Online {
        let reason = format!(
            "`{}` keeps the answers of every row as it comes, and rows not chosen have none; use `rehearsal.update: chunk`",
            spec.method.name()
        );
        return Err(invalid("training.selection.rule", selection.rule.name(), reason));
    }
    if let (Some(_), Method::Gdumb | Method::Rd) = (spec.training.reinitialize, spec.method) {
        let reason = format!("`{}` starts from the base's weights; leave it out", spec.method.name());
        return Err(invalid("training.reinitialize", "set", reason));
    }
    let augment = &spec.input.augment;
    if let Some(twice) = augment.iter().enumerate().find(|(at, one)| augment[..*at].contains(one)) {
        return Err(invalid("input.augment", format!("naming `{}` twice", twice.1.name()), "name each once"));
    }
    validation(spec)
}

/// What is measured must be what becomes the version.
fn validation(spec: &Spec) -> Result<(), InvalidSpec> {
    let validation = &spec.training.validation;
    if validation.fraction.get() > 0.0 && spec.method == Method::Icarl {
        let reason = "`icarl` answers by class means, which come at the end; leave it out";
        return Err(invalid("training.validation.fraction", validation.fraction.get(), reason));
    }
    if validation.fraction.get() > 0.0 && spec.method.has_copies() && spec.deploys() == Deploys::Stable {
        let reason = "the weights that train are measured, and the slow copy is deployed; set `loss.deploys: working`";
        return Err(invalid("training.validation.fraction", validation.fraction.get(), reason));
    }
    if validation.fraction.get() == 0.0 && *validation != Validation::default() {
        let reason = "no rows are set aside, so nothing is measured; set `training.validation.fraction`";
        return Err(invalid("training.validation", "without a fraction", reason));
    }
    Ok(())
}

fn steps(spec: &Spec) -> Result<(), InvalidSpec> {
    let training = &spec.training;
    let (l, ranks) = (training.micro_batches(), spec.resources.ranks.get() as usize);
    if ranks > l {
        let reason = format!("at most `training.micro_batches` ({l}) ranks have work to do");
        return Err(invalid("resources.ranks", ranks, reason));
    }
    let (new, memory) = training.split();
    if new == 0 {
        return Err(invalid("training.replay", memory, "it leaves no room for new rows"));
    }
    if l > new {
        let reason = format!("a step has only {new} new rows to divide");
        return Err(invalid("training.micro_batches", l, reason));
    }
    Ok(())
}
