//! What kernels cost.

use secateur_kernels::Activation;

/// Defines [`Costs`] and [`Counts`] from one list of what is counted: a line each, with the shipped figure.
macro_rules! costs {
    ($($(#[doc = $doc:literal])+ $field:ident: $shipped:literal,)+) => {
        /// What kernels cost, in nanoseconds on one thread.
        ///
        /// The layout pass compares kernels by these figures and nothing else, so that equal costs give equal
        /// plans, and equal plans equal results.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct Costs {
            $($(#[doc = $doc])+ pub $field: f64,)+
        }

        impl Costs {
            /// The costs that plans are made with where nothing was measured: those of a server's processor of
            /// 2024 with AVX-512 (AMD's Zen 5).
            pub const SHIPPED: Costs = Costs { $($field: $shipped),+ };

            /// The figures' names.
            pub const NAMES: [&str; [$($shipped),+].len()] = [$(stringify!($field)),+];

            /// The figures, in the order of [`Costs::NAMES`].
            pub fn figures(&self) -> [f64; Costs::NAMES.len()] {
                [$(self.$field),+]
            }

            /// Costs of these figures, in the order of [`Costs::NAMES`].
            pub fn from_figures([$($field),+]: [f64; Costs::NAMES.len()]) -> Costs {
                Costs { $($field),+ }
            }
        }

        /// How often a kernel does what [`Costs`] has figures for.
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct Counts {
            $(pub(crate) $field: usize,)+
        }

        impl Counts {
            /// The counts, in the order of [`Costs::NAMES`].
            pub(crate) fn figures(&self) -> [f64; Costs::NAMES.len()] {
                [$(self.$field as f64),+]
            }
        }
    };
}

costs! {
    /// A multiply-add of a dense convolution on tensors that is a matrix product.
    product: 0.0074,
    /// A multiply-add of a dense linear layer on rows.
    linear: 0.00976,
    /// Bringing a value of a window together with others for such a product.
    gather: 0.199,
    /// Copying a value for such a product where a window is a pixel.
    copy: 0.0859,
    /// A multiply-add of a dense convolution on tensors with few output channels in a group.
    direct: 0.0119,
    /// A multiply-add of a depthwise convolution on tensors.
    depthwise: 0.0239,
    /// Beginning a row of outputs of a depthwise convolution on tensors.
    depthwise_row: 2.15,
    /// Finishing an output of a dense convolution on tensors that isn't depthwise.
    output: 0.0679,
    /// A window's element of a pooling on tensors.
    pool: 0.159,
    /// A multiply-add with a weight that isn't zero on tiles, for each pixel that is computed.
    sparse: 0.011,
    /// Taking up an output's sums in a tile for a block of inputs.
    row: 4.91,
    /// Fetching a weight that isn't zero on tiles.
    weight: 0.0394,
    /// The same where outputs are computed in panels.
    panel: 0.00477,
    /// Reading an input that meets weights of a panel, for each pixel that is computed.
    panel_column: 0.0127,
    /// Going on to the inputs that meet weights of other outputs of a panel.
    panel_pattern: 1.21,
    /// Taking up a panel's sums in a tile for a block of inputs.
    panel_row: 17.0,
    /// Fetching a weight of a panel.
    panel_weight: 0.0,
    /// Bringing a value of tiles together with those beside it.
    line: 0.104,
    /// The same where every second value of a row is taken.
    split_line: 0.104,
    /// Bringing a value of tiles together with others window by window.
    window: 0.246,
    /// A window's element of a pooling on tiles.
    pool_tile: 0.0702,
    /// Turning a value of a tensor into one of tiles, or back.
    turn: 0.369,
    /// Reading a byte of the weights of a linear layer on one row.
    fetch: 0.0309,
    /// Adding a value of a residual to an output.
    residual: 0.0,
    /// An activation of an output that takes an exponential.
    exponential: 0.267,
}

impl Counts {
    /// What is done to `outputs` values of a layer at its end, on tiles and tensors alike.
    pub(crate) fn at_end(outputs: usize, residual: bool, act: Activation) -> Counts {
        let simple = matches!(
            act,
            Activation::None
                | Activation::Relu
                | Activation::Clip { .. }
                | Activation::LeakyRelu(_)
                | Activation::HardSwish
                | Activation::HardSigmoid { .. }
        );
        Counts {
            residual: if residual { outputs } else { 0 },
            exponential: if simple { 0 } else { outputs },
            ..Counts::default()
        }
    }
}

impl Costs {
    /// The time of what is counted, in nanoseconds.
    pub(crate) fn time(&self, counts: &Counts) -> f64 {
        self.figures().iter().zip(counts.figures()).map(|(cost, count)| cost * count).sum()
    }
}
