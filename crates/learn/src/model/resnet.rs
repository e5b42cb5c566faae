//! ResNet (He et al., 2016) of basic blocks, tensor for tensor Hugging Face's `ResNetModel`.
//!
//! Two things transformers has no configuration for: the stem for small images (3 × 3, stride 1, no pooling), and
//! Continual Normalisation in place of batch normalisation. A folder with either is of a type of its own.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::Error;
use crate::input::Input;
use crate::model::layers::{Init, Source};
use crate::model::norm::BatchNorm;
use crate::model::{Embedded, Geometry, Model, Site, Takes};

pub const MODEL_TYPE: &str = "resnet";
/// Of what transformers cannot load.
pub const OWN_TYPE: &str = "perennial_resnet";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 7 × 7 with stride 2, then the maximum of 3 × 3 with stride 2.
    #[default]
    Imagenet,
    /// 3 × 3 with stride 1.
    Cifar,
}

/// The fields of `config.json` that change the forward pass; defaults are Hugging Face's, below those of no one else's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub num_channels: i64,
    pub embedding_size: i64,
    pub hidden_sizes: Vec<i64>,
    pub depths: Vec<i64>,
    pub layer_type: String,
    pub hidden_act: String,
    pub downsample_in_first_stage: bool,
    /// Side of the images it is given.
    pub image_size: i64,
    pub stem: Stem,
    /// Of Continual Normalisation's GroupNorm; none with batch normalisation alone.
    pub continual_groups: Option<i64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            num_channels: 3,
            embedding_size: 64,
            hidden_sizes: vec![256, 512, 1024, 2048],
            depths: vec![3, 4, 6, 3],
            layer_type: "bottleneck".to_owned(),
            hidden_act: "relu".to_owned(),
            downsample_in_first_stage: false,
            image_size: 224,
            stem: Stem::Imagenet,
            continual_groups: None,
        }
    }
}

impl Config {
    /// ResNet-18, of as many channels as `width` in its first stage.
    pub fn resnet18(stem: Stem, width: i64, geometry: Geometry) -> Self {
        Self {
            num_channels: geometry.channels,
            embedding_size: width,
            hidden_sizes: (0..4).map(|stage| width << stage).collect(),
            depths: vec![2; 4],
            layer_type: "basic".to_owned(),
            image_size: geometry.side,
            stem,
            ..Self::default()
        }
    }

    /// Otherwise the field at fault, what it is, and why that cannot be.
    pub fn check(&self) -> Result<(), (&'static str, String, String)> {
        let refuse = |field, given: &dyn ToString, reason: String| Err((field, given.to_string(), reason));
        if self.layer_type != "basic" {
            let reason = "only `basic` is supported, the layers of ResNet-18 and ResNet-34".to_owned();
            return refuse("layer_type", &self.layer_type, reason);
        }
        if self.hidden_act != "relu" {
            return refuse("hidden_act", &self.hidden_act, "only `relu` is supported".to_owned());
        }
        if self.depths.len() != self.hidden_sizes.len() || self.depths.iter().any(|&depth| depth < 1) {
            let reason = format!("expected {} numbers of at least 1, one a stage", self.hidden_sizes.len().max(1));
            return refuse("depths", &format!("{:?}", self.depths), reason);
        }
        if let Some(groups) = self.continual_groups
            && let Some(channels) = self.channels().find(|channels| groups < 1 || channels % groups != 0)
        {
            let fitting = (1..=channels).rev().find(|n| *n <= 32 && self.channels().all(|all| all % n == 0));
            let reason = format!(
                "it must divide the channels of every layer, and one has {channels}; {} would do",
                fitting.unwrap_or(1)
            );
            return refuse("continual_groups", &groups, reason);
        }
        Ok(())
    }

    /// Of its layers.
    fn channels(&self) -> impl Iterator<Item = i64> {
        std::iter::once(self.embedding_size).chain(self.hidden_sizes.iter().copied())
    }
}

pub struct Resnet {
    config: Config,
    stem: Unit,
    /// Of all stages, each under its name.
    blocks: Vec<(String, Block)>,
}

impl Resnet {
    pub fn new(config: Config, source: &mut Source) -> Result<Self, Error> {
        let mut maker = Maker { source, groups: config.continual_groups, place: 0 };
        let [kernel, stride] = match config.stem {
            Stem::Imagenet => [7, 2],
            Stem::Cifar => [3, 1],
        };
        let mut channels = config.embedding_size;
        let stem = maker.unit("embedder.embedder", [channels, config.num_channels, kernel], stride)?;
        let mut blocks = Vec::new();
        for (stage, (&width, &depth)) in config.hidden_sizes.iter().zip(&config.depths).enumerate() {
            for layer in 0..depth {
                let halves = layer == 0 && (stage > 0 || config.downsample_in_first_stage);
                let name = format!("encoder.stages.{stage}.layers.{layer}");
                let block = Block::new(&mut maker, &name, [width, channels], if halves { 2 } else { 1 })?;
                blocks.push((name, block));
                channels = width;
            }
        }
        Ok(Self { config, stem, blocks })
    }

    /// (rows, channels, side, side) -> (rows, embedding, side', side')
    fn stemmed(&self, pixels: &Tensor, statistics: Option<&Tensor>) -> Tensor {
        let ordered = if pixels.device() == Device::Cpu { channels_last(pixels) } else { pixels.shallow_clone() };
        let x = self.stem.forward(&ordered, statistics).relu();
        match self.config.stem {
            Stem::Imagenet => x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false),
            Stem::Cifar => x,
        }
    }
}

