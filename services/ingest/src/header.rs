//! What a producer says about its payload, checked.

use domain::chunk::{Chunk, Reading, Split};
use domain::evalset::ARCHIVE;
use domain::id::{ChunkId, PipelineId, TaskName};
use domain::producer::Origin;
use perennial_proto::convert::{Invalid, pipeline_id, read_origin};
use perennial_proto::v1;
use store::examples::{Columns, Delimiter, Format};

use crate::seal::Facts;

#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub pipeline: PipelineId,
    /// None: the pipeline's.
    pub task: Option<TaskName>,
    pub split: Split,
    /// None: told by the content.
    pub format: Option<Format>,
    /// Lower-case hex.
    pub sha256: Option<String>,
    pub input: Option<String>,
    pub label: String,
    /// None: its producer does not number its pushes.
    pub origin: Option<Origin>,
    /// None: a push that breaks is made anew.
    pub resume: Option<Resume>,
    /// Whether the answer comes when the rows are checked.
    pub wait: bool,
}

/// Where a resumable push goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Resume {
    pub sha256: String,
    pub total_bytes: u64,
    pub offset: u64,
}

impl TryFrom<v1::ChunkHeader> for Header {
    type Error = Invalid;
    fn try_from(wire: v1::ChunkHeader) -> Result<Self, Invalid> {
        let split = v1::Split::try_from(wire.split).map_err(|e| Invalid::new("header.split", e))?;
        let label = given(wire.label_column);
        let sha256 = given(wire.sha256).map(|sum| sha256("header.sha256", sum)).transpose()?;
        Ok(Self {
            pipeline: pipeline_id("header.pipeline", &wire.pipeline)?,
            task: given(wire.task).map(task).transpose()?,
            split: split.into(),
            format: format(wire.format)?,
            resume: resume(wire.total_bytes, wire.offset, sha256.as_deref())?,
            sha256,
            input: given(wire.input_column),
            label: label.unwrap_or_else(|| Columns::default().label),
            origin: wire.origin.map(|origin| read_origin("header.origin", origin)).transpose()?,
            wait: wire.wait,
        })
    }
}

fn given(value: String) -> Option<String> {
    (!value.is_empty()).then_some(value)
}

fn task(name: String) -> Result<TaskName, Invalid> {
    if name == ARCHIVE {
        let reason = format!("`{ARCHIVE}` is the set that old tasks merge into; choose another name");
        return Err(Invalid::new("header.task", reason));
    }
    name.try_into().map_err(|e| Invalid::new("header.task", e))
}

fn format(wire: i32) -> Result<Option<Format>, Invalid> {
    match v1::Format::try_from(wire) {
        Ok(v1::Format::Unspecified) => Ok(None),
        Ok(v1::Format::Parquet) => Ok(Some(Format::Parquet)),
        Ok(v1::Format::Jsonl) => Ok(Some(Format::Jsonl)),
        Ok(v1::Format::Csv) => Ok(Some(Format::Csv(Delimiter::Comma))),
        Ok(v1::Format::Tsv) => Ok(Some(Format::Csv(Delimiter::Tab))),
        Ok(v1::Format::Tar) => Ok(Some(Format::Tar)),
        Err(e) => Err(Invalid::new("header.format", e)),
    }
}

fn resume(total_bytes: u64, offset: u64, sha256: Option<&str>) -> Result<Option<Resume>, Invalid> {
    match (total_bytes, sha256) {
        (0, _) if offset > 0 => {
            Err(Invalid::new("header.offset", "only a push with `total_bytes` begins anywhere but at 0"))
        }
        (0, _) => Ok(None),
        (_, Some(sha256)) => Ok(Some(Resume { sha256: sha256.to_owned(), total_bytes, offset })),
        (_, None) => Err(Invalid::new("header.sha256", "a resumable push is known by its payload's SHA-256")),
    }
}

