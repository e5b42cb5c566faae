//! Scenarios that make a stream's tasks, on a small generated data set and on real ones where they are.

mod support;

use std::collections::BTreeSet;

use domain::chunk::{Payload, Row};
use perennial_store::streams::{Split, Stream};
use serde_json::{Value, json};
use support::toy::{
    BOTH, assert_partition, everything, is_sorted, listed, made, names, over, positions, real_data, rows, toy, try_open,
};

#[test]
fn tasks_of_new_classes_are_those_that_could_be_listed() {
    let folder = toy();
    let by_hand = listed(
        &folder,
        json!([{ "name": "task0", "filter": { "label": [0, 1] } }, { "name": "task1", "filter": { "label": [2, 3] } }]),
    );
    for scenario in [
        json!({ "type": "class-incremental", "groups": [[0, 1], [2, 3]] }),
        json!({ "type": "class-incremental", "groups": [["a", "b"], [2, "d"]] }),
        json!({ "type": "class-incremental", "num_tasks": 2 }),
        json!({ "type": "class-incremental", "tasks": 2 }),
    ] {
        let stream = made(&folder, scenario);
        assert_eq!(everything(&stream), everything(&by_hand));
        assert!(stream.is_class_incremental());
        BOTH.iter().for_each(|split| assert_partition(&stream, *split));
    }
}

#[test]
fn an_order_seed_deals_every_class_once_and_always_alike() {
    let folder = toy();
    let of_seed = |seed: u64| {
        let stream = made(&folder, json!({ "type": "class-incremental", "num_tasks": 3, "order_seed": seed }));
        assert_partition(&stream, Split::Train);
        let classes = |task: &Vec<Row>| task.iter().map(|row| row.label.clone()).collect::<BTreeSet<_>>();
        let classes: Vec<BTreeSet<String>> = rows(&stream, Split::Train).iter().map(classes).collect();
        assert_eq!(classes.iter().map(BTreeSet::len).collect::<Vec<_>>(), [2, 1, 1]);
        classes
    };
    let orders: BTreeSet<_> = (0..20).map(of_seed).collect();
    assert!(orders.len() > 5);
    assert_eq!(of_seed(3), of_seed(3));
}

#[test]
fn classes_in_no_group_are_left_out() {
    let folder = toy();
    let stream = made(&folder, json!({ "type": "class-incremental", "groups": [["d"], ["a"]] }));
    let labels: Vec<String> = rows(&stream, Split::Test).concat().into_iter().map(|row| row.label).collect();
    assert_eq!(labels, ["d", "d", "d", "a", "a", "a"]);
}

#[test]
fn each_value_of_a_column_is_a_domain_with_its_name() {
    let folder = toy();
    let by_hand = listed(
        &folder,
        json!([
            { "name": "photo", "filter": { "domain": [0] } },
            { "name": "art_painting", "filter": { "domain": [1] } },
            { "name": "sketch", "filter": { "domain": [2] } },
        ]),
    );
    let stream = made(&folder, json!({ "type": "data-incremental", "column": "domain" }));
    assert_eq!(everything(&stream), everything(&by_hand));
    BOTH.iter().for_each(|split| assert_partition(&stream, *split));
    let words = made(&folder, json!({ "type": "data-incremental", "column": "place" }));
    assert_eq!(names(&words), ["east", "north", "south"]);
    assert_eq!(rows(&words, Split::Train)[1], rows(&stream, Split::Train)[1]);
    let years = made(&folder, json!({ "type": "data-incremental", "column": "year" }));
    assert_eq!((years.tasks().len(), names(&years)[0]), (12, "year-2000"));
}

#[test]
fn domains_come_in_the_groups_and_the_order_given() {
    let folder = toy();
    let by_name = made(
        &folder,
        json!({ "type": "data-incremental", "column": "domain", "groups": [["sketch"], ["photo", "art_painting"]] }),
    );
    let by_number = made(&folder, json!({ "type": "data-incremental", "column": "domain", "groups": [[2], [0, 1]] }));
    let by_word = json!({ "type": "data-incremental", "column": "place", "groups": [["east"], ["south", "north"]] });
    assert_eq!(names(&by_name), ["sketch", "task1"]);
    assert_eq!(everything(&by_name), everything(&by_number));
    assert_eq!(rows(&by_name, Split::Train), rows(&made(&folder, by_word), Split::Train));
    assert_partition(&by_name, Split::Train);
}

