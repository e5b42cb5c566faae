//! The flags that a pipeline is made of.

use std::num::{NonZeroU32, NonZeroU64};

use clap::builder::{PossibleValue, PossibleValuesParser};
use domain::pipeline::{
    Adapter, BufferUpdate, GateMode, GateSpec, Input, InvalidSpec, LabelsMode, Method, Model, NonNegative, Normalize,
    OptimizerKind, Pipeline, Policy, Pooling, Positive, Precision, Rehearsal, Replay, Resources, Schedule, Share, Spec,
    Training,
};

use super::flags::{adapter, number, one_of};

#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// A Hugging Face folder, `hf://ORG/NAME@REVISION`, or a model to make from the seed: `mlp:100,100`, `vit:d=64,layers=4,heads=4,patch=4,mlp=128`
    #[arg(long, value_name = "DIR|SPEC")]
    pub model: String,
    /// What trains: `full`, or `lora:8[,alpha=16][,targets=query,value][,layers=last:2][,rslora]`
    #[arg(long, default_value = "full", value_parser = adapter)]
    adapter: Adapter,
    /// How an update learns
    #[arg(long, value_parser = one_of::<Method>(methods()))]
    pub method: Method,
    /// Which rows the rehearsal buffer keeps
    #[arg(long, default_value = "reservoir", value_parser = one_of::<Policy>(["reservoir", "infinite"]))]
    buffer: Policy,
    /// Rows the buffer holds at most
    #[arg(long, value_name = "ROWS", default_value = "500")]
    buffer_size: NonZeroU32,
    /// When rows are offered to the buffer: after the step that saw them, or after the task
    #[arg(long, default_value = "step", value_parser = one_of::<BufferUpdate>(["step", "chunk"]))]
    buffer_update: BufferUpdate,
    /// This share of each batch is remembered rows. Default: 0.5
    #[arg(long, value_name = "SHARE", conflicts_with = "replay_batch", allow_negative_numbers = true, value_parser = number::<Share>)]
    replay_fraction: Option<Share>,
    /// So many remembered rows beside each batch
    #[arg(long, value_name = "ROWS")]
    replay_batch: Option<NonZeroU32>,
    #[arg(long, default_value = "1")]
    epochs: NonZeroU32,
    #[arg(long, default_value = "32")]
    batch: NonZeroU32,
    #[arg(long, default_value = "sgd", value_parser = one_of::<OptimizerKind>(["sgd", "adamw"]))]
    optimizer: OptimizerKind,
    #[arg(long, default_value = "0.1", allow_negative_numbers = true, value_parser = number::<Positive>)]
    lr: Positive,
    #[arg(long, default_value = "0", allow_negative_numbers = true, value_parser = number::<NonNegative>)]
    weight_decay: NonNegative,
    #[arg(long, default_value = "constant", value_parser = one_of::<Schedule>(["constant", "cosine"]))]
    schedule: Schedule,
    /// unit: pixels over 255; dataset: standardised by the first task. Default: what the model's folder says, else unit
    #[arg(long, value_parser = one_of::<Normalize>(["unit", "dataset"]))]
    normalize: Option<Normalize>,
    /// Tokens of a text; what is longer is cut. Default: 128, or what the model takes if that is less
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<NonZeroU32>,
    /// How a text's tokens become one vector
    #[arg(long, default_value = "mean", value_parser = one_of::<Pooling>(["mean", "cls"]))]
    pooling: Pooling,
    /// World size. Beyond 1, each rank is a process
    #[arg(long, default_value = "1")]
    ranks: NonZeroU32,
    #[arg(long, default_value = "2")]
    threads_per_rank: NonZeroU32,
    /// Parts that a step is cut into, whatever the ranks. Default: 4 for batches of 32 or more, else 1
    #[arg(long, value_name = "L")]
    micro_batches: Option<NonZeroU32>,
    /// Drop no activations, whatever the model's config.json says
    #[arg(long)]
    no_dropout: bool,
    /// Of frozen layers; auto: the faster one on this machine
    #[arg(long, default_value = "f32", value_parser = one_of::<Precision>(["f32", "bf16", "auto"]))]
    precision: Precision,
}

fn methods() -> PossibleValuesParser {
    Method::ALL.map(|method| PossibleValue::new(method.name()).help(method.title())).into()
}

