//! EvaluationService: reports, and the accuracy matrix along a lineage.

use std::sync::Arc;

use domain::id::{TaskName, Version};
use domain::matrix::AccuracyMatrix;
use domain::planning::{self, Refusal};
use domain::report::{Baseline, Score, find};
use domain::state::PipelineState;
use domain::version::{AdapterVersion, lineage};
use perennial_proto::convert::{self, pipeline_id, run_id, to_json};
use perennial_proto::v1;
use perennial_proto::v1::evaluation_service_server::EvaluationService;
use store::journal::Journal;
use tonic::{Request, Response, Status};

use crate::error::Error;

pub struct Evaluations(pub Arc<Journal>);

impl Evaluations {
    fn report(&self, name: &str) -> Result<Vec<u8>, Error> {
        let id = run_id("run", name)?;
        self.0.read(|state| {
            let current = planning::pipeline(state, &id.pipeline)?;
            let run = current.runs.get(&id.number).ok_or(Refusal::UnknownRun(id.number))?;
            let report = convert::report(current, run).ok_or(Error::NotJudged(id.number))?;
            Ok(to_json(report))
        })
    }

    fn matrix(&self, request: &v1::GetMatrixRequest) -> Result<v1::GetMatrixResponse, Error> {
        let id = pipeline_id("pipeline", &request.pipeline)?;
        self.0.read(|state| {
            let current = planning::pipeline(state, &id)?;
            let version = convert::version(request.version);
            if let Some(unknown) = version.filter(|v| !current.versions.contains_key(v)) {
                return Err(Refusal::UnknownVersion(unknown).into());
            }
            Ok(matrix(current, version.or(current.tip)))
        })
    }
}

/// R[update][task] along the lineage of `version`, oldest update first, tasks in the order they opened.
fn matrix(current: &PipelineState, version: Option<Version>) -> v1::GetMatrixResponse {
    let mut line: Vec<&AdapterVersion> =
        lineage(&current.versions, version).iter().map(|v| &current.versions[v]).collect();
    line.reverse();
    let tasks: Vec<TaskName> = current.tasks.iter().map(|task| task.name.clone()).collect();
    let row = |scores: &[Score]| tasks.iter().map(|task| find(scores, task).map(Score::accuracy)).collect::<Vec<_>>();
    let rows = line.iter().map(|version| row(&version.report.candidate_scores)).collect();
    let first = line.first().filter(|version| version.report.baseline == Baseline::Base);
    let initial = first.map_or_else(Vec::new, |version| row(&version.report.baseline_scores));
    let matrix = AccuracyMatrix { rows };
    v1::GetMatrixResponse {
        rows: line.iter().zip(&matrix.rows).map(|(version, row)| cells(version.number, row)).collect(),
        initial: Some(cells(Version(0), &initial)),
        average_accuracy: matrix.average_accuracy(),
        average_incremental_accuracy: matrix.average_incremental_accuracy(),
        forgetting: matrix.forgetting(),
        backward_transfer: matrix.backward_transfer(),
        forward_transfer: matrix.forward_transfer(&initial),
        learning_accuracy: matrix.learning_accuracy(),
        tasks: tasks.iter().map(ToString::to_string).collect(),
    }
}

fn cells(version: Version, row: &[Option<f64>]) -> v1::MatrixRow {
    v1::MatrixRow {
        version: version.0,
        cells: row.iter().map(|accuracy| v1::MatrixCell { accuracy: *accuracy }).collect(),
    }
}

#[tonic::async_trait]
impl EvaluationService for Evaluations {
    async fn get_report(
        &self,
        request: Request<v1::GetReportRequest>,
    ) -> Result<Response<v1::GetReportResponse>, Status> {
        let report_json = self.report(&request.into_inner().run)?;
        Ok(Response::new(v1::GetReportResponse { report_json }))
    }

    async fn get_matrix(
        &self,
        request: Request<v1::GetMatrixRequest>,
    ) -> Result<Response<v1::GetMatrixResponse>, Status> {
        Ok(Response::new(self.matrix(&request.into_inner())?))
    }
}