#[test]
fn slices_of_time_keep_a_year_together_and_take_the_test_rows_of_their_time() {
    let folder = toy();
    let stream = made(&folder, json!({ "type": "data-incremental", "column": "year", "num_tasks": 3 }));
    assert_eq!(names(&stream), ["task0", "task1", "task2"]);
    let years = |split, of: &dyn Fn(usize) -> usize| {
        let span = |task: &Vec<usize>| task.iter().map(|&at| of(at)).collect::<BTreeSet<_>>();
        positions(&stream, split).iter().map(span).collect::<Vec<_>>()
    };
    let span = |from, to| (from..=to).collect::<BTreeSet<usize>>();
    let train = years(Split::Train, &|i| 2000 + (i * 5) % 12);
    assert_eq!(train, [span(2000, 2003), span(2004, 2007), span(2008, 2011)]);
    let test = years(Split::Test, &|i| 1995 + 2 * i);
    assert_eq!(
        test.iter().map(|s| (*s.first().unwrap(), *s.last().unwrap())).collect::<Vec<_>>(),
        [(1995, 2003), (2005, 2007), (2009, 2017)]
    );
    BOTH.iter().for_each(|split| assert_partition(&stream, *split));
    let words = made(&folder, json!({ "type": "data-incremental", "column": "place", "num_tasks": 3 }));
    let each = made(&folder, json!({ "type": "data-incremental", "column": "place" }));
    assert_eq!(rows(&words, Split::Test), rows(&each, Split::Test));
}

#[test]
fn iid_tasks_share_the_training_rows_and_each_have_every_test_row() {
    let folder = toy();
    let of_seed = |seed| made(&folder, json!({ "type": "iid", "num_tasks": 5, "seed": seed }));
    let stream = of_seed(1);
    assert_partition(&stream, Split::Train);
    let sizes: Vec<usize> = positions(&stream, Split::Train).iter().map(Vec::len).collect();
    assert_eq!(sizes, [5, 5, 5, 5, 4]);
    let tests = rows(&stream, Split::Test);
    assert!(tests.iter().all(|test| test.len() == 12 && *test == tests[0]));
    assert_eq!(everything(&of_seed(1)), everything(&stream));
    assert_ne!(positions(&of_seed(2), Split::Train), positions(&stream, Split::Train));
    let unseeded = made(&folder, json!({ "type": "iid", "num_tasks": 5 }));
    assert_eq!(everything(&unseeded), everything(&of_seed(0)));
}

#[test]
fn rotations_are_those_that_could_be_listed() {
    let folder = toy();
    let by_hand = listed(
        &folder,
        json!([
            { "name": "rot0", "transform": { "type": "rotate", "degrees": 0 } },
            { "name": "rot22.5", "transform": { "type": "rotate", "degrees": 22.5 } },
        ]),
    );
    assert_eq!(everything(&made(&folder, json!({ "type": "rotation", "degrees": [0, 22.5] }))), everything(&by_hand));
}

#[test]
fn the_first_permutation_is_the_identity_and_no_other_is() {
    let folder = toy();
    let raw = &rows(&listed(&folder, json!([{ "name": "raw" }])), Split::Train)[0];
    for scenario in [
        json!({ "type": "permutation", "num_tasks": 4, "seed": 7 }),
        json!({ "type": "permutation", "seeds": [1001, 1002, 1003] }),
    ] {
        let stream = made(&folder, scenario);
        let tasks = rows(&stream, Split::Train);
        assert_eq!((names(&stream), &tasks[0]), (vec!["perm0", "perm1", "perm2", "perm3"], raw));
        let distinct: BTreeSet<_> = tasks.iter().map(|task| format!("{:?}", task[0].payload)).collect();
        assert_eq!(distinct.len(), 4, "each task has its own");
    }
    let of_seed = |seed| everything(&made(&folder, json!({ "type": "permutation", "num_tasks": 2, "seed": seed })));
    assert_eq!(of_seed(1), of_seed(1));
    assert_ne!(of_seed(1)[1], of_seed(2)[1]);
}

