//! Scores what an update would deploy, every so many of its steps.

use learn::data::{Dataset, Reader};
use learn::evaluate::evaluate;
use learn::model::Net;
use learn::update::Moment;
use tch::Device;

use super::{Clock, Error, rows};
use crate::job::{Point, Probed, TrainJob};

/// Rows scored at once.
const BATCH: usize = 128;

pub struct Prober<'a> {
    /// None where nothing is asked for.
    every: Option<u64>,
    /// By task.
    sets: Vec<(String, Dataset)>,
    net: &'a Net,
    reader: &'a Reader,
    clock: Clock<'a>,
    found: Probed,
}

impl<'a> Prober<'a> {
    /// Rank 0 answers the job's probe; the others wait in their next collective meanwhile.
    pub fn new(
        job: &TrainJob,
        net: &'a Net,
        reader: &'a Reader,
        clock: Clock<'a>,
        (rank, device): (usize, Device),
    ) -> Result<Self, Error> {
        let probe = job.probe.as_ref().filter(|_| rank == 0);
        let mut sets = Vec::new();
        for set in probe.iter().flat_map(|probe| &probe.sets) {
            let place = format!("EvalSet {} of task `{}`", set.number, set.task);
            let rows = rows::held_out(job, set)?;
            let set_rows = reader.decode(&rows, &place, &job.manifest.labels)?.to_device(device);
            sets.push((set.task.to_string(), set_rows));
        }
        let every = probe.map(|probe| probe.every.get());
        Ok(Self { every, sets, net, reader, clock, found: Probed::default() })
    }

    /// What is left after the last step is a version, which others score.
    pub fn after_step(&mut self, moment: &Moment, alive: &mut dyn FnMut()) {
        let is_due = self.every.is_some_and(|every| moment.step.is_multiple_of(every));
        if !is_due || moment.step == moment.total {
            return;
        }
        let started = (self.clock)();
        let mut accuracy = |(task, set): &(String, Dataset)| {
            let scored = evaluate(self.net, set, self.reader, Some(task), BATCH, &mut |_| alive());
            scored.correct as f64 / scored.items.max(1) as f64
        };
        let accuracies = moment.deployed(|| self.sets.iter().map(&mut accuracy).collect());
        self.found.points.push(Point { step: moment.step, accuracies });
        self.found.seconds += (self.clock)() - started;
    }

    pub fn found(self) -> Probed {
        self.found
    }
}
