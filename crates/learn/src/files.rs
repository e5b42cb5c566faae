//! Tensor files and digests: safetensors in and out, written whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use domain::pipeline::Precision;
use safetensors::Dtype;
use safetensors::tensor::{SafeTensors, TensorView};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::Error;

/// The tensor type of frozen linear layers.
pub trait Precise {
    fn kind(self) -> Kind;
}

impl Precise for Precision {
    fn kind(self) -> Kind {
        match self {
            // Who trains measures first; who scores takes what others will load.
            Precision::F32 | Precision::Auto => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        }
    }
}

/// SHA-256 of a model folder: over the sorted lines `<sha256 of file>  <name>\n` of its top-level files.
pub fn folder_digest(folder: &Path) -> Result<String, Error> {
    let read = |source| Error::Read { file: folder.to_owned(), source };
    let mut lines = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        if entry.path().is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            lines.push(format!("{}  {name}\n", file_digest(&entry.path())?));
        }
    }
    lines.sort();
    Ok(hex::encode(Sha256::digest(lines.concat())))
}

pub(crate) fn file_digest(file: &Path) -> Result<String, Error> {
    let read = |source| Error::Read { file: file.to_owned(), source };
    let (mut opened, mut hash) = (File::open(file).map_err(read)?, Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match opened.read(&mut buffer).map_err(read)? {
            0 => return Ok(hex::encode(hash.finalize())),
            filled => hash.update(&buffer[..filled]),
        }
    }
}

pub(crate) fn read_bytes(file: &Path) -> Result<Vec<u8>, Error> {
    fs::read(file).map_err(|source| unread(file, source))
}

pub(crate) fn open(file: &Path) -> Result<File, Error> {
    File::open(file).map_err(|source| unread(file, source))
}

fn unread(file: &Path, source: std::io::Error) -> Error {
    match (source.kind(), file.parent(), file.file_name()) {
        (std::io::ErrorKind::NotFound, Some(folder), Some(name)) => {
            Error::NoFile { folder: folder.to_owned(), file: name.to_string_lossy().into_owned() }
        }
        _ => Error::Read { file: file.to_owned(), source },
    }
}

pub(crate) fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T, Error> {
    serde_json::from_slice(&read_bytes(file)?).map_err(|e| damaged(file, e))
}

pub(crate) fn damaged(file: &Path, reason: impl ToString) -> Error {
    Error::Damaged { file: file.to_owned(), reason: reason.to_string() }
}

/// Under its name only once it is whole and durable.
pub(crate) fn write_bytes(file: &Path, bytes: &[u8]) -> Result<(), Error> {
    let write = |source| Error::Write { file: file.to_owned(), source };
    let mut name = file.as_os_str().to_owned();
    name.push(".tmp");
    let mut temporary = File::create(&name).map_err(write)?;
    temporary.write_all(bytes).map_err(write)?;
    temporary.sync_all().map_err(write)?;
    fs::rename(&name, file).map_err(write)
}

pub(crate) fn write_json<T: Serialize>(file: &Path, value: &T) -> Result<(), Error> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| damaged(file, e))?;
    text.push(b'\n');
    write_bytes(file, &text)
}

/// Every tensor of a safetensors file, floating types as f32.
pub(crate) fn read_tensors(file: &Path) -> Result<BTreeMap<String, Tensor>, Error> {
    let bytes = read_bytes(file)?;
    let parsed = SafeTensors::deserialize(&bytes).map_err(|e| damaged(file, e))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in parsed.tensors() {
        // Tables of positions and the like, which some checkpoints carry beside their weights.
        if matches!(view.dtype(), Dtype::I64 | Dtype::I32 | Dtype::BOOL) {
            continue;
        }
        tensors.insert(name.clone(), tensor(file, &name, view.dtype(), view.shape(), view.data())?);
    }
    Ok(tensors)
}

/// Floating values as f32.
pub(crate) fn tensor(file: &Path, name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> Result<Tensor, Error> {
    let kind = match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        other => {
            let given = format!("{other:?}");
            return Err(Error::Type { file: file.to_owned(), tensor: name.to_owned(), given });
        }
    };
    let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
    let tensor = Tensor::f_from_data_size(data, &shape, kind).map_err(|e| damaged(file, e))?;
    Ok(tensor.to_kind(Kind::Float))
}

/// The tensor called `name`, checked for shape and finite values.
pub(crate) fn checked(
    file: &Path,
    tensors: &BTreeMap<String, Tensor>,
    name: &str,
    expected: &[i64],
) -> Result<Tensor, Error> {
    let (file, named) = (file.to_owned(), name.to_owned());
    let Some(tensor) = tensors.get(name) else {
        return Err(Error::NoTensor { file, tensor: named });
    };
    if tensor.size() != expected {
        let (expected, given) = (expected.to_vec(), tensor.size());
        return Err(Error::Shape { file, tensor: named, expected, given });
    }
    if !is_finite(tensor) {
        return Err(Error::NotFinite { file, tensor: named });
    }
    Ok(tensor.shallow_clone())
}

pub(crate) fn is_finite(tensor: &Tensor) -> bool {
    tensor.isfinite().all().int64_value(&[]) == 1
}

/// f32, little-endian, row-major.
pub(crate) fn f32_bytes(tensor: &Tensor) -> Vec<u8> {
    let host = tensor.detach().to_device(tch::Device::Cpu).to_kind(Kind::Float).contiguous();
    let mut bytes = vec![0; 4 * host.numel()];
    host.copy_data_u8(&mut bytes, host.numel());
    bytes
}

pub(crate) fn write_tensors(file: &Path, tensors: &[(String, Tensor)]) -> Result<(), Error> {
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let shape = tensor.size().iter().map(|&n| n as usize).collect();
            (name.clone(), shape, f32_bytes(tensor))
        })
        .collect();
    let mut views = Vec::with_capacity(data.len());
    for (name, shape, bytes) in &data {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|e| damaged(file, e))?;
        views.push((name.as_str(), view));
    }
    // The mark by which transformers and PEFT know that torch wrote the values.
    let format = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = safetensors::serialize(views, Some(format)).map_err(|e| damaged(file, e))?;
    write_bytes(file, &bytes)
}

/// SHA-256 over tensors in name order: name, shape, f32 values.
pub(crate) fn weights_digest(tensors: &[(String, Tensor)]) -> String {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hash = Sha256::new();
    for (name, tensor) in sorted {
        hash.update(format!("{name} {:?}\n", tensor.size()));
        hash.update(f32_bytes(tensor));
    }
    hex::encode(hash.finalize())
}
