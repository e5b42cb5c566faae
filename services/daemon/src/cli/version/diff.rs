//! `perennial version diff`: what sets two versions apart.

use domain::flips::Flips;
use perennial_proto::v1;
use serde::Serialize;
use serde_json::Value;

use super::view::FlipsView;
use crate::cli::client::{Context, present};
use crate::cli::failure::Failure;
use crate::cli::output::{Render, fields, or_dash, percent, some, table};
use crate::cli::reference::Reference;

pub async fn diff(ctx: &Context, version: &Reference, other: &Reference) -> Result<(), Failure> {
    let name = |reference: &Reference| reference.resource(&ctx.pipeline(&reference.pipeline));
    let request = ctx.request(v1::DiffVersionsRequest { name: name(version), other: name(other) });
    let found = ctx.registry().await?.diff_versions(request).await?.into_inner();
    ctx.show(&Diff::new(version.pipeline.to_string(), found)?)
}

#[derive(Serialize)]
struct Diff {
    pipeline: String,
    version: u64,
    other: u64,
    /// The newest version that both are or continue from.
    common_ancestor: Option<u64>,
    same_weights: bool,
    /// Training rows that one lineage absorbed and the other did not.
    rows: Apart,
    chunks: Vec<ChunkDiff>,
    /// That the other knows and the version does not.
    labels_added: Vec<String>,
    labels_missing: Vec<String>,
    settings: Vec<SettingDiff>,
    tasks: Vec<TaskDiff>,
    /// None: `memory_unknown` says why.
    memory: Option<Vec<MemoryDiff>>,
    memory_unknown: Option<String>,
}

#[derive(Serialize)]
struct Apart {
    only_version: u64,
    only_other: u64,
}

#[derive(Serialize)]
struct ChunkDiff {
    chunk: String,
    task: String,
    train_rows: u64,
    held_out_rows: u64,
    /// The one of the two whose lineage absorbed it.
    absorbed_by: u64,
}

#[derive(Serialize)]
struct SettingDiff {
    key: String,
    /// Null: not set.
    version: Value,
    other: Value,
}

#[derive(Serialize)]
struct TaskDiff {
    task: String,
    accuracy: Option<f64>,
    other_accuracy: Option<f64>,
    /// From the version to the other. None where they did not answer the same items.
    flips: Option<FlipsView>,
}

#[derive(Serialize)]
struct MemoryDiff {
    task: String,
    both: u64,
    only_version: u64,
    only_other: u64,
}

impl Diff {
    fn new(pipeline: String, wire: v1::DiffVersionsResponse) -> Result<Self, Failure> {
        let (version, other) = (present(wire.version)?.number, present(wire.other)?.number);
        let chunks: Vec<ChunkDiff> =
            wire.chunks.into_iter().map(|chunk| ChunkDiff::new(version, other, chunk)).collect();
        let rows = |of: u64| chunks.iter().filter(|chunk| chunk.absorbed_by == of).map(|chunk| chunk.train_rows).sum();
        let rows = Apart { only_version: rows(version), only_other: rows(other) };
        let memory = || wire.memory.into_iter().map(MemoryDiff::from).collect();
        Ok(Self {
            pipeline,
            version,
            other,
            common_ancestor: some(wire.common_ancestor),
            same_weights: wire.same_weights,
            rows,
            chunks,
            labels_added: wire.labels_added,
            labels_missing: wire.labels_missing,
            settings: wire.settings.into_iter().map(SettingDiff::new).collect::<Result<_, _>>()?,
            tasks: wire.tasks.into_iter().map(TaskDiff::from).collect(),
            memory: wire.memory_unknown.is_empty().then(memory),
            memory_unknown: Some(wire.memory_unknown).filter(|why| !why.is_empty()),
        })
    }

    fn relation(&self) -> String {
        let Self { version, other, .. } = self;
        match self.common_ancestor {
            _ if version == other => "one and the same".to_owned(),
            Some(common) if common == *version => format!("v{other} continues from v{version}"),
            Some(common) if common == *other => format!("v{version} continues from v{other}"),
            Some(common) => format!("both continue from v{common}"),
            None => "they share no version".to_owned(),
        }
    }

    fn labels(&self) -> String {
        let one = |of: u64, labels: &[String]| match labels {
            [] => None,
            labels => Some(format!("only v{of}: {}", labels.join(", "))),
        };
        let both = [one(self.version, &self.labels_missing), one(self.other, &self.labels_added)];
        both.into_iter().flatten().collect::<Vec<_>>().join("\n")
    }

    fn memory(&self) -> String {
        match (&self.memory, &self.memory_unknown) {
            (Some(memory), _) => {
                let counts = memory.iter().map(|task| [task.both, task.only_version, task.only_other]);
                let all = counts.fold([0; 3], |all, one| [all[0] + one[0], all[1] + one[1], all[2] + one[2]]);
                format!(
                    "{} rows in both, {} only in v{}, {} only in v{}",
                    all[0], all[1], self.version, all[2], self.other
                )
            }
            (None, why) => format!("not known: {}", or_dash(why.as_ref())),
        }
    }
}

impl ChunkDiff {
    fn new(version: u64, other: u64, wire: v1::ChunkDiff) -> Self {
        let absorbed_by = if wire.is_others { other } else { version };
        let v1::ChunkDiff { chunk, task, train_rows, held_out_rows, .. } = wire;
        Self { chunk, task, train_rows, held_out_rows, absorbed_by }
    }
}

impl SettingDiff {
    fn new(wire: v1::SettingDiff) -> Result<Self, Failure> {
        let value = |json: &str| match json {
            "" => Ok(Value::Null),
            json => serde_json::from_str(json)
                .map_err(|error| Failure::Failed(format!("the server's setting `{json}` cannot be read: {error}"))),
        };
        Ok(Self { version: value(&wire.version_json)?, other: value(&wire.other_json)?, key: wire.key })
    }
}

