//! What is ranked together.

use std::fmt;

use secateur_model::{Error, Result};

use crate::near::did_you_mean;

/// What is ranked together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// Each tensor by itself.
    #[default]
    Layer,
    /// Each output row of a tensor, or row of blocks, by itself.
    Row,
    /// All selected tensors together.
    Global,
}

impl Scope {
    /// All scopes.
    pub const ALL: &'static [Scope] = &[Scope::Layer, Scope::Row, Scope::Global];

    /// Reads a scope's name.
    ///
    /// # Errors
    /// `Usage` where there is no such scope; it lists those there are.
    pub fn parse(text: &str) -> Result<Self> {
        Scope::ALL.iter().copied().find(|scope| scope.name() == text).ok_or_else(|| {
            let near = did_you_mean(text, Scope::ALL.iter().map(|scope| scope.name()));
            Error::usage(format!("no scope is called `{text}`{near}"))
        })
    }

    /// The name as written in a method.
    pub fn name(self) -> &'static str {
        match self {
            Scope::Layer => "layer",
            Scope::Row => "row",
            Scope::Global => "global",
        }
    }

    /// One sentence for help texts.
    pub fn summary(self) -> &'static str {
        match self {
            Scope::Layer => "each tensor by itself (the default)",
            Scope::Row => "each output row of a tensor, or row of blocks, by itself",
            Scope::Global => "all selected tensors together",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
