//! Versions as they are printed.

use domain::flips::{Figures, Flips};
use perennial_proto::v1;
use serde::Serialize;

use crate::cli::output::{Render, fields, or_dash, percent, some, table, time};
use crate::cli::pipeline::pipeline_of;

#[derive(Serialize)]
pub struct VersionView {
    resource: String,
    pipeline: String,
    pub version: u64,
    /// None: the base model.
    pub parent: Option<u64>,
    run: u64,
    pub aliases: Vec<String>,
    pub chunks: Vec<String>,
    folder: String,
    files: Vec<FileView>,
    weights_sha256: String,
    snapshot_sha256: String,
    verdict: String,
    pub average_accuracy: Option<f64>,
    expected_calibration_error: Option<f64>,
    brier_score: Option<f64>,
    /// None: its gate compared it with the base model.
    flips: Option<FlipsView>,
    imported: bool,
    contaminated_rows: u64,
    dropped_rows: u64,
    /// Why its files stay whatever the retention says.
    hold_reason: Option<String>,
    /// Since when its files are not kept.
    retired_at_ms: Option<u64>,
    pub published_at_ms: Option<u64>,
}

#[derive(Serialize)]
pub struct FlipsView {
    baseline_version: u64,
    #[serde(flatten)]
    figures: Figures,
    #[serde(skip)]
    pub counted: Flips,
}

impl From<v1::Flips> for FlipsView {
    fn from(wire: v1::Flips) -> Self {
        let (baseline_version, counted) = (wire.baseline, Flips::from(wire));
        Self { baseline_version, figures: counted.into(), counted }
    }
}

impl FlipsView {
    /// `7 of 500 items since v3 (rate 1.4 %, impact 10.3 %)`
    fn said(&self, flipped: u64, rate: f64, impact: f64) -> String {
        let (items, since) = (self.counted.items, self.baseline_version);
        format!(
            "{flipped} of {items} items since v{since} (rate {}, impact {})",
            percent(Some(rate)),
            percent(Some(impact))
        )
    }

    fn negative(&self) -> String {
        self.said(self.counted.negative, self.figures.negative_flip_rate, self.figures.negative_flip_impact)
    }

    fn positive(&self) -> String {
        self.said(self.counted.positive, self.figures.positive_flip_rate, self.figures.positive_flip_impact)
    }
}

#[derive(Debug, Serialize)]
pub struct FileView {
    pub path: String,
    pub sha256: String,
    pub bytes: u64,
}

#[derive(Serialize)]
pub struct VersionList {
    pub versions: Vec<VersionView>,
}

impl From<v1::File> for FileView {
    fn from(wire: v1::File) -> Self {
        Self { path: wire.path, sha256: wire.sha256, bytes: wire.bytes }
    }
}

impl From<v1::Version> for VersionView {
    fn from(wire: v1::Version) -> Self {
        Self {
            pipeline: pipeline_of(&wire.name),
            resource: wire.name,
            version: wire.number,
            parent: some(wire.parent),
            run: wire.run,
            aliases: wire.aliases,
            chunks: wire.chunks,
            folder: wire.folder,
            files: wire.files.into_iter().map(FileView::from).collect(),
            weights_sha256: wire.weights_sha256,
            snapshot_sha256: wire.snapshot_sha256,
            verdict: wire.verdict,
            average_accuracy: wire.average_accuracy,
            expected_calibration_error: wire.expected_calibration_error,
            brier_score: wire.brier_score,
            flips: wire.flips.map(FlipsView::from),
            imported: wire.imported,
            contaminated_rows: wire.contaminated_rows,
            dropped_rows: wire.dropped_rows,
            hold_reason: Some(wire.hold_reason).filter(|reason| !reason.is_empty()),
            retired_at_ms: some(wire.retired_at_ms),
            published_at_ms: some(wire.published_at_ms),
        }
    }
}

impl VersionView {
    /// Rows that did not train, where there were any.
    fn left_out(&self) -> String {
        let counts = [
            (self.contaminated_rows, "rows that are held-out items"),
            (self.dropped_rows, "rows that the model answered with no numbers"),
        ];
        let said: Vec<String> =
            counts.iter().filter(|(rows, _)| *rows > 0).map(|(rows, what)| format!("{rows} {what}")).collect();
        said.join(", ")
    }

    /// Whether its files stay, where that is not left to the retention.
    fn kept(&self) -> String {
        match (&self.hold_reason, self.retired_at_ms) {
            (_, Some(at)) => format!("retired {}", time(Some(at))),
            (Some(reason), None) => format!("held: {reason}"),
            (None, None) => String::new(),
        }
    }
}

