//! What the demo asks of the daemon, as any client would.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use domain::chunk::{PUSHED, Row, Split};
use domain::id::{PipelineName, TaskName};
use domain::matrix::AccuracyMatrix;
use domain::pipeline::{ModelFolder, Pipeline};
use futures::stream;
use perennial_proto::convert::to_json;
use perennial_proto::limits::{FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_PAGE};
use perennial_proto::v1;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Longest wait for a plain answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait for an upload to be checked and stored.
const UPLOAD_WITHIN: Duration = Duration::from_secs(600);
/// A run that has not changed for this long is given up. While it is at work it changes with every heartbeat.
const SILENCE: Duration = Duration::from_secs(120);
/// Streams in a row that may break without having told anything new.
const BROKEN_STREAMS: u32 = 5;
const WATCH_AGAIN: Duration = Duration::from_millis(200);

macro_rules! clients {
    ($($method:ident: $module:ident::$client:ident),* $(,)?) => {
        impl Client {
            $(fn $method(&self) -> v1::$module::$client<Channel> {
                let client = v1::$module::$client::new(self.0.clone());
                client.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
            })*
        }
    };
}

clients! {
    pipelines: pipeline_service_client::PipelineServiceClient,
    ingest: ingest_service_client::IngestServiceClient,
    runs: run_service_client::RunServiceClient,
    registry: registry_service_client::RegistryServiceClient,
    evaluations: evaluation_service_client::EvaluationServiceClient,
}

#[derive(Clone)]
pub struct Client(pub Channel);

/// Rows on their way to a pipeline.
pub struct Push<'a> {
    pub pipeline: &'a PipelineName,
    pub task: &'a TaskName,
    pub split: Split,
    pub rows: &'a [Row],
}

/// `namespaces/default/pipelines/{name}`
fn resource(pipeline: &PipelineName) -> String {
    format!("namespaces/default/pipelines/{pipeline}")
}

fn ask<T>(message: T) -> Request<T> {
    within(ANSWER_WITHIN, message)
}

fn within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// The server's words, without the envelope they came in.
fn said(status: Status) -> anyhow::Error {
    match status.message() {
        "" => anyhow::anyhow!("{}", status.code().description()),
        message => anyhow::anyhow!("{message}"),
    }
}

fn present<T>(part: Option<T>) -> anyhow::Result<T> {
    part.context("the daemon's answer is incomplete; are both of the same release?")
}

impl Client {
    pub async fn apply(&self, spec: &Pipeline) -> anyhow::Result<()> {
        let request = ask(v1::ApplyPipelineRequest { spec_json: to_json(spec) });
        let applied = self.pipelines().apply_pipeline(request).await.map_err(said);
        applied.with_context(|| format!("cannot apply pipeline `{}`", spec.name))?;
        Ok(())
    }

    /// Pushes rows as one chunk. A chunk in quarantine is an error here.
    pub async fn push(&self, push: &Push<'_>) -> anyhow::Result<v1::Chunk> {
        let pushed = async {
            let is_text = push.rows.iter().any(|row| matches!(row.payload, domain::chunk::Payload::Text(_)));
            let header = v1::ChunkHeader {
                pipeline: resource(push.pipeline),
                task: push.task.to_string(),
                split: v1::Split::from(push.split).into(),
                format: v1::Format::Parquet.into(),
                // The canonical shard has a column for each kind of input.
                input_column: if is_text { "text" } else { "image" }.to_owned(),
                wait: true,
                ..v1::ChunkHeader::default()
            };
            let payload = store::examples::write_shard(push.rows, push.task, PUSHED)?;
            let request = within(UPLOAD_WITHIN, stream::iter(parts(header, &payload)));
            let chunk = self.ingest().push_chunk(request).await.map_err(said)?.into_inner().chunk;
            let chunk = present(chunk)?;
            match chunk.state.as_str() {
                "quarantined" => bail!("it is in quarantine: {}", chunk.reason),
                _ => Ok(chunk),
            }
        };
        pushed.await.with_context(|| format!("cannot push a chunk of task `{}` to `{}`", push.task, push.pipeline))
    }

