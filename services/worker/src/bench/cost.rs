//! What an update cost beyond what its rank says.

use domain::buffer::Snapshot;
use domain::draw::Draw;
use domain::pipeline::{BufferUpdate, Method};
use learn::batch::Order;
use trainer::job::TrainJob;

/// Lets the kernel measure the largest resident set from here on. Where it refuses, peaks of earlier
/// seeds still count.
pub fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Seconds the buffer's draws and offers take. The core has no clock, so they are made once more.
pub fn rehearsal(job: &TrainJob, clock: impl Fn() -> f64) -> anyhow::Result<f64> {
    let (manifest, pipeline) = (&job.manifest, &job.manifest.pipeline);
    if pipeline.method == Method::Ft {
        return Ok(0.0);
    }
    let mut snapshot = match &job.snapshot {
        Some(file) => serde_json::from_slice(&std::fs::read(file)?)?,
        None => Snapshot::empty(pipeline.policy(), u64::from(pipeline.rehearsal.memory_size.get()), pipeline.seed),
    };
    let start = clock();
    for chunk in &manifest.chunks {
        let rows: u64 = chunk.train.iter().map(|shard| shard.rows).sum();
        let (new, memory) = pipeline.training.split();
        let replayed = if pipeline.method == Method::Er { memory } else { 0 };
        let order =
            Order::new(pipeline.seed, manifest.update, rows as usize, new, u64::from(pipeline.training.epochs.get()));
        let (stream, online) =
            (Draw::new(pipeline.seed).named("replay"), pipeline.rehearsal.update == BufferUpdate::Step);
        let mut offered = 0;
        for step in 0..order.steps() {
            std::hint::black_box(buffer::draw(&snapshot, stream, step, replayed));
            while online && offered < rows.min((step + 1) * new as u64) {
                buffer::offer(&mut snapshot, &chunk.id, offered as u32);
                offered += 1;
            }
        }
        (offered..rows).for_each(|row| buffer::offer(&mut snapshot, &chunk.id, row as u32));
    }
    Ok(clock() - start)
}
