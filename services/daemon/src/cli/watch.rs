//! Following a run to its end, across restarts of the server.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::ProgressBar;
use perennial_proto::v1;
use tokio::time::{Instant, sleep, timeout};

use super::client::{Context, present, within};
use super::failure::Failure;
use super::progress;

/// One stream lasts at most this long; the next begins where the run stands.
const STREAM: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(500);

/// The run once it has ended. Progress goes to stderr.
///
/// A server that was `reached` before may be away for up to `--timeout`; another has to answer at once.
pub async fn to_the_end(ctx: &Context, name: String, reached: bool) -> Result<v1::Run, Failure> {
    let server = if reached { Server::AwaySince(Instant::now()) } else { Server::Unknown };
    let mut watch = Watch { ctx, name, server, screen: Screen::new() };
    loop {
        let outcome = watch.stream().await;
        watch.server.lost(Instant::now());
        match outcome {
            Ok(Some(run)) => {
                watch.screen.close();
                return Ok(run);
            }
            Err(failure) if !failure.is_unavailable() => return Err(failure),
            Err(failure) if !watch.server.is_awaited(Instant::now(), ctx.timeout) => return Err(failure),
            Ok(None) | Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Where the server is, as far as is known. A run may look the same for hours: silence on an open stream is no absence.
enum Server {
    Unknown,
    Here,
    AwaySince(Instant),
}

impl Server {
    /// A stream ended or could not be opened. The absence counts from the first time.
    fn lost(&mut self, now: Instant) {
        if let Self::Here = self {
            *self = Self::AwaySince(now);
        }
    }

    fn is_awaited(&self, now: Instant, patience: Duration) -> bool {
        match self {
            Self::Unknown => false,
            Self::Here => true,
            Self::AwaySince(since) => now.duration_since(*since) < patience,
        }
    }
}

struct Watch<'a> {
    ctx: &'a Context,
    name: String,
    server: Server,
    screen: Screen,
}

impl Watch<'_> {
    /// Until the run or the stream ends.
    async fn stream(&mut self) -> Result<Option<v1::Run>, Failure> {
        let request = within(STREAM, v1::WatchRunRequest { name: self.name.clone() });
        let mut updates = self.ctx.runs().await?.watch_run(request).await?.into_inner();
        while let Ok(update) = timeout(STREAM, updates.message()).await {
            let Some(update) = update? else { break };
            self.server = Server::Here;
            let run = present(update.run)?;
            self.screen.show(&run);
            if run.ended_at_ms > 0 {
                return Ok(Some(run));
            }
        }
        Ok(None)
    }
}

/// A bar on a terminal, else a line whenever there is news.
enum Screen {
    Bar(ProgressBar),
    Lines { last: String },
}

impl Screen {
    fn new() -> Self {
        match std::io::stderr().is_terminal() {
            true => Self::Bar(progress::run()),
            false => Self::Lines { last: String::new() },
        }
    }

    fn show(&mut self, run: &v1::Run) {
        match self {
            Self::Bar(bar) => {
                bar.set_message(describe(run));
                bar.set_position(run.progress.as_ref().map_or(0, |p| p.progress_percentage.into()));
            }
            Self::Lines { last } => {
                let news = milestone(run);
                if *last != news {
                    eprintln!("{}", describe(run));
                    *last = news;
                }
            }
        }
    }

    fn close(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn describe(run: &v1::Run) -> String {
    let mut text = format!("run {} {}", run.number, run.state);
    if let Some(p) = &run.progress {
        text.push_str(&format!(": {}", p.stage));
    }
    if let Some(p) = run.progress.as_ref().filter(|p| p.total_steps > 0) {
        text.push_str(&format!(" step {} of {}", p.step, p.total_steps));
        if p.stage == "train" {
            text.push_str(&format!(", loss {:.4}", p.loss));
        }
        if let Ok(left) = Duration::try_from_secs_f64(p.estimated_remaining_seconds.ceil()) {
            text.push_str(&format!(", {} left", humantime::format_duration(left)));
        }
    }
    if run.attempts > 1 {
        text.push_str(&format!(" (attempt {}; the last one ended: {})", run.attempts, run.last_error));
    }
    text
}

/// What has to change for another line: state, attempt, stage, or a tenth of the way.
fn milestone(run: &v1::Run) -> String {
    let at = run.progress.as_ref().map(|p| (p.stage.as_str(), p.progress_percentage / 10));
    format!("{} {} {at:?}", run.state, run.attempts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(step: u64) -> v1::Run {
        let progress = v1::Progress {
            stage: "train".to_owned(),
            step,
            total_steps: 100,
            loss: 0.5,
            progress_percentage: step as u32,
            estimated_remaining_seconds: 61.2,
        };
        v1::Run { number: 7, state: "training".to_owned(), attempts: 1, progress: Some(progress), ..Default::default() }
    }

    #[test]
    fn patience_begins_when_the_server_is_lost_and_not_when_the_run_last_changed() {
        let (start, patience) = (Instant::now(), Duration::from_secs(30));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut server = Server::Unknown;
        server.lost(at(0));
        assert!(!server.is_awaited(at(0), patience), "a server that was never reached has to answer at once");
        server = Server::Here;
        server.lost(at(3600));
        assert!(server.is_awaited(at(3600), patience));
        server.lost(at(3620));
        assert!(server.is_awaited(at(3629), patience));
        assert!(!server.is_awaited(at(3630), patience), "each failed attempt does not begin it anew");
    }

    #[test]
    fn a_line_says_how_far_and_how_long() {
        assert_eq!(describe(&run(40)), "run 7 training: train step 40 of 100, loss 0.5000, 1m 2s left");
    }

    #[test]
    fn lines_come_by_tenths_not_by_steps() {
        assert_eq!(milestone(&run(41)), milestone(&run(49)));
        assert_ne!(milestone(&run(49)), milestone(&run(50)));
    }
}
