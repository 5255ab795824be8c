//! Progress on a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use secateur::progress::Progress;
use secateur::shown::shown;

use crate::style;

/// A bar on standard error with the time left; nothing where that is not a terminal or all is to be quiet.
pub(crate) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::no_length();
        if style::quiet() || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template(
            "{bar:20.green} {percent:>3} %  {elapsed} elapsed, {eta} left  {wide_msg}",
        );
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("━╸─"));
        }
        Bar { bar }
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, steps: u64) {
        if steps > 0 {
            self.bar.reset();
            self.bar.set_length(steps);
        }
        self.bar.set_message(shown(what).into_owned());
    }

    fn advance(&self, steps: u64) {
        self.bar.inc(steps);
    }

    fn state(&self, text: &str) {
        self.bar.set_message(shown(text).into_owned());
    }

    fn note(&self, text: &str) {
        self.bar.suspend(|| style::note(text));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
