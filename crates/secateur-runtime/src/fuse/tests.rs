//! The fused path and the plain one agree, and the fused one was taken.

use std::sync::Arc;

use secateur_model::graph::{Dim, Value};
use secateur_model::model::{Storage, StoredTensor};
use secateur_model::ops::Fact;
use secateur_model::{Attr, DType, Graph, Model, Node, Patch, Tensor, ValueId, io};

use crate::Session;
use crate::costs::Costs;
use crate::plan::compile_for_training;
use crate::weights::Weights;

mod packed;

/// A model of one graph, built node by node.
struct Build {
    graph: Graph,
    model: Model,
    seed: u64,
}

impl Build {
    fn new() -> Self {
        let model =
            Model { tensors: Default::default(), graph: None, path: None, source: io::Source::memory() };
        Build { graph: Graph::default(), model, seed: 3 }
    }

    fn value(&mut self, shape: Option<&[usize]>) -> ValueId {
        let id = ValueId(self.graph.values.len() as u32);
        self.graph.values.push(Value {
            name: format!("v{}", id.0),
            dtype: shape.map(|_| DType::F32),
            shape: shape.map(|s| s.iter().map(|&d| Dim::Known(d)).collect()),
        });
        id
    }

    fn input(&mut self, shape: &[usize]) -> ValueId {
        let id = self.value(Some(shape));
        self.graph.inputs.push(id);
        id
    }

