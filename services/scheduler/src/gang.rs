//! Workers to gangs: which ranks of a run go where. Pure.

use std::collections::BTreeSet;

use crate::fleet::{Fleet, Share, Worker};

/// Places `ranks` ranks on trainers with free slots, or none if they do not fit.
///
/// GPUs before CPUs, and never both in one gang. One worker that can hold the whole gang is preferred, the tightest
/// fit first, since ranks of one node talk fastest; else the largest holes are filled first, to span as few nodes as
/// possible. Ties go to the lower worker id.
pub fn form(fleet: &Fleet, ranks: u32) -> Option<Vec<Share>> {
    let devices: BTreeSet<&str> = fleet.workers.values().map(|worker| worker.device.as_str()).collect();
    // `cuda` comes after `cpu`.
    devices.into_iter().rev().find_map(|device| form_on(fleet, ranks, device))
}

fn form_on(fleet: &Fleet, ranks: u32, device: &str) -> Option<Vec<Share>> {
    let trainers = fleet.workers.iter().filter(|(_, worker)| worker.trains && worker.device == device);
    let mut free: Vec<(u32, &String)> =
        trainers.map(|(id, _)| (fleet.free(id), id)).filter(|(free, _)| *free > 0).collect();
    free.sort_by_key(|(free, id)| (*free, *id));
    if let Some((_, worker)) = free.iter().find(|(free, _)| *free >= ranks) {
        return Some(vec![Share { worker: (*worker).clone(), first: 0, ranks }]);
    }
    free.sort_by_key(|(free, id)| (std::cmp::Reverse(*free), *id));
    let mut shares: Vec<Share> = Vec::new();
    let mut placed = 0;
    for (free, worker) in free {
        let here = free.min(ranks - placed);
        shares.push(Share { worker: worker.clone(), first: placed, ranks: here });
        placed += here;
        if placed == ranks {
            return Some(shares);
        }
    }
    None
}

/// An evaluator with a free slot.
pub fn evaluator(fleet: &Fleet) -> Option<String> {
    free(fleet, |worker| worker.evaluates)
}

/// One that compares chunks; `spares_trainers`: and does not train.
pub fn measurer(fleet: &Fleet, spares_trainers: bool) -> Option<String> {
    free(fleet, |worker| worker.measures && !(spares_trainers && worker.trains))
}

fn free(fleet: &Fleet, does: impl Fn(&Worker) -> bool) -> Option<String> {
    let workers = fleet.workers.iter().filter(|(_, worker)| does(worker));
    workers.map(|(id, _)| id).find(|id| fleet.free(id) > 0).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(slots: &[u32]) -> Fleet {
        let worker = |slots: u32| Worker { trains: true, slots, device: "cpu".into(), ..Worker::default() };
        let workers = slots.iter().enumerate().map(|(i, slots)| (format!("w{i}"), worker(*slots)));
        Fleet { workers: workers.collect(), ..Fleet::default() }
    }

    fn placed(slots: &[u32], ranks: u32) -> Option<Vec<(String, u32, u32)>> {
        Some(form(&fleet(slots), ranks)?.into_iter().map(|s| (s.worker, s.first, s.ranks)).collect())
    }

    #[test]
    fn one_node_is_preferred_and_the_tightest() {
        assert_eq!(placed(&[8, 2, 4], 2), Some(vec![("w1".into(), 0, 2)]));
    }

    #[test]
    fn a_gang_spans_as_few_nodes_as_it_can() {
        assert_eq!(placed(&[1, 3, 2], 4), Some(vec![("w1".into(), 0, 3), ("w2".into(), 3, 1)]));
    }

    #[test]
    fn a_gang_is_of_one_kind_of_device_and_rather_of_gpus() {
        let mut fleet = fleet(&[1, 4, 1]);
        for worker in ["w0", "w2"] {
            fleet.workers.get_mut(worker).unwrap().device = "cuda".into();
        }
        let workers = |ranks| form(&fleet, ranks).unwrap().into_iter().map(|share| share.worker).collect::<Vec<_>>();
        assert_eq!(
            (workers(1), workers(2), workers(3)),
            (vec!["w0".into()], vec!["w0".into(), "w2".into()], vec!["w1".to_owned()])
        );
    }

    #[test]
    fn a_gang_that_does_not_fit_waits_whole() {
        assert_eq!(placed(&[1, 2], 4), None);
    }
}