impl Settings {
    /// The pipeline that a daemon would be given; `model` is what [`Settings::model`] names.
    pub fn spec(&self, model: Model, labels: Vec<String>, seed: u64) -> Result<Spec, InvalidSpec> {
        let spec = Spec {
            namespace: domain::id::Namespace::default(),
            name: "bench".parse().expect("a valid name"),
            task: "main".parse().expect("a valid name"),
            model,
            adapter: self.adapter.clone(),
            labels,
            labels_mode: LabelsMode::Closed,
            input: Input {
                normalize: self.normalize,
                max_length: self.max_length,
                pooling: self.pooling,
                ..Input::default()
            },
            method: self.method,
            rehearsal: Rehearsal { policy: self.buffer, memory_size: self.buffer_size, update: self.buffer_update },
            training: self.training(),
            resources: Resources { ranks: self.ranks, threads_per_rank: self.threads_per_rank, ..Resources::default() },
            evaluation: domain::pipeline::Evaluation::default(),
            gate: GateSpec { mode: GateMode::Report, ..GateSpec::default() },
            trigger: domain::pipeline::Trigger::Manual,
            seed,
        };
        Pipeline::try_from(spec).map(Spec::from)
    }

    fn training(&self) -> Training {
        let default = Training::default();
        let replay = self.replay_batch.map(Replay::Batch).or(self.replay_fraction.map(Replay::Fraction));
        Training {
            epochs: self.epochs,
            batch_size: self.batch,
            replay: replay.unwrap_or(default.replay),
            optimizer: self.optimizer,
            learning_rate: self.lr,
            weight_decay: self.weight_decay,
            schedule: self.schedule,
            micro_batches: self.micro_batches,
            precision: self.precision,
            dropout: !self.no_dropout,
            // Nothing resumes here, and a checkpoint changes no number.
            checkpoint_steps: NonZeroU64::MAX,
            checkpoint_seconds: NonZeroU64::MAX,
            ..default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        settings: Settings,
    }

    fn parse(flags: &str) -> Result<Settings, String> {
        let words = ["bench"].into_iter().chain(flags.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.settings).map_err(|e| e.to_string())
    }

    fn spec(flags: &str) -> Result<Spec, String> {
        let settings = parse(flags)?;
        let model = Model::Scratch(settings.model.clone());
        settings.spec(model, vec!["a".to_owned()], 7).map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_are_those_of_the_manual() {
        let spec = spec("--model mlp:100,100 --method er").unwrap();
        let training = &spec.training;
        assert_eq!((training.batch_size.get(), training.split(), training.micro_batches()), (32, (16, 16), 4));
        assert_eq!((training.optimizer, training.learning_rate.get()), (OptimizerKind::Sgd, 0.1));
        assert_eq!((spec.rehearsal.memory_size.get(), spec.rehearsal.update), (500, BufferUpdate::Step));
        assert_eq!((spec.resources.ranks.get(), spec.resources.threads_per_rank.get()), (1, 2));
        assert_eq!((spec.adapter, spec.input.normalize, spec.seed), (Adapter::Full, None, 7));
    }

    #[test]
    fn flags_reach_the_pipeline() {
        let flags = "--model vit: --adapter lora:4 --method joint --batch 10 --replay-batch 20 --lr 0.03 --schedule cosine \
            --optimizer adamw --weight-decay 0.1 --normalize dataset --ranks 2 --micro-batches 2 --precision bf16 \
            --buffer-update chunk --buffer-size 9 --epochs 3";
        let spec = spec(flags).unwrap();
        let training = &spec.training;
        assert_eq!((training.split(), training.epochs.get(), training.micro_batches()), ((10, 20), 3, 2));
        assert_eq!((training.schedule, training.precision), (Schedule::Cosine, Precision::Bf16));
        assert_eq!((spec.method, spec.input.normalize), (Method::Joint, Some(Normalize::Dataset)));
        assert_eq!((spec.rehearsal.memory_size.get(), spec.rehearsal.update), (9, BufferUpdate::Chunk));
    }

    #[test]
    fn wrong_values_are_answered_with_right_ones() {
        let error = parse("--model mlp:10 --method der").unwrap_err();
        assert!(error.contains("'der'") && error.contains("ft, er, joint"), "{error}");
        let error = parse("--model mlp:10 --method er --lr -1").unwrap_err();
        assert!(error.contains("-1 is out of range: must be above 0"), "{error}");
        assert!(parse("--model mlp:10 --method er --replay-batch 2 --replay-fraction 0.5").is_err());
        let error = spec("--model mlp:10 --method er --ranks 3 --batch 10").unwrap_err();
        assert!(error.contains("resources.ranks"), "{error}");
    }
}
