//! From the stored log to the state: the newest readable snapshot, and every record after it.

use domain::state::State;
use futures::{StreamExt, TryStreamExt};

use super::files::{Files, Listing};
use super::{Error, Head, Record, Snapshot};

/// Records fetched at a time.
const AHEAD: usize = 16;
/// A live writer's retention may overtake a listing; a newer listing shows its newer snapshot.
const LISTINGS: u32 = 4;

#[derive(Default)]
pub(super) struct Recovered {
    pub state: State,
    pub head: Head,
    /// Number of the snapshot that the fold began with.
    pub snapshot: u64,
}

pub(super) async fn recover(files: &Files) -> Result<Recovered, Error> {
    let mut listings = 1;
    loop {
        let listing = files.list().await?;
        match replay(files, &listing).await {
            Err(Error::Missing { .. }) if listings < LISTINGS => listings += 1,
            outcome => return outcome,
        }
    }
}

async fn replay(files: &Files, listing: &Listing) -> Result<Recovered, Error> {
    let mut found = newest_snapshot(files, listing).await?;
    let first = found.head.number + 1;
    let last = listing.records.last().copied().unwrap_or(0);
    if last + 1 < first {
        return Err(Error::Missing { record: first - 1 });
    }
    let records = futures::stream::iter(first..=last).map(|number| async move {
        let record = files.read(number).await?;
        record.map(|record| (number, record)).ok_or(Error::Missing { record: number })
    });
    let mut records = records.buffered(AHEAD);
    while let Some((number, record)) = records.try_next().await? {
        apply(&mut found.state, number, &record)?;
        found.head = Head::of(number, &record);
    }
    // Then the snapshot was an old one, and strays may lie where records were removed meanwhile.
    match files.is_retired(first).await? {
        true => Err(Error::Missing { record: first }),
        false => Ok(found),
    }
}

async fn newest_snapshot(files: &Files, listing: &Listing) -> Result<Recovered, Error> {
    for &number in listing.snapshots.iter().rev() {
        if let Some(Snapshot { head, state }) = files.read_snapshot::<State>(number).await? {
            return Ok(Recovered { state, head, snapshot: number });
        }
    }
    Ok(Recovered::default())
}

pub(super) fn apply(state: &mut State, number: u64, record: &Record) -> Result<(), Error> {
    for event in &record.events {
        let inapplicable = |source| Error::Inapplicable { record: number, source };
        state.apply(event, record.at).map_err(inapplicable)?;
    }
    Ok(())
}