impl Model for Resnet {
    /// The pixels: already the stem looks at more than one row.
    fn embed(&self, input: &Input) -> Embedded {
        Embedded::new(input.pixels().shallow_clone(), None)
    }

    fn depth(&self) -> usize {
        self.blocks.len()
    }

    fn advance(&self, embedded: Embedded, to: usize) -> Embedded {
        let statistics = embedded.statistics.as_ref();
        let x = if embedded.done == 0 { self.stemmed(&embedded.x, statistics) } else { embedded.x };
        let x = self.blocks[embedded.done..to].iter().fold(x, |x, (_, block)| block.forward(&x, statistics));
        Embedded { x, done: to, ..embedded }
    }

    fn encode(&self, embedded: Embedded) -> Tensor {
        self.advance(embedded, self.blocks.len()).x.mean_dim(&[2i64, 3][..], false, None::<Kind>)
    }

    fn width(&self) -> i64 {
        self.config.hidden_sizes.last().copied().unwrap_or(self.config.embedding_size)
    }

    fn takes(&self) -> Takes {
        Takes::Images(Geometry { channels: self.config.num_channels, side: self.config.image_size })
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        let blocks = self.blocks.iter().flat_map(|(name, block)| block.named(name));
        self.stem.named("embedder.embedder").into_iter().chain(blocks).collect()
    }

    fn sites(&mut self) -> Vec<Site<'_>> {
        Vec::new()
    }

    fn freeze(&mut self, _kind: Kind) {}

    fn config(&self) -> Value {
        let mut config = json!(self.config);
        let is_theirs = self.config.stem == Stem::Imagenet && self.config.continual_groups.is_none();
        config["model_type"] = json!(if is_theirs { MODEL_TYPE } else { OWN_TYPE });
        if is_theirs {
            config["architectures"] = json!(["ResNetModel"]);
            let fields = config.as_object_mut().expect("a structure");
            fields.retain(|field, _| !["stem", "continual_groups"].contains(&field.as_str()));
        }
        config
    }
}

/// The same values with those of a pixel side by side, and so in every layer after: a step on CPU takes a seventh less.
fn channels_last(pixels: &Tensor) -> Tensor {
    pixels.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// Makes units whose running statistics stand one after the other.
struct Maker<'s, 'f> {
    source: &'s mut Source<'f>,
    groups: Option<i64>,
    place: i64,
}

impl Maker<'_, '_> {
    fn unit(&mut self, name: &str, [outputs, inputs, kernel]: [i64; 3], stride: i64) -> Result<Unit, Error> {
        // As PyTorch has it.
        let init = Init::fan_in(inputs * kernel * kernel);
        let shape = [outputs, inputs, kernel, kernel];
        let weight = (self.source)(&format!("{name}.convolution.weight"), &shape, init)?;
        let name = format!("{name}.normalization");
        let norm = BatchNorm::new(self.source, &name, outputs, self.groups, self.place)?;
        self.place += norm.length();
        Ok(Unit { weight, stride, norm })
    }
}

/// A convolution without bias, normalised.
struct Unit {
    /// (out, in, kernel, kernel)
    weight: Tensor,
    stride: i64,
    norm: BatchNorm,
}

impl Unit {
    fn forward(&self, x: &Tensor, statistics: Option<&Tensor>) -> Tensor {
        let (stride, padding) = (self.stride, self.weight.size()[2] / 2);
        let none = None::<&Tensor>;
        let x = x.conv2d(&self.weight, none, [stride, stride], [padding, padding], [1, 1], 1);
        self.norm.forward(&x, statistics)
    }

    fn named(&self, name: &str) -> Vec<(String, Tensor)> {
        let mut tensors = vec![(format!("{name}.convolution.weight"), self.weight.shallow_clone())];
        tensors.extend(self.norm.named(&format!("{name}.normalization")));
        tensors
    }
}

/// `relu(shortcut(x) + second(relu(first(x))))`
struct Block {
    /// The identity where sizes stay.
    shortcut: Option<Unit>,
    first: Unit,
    second: Unit,
}

impl Block {
    fn new(maker: &mut Maker, name: &str, [outputs, inputs]: [i64; 2], stride: i64) -> Result<Self, Error> {
        let resized = inputs != outputs || stride != 1;
        let shortcut = || maker.unit(&format!("{name}.shortcut"), [outputs, inputs, 1], stride);
        Ok(Self {
            shortcut: resized.then(shortcut).transpose()?,
            first: maker.unit(&format!("{name}.layer.0"), [outputs, inputs, 3], stride)?,
            second: maker.unit(&format!("{name}.layer.1"), [outputs, outputs, 3], 1)?,
        })
    }

    fn forward(&self, x: &Tensor, statistics: Option<&Tensor>) -> Tensor {
        let y = self.second.forward(&self.first.forward(x, statistics).relu(), statistics);
        match &self.shortcut {
            Some(shortcut) => (y + shortcut.forward(x, statistics)).relu(),
            None => (y + x).relu(),
        }
    }

    fn named(&self, name: &str) -> Vec<(String, Tensor)> {
        let shortcut = self.shortcut.iter().flat_map(|unit| unit.named(&format!("{name}.shortcut")));
        let first = self.first.named(&format!("{name}.layer.0"));
        shortcut.chain(first).chain(self.second.named(&format!("{name}.layer.1"))).collect()
    }
}
