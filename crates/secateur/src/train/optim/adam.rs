//! Adam, and Adam with decoupled decay of weights.

use secateur_kernels::gradient;

use super::{OptimOptions, Optimiser, Step};

pub(super) struct Adam {
    betas: [f32; 2],
    epsilon: f32,
    decay: f32,
    decoupled: bool,
}

impl Adam {
    pub(super) fn of(options: &OptimOptions, decoupled: bool) -> Self {
        let betas = options.betas.map(|beta| beta as f32);
        let (epsilon, decay) = (options.epsilon as f32, options.weight_decay as f32);
        Adam { betas, epsilon, decay, decoupled }
    }
}

impl Optimiser for Adam {
    fn state(&self) -> &'static [&'static str] {
        &["mean", "square"]
    }

    fn step(&self, step: Step<'_>) {
        let Step { rate, number, scale, gradient, kept, weights, state } = step;
        let [mean, square] = state else { return };
        let Adam { betas: [beta1, beta2], epsilon, decay, decoupled } = *self;
        let settings = gradient::Adam { rate, beta1, beta2, epsilon, decay, decoupled, step: number };
        gradient::adam(settings, scale, gradient, kept, weights, [mean, square]);
    }
}
