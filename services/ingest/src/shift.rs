//! How chunks compare with what their pipelines knew, as evaluators found.

use domain::planning::{self, Refusal};
use domain::shift::{Against, Shift};
use perennial_proto::convert::{self, Invalid, chunk_id};
use perennial_proto::v1;

use crate::{Error, Record};

/// What names the rows that a pipeline remembers, where tasks have names.
const BUFFER: &str = "buffer";

impl Record {
    pub(crate) fn shift(&self, request: &v1::GetShiftRequest) -> Result<v1::GetShiftResponse, Error> {
        let (pipeline, id) = chunk_id("name", &request.name)?;
        self.journal.read(|state| {
            let current = planning::pipeline(state, &pipeline)?;
            if !current.chunks.contains_key(&id) {
                return Err(Refusal::UnknownChunk(id.clone()).into());
            }
            let pending = current.place(&id).is_some_and(|place| planning::generation(current, place).is_some());
            let Some(measured) = current.shift(&id) else {
                return Ok(v1::GetShiftResponse { pending, ..Default::default() });
            };
            let shifts = chosen(&measured.shifts, &request.against)?.map(convert::shift).collect();
            let failure = measured.failure.clone().unwrap_or_default();
            Ok(v1::GetShiftResponse { pending, version: measured.version.0, shifts, failure })
        })
    }
}

fn chosen<'a>(shifts: &'a [Shift], names: &'a [String]) -> Result<impl Iterator<Item = &'a Shift>, Invalid> {
    let name = |shift: &Shift| match &shift.against {
        Against::Buffer => BUFFER.to_owned(),
        Against::Task(task) => task.to_string(),
    };
    let known: Vec<String> = shifts.iter().map(name).collect();
    // Where nothing is known, that is the answer.
    if let Some(unknown) = names.iter().find(|name| !known.is_empty() && !known.contains(name)) {
        let reason = format!("the chunk was not compared with `{unknown}`, but with {}", known.join(", "));
        return Err(Invalid::new("against", reason));
    }
    Ok(shifts.iter().filter(move |shift| names.is_empty() || names.contains(&name(shift))))
}
