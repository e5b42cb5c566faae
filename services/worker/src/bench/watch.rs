//! Progress on stderr: a bar on a terminal, lines otherwise.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use trainer::job::Progress;

pub struct Watch {
    /// None where stderr is no terminal.
    bar: Option<ProgressBar>,
    last: Mutex<Last>,
}

/// What is under way, and when a line was last written about it.
struct Last {
    what: String,
    line: Instant,
}

/// Lines about the same thing are at least this far apart.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Watch {
    pub fn new() -> Self {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = || {
            let bar = ProgressBar::new(0).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        };
        Self {
            bar: std::io::stderr().is_terminal().then(bar),
            last: Mutex::new(Last { what: String::new(), line: now() }),
        }
    }

    pub fn begin(&self, what: &str) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Last { what: what.to_owned(), line: now() };
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(0);
            bar.set_message(what.to_owned());
        }
    }

    pub fn step(&self, at: Progress) {
        if let Some(bar) = &self.bar {
            bar.set_length(at.total);
            bar.set_position(at.step);
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if now() - last.line >= LINE_EVERY {
            last.line = now();
            let loss = at.loss.map_or_else(String::new, |loss| format!(", loss {loss:.3}"));
            self.say(&format!("{}: step {}/{}{loss}", last.what, at.step, at.total));
        }
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            // Progress that nobody reads is no error.
            None => drop(writeln!(std::io::stderr(), "{line}")),
        }
    }

    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Seconds since the call.
pub fn clock() -> impl Fn() -> f64 {
    let start = now();
    move || (now() - start).as_secs_f64()
}

#[expect(clippy::disallowed_methods, reason = "the command's shell is where its time is read")]
fn now() -> Instant {
    Instant::now()
}
