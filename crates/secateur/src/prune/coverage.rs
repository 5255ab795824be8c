//! Which of a model's weights take part in pruning, and why the others stay dense.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use secateur_model::prunable::{Entry, ReasonKind, parameters};
use secateur_model::text::quoted;
use secateur_model::{Model, TensorId};
use serde::{Serialize, Serializer};

use crate::format;

/// Which of a model's weights take part.
#[derive(Clone, Debug, Serialize)]
pub struct Coverage {
    /// Weights of the tensors that take part.
    pub selected: u64,
    /// Weights of all layers: those that take part and those that stay dense.
    pub weights: u64,
    /// The weights that stay dense, in the model's order.
    pub dense: Vec<Dense>,
}

/// A tensor that looks like a layer's weight and stays dense.
#[derive(Clone, Debug, Serialize)]
pub struct Dense {
    /// The tensor's path.
    pub tensor: String,
    /// The shape as stored.
    pub shape: Vec<usize>,
    /// The element type.
    pub dtype: String,
    /// How many weights it stands for; of copies beside a state dict its elements.
    pub weights: u64,
    /// The kind of reason why it stays dense.
    pub why: Why,
    /// Why it stays dense.
    pub reason: String,
}

/// The kinds of reasons why tensors stay dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The selection leaves it out.
    NotSelected,
    /// It could be pruned and stays dense unless [`Selector::include`](super::select::Selector::include) names it.
    ByDefault(ReasonKind),
    /// It cannot be pruned.
    NotPrunable(ReasonKind),
}

impl Serialize for Why {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl Why {
    /// In a few words.
    pub fn text(self) -> String {
        match self {
            Why::NotSelected => "not selected".into(),
            Why::ByDefault(kind) | Why::NotPrunable(kind) => reason_name(kind).into(),
        }
    }
}

/// A kind of weight that stays dense unless [`Selector::include`](super::select::Selector::include) names it.
#[derive(Clone, Copy, Debug)]
pub struct DenseByDefault {
    /// What it is called in tables and messages.
    pub kind: ReasonKind,
    /// The kind.
    pub name: &'static str,
    /// How it is recognised.
    pub recognised: &'static str,
    /// Other tools that leave it dense, or the reason.
    pub source: &'static str,
}

/// All of them.
pub const DENSE_BY_DEFAULT: &[DenseByDefault] = &[
    DenseByDefault {
        kind: ReasonKind::Table,
        name: "tables of constants",
        recognised: "by their values: steps of one size along an axis (0, 1, … 15), identity and one-hot matrices, \
                     other zeros and ones; of two constants that are multiplied the one that is no weight",
        source: "never learned: the projection of YOLOv8's boxes, SwinV2's coordinates",
    },
    DenseByDefault {
        kind: ReasonKind::OutputProjection,
        name: "output projections of language models",
        recognised: "the name lm_head, or embed_out, output and others with the shape of the token embedding",
        source: "Wanda, SparseGPT, llm-compressor",
    },
    DenseByDefault {
        kind: ReasonKind::Router,
        name: "routers of mixtures of experts",
        recognised: "the name router, or gate beside experts",
        source: "llm-compressor",
    },
    DenseByDefault {
        kind: ReasonKind::Output,
        name: "layers that give the model's outputs, for the pattern `channel`",
        recognised: "in the graph: no other layer and no sum of layers stands between it and an output",
        source: "Torch-Pruning: a channel there is an answer, such as a class",
    },
];

/// A reason in a few words.
pub(crate) fn reason_name(kind: ReasonKind) -> &'static str {
    match kind {
        ReasonKind::Table => "dense by default: a table of constants",
        ReasonKind::OutputProjection => "dense by default: a language model's output projection",
        ReasonKind::Router => "dense by default: the router of a mixture of experts",
        ReasonKind::Output => "dense by default: its output channels are the model's outputs",
        ReasonKind::Bias => "bias",
        ReasonKind::Embedding => "embedding",
        ReasonKind::Normalisation => "normalisation",
        ReasonKind::Integer => "integers (shapes, axes, indices)",
        ReasonKind::Quantised => "quantised: not prunable yet",
        ReasonKind::Scale => "scale or zero point of quantised weights",
        ReasonKind::Dtype => "element type that cannot be scored",
        ReasonKind::UnknownOperator => "used by an operator that is not known",
        ReasonKind::Unfollowed => "a weight that is used in a way that is not followed",
        ReasonKind::Attribute => "a weight in a form that cannot be changed",
        ReasonKind::Unused => "used by nothing",
        ReasonKind::Copy => "a copy beside the state dict",
        ReasonKind::Mask => "mask of another tensor",
        ReasonKind::Tied => "the same elements as another tensor",
        ReasonKind::Operand => "other operand",
    }
}

