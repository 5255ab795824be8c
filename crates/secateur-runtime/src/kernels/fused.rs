//! What is fused into a kernel.

use std::fmt;

use secateur_kernels::Activation;

/// What a product computes at its end: act(scale · product + shift + added).
#[derive(Clone, Debug, Default)]
pub(crate) struct Epilogue {
    /// Factor of each output channel (from batch-norms and constant factors).
    pub(crate) scale: Option<Vec<f32>>,
    /// Addend of each output channel.
    pub(crate) shift: Option<Vec<f32>>,
    /// Which input of the node is a tensor of the output's shape to add.
    pub(crate) add: Option<usize>,
    /// Applied last.
    pub(crate) act: Activation,
}

impl Epilogue {
    /// Whether nothing is fused.
    pub(crate) fn is_empty(&self) -> bool {
        self.scale.is_none() && self.shift.is_none() && self.add.is_none() && self.act == Activation::None
    }

    /// With a factor and an addend for each channel behind what there is; `None` where one of them is not
    /// finite, or the two before it are not when they are put together.
    pub(crate) fn with_affine(&self, scale: &[f32], shift: &[f32]) -> Option<Self> {
        let wide = |values: &Option<Vec<f32>>, i: usize| values.as_ref().map(|v| f64::from(v[i]));
        let factors = |i: usize| wide(&self.scale, i).unwrap_or(1.0) * f64::from(scale[i]);
        let addends =
            |i: usize| wide(&self.shift, i).unwrap_or(0.0) * f64::from(scale[i]) + f64::from(shift[i]);
        let scaled: Vec<f32> = (0..scale.len()).map(|i| factors(i) as f32).collect();
        let shifted: Vec<f32> = (0..scale.len()).map(|i| addends(i) as f32).collect();
        if !scaled.iter().chain(&shifted).all(|v| v.is_finite()) {
            return None;
        }
        let plain = self.scale.is_none() && scaled.iter().all(|&s| s == 1.0);
        Some(Epilogue { scale: (!plain).then_some(scaled), shift: Some(shifted), ..self.clone() })
    }
}

/// As a suffix of the operator's name.
impl fmt::Display for Epilogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scale.is_some() || self.shift.is_some() {
            f.write_str("+affine")?;
        }
        if self.add.is_some() {
            f.write_str("+add")?;
        }
        match self.act {
            Activation::None => Ok(()),
            // The name without the parameters.
            act => {
                let text = format!("{act:?}");
                write!(f, "+{}", text.split([' ', '(']).next().unwrap_or_default())
            }
        }
    }
}

/// Operands and results of a product in another order of axes than they are stored in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Views {
    /// For each input: axis i of the operand is axis `perm[i]` of the stored tensor.
    pub(crate) inputs: Vec<Option<Vec<usize>>>,
    /// Axis i of the stored result is axis `perm[i]` of what the node computes.
    pub(crate) output: Option<Vec<usize>>,
    /// Factor of the product, where constants scaled its operands.
    pub(crate) factor: Option<f32>,
}

impl Views {
    /// Whether operands and result are as stored.
    pub(crate) fn is_plain(&self) -> bool {
        self.inputs.iter().all(Option::is_none) && self.output.is_none() && self.factor.is_none()
    }

    /// The order in which an operand's axes are read.
    pub(crate) fn input(&self, index: usize) -> Option<&[usize]> {
        self.inputs.get(index)?.as_deref()
    }
}