impl From<v1::TaskDiff> for TaskDiff {
    fn from(wire: v1::TaskDiff) -> Self {
        let flips = wire.flips.map(FlipsView::from);
        Self { task: wire.task, accuracy: wire.accuracy, other_accuracy: wire.other_accuracy, flips }
    }
}

impl From<v1::MemoryDiff> for MemoryDiff {
    fn from(wire: v1::MemoryDiff) -> Self {
        let v1::MemoryDiff { task, both, only_version, only_other } = wire;
        Self { task, both, only_version, only_other }
    }
}

/// `5 of 500 broke, 20 mended`
fn flipped(flips: Option<&FlipsView>) -> String {
    or_dash(flips.map(|view| {
        let Flips { items, negative, positive, .. } = view.counted;
        format!("{negative} of {items} broke, {positive} mended")
    }))
}

impl Render for Diff {
    fn text(&self) -> String {
        let [one, two] = [self.version, self.other].map(|number| format!("v{number}"));
        let head = fields([
            ("versions", format!("{one} and {two} of {}", self.pipeline)),
            ("lineage", self.relation()),
            ("weights", if self.same_weights { "the same".to_owned() } else { "differ".to_owned() }),
            ("rows", format!("{} only in {one}, {} only in {two}", self.rows.only_version, self.rows.only_other)),
            ("labels", self.labels()),
            ("memory", self.memory()),
        ]);
        let chunks = self
            .chunks
            .iter()
            .map(|c| [c.chunk.clone(), c.task.clone(), c.train_rows.to_string(), format!("v{}", c.absorbed_by)]);
        let settings = self.settings.iter().map(|s| [s.key.clone(), s.version.to_string(), s.other.to_string()]);
        let tasks = self
            .tasks
            .iter()
            .map(|t| [t.task.clone(), percent(t.accuracy), percent(t.other_accuracy), flipped(t.flips.as_ref())]);
        let memory = self
            .memory
            .iter()
            .flatten()
            .map(|m| [m.task.clone(), m.both.to_string(), m.only_version.to_string(), m.only_other.to_string()]);
        let tables = [
            table(["chunk", "task", "train", "absorbed by"], chunks, ""),
            table(["setting", &one, &two], settings, ""),
            table(["task", &one, &two, "answers"], tasks, ""),
            table(["remembered of task", "both", &format!("only {one}"), &format!("only {two}")], memory, ""),
        ];
        let tables = tables.into_iter().filter(|table| !table.is_empty());
        std::iter::once(head).chain(tables).collect::<Vec<_>>().join("\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::DiffVersionsResponse {
        let version = |number| Some(v1::Version { number, ..Default::default() });
        let chunk = |chunk: &str, train_rows, is_others| v1::ChunkDiff {
            chunk: chunk.to_owned(),
            task: "t".to_owned(),
            train_rows,
            held_out_rows: 1,
            is_others,
        };
        let flips = v1::Flips { baseline: 3, items: 500, negative: 5, positive: 20, right: 450 };
        let setting = v1::SettingDiff {
            key: "training.epochs".to_owned(),
            version_json: String::new(),
            other_json: "2".to_owned(),
        };
        v1::DiffVersionsResponse {
            version: version(3),
            other: version(5),
            common_ancestor: 2,
            chunks: vec![chunk("ab", 30, false), chunk("cd", 7, true)],
            labels_added: vec!["spam".to_owned()],
            settings: vec![setting],
            tasks: vec![v1::TaskDiff {
                task: "t".to_owned(),
                accuracy: Some(0.9),
                other_accuracy: Some(0.93),
                flips: Some(flips),
            }],
            memory: vec![v1::MemoryDiff { task: "t".to_owned(), both: 8, only_version: 1, only_other: 2 }],
            ..Default::default()
        }
    }

    #[test]
    fn what_differs_is_said_and_what_does_not_is_left_out() {
        let text = Diff::new("tickets".to_owned(), wire()).unwrap().text();
        for said in [
            "versions  v3 and v5 of tickets",
            "lineage   both continue from v2",
            "rows      30 only in v3, 7 only in v5",
            "labels    only v5: spam",
            "memory    8 rows in both, 1 only in v3, 2 only in v5",
            "training.epochs  null  2",
            "t     90.0 %  93.0 %  5 of 500 broke, 20 mended",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
        let same = v1::DiffVersionsResponse {
            version: wire().version,
            other: wire().version,
            same_weights: true,
            memory_unknown: "version v3 is retired".to_owned(),
            ..Default::default()
        };
        let text = Diff::new("tickets".to_owned(), same).unwrap().text();
        assert!(text.contains("one and the same") && text.contains("not known: version v3 is retired"), "{text}");
        assert!(!text.contains("SETTING") && !text.contains("CHUNK"), "{text}");
    }

    #[test]
    fn the_json_of_a_diff_names_versions_and_gives_values_as_they_are() {
        let json = serde_json::to_value(Diff::new("tickets".to_owned(), wire()).unwrap()).unwrap();
        assert_eq!((&json["version"], &json["other"], &json["common_ancestor"]), (&3.into(), &5.into(), &2.into()));
        assert_eq!((&json["chunks"][0]["absorbed_by"], &json["chunks"][1]["absorbed_by"]), (&3.into(), &5.into()));
        assert!(json["settings"][0]["version"].is_null() && json["settings"][0]["other"] == 2);
        assert_eq!(json["tasks"][0]["flips"]["baseline_version"], 3);
        assert!(json["memory_unknown"].is_null() && json["memory"][0]["both"] == 8);
    }
}
