//! A multilayer perceptron: flattened pixels through linear layers and ReLU.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::Error;
use crate::input::Input;
use crate::model::layers::{Init, Linear, Source};
use crate::model::{Embedded, Geometry, Model, Site, Takes};

pub const MODEL_TYPE: &str = "perennial_mlp";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub hidden_sizes: Vec<i64>,
    pub num_channels: i64,
    pub image_size: i64,
}

pub struct Mlp {
    config: Config,
    layers: Vec<Linear>,
}

impl Mlp {
    pub fn new(config: Config, source: &mut Source) -> Result<Self, Error> {
        let mut inputs = config.num_channels * config.image_size * config.image_size;
        let mut layers = Vec::new();
        for (position, &outputs) in config.hidden_sizes.iter().enumerate() {
            let init = Init::fan_in(inputs);
            layers.push(Linear::new(source, &name(position), [outputs, inputs], init, Some(init))?);
            inputs = outputs;
        }
        Ok(Self { config, layers })
    }
}

fn name(position: usize) -> String {
    format!("fc{}", position + 1)
}

impl Model for Mlp {
    fn embed(&self, input: &Input) -> Embedded {
        Embedded::new(input.pixels().flatten(1, -1), None)
    }

    fn depth(&self) -> usize {
        self.layers.len()
    }

    fn advance(&self, embedded: Embedded, to: usize) -> Embedded {
        let x = self.layers[embedded.done..to].iter().fold(embedded.x, |x, layer| layer.forward(&x).relu());
        Embedded { x, done: to, ..embedded }
    }

    fn encode(&self, embedded: Embedded) -> Tensor {
        self.advance(embedded, self.layers.len()).x
    }

    fn width(&self) -> i64 {
        self.layers.last().map_or(0, |layer| layer.shape().0)
    }

    fn takes(&self) -> Takes {
        Takes::Images(Geometry { channels: self.config.num_channels, side: self.config.image_size })
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        self.layers.iter().enumerate().flat_map(|(i, layer)| layer.named(&name(i))).collect()
    }

    fn sites(&mut self) -> Vec<Site<'_>> {
        let layers = self.layers.iter_mut().enumerate();
        layers.map(|(block, linear)| Site { block, path: name(block), linear }).collect()
    }

    fn freeze(&mut self, kind: Kind) {
        self.layers.iter_mut().for_each(|layer| layer.cast(kind));
    }

    fn config(&self) -> Value {
        let mut config = json!(self.config);
        config["model_type"] = json!(MODEL_TYPE);
        config
    }
}
