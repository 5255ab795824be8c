//! Activation functions.

use super::axes::pointwise;
use super::broadcast::{zip, zip_values};
use super::number::{Float, Number, map_floats, map_numbers, negative, with_float, wrong_type};
use super::unary::infer_same;
use super::{Fact, Facts, Inputs, MICROSOFT, ONE_TYPE, Op};
use crate::{Error, Node, Result, Tensor, with_number_type};

/// The evaluation of an activation without attributes.
macro_rules! activation {
    (|$x:ident: $float:ident| $body:expr) => {
        |_, inputs| Ok(vec![map_floats!(inputs.need(0)?, |$x: $float| $body)?])
    };
    (($($attr:ident = $default:expr),+) |$x:ident: $float:ident| $body:expr) => {
        |node, inputs| {
            $(let $attr = node.float_or(stringify!($attr), $default)?;)+
            Ok(vec![map_floats!(inputs.need(0)?, |$x: $float| {
                $(let $attr = $float::from($attr);)+
                $body
            })?])
        }
    };
}

pub(super) const OPS: &[Op] = &[
    Op::new("Relu", 1, infer_same).axes(pointwise).eval(eval_relu),
    Op::new("LeakyRelu", 1, infer_same).axes(pointwise)
        .eval(activation!((alpha = 0.01) |x: F| if x < 0.0 { alpha * x } else { x })),
    Op::new("PRelu", 1, infer_prelu).types(ONE_TYPE).axes(pointwise).parameters(&[1]).eval(eval_prelu),
    Op::new("ThresholdedRelu", 10, infer_same).axes(pointwise)
        .eval(activation!((alpha = 1.0) |x: F| if x > alpha { x } else { 0.0 })),
    Op::new("Elu", 1, infer_same).axes(pointwise)
        .eval(activation!((alpha = 1.0) |x: F| if x < 0.0 { alpha * x.exp_m1() } else { x })),
    Op::new("Celu", 12, infer_same).axes(pointwise)
        .eval(activation!((alpha = 1.0) |x: F| Number::max(x, 0.0) + Number::min(alpha * (x / alpha).exp_m1(), 0.0))),
    Op::new("Selu", 1, infer_same).axes(pointwise).eval(activation!((alpha = 1.673_263_2, gamma = 1.050_701) |x: F| {
        gamma * if x > 0.0 { x } else { alpha * x.exp_m1() }
    })),
    Op::new("Sigmoid", 1, infer_same).axes(pointwise).eval(activation!(|x: F| sigmoid(x))),
    Op::new("HardSigmoid", 1, infer_same).axes(pointwise)
        .eval(activation!((alpha = 0.2, beta = 0.5) |x: F| (alpha * x + beta).clamp(0.0, 1.0))),
    Op::new("HardSwish", 14, infer_same).axes(pointwise).eval(activation!(|x: F| x * (x / 6.0 + 0.5).clamp(0.0, 1.0))),
    Op::new("Softplus", 1, infer_same).axes(pointwise).eval(activation!(|x: F| softplus(x))),
    Op::new("Softsign", 1, infer_same).axes(pointwise).eval(activation!(|x: F| x / (1.0 + x.abs()))),
    Op::new("Mish", 18, infer_same).axes(pointwise).eval(activation!(|x: F| x * softplus(x).tanh())),
    Op::new("Swish", 24, infer_same).axes(pointwise).eval(activation!((alpha = 1.0) |x: F| x * sigmoid(alpha * x))),
    Op::new("SwiGLU", 28, infer_same).axes(pointwise).eval(eval_swiglu),
    Op::new("Gelu", 20, infer_same).axes(pointwise).eval(eval_gelu),
    Op::new("Shrink", 9, infer_same).axes(pointwise).eval(eval_shrink),
    Op::new("Gelu", 1, infer_same).axes(pointwise).domain(MICROSOFT).eval(eval_gelu),
    Op::new("QuickGelu", 1, infer_same).axes(pointwise)
        .domain(MICROSOFT)
        .eval(activation!((alpha = 1.702) |x: F| x * sigmoid(alpha * x))),
    Op::new("BiasGelu", 1, infer_same).types(ONE_TYPE).axes(pointwise).domain(MICROSOFT).eval(|_, inputs| eval_biased_gelu(inputs, false)),
    Op::new("FastGelu", 1, infer_same).types(ONE_TYPE).axes(pointwise).domain(MICROSOFT).eval(|_, inputs| eval_biased_gelu(inputs, true)),
];

fn sigmoid<F: Float>(x: F) -> F {
    F::ONE / (F::ONE + (-x).exp())
}

