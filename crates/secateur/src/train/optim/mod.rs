//! Optimisers: from gradients to the next weights. One is a file here and a line in [`of`].

mod adam;
mod sgd;

use secateur_model::{Error, Result};
use serde::{Deserialize, Serialize};

/// An optimiser and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct OptimOptions {
    /// Which one.
    pub kind: Optim,
    /// The share of the velocity that goes on, of `sgd`.
    pub momentum: f64,
    /// Whether `sgd` looks ahead by the velocity.
    pub nesterov: bool,
    /// Decay of weights: L2 regularisation, or with `adamw` decoupled from the gradient.
    pub weight_decay: f64,
    /// Decay of the means of gradients and of their squares, of `adam` and `adamw`.
    pub betas: [f64; 2],
    /// Added to the denominator of `adam` and `adamw`.
    pub epsilon: f64,
}

/// The optimisers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optim {
    /// Stochastic gradient descent with momentum.
    #[default]
    Sgd,
    /// Adam (Kingma and Ba 2015).
    Adam,
    /// Adam with decoupled decay of weights (Loshchilov and Hutter 2019).
    AdamW,
}

impl Default for OptimOptions {
    fn default() -> Self {
        OptimOptions {
            kind: Optim::default(),
            momentum: 0.9,
            nesterov: false,
            weight_decay: 0.0,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
        }
    }
}

impl OptimOptions {
    /// Checks the settings.
    ///
    /// # Errors
    /// `Usage` where one is out of its range.
    pub fn check(&self) -> Result<()> {
        let shares = [("momentum", self.momentum), ("beta 1", self.betas[0]), ("beta 2", self.betas[1])];
        if let Some((name, value)) = shares.iter().find(|(_, value)| !(0.0..1.0).contains(value)) {
            return Err(Error::usage(format!("{name} is {value}, expected a number from 0 to below 1")));
        }
        if self.nesterov && self.momentum == 0.0 {
            return Err(Error::usage("Nesterov's look ahead has no effect without momentum"));
        }
        for (name, value) in [("weight decay", self.weight_decay), ("epsilon", self.epsilon)] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(Error::usage(format!("{name} is {value}, expected a number from 0 on")));
            }
        }
        Ok(())
    }
}

/// What an optimiser needs for one tensor in one step.
pub(crate) struct Step<'a> {
    /// The learning rate.
    pub(crate) rate: f32,
    /// The number of the step, from 1 on.
    pub(crate) number: u64,
    /// The factor of the gradient.
    pub(crate) scale: f32,
    pub(crate) gradient: &'a [f32],
    /// 1 for weights that a mask keeps, else 0.
    pub(crate) kept: Option<&'a [f32]>,
    pub(crate) weights: &'a mut [f32],
    /// What the optimiser keeps, of as many elements as there are weights each.
    pub(crate) state: &'a mut [Vec<f32>],
}

/// An optimiser. Pruned weights and what is kept for them are exactly zero after each step.
pub(crate) trait Optimiser: Send + Sync {
    /// The names of what is kept for each tensor.
    fn state(&self) -> &'static [&'static str];

    /// Changes the weights of a tensor and what is kept for them.
    fn step(&self, step: Step<'_>);
}

/// The optimiser of some settings.
pub(crate) fn of(options: &OptimOptions) -> Box<dyn Optimiser> {
    match options.kind {
        Optim::Sgd => Box::new(sgd::Sgd::of(options)),
        Optim::Adam => Box::new(adam::Adam::of(options, false)),
        Optim::AdamW => Box::new(adam::Adam::of(options, true)),
    }
}
