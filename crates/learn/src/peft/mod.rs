//! What trains.

mod full;
mod lora;

use domain::pipeline::Adapter;
use tch::{Kind, Tensor};

use crate::Error;
use crate::model::Net;

/// Makes the net trainable as `adapter` says and names what trains, head last.
///
/// `kind` is the type of linear layers that do not train.
pub fn attach(net: &mut Net, adapter: &Adapter, seed: u64, kind: Kind) -> Result<Vec<(String, Tensor)>, Error> {
    let (mut trained, frozen) = match adapter {
        Adapter::Full => (full::attach(net.body.as_ref()), 0),
        Adapter::Lora(settings) => lora::attach(net.body.as_mut(), settings, seed, kind)?,
    };
    net.frozen = frozen;
    trained.extend(net.head.named("head."));
    Ok(trained)
}
