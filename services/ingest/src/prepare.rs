//! From a payload on disk to everything that will be written. Blocks; touches no store and no peer.

use std::fs::File;
use std::io::{Read, Seek};

use domain::chunk::{Row, Split};
use domain::id::TaskName;
use store::examples::{self, BadData, Columns, Format, Unread};

use crate::Error;
use crate::seal::{Facts, Sealed, Sealer, Side};
use crate::shards::{Shards, Writer};
use crate::spool::Payload;

pub struct Work {
    /// What the payload is called where its content does not tell its format.
    pub name: String,
    pub format: Option<Format>,
    pub columns: Columns,
    pub split: Split,
    pub task: TaskName,
    pub facts: Facts,
    /// Nobody waits for an answer: what cannot be read is kept in quarantine, where it is found.
    pub keeps_unreadable: bool,
}

pub struct Ready {
    pub shards: Shards,
    pub sealed: Sealed,
    /// Why it goes to quarantine, if it does.
    pub reason: Option<String>,
}

impl Work {
    /// Row by row: neither the payload nor its rows are ever in memory as a whole.
    pub fn run(self, payload: &Payload) -> Result<Ready, Error> {
        let (unreadable, (shards, sealed)) = match self.read(payload.open()?) {
            Err(Error::Data(error)) if self.keeps_unreadable => (Some(error.to_string()), self.nothing()?),
            read => (None, read?),
        };
        let reason = unreadable.or(sealed.reason());
        Ok(Ready { shards, sealed, reason })
    }

    /// Whether the payload is what it was taken for, by its first row that is good; and which format it has.
    pub fn begins(&self, payload: &Payload) -> Result<Format, Error> {
        enum End {
            Good,
            Unread(Unread),
        }
        impl From<Unread> for End {
            fn from(error: Unread) -> Self {
                Self::Unread(error)
            }
        }
        let mut file = payload.open()?;
        let format = self.format.map_or_else(|| detect(&self.name, &mut file), Ok)?;
        let first = |row: Result<Row, BadData>| if row.is_ok() { Err(End::Good) } else { Ok(()) };
        match examples::read(format, file, &self.columns, first) {
            Err(End::Unread(error)) => Err(error.into()),
            Err(End::Good) | Ok(()) => Ok(format),
        }
    }

    fn read(&self, mut file: File) -> Result<(Shards, Sealed), Error> {
        let format = self.format.map_or_else(|| detect(&self.name, &mut file), Ok)?;
        let (mut sealer, mut writer) = self.empty()?;
        let take = |row: Result<Row, BadData>| match sealer.place(row) {
            Some((Side::Train, row)) => writer.train(row),
            Some((Side::HeldOut(key), row)) => writer.hold_out(key, row),
            None => Ok(()),
        };
        examples::read(format, file, &self.columns, take)?;
        Ok((writer.finish()?, sealer.finish()))
    }

    fn nothing(&self) -> Result<(Shards, Sealed), Error> {
        let (sealer, writer) = self.empty()?;
        Ok((writer.finish()?, sealer.finish()))
    }

    fn empty(&self) -> Result<(Sealer<'_>, Writer), Error> {
        Ok((Sealer::new(self.split, &self.facts), Writer::new(&self.task, self.columns.memory)?))
    }
}

fn detect(name: &str, file: &mut File) -> Result<Format, Error> {
    let mut head = Vec::new();
    file.take(examples::HEAD).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(examples::detect(name, &head)?)
}
