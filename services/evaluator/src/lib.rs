//! Scores models on EvalSets, each in a child process. It judges nothing: that is the gate's.

pub mod attempt;
pub mod score;
