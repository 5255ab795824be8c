//! How long-running work reports its progress.

/// Receives progress: the command line draws a bar, a program may ignore it.
pub trait Progress: Sync {
    /// Work of `steps` steps begins.
    fn begin(&self, what: &str, steps: u64) {
        let _ = (what, steps);
    }
    /// Steps are done.
    fn advance(&self, steps: u64) {
        let _ = steps;
    }
    /// What the work is at, in a few words that the next ones replace.
    fn state(&self, text: &str) {
        let _ = text;
    }
    /// Something worth a line of its own, such as a finished point.
    fn note(&self, text: &str) {
        let _ = text;
    }
}

/// Part of longer work: it says what it is at, and its steps are none of the whole's.
pub struct Part<'a>(pub &'a dyn Progress);

impl Progress for Part<'_> {
    fn begin(&self, what: &str, _: u64) {
        self.0.begin(what, 0);
    }

    fn state(&self, text: &str) {
        self.0.state(text);
    }

    fn note(&self, text: &str) {
        self.0.note(text);
    }
}

/// Ignores progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
