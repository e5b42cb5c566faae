//! GDumb's memory (Prabhu et al., 2020): labels share the buffer equally.

use domain::buffer::Snapshot;
use domain::draw::Draw;

use crate::labels;

/// The slot that offer number `seen`, of `label`, takes, or `None` if its label has its share.
///
/// `seen_by_label` has to count the offer already: a label's first row has a share too.
pub fn slot(snapshot: &Snapshot, seen: u64, label: u32) -> Option<u64> {
    let known = snapshot.seen_by_label.iter().filter(|&&seen| seen > 0).count() as u64;
    let own = snapshot.slots.iter().filter(|slot| slot.label == label).count() as u64;
    // own < capacity / known, without rounding
    if own * known >= snapshot.capacity {
        return None;
    }
    if (snapshot.slots.len() as u64) < snapshot.capacity {
        return Some(snapshot.slots.len() as u64);
    }
    let draw = Draw::new(snapshot.seed).named("class-balanced").at(seen);
    labels::evict(&snapshot.slots, draw).map(|slot| slot as u64)
}
