//! What each label may hold when rows are selected label by label.

/// Rows of each label, of which it has `counts`: equal shares, and what a small label leaves the others share.
///
/// Fills the capacity as far as there are rows. Two labels differ by at most one row unless the smaller
/// is kept whole; with room for every label, none vanishes. What does not divide goes to the labels with
/// more rows, the later among equals.
pub fn quotas(counts: &[usize], capacity: usize) -> Vec<usize> {
    let mut ascending: Vec<usize> = (0..counts.len()).collect();
    ascending.sort_by_key(|&label| counts[label]);
    let mut quotas = vec![0; counts.len()];
    let mut left = capacity;
    for (served, label) in ascending.into_iter().enumerate() {
        quotas[label] = counts[label].min(left / (counts.len() - served));
        left -= quotas[label];
    }
    quotas
}

/// One order of choice from that of each label: every label's first, then every label's second, and so on.
///
/// A prefix of it is balanced, too.
pub fn interleave(by_label: &[Vec<usize>]) -> Vec<usize> {
    let longest = by_label.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|rank| by_label.iter().filter_map(move |rows| rows.get(rank).copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::draw::Draw;

    #[test]
    fn quotas_fill_the_capacity_evenly_and_no_label_vanishes() {
        for seed in 0..500 {
            let draw = Draw::new(seed);
            let labels = 1 + draw.at(0).below(8);
            let counts: Vec<usize> = (0..labels).map(|label| draw.at(1).at(label).below(20) as usize).collect();
            let capacity = draw.at(2).below(80) as usize;
            let quotas = quotas(&counts, capacity);
            assert_eq!(quotas.iter().sum::<usize>(), capacity.min(counts.iter().sum()));
            let most = *quotas.iter().max().unwrap();
            for (quota, count) in quotas.into_iter().zip(counts) {
                assert!(quota == count || quota < count && quota + 1 >= most, "{quota} of {count}, {most}");
                assert!(quota > 0 || count == 0 || capacity < labels as usize);
            }
        }
    }

    #[test]
    fn what_small_labels_leave_is_shared() {
        assert_eq!(quotas(&[1, 100, 0, 100], 21), [1, 10, 0, 10]);
        assert_eq!(quotas(&[5, 5, 5], 11), [3, 4, 4]);
        assert_eq!(quotas(&[], 11), [0; 0]);
    }

    #[test]
    fn a_prefix_of_interleaved_choices_is_balanced() {
        assert_eq!(interleave(&[vec![4, 1, 2], vec![], vec![7], vec![9, 8]]), [4, 7, 9, 1, 8, 2]);
    }
}
