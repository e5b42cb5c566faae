//! Learning without forgetting (Li and Hoiem, 2017): `L = CE(f(x), y) + α·KD(f(x), f_old(x))` on the new rows, where
//! `KD = −Σ softmax(z_old/T)·log softmax(z/T)` over the classes that earlier chunks held.
//!
//! The paper has one head a task; with one head for all, the old classes are its old task's.

use tch::{Kind, Tensor};

use super::terms::{cross_entropy, mean, normalized};
use super::{Batch, Learner, Start, State, Step, UpdateMethod};

pub struct WithoutForgetting {
    alpha: f64,
    temperature: f64,
    sum: bool,
    teacher: Option<Teacher>,
}

struct Teacher {
    /// The parent's weights.
    values: Tensor,
    /// Positions of the classes it was taught.
    classes: Tensor,
}

impl WithoutForgetting {
    pub fn new(alpha: f64, temperature: f64, sum: bool) -> Self {
        Self { alpha, temperature, sum, teacher: None }
    }

    fn distilled(&self, teacher: &Teacher, theirs: &Tensor, logits: &Tensor, batch: &Batch) -> Tensor {
        let soft = |z: &Tensor| z.index_select(1, &teacher.classes) / self.temperature;
        let log = soft(logits).log_softmax(-1, Kind::Float);
        let rows = -(soft(theirs).softmax(-1, Kind::Float) * log).sum_dim_intlist(&[1i64][..], false, Kind::Float);
        mean(rows, batch)
    }
}

impl UpdateMethod for WithoutForgetting {
    fn loss(&self, learner: &Learner, fresh: &Batch, _memory: &[Batch]) -> Step {
        let theirs = self.teacher.as_ref().map(|teacher| (teacher, learner.asked(&teacher.values, &fresh.inputs)));
        let logits = learner.forward(&fresh.inputs);
        let new = cross_entropy(&logits, fresh);
        let loss = match theirs {
            None => new,
            Some((teacher, theirs)) => {
                let loss = new + self.alpha * self.distilled(teacher, &theirs, &logits, fresh);
                normalized(loss, self.sum, &[self.alpha])
            }
        };
        Step::new(loss, logits)
    }

    fn begin(&mut self, start: &Start, _state: State) {
        let taught = (0..).zip(start.seen).filter(|(_, rows)| **rows > 0);
        let classes: Vec<i64> = taught.map(|(class, _)| class).collect();
        if self.alpha > 0.0 && !classes.is_empty() {
            let classes = Tensor::from_slice(&classes).to_device(start.weights.values.device());
            self.teacher = Some(Teacher { values: start.weights.values.copy(), classes });
        }
    }
}
