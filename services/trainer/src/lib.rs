//! Trains: fetches what a manifest names, runs the ranks as child processes, uploads what they leave.
//!
//! It decides nothing about runs; whoever assigned the work does.

pub mod attempt;
pub mod gang;
pub mod job;
pub mod rank;
