//! Operators of ONNX Runtime that stand for several of ONNX's own.
//!
//! Its optimiser and its quantiser write them. Reading a file puts the operators that one stands for in
//! its place, while the file itself keeps the node: whatever knows those operators (pruning, costs, sparse
//! kernels) then holds for it too. One that is not in the table is carried unchanged.

use super::MICROSOFT;
use crate::{Attr, Error, Node, Result};

/// A node of an expansion, with the domain of ONNX's own operators.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) op_type: &'static str,
    /// The operator set whose meaning holds.
    pub(crate) opset: u32,
    pub(crate) inputs: Vec<Source>,
    pub(crate) attrs: Vec<(String, Attr)>,
    pub(crate) outputs: usize,
}

/// What an input of a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Left out.
    Nothing,
    /// An input of the whole node.
    Input(usize),
    /// An output of an earlier part.
    Part { part: usize, output: usize },
}

/// The parts that a node stands for, in order; the last one's first output is the node's.
#[derive(Debug)]
pub(crate) struct Expansion {
    pub(crate) parts: Vec<Part>,
    /// The part that owns the weights, and so the node's name.
    pub(crate) main: usize,
}

/// Adds the parts of a node; `None` where its meaning is not known.
type ExpandFn = fn(&mut Parts<'_>) -> Result<Option<Source>>;

const EXPANSIONS: &[(&str, ExpandFn)] = &[
    ("FusedConv", fused_conv),
    ("FusedGemm", fused_gemm),
    ("FusedMatMul", fused_matmul),
    ("FusedMatMulActivation", fused_matmul),
    ("TransposeMatMul", fused_matmul),
    ("MatMulIntegerToFloat", matmul_integer_to_float),
    ("DynamicQuantizeMatMul", dynamic_quantize_matmul),
    ("QLinearConcat", qlinear_concat),
    ("QLinearWhere", qlinear_where),
];

/// What a node stands for, given the ranks of its inputs where they are known; `None` for other nodes.
///
/// # Errors
/// Where its attributes contradict the operator's meaning.
pub(crate) fn expand(node: &Node, ranks: &[Option<usize>]) -> Result<Option<Expansion>> {
    if node.domain != MICROSOFT {
        return Ok(None);
    }
    let Some((_, expand)) = EXPANSIONS.iter().find(|(name, _)| *name == node.op_type) else {
        return Ok(None);
    };
    let mut parts = Parts { node, ranks, parts: Vec::new(), main: 0 };
    let last = expand(&mut parts)?;
    let last = last.map(|source| match source {
        Source::Part { part, output: 0 } if part + 1 == parts.parts.len() => Ok(()),
        _ => Err(Error::internal("an expansion does not end with its result")),
    });
    Ok(last.transpose()?.map(|()| Expansion { parts: parts.parts, main: parts.main }))
}

/// The parts so far.
struct Parts<'a> {
    node: &'a Node,
    ranks: &'a [Option<usize>],
    parts: Vec<Part>,
    main: usize,
}

