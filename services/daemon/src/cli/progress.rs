//! Progress, on stderr: a bar on a terminal, nothing or lines otherwise.

use indicatif::{ProgressBar, ProgressStyle};

/// Of a transfer. Draws nothing where stderr is no terminal.
pub fn transfer(bytes: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(bytes).with_message(what.to_owned());
    bar.set_style(style("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}"));
    bar
}

/// Of a run, in hundredths.
pub fn run() -> ProgressBar {
    let bar = ProgressBar::new(100);
    bar.set_style(style("{msg} {wide_bar} {pos} %"));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
