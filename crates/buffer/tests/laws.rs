//! What each streaming policy promises, stated over whole streams of offers.

use domain::buffer::Snapshot;
use domain::draw::Draw;
use domain::id::ChunkId;
use domain::pipeline::Policy;
use perennial_buffer::offer;

const POLICIES: [Policy; 8] = [
    Policy::Reservoir,
    Policy::ClassBalanced,
    Policy::Greedy,
    Policy::Window,
    Policy::Infinite,
    Policy::Herding,
    Policy::KCentre,
    Policy::Gmc,
];

fn chunk() -> ChunkId {
    ChunkId("a".to_owned())
}

fn filled(policy: Policy, capacity: u64, seed: u64, labels: &[u32]) -> Snapshot {
    let mut snapshot = Snapshot::empty(policy, capacity, seed);
    for (row, &label) in (0..).zip(labels) {
        offer(&mut snapshot, &chunk(), row, label);
    }
    snapshot
}

/// `rows` labels below `labels`, the lower the more frequent.
fn skewed(seed: u64, rows: u64, labels: u64) -> Vec<u32> {
    let stream = Draw::new(seed).named("labels");
    let label = |row| stream.at(row).at(1).below(1 + stream.at(row).at(0).below(labels)) as u32;
    (0..rows).map(label).collect()
}

fn held(snapshot: &Snapshot, labels: usize) -> Vec<usize> {
    let mut held = vec![0; labels];
    snapshot.slots.iter().for_each(|slot| held[slot.label as usize] += 1);
    held
}

#[test]
fn a_restored_buffer_keeps_what_an_uninterrupted_one_keeps() {
    let labels = skewed(0, 600, 7);
    for policy in POLICIES {
        let whole = filled(policy, 20, 3, &labels);
        let mut part = filled(policy, 20, 3, &labels[..137]);
        for row in 137..600 {
            let text = serde_json::to_string(&part).unwrap();
            part = serde_json::from_str(&text).unwrap();
            offer(&mut part, &chunk(), row, labels[row as usize]);
        }
        assert_eq!(part, whole, "{policy:?}");
    }
}

#[test]
fn no_policy_but_infinite_exceeds_its_capacity_and_each_counts_every_offer() {
    for policy in POLICIES {
        let snapshot = filled(policy, 20, 3, &skewed(1, 300, 5));
        let held = if policy.selects() {
            0
        } else if policy == Policy::Infinite {
            300
        } else {
            20
        };
        assert_eq!((snapshot.slots.len(), snapshot.seen), (held, 300), "{policy:?}");
        assert_eq!(snapshot.seen_by_label.iter().sum::<u64>(), 300);
    }
}

#[test]
fn a_capacity_of_nothing_holds_nothing() {
    for policy in POLICIES.into_iter().filter(|&policy| policy != Policy::Infinite) {
        assert!(filled(policy, 0, 3, &[0, 1, 0]).slots.is_empty(), "{policy:?}");
    }
}

#[test]
fn a_window_holds_exactly_the_last_rows() {
    for rows in 1..60 {
        let snapshot = filled(Policy::Window, 13, 0, &vec![0; rows]);
        let mut held: Vec<usize> = snapshot.slots.iter().map(|slot| slot.row as usize).collect();
        held.sort_unstable();
        assert_eq!(held, (rows.saturating_sub(13)..rows).collect::<Vec<_>>());
    }
}

#[test]
fn greedy_always_admits_and_takes_from_a_most_frequent_label() {
    let labels = skewed(2, 500, 6);
    let mut snapshot = Snapshot::empty(Policy::Greedy, 30, 4);
    for (row, &label) in (0..).zip(&labels) {
        let before = held(&snapshot, 6);
        let slot = offer(&mut snapshot, &chunk(), row, label).expect("admitted");
        assert_eq!(snapshot.slots[slot].row, row);
        let mut after = held(&snapshot, 6);
        after[label as usize] -= 1;
        let left = (0..6).find(|&label| after[label] < before[label]);
        assert!(left.is_none_or(|label| before[label] == *before.iter().max().unwrap()), "{before:?} {after:?}");
        assert_eq!(left.is_none(), row < 30);
    }
}

#[test]
fn each_offer_draws_anew_whom_it_evicts() {
    let mut greedy = filled(Policy::Greedy, 10, 6, &[0; 10]);
    let mut taken = [0f64; 10];
    (0..10_000).for_each(|row| taken[offer(&mut greedy, &chunk(), row, 0).unwrap()] += 1.0);
    let chi_square: f64 = taken.iter().map(|count| (count - 1_000.0).powi(2) / 1_000.0).sum();
    // 9 degrees of freedom, p = 1e-4.
    assert!(chi_square < 33.7, "{chi_square} {taken:?}");

    let labels: Vec<u32> = [vec![0; 1_000], vec![1; 500]].concat();
    let balanced = filled(Policy::ClassBalanced, 1_000, 6, &labels);
    for tenth in balanced.slots.chunks(100) {
        let late = tenth.iter().filter(|slot| slot.label == 1).count();
        assert!((30..70).contains(&late), "{late} of 100, expected 50");
    }
}

#[test]
fn balanced_labels_hold_equal_shares_once_each_has_offered_its_own() {
    for (seed, classes) in (0..40).zip([2, 3, 5, 10].into_iter().cycle()) {
        let capacity = classes * 6;
        let mut labels = skewed(seed, 200, classes);
        labels.extend((0..classes as u32).flat_map(|label| [label; 6]));
        let by_label = labels.clone();
        for order in [labels, sorted(by_label)] {
            let snapshot = filled(Policy::ClassBalanced, capacity, seed, &order);
            assert_eq!(held(&snapshot, classes as usize), vec![6; classes as usize]);
        }
    }
}

fn sorted(mut labels: Vec<u32>) -> Vec<u32> {
    labels.sort_unstable();
    labels
}

#[test]
fn balanced_counts_differ_by_at_most_one_when_labels_do_not_divide_the_capacity() {
    for seed in 0..40 {
        let mut labels = skewed(seed, 300, 7);
        labels.extend((0..200).map(|row| row % 7));
        let held = held(&filled(Policy::ClassBalanced, 25, seed, &labels), 7);
        assert!(held.iter().max().unwrap() - held.iter().min().unwrap() <= 1, "{held:?}");
    }
}

#[test]
fn the_same_row_offered_twice_is_two_rows() {
    for policy in POLICIES.into_iter().filter(|policy| !policy.selects()) {
        let mut snapshot = Snapshot::empty(policy, 4, 0);
        (0..3).for_each(|_| {
            offer(&mut snapshot, &chunk(), 8, 1);
        });
        assert_eq!((snapshot.slots.len(), snapshot.seen), (3, 3), "{policy:?}");
        assert!(snapshot.slots.iter().all(|slot| *slot == snapshot.slots[0]));
    }
}
