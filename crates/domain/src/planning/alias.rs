//! Where aliases may be moved, by whoever knows where they are.

use super::{Refusal, available, cancel, event, pipeline};
use crate::id::{PipelineId, Version};
use crate::state::{Event, EventKind, PipelineState, State};
use crate::version::{Alias, Disposition};

/// Where the caller of a compare-and-set believes an alias to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Anywhere,
    At(Version),
    /// There is no such alias yet.
    Nowhere,
}

impl Expected {
    fn check(self, current: &PipelineState, alias: Alias) -> Result<(), Refusal> {
        let found = current.aliases.get(&alias).copied();
        let expected = match self {
            Self::Anywhere => return Ok(()),
            Self::At(version) => Some(version),
            Self::Nowhere => None,
        };
        if expected == found {
            return Ok(());
        }
        let show = |v: Option<Version>| v.map_or_else(|| "none".to_owned(), |v| v.to_string());
        Err(Refusal::AliasMoved { alias: alias.name(), expected: show(expected), found: show(found) })
    }
}

/// Moves an alias if it is where the caller believes it to be.
pub fn set_alias(
    state: &State,
    id: &PipelineId,
    alias: Alias,
    to: Version,
    expected: Expected,
    chunks: Disposition,
) -> Result<Vec<Event>, Refusal> {
    let current = pipeline(state, id)?;
    available(current, to)?;
    expected.check(current, alias)?;
    if alias != Alias::Champion {
        return Ok(vec![event(id, EventKind::AliasSet { alias, version: to })]);
    }
    if current.champion() == Some(to) && current.tip == Some(to) {
        return Ok(Vec::new());
    }
    // A run that continues from the old tip must not publish after the move.
    let mut events = match current.active_run() {
        Some(run) => cancel(state, id, run.number)?,
        None => Vec::new(),
    };
    events.push(event(id, EventKind::ChampionMoved { to, chunks }));
    Ok(events)
}

/// Rolls the champion back to `to`, or to the version it continues from. A caller that says which
/// champion it expects can repeat the call without going back twice.
pub fn rollback(
    state: &State,
    id: &PipelineId,
    to: Option<Version>,
    expected: Expected,
    chunks: Disposition,
) -> Result<(Version, Vec<Event>), Refusal> {
    let current = pipeline(state, id)?;
    // Before anything else: after a rollback that got through, the parent is another one or none.
    expected.check(current, Alias::Champion)?;
    let parent = current.champion().and_then(|champion| current.versions[&champion].parent);
    let to = to.or(parent).ok_or(Refusal::NoPrevious)?;
    Ok((to, set_alias(state, id, Alias::Champion, to, Expected::Anywhere, chunks)?))
}
