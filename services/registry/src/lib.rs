//! What is registered and what was published: pipelines, versions, aliases, reports, base models.
//!
//! It lays a passed candidate down under its version's name, manifest last, and never decides
//! whether it may.

mod diff;
mod error;
mod evaluations;
mod import;
mod models;
mod pipelines;
pub mod publish;
mod pull;
mod retention;
mod upload;
mod versions;

pub use error::Error;
pub use evaluations::Evaluations;
pub use pipelines::Pipelines;
pub use publish::Publisher;
pub use retention::Retention;
pub use upload::ModelLimits;
pub use versions::Registry;
