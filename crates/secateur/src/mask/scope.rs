//! What is ranked together, and each layer's target.

use std::fmt;

/// What is ranked together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// Each tensor by itself.
    #[default]
    Layer,
    /// Each output row of a tensor by itself.
    Row,
    /// All selected tensors together.
    Global,
}

impl Scope {
    /// All scopes.
    pub const ALL: &'static [Scope] = &[Scope::Layer, Scope::Row, Scope::Global];

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
            Scope::Row => "each output row of a tensor by itself",
            Scope::Global => "all selected tensors together",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the target is divided among layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Allocation {
    /// The same sparsity for each.
    #[default]
    Uniform,
}

impl Allocation {
    /// All allocations.
    pub const ALL: &'static [Allocation] = &[Allocation::Uniform];

    /// The name as written in a method.
    pub fn name(self) -> &'static str {
        match self {
            Allocation::Uniform => "uniform",
        }
    }

    /// One sentence for help texts.
    pub fn summary(self) -> &'static str {
        match self {
            Allocation::Uniform => "the same sparsity for each layer (the default)",
        }
    }
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