/// `ln(1 + exp(x))` without overflow.
fn softplus<F: Float>(x: F) -> F {
    Number::max(x, F::ZERO) + (-Number::abs(x)).exp().ln_1p()
}

/// `x · Φ(x)` with the normal distribution's Φ, or its approximation by the hyperbolic tangent
/// (Hendrycks and Gimpel, Gaussian Error Linear Units, arXiv:1606.08415).
fn gelu<F: Float>(x: F, approximate: bool) -> F {
    let half = F::from_f64(0.5);
    if approximate {
        let inner =
            F::from_f64((2.0 / std::f64::consts::PI).sqrt()) * (x + F::from_f64(0.044715) * x * x * x);
        half * x * (F::ONE + inner.tanh())
    } else {
        half * x * (F::ONE + (x * F::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf())
    }
}

fn eval_relu(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let tensor = inputs.need(0)?;
    let out = with_number_type!(tensor.dtype(), T => map_numbers!(tensor, |x: T| Number::max(x, T::ZERO)),
        else Err(wrong_type(tensor.dtype())))?;
    Ok(vec![out])
}

/// The slope broadcasts to the input; before operator set 7 a vector of slopes is one per channel.
fn infer_prelu(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    if let Some(x) = inputs.shape(0) {
        match inputs.shape(1) {
            Some([_]) if node.opset < 7 && x.len() > 1 => inputs.expect(1, "the slope", &[&[x[1]], &[1]])?,
            _ => inputs.expect_broadcast(1, "the slope", x)?,
        }
    }
    infer_same(node, inputs)
}

fn eval_prelu(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (x, slope) = (inputs.need(0)?, inputs.need(1)?);
    let slope = if node.opset < 7 && slope.rank() == 1 && x.rank() > 1 {
        let mut shape = vec![1; x.rank() - 1];
        shape[0] = slope.len();
        slope.reshaped(shape)?
    } else {
        slope.clone()
    };
    let out = with_number_type!(x.dtype(), T => {
        zip(x, &slope, |&x: &T, &s: &T| if negative(x) { Number::mul(s, x) } else { x })
    }, else Err(wrong_type(x.dtype())))?;
    if out.shape() != x.shape() {
        return Err(Error::input(format!(
            "the slope's shape {:?} does not broadcast to {:?}",
            slope.shape(),
            x.shape()
        )));
    }
    Ok(vec![out])
}

fn eval_swiglu(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (a, b) = (inputs.need(0)?, inputs.need(1)?);
    let alpha = node.float_or("alpha", 1.0)?;
    if a.shape() != b.shape() || a.dtype() != b.dtype() {
        return Err(Error::input(format!(
            "the gate is {} {:?}, the value {} {:?}: expected the same",
            a.dtype(),
            a.shape(),
            b.dtype(),
            b.shape()
        )));
    }
    with_float!(a.dtype(), F => {
        let (gate, value) = (F::load(a)?, F::load(b)?);
        let alpha = F::from(alpha);
        let values = gate.iter().zip(value.iter()).map(|(&g, &v)| g * sigmoid(alpha * g) * v).collect();
        Ok(vec![F::store(values, a.dtype(), a.shape())?])
    })
}

fn eval_gelu(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let approximate = match node.str_or("approximate", "none")? {
        "none" => false,
        "tanh" => true,
        other => return Err(Error::unsupported(format!("approximate is `{other}`, expected none or tanh"))),
    };
    Ok(vec![map_floats!(inputs.need(0)?, |x: F| gelu(x, approximate))?])
}

/// The gelu of the first input plus a bias along its last axis, where there is one.
fn eval_biased_gelu(inputs: Inputs<'_>, approximate: bool) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let Some(bias) = inputs.get(1) else {
        return Ok(vec![map_floats!(x, |x: F| gelu(x, approximate))?]);
    };
    with_float!(x.dtype(), F => {
        let (values, biases) = (F::load(x)?, F::load(bias)?);
        let (shape, out) =
            zip_values(&values, x.shape(), &biases, bias.shape(), |&x, &b| gelu(x + b, approximate))?;
        Ok(vec![F::store(out, x.dtype(), &shape)?])
    })
}

