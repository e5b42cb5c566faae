//! RunService: starts, shows, cancels and watches runs.

use std::pin::Pin;
use std::sync::Arc;

use domain::id::{ChunkId, RunId};
use domain::planning::{self, Refusal};
use domain::run::{Run, RunState};
use futures::Stream;
use perennial_proto::convert::{self, Invalid, pipeline_id, run_id};
use perennial_proto::limits::page_of;
use perennial_proto::v1;
use perennial_proto::v1::run_service_server::RunService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::drive::Scheduler;
use crate::error::Error;
use crate::fleet::Fleet;
use crate::reconcile::wanted;

impl Scheduler {
    fn show(&self, id: &RunId) -> Result<v1::Run, Error> {
        let fleet = self.fleet();
        self.journal.read(|state| {
            let current = planning::pipeline(state, &id.pipeline)?;
            let run = current.runs.get(&id.number).ok_or(Refusal::UnknownRun(id.number))?;
            let assigned = wanted(&id.pipeline, run).and_then(|key| fleet.assigned.get(&key));
            let progress = assigned.and_then(|assigned| assigned.progress.clone());
            Ok(convert::run(current, run, progress.or_else(|| waiting(&fleet, run))))
        })
    }

    /// Sends the run whenever it looks different, until it has ended or nobody listens.
    async fn watch_run(self: Arc<Self>, id: RunId, sender: mpsc::Sender<Result<v1::WatchRunResponse, Status>>) {
        let (mut journal, mut fleet) = (self.journal.watch(), self.watch_fleet());
        let closing = self.closing();
        let mut last = None;
        loop {
            let run = match self.show(&id) {
                Ok(run) => run,
                Err(error) => return drop(sender.send(Err(error.into())).await),
            };
            let ended = run.ended_at_ms > 0;
            if last.as_ref() != Some(&run) {
                last = Some(run.clone());
                if sender.send(Ok(v1::WatchRunResponse { run: Some(run) })).await.is_err() {
                    return;
                }
            }
            if ended {
                return;
            }
            tokio::select! {
                changed = journal.changed() => if changed.is_err() { return },
                _ = fleet.changed() => {}
                () = sender.closed() => return,
                () = closing.cancelled() => return,
            }
        }
    }
}

/// What a queued run waits for, since a gang that can never be formed would otherwise wait in silence.
fn waiting(fleet: &Fleet, run: &Run) -> Option<v1::Progress> {
    if run.state != RunState::Queued {
        return None;
    }
    let trainers = || fleet.workers.iter().filter(|(_, worker)| worker.trains);
    let slots: u32 = trainers().map(|(_, worker)| worker.slots).sum();
    let free: u32 = trainers().map(|(id, _)| fleet.free(id)).sum();
    let (ranks, count) = (run.manifest.pipeline.resources.ranks, trainers().count());
    let stage = format!("waiting for {ranks} free slots: {free} of {slots} are free on {count} trainers");
    Some(v1::Progress { stage, ..Default::default() })
}

/// The gRPC face of the scheduler for users.
pub struct Runs(pub Arc<Scheduler>);

#[tonic::async_trait]
impl RunService for Runs {
    async fn start_run(&self, request: Request<v1::StartRunRequest>) -> Result<Response<v1::StartRunResponse>, Status> {
        let request = request.into_inner();
        let pipeline = pipeline_id("pipeline", &request.pipeline)?;
        let chunks: Vec<ChunkId> = request.chunks.into_iter().map(ChunkId).collect();
        let id = pipeline.clone();
        let number = match request.without_subject {
            subject if subject.is_empty() => {
                self.0.commit(move |state| planning::start_run(state, &id, &chunks)).await?
            }
            _ if !chunks.is_empty() => {
                let reason = "not together with `without_subject`, which chooses them";
                return Err(Invalid::new("chunks", reason).into());
            }
            subject => self.0.commit(move |state| planning::start_without(state, &id, &subject)).await?,
        };
        let run = Some(self.0.show(&RunId { pipeline, number })?);
        Ok(Response::new(v1::StartRunResponse { run }))
    }

    async fn get_run(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::GetRunResponse>, Status> {
        let run = Some(self.0.show(&run_id("name", &request.into_inner().name)?)?);
        Ok(Response::new(v1::GetRunResponse { run }))
    }

    async fn list_runs(&self, request: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        let request = request.into_inner();
        let id = pipeline_id("parent", &request.parent)?;
        let (runs, next_page_token) = self.0.journal.read(|state| {
            let current = planning::pipeline(state, &id)?;
            let (page, next) = page_of(current.runs.values(), request.page_size, &request.page_token)?;
            Ok::<_, Error>((page.into_iter().map(|run| convert::run(current, run, None)).collect(), next))
        })?;
        Ok(Response::new(v1::ListRunsResponse { runs, next_page_token }))
    }

    async fn cancel_run(
        &self,
        request: Request<v1::CancelRunRequest>,
    ) -> Result<Response<v1::CancelRunResponse>, Status> {
        let id = run_id("name", &request.into_inner().name)?;
        let run = id.clone();
        let cancel = move |state: &_| Ok(((), planning::cancel(state, &run.pipeline, run.number)?));
        self.0.commit(cancel).await?;
        let run = Some(self.0.show(&id)?);
        Ok(Response::new(v1::CancelRunResponse { run }))
    }

    type WatchRunStream = Pin<Box<dyn Stream<Item = Result<v1::WatchRunResponse, Status>> + Send>>;

    async fn watch_run(&self, request: Request<v1::WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let id = run_id("name", &request.into_inner().name)?;
        self.0.show(&id)?;
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(self.0.clone().watch_run(id, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
