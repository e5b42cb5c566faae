//! Which chunks are compared with what their pipelines knew, and where: what is left over by runs.

use domain::id::PipelineId;
use domain::planning;
use domain::run::{Run, RunState};
use domain::state::{PipelineState, State};

use super::{Action, Limits, asked as asked_for, gone};
use crate::fleet::{Assigned, Fleet, Key, Moment, Share, Stage};
use crate::gang;

/// Adds to what a pass does for runs. `fleet` knows what that takes.
pub fn next(now: Moment, state: &State, fleet: &mut Fleet, limits: Limits, actions: &mut Vec<Action>) {
    actions.extend(lost(state, fleet, limits));
    let mut runs = state.pipelines.iter().filter_map(|(id, current)| Some((id, current.active_run()?)));
    // Slots that a gang waits for are not to be filled one by one.
    let spares_trainers = runs.any(|(id, run)| waits(now, id, run, actions));
    for (id, current) in &state.pipelines {
        let Some(key) = chosen(now, id, current, fleet, actions) else { continue };
        let Some(worker) = gang::measurer(fleet, spares_trainers) else { continue };
        let shares = vec![Share { worker: worker.clone(), first: 0, ranks: 1 }];
        fleet.assigned.insert(key.clone(), Assigned { shares, ..Assigned::default() });
        actions.push(Action::Measure { key, worker });
    }
}

/// Whether the chunk still waits, as it was, and no run of its pipeline is under way, which needs the machines more.
pub fn asked(current: &PipelineState, key: &Key) -> bool {
    current.active_run().is_none() && planning::generation(current, key.run) == Some(key.attempt)
}

fn waits(now: Moment, id: &PipelineId, run: &Run, actions: &[Action]) -> bool {
    let starts = |action: &Action| matches!(action, Action::Start { pipeline, run: number, .. } if (pipeline, *number) == (id, run.number));
    run.state == RunState::Queued && now.at >= run.not_before && !actions.iter().any(starts)
}

/// One chunk of a pipeline at a time, and none of one whose chunks are about to train.
fn chosen(now: Moment, id: &PipelineId, current: &PipelineState, fleet: &Fleet, actions: &[Action]) -> Option<Key> {
    let queues = |action: &Action| matches!(action, Action::Queue { pipeline } if pipeline == id);
    let measuring = |key: &Key| key.stage == Stage::Measure && key.pipeline == *id;
    if actions.iter().any(queues) || fleet.assigned.keys().any(measuring) {
        return None;
    }
    let place = planning::next_to_measure(current)?;
    let key = Key::to_measure(id, place, planning::generation(current, place)?);
    let pauses = fleet.failed.get(&key).is_some_and(|failed| now.ticks < failed.until);
    (!pauses).then_some(key)
}

