//! `perennial pipeline`, and the schema of its file.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use domain::id::PipelineName;
use domain::pipeline::{ModelFolder, Pipeline, Spec, hub_remedy};
use perennial_proto::convert::to_json;
use perennial_proto::v1;
use serde::Serialize;

use super::client::{Context, all_pages, present};
use super::failure::Failure;
use super::output::{self, Render, fields, table};
use crate::yaml::{ConfigError, Document};

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Register a pipeline, or change it; an unchanged file changes nothing
    #[command(after_help = "Example:\n  perennial pipeline apply -f configs/pipelines/mlp.yaml")]
    Apply {
        /// YAML file, or - for stdin; `perennial schema` prints its schema
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// List the pipelines
    #[command(after_help = "Example:\n  perennial pipeline ls")]
    Ls,
    /// Show one pipeline: its spec, tasks, labels and aliases
    #[command(after_help = "Example:\n  perennial pipeline show tickets")]
    Show {
        #[arg(value_name = "PIPELINE")]
        name: PipelineName,
    },
}

impl Verb {
    pub async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Apply { file } => apply(ctx, &file).await,
            Self::Ls => list(ctx).await,
            Self::Show { name } => show(ctx, &name).await,
        }
    }
}

async fn apply(ctx: &Context, file: &Path) -> Result<(), Failure> {
    let pipeline = read(ctx, file)?;
    let request = ctx.request(v1::ApplyPipelineRequest { spec_json: to_json(&pipeline) });
    let response = ctx.pipelines().await?.apply_pipeline(request).await?.into_inner();
    ctx.show(&Applied(PipelineView::try_from(present(response.pipeline)?)?))
}

/// Checked here, before any connection, by the types that the server uses.
fn read(ctx: &Context, file: &Path) -> Result<Pipeline, Failure> {
    let mut document = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(Failure::file("read", Path::new("stdin")))?;
        Document::parse("stdin", &text)?
    } else {
        Document::read(file)?
    };
    if document.get("namespace").is_none() {
        document.set("namespace", ctx.namespace().as_str(), "--namespace");
    }
    Ok(parse(&document)?)
}

fn parse(document: &Document) -> Result<Pipeline, ConfigError> {
    let uri = document.get("model.uri").and_then(serde_json::Value::as_str);
    if let Some(remedy) = uri.and_then(hub_remedy) {
        return Err(document.unfit("model.uri", remedy));
    }
    // A model is a text or a folder; asked directly, the folder says what is wrong with it.
    if document.get("model").is_some_and(serde_json::Value::is_object) {
        document.part::<ModelFolder>("model")?;
    }
    document.to()
}

async fn list(ctx: &Context) -> Result<(), Failure> {
    let mut client = ctx.pipelines().await?;
    let pipelines = all_pages(async |page_token| {
        let request = v1::ListPipelinesRequest { parent: ctx.parent(), page_size: 0, page_token };
        let page = client.list_pipelines(ctx.request(request)).await?.into_inner();
        Ok((page.pipelines, page.next_page_token))
    });
    let pipelines = pipelines.await?.into_iter().map(PipelineView::try_from);
    ctx.show(&PipelineList { pipelines: pipelines.collect::<Result<_, _>>()? })
}

async fn show(ctx: &Context, name: &PipelineName) -> Result<(), Failure> {
    let request = ctx.request(v1::GetPipelineRequest { name: ctx.pipeline(name) });
    let response = ctx.pipelines().await?.get_pipeline(request).await?.into_inner();
    ctx.show(&PipelineView::try_from(present(response.pipeline)?)?)
}

pub fn schema() -> Result<(), Failure> {
    output::print_json(&schemars::schema_for!(Spec))
}

#[derive(Serialize)]
pub struct PipelineView {
    pub resource: String,
    pub pipeline: String,
    pub revision: u64,
    pub labels: Vec<String>,
    pub tasks: Vec<TaskView>,
    pub aliases: BTreeMap<String, u64>,
    pub chunks: u64,
    pub versions: u64,
    pub spec: serde_json::Value,
}

#[derive(Serialize)]
pub struct TaskView {
    pub task: String,
    pub eval_set: u64,
    pub items: u64,
}

/// Whoever applied the spec has just read it.
#[derive(Serialize)]
struct Applied(PipelineView);

#[derive(Serialize)]
struct PipelineList {
    pipelines: Vec<PipelineView>,
}

/// The last segment of a resource name.
pub fn last(name: &str) -> String {
    name.rsplit('/').next().unwrap_or(name).to_owned()
}

