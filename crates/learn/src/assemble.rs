//! From files to a net ready to train or to be scored: base, adapter, head, preprocessing.

use std::path::{Path, PathBuf};

use domain::chunk::Row;
use domain::pipeline::{Adapter, FeaturePooling, Heads as HeadsOf, Model as Origin, Precision, Spec};
use tch::{Device, Tensor};

use crate::data::Reader;
use crate::data::images::{PREPROCESSOR, Preprocess, geometry_of};
use crate::data::texts::{TOKENIZER, TextReader};
use crate::files::{self, Precise};
use crate::heads::Heads;
use crate::model::head::Head;
use crate::model::{Geometry, Model, Net, Takes, folder, layers, scratch};
use crate::publish::{ADAPTER, HEAD, LABELS, MEANS, PREFIX};
use crate::{Error, peft};

/// What a net is made of.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    pub pipeline: &'a Spec,
    /// The run's labels: the head's rows.
    pub labels: &'a [String],
    /// The folder of `pipeline.model`, if it is one.
    pub base: Option<&'a Path>,
    /// A published version's files. None: the base with its initial head.
    pub version: Option<&'a Path>,
    /// What says how images become numbers. None: the version's file or the base's.
    pub preprocessor: Option<&'a Path>,
    pub device: Device,
    /// Of frozen linear layers.
    pub precision: Precision,
}

impl Sources<'_> {
    /// The file that says how images become numbers: the version's, if there is one, else `other`'s.
    fn described(&self, other: Option<&Path>) -> Option<PathBuf> {
        let beside = self.version.or(other).map(|place| place.join(PREPROCESSOR));
        self.preprocessor.map(Path::to_owned).or(beside)
    }
}

pub struct Assembled {
    pub net: Net,
    /// What trains, by name.
    pub trained: Vec<(String, Tensor)>,
    pub reader: Reader,
}

/// `sample` is one of the rows: its geometry is that of a model from scratch that nobody gave one. A version has one.
pub fn assemble(sources: Sources, sample: &Row) -> Result<Assembled, Error> {
    build(sources, Some(sample))
}

/// Of a version, which says by itself what rows it takes.
pub fn assemble_version(sources: Sources) -> Result<Assembled, Error> {
    build(sources, None)
}

pub(crate) fn build(sources: Sources, sample: Option<&Row>) -> Result<Assembled, Error> {
    let Sources { pipeline, labels, version, device, precision, .. } = sources;
    if let Some(version) = version {
        check_labels(&version.join(LABELS), labels)?;
    }
    let body = body(sources, sample)?;
    let reader = reader(sources, body.takes())?;
    let head = match version {
        Some(version) => Head::load(&version.join(HEAD), pipeline.seed, labels.len(), body.width())?,
        None => Head::new(pipeline.seed, labels.len(), body.width()),
    };
    let means = means(sources)?;
    let heads = match (pipeline.heads, version) {
        (HeadsOf::Labels, _) => None,
        (HeadsOf::Tasks, None) => Some(Heads::default()),
        (HeadsOf::Tasks, Some(version)) => Some(Heads::load(version, labels)?.unwrap_or_default()),
    };
    let mut net = Net { body, head: head.to_device(device), frozen: 0, means, heads };
    let kind = precision.kind();
    let trained = peft::attach(&mut net, &pipeline.adapter, pipeline.seed, kind)?;
    if let (Adapter::Lora(_), Some(version)) = (&pipeline.adapter, version) {
        load_adapter(&version.join(ADAPTER), &trained)?;
    }
    Ok(Assembled { net, trained, reader })
}

/// What decides instead of the head, if the version has it.
fn means(sources: Sources) -> Result<Option<Tensor>, Error> {
    let file = sources.version.map(|version| version.join(MEANS)).filter(|file| file.exists());
    let Some(file) = file else { return Ok(None) };
    let Some(means) = files::read_tensors(&file)?.remove("means") else {
        return Err(Error::NoTensor { file, tensor: "means".to_owned() });
    };
    // Labels that came since have none.
    let missing = sources.labels.len() as i64 - means.size()[0];
    let new = Tensor::full([missing.max(0), means.size()[1]], f64::NAN, (means.kind(), means.device()));
    Ok(Some(Tensor::cat(&[means, new], 0).to_device(sources.device)))
}

fn reader(sources: Sources, takes: Takes) -> Result<Reader, Error> {
    let Sources { pipeline, base, version, .. } = sources;
    check_input(pipeline, takes)?;
    match takes {
        Takes::Images(geometry) => {
            check_channels(pipeline, geometry)?;
            let given = match sources.described(base) {
                Some(file) => Preprocess::load(&file, Some(geometry))?,
                None => None,
            };
            Ok(Reader::Images(Preprocess::choose(&pipeline.input, given, geometry)))
        }
        Takes::Texts(limits) => {
            // A version of a whole model carries its tokenizer; an adapter's lies with the base.
            let places = [version, base].into_iter().flatten();
            let folder = places.clone().find(|place| place.join(TOKENIZER).exists()).or(places.last());
            let folder = folder.ok_or_else(|| spec_error(pipeline, "its folder was not fetched".to_owned()))?;
            Ok(Reader::Texts(TextReader::load(folder, &pipeline.input, limits)?))
        }
    }
}

