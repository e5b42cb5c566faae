//! Ingest and record as a producer meets them: over gRPC, with a real store and journal below.

mod bad_data;
mod busy;
mod harness;
mod labels;
mod producers;
mod push;
mod quarantine;
mod received;
mod resume;
mod watch;
