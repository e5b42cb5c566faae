//! Terms that losses are made of. Each is a micro-batch's part of a mean over the step's rows.

use tch::{Kind, Reduction, Tensor};

use super::Batch;

/// `CE(z, y)`, nats.
pub fn cross_entropy(logits: &Tensor, batch: &Batch) -> Tensor {
    let masked = batch.absent.as_ref().map(|absent| logits + absent);
    let logits = masked.as_ref().unwrap_or(logits);
    let of = |reduction| logits.cross_entropy_loss(&batch.labels, None::<&Tensor>, reduction, -100, 0.0);
    let sum = match &batch.weights {
        Some(weights) => (of(Reduction::None) * weights).sum(Kind::Float),
        None => of(Reduction::Sum),
    };
    sum / batch.of
}

/// `MSE(z, z°)`: a row's mean over the classes its stored logits know; 0 for a row without any.
pub fn logit_distance(logits: &Tensor, batch: &Batch) -> Tensor {
    let (kept, classes) = (stored(batch), logits.size()[1]);
    mean(row_distance(logits, &kept.narrow(1, kept.size()[1] - classes, classes)), batch)
}

/// `1/L Σ_l ‖h_l − h°_l‖` over L levels of pooled features (POD; Douillard et al., 2020); 0 for a row without any.
pub fn feature_distance(levels: &[Tensor], batch: &Batch) -> Tensor {
    let (kept, mut start) = (stored(batch), 0);
    let distances = levels.iter().map(|level| {
        let width = level.size()[1];
        start += width;
        let then = kept.narrow(1, start - width, width);
        let known = then.isfinite().to_kind(Kind::Float);
        let difference = (level - then.nan_to_num(0.0, 0.0, 0.0)) * known;
        difference.norm_scalaropt_dim(2.0, &[1i64][..], false)
    });
    let sum = distances.reduce(|sum, next| sum + next).expect("a model has features");
    mean(sum / levels.len() as f64, batch)
}

fn stored(batch: &Batch) -> &Tensor {
    batch.kept.as_ref().expect("memory keeps answers")
}

/// The micro-batch's part of the mean of what each row (rows) comes to, by the rows' weights.
pub fn mean(rows: Tensor, batch: &Batch) -> Tensor {
    let rows = match &batch.weights {
        Some(weights) => rows * weights,
        None => rows,
    };
    rows.sum(Kind::Float) / batch.of
}

/// (rows): squared differences, averaged over each row's known classes.
pub fn row_distance(logits: &Tensor, stored: &Tensor) -> Tensor {
    let known = stored.isfinite();
    let difference = (logits - stored.nan_to_num(0.0, 0.0, 0.0)) * known.to_kind(Kind::Float);
    let classes = known.sum_dim_intlist(&[1i64][..], false, Kind::Float).clamp_min(1.0);
    difference.square().sum_dim_intlist(&[1i64][..], false, Kind::Float) / classes
}

/// `factor·term`; the term itself where that is the same.
pub fn times(factor: f64, term: Tensor) -> Tensor {
    if factor == 1.0 { term } else { factor * term }
}

/// A sum of terms with these weights, the new rows' being 1; divided by the sum of the weights if that is asked for.
pub fn normalized(loss: Tensor, sum: bool, weights: &[f64]) -> Tensor {
    if sum { loss / (1.0 + weights.iter().sum::<f64>()) } else { loss }
}