#[test]
fn given_seeds_make_the_permutations_that_could_be_listed() {
    let folder = toy();
    let by_hand = listed(
        &folder,
        json!([
            { "name": "perm0", "transform": { "type": "identity" } },
            { "name": "perm1", "transform": { "type": "permute_pixels", "seed": 1001 } },
        ]),
    );
    assert_eq!(everything(&made(&folder, json!({ "type": "permutation", "seeds": [1001] }))), everything(&by_hand));
    let transforms = json!([{ "type": "identity" }, { "type": "permute_pixels", "seed": 1001 }]);
    let general = made(&folder, json!({ "type": "transform", "transforms": transforms }));
    assert_eq!(names(&general), ["task0", "task1"]);
    assert_eq!(rows(&general, Split::Train), rows(&by_hand, Split::Train));
}

#[test]
fn a_split_seed_leaves_each_training_row_to_one_task_and_the_test_rows_to_all() {
    let folder = toy();
    for scenario in [
        json!({ "type": "rotation", "degrees": [0, 90, 180], "split_seed": 4 }),
        json!({ "type": "permutation", "num_tasks": 3, "split_seed": 4 }),
        json!({ "type": "transform", "transforms": vec![json!({ "type": "identity" }); 3], "split_seed": 4 }),
    ] {
        let stream = made(&folder, scenario);
        assert_partition(&stream, Split::Train);
        let iid = made(&folder, json!({ "type": "iid", "num_tasks": 3, "seed": 4 }));
        assert_eq!(positions(&stream, Split::Train), positions(&iid, Split::Train));
        assert!(positions(&stream, Split::Test).iter().all(|test| test.len() == 12));
    }
}

