//! Low-rank adaptation (Hu et al., 2021): `W + scale·B·A`, with W frozen and B = 0 at the start.

use std::collections::BTreeSet;

use domain::pipeline::{Layers, Lora};
use tch::{Kind, Tensor};

use crate::Error;
use crate::model::layers::{Delta, Init};
use crate::model::{Model, Site};

/// What trains, and the first block that has some of it.
pub fn attach(
    model: &mut dyn Model,
    settings: &Lora,
    seed: u64,
    kind: Kind,
) -> Result<(Vec<(String, Tensor)>, usize), Error> {
    model.freeze(kind);
    let r = i64::from(settings.r.get());
    let frozen = frozen(settings.layers, model.depth())?;
    let mut sites = model.sites();
    if sites.is_empty() {
        return Err(Error::NoLinear);
    }
    check_targets(&sites.iter().map(|site| last(&site.path)).collect(), &settings.target_modules)?;
    let mut trained = Vec::new();
    for Site { path, linear, .. } in sites.iter_mut().filter(|site| site.block >= frozen) {
        if !settings.target_modules.iter().any(|target| target == last(path)) {
            continue;
        }
        let (outputs, inputs) = linear.shape();
        if r > outputs.min(inputs) {
            return Err(Error::Rank { r, module: path.clone(), outputs, inputs });
        }
        let device = linear.weight.device();
        let [a_name, b_name] = names(path);
        let a = Init::fan_in(inputs).draw(seed, &a_name, &[r, inputs]).to_device(device);
        let b = Tensor::zeros([outputs, r], (Kind::Float, device));
        trained.extend([(a_name, a.shallow_clone()), (b_name, b.shallow_clone())]);
        linear.delta = Some(Delta { a, b, scale: settings.scale() });
    }
    Ok((trained, frozen))
}

/// Blocks without adapters.
fn frozen(layers: Layers, depth: usize) -> Result<usize, Error> {
    match layers {
        Layers::All => Ok(0),
        Layers::Last(count) => {
            depth.checked_sub(count.get() as usize).ok_or(Error::TooFewBlocks { asked: count.get(), depth })
        }
    }
}

fn names(path: &str) -> [String; 2] {
    ["A", "B"].map(|side| format!("{path}.lora_{side}.weight"))
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn check_targets(available: &BTreeSet<&str>, wanted: &[String]) -> Result<(), Error> {
    let Some(given) = wanted.iter().find(|target| !available.contains(target.as_str())) else {
        return Ok(());
    };
    let nearest = available
        .iter()
        .map(|name| (strsim::jaro_winkler(name, given), name))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    Err(Error::UnknownTarget {
        given: given.clone(),
        hint: nearest.map(|(_, name)| format!("; did you mean `{name}`?")).unwrap_or_default(),
        available: available.iter().copied().collect::<Vec<_>>().join(", "),
    })
}
