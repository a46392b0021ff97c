//! Progress on stderr: one line that is redrawn on a terminal, some plain lines otherwise.
#![forbid(unsafe_code)]

use super::help::size;
use crate::engine::request::{Progress, Stage};
use crate::host::report::duration;
use std::io::Write;
use std::time::{Duration, Instant};

/// Time between two plain lines of one stage.
const PLAIN_LINE: Duration = Duration::from_secs(10);

/// Cells of the bar.
const CELLS: usize = 16;

/// What was last shown.
#[derive(Default)]
pub struct Bar {
    shown: Option<(Stage, u32)>,
    line_at: Option<Instant>,
    drawn: bool,
}

impl Bar {
    /// Shows `progress` if there is something new in it.
    pub fn show(&mut self, progress: &Progress) {
        if self.shown == Some((progress.stage, progress.step)) {
            return;
        }
        let new_stage = self.shown.is_none_or(|(stage, _)| stage != progress.stage);
        self.shown = Some((progress.stage, progress.step));
        // A terminal that went away is no reason to stop the edit, so a failed write is ignored.
        if let Some((width, _)) = terminal_size::terminal_size_of(std::io::stderr()) {
            let cut: String = line(progress, true).chars().take(usize::from(width.0).saturating_sub(1)).collect();
            let _ = write!(std::io::stderr(), "\r\x1b[2K{cut}");
            self.drawn = true;
        } else if new_stage || self.line_at.is_none_or(|at| at.elapsed() >= PLAIN_LINE) {
            let _ = writeln!(std::io::stderr(), "{}", line(progress, false));
            self.line_at = Some(Instant::now());
        }
    }

    /// Removes the line, so that other text can follow.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
        *self = Self::default();
    }
}

/// The same for a download.
pub struct Transfer {
    bytes: u64,
    /// When it began, and with how many bytes that were there.
    began: Option<(Instant, u64)>,
    shown_at: Option<Instant>,
    drawn: bool,
}

impl Transfer {
    /// Of `bytes` in all.
    pub fn new(bytes: u64) -> Self {
        Self { bytes, began: None, shown_at: None, drawn: false }
    }

    /// Shows that `here` bytes have come, some of them of the file `name`.
    pub fn show(&mut self, name: &str, here: u64) {
        const REDRAW: Duration = Duration::from_millis(200);
        let (began, before) = *self.began.get_or_insert((Instant::now(), here));
        let width = terminal_size::terminal_size_of(std::io::stderr()).map(|(width, _)| usize::from(width.0));
        let pause = if width.is_some() { REDRAW } else { PLAIN_LINE };
        if self.shown_at.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        self.shown_at = Some(Instant::now());
        let pace = (here - before) as f64 / began.elapsed().as_secs_f64().max(0.1);
        let line = transfer_line(name, here, self.bytes, pace, width.is_some());
        let _ = match width {
            Some(width) => {
                let cut: String = line.chars().take(width.saturating_sub(1)).collect();
                write!(std::io::stderr(), "\r\x1b[2K{cut}")
            }
            None => writeln!(std::io::stderr(), "{line}"),
        };
        self.drawn = width.is_some();
    }

    /// Removes the line, so that other text can follow.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

fn transfer_line(name: &str, here: u64, all: u64, pace: f64, with_bar: bool) -> String {
    let fraction = here as f32 / all.max(1) as f32;
    let mut line = if with_bar { bar(fraction) } else { String::new() };
    line += &format!("{} of {}  {}/s", size(here), size(all), size(pace as u64));
    if pace >= 1.0 {
        line += &format!("  {} left", duration((all.saturating_sub(here)) as f32 / pace as f32));
    }
    line + "  " + name
}

fn bar(fraction: f32) -> String {
    let fraction = fraction.clamp(0.0, 1.0);
    let full = "#".repeat((fraction * CELLS as f32) as usize);
    format!("[{full:-<CELLS$}] {:>3.0}%  ", fraction * 100.0)
}

fn line(progress: &Progress, with_bar: bool) -> String {
    let left = progress.seconds_left.map(|seconds| format!("{} left", duration(seconds)));
    let mut line = if with_bar { bar(progress.fraction) } else { String::new() };
    // A terminal of 80 columns cuts off the end, and the time is what people look for.
    let steps = (progress.steps > 0).then(|| format!("{}/{}", progress.step, progress.steps));
    let stage = Some(progress.stage.label().to_string());
    let first = if with_bar { [left.clone(), steps, stage] } else { [stage, steps, None] };
    line += &first.into_iter().flatten().collect::<Vec<_>>().join("  ");
    if let Some(loss) = progress.loss {
        line += &format!("  loss {loss:.4}");
    }
    if let (false, Some(left)) = (with_bar, &left) {
        line += &format!("  {left}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_stage_step_loss_and_time() {
        let (stage, loss, seconds_left) = (Stage::FineTune, Some(0.125), Some(125.0));
        let progress = Progress { stage, step: 3, steps: 12, loss, fraction: 0.5, seconds_left, ..Progress::default() };
        assert_eq!(line(&progress, false), "B: fine-tuning the model  3/12  loss 0.1250  2 min 5 s left");
        assert!(line(&progress, true).starts_with("[########--------]  50%  2 min 5 s left  3/12  B: "));
        let long = Progress { stage: Stage::OptimizeTextEmbedding, step: 999, steps: 1000, ..progress };
        let shown: String = line(&long, true).chars().take(79).collect();
        assert!(shown.ends_with("2 min 5 s left  999/1000  A: optimizing the text embed"), "{shown}");
    }

    #[test]
    fn a_download_tells_how_much_has_come_and_what_is_left() {
        let (here, all) = (500_000_000, 2_000_000_000);
        let line = |with_bar| transfer_line("unet.safetensors", here, all, 10e6, with_bar);
        assert_eq!(line(false), "500 MB of 2.0 GB  10 MB/s  2 min 30 s left  unet.safetensors");
        assert!(line(true).starts_with("[####------------]  25%  500 MB"));
    }
}
