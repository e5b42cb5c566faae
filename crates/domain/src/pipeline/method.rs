//! How an update learns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rehearsal::{BufferUpdate, Policy};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Fine-tuning on the new chunk alone; nothing is replayed.
    Ft,
    /// Experience replay (Chaudhry et al., 2019).
    Er,
    /// Experience replay whose terms weigh as much as the data they stand for; memory takes the chunk after training.
    OfflineEr,
    /// Dark experience replay (Buzzega et al., 2020): remembered rows keep the logits they had.
    Der,
    /// Dark experience replay with labels (DER++; Buzzega et al., 2020).
    #[serde(rename = "der++")]
    DerPlusPlus,
    /// Experience replay that keeps pooled features too (Douillard et al., 2020, as Renate has it).
    PodEr,
    /// Complementary learning systems (Arani et al., 2022): two slow copies of the weights teach the working ones.
    ClsEr,
    /// Terms of `der++`, `cls-er` and `pod-er` together, after a shrink and a perturbation of the weights (Renate).
    SuperEr,
    /// Repeated distillation (Renate): an expert learns the chunk, then memory teaches a fresh model.
    Rd,
    /// Elastic weight consolidation (Kirkpatrick et al., 2017): one quadratic penalty for each earlier update.
    Ewc,
    /// Elastic weight consolidation with one running penalty (Schwarz et al., 2018).
    OnlineEwc,
    /// Learning without forgetting (Li and Hoiem, 2017): the parent's answers on the new rows are kept.
    Lwf,
    /// iCaRL (Rebuffi et al., 2017): the parent's answers on old classes are kept, and the nearest class mean decides.
    Icarl,
    /// GDumb (Prabhu et al., 2020): training from the base's weights on the memory alone.
    Gdumb,
    /// Training on everything seen so far; the upper reference.
    Joint,
}

/// A number that a method's loss takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    pub name: &'static str,
    pub default: f64,
    pub range: Range,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Zero or more.
    NonNegative,
    /// Above zero.
    Positive,
    /// From 0 to 1.
    Unit,
}

impl Range {
    pub(super) const fn holds(self, value: f64) -> bool {
        match self {
            Self::NonNegative => value >= 0.0 && value.is_finite(),
            Self::Positive => value > 0.0 && value.is_finite(),
            Self::Unit => value >= 0.0 && value <= 1.0,
        }
    }

    pub(super) const fn described(self) -> &'static str {
        match self {
            Self::NonNegative => "must be 0 or above",
            Self::Positive => "must be above 0",
            Self::Unit => "must be from 0 to 1",
        }
    }
}

const fn weight(name: &'static str, default: f64) -> Parameter {
    Parameter { name, default, range: Range::NonNegative }
}

const fn share(name: &'static str, default: f64) -> Parameter {
    Parameter { name, default, range: Range::Unit }
}

/// What others ask of a method.
struct About {
    name: &'static str,
    title: &'static str,
    buffer: Buffer,
    /// Defaults are Renate's (Zappella et al., 2023) where it has the method, else the paper's.
    parameters: &'static [Parameter],
}

/// How a method and its rehearsal buffer go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Buffer {
    /// Replayed from while it fills, where rows come once.
    Online,
    /// Not read while training.
    Unread,
    /// Filled after training only. This policy, if none is named.
    After(Policy),
    /// This policy, whatever the file says.
    Only(Policy),
}

/// Weights of a loss with two copies of the weights, and how those follow.
macro_rules! with_copies {
    ($($weight:expr),*) => {
        const {
            &[
                $($weight,)*
                share("plastic_decay", 0.999),
                share("stable_decay", 0.999),
                share("plastic_frequency", 0.9),
                share("stable_frequency", 0.7),
            ]
        }
    };
}

const CLS_ER: &[Parameter] = with_copies!(weight("alpha", 0.5), weight("beta", 0.1));
const SUPER_ER: &[Parameter] =
    with_copies!(weight("alpha", 1.0), weight("beta", 1.0), weight("cls", 0.1), weight("pod", 1.0));

impl Method {
    pub const ALL: [Self; 15] = [
        Self::Ft,
        Self::Er,
        Self::OfflineEr,
        Self::Der,
        Self::DerPlusPlus,
        Self::PodEr,
        Self::ClsEr,
        Self::SuperEr,
        Self::Rd,
        Self::Ewc,
        Self::OnlineEwc,
        Self::Lwf,
        Self::Icarl,
        Self::Gdumb,
        Self::Joint,
    ];