fn lost(state: &State, fleet: &Fleet, limits: Limits) -> Vec<Action> {
    let keys = fleet.assigned.keys().filter(|key| key.stage == Stage::Measure && asked_for(state, key));
    let lost = keys.filter_map(|key| Some((key, fleet.lost_worker(key)?)));
    lost.map(|(key, worker)| Action::Lose { key: key.clone(), reason: gone(worker, limits) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Failed, Worker};
    use crate::reconcile::reconcile;
    use domain::chunk::{Chunk, ChunkState, ObjectRef, Shard, Split};
    use domain::erasure::Scope;
    use domain::id::{ChunkId, Version};
    use domain::manifest::{Cost, SnapshotMeta};
    use domain::report::{Baseline, EvalReport, Verdict};
    use domain::version::AdapterVersion;

    const LIMITS: Limits = Limits { lease_ms: 1000, listening_since: 0 };

    fn object() -> ObjectRef {
        ObjectRef { path: "x".into(), sha256: "0".into(), bytes: 1 }
    }

    fn version(number: u64, parent: Option<Version>) -> AdapterVersion {
        AdapterVersion {
            number: Version(number),
            parent,
            run: number,
            update: 0,
            chunks: Vec::new(),
            labels: Vec::new(),
            snapshot: SnapshotMeta { object: object(), chunks: vec![], items: 0, seen: 0 },
            files: Vec::new(),
            weights_sha256: String::new(),
            report: EvalReport {
                baseline: Baseline::Base,
                candidate_scores: vec![],
                baseline_scores: vec![],
                verdict: Verdict::Pass,
            },
            cost: Cost::default(),
            published_at: 0,
        }
    }

    /// A pipeline that continues from version 2, with a sealed chunk that waits.
    fn waiting(name: &str) -> (PipelineId, PipelineState) {
        let spec = serde_json::json!({"name": name, "model": "mlp:8", "labels": ["a"], "method": "er"});
        let spec: domain::pipeline::Pipeline = serde_json::from_value(spec).unwrap();
        let (id, mut current) = (spec.id(), PipelineState::new(spec));
        let chunk = ChunkId("c".into());
        let received = Chunk::received(chunk.clone(), "t".parse().unwrap(), Split::Train, object(), 0);
        let sealed = Chunk { train: vec![Shard::new(object(), 10)], state: ChunkState::Sealed, ..received };
        current.chunks.insert(chunk.clone(), sealed);
        current.arrivals.push(chunk);
        for (number, parent) in [(1, None), (2, Some(Version(1)))] {
            current.versions.insert(Version(number), version(number, parent));
        }
        current.tip = Some(Version(2));
        (id, current)
    }

    fn fleet() -> Fleet {
        let worker = |trains| Worker { trains, measures: true, evaluates: true, slots: 1, ..Worker::default() };
        Fleet {
            workers: [("apart".to_owned(), worker(false)), ("all".to_owned(), worker(true))].into(),
            ..Fleet::default()
        }
    }

    fn at(ticks: u64) -> Moment {
        Moment { at: ticks, ticks }
    }

    fn state(of: &[(PipelineId, PipelineState)]) -> State {
        State { pipelines: of.iter().cloned().collect() }
    }

    fn key(of: &(PipelineId, PipelineState)) -> Key {
        Key::to_measure(&of.0, 0, planning::generation(&of.1, 0).unwrap())
    }

    fn measured(actions: &[Action]) -> Vec<&Key> {
        actions
            .iter()
            .filter_map(|action| if let Action::Measure { key, .. } = action { Some(key) } else { None })
            .collect()
    }

    #[test]
    fn each_pipeline_has_one_chunk_compared_where_a_slot_is_free() {
        let pipelines = ["p", "q", "r"].map(waiting);
        let actions = reconcile(at(0), &state(&pipelines), &fleet(), LIMITS);
        assert_eq!(measured(&actions), [&key(&pipelines[0]), &key(&pipelines[1])], "there are two slots");
        let mut busy = fleet();
        let shares = vec![Share { worker: "all".to_owned(), first: 0, ranks: 1 }];
        busy.assigned.insert(key(&pipelines[0]), Assigned { shares, ..Assigned::default() });
        assert_eq!(measured(&reconcile(at(0), &state(&pipelines), &busy, LIMITS)), [&key(&pipelines[1])]);
        assert!(reconcile(at(0), &state(&pipelines), &Fleet::default(), LIMITS).is_empty());
    }

    #[test]
    fn a_comparison_with_a_version_that_has_learnt_the_chunk_by_now_ends() {
        let (id, mut current) = waiting("p");
        let mut busy = fleet();
        let shares = vec![Share { worker: "all".to_owned(), first: 0, ranks: 1 }];
        let old = key(&(id.clone(), current.clone()));
        busy.assigned.insert(old.clone(), Assigned { shares, ..Assigned::default() });
        current.chunks.get_mut(&ChunkId("c".into())).unwrap().state = ChunkState::Absorbed { version: Version(2) };
        let now = (id, current);
        assert_ne!(key(&now), old, "it is compared with what version 1 knew, which has not learnt it");
        assert_eq!(planning::manifest_to_measure(&now.1, 0).unwrap().parent.unwrap().version, Version(1));
        let actions = reconcile(at(0), &state(std::slice::from_ref(&now)), &busy, LIMITS);
        assert!(actions.contains(&Action::Drop { key: old }), "{actions:?}");
    }

    #[test]
    fn an_erasure_ends_a_comparison_that_may_have_read_what_is_gone_and_begins_it_anew() {
        let mut of = waiting("p");
        let (old, mut busy) = (key(&of), fleet());
        let shares = vec![Share { worker: "all".to_owned(), first: 0, ranks: 1 }];
        busy.assigned.insert(old.clone(), Assigned { shares, ..Assigned::default() });
        let erasure = serde_json::json!({
            "number": 1, "scope": Scope::subject("anna"), "at": 0, "chunks": [], "garbage": [], "copies": [],
            "eval_sets": [], "run": 2,
        });
        of.1.erasures.push(serde_json::from_value(erasure).unwrap());
        assert_eq!(
            reconcile(at(0), &state(std::slice::from_ref(&of)), &busy, LIMITS),
            [Action::Drop { key: old.clone() }]
        );
        busy.assigned.clear();
        let again = reconcile(at(0), &state(std::slice::from_ref(&of)), &busy, LIMITS);
        assert!(measured(&again) == [&key(&of)] && key(&of) != old, "{again:?}");
    }

    #[test]
    fn a_lost_comparison_is_tried_again_after_a_pause() {
        let of = waiting("p");
        let mut fleet = fleet();
        let shares = vec![Share { worker: "gone".to_owned(), first: 0, ranks: 1 }];
        fleet.assigned.insert(key(&of), Assigned { shares, ..Assigned::default() });
        let actions = reconcile(at(0), &state(std::slice::from_ref(&of)), &fleet, LIMITS);
        assert!(matches!(&actions[..], [Action::Lose { .. }]), "{actions:?}");
        fleet.assigned.clear();
        fleet.failed.insert(key(&of), Failed { times: 1, until: 50 });
        assert!(reconcile(at(49), &state(std::slice::from_ref(&of)), &fleet, LIMITS).is_empty());
        assert_eq!(measured(&reconcile(at(50), &state(std::slice::from_ref(&of)), &fleet, LIMITS)), [&key(&of)]);
    }

    #[test]
    fn trainers_that_a_run_waits_for_compare_nothing() {
        let (of, mut other) = (waiting("p"), waiting("q"));
        let mut spec: domain::pipeline::Spec = other.1.pipeline.clone().into();
        spec.resources.ranks = 2.try_into().unwrap();
        other.1.pipeline = spec.try_into().unwrap();
        let mut state = state(&[of.clone(), other.clone()]);
        let (_, events) = planning::start_run(&state, &other.0, &[]).unwrap();
        events.iter().for_each(|event| state.apply(event, 0).unwrap());
        let actions = reconcile(at(0), &state, &fleet(), LIMITS);
        assert_eq!(measured(&actions), [&key(&of)]);
        assert!(matches!(&actions[..], [Action::Measure { worker, .. }] if worker == "apart"), "{actions:?}");
    }
}
