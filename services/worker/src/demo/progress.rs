//! How far the demo is, on stderr: bars on a terminal, lines elsewhere. Stdout is for results.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use perennial_proto::v1;

/// Lines about one piece of work are at least this far apart.
const LINE_EVERY: Duration = Duration::from_secs(10);
const REDRAW: Duration = Duration::from_millis(120);

pub struct Progress {
    started: Instant,
    bars: MultiProgress,
}

/// One piece of work under way.
pub struct Track<'a> {
    progress: &'a Progress,
    what: String,
    bar: ProgressBar,
    said: Mutex<Instant>,
}

impl Progress {
    pub fn new() -> Self {
        Self { started: now(), bars: MultiProgress::new() }
    }

    fn is_terminal(&self) -> bool {
        !self.bars.is_hidden()
    }

    /// A line that stays.
    pub fn say(&self, text: impl AsRef<str>) {
        let line = format!("[{:6.1} s] {}", (now() - self.started).as_secs_f64(), text.as_ref());
        // Beneath bars that are drawn, the line would be overwritten.
        self.bars.suspend(|| eprintln!("{line}"));
    }

    pub fn track(&self, what: &str) -> Track<'_> {
        let bar = self.bars.add(ProgressBar::new(100));
        let style = ProgressStyle::with_template("  {spinner} {prefix:<28} {bar:24} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(what.to_owned());
        if self.is_terminal() {
            bar.enable_steady_tick(REDRAW);
        }
        Track { progress: self, what: what.to_owned(), bar, said: Mutex::new(now()) }
    }
}

impl Track<'_> {
    /// `share` of the work is done, from 0 to 1.
    pub fn at(&self, share: f64, message: &str) {
        self.bar.set_position((100.0 * share) as u64);
        self.bar.set_message(message.to_owned());
        if self.progress.is_terminal() {
            return;
        }
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if now() - *said >= LINE_EVERY {
            *said = now();
            self.progress.say(format!("{}: {:.0} %, {message}", self.what, 100.0 * share));
        }
    }

    pub fn run(&self, run: &v1::Run) {
        // Whoever waits for its end tells of it.
        if run.ended_at_ms == 0 {
            let (share, message) = stage(run);
            self.at(share, &message);
        }
    }
}

impl Drop for Track<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// How far a run is and what it does, of a bar that fills once: training takes most of it.
fn stage(run: &v1::Run) -> (f64, String) {
    const TRAINED: f64 = 0.8;
    let done = |progress: &v1::Progress| progress.step as f64 / progress.total_steps.max(1) as f64;
    let progress = run.progress.as_ref().filter(|progress| progress.total_steps > 0);
    match (run.state.as_str(), progress) {
        ("queued", _) => (0.0, "waits for a worker".to_owned()),
        ("training", None) => (0.0, "starts its ranks".to_owned()),
        ("training", Some(at)) => (TRAINED * done(at), training(at)),
        ("evaluating", at) => {
            (TRAINED + (0.95 - TRAINED) * at.map_or(0.0, done), "measures on held-out items".to_owned())
        }
        ("publishing", _) => (0.95, "publishes".to_owned()),
        (state, _) => (1.0, state.to_owned()),
    }
}

fn training(at: &v1::Progress) -> String {
    let mut text = format!("step {} of {}", at.step, at.total_steps);
    if at.loss.is_finite() {
        text.push_str(&format!(", loss {:.3}", at.loss));
    }
    if at.estimated_remaining_seconds >= 1.0 {
        text.push_str(&format!(", {:.0} s to go", at.estimated_remaining_seconds));
    }
    text
}

#[expect(clippy::disallowed_methods, reason = "the demo is a shell: this is where its time is read")]
pub fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(state: &str, step: u64) -> v1::Run {
        let progress =
            v1::Progress { step, total_steps: 10, loss: 0.5, estimated_remaining_seconds: 3.0, ..Default::default() };
        v1::Run { state: state.to_owned(), progress: Some(progress), ..Default::default() }
    }

    #[test]
    fn a_run_fills_its_bar_once() {
        let states = [
            ("queued", 0),
            ("training", 1),
            ("training", 9),
            ("evaluating", 0),
            ("evaluating", 10),
            ("publishing", 0),
            ("published", 0),
        ];
        let shares: Vec<f64> = states.iter().map(|(state, step)| stage(&run(state, *step)).0).collect();
        assert!(shares.is_sorted(), "{shares:?}");
        assert_eq!(stage(&run("training", 5)).1, "step 5 of 10, loss 0.500, 3 s to go");
    }
}
