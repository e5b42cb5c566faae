//! The log as a reader sees it: folded as it grows, until the reader takes it over.

use std::sync::Arc;

use domain::Timestamp;
use domain::state::State;
use object_store::ObjectStore;

use super::files::Files;
use super::recover::{self, Recovered};
use super::{CommitLog, Error, Head, Options};

/// Follows the log without a right to append.
pub struct Follower {
    files: Files,
    options: Options,
    found: Recovered,
}

impl Follower {
    /// Folds what there is.
    pub async fn open(store: Arc<dyn ObjectStore>, options: Options) -> Result<Self, Error> {
        let files = Files::new(store, &options);
        let found = recover::recover(&files).await?;
        Ok(Self { files, options, found })
    }

    /// Folds what was appended since. After any error the follower is of no use any more.
    pub async fn catch_up(&mut self) -> Result<(), Error> {
        loop {
            let number = self.found.head.number + 1;
            let next = self.files.read(number).await?;
            if self.files.is_retired(number).await? {
                self.found = recover::recover(&self.files).await?;
                return Ok(());
            }
            let Some(next) = next else { return Ok(()) };
            recover::apply(&mut self.found.state, number, &next)?;
            self.found.head = Head::of(number, &next);
        }
    }

    /// The name that the log's writer opened it under; None where nobody ever wrote.
    pub fn writer(&self) -> Option<&str> {
        let head = &self.found.head;
        (head.number > 0).then(|| head.writer.rsplit_once('-').map_or(head.writer.as_str(), |(name, _)| name))
    }

    pub fn options(&self) -> Options {
        self.options
    }

    /// Counts the writers there were.
    pub fn epoch(&self) -> u64 {
        self.found.head.epoch
    }

    pub fn state(&self) -> &State {
        &self.found.state
    }

    /// Takes the log over from whoever writes it. `name` is for people; it is made unique.
    pub async fn take_over(self, name: &str, now: Timestamp) -> Result<(CommitLog, State), Error> {
        CommitLog::take(self.files, self.options, self.found, name, now).await
    }
}
