//! What can be wrong with what the core is given.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{folder}` has no `{file}`")]
    NoFile { folder: PathBuf, file: String },
    #[error("cannot read `{file}`")]
    Read { file: PathBuf, source: std::io::Error },
    #[error("cannot write `{file}`")]
    Write { file: PathBuf, source: std::io::Error },
    #[error("`{file}` is damaged: {reason}")]
    Damaged { file: PathBuf, reason: String },
    #[error("`{file}` has model_type `{given}`; supported: {supported}")]
    UnknownModel { file: PathBuf, given: String, supported: String },
    #[error("`{file}`: {field} is {given}; {reason}")]
    Config { file: PathBuf, field: &'static str, given: String, reason: String },
    #[error("`{file}` has no tensor `{tensor}`")]
    NoTensor { file: PathBuf, tensor: String },
    #[error("`{file}`: tensor `{tensor}` has shape {given:?}, expected {expected:?}")]
    Shape { file: PathBuf, tensor: String, expected: Vec<i64>, given: Vec<i64> },
    #[error("`{file}`: tensor `{tensor}` has type {given}; supported: F32, F16, BF16")]
    Type { file: PathBuf, tensor: String, given: String },
    #[error("`{file}`: tensor `{tensor}` holds NaN or infinite values")]
    NotFinite { file: PathBuf, tensor: String },
    #[error("`model` is `{given}`: {reason}")]
    ModelSpec { given: String, reason: String },
    #[error("`{field}` is set, and the model reads {reads}: leave it out")]
    Input { field: &'static str, reads: &'static str },
    #[error("`{file}`: nothing here takes {tensors}; the pipeline adapts {modules}")]
    Unused { file: PathBuf, tensors: String, modules: String },
    #[error("adapter rank {r} is larger than layer `{module}` ({outputs} × {inputs}) allows: at most {}", outputs.min(inputs))]
    Rank { r: i64, module: String, outputs: i64, inputs: i64 },
    #[error("no linear layer is called `{given}`{hint}; the model has: {available}")]
    UnknownTarget { given: String, hint: String, available: String },
    #[error("`adapter.lora` is set, and the model has no linear layers: use `adapter: full`")]
    NoLinear,
    #[error("`adapter.lora.layers` is last:{asked}, and the model has {depth} blocks")]
    TooFewBlocks { asked: u32, depth: usize },
    #[error("row `{row}` of {place}: {reason}")]
    Row { row: String, place: String, reason: String },
    #[error("`{file}` lists label {position} as `{given}`, the run has `{expected}`: labels may only be appended")]
    Labels { file: PathBuf, position: usize, given: String, expected: String },
    #[error("there are no rows to {purpose}")]
    NoRows { purpose: &'static str },
    #[error("checkpoint `{folder}` belongs to another run or other settings")]
    ForeignCheckpoint { folder: PathBuf },
    #[error("the ranks lost each other")]
    Collective(#[from] collective::Error),
}

impl Error {
    /// Whether the same inputs would fail again. Otherwise another attempt may succeed.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Collective(_) | Self::Read { .. } | Self::Write { .. })
    }

    /// Whether what is wrong is the content of a file in `folder`.
    pub fn lies_in(&self, folder: &Path) -> bool {
        match self {
            Self::NoFile { folder: place, .. } => place == folder,
            Self::Damaged { file, .. }
            | Self::Config { file, .. }
            | Self::NoTensor { file, .. }
            | Self::Shape { file, .. }
            | Self::Type { file, .. }
            | Self::NotFinite { file, .. }
            | Self::Labels { file, .. } => file.starts_with(folder),
            _ => false,
        }
    }
}
