//! Progress on stderr: one line that is redrawn on a terminal, some plain lines otherwise.
#![forbid(unsafe_code)]

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

fn line(progress: &Progress, with_bar: bool) -> String {
    let mut line = String::new();
    if with_bar {
        let fraction = progress.fraction.clamp(0.0, 1.0);
        let full = "#".repeat((fraction * CELLS as f32) as usize);
        line += &format!("[{full:-<CELLS$}] {:>3.0}%  ", fraction * 100.0);
    }
    line += &progress.stage.label().to_string();
    if progress.steps > 0 {
        line += &format!("  {}/{}", progress.step, progress.steps);
    }
    if let Some(loss) = progress.loss {
        line += &format!("  loss {loss:.4}");
    }
    if let Some(seconds) = progress.seconds_left {
        line += &format!("  {} left", duration(seconds));
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
        assert!(line(&progress, true).starts_with("[########--------]  50%  B: "));
    }
}