/// As lower case.
pub fn sha256(field: &str, sum: String) -> Result<String, Invalid> {
    if sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(sum.to_ascii_lowercase());
    }
    Err(Invalid::new(field, format!("`{sum}` is not 64 hexadecimal digits")))
}

impl Header {
    pub fn task(&self, facts: &Facts) -> TaskName {
        self.task.clone().unwrap_or_else(|| facts.pipeline.task.clone())
    }

    /// As the record keeps it until the rows are checked.
    pub fn reading(&self, format: Format) -> Reading {
        Reading { format: format.name().to_owned(), input: self.input.clone(), label: self.label.clone() }
    }

    /// What was said of a payload that was received.
    pub fn of(pipeline: PipelineId, chunk: &Chunk) -> Result<Self, Invalid> {
        let reading = chunk.reading.as_ref().ok_or_else(|| Invalid::new("reading", "missing"))?;
        let format = Format::named(&reading.format);
        let format =
            format.ok_or_else(|| Invalid::new("reading.format", format!("`{}` is not known", reading.format)))?;
        Ok(Self {
            pipeline,
            task: Some(chunk.task.clone()),
            split: chunk.split,
            format: Some(format),
            sha256: Some(chunk.raw.sha256.clone()),
            input: reading.input.clone(),
            label: reading.label.clone(),
            origin: None,
            resume: None,
            wait: true,
        })
    }

    pub fn chunk_id(&self, payload_sha256: &str, task: &TaskName) -> ChunkId {
        ChunkId::of(payload_sha256, task, self.split, self.input.as_deref(), &self.label)
    }

    /// Integer labels count into the names that the spec lists. The names that open labels appended
    /// are no list to count into: their order is that of arrival.
    pub fn columns(&self, facts: &Facts, chunk: &ChunkId) -> Columns {
        Columns {
            input: self.input.clone(),
            label: self.label.clone(),
            needs_label: facts.pipeline.data.late_labels.is_none(),
            labels: facts.pipeline.labels.clone(),
            unnamed: chunk.to_string(),
            ..Columns::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: impl FnOnce(&mut v1::ChunkHeader)) -> Result<Header, String> {
        let mut wire = v1::ChunkHeader {
            pipeline: "namespaces/default/pipelines/tickets".to_owned(),
            ..v1::ChunkHeader::default()
        };
        change(&mut wire);
        Header::try_from(wire).map_err(|e| e.to_string())
    }

    #[test]
    fn the_shortest_header_names_its_pipeline() {
        let header = parse(|_| ()).unwrap();
        assert_eq!((header.split, header.label.as_str(), header.format), (Split::Auto, "label", None));
    }

    #[test]
    fn errors_name_the_field_and_what_was_given() {
        let e = parse(|h| h.pipeline = "tickets".to_owned()).unwrap_err();
        assert!(e.contains("`header.pipeline`") && e.contains("`tickets` is not a resource name"), "{e}");
        let e = parse(|h| h.task = "archive".to_owned()).unwrap_err();
        assert!(e.contains("`header.task`") && e.contains("choose another name"), "{e}");
        let e = parse(|h| h.task = "A task".to_owned()).unwrap_err();
        assert!(e.contains("`A task` is not a valid task name"), "{e}");
        let origin = v1::Origin { producer: "A producer".to_owned(), epoch: 1, sequence: 1 };
        let e = parse(|h| h.origin = Some(origin)).unwrap_err();
        assert!(e.contains("`header.origin.producer`") && e.contains("valid producer name"), "{e}");
        let e = parse(|h| h.sha256 = "beef".to_owned()).unwrap_err();
        assert!(e.contains("`header.sha256`") && e.contains("64 hexadecimal"), "{e}");
        assert!(parse(|h| h.total_bytes = 8).unwrap_err().contains("known by its payload's SHA-256"));
        assert!(parse(|h| h.offset = 8).unwrap_err().contains("`header.offset`"));
        assert!(parse(|h| h.split = 9).unwrap_err().contains("header.split"));
        assert!(parse(|h| h.format = 9).unwrap_err().contains("header.format"));
    }
}