    pub async fn push_model(&self, folder: &Path) -> anyhow::Result<ModelFolder> {
        let pushed = async {
            let request = within(UPLOAD_WITHIN, stream::iter(files(folder)?));
            let stored = self.registry().push_model(request).await.map_err(said)?.into_inner();
            anyhow::Ok(ModelFolder { uri: stored.uri, sha256: stored.sha256 })
        };
        pushed.await.with_context(|| format!("cannot push the model `{}`", folder.display()))
    }

    /// Starts a run over everything that waits and shows every change until it has ended.
    ///
    /// A run that the gate refused is an answer; one that failed is an error.
    pub async fn run(&self, pipeline: &PipelineName, mut see: impl FnMut(&v1::Run)) -> anyhow::Result<v1::Run> {
        let request = ask(v1::StartRunRequest { pipeline: resource(pipeline), ..Default::default() });
        let started = self.runs().start_run(request).await.map_err(said);
        let started = started.with_context(|| format!("cannot start a run of `{pipeline}`"))?;
        let mut run = present(started.into_inner().run)?;
        let name = run.name.clone();
        let followed = async {
            let mut broken = 0;
            while run.ended_at_ms == 0 {
                let before = run.clone();
                let Err(status) = self.watch(&mut run, &mut see).await else { continue };
                broken = if run == before { broken + 1 } else { 1 };
                if status.code() == Code::DeadlineExceeded || broken > BROKEN_STREAMS {
                    return Err(said(status));
                }
                tokio::time::sleep(WATCH_AGAIN * broken).await;
            }
            judge(run)
        };
        followed.await.with_context(|| format!("run `{name}`"))
    }

    /// Shows every change until the run has ended or the stream breaks; a new stream begins where the run stands.
    async fn watch(&self, run: &mut v1::Run, see: &mut impl FnMut(&v1::Run)) -> Result<(), Status> {
        let watch = Request::new(v1::WatchRunRequest { name: run.name.clone() });
        let mut changes = self.runs().watch_run(watch).await?.into_inner();
        while run.ended_at_ms == 0 {
            let next = tokio::time::timeout(SILENCE, changes.message()).await;
            let next = next.map_err(|_| Status::deadline_exceeded(silence(run)))??;
            *run = next.and_then(|next| next.run).ok_or_else(|| Status::unavailable("the stream ended early"))?;
            see(run);
        }
        Ok(())
    }

    /// The tasks and R[update][task] along the lineage that the next run would continue.
    pub async fn matrix(&self, pipeline: &PipelineName) -> anyhow::Result<(Vec<String>, AccuracyMatrix)> {
        let request = ask(v1::GetMatrixRequest { pipeline: resource(pipeline), version: 0 });
        let matrix =
            self.evaluations().get_matrix(request).await.map_err(said).context("cannot read the accuracy matrix")?;
        let matrix = matrix.into_inner();
        let row = |row: v1::MatrixRow| row.cells.into_iter().map(|cell| cell.accuracy).collect();
        let rows = matrix.rows.into_iter().map(row).collect();
        let learned = matrix.learned_by_row.iter().map(|row| usize::try_from(*row).ok()).collect();
        Ok((matrix.tasks, AccuracyMatrix::new(rows, learned)))
    }

    /// All versions of a pipeline, oldest first.
    pub async fn versions(&self, pipeline: &PipelineName) -> anyhow::Result<Vec<v1::Version>> {
        let mut request =
            v1::ListVersionsRequest { parent: resource(pipeline), page_size: MAX_PAGE as i32, ..Default::default() };
        let mut versions = Vec::new();
        loop {
            let page = self
                .registry()
                .list_versions(ask(request.clone()))
                .await
                .map_err(said)
                .context("cannot list versions")?;
            let page = page.into_inner();
            versions.extend(page.versions);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(versions);
            }
        }
    }

    /// Back to the previous champion, which it returns.
    pub async fn roll_back(&self, pipeline: &PipelineName) -> anyhow::Result<v1::Version> {
        let request = v1::RollbackRequest {
            pipeline: resource(pipeline),
            chunks: v1::ChunkDisposition::Hold.into(),
            ..Default::default()
        };
        let rolled = self.registry().rollback(ask(request)).await.map_err(said).context("cannot roll back")?;
        present(rolled.into_inner().version)
    }

    /// Makes `version` the champion if `expected` is.
    pub async fn promote(&self, pipeline: &PipelineName, version: u64, expected: u64) -> anyhow::Result<v1::Version> {
        let request = v1::SetAliasRequest {
            pipeline: resource(pipeline),
            alias: "champion".to_owned(),
            version,
            expected_version: Some(expected),
            chunks: v1::ChunkDisposition::Hold.into(),
        };
        let moved = self.registry().set_alias(ask(request)).await.map_err(said).context("cannot promote")?;
        present(moved.into_inner().version)
    }

    pub async fn champion(&self, pipeline: &PipelineName) -> anyhow::Result<u64> {
        let name = format!("{}/versions/@champion", resource(pipeline));
        let version = self.registry().get_version(ask(v1::GetVersionRequest { name })).await.map_err(said);
        Ok(present(version.context("cannot find the champion")?.into_inner().version)?.number)
    }
}

