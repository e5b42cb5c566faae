//! What is compared.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    Bf16,
}

pub enum Base {
    /// Texts of 32 tokens.
    MiniLm(PathBuf),
    /// Images of 64 patches.
    Vit,
}

pub struct Case {
    pub name: &'static str,
    pub base: Base,
    pub precision: Precision,
    /// Blocks with adapters, counted from the top. None: all.
    pub adapted: Option<u32>,
    /// Another case of ours. None: PEFT.
    pub against: Option<&'static str>,
}

/// Rows of a step.
pub const BATCH: usize = 32;
pub const LAYERS: i64 = 6;
pub const WIDTH: i64 = 384;
pub const VIT: &str = "vit:d=384,layers=6,heads=6,patch=4,mlp=1536";
/// Pixels of an image's side.
pub const SIDE: u32 = 32;
/// Tokens of a text.
pub const LENGTH: i64 = 32;

pub fn all(minilm: &Path) -> Vec<Case> {
    use Precision::{Bf16, F32};
    let text = || Base::MiniLm(minilm.to_owned());
    let whole = |name, base, precision| Case { name, base, precision, adapted: None, against: None };
    let top = |name, base, against| Case { name, base, precision: F32, adapted: Some(2), against: Some(against) };
    vec![
        whole("minilm-f32", text(), F32),
        whole("minilm-bf16", text(), Bf16),
        whole("vit-f32", Base::Vit, F32),
        whole("vit-bf16", Base::Vit, Bf16),
        top("minilm-f32-last2", text(), "minilm-f32"),
        top("vit-f32-last2", Base::Vit, "vit-f32"),
    ]
}

impl Case {
    /// The pipeline, for a base in this folder.
    pub fn spec(&self, base: &Path, labels: &[String]) -> Value {
        let (layers, precision) = match (self.adapted, self.precision) {
            (None, Precision::F32) => ("all".to_owned(), "f32"),
            (None, Precision::Bf16) => ("all".to_owned(), "bf16"),
            (Some(blocks), _) => (format!("last:{blocks}"), "f32"),
        };
        json!({
            "name": "bench", "model": {"uri": format!("file://{}", base.display()), "sha256": "0".repeat(64)},
            "labels": labels, "method": "ft", "seed": 1,
            "adapter": {"lora": {"r": 8, "alpha": 16, "target_modules": ["query", "value"], "layers": layers}},
            "input": if self.is_text() { json!({"max_length": LENGTH}) } else { json!({}) },
            "training": {
                "epochs": 100_000, "batch_size": BATCH, "micro_batches": 1, "learning_rate": 2e-3,
                "optimizer": "adamw", "precision": precision, "dropout": false,
            },
        })
    }

    pub fn is_text(&self) -> bool {
        matches!(self.base, Base::MiniLm(_))
    }

    /// Floating point operations of a step in 10⁹ with adapters in every block: the frozen products forward, the same for
    /// the gradients of their inputs, and attention forward and twice backward.
    pub fn gigaflop(&self) -> f64 {
        let tokens = if self.is_text() { LENGTH } else { 1 + i64::from(SIDE / 4).pow(2) };
        let all = BATCH as i64 * tokens;
        let linear = 2 * 2 * all * 12 * WIDTH * WIDTH;
        let attention = 3 * 4 * all * tokens * WIDTH;
        (LAYERS * (linear + attention)) as f64 / 1e9
    }
}
