//! Models made from a line of text: `mlp:100,100`, `vit:d=64,layers=4,heads=4,patch=4,mlp=128`, `resnet18:slim`.

use crate::Error;
use crate::model::layers::Source;
use crate::model::mlp::{self, Mlp};
use crate::model::resnet::{self, Resnet, Stem};
use crate::model::vit::{self, Vit};
use crate::model::{Geometry, Model};

/// Of Continual Normalisation, as its paper has it.
const GROUPS: i64 = 32;

/// The model `spec` describes, for images of this geometry.
pub fn build(spec: &str, geometry: Geometry, source: &mut Source) -> Result<Box<dyn Model>, Error> {
    let refused = |reason: String| Error::ModelSpec { given: spec.to_owned(), reason };
    match spec.split_once(':') {
        Some(("mlp", widths)) => {
            let config = mlp_config(widths, geometry).map_err(refused)?;
            Ok(Box::new(Mlp::new(config, source)?))
        }
        Some(("vit", settings)) => {
            let config = vit_config(settings, geometry).map_err(refused)?;
            Ok(Box::new(Vit::new(config, source)?))
        }
        Some(("resnet18", settings)) => {
            let config = resnet_config(settings, geometry).map_err(refused)?;
            Ok(Box::new(Resnet::new(config, source)?))
        }
        _ => Err(refused(
            "expected `mlp:<widths>`, `vit:<settings>` or `resnet18:<form>`, or a folder's `uri` and `sha256`"
                .to_owned(),
        )),
    }
}

fn mlp_config(widths: &str, geometry: Geometry) -> Result<mlp::Config, String> {
    let hidden_sizes = widths.split(',').map(|width| number("hidden width", width)).collect::<Result<_, _>>()?;
    Ok(mlp::Config { hidden_sizes, num_channels: geometry.channels, image_size: geometry.side })
}

fn vit_config(settings: &str, geometry: Geometry) -> Result<vit::Config, String> {
    let mut config = vit::Config {
        hidden_size: 64,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        patch_size: 4,
        intermediate_size: 128,
        image_size: geometry.side,
        num_channels: geometry.channels,
        ..vit::Config::default()
    };
    for setting in settings.split(',').filter(|setting| !setting.is_empty()) {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        let field = match key {
            "d" => &mut config.hidden_size,
            "layers" => &mut config.num_hidden_layers,
            "heads" => &mut config.num_attention_heads,
            "patch" => &mut config.patch_size,
            "mlp" => &mut config.intermediate_size,
            _ => return Err(format!("unknown setting `{key}`; known: d, layers, heads, patch, mlp")),
        };
        *field = number(key, value)?;
    }
    config.check().map_err(|(field, given, reason)| format!("{field} is {given}: {reason}"))?;
    Ok(config)
}

/// A form, then `nf=`, the channels of the first stage, `norm=` and `groups=`.
fn resnet_config(settings: &str, geometry: Geometry) -> Result<resnet::Config, String> {
    let mut settings = settings.split(',');
    let (stem, mut width) = match settings.next() {
        Some("imagenet") => (Stem::Imagenet, 64),
        Some("cifar") => (Stem::Cifar, 64),
        Some("slim") => (Stem::Cifar, 20),
        other => return Err(format!("unknown form `{}`; known: imagenet, cifar, slim", other.unwrap_or_default())),
    };
    let (mut continual, mut groups) = (false, None);
    for setting in settings {
        match setting.split_once('=').unwrap_or((setting, "")) {
            ("nf", value) => width = number("nf", value)?,
            ("groups", value) => groups = Some(number("groups", value)?),
            ("norm", "batch") => continual = false,
            ("norm", "continual") => continual = true,
            ("norm", other) => return Err(format!("unknown norm `{other}`; known: batch, continual")),
            (key, _) => return Err(format!("unknown setting `{key}`; known: nf, norm, groups")),
        }
    }
    if !continual && let Some(groups) = groups {
        return Err(format!("groups is {groups}: batch normalisation has none; leave it out, or say norm=continual"));
    }
    let continual_groups = continual.then(|| groups.unwrap_or(GROUPS));
    let config = resnet::Config { continual_groups, ..resnet::Config::resnet18(stem, width, geometry) };
    config.check().map_err(|(_, given, reason)| format!("groups is {given}: {reason}"))?;
    Ok(config)
}

fn number(what: &str, given: &str) -> Result<i64, String> {
    match given.parse() {
        Ok(value) if (1..=65_536).contains(&value) => Ok(value),
        _ => Err(format!("{what} `{given}` is not a whole number from 1 to 65536")),
    }
}
