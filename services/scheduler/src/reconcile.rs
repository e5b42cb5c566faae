//! What should happen next: (now, state, fleet) → actions with their reasons. Pure.

mod measure;

use domain::id::{ChunkId, PipelineId};
use domain::labelled;
use domain::planning;
use domain::run::{Run, RunState};
use domain::state::State;

use crate::fleet::{Fleet, Key, Moment, Share, Stage};
use crate::gang;

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A trigger fired.
    Queue {
        pipeline: PipelineId,
    },
    /// A chunk has waited for labels for as long as it may.
    Seal {
        pipeline: PipelineId,
        chunk: ChunkId,
    },
    /// Enough slots are free.
    Start {
        pipeline: PipelineId,
        run: u64,
        gang: Vec<Share>,
    },
    /// The attempt's workers went away, which says nothing about the run.
    Lose {
        key: Key,
        reason: String,
    },
    Evaluate {
        key: Key,
        worker: String,
    },
    /// A chunk is compared with what was known.
    Measure {
        key: Key,
        worker: String,
    },
    /// The candidate's weights are not finite: there is nothing to score.
    JudgeUnscored {
        key: Key,
    },
    /// Nothing in the state asks for this work any more.
    Drop {
        key: Key,
    },
}

/// Time limits the decisions depend on, milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A worker not heard for this long has lost its work.
    pub lease_ms: u64,
    /// When this process began to listen, in ticks: workers of its predecessor get one lease to return.
    pub listening_since: u64,
}

/// `fleet` holds the workers that are heard; silent ones have been forgotten.
pub fn reconcile(now: Moment, state: &State, fleet: &Fleet, limits: Limits) -> Vec<Action> {
    let mut actions: Vec<Action> = stale(state, fleet).map(|key| Action::Drop { key }).collect();
    actions
        .extend(labelled::overdue(state, now.at).into_iter().map(|(pipeline, chunk)| Action::Seal { pipeline, chunk }));
    actions.extend(planning::triggered(state).into_iter().map(|pipeline| Action::Queue { pipeline }));
    // Slots promised in this pass are taken from a copy, so that no two runs get the same one.
    let mut fleet = fleet.clone();
    for (id, current) in &state.pipelines {
        if let Some(run) = current.active_run()
            && let Some(action) = next(now, id, run, &fleet, limits)
        {
            promise(&mut fleet, id, run, &action);
            actions.push(action);
        }
    }
    measure::next(now, state, &mut fleet, limits, &mut actions);
    actions
}

fn gone(worker: &str, limits: Limits) -> String {
    format!("worker `{worker}` is gone: not heard for {} ms, or its stream broke", limits.lease_ms)
}

/// Whether the state asks for this work.
pub fn asked(state: &State, key: &Key) -> bool {
    let Some(current) = state.pipelines.get(&key.pipeline) else { return false };
    match key.stage {
        Stage::Measure => measure::asked(current, key),
        Stage::Train | Stage::Evaluate => {
            current.runs.get(&key.run).and_then(|run| wanted(&key.pipeline, run)).as_ref() == Some(key)
        }
    }
}

/// The key of the work that a run's state asks for, if it asks for any.
pub fn wanted(id: &PipelineId, run: &Run) -> Option<Key> {
    let (stage, attempt) = match run.state {
        RunState::Training { attempt } => (Stage::Train, attempt),
        RunState::Evaluating { ref candidate } if candidate.finite => (Stage::Evaluate, run.attempts),
        _ => return None,
    };
    Some(Key { pipeline: id.clone(), run: run.number, attempt, stage })
}

fn stale<'a>(state: &'a State, fleet: &'a Fleet) -> impl Iterator<Item = Key> + 'a {
    fleet.assigned.keys().filter(move |key| !asked(state, key)).cloned()
}

fn next(now: Moment, id: &PipelineId, run: &Run, fleet: &Fleet, limits: Limits) -> Option<Action> {
    if matches!(&run.state, RunState::Evaluating { candidate } if !candidate.finite) {
        let key = Key { pipeline: id.clone(), run: run.number, attempt: run.attempts, stage: Stage::Evaluate };
        return Some(Action::JudgeUnscored { key });
    }
    let early = now.at < run.not_before;
    let Some(key) = wanted(id, run) else {
        let ranks = run.manifest.pipeline.resources.ranks.get();
        let due = run.state == RunState::Queued && !early;
        let gang = due.then(|| gang::form(fleet, ranks)).flatten()?;
        return Some(Action::Start { pipeline: id.clone(), run: run.number, gang });
    };
    let known = fleet.assigned.contains_key(&key);
    let lost = fleet.lost_worker(&key);
    match (key.stage, known, lost) {
        (_, true, None) => None,
        (_, true, Some(worker)) => {
            let reason = gone(worker, limits);
            Some(Action::Lose { key, reason })
        }
        (Stage::Train, false, _) => {
            let waited = now.ticks.saturating_sub(limits.listening_since) > limits.lease_ms;
            let reason = "the control process restarted and no worker claimed the attempt".to_owned();
            waited.then_some(Action::Lose { key, reason })
        }
        (_, false, _) if early => None,
        (_, false, _) => gang::evaluator(fleet).map(|worker| Action::Evaluate { key, worker }),
    }
}

