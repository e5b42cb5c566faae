//! The story on a stream of one's own: one chunk a task, everything measured on every task.
//!
//! The pipeline is the one that `bench` makes of the same flags, so both give the same numbers.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{ArgMatches, Command, FromArgMatches};
use domain::chunk::{Row, Split};
use domain::id::TaskName;
use domain::pipeline::{GateMode, Loss, Method, Model, Pipeline, Spec, Training};
use store::streams::{self, Stream};

use super::arm::{Arm, FINE_TUNE, Learned, PERENNIAL};
use super::client::Client;
use super::progress::Progress;
use crate::bench::flags::{self, Usage};
use crate::bench::settings::Settings;
use crate::bench::stream as source;

#[derive(clap::Args)]
pub struct Flags {
    /// Learn a real stream instead of drawn glyphs, as `bench` does but through the daemon
    #[arg(long, value_name = "STREAM.json")]
    data: Option<PathBuf>,
    /// The folder that the stream's paths start from. Default: the parent of the stream's folder
    #[arg(long, value_name = "ROOT", requires = "data")]
    data_root: Option<PathBuf>,
    /// Train on the first N rows of each task; all test rows are used
    #[arg(long, value_name = "N", requires = "data")]
    limit_per_task: Option<usize>,
    /// Leave out the fine-tuning arm
    #[arg(long, requires = "data")]
    no_baseline: bool,
    /// Decides what is initialised at random and the order of rows
    #[arg(long, default_value_t = 0, requires = "data")]
    seed: u64,
    #[command(flatten)]
    settings: WithData,
}

/// The flags of `bench`, which mean something with `--data` only. None is required.
struct WithData(Settings);

