//! The flags that a pipeline is made of.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};

use clap::builder::{PossibleValue, PossibleValuesParser};
use domain::pipeline::{
    Adapter, BufferUpdate, Contamination, Data, Deploys, Evaluation, FeaturePooling, GateMode, GateSpec, Gmc, GmcRows,
    Heads, Input, InvalidSpec, LabelsMode, Loss, Method, Model, NonNegative, Normalization, Normalize, OptimizerKind,
    Pipeline, Policy, Pooling, Positive, Precision, Ratio, Rehearsal, Replay, ReplayDraws, Resources, Schedule, Share,
    SlotWeights, Spec, Training,
};

use super::flags::{adapter, number, one_of, parameters};
use super::rows::Rows;

#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// A Hugging Face folder, `hf://ORG/NAME@REVISION`, or a model to make from the seed: `mlp:100,100`,
    /// `vit:d=64,layers=4,heads=4,patch=4,mlp=128`, or `resnet18:slim`, `:cifar`, `:imagenet` with `,norm=continual,groups=20,nf=20`
    #[arg(long, value_name = "DIR|SPEC")]
    pub model: String,
    /// What trains: `full`, or `lora:8[,alpha=16][,targets=query,value][,layers=last:2][,rslora]`
    #[arg(long, default_value = "full", value_parser = adapter)]
    adapter: Adapter,
    /// How an update learns
    #[arg(long, value_parser = one_of::<Method>(methods()))]
    pub method: Method,
    /// What is not said is set as this library has it: how terms are added and what they replay, and the sizes of batches.
    /// Default: mammoth for a model made from the seed; for a folder, no library's
    #[arg(long, value_enum, value_name = "LIBRARY")]
    preset: Option<Preset>,
    /// The method's numbers: alpha=0.2,beta=0.5 for der++
    #[arg(long, value_name = "NAME=NUMBER,…", value_parser = parameters)]
    loss_weights: Option<BTreeMap<String, f64>>,
    /// none: terms are added; sum: and divided by the sum of their weights
    #[arg(long, value_parser = one_of::<Normalization>(["none", "sum"]))]
    loss_normalization: Option<Normalization>,
    /// Whether the terms of der++ replay the same rows
    #[arg(long, value_parser = one_of::<ReplayDraws>(["independent", "shared"]))]
    replay_draws: Option<ReplayDraws>,
    /// Which weights of cls-er and super-er become the version. Default: stable for cls-er, working for super-er
    #[arg(long, value_parser = one_of::<Deploys>(["stable", "working"]))]
    deploys: Option<Deploys>,
    /// How pod-er and super-er pool the outputs of blocks
    #[arg(long, default_value = "spatial", value_parser = one_of::<FeaturePooling>(["spatial", "channel", "gap", "pixel"]))]
    feature_pooling: FeaturePooling,
    /// Leave classes that no row of the update has out of the cross-entropy
    #[arg(long)]
    mask_absent_classes: bool,
    /// Which rows the rehearsal buffer keeps. Default: what the method is used with, for most reservoir
    #[arg(long, value_parser = one_of::<Policy>(Policy::ALL.map(Policy::name)))]
    buffer: Option<Policy>,
    /// What the weights that gmc gives its rows do: each row's loss counts by its weight, or it is replayed as often
    #[arg(long, default_value = "loss", value_parser = one_of::<SlotWeights>(["loss", "sampling", "unit"]))]
    buffer_weights: SlotWeights,
    /// Draws of the initial weights whose gradients gmc matches
    #[arg(long, value_name = "N", default_value = "10")]
    gmc_initialisations: NonZeroU32,
    /// Let gmc match each label's rows on their own
    #[arg(long)]
    gmc_per_class: bool,
    /// Let gmc weigh rows that are drawn uniformly from all offered, instead of choosing them
    #[arg(long)]
    gmc_uniform: bool,
    /// Let gmc match the gradients of all weights, projected to so many numbers, instead of the last layer's
    #[arg(long, value_name = "COLUMNS")]
    gmc_projection: Option<NonZeroU32>,
    /// Report after each task how far the buffer's gradient is from that of everything offered
    #[arg(long)]
    measure_residual: bool,
    /// How slowly what memory keeps of a row follows the model when the row is replayed; 1: not at all
    #[arg(long, value_name = "DECAY", default_value = "1", allow_negative_numbers = true, value_parser = number::<Ratio>)]
    refresh_decay: Ratio,
    /// Rows the buffer holds at most
    #[arg(long, value_name = "ROWS", default_value = "500")]
    buffer_size: NonZeroU32,
    /// When rows are offered to the buffer: after the step that saw them, or after the task. Default: online for er, der,
    /// der++ and cls-er where a whole model sees each row once, else chunk
    #[arg(long, value_parser = one_of::<BufferUpdate>(["online", "chunk"]))]
    buffer_update: Option<BufferUpdate>,
    /// This share of each batch is remembered rows. Default: the preset's, else 0.5
    #[arg(long, value_name = "SHARE", conflicts_with = "replay_batch", allow_negative_numbers = true, value_parser = number::<Share>)]
    replay_fraction: Option<Share>,
    /// So many remembered rows beside each batch. With the preset mammoth, as many as the batch has
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
    /// tasks: a row is told apart from labels of its own task only, in training and evaluation
    #[arg(long, default_value = "labels", value_parser = one_of::<Heads>(["labels", "tasks"]))]
    heads: Heads,
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
    #[command(flatten)]
    rows: Rows,
}