fn sorts() -> [(Value, &'static str); 4] {
    [
        (json!({ "type": "feature-sort", "num_tasks": 5 }), "intensity"),
        (json!({ "type": "feature-sort", "num_tasks": 5, "feature": "intensity" }), "intensity"),
        (json!({ "type": "feature-sort", "num_tasks": 5, "feature": "green" }), "green"),
        (json!({ "type": "hue-sort", "num_tasks": 5 }), "hue"),
    ]
}

#[test]
fn without_randomness_tasks_are_sorted_in_train_and_test() {
    let folder = toy();
    for (scenario, feature) in sorts() {
        let stream = made(&folder, scenario);
        for split in BOTH {
            assert_partition(&stream, split);
            assert!(is_sorted(&stream, split, feature), "{feature} {split:?}");
        }
        assert!(!stream.is_class_incremental());
    }
}

#[test]
fn randomness_moves_some_rows_loses_none_and_depends_on_the_seed_alone() {
    let folder = toy();
    for (mut scenario, feature) in sorts() {
        let plain = positions(&made(&folder, scenario.clone()), Split::Train);
        let mut of = |randomness: f64, seed: u64| {
            scenario["randomness"] = json!(randomness);
            scenario["seed"] = json!(seed);
            let stream = made(&folder, scenario.clone());
            BOTH.iter().for_each(|split| assert_partition(&stream, *split));
            positions(&stream, Split::Train)
        };
        assert_eq!(of(0.0, 9), plain);
        let seeds: BTreeSet<_> = (0..5).map(|seed| of(1.0, seed)).collect();
        assert!(seeds.len() == 5 && !seeds.contains(&plain), "{feature}");
        assert_eq!(of(0.5, 2), of(0.5, 2));
        // One pair changes places at most.
        let stayed = of(0.1, 1).iter().zip(&plain).filter(|(a, b)| a == b).count();
        assert!(stayed >= 3, "{feature}: {stayed} of 5 tasks are as they were");
    }
}

#[test]
fn what_no_file_can_say_is_refused_with_what_to_do() {
    let folder = toy();
    for (scenario, said) in [
        (json!({ "type": "classes" }), "unknown variant `classes`, expected one of `class-incremental`"),
        (json!({ "num_tasks": 3 }), "`scenario`: missing field `type`"),
        (json!({ "type": "iid", "num_tasks": 3, "sed": 1 }), "unknown field `sed`"),
        (json!({ "type": "iid" }), "missing field `num_tasks`"),
        (json!({ "type": "iid", "num_tasks": 0 }), "`scenario.num_tasks` is 0; give 1 or more"),
        (json!({ "type": "class-incremental" }), "`scenario.groups` is absent; give either it or `num_tasks`"),
        (json!({ "type": "class-incremental", "num_tasks": 5 }), "`scenario.num_tasks` is 5 and there are 4 classes"),
        (json!({ "type": "class-incremental", "groups": [[0]], "num_tasks": 1 }), "does not stand alone"),
        (json!({ "type": "class-incremental", "groups": [[0]], "order_seed": 1 }), "does not stand alone"),
        (json!({ "type": "class-incremental", "groups": [] }), "`scenario.groups` holds nothing for some task"),
        (json!({ "type": "class-incremental", "groups": [[0], ["a"]] }), "`scenario.groups` has a twice"),
        (json!({ "type": "class-incremental", "groups": [[4]] }), "has 4, which no training row has as `label`"),
        (json!({ "type": "class-incremental", "groups": [[0.5]] }), "an integer or a string"),
        (json!({ "type": "data-incremental", "column": "domain", "groups": [["foto"]] }), "has foto, which no"),
        (json!({ "type": "data-incremental", "column": "year", "num_tasks": 13 }), "is 13, and the values of `year`"),
        (json!({ "type": "rotation", "degrees": [] }), "`scenario.degrees` is empty; list one for each task"),
        (json!({ "type": "permutation", "seeds": [1], "seed": 1 }), "`scenario.seeds` does not stand alone"),
        (json!({ "type": "feature-sort", "num_tasks": 2, "feature": "hue" }), "expected one of `intensity`"),
        (json!({ "type": "hue-sort", "num_tasks": 2, "randomness": 1.5 }), "`scenario.randomness` is 1.5; give 0 to 1"),
    ] {
        let error = try_open(folder.path(), json!({ "scenario": scenario })).err().unwrap().to_string();
        assert!(error.contains(said), "{scenario}\n{error}");
    }
}

#[test]
fn a_scenario_that_makes_tasks_stands_beside_no_others() {
    let folder = toy();
    let iid = json!({ "type": "iid", "num_tasks": 2 });
    for (more, said) in [
        (json!({ "scenario": iid, "tasks": [{ "name": "x" }] }), "`tasks` stands beside a `scenario` that makes them"),
        (json!({ "scenario": iid, "num_tasks": 2 }), "`num_tasks` is unknown; leave it out"),
        (json!({ "scenario": "class-incremental" }), "`tasks` is absent; list them"),
    ] {
        let error = try_open(folder.path(), more).err().unwrap().to_string();
        assert!(error.contains(said), "{error}");
    }
    let noted = json!({ "scenario": iid, "description": "x", "domain_column": "domain" });
    assert_eq!(try_open(folder.path(), noted).unwrap().tasks().len(), 2);
}

#[test]
fn more_tasks_than_rows_and_values_of_another_type_are_refused() {
    let folder = toy();
    let many = made(&folder, json!({ "type": "feature-sort", "num_tasks": 13 }));
    assert!(many.task_rows(0, Split::Train, None).is_ok());
    let error = many.task_rows(0, Split::Test, None).unwrap_err().to_string();
    assert!(error.contains("task `task0`, test: 12 rows do not fill 13 tasks"), "{error}");
    let words = listed(&folder, json!([{ "name": "x", "filter": { "place": [1] } }]));
    let error = words.task_rows(0, Split::Train, None).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("`place` has type string, expected integer"), "{cause}");
    let missing = json!({ "scenario": { "type": "data-incremental", "column": "season" } });
    let error = try_open(folder.path(), missing).err().unwrap();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("`season` is missing"), "{cause}");
}

