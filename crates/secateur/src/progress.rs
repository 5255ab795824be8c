//! How long work tells how far it is.

/// Hears of progress; the command draws a bar from it, a library's user may do nothing.
pub trait Progress: Sync {
    /// A stretch of work of so many steps begins.
    fn begin(&self, what: &str, steps: u64) {
        let _ = (what, steps);
    }
    /// Steps are done.
    fn advance(&self, steps: u64) {
        let _ = steps;
    }
    /// Something worth a line of its own, such as a finished point.
    fn note(&self, text: &str) {
        let _ = text;
    }
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
