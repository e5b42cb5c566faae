//! The base before any update: what some methods start from, and what coresets are matched at.

use std::path::PathBuf;

use domain::chunk::Row;
use domain::pipeline::Spec;
use learn::assemble::{self, Assembled, Sources};
use learn::data::images::PREPROCESSOR;
use learn::model::Net;
use learn::{Error, Flat, method};
use tch::Tensor;

pub struct Base<'a> {
    sources: Sources<'a>,
    /// What says how images become numbers: the parent's file, if there is a parent.
    described: Option<PathBuf>,
    sample: Row,
}

impl<'a> Base<'a> {
    /// Of a run that is made of `sources`, with one of its rows.
    pub fn new(sources: Sources<'a>, sample: Row) -> Self {
        let described = sources.version.map(|version| version.join(PREPROCESSOR));
        Self { sources, described, sample }
    }

    /// Its weights, if the method starts from them.
    pub fn values(&self) -> Result<Option<Tensor>, Error> {
        let pipeline = self.sources.pipeline;
        match method::phases(pipeline.method).iter().any(|phase| phase.anew) {
            true => Ok(Some(Flat::over(self.made(pipeline)?.trained).values)),
            false => Ok(None),
        }
    }

    /// With the initial weights of another seed.
    pub fn net(&self, seed: u64) -> Result<(Net, Flat), Error> {
        let made = self.made(&Spec { seed, ..self.sources.pipeline.clone() })?;
        Ok((made.net, Flat::over(made.trained)))
    }

    fn made(&self, pipeline: &Spec) -> Result<Assembled, Error> {
        let preprocessor = self.described.as_deref();
        assemble::assemble(Sources { pipeline, version: None, preprocessor, ..self.sources }, &self.sample)
    }
}