/// The pipeline's name within a resource name.
pub fn pipeline_of(name: &str) -> String {
    name.split('/').nth(3).unwrap_or(name).to_owned()
}

impl TryFrom<v1::Pipeline> for PipelineView {
    type Error = Failure;
    fn try_from(wire: v1::Pipeline) -> Result<Self, Failure> {
        let task = |task: v1::Task| TaskView { task: task.name, eval_set: task.eval_set, items: task.items };
        let spec = serde_json::from_slice(&wire.spec_json);
        Ok(Self {
            pipeline: pipeline_of(&wire.name),
            resource: wire.name,
            revision: wire.revision,
            labels: wire.labels,
            tasks: wire.tasks.into_iter().map(task).collect(),
            aliases: wire.aliases.into_iter().collect(),
            chunks: wire.chunks,
            versions: wire.versions,
            spec: spec.map_err(|error| Failure::Failed(format!("the server's spec is not JSON: {error}")))?,
        })
    }
}

impl PipelineView {
    fn aliases(&self) -> String {
        let aliases: Vec<_> = self.aliases.iter().map(|(alias, version)| format!("{alias}=v{version}")).collect();
        aliases.join(" ")
    }

    fn summary(&self) -> String {
        let tasks: Vec<_> = self.tasks.iter().map(|t| format!("{} ({} held-out items)", t.task, t.items)).collect();
        fields([
            ("pipeline", self.pipeline.clone()),
            ("revision", self.revision.to_string()),
            ("aliases", self.aliases()),
            ("versions", self.versions.to_string()),
            ("chunks", self.chunks.to_string()),
            ("tasks", tasks.join(", ")),
            ("labels", self.labels.join(", ")),
        ])
    }
}

impl Render for PipelineView {
    fn text(&self) -> String {
        let spec = serde_yaml_ng::to_string(&given(&self.spec)).unwrap_or_default();
        format!("{}\n\n{spec}", self.summary())
    }
}

impl Render for Applied {
    fn text(&self) -> String {
        self.0.summary()
    }
}

/// Without keys left to their defaults by a null.
fn given(value: &serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(keys) => {
            let keys = keys.iter().filter(|(_, value)| !value.is_null());
            keys.map(|(key, value)| (key.clone(), given(value))).collect()
        }
        value => value.clone(),
    }
}

impl Render for PipelineList {
    fn text(&self) -> String {
        let rows = self.pipelines.iter().map(|p| {
            let method = p.spec["method"].as_str().unwrap_or("-").to_owned();
            [
                p.pipeline.clone(),
                p.revision.to_string(),
                method,
                p.chunks.to_string(),
                p.versions.to_string(),
                p.aliases(),
            ]
        });
        let empty = "no pipelines; register one by `perennial pipeline apply -f FILE`";
        table(["pipeline", "revision", "method", "chunks", "versions", "aliases"], rows, empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(&Document::parse("p.yaml", text).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn a_model_folder_says_what_is_wrong_with_it() {
        let text = "name: p\nmethod: er\nlabels: [a]\nmodel: {uri: 'file:///m', sha: x}\n";
        assert_eq!(refused(text), "p.yaml: unknown key `model.sha`; did you mean `sha256`?");
        let text = "name: p\nmethod: er\nlabels: [a]\nmodel: {uri: 'file:///m'}\n";
        assert_eq!(refused(text), "p.yaml: `model.sha256` is missing");
        let text = "name: p\nmethod: er\nlabels: [a]\nmodel: {uri: 'hf://google/vit'}\n";
        let hub = refused(text);
        assert!(hub.contains("`model.uri` is") && hub.contains("`perennial model push hf://google/vit`"), "{hub}");
    }

    #[test]
    fn the_shipped_pipelines_are_valid() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/pipelines");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 2);
        for file in files {
            parse(&Document::read(&file).unwrap()).unwrap();
        }
    }

    #[test]
    fn the_json_of_a_pipeline_keeps_its_keys() {
        let wire = v1::Pipeline {
            name: "namespaces/default/pipelines/tickets".to_owned(),
            spec_json: br#"{"name":"tickets"}"#.to_vec(),
            revision: 1,
            ..Default::default()
        };
        let json = serde_json::to_value(PipelineView::try_from(wire).unwrap()).unwrap();
        assert_eq!((&json["pipeline"], &json["spec"]["name"]), (&"tickets".into(), &"tickets".into()));
        let mut keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            ["aliases", "chunks", "labels", "pipeline", "resource", "revision", "spec", "tasks", "versions"]
        );
    }
}
