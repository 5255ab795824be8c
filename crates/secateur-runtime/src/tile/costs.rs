//! What kernels cost.

/// What kernels cost, in nanoseconds on one thread.
///
/// The layout pass compares kernels by these figures and nothing else, so that equal costs give equal plans, and
/// equal plans equal results.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// A multiply-add of a dense convolution on tensors.
    pub dense: f64,
    /// The same where channels are in groups.
    pub grouped: f64,
    /// The same where each channel stands by itself.
    pub depthwise: f64,
    /// A window's element of a pooling on tensors.
    pub pool: f64,
    /// A multiply-add with a weight that isn't zero on tiles, for each pixel that is computed.
    pub sparse: f64,
    /// A multiply-add on tiles where outputs are computed in panels, zeros beside other weights among them.
    pub panel: f64,
    /// Taking up an output's sums in a tile for a block of inputs.
    pub row: f64,
    /// Bringing a value together with others that a window meets.
    pub pack: f64,
    /// Turning a value of a tensor into one of tiles, or back.
    pub turn: f64,
}

impl Costs {
    /// The costs that plans are made with where nothing was measured: those of a processor of 2023 with AVX-512.
    pub const SHIPPED: Costs = Costs {
        dense: 0.0195,
        grouped: 0.03,
        depthwise: 0.06,
        pool: 0.3,
        sparse: 0.022,
        panel: 0.0185,
        row: 4.0,
        pack: 0.2,
        turn: 0.7,
    };
}