impl clap::Args for WithData {
    fn augment_args(command: Command) -> Command {
        let bench = <Settings as clap::Args>::augment_args(Command::new("bench"));
        let ours = bench.get_arguments().map(|arg| arg.clone().requires("data").help_heading("With --data"));
        let command = command.args(ours.collect::<Vec<_>>());
        [("model", "mlp:100,100"), ("method", Method::Er.name())].into_iter().fold(command, |command, (flag, value)| {
            command.mut_arg(flag, |arg| arg.required(false).default_value(value))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for WithData {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Settings::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A stream and how to learn it, checked before anything starts.
pub struct Plan {
    stream: Arc<Stream>,
    tasks: Vec<TaskName>,
    limit: Option<usize>,
    spec: Spec,
    /// Where the base model lies, if it is a folder.
    folder: Option<PathBuf>,
    baseline: bool,
}

impl Flags {
    /// None without `--data`.
    pub fn plan(&self) -> anyhow::Result<Option<Plan>> {
        let (Some(file), settings) = (&self.data, &self.settings.0) else { return Ok(None) };
        let stream = source::open(file, self.data_root.as_deref())?;
        let (model, folder) = flags::model(&settings.model)?;
        let spec = settings.spec(model, stream.labels(), self.seed).map_err(Usage::from)?;
        source::check(&stream, &spec, folder.as_deref())?;
        Ok(Some(Plan {
            tasks: stream.tasks().iter().map(source::task_name).collect::<anyhow::Result<_>>()?,
            stream: Arc::new(stream),
            limit: self.limit_per_task,
            spec,
            folder,
            baseline: !self.no_baseline,
        }))
    }
}

impl Plan {
    pub fn title(&self) -> String {
        format!("Perennial on {}", self.stream.name())
    }

    /// Ranks that may run at once, and an evaluation beside them.
    pub fn slots(&self) -> u32 {
        let arms = if self.baseline { 2 } else { 1 };
        arms * self.spec.resources.ranks.get() + 1
    }

    /// What an arm is given: the bench's pipeline under a name of its own, measured on every row.
    fn pipeline(&self, name: &str, method: Method, model: &Model) -> anyhow::Result<Pipeline> {
        let mut spec = Spec { name: name.parse()?, method, model: model.clone(), ..self.spec.clone() };
        if method != self.spec.method {
            spec.loss = Loss::default();
        }
        spec.gate.mode = GateMode::Report;
        spec.evaluation.eval_items_per_task = NonZeroU64::from(NonZeroU32::MAX);
        spec.evaluation.max_tasks = NonZeroU32::MAX;
        // The bench has nobody to resume; where a run resumes from changes no number.
        let default = Training::default();
        spec.training.checkpoint_steps = default.checkpoint_steps;
        spec.training.checkpoint_seconds = default.checkpoint_seconds;
        Ok(Pipeline::try_from(spec).map_err(Usage::from)?)
    }

    pub async fn learn(&self, client: &Client, progress: &Progress) -> anyhow::Result<Vec<Learned>> {
        let model = match &self.folder {
            Some(folder) => Model::Folder(client.push_model(folder).await?),
            None => self.spec.model.clone(),
        };
        let mut arms = Vec::new();
        let methods = [(PERENNIAL, self.spec.method), (FINE_TUNE, Method::Ft)];
        for (name, method) in methods.into_iter().take(if self.baseline { 2 } else { 1 }) {
            let spec = self.pipeline(name, method, &model)?;
            arms.push(Arm::open(client, progress, &spec, title(method)).await?);
        }
        self.measure(&arms, progress).await?;
        for k in 0..self.tasks.len() {
            self.teach(k, &mut arms).await?;
        }
        futures::future::try_join_all(arms.into_iter().map(Arm::learned)).await
    }

    /// Held-out rows of all tasks come first, so that tasks are measured before they are learned, too.
    async fn measure(&self, arms: &[Arm<'_>], progress: &Progress) -> anyhow::Result<()> {
        let track = progress.track("pushing test rows");
        for (k, task) in self.tasks.iter().enumerate() {
            track.at(k as f64 / self.tasks.len() as f64, task.as_str());
            let rows = self.rows(k, streams::Split::Test, None).await?;
            let pushes = arms.iter().map(|arm| arm.push(task, Split::HeldOut, &rows));
            futures::future::try_join_all(pushes).await?;
        }
        drop(track);
        progress.say(format!("pushed the test rows of {} tasks", self.tasks.len()));
        Ok(())
    }

    async fn teach(&self, k: usize, arms: &mut [Arm<'_>]) -> anyhow::Result<()> {
        let task = &self.tasks[k];
        let rows = self.rows(k, streams::Split::Train, self.limit).await?;
        let updates = arms.iter_mut().map(|arm| async {
            arm.push(task, Split::Train, &rows).await?;
            arm.publish(&format!("{}/{} {task}", k + 1, self.tasks.len())).await
        });
        futures::future::try_join_all(updates).await?;
        Ok(())
    }

    async fn rows(&self, k: usize, split: streams::Split, limit: Option<usize>) -> anyhow::Result<Vec<Row>> {
        let stream = self.stream.clone();
        let read = tokio::task::spawn_blocking(move || stream.task_rows(k, split, limit));
        read.await?.with_context(|| format!("cannot read task `{}`", self.tasks[k]))
    }
}

/// As a heading begins.
fn title(method: Method) -> String {
    let mut letters = method.title().chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Flags,
    }

    fn parse(flags: &str) -> Result<Flags, String> {
        let words = ["demo"].into_iter().chain(flags.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.args).map_err(|error| error.to_string())
    }

    #[test]
    fn without_data_nothing_is_asked_for() {
        assert!(parse("").unwrap().plan().unwrap().is_none());
    }

    #[test]
    fn data_alone_is_enough_and_the_flags_of_the_bench_ask_for_it() {
        let WithData(settings) = parse("--data s.json").unwrap().settings;
        assert_eq!((settings.model.as_str(), settings.method), ("mlp:100,100", Method::Er));
        assert!(parse("--data s.json --model mlp:10 --method joint --buffer-size 9").is_ok());
        for flag in ["--no-baseline", "--seed 1", "--batch 10", "--model mlp:10"] {
            assert!(parse(flag).err().unwrap().contains("--data <STREAM.json>"), "{flag}");
        }
    }

    #[test]
    fn the_pipeline_is_the_benchs_and_measures_every_row() {
        let folder = tempfile::tempdir().unwrap();
        let stream = r#"{"name": "s", "scenario": "class-incremental", "input_column": "image", "label_column": "label",
            "train": [], "test": [], "labels": "labels.json", "tasks": [{"name": "Task_0"}]}"#;
        std::fs::create_dir(folder.path().join("streams")).unwrap();
        std::fs::write(folder.path().join("streams/s.json"), stream).unwrap();
        std::fs::write(folder.path().join("labels.json"), r#"{"label": ["a", "b"]}"#).unwrap();
        let file = folder.path().join("streams/s.json");
        let args =
            parse(&format!("--data {} --model mlp:10 --method er --batch 10 --seed 3 --ranks 1", file.display()))
                .unwrap();
        let plan = args.plan().unwrap().unwrap();
        let bench = args.settings.0.spec(plan.spec.model.clone(), vec!["a".into(), "b".into()], 3).unwrap();
        let ours = plan.pipeline(PERENNIAL, Method::Er, &plan.spec.model).unwrap();
        assert_eq!(
            (&ours.rehearsal, &ours.labels, ours.seed, ours.gate.mode),
            (&bench.rehearsal, &bench.labels, 3, GateMode::Report)
        );
        assert_eq!(
            (ours.training.batch_size, ours.training.replay),
            (bench.training.batch_size, bench.training.replay)
        );
        assert!(ours.evaluation.eval_items_per_task.get() > 1 << 30);
        assert_eq!((plan.tasks[0].as_str(), plan.slots()), ("task-0", 3));
    }
}