fn judge(run: v1::Run) -> anyhow::Result<v1::Run> {
    match run.state.as_str() {
        "published" | "rejected" => Ok(run),
        "failed" | "cancelled" => bail!("{}: {}", run.state, reason(&run)),
        state => bail!("it ended as `{state}`, which this release does not know"),
    }
}

fn reason(run: &v1::Run) -> String {
    let mut reasons = run.reasons.clone();
    if !run.last_error.is_empty() && !reasons.contains(&run.last_error) {
        reasons.push(run.last_error.clone());
    }
    reasons.join("; ")
}

fn silence(run: &v1::Run) -> String {
    let hint = match (run.attempts, run.last_error.as_str()) {
        (0, _) => "no worker with enough slots took it".to_owned(),
        (_, "") => "its worker says nothing".to_owned(),
        (_, error) => format!("its last attempt ended: {error}"),
    };
    format!("nothing happened for {} s while it was {}: {hint}", SILENCE.as_secs(), run.state)
}

fn parts(header: v1::ChunkHeader, payload: &[u8]) -> Vec<v1::PushChunkRequest> {
    use v1::push_chunk_request::Part;
    let frames = payload.chunks(FRAME_BYTES).map(|frame| Part::Frame(frame.to_vec()));
    let parts = std::iter::once(Part::Header(header)).chain(frames);
    parts.map(|part| v1::PushChunkRequest { part: Some(part) }).collect()
}

/// The plain files of a model folder, each a name and its frames.
fn files(folder: &Path) -> anyhow::Result<Vec<v1::PushModelRequest>> {
    use v1::push_model_request::Part;
    let mut parts = Vec::new();
    let mut paths: Vec<_> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    for path in paths.iter().filter(|path| path.is_file()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        parts.push(Part::File(name));
        parts.extend(std::fs::read(path)?.chunks(FRAME_BYTES).map(|frame| Part::Frame(frame.to_vec())));
    }
    Ok(parts.into_iter().map(|part| v1::PushModelRequest { part: Some(part) }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_their_header_and_stay_below_the_limit() {
        let parts = parts(v1::ChunkHeader::default(), &vec![1; 2 * FRAME_BYTES + 1]);
        assert_eq!(parts.len(), 4);
        assert!(matches!(parts[0].part, Some(v1::push_chunk_request::Part::Header(_))));
    }

    #[test]
    fn a_model_is_its_plain_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["model.safetensors", "config.json", ".hidden"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let parts = files(folder.path()).unwrap();
        assert_eq!(parts.len(), 4);
        assert_eq!(parts[0].part, Some(v1::push_model_request::Part::File("config.json".to_owned())));
    }

    #[test]
    fn a_failed_run_says_why_and_a_refused_one_is_an_answer() {
        let run = |state: &str| v1::Run {
            state: state.to_owned(),
            last_error: "rank 1 died".to_owned(),
            ..Default::default()
        };
        assert!(judge(run("failed")).unwrap_err().to_string().contains("rank 1 died"));
        assert!(judge(run("rejected")).is_ok());
    }

    #[test]
    fn silence_says_what_to_look_for() {
        let queued = v1::Run { state: "queued".to_owned(), ..Default::default() };
        assert!(silence(&queued).contains("no worker with enough slots"));
    }
}