impl Coverage {
    /// Which of a model's tensors, as [`PruneOptions::entries`](crate::prune::PruneOptions::entries) has them, stay dense
    /// where the tensors `selected` take part.
    pub fn among(model: &Model, entries: &[Entry], selected: impl Iterator<Item = TensorId>) -> Coverage {
        let selected: BTreeSet<TensorId> = selected.collect();
        let counts = parameters(model, entries);
        let mut coverage = Coverage { selected: 0, weights: 0, dense: Vec::new() };
        for (entry, &count) in entries.iter().zip(&counts).filter(|(entry, _)| entry.is_weight(model)) {
            coverage.weights += count;
            if selected.contains(&entry.tensor) {
                coverage.selected += count;
                continue;
            }
            let stored = model.tensor(entry.tensor);
            let (why, reason) = match (entry.reason(), entry.view()) {
                (None, _) => (Why::NotSelected, "not selected".to_string()),
                (Some(reason), Some(_)) => (Why::ByDefault(reason.kind), reason.text.clone()),
                (Some(reason), None) => (Why::NotPrunable(reason.kind), reason.text.clone()),
            };
            coverage.dense.push(Dense {
                tensor: stored.path.clone(),
                shape: stored.shape.clone(),
                dtype: stored.dtype.to_string(),
                weights: if count > 0 { count } else { stored.len() as u64 },
                why,
                reason,
            });
        }
        coverage
    }

    /// The share of all layers' weights that takes part, in [0, 1].
    pub fn share(&self) -> f64 {
        if self.weights == 0 { 1.0 } else { self.selected as f64 / self.weights as f64 }
    }

    /// Whether every weight takes part.
    pub fn is_complete(&self) -> bool {
        self.dense.is_empty()
    }

    /// How much stays dense, as a heading over [`Coverage::lines`].
    pub fn heading(&self) -> String {
        match self.weights - self.selected {
            0 => "left dense beside the layers' weights:".to_string(),
            _ => format!(
                "left dense: {} of the layers' {} weights",
                format::percent(1.0 - self.share()),
                format::count(self.weights as f64)
            ),
        }
    }

    /// What stays dense, a line for each reason with the names shortened.
    pub fn lines(&self) -> Vec<String> {
        let mut groups: IndexMap<Why, Vec<&Dense>> = IndexMap::new();
        for dense in &self.dense {
            groups.entry(dense.why).or_default().push(dense);
        }
        let line = |(why, group): (&Why, &Vec<&Dense>)| {
            let weights: u64 = group.iter().map(|dense| dense.weights).sum();
            let names: Vec<&str> = group.iter().map(|dense| dense.tensor.as_str()).collect();
            let reason = match (&group[..], why) {
                // One tensor has room for its own reason.
                ([one], Why::ByDefault(_)) => format!("dense by default: {}", one.reason),
                ([one], Why::NotPrunable(_)) => one.reason.clone(),
                _ => why.text(),
            };
            let ask = match why {
                Why::ByDefault(_) => format!(" (option `include={}` prunes it)", names[0]),
                _ => String::new(),
            };
            format!("{}, {} weights: {reason}{ask}", quoted(&names), format::count(weights as f64))
        };
        groups.iter().map(line).collect()
    }
}