/// Another library's way of putting a step together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// Terms are added, each replays rows of its own, as many as there are new ones
    Mammoth,
    /// Terms are divided by the sum of their weights and share one draw, half of each batch
    Renate,
}

impl Preset {
    fn usual(model: &Model) -> Option<Self> {
        matches!(model, Model::Scratch(_)).then_some(Self::Mammoth)
    }
}

fn methods() -> PossibleValuesParser {
    Method::ALL.map(|method| PossibleValue::new(method.name()).help(method.title())).into()
}

impl Settings {
    /// The pipeline that a daemon would be given; `model` is what [`Settings::model`] names.
    pub fn spec(&self, model: Model, labels: Vec<String>, seed: u64) -> Result<Spec, InvalidSpec> {
        let preset = self.preset.or_else(|| Preset::usual(&model));
        let spec = Spec {
            namespace: domain::id::Namespace::default(),
            name: "bench".parse().expect("a valid name"),
            task: "main".parse().expect("a valid name"),
            model,
            adapter: self.adapter.clone(),
            labels,
            labels_mode: LabelsMode::Closed,
            heads: self.heads,
            input: Input {
                normalize: self.normalize,
                max_length: self.max_length,
                pooling: self.pooling,
                augment: self.rows.augment.clone(),
                ..Input::default()
            },
            method: self.method,
            loss: self.loss(preset),
            rehearsal: self.rehearsal(),
            training: self.training(preset),
            resources: Resources { ranks: self.ranks, threads_per_rank: self.threads_per_rank, ..Resources::default() },
            // Others' figures are of all rows of a stream.
            evaluation: Evaluation { contamination: Contamination::Off, ..Evaluation::default() },
            gate: GateSpec { mode: GateMode::Report, ..GateSpec::default() },
            trigger: domain::pipeline::Trigger::Manual,
            data: Data::default(),
            sources: Vec::new(),
            retention: domain::pipeline::Retention::default(),
            seed,
        };
        Pipeline::try_from(spec).map(Spec::from)
    }

    fn rehearsal(&self) -> Rehearsal {
        let gmc = Gmc {
            initialisations: self.gmc_initialisations,
            per_class: self.gmc_per_class,
            rows: if self.gmc_uniform { GmcRows::Uniform } else { GmcRows::Matched },
            projection: self.gmc_projection,
            ..Gmc::default()
        };
        Rehearsal {
            policy: self.buffer,
            memory_size: self.buffer_size,
            update: self.buffer_update,
            weights: self.buffer_weights,
            refresh_decay: self.refresh_decay,
            gmc,
            measure_residual: self.measure_residual,
        }
    }

    fn loss(&self, preset: Option<Preset>) -> Loss {
        let (normalization, replay_draws) = match preset {
            Some(Preset::Renate) => (Normalization::Sum, ReplayDraws::Shared),
            Some(Preset::Mammoth) | None => (Normalization::None, ReplayDraws::Independent),
        };
        // A preset says nothing to a method that would pass it over.
        let normalization = if self.method.weighs_terms() { normalization } else { Normalization::default() };
        let replay_draws = if self.method == Method::DerPlusPlus { replay_draws } else { ReplayDraws::default() };
        Loss {
            parameters: self.loss_weights.clone().unwrap_or_default(),
            normalization: self.loss_normalization.unwrap_or(normalization),
            replay_draws: self.replay_draws.unwrap_or(replay_draws),
            deploys: self.deploys,
            feature_pooling: self.feature_pooling,
            mask_absent_classes: self.mask_absent_classes,
        }
    }