impl Parts<'_> {
    /// An input of the node, where it is there.
    fn input(&self, index: usize) -> Source {
        if self.has(index) { Source::Input(index) } else { Source::Nothing }
    }

    fn has(&self, index: usize) -> bool {
        self.node.inputs.get(index).is_some_and(Option::is_some)
    }

    fn add_with(
        &mut self,
        op_type: &'static str,
        opset: u32,
        inputs: &[Source],
        attrs: Vec<(String, Attr)>,
    ) -> Source {
        self.parts.push(Part { op_type, opset, inputs: inputs.to_vec(), attrs, outputs: 1 });
        Source::Part { part: self.parts.len() - 1, output: 0 }
    }

    fn add(&mut self, op_type: &'static str, opset: u32, inputs: &[Source]) -> Source {
        self.add_with(op_type, opset, inputs, Vec::new())
    }

    /// As [`Parts::add_with`], the part that owns the weights.
    fn add_main(
        &mut self,
        op_type: &'static str,
        opset: u32,
        inputs: &[Source],
        attrs: Vec<(String, Attr)>,
    ) -> Source {
        self.main = self.parts.len();
        self.add_with(op_type, opset, inputs, attrs)
    }

    /// The node's attributes without those whose names begin with a prefix.
    fn attrs_without(&self, prefix: &str) -> Vec<(String, Attr)> {
        let kept = self.node.attrs.iter().filter(|(name, _)| !name.starts_with(prefix));
        kept.map(|(name, attr)| (name.clone(), attr.clone())).collect()
    }

    fn flag(&self, name: &str) -> Result<bool> {
        Ok(self.node.int_or(name, 0)? != 0)
    }

    /// The activation that attribute `activation` names, with parameters from `activation_params` in their
    /// order or from `activation_alpha` and the like; `None` where it is not known.
    fn activate(&mut self, x: Source) -> Result<Option<Source>> {
        let name = self.node.str_or("activation", "")?;
        if name.is_empty() {
            return Ok(Some(x));
        }
        let Some(&(op_type, opset, names)) = ACTIVATIONS.iter().find(|(known, ..)| *known == name) else {
            return Ok(None);
        };
        let mut attrs = Vec::new();
        match self.node.floats("activation_params")? {
            Some(values) if values.len() != names.len() => {
                return Err(Error::input(format!(
                    "attribute `activation_params` has {} numbers, {name} takes {}",
                    values.len(),
                    names.len()
                )));
            }
            Some(values) => {
                attrs.extend(names.iter().zip(values).map(|(n, &v)| ((*n).to_string(), Attr::Float(v))));
            }
            None => {
                for name in names {
                    let given = self.node.float(&format!("activation_{name}"))?;
                    attrs.extend(given.map(|value| ((*name).to_string(), Attr::Float(value))));
                }
            }
        }
        Ok(Some(self.add_with(op_type, opset, &[x], attrs)))
    }
}

/// The activations that ONNX Runtime fuses: an operator set in which their parameters are attributes, and
/// these in the order of `activation_params`.
const ACTIVATIONS: &[(&str, u32, &[&str])] = &[
    ("Relu", 14, &[]),
    ("Tanh", 13, &[]),
    ("Sigmoid", 13, &[]),
    ("LeakyRelu", 16, &["alpha"]),
    ("Clip", 6, &["min", "max"]),
    ("HardSigmoid", 6, &["alpha", "beta"]),
    ("HardSwish", 14, &[]),
    ("Elu", 6, &["alpha"]),
    ("Selu", 6, &["alpha", "gamma"]),
    ("Softplus", 1, &[]),
    ("Softsign", 1, &[]),
    ("ThresholdedRelu", 10, &["alpha"]),
];

/// act(conv(X, W, B) + Z).
fn fused_conv(parts: &mut Parts<'_>) -> Result<Option<Source>> {
    let inputs = [0, 1, 2].map(|i| parts.input(i));
    let attrs = parts.attrs_without("activation");
    let mut out = parts.add_main("Conv", 11, &inputs, attrs);
    if parts.has(3) {
        out = parts.add("Add", 14, &[out, Source::Input(3)]);
    }
    parts.activate(out)
}

/// act(alpha · A · B + beta · C).
fn fused_gemm(parts: &mut Parts<'_>) -> Result<Option<Source>> {
    let inputs = [0, 1, 2].map(|i| parts.input(i));
    let attrs = parts.attrs_without("activation");
    let out = parts.add_main("Gemm", 13, &inputs, attrs);
    parts.activate(out)
}

/// An operand of `FusedMatMul`: whether its last two axes are transposed, after `batch` has moved its first
/// axis in front of the last.
#[derive(Clone, Copy)]
struct Operand {
    transposed: bool,
    batch: bool,
}

impl Operand {
    fn is_plain(self) -> bool {
        !self.transposed && !self.batch
    }

    /// Axis i of the operand as it multiplies is axis `order[i]` as it is stored.
    fn order(self, rank: usize) -> Vec<i64> {
        let mut order: Vec<i64> = (0..rank as i64).collect();
        if rank >= 2 {
            if self.batch {
                order[..rank - 1].rotate_left(1);
            }
            if self.transposed {
                order.swap(rank - 2, rank - 1);
            }
        }
        order
    }