    fn random(&mut self, shape: &[usize]) -> Tensor {
        let mut next = || {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let len = shape.iter().product();
        Tensor::new(shape, (0..len).map(|_| next()).collect()).unwrap()
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        let id = self.value(None);
        let path = format!("v{}", id.0);
        let (dtype, (shape, data)) = (tensor.dtype(), tensor.into_parts());
        let stored =
            StoredTensor { path: path.clone(), dtype, shape, storage: Storage::Data(Arc::new(data)) };
        self.model.tensors.insert(path.clone(), stored);
        let tensor = self.model.tensor_id(&path).unwrap();
        self.graph.constants.insert(id, tensor);
        id
    }

    fn weight(&mut self, shape: &[usize]) -> ValueId {
        let tensor = self.random(shape);
        self.constant(tensor)
    }

    fn scalar(&mut self, value: f32) -> ValueId {
        self.constant(Tensor::scalar(value))
    }

    fn ints(&mut self, values: &[i64]) -> ValueId {
        self.constant(Tensor::vector(values.to_vec()))
    }

    fn node(&mut self, op_type: &str, inputs: &[ValueId], attrs: &[(&str, Attr)]) -> ValueId {
        let out = self.value(None);
        self.graph.nodes.push(Node {
            name: format!("n{}", self.graph.nodes.len()),
            op_type: op_type.into(),
            opset: 20,
            inputs: inputs.iter().map(|&i| Some(i)).collect(),
            outputs: vec![Some(out)],
            attrs: attrs.iter().map(|(n, a)| ((*n).to_string(), a.clone())).collect(),
            ..Node::default()
        });
        out
    }

    /// Runs with and without fusion on random inputs; the kinds of the fused steps.
    fn agree(mut self, outputs: &[ValueId]) -> Vec<String> {
        self.graph.outputs = outputs.to_vec();
        let shapes: Vec<(String, Vec<usize>)> = (self.graph.inputs.clone().into_iter())
            .map(|id| {
                let value = &self.graph.values[id.index()];
                let known = |d: &Dim| if let Dim::Known(n) = d { *n } else { 0 };
                (value.name.clone(), value.shape.iter().flatten().map(known).collect())
            })
            .collect();
        let inputs: Vec<(String, Tensor)> =
            shapes.into_iter().map(|(name, shape)| (name, self.random(&shape))).collect();
        self.model.graph = Some(self.graph);
        let model = Arc::new(self.model);
        let plain =
            Session::without_fusion(model.clone(), Patch::new()).unwrap().run(inputs.clone()).unwrap();
        let (fused, steps) = Session::new(model, Patch::new()).unwrap().profile(inputs).unwrap();
        for (a, b) in fused.iter().zip(&plain) {
            assert_eq!(a.shape(), b.shape());
            let (a, b) = (a.values::<f32>().unwrap(), b.values::<f32>().unwrap());
            let largest = b.iter().filter(|v| v.is_finite()).fold(0f32, |m, v| m.max(v.abs()));
            for (a, b) in a.iter().zip(b) {
                let same = (a - b).abs() <= 2e-5 * largest || a == b || a.is_nan() && b.is_nan();
                assert!(same, "{a} fused, {b} plain, the largest is {largest}");
            }
        }
        steps.into_iter().map(|s| s.node.kind).collect()
    }
}

fn int(v: i64) -> Attr {
    Attr::Int(v)
}

fn axes(b: &mut Build, op: &str, x: ValueId, axes: &[i64]) -> ValueId {
    let axes = b.ints(axes);
    b.node(op, &[x, axes], &[])
}

#[test]
fn activations_spelled_out() {
    let x_then = |make: fn(&mut Build, ValueId) -> ValueId| {
        let mut b = Build::new();
        let x = b.input(&[2, 3, 37]);
        let y = make(&mut b, x);
        b.agree(&[y])
    };
    let mish = x_then(|b, x| {
        let s = b.node("Softplus", &[x], &[]);
        let t = b.node("Tanh", &[s], &[]);
        b.node("Mul", &[x, t], &[])
    });
    assert_eq!(mish, ["Mish"]);
    let silu = x_then(|b, x| {
        let s = b.node("Sigmoid", &[x], &[]);
        b.node("Mul", &[s, x], &[])
    });
    assert_eq!(silu, ["Swish"]);
    let quick_gelu = x_then(|b, x| {
        let c = b.scalar(1.702);
        let m = b.node("Mul", &[x, c], &[]);
        let s = b.node("Sigmoid", &[m], &[]);
        b.node("Mul", &[x, s], &[])
    });
    assert_eq!(quick_gelu, ["Swish"]);
    let hard_swish = x_then(|b, x| {
        let attrs = [("alpha", Attr::Float(1.0 / 6.0)), ("beta", Attr::Float(0.5))];
        let s = b.node("HardSigmoid", &[x], &attrs);
        b.node("Mul", &[x, s], &[])
    });
    assert_eq!(hard_swish, ["HardSwish"]);
    let hard_swish_by_relu6 = x_then(|b, x| {
        let (three, zero, six) = (b.scalar(3.0), b.scalar(0.0), b.scalar(6.0));
        let a = b.node("Add", &[x, three], &[]);
        let c = b.node("Clip", &[a, zero, six], &[]);
        let m = b.node("Mul", &[x, c], &[]);
        b.node("Div", &[m, six], &[])
    });
    assert_eq!(hard_swish_by_relu6, ["HardSwish"]);
    let gelu = x_then(|b, x| {
        let (root, one, half) = (b.scalar(2f32.sqrt()), b.scalar(1.0), b.scalar(0.5));
        let d = b.node("Div", &[x, root], &[]);
        let e = b.node("Erf", &[d], &[]);
        let a = b.node("Add", &[e, one], &[]);
        let m = b.node("Mul", &[x, a], &[]);
        b.node("Mul", &[m, half], &[])
    });
    assert_eq!(gelu, ["Gelu"]);
    let gelu_tanh = x_then(|b, x| {
        let (half, three, c) = (b.scalar(0.5), b.scalar(3.0), b.scalar(0.044_715));
        let (root, one) = (b.scalar((2.0 / std::f32::consts::PI).sqrt()), b.scalar(1.0));
        let h = b.node("Mul", &[x, half], &[]);
        let p = b.node("Pow", &[x, three], &[]);
        let m = b.node("Mul", &[c, p], &[]);
        let a = b.node("Add", &[x, m], &[]);
        let m = b.node("Mul", &[a, root], &[]);
        let t = b.node("Tanh", &[m], &[]);
        let t = b.node("Add", &[t, one], &[]);
        b.node("Mul", &[h, t], &[])
    });
    assert_eq!(gelu_tanh, ["Gelu"]);
}

#[test]
fn a_gate_that_is_used_elsewhere_stays() {
    let mut b = Build::new();
    let x = b.input(&[4, 5]);
    let s = b.node("Sigmoid", &[x], &[]);
    let y = b.node("Mul", &[x, s], &[]);
    assert_eq!(b.agree(&[y, s]), ["Sigmoid", "Mul"]);
}

#[test]
fn normalisations_spelled_out() {
    for (affine, centred) in [(true, true), (false, true), (true, false), (false, false)] {
        let mut b = Build::new();
        let x = b.input(&[2, 5, 24]);
        let mut y = x;
        if centred {
            let mean = axes(&mut b, "ReduceMean", x, &[-1]);
            y = b.node("Sub", &[x, mean], &[]);
        }
        let (two, eps) = (b.scalar(2.0), b.scalar(1e-5));
        let squares = b.node("Pow", &[y, two], &[]);
        let variance = axes(&mut b, "ReduceMean", squares, &[2]);
        let sum = b.node("Add", &[variance, eps], &[]);
        let root = b.node("Sqrt", &[sum], &[]);
        y = b.node("Div", &[y, root], &[]);
        if affine {
            let (scale, bias) = (b.weight(&[24]), b.weight(&[24]));
            y = b.node("Mul", &[y, scale], &[]);
            if centred {
                y = b.node("Add", &[y, bias], &[]);
            }
        }
        let expected = if centred { "LayerNormalization" } else { "RMSNormalization" };
        assert_eq!(b.agree(&[y]), [expected]);
    }
}

#[test]
fn normalisations_with_variables_and_gelu_form_in_training() {
    let mut b = Build::new();
    let x = b.input(&[2, 5, 24]);
    let (two, eps) = (b.scalar(2.0), b.scalar(1e-5));
    let mean = axes(&mut b, "ReduceMean", x, &[-1]);
    let centred = b.node("Sub", &[x, mean], &[]);
    let squares = b.node("Pow", &[centred, two], &[]);
    let variance = axes(&mut b, "ReduceMean", squares, &[2]);
    let sum = b.node("Add", &[variance, eps], &[]);
    let root = b.node("Sqrt", &[sum], &[]);
    let quotient = b.node("Div", &[centred, root], &[]);
    let (scale, bias) = (b.weight(&[24]), b.weight(&[24]));
    let scaled = b.node("Mul", &[quotient, scale], &[]);
    let normal = b.node("Add", &[scaled, bias], &[]);
    let (root, one, half) = (b.scalar(2f32.sqrt()), b.scalar(1.0), b.scalar(0.5));
    let part = b.node("Div", &[normal, root], &[]);
    let erf = b.node("Erf", &[part], &[]);
    let gate = b.node("Add", &[erf, one], &[]);
    let gated = b.node("Mul", &[normal, gate], &[]);
    let y = b.node("Mul", &[gated, half], &[]);
    b.graph.outputs = vec![y];
    let held = [scale, bias].into_iter().map(|value| b.graph.constants[&value]).zip(0..).collect();
    let graph = b.graph.clone();
    b.model.graph = Some(b.graph);
    let weights = Arc::new(Weights::new(Arc::new(b.model), Patch::new(), true, Costs::SHIPPED));
    let given = [Fact::new(DType::F32, [2, 5, 24])];
    let (items, _) = compile_for_training(&graph, &weights, &given, &held, y).unwrap();
    let kinds: Vec<&str> = items.iter().map(|item| item.node.op_type.as_str()).collect();
    assert_eq!(kinds, ["LayerNormalization", "Gelu"]);
    assert_eq!(items[0].node.inputs, [x, scale, bias].map(Some));
}

#[test]
fn convolutions_take_what_follows() {
    for (op, groups) in [("Conv", 1), ("Conv", 3), ("ConvTranspose", 1), ("ConvTranspose", 3)] {
        let mut b = Build::new();
        let x = b.input(&[2, 6, 9, 8]);
        let channels = 12;
        let shape = match op {
            "Conv" => [channels, 6 / groups, 3, 3],
            _ => [6, channels / groups, 3, 3],
        };
        let (w, bias) = (b.weight(&shape), b.weight(&[channels]));
        let attrs = [("group", int(groups as i64)), ("pads", Attr::Ints(vec![1; 4]))];
        let y = b.node(op, &[x, w, bias], &attrs);
        let parameters: Vec<ValueId> = (0..3).map(|_| b.weight(&[channels])).collect();
        let variance = b.constant(Tensor::vector((0..channels).map(|i| 0.5 + i as f32).collect()));
        let y =
            b.node("BatchNormalization", &[y, parameters[0], parameters[1], parameters[2], variance], &[]);
        let factor = b.weight(&[channels, 1, 1]);
        let y = b.node("Mul", &[y, factor], &[]);
        let (y, expected) = if op == "Conv" {
            let other = b.input(&[2, channels, 9, 8]);
            (b.node("Add", &[other, y], &[]), "Conv+affine+add+LeakyRelu")
        } else {
            (y, "ConvTranspose+affine+LeakyRelu")
        };
        let y = b.node("LeakyRelu", &[y], &[]);
        assert_eq!(b.agree(&[y]), [expected]);
    }
}

#[test]
fn a_computed_bias_stays_outside() {
    let mut b = Build::new();
    let (x, bias) = (b.input(&[1, 2, 5]), b.input(&[4]));
    let w = b.weight(&[4, 2, 3]);
    let y = b.node("Conv", &[x, w, bias], &[]);
    let y = b.node("Relu", &[y], &[]);
    assert_eq!(b.agree(&[y]), ["Conv", "Relu"]);
    let mut b = Build::new();
    let (x, c) = (b.input(&[3, 4]), b.input(&[3, 5]));
    let w = b.weight(&[4, 5]);
    let y = b.node("Gemm", &[x, w, c], &[]);
    let y = b.node("Relu", &[y], &[]);
    assert_eq!(b.agree(&[y]), ["Gemm", "Relu"]);
}

#[test]
fn products_take_what_follows() {
    let mut b = Build::new();
    let (x, other) = (b.input(&[2, 3, 7]), b.input(&[2, 3, 5]));
    let (w, bias, factor) = (b.weight(&[7, 5]), b.weight(&[5]), b.scalar(0.3));
    let y = b.node("MatMul", &[x, w], &[]);
    let y = b.node("Sub", &[bias, y], &[]);
    let y = b.node("Div", &[y, factor], &[]);
    let y = b.node("Add", &[y, other], &[]);
    let y = b.node("Gelu", &[y], &[]);
    assert_eq!(b.agree(&[y]), ["MatMul+affine+add+Gelu"]);

    let mut b = Build::new();
    let (x, other) = (b.input(&[3, 7]), b.input(&[3, 5]));
    let (w, bias) = (b.weight(&[5, 7]), b.weight(&[5]));
    let attrs = [("transB", int(1)), ("alpha", Attr::Float(0.5)), ("beta", Attr::Float(2.0))];
    let y = b.node("Gemm", &[x, w, bias], &attrs);
    let scale = b.weight(&[1, 5]);
    let y = b.node("Mul", &[y, scale], &[]);
    let y = b.node("Add", &[y, other], &[]);
    let y = b.node("Tanh", &[y], &[]);
    assert_eq!(b.agree(&[y]), ["Gemm+affine+add+Tanh"]);

    // A vector is the left operand.
    let mut b = Build::new();
    let x = b.input(&[7]);
    let (w, bias) = (b.weight(&[7, 5]), b.weight(&[5]));
    let y = b.node("MatMul", &[x, w], &[]);
    let y = b.node("Add", &[y, bias], &[]);
    let y = b.node("Relu", &[y], &[]);
    assert_eq!(b.agree(&[y]), ["MatMul+affine+Relu"]);
}

#[test]
fn what_broadcasts_otherwise_is_not_folded() {
    // A factor of each row, not of each channel.
    let mut b = Build::new();
    let x = b.input(&[1, 3, 5, 5]);
    let w = b.weight(&[5, 3, 1, 1]);
    let y = b.node("Conv", &[x, w], &[]);
    let rows = b.weight(&[5, 1]);
    let y = b.node("Mul", &[y, rows], &[]);
    assert_eq!(b.agree(&[y]), ["Conv", "Mul"]);
    // A batch-norm before the convolution.
    let mut b = Build::new();
    let x = b.input(&[1, 3, 5, 5]);
    let parameters: Vec<ValueId> = (0..3).map(|_| b.weight(&[3])).collect();
    let variance = b.constant(Tensor::vector(vec![1f32, 2.0, 3.0]));
    let y = b.node("BatchNormalization", &[x, parameters[0], parameters[1], parameters[2], variance], &[]);
    let y = b.node("Relu", &[y], &[]);
    let w = b.weight(&[5, 3, 3, 3]);
    let y = b.node("Conv", &[y, w], &[]);
    assert_eq!(b.agree(&[y]), ["BatchNormalization+Relu", "Conv"]);
}

#[test]
fn padding_becomes_the_convolutions_own() {
    let conv = |pads: &[i64], value: f32| {
        let mut b = Build::new();
        let x = b.input(&[1, 3, 7, 6]);
        let (pads, value) = (b.ints(pads), b.scalar(value));
        let y = b.node("Pad", &[x, pads, value], &[]);
        let w = b.weight(&[5, 3, 3, 3]);
        let attrs = [("strides", Attr::Ints(vec![2, 2])), ("pads", Attr::Ints(vec![1, 0, 0, 1]))];
        let y = b.node("Conv", &[y, w], &attrs);
        b.agree(&[y])
    };
    assert_eq!(conv(&[0, 0, 0, 2, 0, 0, 1, 1], 0.0), ["Conv"]);
    assert_eq!(conv(&[0, 0, 0, 2, 0, 0, 1, 1], 0.5), ["Pad", "Conv"]);
    assert_eq!(conv(&[0, 0, -1, 2, 0, 0, 1, 1], 0.0), ["Pad", "Conv"]);
}

/// Q·Kᵀ with factors, mask, softmax, guard, the product with V, and the heads side by side.
fn attention(rank: usize, masked: bool, guarded: bool, transposed: bool) -> Vec<String> {
    let mut b = Build::new();
    let (queries, keys, heads, width) = (5, 7, 3, 4);
    let perm = if rank == 4 { vec![0, 2, 1, 3] } else { vec![1, 0, 2] };
    let key_perm = if rank == 4 { vec![0, 2, 3, 1] } else { vec![1, 2, 0] };
    let stored = |length: usize| {
        if rank == 4 { vec![2, length, heads, width] } else { vec![length, heads, width] }
    };
    let (q, k, v) = (b.input(&stored(queries)), b.input(&stored(keys)), b.input(&stored(keys)));
    let q = b.node("Transpose", &[q], &[("perm", Attr::Ints(perm.clone()))]);
    let k = b.node("Transpose", &[k], &[("perm", Attr::Ints(key_perm))]);
    let v = b.node("Transpose", &[v], &[("perm", Attr::Ints(perm.clone()))]);
    let factor = b.scalar(0.7);
    let q = b.node("Mul", &[q, factor], &[]);
    let k = b.node("Mul", &[factor, k], &[]);
    let mut s = b.node("MatMul", &[q, k], &[]);
    let root = b.scalar(1.5);
    s = b.node("Div", &[s, root], &[]);
    if masked {
        let mut mask = b.random(&[heads, queries, keys]);
        // One query sees nothing.
        mask.values_mut::<f32>().unwrap()[keys..2 * keys].fill(f32::NEG_INFINITY);
        let mask = b.constant(mask);
        s = b.node("Add", &[s, mask], &[]);
    }
    let mut w = b.node("Softmax", &[s], &[]);
    if guarded {
        let (test, zero) = (b.node("IsNaN", &[w], &[]), b.scalar(0.0));
        w = b.node("Where", &[test, zero, w], &[]);
    }
    let mut y = b.node("MatMul", &[w, v], &[]);
    if transposed {
        y = b.node("Transpose", &[y], &[("perm", Attr::Ints(perm))]);
    }
    b.agree(&[y])
}

#[test]
fn attention_among_plain_nodes() {
    for rank in [3, 4] {
        for (masked, guarded, transposed) in
            [(false, false, true), (true, false, true), (true, true, false), (false, true, true)]
        {
            assert_eq!(attention(rank, masked, guarded, transposed), ["Attention"]);
        }
    }
}

#[test]
fn products_read_through_transpositions() {
    let mut b = Build::new();
    let (x, y) = (b.input(&[2, 3, 6, 4]), b.input(&[2, 5, 3, 4]));
    let factor = b.scalar(0.5);
    let left = b.node("Mul", &[x, factor], &[]);
    let right = b.node("Transpose", &[y], &[("perm", Attr::Ints(vec![0, 2, 3, 1]))]);
    let z = b.node("MatMul", &[left, right], &[]);
    assert_eq!(b.agree(&[z]), ["MatMul"]);
    // With a constant right operand the rows of the stack are no longer one tall matrix.
    let mut b = Build::new();
    let x = b.input(&[2, 3, 6, 4]);
    let left = b.node("Transpose", &[x], &[("perm", Attr::Ints(vec![0, 2, 1, 3]))]);
    let (w, bias) = (b.weight(&[4, 5]), b.weight(&[5]));
    let z = b.node("MatMul", &[left, w], &[]);
    let z = b.node("Add", &[z, bias], &[]);
    assert_eq!(b.agree(&[z]), ["MatMul+affine"]);
}

#[test]
fn factors_that_would_make_weights_infinite_stay_behind_the_product() {
    let conv_then_norm = |weight: f32, scale: f32, bias: f32, var: f32| {
        let mut b = Build::new();
        let x = b.input(&[2, 1, 5, 5]);
        // Half of the inputs are 0: an infinite weight would make them NaN.
        let x = b.node("Relu", &[x], &[]);
        let w = b.constant(Tensor::new([2, 1, 1, 1], vec![weight, 0.5]).unwrap());
        let y = b.node("Conv", &[x, w], &[]);
        let parameters = [vec![scale, 1.0], vec![bias, 0.0], vec![1.0, 0.0], vec![var, 1.0]];
        let parameters = parameters.map(|values| b.constant(Tensor::vector(values)));
        let y = b.node("BatchNormalization", &[&[y], &parameters[..]].concat(), &[]);
        b.agree(&[y])
    };
    let apart = ["Relu", "Conv", "BatchNormalization"];
    assert_eq!(conv_then_norm(-3e38, 4.0, 0.5, 1.0), apart);
    assert_eq!(conv_then_norm(1e30, 1e20, 0.0, 1e-10), apart);
    assert_eq!(conv_then_norm(-3e38, 0.5, 0.5, 1.0), ["Relu", "Conv+affine"]);
    assert_eq!(conv_then_norm(2.0, 4.0, 0.5, 1.0), ["Relu", "Conv+affine"]);

    // What divides by 0 gives NaN for 0 only where that is computed, not for weights that are 0.
    let mut b = Build::new();
    let x = b.input(&[3, 2]);
    let w = b.constant(Tensor::new([2, 2], vec![0.0f32, 0.5, 1.0, 2.0]).unwrap());
    let y = b.node("MatMul", &[x, w], &[]);
    let zeros = b.constant(Tensor::vector(vec![0.0f32, 2.0]));
    let y = b.node("Div", &[y, zeros], &[]);
    // A weight of 0 makes the product sparse.
    assert_eq!(b.agree(&[y]), ["MatMul (sparse)", "Div"]);
}
