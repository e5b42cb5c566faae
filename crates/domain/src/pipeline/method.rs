//! How an update learns: the method, and how its loss is put together.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parts::{BufferUpdate, Policy};

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
    /// Complementary learning systems (Arani et al., 2022): two slow copies of the weights teach the working ones.
    ClsEr,
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
    const fn holds(self, value: f64) -> bool {
        match self {
            Self::NonNegative => value >= 0.0 && value.is_finite(),
            Self::Positive => value > 0.0 && value.is_finite(),
            Self::Unit => value >= 0.0 && value <= 1.0,
        }
    }

    const fn described(self) -> &'static str {
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

const CLS_ER: &[Parameter] = &[
    weight("alpha", 0.5),
    weight("beta", 0.1),
    share("plastic_decay", 0.999),
    share("stable_decay", 0.999),
    share("plastic_frequency", 0.9),
    share("stable_frequency", 0.7),
];

impl Method {
    pub const ALL: [Self; 13] = [
        Self::Ft,
        Self::Er,
        Self::OfflineEr,
        Self::Der,
        Self::DerPlusPlus,
        Self::ClsEr,
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
            Self::ClsEr => ("cls-er", "complementary learning systems", Buffer::Online, CLS_ER),
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
        matches!(self, Self::Er | Self::Der | Self::DerPlusPlus | Self::ClsEr | Self::Lwf)
    }

    /// Whether each step draws remembered rows beside its own.
    pub const fn replays(self) -> bool {
        matches!(self, Self::Er | Self::OfflineEr | Self::Der | Self::DerPlusPlus | Self::ClsEr)
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

/// How the terms of a method's loss are put together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Loss {
    /// The method's numbers by name, where they are not its defaults: `{alpha: 0.2, beta: 0.5}`.
    pub parameters: BTreeMap<String, f64>,
    pub normalization: Normalization,
    pub replay_draws: ReplayDraws,
    /// Of `cls-er`.
    pub deploys: Deploys,
}

impl Loss {
    /// What the method's parameter `name` is.
    ///
    /// # Panics
    /// If the method has none of that name.
    pub fn parameter(&self, method: Method, name: &str) -> f64 {
        let known = method.parameters().iter().find(|parameter| parameter.name == name);
        let default = known.unwrap_or_else(|| panic!("`{}` takes no `{name}`", method.name())).default;
        self.parameters.get(name).copied().unwrap_or(default)
    }

    /// Otherwise what is wrong: the value given, and the reason.
    pub(super) fn check(&self, method: Method) -> Result<(), (String, String)> {
        for (name, &value) in &self.parameters {
            let given = format!("naming `{name}: {value}`");
            match method.parameters().iter().find(|parameter| parameter.name == name) {
                None => return Err((given, unknown(method))),
                Some(known) if !known.range.holds(value) => return Err((given, known.range.described().to_owned())),
                Some(_) => (),
            }
        }
        if method == Method::ClsEr {
            self.check_copies()?;
        }
        Ok(())
    }

    /// Otherwise the key that the method would pass over, and what it says.
    pub(super) fn idle(&self, method: Method) -> Option<(&'static str, &'static str)> {
        let keys = [
            ("loss.normalization", "sum", self.normalization != Normalization::default() && !method.weighs_terms()),
            (
                "loss.replay_draws",
                "shared",
                self.replay_draws != ReplayDraws::default() && method != Method::DerPlusPlus,
            ),
            ("loss.deploys", "working", self.deploys != Deploys::default() && method != Method::ClsEr),
        ];
        keys.into_iter().find(|(.., is_idle)| *is_idle).map(|(key, value, _)| (key, value))
    }

    /// The plastic copy follows the working weights more closely than the stable one.
    fn check_copies(&self) -> Result<(), (String, String)> {
        let of = |name| self.parameter(Method::ClsEr, name);
        let pairs = [("plastic_frequency", "stable_frequency"), ("stable_decay", "plastic_decay")];
        let [often, slow] = pairs.map(|(larger, smaller)| (of(larger), of(smaller)));
        if often.0 <= often.1 {
            let given = format!("naming `plastic_frequency: {}`", often.0);
            return Err((given, format!("must be above `stable_frequency`, {}", often.1)));
        }
        if slow.0 < slow.1 {
            let given = format!("naming `plastic_decay: {}`", slow.1);
            return Err((given, format!("must not be above `stable_decay`, {}", slow.0)));
        }
        Ok(())
    }
}

fn unknown(method: Method) -> String {
    let names: Vec<&str> = method.parameters().iter().map(|parameter| parameter.name).collect();
    match names.is_empty() {
        true => format!("`{}` takes none", method.name()),
        false => format!("`{}` takes {}", method.name(), names.join(", ")),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// Terms are added as in the papers.
    #[default]
    None,
    /// Their sum is divided by the sum of their weights, as in Renate.
    Sum,
}

/// Whether terms of a loss that replay see the same remembered rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReplayDraws {
    /// Each term draws its own, as in the paper of `der++`.
    #[default]
    Independent,
    /// One draw for all terms, as in Renate.
    Shared,
}

/// Which weights of `cls-er` become the version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Deploys {
    /// The slow copy, as in the paper.
    #[default]
    Stable,
    /// The weights that trained, as in Renate.
    Working,
}

/// When rows are offered where the file does not say.
pub(super) fn usual_update(method: Method, selects: bool, epochs: u32, adapts: bool) -> BufferUpdate {
    match method.about().buffer == Buffer::Online && !selects && epochs == 1 && !adapts {
        true => BufferUpdate::Online,
        false => BufferUpdate::Chunk,
    }
}
