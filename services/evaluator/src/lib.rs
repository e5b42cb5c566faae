//! Scores models on EvalSets, and compares chunks with what was known, each in a child process. It judges nothing: that is
//! the gate's.

pub mod attempt;
pub mod measure;
pub mod score;
