//! EvaluationService: reports, and the accuracy matrix along a lineage.

use std::collections::HashSet;
use std::sync::Arc;

use domain::chunk::Chunk;
use domain::evalset::ARCHIVE;
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
    let row = |scores: &[Score]| cells(&tasks, scores);
    let rows: Vec<Vec<v1::MatrixCell>> = line.iter().map(|version| row(&version.report.candidate_scores)).collect();
    let first = line.first().filter(|version| version.report.baseline == Baseline::Base);
    let initial = first.map_or_else(Vec::new, |version| row(&version.report.baseline_scores));
    let accuracies = |cells: &Vec<v1::MatrixCell>| cells.iter().map(|cell| cell.accuracy).collect::<Vec<_>>();
    let learned: Vec<Option<usize>> = tasks.iter().map(|task| first_trained(current, &line, task)).collect();
    let may_transfer = !brings_new_labels(current, &line, &tasks, &learned);
    let matrix = AccuracyMatrix::new(rows.iter().map(accuracies).collect(), learned.clone());
    let forward_transfer = matrix.forward_transfer(&accuracies(&initial)).filter(|_| may_transfer);
    let numbered = line.iter().zip(rows).map(|(version, cells)| v1::MatrixRow { version: version.number.0, cells });
    v1::GetMatrixResponse {
        rows: numbered.collect(),
        initial: Some(v1::MatrixRow { version: 0, cells: initial }),
        average_accuracy: matrix.average_accuracy(),
        average_incremental_accuracy: matrix.average_incremental_accuracy(),
        forgetting: matrix.forgetting(),
        backward_transfer: matrix.backward_transfer(),
        forward_transfer,
        learning_accuracy: matrix.learning_accuracy(),
        learned_by_row: learned.iter().map(|row| row.map_or(-1, |row| row as i32)).collect(),
        tasks: tasks.iter().map(ToString::to_string).collect(),
    }
}

/// The chunks that a version's run trained on, not those it only measured on.
fn chunks<'a>(current: &'a PipelineState, version: &'a AdapterVersion) -> impl Iterator<Item = &'a Chunk> {
    version.chunks.iter().map(|id| &current.chunks[id]).filter(|chunk| chunk.train_rows() > 0)
}

/// The first update of the line that trained on the task's rows.
fn first_trained(current: &PipelineState, line: &[&AdapterVersion], task: &TaskName) -> Option<usize> {
    line.iter().position(|version| chunks(current, version).any(|chunk| chunk.task == *task))
}

/// Whether any task after the first update's brings labels that no update before it knew.
fn brings_new_labels(
    current: &PipelineState,
    line: &[&AdapterVersion],
    tasks: &[TaskName],
    learned: &[Option<usize>],
) -> bool {
    let labels = |chunk: &'_ Chunk| chunk.labels.keys().cloned().collect::<Vec<_>>();
    tasks.iter().zip(learned).any(|(task, learned)| {
        let Some(update) = learned.filter(|update| *update > 0) else { return false };
        let known: HashSet<String> =
            line[..update].iter().flat_map(|version| chunks(current, version)).flat_map(labels).collect();
        let own = chunks(current, line[update]).filter(|chunk| chunk.task == *task);
        own.flat_map(labels).any(|label| !known.contains(&label))
    })
}

/// The tasks' accuracies in the order they opened. The archive stands for those that were merged into it: the oldest,
/// before the first task that is measured by itself.
fn cells(tasks: &[TaskName], scores: &[Score]) -> Vec<v1::MatrixCell> {
    let accuracy = |task: &TaskName| find(scores, task).map(Score::accuracy);
    let archive = scores.iter().find(|score| score.task.as_str() == ARCHIVE).map(Score::accuracy);
    let merged = tasks.iter().position(|task| accuracy(task).is_some()).unwrap_or(tasks.len());
    let cell = |(position, task): (usize, &TaskName)| match archive {
        Some(archive) if position < merged => v1::MatrixCell { accuracy: Some(archive), archived: true },
        _ => v1::MatrixCell { accuracy: accuracy(task), archived: false },
    };
    tasks.iter().enumerate().map(cell).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn score(task: &str, correct: u64) -> Score {
        let task: TaskName = task.parse().unwrap();
        let (calibration, right) = (None, None);
        Score { digest: task.to_string(), task, eval_set: 1, items: 10, correct, loss: 0.0, calibration, right }
    }

    #[test]
    fn the_archive_stands_for_the_tasks_that_merged_into_it() {
        let tasks: Vec<TaskName> = ["t1", "t2", "t3", "t4"].map(|task| task.parse().unwrap()).into();
        let row = |scores: &[Score]| -> Vec<(Option<f64>, bool)> {
            cells(&tasks, scores).into_iter().map(|cell| (cell.accuracy, cell.archived)).collect()
        };
        assert_eq!(
            row(&[score("t1", 9), score("t2", 8)]),
            [(Some(0.9), false), (Some(0.8), false), (None, false), (None, false)]
        );
        assert_eq!(
            row(&[score(ARCHIVE, 7), score("t3", 5)]),
            [(Some(0.7), true), (Some(0.7), true), (Some(0.5), false), (None, false)]
        );
    }
}