impl Render for VersionView {
    fn text(&self) -> String {
        let files: Vec<_> = self.files.iter().map(|f| format!("{} {} {} B", f.sha256, f.path, f.bytes)).collect();
        fields([
            ("version", format!("v{} of {}", self.version, self.pipeline)),
            ("aliases", self.aliases.join(", ")),
            ("verdict", self.verdict.clone()),
            ("average accuracy", percent(self.average_accuracy)),
            (
                "calibration error",
                self.expected_calibration_error.map_or_else(String::new, |error| percent(Some(error))),
            ),
            ("brier score", self.brier_score.map_or_else(String::new, |score| format!("{score:.3}"))),
            ("negative flips", self.flips.as_ref().map_or_else(String::new, FlipsView::negative)),
            ("positive flips", self.flips.as_ref().map_or_else(String::new, FlipsView::positive)),
            ("left out", self.left_out()),
            ("parent", self.parent.map_or("the base model".to_owned(), |v| format!("v{v}"))),
            ("run", if self.imported { format!("{}, an import", self.run) } else { self.run.to_string() }),
            ("chunks", self.chunks.join("\n")),
            ("published", time(self.published_at_ms)),
            ("kept", self.kept()),
            ("weights sha256", self.weights_sha256.clone()),
            ("snapshot sha256", self.snapshot_sha256.clone()),
            ("folder", self.folder.clone()),
            ("files", files.join("\n")),
        ])
    }
}

impl Render for VersionList {
    fn text(&self) -> String {
        let rows = self.versions.iter().map(|v| {
            let parent = or_dash(v.parent.map(|parent| format!("v{parent}")));
            let (accuracy, run) = (percent(v.average_accuracy), v.run.to_string());
            [
                format!("v{}", v.version),
                v.aliases.join(","),
                v.verdict.clone(),
                accuracy,
                parent,
                run,
                time(v.published_at_ms),
                v.kept(),
            ]
        });
        table(["version", "aliases", "verdict", "accuracy", "parent", "run", "published", "kept"], rows, "no versions")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_a_version_keeps_its_keys() {
        let wire = v1::Version {
            name: "namespaces/default/pipelines/tickets/versions/3".to_owned(),
            number: 3,
            ..Default::default()
        };
        let json = serde_json::to_value(VersionView::from(wire)).unwrap();
        assert_eq!(
            (&json["version"], &json["parent"], &json["pipeline"]),
            (&3.into(), &serde_json::Value::Null, &"tickets".into())
        );
        let mut keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        let wanted = [
            "aliases",
            "average_accuracy",
            "brier_score",
            "chunks",
            "contaminated_rows",
            "dropped_rows",
            "expected_calibration_error",
            "files",
            "flips",
            "folder",
            "hold_reason",
            "imported",
            "parent",
            "pipeline",
            "published_at_ms",
            "resource",
            "retired_at_ms",
            "run",
            "snapshot_sha256",
            "verdict",
            "version",
            "weights_sha256",
        ];
        assert_eq!(keys, wanted);
    }

    #[test]
    fn a_version_says_what_it_changed() {
        let flips = v1::Flips { baseline: 3, items: 500, negative: 5, positive: 20, right: 450 };
        let wire = v1::Version {
            number: 4,
            expected_calibration_error: Some(0.0625),
            flips: Some(flips),
            ..Default::default()
        };
        let view = VersionView::from(wire);
        let text = view.text();
        assert!(text.contains("negative flips     5 of 500 items since v3 (rate 1.0 %, impact 10.0 %)"), "{text}");
        assert!(text.contains("positive flips     20 of 500 items since v3 (rate 4.0 %, impact 4.4 %)"), "{text}");
        assert!(text.contains("calibration error  6.2 %") && !text.contains("brier"), "{text}");
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(
            (&json["flips"]["baseline_version"], &json["flips"]["negative_flip_rate"]),
            (&3.into(), &0.01.into())
        );
        assert!(json["brier_score"].is_null());
    }

    #[test]
    fn a_version_says_whether_its_files_stay() {
        let version = |wire: v1::Version| VersionView::from(wire).kept();
        let held = || v1::Version { hold_reason: "the auditors".to_owned(), ..Default::default() };
        assert_eq!(version(held()), "held: the auditors");
        assert_eq!(version(v1::Version { retired_at_ms: 1_700_000_000_000, ..held() }), "retired 2023-11-14T22:13:20Z");
        assert_eq!(version(v1::Version::default()), "");
    }
}
