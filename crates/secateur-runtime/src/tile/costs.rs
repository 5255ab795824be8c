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
            /// 2023 with AVX-512 ("Emerald Rapids").
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
    product: 0.014,
    /// A multiply-add of a dense linear layer on rows.
    linear: 0.015,
    /// Bringing a value of a window together with others for such a product.
    gather: 0.221,
    /// Copying a value for such a product where a window is a pixel.
    copy: 0.042,
    /// A multiply-add of a dense convolution on tensors with few output channels in a group.
    direct: 0.02,
    /// A multiply-add of a depthwise convolution on tensors.
    depthwise: 0.056,
    /// Beginning a row of outputs of a depthwise convolution on tensors.
    depthwise_row: 1.7,
    /// Finishing an output of a dense convolution on tensors that isn't depthwise.
    output: 0.13,
    /// A window's element of a pooling on tensors.
    pool: 0.24,
    /// A multiply-add with a weight that isn't zero on tiles, for each pixel that is computed.
    sparse: 0.0142,
    /// Taking up an output's sums in a tile for a block of inputs.
    row: 13.6,
    /// Fetching a weight that isn't zero on tiles.
    weight: 0.444,
    /// The same where outputs are computed in panels.
    panel: 0.0105,
    /// Reading an input that meets weights of a panel, for each pixel that is computed.
    panel_column: 0.004,
    /// Going on to the inputs that meet weights of other outputs of a panel.
    panel_pattern: 5.0,
    /// Taking up a panel's sums in a tile for a block of inputs.
    panel_row: 21.5,
    /// Fetching a weight of a panel.
    panel_weight: 0.152,
    /// Bringing a value of tiles together with those beside it.
    line: 0.182,
    /// The same where every second value of a row is taken.
    split_line: 0.178,
    /// Bringing a value of tiles together with others window by window.
    window: 0.285,
    /// A window's element of a pooling on tiles.
    pool_tile: 0.105,
    /// Turning a value of a tensor into one of tiles, or back.
    turn: 0.583,
    /// Reading a byte of the weights of a linear layer on one row.
    fetch: 0.06,
    /// Adding a value of a residual to an output.
    residual: 0.13,
    /// An activation of an output that takes an exponential.
    exponential: 0.4,
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
