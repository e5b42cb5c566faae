//! Every parameter trains.

use tch::Tensor;

use crate::model::Model;

pub fn attach(model: &dyn Model) -> Vec<(String, Tensor)> {
    model.tensors()
}