fn promise(fleet: &mut Fleet, id: &PipelineId, run: &Run, action: &Action) {
    let (key, shares) = match action {
        Action::Start { gang, .. } => {
            let attempt = run.attempts + 1;
            (Key { pipeline: id.clone(), run: run.number, attempt, stage: Stage::Train }, gang.clone())
        }
        Action::Evaluate { key, worker } => (key.clone(), vec![Share { worker: worker.clone(), first: 0, ranks: 1 }]),
        _ => return,
    };
    fleet.assigned.entry(key).or_default().shares = shares;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Assigned, Worker};
    use domain::chunk::{Chunk, ObjectRef, Shard, Split};
    use domain::manifest::{Candidate, Cost, SnapshotMeta};
    use domain::run::{Ending, RunEvent};
    use domain::state::{Event, EventKind};

    const LIMITS: Limits = Limits { lease_ms: 1000, listening_since: 0 };

    fn object() -> ObjectRef {
        ObjectRef { path: "x".into(), sha256: "0".into(), bytes: 1 }
    }

    /// A pipeline with one sealed chunk, named `name`.
    fn with_chunk(state: &mut State, name: &str, trigger: &str) -> PipelineId {
        let spec = serde_json::json!({
            "name": name, "model": "mlp:8", "labels": ["a"], "method": "er", "trigger": trigger,
        });
        let spec: domain::pipeline::Pipeline = serde_json::from_value(spec).unwrap();
        let id = spec.id();
        let chunk = Chunk {
            train: vec![Shard::new(object(), 10)],
            ..Chunk::received(ChunkId("c".into()), "t".parse().unwrap(), Split::Train, object(), 0)
        };
        let sealed = EventKind::ChunkSealed { chunk: chunk.id.clone(), new_labels: vec![] };
        let events = [
            EventKind::PipelineApplied { pipeline_spec: Box::new(spec) },
            EventKind::ChunkReceived { chunk: Box::new(chunk) },
            sealed,
        ];
        for kind in events {
            state.apply(&Event { pipeline: id.clone(), kind }, 0).unwrap();
        }
        id
    }

    fn queue(state: &mut State, id: &PipelineId) {
        let (_, events) = planning::start_run(state, id, &[]).unwrap();
        events.iter().for_each(|event| state.apply(event, 0).unwrap());
    }

    fn change(state: &mut State, id: &PipelineId, change: RunEvent) {
        let kind = EventKind::Run { run: 1, change: Box::new(change) };
        state.apply(&Event { pipeline: id.clone(), kind }, 0).unwrap();
    }

    fn at(ms: u64) -> Moment {
        Moment { at: ms, ticks: ms }
    }

    fn fleet(slots: u32, last_heard: u64) -> Fleet {
        let worker = Worker { trains: true, evaluates: true, slots, last_heard, ..Worker::default() };
        Fleet { workers: [("w".to_owned(), worker)].into(), ..Fleet::default() }
    }

    #[test]
    fn a_trigger_queues_and_manual_pipelines_wait() {
        let mut state = State::default();
        let due = with_chunk(&mut state, "due", "chunk");
        with_chunk(&mut state, "idle", "manual");
        assert_eq!(reconcile(at(0), &state, &Fleet::default(), LIMITS), [Action::Queue { pipeline: due }]);
    }

    #[test]
    fn one_free_slot_is_given_to_one_run() {
        let mut state = State::default();
        for name in ["a", "b"] {
            let id = with_chunk(&mut state, name, "manual");
            queue(&mut state, &id);
        }
        let started = reconcile(at(0), &state, &fleet(1, 0), LIMITS);
        assert_eq!(started.len(), 1, "{started:?}");
    }

    #[test]
    fn a_silent_worker_loses_the_attempt_but_not_before_its_lease_ends() {
        let mut state = State::default();
        let id = with_chunk(&mut state, "p", "manual");
        queue(&mut state, &id);
        change(&mut state, &id, RunEvent::Started);
        let mut fleet = fleet(1, 500);
        let key = wanted(&id, &state.pipelines[&id].runs[&1]).unwrap();
        let shares = vec![Share { worker: "w".into(), first: 0, ranks: 1 }];
        fleet.assigned.insert(key.clone(), Assigned { shares, ..Assigned::default() });
        fleet.forget_silent(1500, LIMITS.lease_ms);
        assert_eq!(reconcile(at(1500), &state, &fleet, LIMITS), []);
        fleet.forget_silent(1501, LIMITS.lease_ms);
        assert!(
            matches!(&reconcile(at(1501), &state, &fleet, LIMITS)[..], [Action::Lose { key: lost, .. }] if *lost == key)
        );
    }

    #[test]
    fn after_a_restart_workers_have_one_lease_to_return() {
        let mut state = State::default();
        let id = with_chunk(&mut state, "p", "manual");
        queue(&mut state, &id);
        change(&mut state, &id, RunEvent::Started);
        let limits = Limits { listening_since: 10_000, ..LIMITS };
        assert_eq!(reconcile(at(11_000), &state, &fleet(1, 11_000), limits), []);
        assert!(matches!(&reconcile(at(11_001), &state, &fleet(1, 11_000), limits)[..], [Action::Lose { .. }]));
    }

    #[test]
    fn cancelled_work_is_dropped() {
        let mut state = State::default();
        let id = with_chunk(&mut state, "p", "manual");
        queue(&mut state, &id);
        change(&mut state, &id, RunEvent::Started);
        let mut fleet = fleet(1, 0);
        let key = wanted(&id, &state.pipelines[&id].runs[&1]).unwrap();
        fleet.assigned.insert(key.clone(), Assigned::default());
        change(&mut state, &id, RunEvent::Cancelled);
        assert_eq!(reconcile(at(0), &state, &fleet, LIMITS), [Action::Drop { key }]);
    }

    #[test]
    fn the_next_attempt_waits_out_its_pause_whatever_the_wall_clock_did_to_leases() {
        let mut state = State::default();
        let id = with_chunk(&mut state, "p", "manual");
        queue(&mut state, &id);
        change(&mut state, &id, RunEvent::Started);
        let ending = Ending::Unavailable;
        change(&mut state, &id, RunEvent::AttemptEnded { attempt: 1, reason: "no store".into(), ending });
        assert_eq!(reconcile(at(999), &state, &fleet(1, 999), LIMITS), []);
        let set_back = Moment { at: 1000, ticks: 50_000 };
        assert!(matches!(&reconcile(set_back, &state, &fleet(1, 50_000), LIMITS)[..], [Action::Start { .. }]));
    }

    #[test]
    fn an_evaluation_lost_with_its_worker_is_counted() {
        let mut state = State::default();
        let id = with_chunk(&mut state, "p", "manual");
        queue(&mut state, &id);
        change(&mut state, &id, RunEvent::Started);
        let snapshot = SnapshotMeta { object: object(), chunks: vec![], items: 0, seen: 0 };
        let cost = Cost::default();
        let candidate = Candidate {
            files: vec![],
            weights_sha256: "w".into(),
            finite: true,
            preprocessing: None,
            golden: Vec::new(),
            snapshot,
            cost,
        };
        change(&mut state, &id, RunEvent::Trained { attempt: 1, candidate: Box::new(candidate) });
        let key = wanted(&id, &state.pipelines[&id].runs[&1]).unwrap();
        let shares = vec![Share { worker: "gone".into(), first: 0, ranks: 1 }];
        let mut fleet = fleet(1, 0);
        fleet.assigned.insert(key.clone(), Assigned { shares, ..Assigned::default() });
        assert!(
            matches!(&reconcile(at(0), &state, &fleet, LIMITS)[..], [Action::Lose { key: lost, .. }] if *lost == key)
        );
    }

    #[test]
    fn a_share_that_is_done_may_go_and_a_leader_may_not() {
        let id: PipelineId = "namespaces/default/pipelines/p".parse().unwrap();
        let key = Key { pipeline: id, run: 1, attempt: 1, stage: Stage::Train };
        let share = |worker: &str, first| Share { worker: worker.into(), first, ranks: 1 };
        let mut fleet = Fleet::default();
        let shares = vec![share("leader", 0), share("other", 1)];
        fleet.assigned.insert(key.clone(), Assigned { shares, ..Assigned::default() });
        fleet.forget_unclaimed("leader", std::slice::from_ref(&key));
        fleet.forget_unclaimed("other", &[]);
        assert_eq!(fleet.assigned[&key].shares, [share("leader", 0)]);
        fleet.forget_unclaimed("leader", &[]);
        assert!(fleet.assigned.is_empty());
    }
}