/// `x + bias` below −lambd, `x − bias` above lambd, 0 between; of integers too.
fn eval_shrink(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let tensor = inputs.need(0)?;
    let (bias, lambd) = (f64::from(node.float_or("bias", 0.0)?), f64::from(node.float_or("lambd", 0.5)?));
    let shrink = |x: f64| {
        if x < -lambd {
            x + bias
        } else if x > lambd {
            x - bias
        } else {
            0.0
        }
    };
    let out = with_number_type!(tensor.dtype(), T => {
        map_numbers!(tensor, |x: T| T::from_f64(shrink(x.to_f64())))
    }, else Err(wrong_type(tensor.dtype())))?;
    Ok(vec![out])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::ops::testing::{close, eval, node, with_attr};

    /// Expected values computed in double precision by `scipy.special` and `numpy`.
    #[test]
    fn activations_at_some_points() {
        let x = Tensor::vector(vec![-3.0, -0.5, 0.0, 0.7, 4.0]);
        let cases: &[(&str, [f64; 5])] = &[
            (
                "Sigmoid",
                [0.04742587317756678, 0.3775406687981454, 0.5, 0.6681877721681662, 0.9820137900379085],
            ),
            (
                "Softplus",
                [
                    0.04858735157374206,
                    0.4740769841801067,
                    std::f64::consts::LN_2,
                    1.103186048885458,
                    4.0181499279178094,
                ],
            ),
            ("Softsign", [-0.75, -0.3333333333333333, 0.0, 0.4117647058823529, 0.8]),
            ("Mish", [-0.1456474612756246, -0.22074377465173, 0.0, 0.5611483776438518, 3.9974128069762385]),
            ("HardSigmoid", [0.0, 0.4, 0.5, 0.64, 1.0]),
            ("HardSwish", [-0.0, -0.20833333333333334, 0.0, 0.43166666666666664, 4.0]),
            ("Elu", [-0.950212931632136, -0.3934693402873666, 0.0, 0.7, 4.0]),
            ("Celu", [-0.950212931632136, -0.3934693402873666, 0.0, 0.7, 4.0]),
            ("Selu", [-1.6705687339891528, -0.6917581899652426, 0.0, 0.7354907155036926, 4.202804088592529]),
            (
                "Gelu",
                [-0.00404969409489028, -0.15426876936299344, 0.0, 0.5306254434438489, 3.9998733150326675],
            ),
            ("LeakyRelu", [-0.03, -0.005, 0.0, 0.7, 4.0]),
            ("ThresholdedRelu", [0.0, 0.0, 0.0, 0.0, 4.0]),
            ("Shrink", [-3.0, 0.0, 0.0, 0.7, 4.0]),
        ];
        for (name, expected) in cases {
            let y = eval(&node(name, 27), &[&x]).unwrap();
            close(&y[0], expected, 1e-6);
        }
    }

    #[test]
    fn large_inputs_do_not_overflow() {
        let x = Tensor::vector(vec![-1e4f32, 1e4]);
        for (name, expected) in
            [("Softplus", [0.0, 1e4]), ("Mish", [0.0, 1e4]), ("Sigmoid", [0.0, 1.0]), ("Swish", [0.0, 1e4])]
        {
            close(&eval(&node(name, 27), &[&x]).unwrap()[0], &expected, 1e-6);
        }
    }

    #[test]
    fn relu_keeps_nan_and_integers() {
        let y = eval(&node("Relu", 14), &[&Tensor::vector(vec![f32::NAN, -1.0])]).unwrap();
        assert!(y[0].values::<f32>().unwrap()[0].is_nan());
        let y = eval(&node("Relu", 14), &[&Tensor::vector(vec![-3i8, 5])]).unwrap();
        assert_eq!(y[0].values::<i8>().unwrap(), [0, 5]);
    }

    #[test]
    fn slopes_broadcast_to_the_input_only() {
        let x = Tensor::new([1, 2, 2], vec![-1f32, 1.0, -1.0, -2.0]).unwrap();
        let slope = Tensor::vector(vec![0.5f32, 0.25]);
        let y = eval(&node("PRelu", 6), &[&x, &slope]).unwrap();
        assert_eq!(y[0].values::<f32>().unwrap(), [-0.5, 1.0, -0.25, -0.5]);
        let y = eval(&node("PRelu", 16), &[&x, &slope]).unwrap();
        assert_eq!(y[0].values::<f32>().unwrap(), [-0.5, 1.0, -0.5, -0.5]);
        let wide = Tensor::new([2, 1, 1], vec![0f32; 2]).unwrap();
        assert!(eval(&node("PRelu", 16), &[&x, &wide]).is_err());
    }

    #[test]
    fn gelu_has_an_approximation() {
        let x = Tensor::vector(vec![-1f32, 2.0]);
        let tanh = with_attr(node("Gelu", 20), "approximate", Attr::String("tanh".into()));
        close(&eval(&tanh, &[&x]).unwrap()[0], &[-0.15880800939172324, 1.9545976940877752], 1e-6);
    }
}