    /// The labels of an operand of any rank in an equation, with the axes of the matrix as it multiplies.
    fn labels(self, row: char, column: char) -> String {
        let (first, last) = if self.transposed { (column, row) } else { (row, column) };
        if self.batch { format!("{first}...{last}") } else { format!("...{first}{last}") }
    }
}

/// act(alpha · op(A) · op(B)), where op transposes.
fn fused_matmul(parts: &mut Parts<'_>) -> Result<Option<Source>> {
    let operands = [("transA", "transBatchA"), ("transB", "transBatchB")];
    let mut read = [Operand { transposed: false, batch: false }; 2];
    for (operand, (transposed, batch)) in read.iter_mut().zip(operands) {
        *operand = Operand { transposed: parts.flag(transposed)?, batch: parts.flag(batch)? };
    }
    let known = (0..2).all(|i| read[i].is_plain() || parts.ranks.get(i).copied().flatten().is_some());
    let mut out = if known {
        let mut sources = [Source::Nothing; 2];
        for (i, operand) in read.into_iter().enumerate() {
            let order = parts.ranks.get(i).copied().flatten().map(|rank| operand.order(rank));
            sources[i] = match order.filter(|order| !order.is_sorted()) {
                Some(order) => {
                    let perm = vec![("perm".to_string(), Attr::Ints(order))];
                    let input = parts.input(i);
                    parts.add_with("Transpose", 13, &[input], perm)
                }
                None => parts.input(i),
            };
        }
        parts.add_main("MatMul", 13, &sources, Vec::new())
    } else {
        // The order of axes is not known before the rank is.
        let text = format!("{},{}->...ij", read[0].labels('i', 'k'), read[1].labels('k', 'j'));
        let inputs = [0, 1].map(|i| parts.input(i));
        let equation = vec![("equation".to_string(), Attr::String(text.into_bytes()))];
        parts.add_main("Einsum", 12, &inputs, equation)
    };
    let alpha = parts.node.float_or("alpha", 1.0)?;
    if alpha != 1.0 {
        let value = vec![("value_float".to_string(), Attr::Float(alpha))];
        let factor = parts.add_with("Constant", 13, &[], value);
        out = parts.add("Mul", 14, &[out, factor]);
    }
    parts.activate(out)
}

/// (A − zero point) · (B − zero point) as floats, times both scales, plus a bias.
fn scaled_product(parts: &mut Parts<'_>, operands: [Source; 4], scales: [Source; 2], bias: usize) -> Source {
    let sums = parts.add_main("MatMulInteger", 10, &operands, Vec::new());
    let float = vec![("to".to_string(), Attr::Int(1))];
    let sums = parts.add_with("Cast", 13, &[sums], float);
    let scale = parts.add("Mul", 14, &scales);
    let out = parts.add("Mul", 14, &[sums, scale]);
    if parts.has(bias) { parts.add("Add", 14, &[out, Source::Input(bias)]) } else { out }
}

/// Inputs: A, B, their scales, their zero points, bias.
fn matmul_integer_to_float(parts: &mut Parts<'_>) -> Result<Option<Source>> {
    let operands = [0, 1, 4, 5].map(|i| parts.input(i));
    let scales = [2, 3].map(|i| parts.input(i));
    Ok(Some(scaled_product(parts, operands, scales, 6)))
}

/// Inputs: A of f32, B, its scale, its zero point, bias.
fn dynamic_quantize_matmul(parts: &mut Parts<'_>) -> Result<Option<Source>> {
    let a = parts.input(0);
    parts.add("DynamicQuantizeLinear", 11, &[a]);
    let part = parts.parts.len() - 1;
    parts.parts[part].outputs = 3;
    let [codes, scale, zero] = [0, 1, 2].map(|output| Source::Part { part, output });
    let [b, b_scale, b_zero] = [1, 2, 3].map(|i| parts.input(i));
    Ok(Some(scaled_product(parts, [codes, b, zero, b_zero], [scale, b_scale], 4)))
}

