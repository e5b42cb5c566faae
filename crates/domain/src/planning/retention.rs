//! Which versions keep their files.

use std::collections::BTreeSet;

use super::{Refusal, event, pipeline};
use crate::id::{PipelineId, Version};
use crate::state::{Event, EventKind, PipelineState, State};
use crate::version::AdapterVersion;

/// A version whose files can be had.
pub fn available(current: &PipelineState, version: Version) -> Result<&AdapterVersion, Refusal> {
    let known = current.versions.get(&version).ok_or(Refusal::UnknownVersion(version))?;
    match current.retired.contains_key(&version) {
        true => Err(Refusal::Retired(version)),
        false => Ok(known),
    }
}

/// Keeps a version's files whatever the retention says. A hold that is there takes the new reason.
pub fn hold(state: &State, id: &PipelineId, version: Version, reason: &str) -> Result<Vec<Event>, Refusal> {
    let current = pipeline(state, id)?;
    available(current, version)?;
    if current.holds.get(&version).is_some_and(|held| held == reason) {
        return Ok(Vec::new());
    }
    Ok(vec![event(id, EventKind::VersionHeld { version, reason: reason.to_owned() })])
}

/// Ends a hold, if there is one.
pub fn end_hold(state: &State, id: &PipelineId, version: Version) -> Result<Vec<Event>, Refusal> {
    let current = pipeline(state, id)?;
    if !current.versions.contains_key(&version) {
        return Err(Refusal::UnknownVersion(version));
    }
    let held = current.holds.contains_key(&version);
    Ok(if held { vec![event(id, EventKind::VersionReleased { version })] } else { Vec::new() })
}

/// Versions that the pipeline's retention lets go of, newest first.
pub fn expired(current: &PipelineState) -> Vec<Version> {
    let Some(kept) = current.pipeline.retention.versions.map(|kept| kept.get() as usize) else { return Vec::new() };
    let Some(oldest_kept) = current.versions.keys().nth_back(kept - 1) else { return Vec::new() };
    let (needed, retired) = (needed(current), &current.retired);
    let stays = |version: &Version| needed.contains(version) || retired.contains_key(version);
    // Asked at every change of the log, when mostly nothing is to be done: older ones are counted, not looked at.
    let gone = retired.len() - retired.range(oldest_kept..).count();
    let spared = needed.range(..oldest_kept).filter(|version| !retired.contains_key(version)).count();
    if current.versions.len() - kept == gone + spared {
        return Vec::new();
    }
    let older = current.versions.range(..oldest_kept).rev();
    older.map(|(version, _)| *version).filter(|version| !stays(version)).collect()
}

/// Versions whose files somebody may ask for: under an alias or a hold, the run that goes on or the next one, and whoever
/// rolls the champion back.
fn needed(current: &PipelineState) -> BTreeSet<Version> {
    let mut needed: BTreeSet<Version> = current.aliases.values().chain(current.holds.keys()).copied().collect();
    needed.extend(current.tip);
    needed.extend(current.champion().and_then(|champion| current.versions.get(&champion)?.parent));
    needed.extend(current.active_run().and_then(|run| Some(run.manifest.parent.as_ref()?.version)));
    needed
}

/// Retires what has expired. From here on nobody is given its files, so that they may go.
pub fn retire(state: &State, id: &PipelineId) -> Result<Vec<Event>, Refusal> {
    let versions = expired(pipeline(state, id)?);
    Ok(if versions.is_empty() { Vec::new() } else { vec![event(id, EventKind::VersionsRetired { versions })] })
}