    const fn about(self) -> About {
        let (name, title, buffer, parameters): (_, _, _, &'static [Parameter]) = match self {
            Self::Ft => ("ft", "fine-tuning", Buffer::Unread, &[]),
            Self::Er => ("er", "experience replay", Buffer::Online, const { &[weight("alpha", 1.0)] }),
            Self::OfflineEr => (
                "offline-er",
                "experience replay weighed by the numbers of rows",
                Buffer::After(Policy::Reservoir),
                &[],
            ),
            Self::Der => ("der", "dark experience replay", Buffer::Online, const { &[weight("alpha", 1.0)] }),
            Self::DerPlusPlus => (
                "der++",
                "dark experience replay with labels",
                Buffer::Online,
                const { &[weight("alpha", 1.0), weight("beta", 1.0)] },
            ),
            Self::PodEr => {
                ("pod-er", "experience replay with pooled features", Buffer::Online, const { &[weight("alpha", 1.0)] })
            }
            Self::ClsEr => ("cls-er", "complementary learning systems", Buffer::Online, CLS_ER),
            Self::SuperEr => ("super-er", "experience replay with every term", Buffer::Online, SUPER_ER),
            Self::Rd => ("rd", "repeated distillation", Buffer::After(Policy::Reservoir), &[]),
            Self::Ewc => ("ewc", "elastic weight consolidation", Buffer::Unread, const { &[weight("lambda", 0.8)] }),
            Self::OnlineEwc => (
                "online-ewc",
                "elastic weight consolidation with one running penalty",
                Buffer::Unread,
                const { &[weight("lambda", 0.8), share("gamma", 1.0)] },
            ),
            Self::Lwf => (
                "lwf",
                "learning without forgetting",
                Buffer::Unread,
                const { &[weight("alpha", 1.0), Parameter { name: "temperature", default: 2.0, range: Range::Positive }] },
            ),
            Self::Icarl => {
                ("icarl", "incremental classifier and representation learning", Buffer::After(Policy::Herding), &[])
            }
            Self::Gdumb => ("gdumb", "training anew on memory alone", Buffer::After(Policy::ClassBalanced), &[]),
            Self::Joint => ("joint", "joint training on everything seen", Buffer::Only(Policy::Infinite), &[]),
        };
        About { name, title, buffer, parameters }
    }

    /// As a pipeline file writes it.
    pub const fn name(self) -> &'static str {
        self.about().name
    }

    /// As people read it, within a sentence.
    pub const fn title(self) -> &'static str {
        self.about().title
    }

    /// What `loss.parameters` may name.
    pub const fn parameters(self) -> &'static [Parameter] {
        self.about().parameters
    }

    /// Whether its loss is a sum of terms with weights.
    pub const fn weighs_terms(self) -> bool {
        matches!(self, Self::Lwf) || (self.replays() && !matches!(self, Self::OfflineEr))
    }

    /// Whether each step draws remembered rows beside its own.
    pub const fn replays(self) -> bool {
        matches!(self, Self::Er | Self::OfflineEr | Self::ClsEr) || self.keeps_answers()
    }

    /// Whether memory keeps logits or features that rows had when they entered.
    pub const fn keeps_answers(self) -> bool {
        matches!(self, Self::Der | Self::DerPlusPlus) || self.keeps_features()
    }

    pub(super) const fn keeps_features(self) -> bool {
        matches!(self, Self::PodEr | Self::SuperEr)
    }

    /// Whether slow copies of the weights teach.
    pub(super) const fn has_copies(self) -> bool {
        matches!(self, Self::ClsEr | Self::SuperEr)
    }

    /// Whether labels of new rows enter by a cross-entropy, which absent classes can be left out of.
    pub(super) const fn masks(self) -> bool {
        !matches!(self, Self::Icarl)
    }

    /// The policy in force where the file names `asked`.
    pub(super) fn policy(self, asked: Option<Policy>) -> Policy {
        match self.about().buffer {
            Buffer::Online | Buffer::Unread => asked.unwrap_or_default(),
            Buffer::After(usual) => asked.unwrap_or(usual),
            Buffer::Only(policy) => policy,
        }
    }

    /// Whether rows may be offered to the buffer while the method trains.
    pub(super) fn may_offer_online(self) -> bool {
        !matches!(self.about().buffer, Buffer::After(_))
    }
}

/// When rows are offered where the file does not say.
pub(super) fn usual_update(method: Method, selects: bool, epochs: u32, adapts: bool) -> BufferUpdate {
    match method.about().buffer == Buffer::Online && !selects && epochs == 1 && !adapts {
        true => BufferUpdate::Online,
        false => BufferUpdate::Chunk,
    }
}
