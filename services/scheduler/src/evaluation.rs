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
    let mut found = own.into_iter().chain(as_baseline).flatten().filter(|score| score.is_on(set));
    let any = found.next()?;
    Some(found.chain([any]).find(|score| score.right.is_some()).unwrap_or(any))
}

/// The candidate on every EvalSet, be it none: it is loaded and verified all the same. And the baseline on those where it is
/// not known which items it gets right.
pub fn subjects(current: &PipelineState, run: &Run, candidate: &Candidate) -> Vec<v1::Subject> {
    let sets = &run.manifest.eval_sets;
    let baseline = baseline(current, run);
    let unknown = sets.iter().filter(|set| cached(current, baseline, set).is_none_or(|score| score.right.is_none()));
    let files_json = match baseline {
        Baseline::Base => Vec::new(),
        Baseline::Version(version) => to_json(&current.versions[&version].files),
    };
    let candidate = v1::Subject {
        files_json: to_json(&candidate.files),
        eval_sets: sets.iter().map(EvalSet::digest).collect(),
        candidate_json: to_json(candidate),
    };
    let baseline =
        v1::Subject { files_json, eval_sets: unknown.map(EvalSet::digest).collect(), candidate_json: Vec::new() };
    let baseline = Some(baseline).filter(|subject| !subject.eval_sets.is_empty());
    std::iter::once(candidate).chain(baseline).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use domain::chunk::{Chunk, ObjectRef, Shard, Split};
    use domain::id::{ChunkId, PipelineId};
    use domain::manifest::{Cost, SnapshotMeta};
    use domain::planning;
    use domain::run::RunEvent;
    use domain::state::{Event, EventKind, State};
    use domain::version::AdapterVersion;
    use serde_json::json;

    fn object(name: &str) -> ObjectRef {
        ObjectRef { path: name.to_owned(), sha256: name.to_owned(), bytes: 1 }
    }

    fn candidate() -> Candidate {
        let snapshot = SnapshotMeta { object: object("s"), chunks: vec![], items: 0, seen: 0 };
        let (weights_sha256, cost) = ("w".to_owned(), Cost::default());
        Candidate {
            files: vec![object("f")],
            weights_sha256,
            finite: true,
            preprocessing: None,
            golden: Vec::new(),
            snapshot,
            cost,
        }
    }

    fn score(set: &EvalSet, right: Option<[bool; 4]>) -> Score {
        Score {
            task: set.task.clone(),
            eval_set: set.number,
            digest: set.digest(),
            items: 4,
            correct: 2,
            loss: 1.0,
            calibration: None,
            right: right.map(|right| right.into_iter().collect()),
        }
    }

    struct Scene {
        state: State,
        id: PipelineId,
    }

    impl Scene {
        fn happen(&mut self, kind: EventKind) {
            self.state.apply(&Event { pipeline: self.id.clone(), kind }, 0).unwrap();
        }

        fn now(&self) -> &PipelineState {
            &self.state.pipelines[&self.id]
        }

        /// A run on a new chunk, up to its evaluation. The first chunk alone has held-out rows.
        fn trained(&mut self, chunk: &str) -> Run {
            let shards = |name: String, rows| vec![Shard::new(object(&name), rows)];
            let is_first = self.now().chunks.is_empty();
            let id = ChunkId(chunk.to_owned());
            let received = Chunk {
                train: shards(format!("{chunk}-train"), 4),
                held_out: if is_first { shards(format!("{chunk}-held-out"), 4) } else { vec![] },
                labels: [("a".to_owned(), 4)].into(),
                ..Chunk::received(id.clone(), "t".parse().unwrap(), Split::Auto, object(chunk), 0)
            };
            self.happen(EventKind::ChunkReceived { chunk: Box::new(received) });
            self.happen(EventKind::ChunkSealed { chunk: id, new_labels: vec![] });
            let (run, events) = planning::start_run(&self.state, &self.id, &[]).unwrap();
            events.into_iter().for_each(|event| self.happen(event.kind));
            for change in [RunEvent::Started, RunEvent::Trained { attempt: 1, candidate: Box::new(candidate()) }] {
                self.happen(EventKind::Run { run, change: Box::new(change) });
            }
            self.now().runs[&run].clone()
        }

        /// Version 1, whose report says of its items what `right` says.
        fn published(right: Option<[bool; 4]>) -> Self {
            let spec = json!({"name": "p", "model": "mlp:8", "labels": ["a", "b"], "method": "ft"});
            let spec: domain::pipeline::Pipeline = serde_json::from_value(spec).unwrap();
            let mut scene = Self { id: spec.id(), state: State::default() };
            for event in planning::apply_spec(&scene.state, &spec).unwrap() {
                scene.happen(event.kind);
            }
            let run = scene.trained("one");
            let scores: Vec<Score> = run.manifest.eval_sets.iter().map(|set| score(set, right)).collect();
            let report = EvalReport {
                baseline: Baseline::Base,
                candidate_scores: scores,
                baseline_scores: vec![],
                verdict: Verdict::Pass,
            };
            let judged = RunEvent::Judged { report: report.clone(), version: Some(Version(1)) };
            scene.happen(EventKind::Run { run: run.number, change: Box::new(judged) });
            let Candidate { snapshot, files, weights_sha256, cost, .. } = candidate();
            let version = AdapterVersion {
                number: Version(1),
                parent: None,
                run: run.number,
                update: 0,
                chunks: run.chunk_ids().cloned().collect(),
                labels: run.manifest.labels.clone(),
                snapshot,
                files,
                weights_sha256,
                report,
                cost,
                published_at: 0,
            };
            scene.happen(EventKind::VersionPublished { version: Box::new(version) });
            scene
        }
    }

    const OLD: [bool; 4] = [true, true, false, false];
    const NEW: [bool; 4] = [true, false, false, true];

    #[test]
    fn a_baseline_whose_answers_are_known_is_not_scored_again_and_its_flips_are_counted() {
        let mut scene = Scene::published(Some(OLD));
        let run = scene.trained("two");
        let known = &run.manifest.eval_sets[0];
        assert!(scene.now().versions[&Version(1)].report.candidate_scores[0].is_on(known), "the set is the same");
        assert_eq!(subjects(scene.now(), &run, &candidate()).len(), 1);
        let (report, _) = conclude(scene.now(), &run, &candidate(), &[vec![score(known, Some(NEW))]]);
        let flips = report.flips().unwrap();
        assert_eq!((flips.items, flips.negative, flips.positive, flips.right), (4, 1, 1, 2));
        assert_eq!(report.compared_with(), Some(Version(1)));
    }

    #[test]
    fn a_baseline_from_before_answers_were_recorded_is_scored_again_and_judged_by_even_if_it_was_not() {
        let mut scene = Scene::published(None);
        let run = scene.trained("two");
        let set = &run.manifest.eval_sets[0];
        let asked = subjects(scene.now(), &run, &candidate());
        assert_eq!((asked.len(), &asked[1].eval_sets), (2, &vec![set.digest()]));
        let new = vec![score(set, Some(NEW))];
        let (report, _) = conclude(scene.now(), &run, &candidate(), &[new.clone(), vec![score(set, Some(OLD))]]);
        assert_eq!(report.flips().map(|flips| flips.items), Some(4));
        let (report, _) = conclude(scene.now(), &run, &candidate(), &[new]);
        assert_eq!((report.baseline_scores.len(), report.flips()), (1, None));
    }
}
