//! Streams whose training labels are wrong in part.

mod support;

use std::collections::BTreeSet;

use domain::chunk::Row;
use perennial_store::streams::Split;
use serde_json::{Value, json};
use support::toy::{made, rows, toy, try_open};

#[test]
fn noise_gives_a_share_of_the_training_rows_another_label_of_their_task() {
    let folder = toy();
    let of = |noise: Value| {
        let scenario = json!({ "type": "class-incremental", "num_tasks": 2 });
        try_open(folder.path(), json!({ "scenario": scenario, "label_noise": noise }))
    };
    let clean = made(&folder, json!({ "type": "class-incremental", "num_tasks": 2 }));
    let flipped = |share: f64| {
        let noisy = of(json!({ "share": share, "seed": 3 })).unwrap();
        assert_eq!(rows(&noisy, Split::Test), rows(&clean, Split::Test));
        let pairs = rows(&noisy, Split::Train).concat().into_iter().zip(rows(&clean, Split::Train).concat());
        let mut count = 0;
        for (noisy, clean) in pairs {
            assert_eq!((&noisy.id, &noisy.payload), (&clean.id, &clean.payload));
            count += usize::from(noisy.label != clean.label);
        }
        for (noisy, clean) in rows(&noisy, Split::Train).iter().zip(rows(&clean, Split::Train)) {
            let labels = |task: &[Row]| task.iter().map(|row| row.label.clone()).collect::<BTreeSet<_>>();
            assert!(labels(noisy).is_subset(&labels(&clean)));
        }
        count
    };
    assert_eq!((flipped(0.0), flipped(1.0)), (0, 24));
    assert!((6..18).contains(&flipped(0.5)));
    let error = of(json!({ "share": 1.5 })).err().unwrap().to_string();
    assert!(error.contains("`label_noise.share` is 1.5"), "{error}");
}