#[test]
fn a_stream_is_class_incremental_where_no_class_comes_twice() {
    let folder = toy();
    for (scenario, expected) in [
        (json!({ "type": "class-incremental", "num_tasks": 2 }), true),
        (json!({ "type": "data-incremental", "column": "kind" }), true),
        (json!({ "type": "data-incremental", "column": "label" }), true),
        (json!({ "type": "data-incremental", "column": "domain" }), false),
        (json!({ "type": "data-incremental", "column": "kind", "groups": [[0, 1]] }), false),
        (json!({ "type": "data-incremental", "column": "year", "num_tasks": 2 }), false),
        (json!({ "type": "iid", "num_tasks": 2 }), false),
        (json!({ "type": "rotation", "degrees": [0, 90] }), false),
    ] {
        assert_eq!(made(&folder, scenario.clone()).is_class_incremental(), expected, "{scenario}");
    }
}

#[test]
fn names_that_cannot_be_told_apart_give_way_to_numbers() {
    let folder = toy();
    assert_eq!(names(&made(&folder, json!({ "type": "rotation", "degrees": [90, 90] }))), ["task0", "task1"]);
    assert_eq!(names(&made(&folder, json!({ "type": "rotation", "degrees": [0, 90] }))), ["rot0", "rot90"]);
}

#[test]
fn real_streams_are_made_as_they_are_listed() {
    let Some(root) = real_data() else {
        return support::skipped("real scenarios", "set PERENNIAL_DATA to a folder with streams/");
    };
    for (name, scenario) in [
        ("fashion_mnist_class_5x2", json!({ "type": "class-incremental", "num_tasks": 5 })),
        ("fashion_mnist_permuted_10", json!({ "type": "permutation", "seeds": (1001..1010).collect::<Vec<_>>() })),
        ("fashion_mnist_rotated_5", json!({ "type": "rotation", "degrees": [0, 36, 72, 108, 144] })),
        ("pacs_domain_4", json!({ "type": "data-incremental", "column": "domain" })),
        ("fdu_mtl_reviews_domain_16", json!({ "type": "data-incremental", "column": "domain" })),
        ("hwu64_class_18_scenarios", json!({ "type": "data-incremental", "column": "scenario" })),
        ("omniglot_class_8_alphabets", json!({ "type": "data-incremental", "column": "alphabet" })),
    ] {
        let listed = Stream::open(&root.join(format!("streams/{name}.json")), None).unwrap();
        let made = over(&root, name, scenario);
        assert_eq!(names(&made), names(&listed), "{name}");
        assert_eq!(made.is_class_incremental(), listed.is_class_incremental(), "{name}");
        for k in 0..made.tasks().len() {
            let rows = |stream: &Stream| BOTH.map(|split| stream.task_rows(k, split, Some(300)).unwrap());
            assert!(rows(&made) == rows(&listed), "{name} {k}");
        }
    }
}

#[test]
fn real_images_are_sorted_by_hue_and_real_texts_by_length() {
    let Some(root) = real_data() else {
        return support::skipped("real sorts", "set PERENNIAL_DATA to a folder with streams/");
    };
    let images = over(&root, "pacs_domain_4", json!({ "type": "hue-sort", "num_tasks": 4 }));
    assert!(BOTH.iter().all(|split| is_sorted(&images, *split, "hue")));
    let sizes = |stream: &Stream, split| positions(stream, split).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!((sizes(&images, Split::Train), sizes(&images, Split::Test)), (vec![690; 4], vec![208, 208, 207, 207]));
    let length = json!({ "type": "feature-sort", "num_tasks": 3, "feature": "length" });
    let texts = over(&root, "banking77_class_7x11", length);
    let longest = |task: &Vec<Row>| {
        let lengths = task.iter().map(|row| match &row.payload {
            Payload::Text(text) => text.chars().count(),
            Payload::Image(_) => 0,
        });
        (lengths.clone().min().unwrap(), lengths.max().unwrap())
    };
    let spans: Vec<(usize, usize)> = rows(&texts, Split::Train).iter().map(longest).collect();
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{spans:?}");
}