fn body(sources: Sources, sample: Option<&Row>) -> Result<Box<dyn Model>, Error> {
    let Sources { pipeline, base, version, device, .. } = sources;
    let pooling = pipeline.input.pooling;
    if let (Adapter::Full, Some(version)) = (&pipeline.adapter, version) {
        return folder::load(version, pooling, device);
    }
    match (&pipeline.model, base) {
        (Origin::Folder(_), Some(base)) => folder::load(base, pooling, device),
        (Origin::Folder(_), None) => Err(spec_error(pipeline, "its folder was not fetched".to_owned())),
        (Origin::Scratch(spec), _) => {
            let geometry = scratch_geometry(sources, sample)?;
            scratch::build(spec, geometry, &mut layers::drawn(pipeline.seed, device))
        }
    }
}

/// What the parent was made for, else what the pipeline says, else what the data is.
fn scratch_geometry(sources: Sources, sample: Option<&Row>) -> Result<Geometry, Error> {
    let Sources { pipeline, .. } = sources;
    if let Some(file) = sources.described(None)
        && let Some(parent) = Preprocess::load(&file, None)?
    {
        return Ok(parent.geometry);
    }
    let [channels, side] =
        [pipeline.input.channels, pipeline.input.image_size].map(|number| number.map(|n| i64::from(n.get())));
    if let (Some(channels), Some(side)) = (channels, side) {
        return Ok(Geometry { channels, side });
    }
    let reason = || "no row shows what images it takes; set `input.channels` and `input.image_size`".to_owned();
    let images = geometry_of(sample.ok_or_else(|| spec_error(pipeline, reason()))?)?;
    Ok(Geometry { channels: channels.unwrap_or(images.channels), side: side.unwrap_or(images.side) })
}

/// What `input` says of the other kind of row would be passed over in silence.
fn check_input(pipeline: &Spec, takes: Takes) -> Result<(), Error> {
    let input = &pipeline.input;
    // How many tokens a text has differs from batch to batch.
    let by_place = matches!(pipeline.loss.feature_pooling, FeaturePooling::Pixel | FeaturePooling::Channel);
    let reads = match takes {
        Takes::Images(_) => "images",
        Takes::Texts(_) => "texts",
    };
    let settings = [
        ("input.normalize", "images", input.normalize.is_some()),
        ("input.channels", "images", input.channels.is_some()),
        ("input.image_size", "images", input.image_size.is_some()),
        ("input.augment", "images", !input.augment.is_empty()),
        ("loss.feature_pooling", "images", by_place),
        ("input.max_length", "texts", input.max_length.is_some()),
    ];
    match settings.into_iter().find(|(_, of, is_set)| *is_set && *of != reads) {
        Some((field, ..)) => Err(Error::Input { field, reads }),
        None => Ok(()),
    }
}

fn check_channels(pipeline: &Spec, geometry: Geometry) -> Result<(), Error> {
    if matches!(geometry.channels, 1 | 3) {
        return Ok(());
    }
    let reason = format!("it takes images of {} channels; 1 and 3 are supported", geometry.channels);
    Err(spec_error(pipeline, reason))
}

fn spec_error(pipeline: &Spec, reason: String) -> Error {
    let given = match &pipeline.model {
        Origin::Folder(model) => model.uri.clone(),
        Origin::Scratch(spec) => spec.clone(),
    };
    Error::ModelSpec { given, reason }
}

/// Of the version in `folder`.
pub fn labels(folder: &Path) -> Result<Vec<String>, Error> {
    files::read_json(&folder.join(LABELS))
}

/// A version's labels must be the first of the run's. How many there are.
pub(crate) fn check_labels(file: &Path, labels: &[String]) -> Result<usize, Error> {
    let known: Vec<String> = files::read_json(file)?;
    let count = known.len();
    for (position, given) in known.into_iter().enumerate() {
        let expected = labels.get(position).cloned().unwrap_or_default();
        if given != expected {
            return Err(Error::Labels { file: file.to_owned(), position, given, expected });
        }
    }
    Ok(count)
}

fn load_adapter(file: &Path, trained: &[(String, Tensor)]) -> Result<(), Error> {
    let _guard = tch::no_grad_guard();
    let stored = files::read_tensors(file)?;
    for (name, leaf) in trained.iter().filter(|(name, _)| name.contains(".lora_")) {
        let value = files::checked(file, &stored, &format!("{PREFIX}{name}"), &leaf.size())?;
        leaf.shallow_clone().copy_(&value);
    }
    Ok(())
}

/// The device called `cpu`, `cuda` or `cuda:N`.
pub fn device(name: &str) -> Option<Device> {
    match name.split_once(':') {
        None if name == "cpu" => Some(Device::Cpu),
        None if name == "cuda" => Some(Device::Cuda(0)),
        Some(("cuda", number)) => number.parse().ok().map(Device::Cuda),
        _ => None,
    }
}
