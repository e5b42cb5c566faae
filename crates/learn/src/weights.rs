//! The tensors of a model folder, read one by one: in memory stands the model, not the files beside it.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use tch::Tensor;

use crate::Error;
use crate::files;
use crate::model::folder::{INDEX, WEIGHTS};

/// Of a safetensors file: what comes before the header.
const LENGTH_BYTES: u64 = 8;
/// A header beyond this is damage, or an attack.
const MAX_HEADER: u64 = 100 << 20;

/// One or more safetensors files.
pub struct Weights {
    /// The file that lists everything, for errors.
    file: PathBuf,
    shards: Vec<Shard>,
    /// By tensor: the shard that holds it.
    places: HashMap<String, usize>,
}

struct Shard {
    file: PathBuf,
    opened: File,
    metadata: Metadata,
    /// Where the tensors begin.
    start: u64,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl Weights {
    /// `model.safetensors`, else the shards that `model.safetensors.index.json` lists.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let (whole, index) = (folder.join(WEIGHTS), folder.join(INDEX));
        if whole.exists() || !index.exists() {
            let shard = Shard::open(whole.clone())?;
            let places = shard.metadata.tensors().into_keys().map(|name| (name, 0)).collect();
            return Ok(Self { file: whole, shards: vec![shard], places });
        }
        let Index { weight_map } = files::read_json(&index)?;
        let mut names: Vec<&String> = weight_map.values().collect();
        names.sort();
        names.dedup();
        // A name that leads elsewhere is not one of the folder's files.
        if let Some(stray) = names.iter().find(|name| Path::new(name.as_str()).components().count() != 1) {
            return Err(files::damaged(&index, format!("`{stray}` is not the name of a file")));
        }
        let shards = names.iter().map(|name| Shard::open(folder.join(name))).collect::<Result<Vec<_>, _>>()?;
        let place = |file: &String| names.binary_search(&file).unwrap_or_default();
        let places = weight_map.iter().map(|(tensor, file)| (tensor.clone(), place(file))).collect();
        Ok(Self { file: index, shards, places })
    }

    pub fn holds(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The tensor as f32, checked for shape and finite values.
    pub fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, Error> {
        let missing = |file: &Path| Error::NoTensor { file: file.to_owned(), tensor: name.to_owned() };
        let shard = self.places.get(name).map(|&place| &self.shards[place]).ok_or_else(|| missing(&self.file))?;
        let info = shard.metadata.info(name).ok_or_else(|| missing(&shard.file))?;
        let tensor = shard.read(name, info)?;
        files::checked(&shard.file, &[(name.to_owned(), tensor)].into(), name, shape)
    }
}

impl Shard {
    fn open(file: PathBuf) -> Result<Self, Error> {
        let opened = files::open(&file)?;
        let read = |source| Error::Read { file: file.clone(), source };
        let size = opened.metadata().map_err(read)?.len();
        let mut length = [0; LENGTH_BYTES as usize];
        opened.read_exact_at(&mut length, 0).map_err(|e| files::damaged(&file, e))?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER || LENGTH_BYTES + length > size {
            return Err(files::damaged(&file, format!("its header of {length} bytes does not fit in {size}")));
        }
        let mut header = vec![0; length as usize];
        opened.read_exact_at(&mut header, LENGTH_BYTES).map_err(read)?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| files::damaged(&file, e))?;
        let start = LENGTH_BYTES + length;
        let end = metadata.tensors().values().map(|info| info.data_offsets.1).max().unwrap_or(0) as u64;
        if start + end != size {
            return Err(files::damaged(&file, format!("it has {size} bytes, and its header asks for {}", start + end)));
        }
        Ok(Self { file, opened, metadata, start })
    }

    fn read(&self, name: &str, info: &TensorInfo) -> Result<Tensor, Error> {
        let (begin, end) = info.data_offsets;
        let mut bytes = vec![0; end - begin];
        let read = |source| Error::Read { file: self.file.clone(), source };
        self.opened.read_exact_at(&mut bytes, self.start + begin as u64).map_err(read)?;
        files::tensor(&self.file, name, info.dtype, &info.shape, &bytes)
    }
}
