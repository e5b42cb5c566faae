//! Models of the Hugging Face Hub, brought to a local folder. The one place that talks to the Hub.
//!
//! Endpoint, token and cache are those of Python's `huggingface_hub`: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`. What is made
//! of a folder, and who may read it, is decided elsewhere.

mod error;
mod fetch;
mod source;

pub use error::Error;
pub use fetch::{Report, fetch};
pub use source::Source;
