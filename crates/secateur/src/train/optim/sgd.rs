//! Stochastic gradient descent with momentum.

use secateur_kernels::gradient;

use super::{OptimOptions, Optimiser, Step};

pub(super) struct Sgd {
    momentum: f32,
    decay: f32,
    nesterov: bool,
}

impl Sgd {
    pub(super) fn of(options: &OptimOptions) -> Self {
        let (momentum, decay) = (options.momentum as f32, options.weight_decay as f32);
        Sgd { momentum, decay, nesterov: options.nesterov }
    }
}

impl Optimiser for Sgd {
    fn state(&self) -> &'static [&'static str] {
        &["velocity"]
    }

    fn step(&self, step: Step<'_>) {
        let Step { rate, scale, gradient, kept, weights, state, .. } = step;
        let [velocity] = state else { return };
        let &Sgd { momentum, decay, nesterov } = self;
        let settings = gradient::Sgd { rate, momentum, decay, nesterov };
        gradient::sgd(settings, scale, gradient, kept, weights, velocity);
    }
}
