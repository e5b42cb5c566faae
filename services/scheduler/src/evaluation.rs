//! Which models an evaluation scores on which EvalSets, and the report its scores make. Pure.

use std::collections::BTreeSet;

use domain::evalset::{ARCHIVE, EvalSet};
use domain::gate::judge;
use domain::id::{TaskName, Version};
use domain::manifest::Candidate;
use domain::pipeline::GateMode;
use domain::report::{Baseline, EvalReport, Score, Verdict};
use domain::run::{Run, RunState};
use domain::state::PipelineState;
use domain::version::{absorbed, lineage};
use perennial_proto::convert::to_json;
use perennial_proto::v1;

/// The champion, else the version the run continues from, else the base model.
pub fn baseline(current: &PipelineState, run: &Run) -> Baseline {
    let parent = run.manifest.parent.as_ref().map(|parent| parent.version);
    current.champion().or(parent).map_or(Baseline::Base, Baseline::Version)
}

/// Scores of the baseline that an earlier report holds, by EvalSet.
fn cached<'a>(current: &'a PipelineState, baseline: Baseline, set: &EvalSet) -> Option<&'a Score> {
    let own = match baseline {
        Baseline::Version(version) => current.versions.get(&version).map(|v| &v.report.candidate_scores),
        Baseline::Base => None,
    };
    let refused = current.runs.values().filter_map(|run| match &run.state {
        RunState::Rejected { report } => Some(report),
        _ => None,
    });
    let reports = current.versions.values().map(|v| &v.report).chain(refused);
    let as_baseline = reports.filter(|report| report.baseline == baseline).map(|report| &report.baseline_scores);
    own.into_iter().chain(as_baseline).flatten().find(|score| score.is_on(set))
}

/// The candidate on every EvalSet, and the baseline on those it was never scored on.
pub fn subjects(current: &PipelineState, run: &Run, candidate: &Candidate) -> Vec<v1::Subject> {
    let sets = &run.manifest.eval_sets;
    let baseline = baseline(current, run);
    let unknown = sets.iter().filter(|set| cached(current, baseline, set).is_none());
    let files_json = match baseline {
        Baseline::Base => Vec::new(),
        Baseline::Version(version) => to_json(&current.versions[&version].files),
    };
    let subjects = [
        v1::Subject { files_json: to_json(&candidate.files), eval_sets: sets.iter().map(EvalSet::digest).collect() },
        v1::Subject { files_json, eval_sets: unknown.map(EvalSet::digest).collect() },
    ];
    subjects.into_iter().filter(|subject| !subject.eval_sets.is_empty()).collect()
}

/// The report of a candidate from the scores of [`subjects`], in their order, and the number it will
/// be published under, if it may be.
///
/// A candidate with non-finite weights is never published, not even in `report` mode: nothing could continue from it.
pub fn conclude(
    current: &PipelineState,
    run: &Run,
    candidate: &Candidate,
    scores: &[Vec<Score>],
) -> (EvalReport, Option<Version>) {
    let baseline = baseline(current, run);
    let sets = &run.manifest.eval_sets;
    let candidate_scores = scores.first().cloned().unwrap_or_default();
    let fresh = scores.get(1).map_or(&[][..], Vec::as_slice);
    let of_baseline = |set: &EvalSet| {
        let fresh = fresh.iter().find(|score| score.is_on(set));
        fresh.or_else(|| cached(current, baseline, set)).cloned()
    };
    let baseline_scores: Vec<Score> = sets.iter().filter_map(of_baseline).collect();
    let gate = &run.manifest.pipeline.gate;
    let trained = trained(current, run);
    let is_import = run.manifest.import.is_some();
    // What an imported adapter was trained on is not known: it answers for every task.
    let counts = |task: &TaskName| is_import || trained.contains(task);
    let verdict = judge(gate, candidate.finite, counts, &candidate_scores, &baseline_scores);
    let passed = match verdict {
        Verdict::Pass => true,
        // An import may come before any data: the first version is what later ones are measured by.
        Verdict::Inconclusive { .. } if is_import => true,
        _ => gate.mode == GateMode::Report && candidate.finite,
    };
    let version = passed.then(|| current.next_version());
    let report = EvalReport { baseline, candidate_scores, baseline_scores, verdict };
    (report, version)
}

/// Tasks that the run or a version before it in its lineage trains, and the archive, which holds the oldest of them.
fn trained(current: &PipelineState, run: &Run) -> BTreeSet<TaskName> {
    let parent = run.manifest.parent.as_ref().map(|parent| parent.version);
    let line = lineage(&current.versions, parent);
    let before = absorbed(&current.versions, &line);
    let chunks = before.iter().chain(run.chunk_ids()).filter_map(|id| current.chunks.get(id));
    let tasks = chunks.filter(|chunk| chunk.train_rows() > 0).map(|chunk| chunk.task.clone());
    tasks.chain([ARCHIVE.parse().expect("a valid name")]).collect()
}