/// Inputs: the output's scale and zero point, then each tensor with its own.
fn qlinear_concat(parts: &mut Parts<'_>) -> Result<Option<Source>> {
    let count = parts.node.inputs.len();
    if count < 5 || count % 3 != 2 {
        return Err(Error::input(format!(
            "{count} inputs: expected a scale and a zero point, then a tensor, a scale and a zero point for each operand"
        )));
    }
    let mut operands = Vec::new();
    for first in (2..count).step_by(3) {
        operands.push(requantized(parts, [first, first + 1, first + 2], [0, 1]));
    }
    let attrs = parts.attrs_without("activation");
    Ok(Some(parts.add_with("Concat", 13, &operands, attrs)))
}

/// Inputs: condition, then X, Y and the output, with scale and zero point.
fn qlinear_where(parts: &mut Parts<'_>) -> Result<Option<Source>> {
    let x = requantized(parts, [1, 2, 3], [7, 8]);
    let y = requantized(parts, [4, 5, 6], [7, 8]);
    let condition = parts.input(0);
    Ok(Some(parts.add("Where", 16, &[condition, x, y])))
}

/// A tensor with its scale and zero point, brought to another scale and zero point.
fn requantized(parts: &mut Parts<'_>, from: [usize; 3], to: [usize; 2]) -> Source {
    let from = from.map(|i| parts.input(i));
    let values = parts.add("DequantizeLinear", 13, &from);
    let [scale, zero] = to.map(|i| parts.input(i));
    parts.add("QuantizeLinear", 13, &[values, scale, zero])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ValueId;
    use crate::ops::testing::{node, with_attr};

    fn of(op_type: &str, inputs: usize) -> Node {
        let inputs = (1..=inputs).map(|i| Some(ValueId(i as u32))).collect();
        Node { domain: MICROSOFT.into(), inputs, ..node(op_type, 1) }
    }

    fn ops(node: &Node, ranks: &[Option<usize>]) -> Vec<&'static str> {
        expand(node, ranks).unwrap().unwrap().parts.iter().map(|part| part.op_type).collect()
    }

    #[test]
    fn a_convolution_with_what_follows_it() {
        let relu = with_attr(of("FusedConv", 4), "activation", Attr::String("Relu".into()));
        assert_eq!(ops(&relu, &[]), ["Conv", "Add", "Relu"]);
        let clip = with_attr(of("FusedConv", 2), "activation", Attr::String("Clip".into()));
        let clip = with_attr(clip, "group", Attr::Int(2));
        let bounds = with_attr(clip.clone(), "activation_params", Attr::Floats(vec![0.0, 6.0]));
        let found = expand(&bounds, &[]).unwrap().unwrap();
        assert_eq!((found.main, found.parts[0].attrs.len()), (0, 1));
        assert!(matches!(&found.parts[1].attrs[1], (name, Attr::Float(6.0)) if name == "max"));
        let one = with_attr(clip, "activation_params", Attr::Floats(vec![0.0]));
        assert!(expand(&one, &[]).unwrap_err().to_string().contains("Clip takes 2"));
    }

    #[test]
    fn what_is_not_known_is_left_alone() {
        let other = with_attr(of("FusedGemm", 2), "activation", Attr::String("Cube".into()));
        assert!(expand(&other, &[]).unwrap().is_none());
        assert!(expand(&of("NothingKnown", 2), &[]).unwrap().is_none());
        assert!(expand(&Node { domain: String::new(), ..of("FusedConv", 2) }, &[]).unwrap().is_none());
    }

    #[test]
    fn the_order_of_axes_follows_the_rank() {
        let order = |transposed, batch, rank| Operand { transposed, batch }.order(rank);
        assert_eq!(order(true, false, 3), [0, 2, 1]);
        assert_eq!(order(false, true, 4), [1, 2, 0, 3]);
        assert_eq!(order(true, true, 4), [1, 2, 3, 0]);
        assert_eq!(order(true, false, 1), [0]);
        let scaled = with_attr(of("FusedMatMul", 2), "transB", Attr::Int(1));
        let scaled = with_attr(scaled, "alpha", Attr::Float(0.5));
        assert_eq!(ops(&scaled, &[None, Some(3)]), ["Transpose", "MatMul", "Constant", "Mul"]);
        assert_eq!(ops(&scaled, &[Some(3), None]), ["Einsum", "Constant", "Mul"]);
    }
}
