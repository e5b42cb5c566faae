//! Objects below the prefixes that pipelines watch become chunks.
//!
//! An object is taken once two listings in a row found it the same: whoever writes it may still be at it before. What was
//! taken is known from the chunks, so that a restart takes nothing twice; two processes that watch take the same chunk.

use std::collections::{HashMap, HashSet};

use domain::chunk::SourceObject;
use domain::id::PipelineId;
use domain::pipeline::{Pipeline, Source};
use perennial_proto::status::chain;
use store::examples::Columns;
use store::roots::{Found, Roots};
use tokio::time::Interval;
use tonic::Code;
use tracing::{info, warn};

use crate::header::Header;
use crate::{Error, Ingest};

pub struct Watcher {
    ingest: Ingest,
    /// What may be watched.
    roots: Roots,
    /// Where the daemon keeps its own: those objects would become chunks, whose objects would.
    store: String,
    pipelines: HashMap<PipelineId, Watched>,
    /// What went wrong last, by prefix: said once.
    wrong: HashMap<String, String>,
}

/// By URI, the tag of an object.
#[derive(Default)]
struct Watched {
    seen: HashMap<String, String>,
    taken: HashMap<String, String>,
}

impl Watcher {
    /// `store` is the URL of the daemon's own.
    pub fn new(ingest: Ingest, roots: Roots, store: &str) -> Self {
        let store = format!("{}/", store.trim_end_matches('/'));
        Self { ingest, roots, store, pipelines: HashMap::new(), wrong: HashMap::new() }
    }

    /// One round at each tick; never returns.
    pub async fn run(mut self, mut ticks: Interval) {
        loop {
            ticks.tick().await;
            self.round().await;
        }
    }

    /// Lists every prefix once.
    pub async fn round(&mut self) {
        let mut pipelines = match self.ingest.control.pipelines().await {
            Ok(pipelines) => pipelines,
            Err(error) => return self.say("the list of pipelines", &error),
        };
        pipelines.retain(|pipeline| !pipeline.sources.is_empty());
        let ids: HashSet<PipelineId> = pipelines.iter().map(|pipeline| pipeline.id()).collect();
        self.pipelines.retain(|id, _| ids.contains(id));
        for pipeline in pipelines {
            for source in &pipeline.sources {
                match self.look(&pipeline, source).await {
                    Ok(()) => drop(self.wrong.remove(&source.uri)),
                    Err(error) => self.say(&source.uri, &error),
                }
            }
        }
    }

    fn say(&mut self, what: &str, error: &Error) {
        let text = chain(error);
        if self.wrong.insert(what.to_owned(), text.clone()).as_ref() != Some(&text) {
            warn!(what, error = text, "not watched for now");
        }
    }

    async fn look(&mut self, pipeline: &Pipeline, source: &Source) -> Result<(), Error> {
        let id = pipeline.id();
        if !self.pipelines.contains_key(&id) {
            let taken = self.ingest.control.taken(&id).await?.into_iter().collect();
            self.pipelines.insert(id.clone(), Watched { taken, ..Watched::default() });
        }
        let mut first = Ok(());
        for found in self.roots.list(&source.uri).await? {
            let watched = self.pipelines.entry(id.clone()).or_default();
            if is_data(&found) && !found.uri.starts_with(&self.store) && watched.is_due(&found) {
                // The others are not to wait for one that cannot be read.
                first = first.and(self.take(&id, source, found).await);
            }
        }
        first
    }

    /// What its content or its place forbids is said once, and not tried again until the object changes.
    async fn take(&mut self, id: &PipelineId, source: &Source, found: Found) -> Result<(), Error> {
        let (uri, tag) = (found.uri, found.entry.tag);
        let object = SourceObject { uri: uri.clone(), tag: tag.clone() };
        match self.ingest.take_from(&header(id, source), object).await {
            Ok(taken) => {
                info!(uri, chunk = %taken.chunk.name, state = %taken.chunk.state, "taken from a watched prefix")
            }
            Err(error) if !is_final(error.code()) => return Err(error),
            Err(error) => warn!(uri, error = chain(&error), "not taken from a watched prefix"),
        }
        self.pipelines.entry(id.clone()).or_default().taken.insert(uri, tag);
        Ok(())
    }
}

impl Watched {
    /// Whether the object is new and has stopped changing.
    fn is_due(&mut self, found: &Found) -> bool {
        let tag = &found.entry.tag;
        if self.taken.get(&found.uri) == Some(tag) {
            return false;
        }
        self.seen.insert(found.uri.clone(), tag.clone()).as_ref() == Some(tag)
    }
}

/// Writers leave marks and unfinished files under such names, and stores empty objects for folders.
fn is_data(found: &Found) -> bool {
    let name = found.entry.path.rsplit('/').next().unwrap_or_default();
    found.entry.bytes > 0 && !name.starts_with(['.', '_'])
}

fn is_final(code: Code) -> bool {
    use Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied};
    matches!(code, AlreadyExists | FailedPrecondition | InvalidArgument | NotFound | PermissionDenied)
}

fn header(pipeline: &PipelineId, source: &Source) -> Header {
    let columns = Columns::default();
    Header {
        pipeline: pipeline.clone(),
        task: source.task.clone(),
        split: source.split,
        format: None,
        sha256: None,
        input: source.input_column.clone(),
        label: source.label_column.clone().unwrap_or(columns.label),
        origin: None,
        resume: None,
        // Nobody waits, but what cannot be read now is not to be read again and again.
        wait: true,
    }
}