    fn training(&self, preset: Option<Preset>) -> Training {
        let default = Training::default();
        let replay = self.replay_batch.map(Replay::Batch).or(self.replay_fraction.map(Replay::Fraction));
        let usual = match preset {
            Some(Preset::Mammoth) => Replay::Batch(self.batch),
            Some(Preset::Renate) | None => default.replay,
        };
        let training = Training {
            epochs: self.epochs,
            batch_size: self.batch,
            replay: replay.unwrap_or(usual),
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
        };
        self.rows.training(training)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use domain::pipeline::{Augmentation, Rule};

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
        assert_eq!((training.batch_size.get(), training.split(), training.micro_batches()), (32, (32, 32), 4));
        assert_eq!((training.optimizer, training.learning_rate.get()), (OptimizerKind::Sgd, 0.1));
        assert_eq!((spec.rehearsal.memory_size.get(), spec.buffer_update()), (500, BufferUpdate::Online));
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
        assert_eq!((spec.rehearsal.memory_size.get(), spec.rehearsal.update), (9, Some(BufferUpdate::Chunk)));
    }

    #[test]
    fn what_is_done_with_rows_reaches_the_pipeline() {
        let flags = "--model mlp:10 --method er --augment random_crop,hflip --select top-loss --keep 0.25 \
            --validation-fraction 0.1 --patience 3 --reinitialize shrink=0.9,sigma=0.01 --mask-absent-classes";
        let spec = spec(flags).unwrap();
        let training = &spec.training;
        assert_eq!((training.selection.rule, training.selection.count(16)), (Rule::TopLoss, 4));
        assert_eq!(training.validation.patience.map(NonZeroU32::get), Some(3));
        assert_eq!(training.reinitialize.map(|how| (how.shrink.get(), how.sigma.get())), Some((0.9, 0.01)));
        assert_eq!(spec.input.augment, [Augmentation::RandomCrop, Augmentation::Hflip]);
        assert!(spec.loss.mask_absent_classes);
        let error = parse("--model mlp:10 --method er --reinitialize grow=2").unwrap_err();
        assert!(error.contains("grow") && error.contains("shrink"), "{error}");
    }

    #[test]
    fn a_preset_sets_what_is_not_said() {
        let renate = spec("--model mlp:10 --method der++ --preset renate --replay-draws independent").unwrap();
        assert_eq!(
            (renate.loss.normalization, renate.loss.replay_draws),
            (Normalization::Sum, ReplayDraws::Independent)
        );
        assert_eq!(renate.training.split(), (16, 16));
        let mammoth = spec("--model mlp:10 --method der++ --batch 10 --loss-weights alpha=0.2,beta=1").unwrap();
        assert_eq!(
            (mammoth.loss.normalization, mammoth.loss.replay_draws),
            (Normalization::None, ReplayDraws::Independent)
        );
        assert_eq!(
            (mammoth.training.split(), mammoth.parameter("alpha"), mammoth.parameter("beta")),
            ((10, 10), 0.2, 1.0)
        );
    }

    #[test]
    fn wrong_values_are_answered_with_right_ones() {
        let error = parse("--model mlp:10 --method dark").unwrap_err();
        assert!(error.contains("'dark'") && error.contains("der++"), "{error}");
        let error = parse("--model mlp:10 --method der --loss-weights alpha").unwrap_err();
        assert!(error.contains("`alpha` is not NAME=NUMBER"), "{error}");
        let error = spec("--model mlp:10 --method er --loss-weights gamma=1").unwrap_err();
        assert!(error.contains("`er` takes alpha"), "{error}");
        let error = parse("--model mlp:10 --method er --lr -1").unwrap_err();
        assert!(error.contains("-1 is out of range: must be above 0"), "{error}");
        assert!(parse("--model mlp:10 --method er --replay-batch 2 --replay-fraction 0.5").is_err());
        let error = spec("--model mlp:10 --method er --ranks 3 --batch 10").unwrap_err();
        assert!(error.contains("resources.ranks"), "{error}");
    }
}
