//! One or more nodes of each operator that states its axes, with random shapes.

use secateur_model::{Attr, Model, Node, Tensor, ValueId, ops};

use super::{Build, Random};

/// A node and its operands; the first one is an input, the others are constant.
pub(crate) struct Case {
    pub(crate) op: &'static str,
    domain: &'static str,
    opset: u32,
    attrs: Vec<(&'static str, Attr)>,
    operands: Vec<Option<Tensor>>,
    outputs: usize,
    /// Dimensions that may be permuted, at least.
    pub(crate) free: usize,
}

impl Case {
    pub(crate) fn model(&self) -> (Model, Vec<(ValueId, Tensor)>) {
        let mut build = Build::new();
        let given = self.operands.iter().enumerate().map(|(i, operand)| {
            operand.clone().map(|tensor| if i == 0 { build.input(tensor) } else { build.constant(tensor) })
        });
        let inputs: Vec<Option<ValueId>> = given.collect();
        let attrs = self.attrs.iter().map(|(name, attr)| ((*name).to_string(), attr.clone())).collect();
        let op = ops::all().find(|op| op.name == self.op && op.domain == self.domain).expect("in the table");
        let outputs = build.node(op, self.opset, Node { inputs, attrs, ..Node::default() }, self.outputs);
        outputs.into_iter().for_each(|output| build.output(output));
        build.finish()
    }

    pub(crate) fn label(&self) -> String {
        format!("{} {} {:?}", self.op, self.opset, self.attrs)
    }

    pub(crate) fn shapes(&self) -> Vec<Option<&[usize]>> {
        self.operands.iter().map(|operand| operand.as_ref().map(Tensor::shape)).collect()
    }

    fn opset(mut self, opset: u32) -> Self {
        self.opset = opset;
        self
    }

    fn microsoft(mut self) -> Self {
        (self.domain, self.opset) = (ops::MICROSOFT, 1);
        self
    }

    fn int(self, name: &'static str, value: i64) -> Self {
        self.attr(name, Attr::Int(value))
    }

    fn ints(self, name: &'static str, values: &[i64]) -> Self {
        self.attr(name, Attr::Ints(values.to_vec()))
    }

    fn text(self, name: &'static str, value: &str) -> Self {
        self.attr(name, Attr::String(value.into()))
    }

    fn attr(mut self, name: &'static str, attr: Attr) -> Self {
        self.attrs.push((name, attr));
        self
    }

    fn outputs(mut self, outputs: usize) -> Self {
        self.outputs = outputs;
        self
    }

    fn free(mut self, free: usize) -> Self {
        self.free = free;
        self
    }
}

fn case(op: &'static str, operands: impl IntoIterator<Item = Tensor>) -> Case {
    of(op, operands.into_iter().map(Some))
}

fn of(op: &'static str, operands: impl IntoIterator<Item = Option<Tensor>>) -> Case {
    let operands = operands.into_iter().collect();
    Case { op, domain: "", opset: 24, attrs: Vec::new(), operands, outputs: 1, free: 1 }
}

/// Makes operands.
struct Make<'a>(&'a mut Random);

impl Make<'_> {
    /// Floats in −1…1.
    fn f(&mut self, shape: &[usize]) -> Tensor {
        let len = shape.iter().product();
        Tensor::new(shape, (0..len).map(|_| self.0.number()).collect()).unwrap()
    }

    /// Floats in 0.5…2.5.
    fn positive(&mut self, shape: &[usize]) -> Tensor {
        let len = shape.iter().product();
        Tensor::new(shape, (0..len).map(|_| self.0.number() + 1.5).collect()).unwrap()
    }

    /// Indices below `end`.
    fn index(&mut self, shape: &[usize], end: usize) -> Tensor {
        let len = shape.iter().product();
        Tensor::new(shape, (0..len).map(|_| self.0.below(end) as i64).collect()).unwrap()
    }

    fn bools(&mut self, shape: &[usize]) -> Tensor {
        let len = shape.iter().product();
        Tensor::new(shape, (0..len).map(|_| self.0.below(2) == 1).collect()).unwrap()
    }

    fn bytes(&mut self, shape: &[usize]) -> Tensor {
        let len = shape.iter().product();
        Tensor::new(shape, (0..len).map(|_| self.0.below(256) as u8).collect()).unwrap()
    }

    fn any<const N: usize>(&mut self) -> [usize; N] {
        std::array::from_fn(|_| 2 + self.0.below(4))
    }
}

fn ints(values: &[i64]) -> Tensor {
    Tensor::vector(values.to_vec())
}

fn scalar(value: f32) -> Tensor {
    Tensor::scalar(value)
}

const UNARY: &[&str] = &[
    "Abs",
    "Neg",
    "Sign",
    "Ceil",
    "Floor",
    "Round",
    "Reciprocal",
    "Sqrt",
    "Exp",
    "Log",
    "Sin",
    "Cos",
    "Tan",
    "Sinh",
    "Cosh",
    "Tanh",
    "Asinh",
    "Erf",
    "Relu",
    "LeakyRelu",
    "ThresholdedRelu",
    "Elu",
    "Celu",
    "Selu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Softplus",
    "Softsign",
    "Mish",
    "Swish",
    "Gelu",
    "Shrink",
    "IsNaN",
    "IsInf",
    "Identity",
    "Dropout",
];

const ARITHMETIC: &[&str] = &["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Pow"];

const COMPARISONS: &[&str] = &["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"];

const REDUCTIONS: &[&str] = &[
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
];

pub(crate) fn all(random: &mut Random) -> Vec<Case> {
    let mut make = Make(random);
    let mut cases = elementwise(&mut make);
    cases.extend(layers(&mut make));
    cases.extend(movement(&mut make));
    cases.extend(normalisations(&mut make));
    cases.extend(positions(&mut make));
    cases.extend(quantised(&mut make));
    cases
}

fn elementwise(make: &mut Make<'_>) -> Vec<Case> {
    let [n, c, h] = make.any();
    let mut cases: Vec<Case> = UNARY.iter().map(|op| case(op, [make.positive(&[n, c, h])]).free(3)).collect();
    for op in ["Asin", "Acos", "Atan"] {
        cases.push(case(op, [make.f(&[n, c])]).free(2));
    }
    let two = make.positive(&[n, c]);
    let cosh = Tensor::new(two.shape(), two.to_f32s().unwrap().iter().map(|v| v + 1.0).collect()).unwrap();
    cases.push(case("Acosh", [cosh]).free(2));
    let half = Tensor::new([n, c], make.f(&[n, c]).to_f32s().unwrap().iter().map(|v| v / 2.0).collect());
    cases.push(case("Atanh", [half.unwrap()]).free(2));
    for op in ARITHMETIC.iter().chain(COMPARISONS) {
        cases.push(case(op, [make.positive(&[n, c, h]), make.positive(&[c, 1])]).free(3));
        cases.push(case(op, [make.positive(&[1, h]), make.positive(&[n, c, h])]).free(3));
    }
    for op in ["Max", "Min", "Mean"] {
        cases.push(case(op, [make.f(&[n, c, h]), make.f(&[c, 1]), make.f(&[n, 1, h])]).free(0));
    }
    for op in ["And", "Or", "Xor"] {
        cases.push(case(op, [make.bools(&[n, c]), make.bools(&[c])]).free(2));
    }
    cases.push(case("Not", [make.bools(&[n, c])]).free(2));
    for op in ["BitwiseAnd", "BitwiseOr", "BitwiseXor"] {
        cases.push(case(op, [make.bytes(&[n, c]), make.bytes(&[c])]).free(2));
    }
    cases.push(case("BitwiseNot", [make.bytes(&[n, c])]).free(2));
    let shifts = Tensor::new([c], vec![1u8; c]).unwrap();
    cases.push(case("BitShift", [make.bytes(&[n, c]), shifts]).text("direction", "LEFT").free(2));
    cases.push(case("Mod", [make.positive(&[n, c]), make.positive(&[c])]).int("fmod", 1).free(2));
    cases.push(case("PRelu", [make.f(&[n, c, h]), make.f(&[c, 1])]).free(3));
    cases.push(case("Clip", [make.f(&[n, c]), scalar(-0.5), scalar(0.5)]).free(2));
    cases.push(case("Where", [make.bools(&[n, 1]), make.f(&[n, c]), make.f(&[c])]).free(2));
    cases.push(case("Cast", [make.f(&[n, c])]).int("to", 11).free(2));
    cases.push(case("CastLike", [make.f(&[n, c]), Tensor::scalar(0.0f64)]).free(2));
    cases.push(case("SwiGLU", [make.f(&[n, c]), make.f(&[n, c])]).opset(28).free(0));
    for op in ["BiasGelu", "FastGelu"] {
        cases.push(case(op, [make.f(&[n, c]), make.f(&[c])]).microsoft().free(2));
    }
    for op in ["Gelu", "QuickGelu"] {
        cases.push(case(op, [make.f(&[n, c])]).microsoft().free(2));
    }
    cases
}

fn layers(make: &mut Make<'_>) -> Vec<Case> {
    let [n, g, i, o, h] = make.any();
    let (x, w) = ([n, g * i, h + 2, h + 3], [g * o, i, 3, 2]);
    let mut cases = vec![
        case("Conv", [make.f(&x), make.f(&[o, g * i, 3, 2]), make.f(&[o])]).free(3),
        case("Conv", [make.f(&x), make.f(&w), make.f(&[g * o])]).int("group", g as i64).free(4),
        // Depthwise, with a multiplier.
        case("Conv", [make.f(&x), make.f(&[g * i * o, 1, 3, 3])]).int("group", (g * i) as i64).free(2),
        case("Conv", [make.f(&[n, i, h]), make.f(&[o, i, 1])]).free(4),
        case("ConvTranspose", [make.f(&x), make.f(&[g * i, o, 3, 2]), make.f(&[g * o])])
            .int("group", g as i64)
            .free(4),
        case("MatMul", [make.f(&[n, h, i]), make.f(&[i, o])]).free(4),
        case("MatMul", [make.f(&[n, 1, h, i]), make.f(&[g, i, o])]).free(5),
        case("MatMul", [make.f(&[i]), make.f(&[i, o])]).free(2),
        case("MatMul", [make.f(&[n, i]), make.f(&[i])]).free(2),
        case("Gemm", [make.f(&[n, i]), make.f(&[o, i]), make.f(&[o])]).int("transB", 1).free(3),
        case("Gemm", [make.f(&[i, n]), make.f(&[i, o]), make.f(&[n, 1])]).int("transA", 1).free(3),
        case("Einsum", [make.f(&[n, h, i]), make.f(&[i, o])]).text("equation", "...i,io->...o").free(4),
        case("Einsum", [make.f(&[n, g, i]), make.f(&[n, g, i])]).text("equation", "bhd,bhd->bh").free(3),
    ];
    for equation in ["bii->bi", "bij->j", "bij->ijb"] {
        cases.push(case("Einsum", [make.f(&[n, i, i])]).text("equation", equation).free(0));
    }
    let three = [make.f(&[n, i]), make.f(&[i, o]), make.f(&[o, 1])];
    cases.push(case("Einsum", three).text("equation", "ab,bc,cd->da").free(0));
    let channels = g * i;
    let offsets = make.f(&[n, g * 2 * 6, h, h + 2]);
    cases.push(
        case("DeformConv", [make.f(&x), make.f(&[o, channels, 3, 2]), offsets])
            .int("offset_group", g as i64)
            .free(2),
    );
    for (op, gates) in [("RNN", 1), ("GRU", 3), ("LSTM", 4)] {
        let weights = [make.f(&[1, gates * o, i]), make.f(&[1, gates * o, o]), make.f(&[1, 2 * gates * o])];
        let outputs = if op == "LSTM" { 3 } else { 2 };
        cases.push(
            case(op, [make.f(&[h, n, i])].into_iter().chain(weights))
                .int("hidden_size", o as i64)
                .outputs(outputs)
                .free(3),
        );
    }
    let window = |op| case(op, [Tensor::new([n, i, h + 2], vec![0.5; n * i * (h + 2)]).unwrap()]);
    for op in ["MaxPool", "AveragePool", "LpPool"] {
        cases.push(window(op).ints("kernel_shape", &[2]).free(2));
        cases.push(case(op, [make.f(&[n, i, h + 2])]).ints("kernel_shape", &[2]).free(2));
    }
    cases.push(case("MaxPool", [make.f(&[n, i, h + 2])]).ints("kernel_shape", &[2]).outputs(2).free(0));
    for op in ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"] {
        cases.push(case(op, [make.f(&[n, i, h])]).free(3));
    }
    let (kv, share, width) = (g, o, 2 * i);
    let heads = |make: &mut Make<'_>, heads: usize, positions| make.f(&[n, heads, positions, width]);
    let four = [heads(make, kv * share, h), heads(make, kv, h + 1), heads(make, kv, h + 1)];
    cases.push(case("Attention", four).free(4));
    let three =
        [make.f(&[n, h, kv * share * width]), make.f(&[n, h, kv * width]), make.f(&[n, h, kv * width])];
    cases.push(
        case("Attention", three)
            .int("q_num_heads", (kv * share) as i64)
            .int("kv_num_heads", kv as i64)
            .int("is_causal", 1)
            .free(4),
    );
    let masked = [
        heads(make, kv * share, h),
        heads(make, kv, h + 1),
        heads(make, kv, h + 1),
        make.f(&[n, 1, h, h + 1]),
    ];
    cases.push(case("Attention", masked).attr("softcap", Attr::Float(0.7)).free(0));
    let caches = [make.f(&[h, i]), make.f(&[h, i])];
    let rotated = [heads(make, kv, h)].into_iter().chain(caches).chain([make.index(&[n, h], h)]);
    cases.push(case("RotaryEmbedding", rotated).free(2));
    cases
}

fn movement(make: &mut Make<'_>) -> Vec<Case> {
    let [n, c, d, h] = make.any();
    let shape = [n, 2 * c, d, h];
    let x = |make: &mut Make<'_>| make.f(&shape);
    let i = |v: usize| v as i64;
    let mut cases = vec![
        case("Transpose", [x(make)]).ints("perm", &[2, 0, 3, 1]).free(4),
        case("Transpose", [x(make)]).free(4),
        case("Concat", [x(make), make.f(&[n, c, d, h])]).int("axis", 1).free(5),
        case("Split", [x(make), ints(&[i(c), i(c)])]).int("axis", 1).outputs(2).free(5),
        case("Split", [x(make)]).int("axis", 1).int("num_outputs", 2).outputs(2).free(5),
        case("Split", [x(make)]).opset(11).int("axis", 1).ints("split", &[i(c), i(c)]).outputs(2).free(5),
        case("Slice", [x(make), ints(&[1, -1]), ints(&[i64::MAX, i64::MAX]), ints(&[1, 3])]).free(3),
        case("Slice", [x(make), ints(&[i(c)]), ints(&[0]), ints(&[1]), ints(&[-1])]).free(3),
        case("Expand", [make.f(&[2 * c, 1, h]), ints(&[i(n), 1, i(d), 1])]).free(4),
        case("Tile", [make.f(&[c, d]), ints(&[3, 2])]).free(4),
        case("DepthToSpace", [make.f(&[n, 4 * c, d, h])]).int("blocksize", 2).free(4),
        case("DepthToSpace", [make.f(&[n, 4 * c, d, h])]).int("blocksize", 2).text("mode", "CRD").free(4),
        case("SpaceToDepth", [make.f(&[n, c, 2 * d, 2 * h])]).int("blocksize", 2).free(4),
        case("Reshape", [x(make), ints(&[i(n), 2, i(c), i(d * h)])]).free(5),
        case("Reshape", [x(make), ints(&[0, -1])]).free(4),
        case("Flatten", [x(make)]).free(4),
        case("Squeeze", [make.f(&[n, 1, c, 1]), ints(&[1, 3])]).free(2),
        case("Unsqueeze", [make.f(&[n, c]), ints(&[0, 2])]).free(2),
        case("Pad", [x(make), ints(&[0, 2, 0, 0, 0, 3, 0, 1])]).free(6),
        case("Pad", [x(make), ints(&[1, 0]), scalar(0.5), ints(&[1])]).free(4),
        case("Pad", [x(make), ints(&[0, 1, 0, 0, 0, 1, 0, 0])]).text("mode", "reflect").free(3),
        case("Pad", [x(make), ints(&[0, -1, 0, 0, 0, 0, 0, 0])]).free(3),
        case("Shape", [x(make)]).free(4),
        case("Size", [x(make)]).free(4),
        case("ConstantOfShape", [ints(&[3, 4])]).free(0),
    ];
    let scales = Tensor::vector(vec![1f32, 1.0, 2.0, 2.0]);
    cases.push(of("Resize", [Some(x(make)), None, Some(scales.clone())]).text("mode", "linear").free(2));
    let sizes = ints(&[i(n), i(2 * c), i(2 * d), i(3 * h)]);
    for mode in ["linear", "cubic"] {
        let sizes = ints(&[i(n), i(2 * c), i(d + 3), i(h - 1)]);
        cases.push(of("Resize", [Some(x(make)), None, None, Some(sizes)]).text("mode", mode).free(0));
    }
    cases.push(of("Resize", [Some(x(make)), None, None, Some(sizes)]).free(2));
    cases.push(case("Upsample", [x(make), scales]).opset(9).free(2));
    cases
}

fn normalisations(make: &mut Make<'_>) -> Vec<Case> {
    let [n, g, c, h] = make.any();
    let x = [n, g * c, h];
    let channels = |make: &mut Make<'_>| make.positive(&[g * c]);
    let mut cases = vec![
        case(
            "BatchNormalization",
            [make.f(&x), channels(make), channels(make), channels(make), channels(make)],
        )
        .free(3),
        case(
            "BatchNormalization",
            [make.f(&x), channels(make), channels(make), channels(make), channels(make)],
        )
        .int("training_mode", 1)
        .outputs(3)
        .free(3),
        case("InstanceNormalization", [make.f(&x), channels(make), channels(make)]).free(3),
        case("GroupNormalization", [make.f(&x), channels(make), channels(make)])
            .int("num_groups", g as i64)
            .free(4),
        case("GroupNormalization", [make.f(&x), make.f(&[g]), make.f(&[g])])
            .opset(18)
            .int("num_groups", g as i64)
            .free(4),
        case("LayerNormalization", [make.f(&x), make.f(&[h]), make.f(&[h])]).outputs(3).free(3),
        case("LayerNormalization", [make.f(&x), make.f(&[g * c, h])]).int("axis", 1).free(3),
        case("RMSNormalization", [make.f(&x), make.f(&[h])]).free(3),
        case("SimplifiedLayerNormalization", [make.f(&x), make.f(&[h])]).free(3),
        case("SkipLayerNormalization", [make.f(&x), make.f(&x), make.f(&[h]), make.f(&[h]), make.f(&[h])])
            .microsoft()
            .outputs(4)
            .free(3),
        case("SkipSimplifiedLayerNormalization", [make.f(&x), make.f(&x), make.f(&[h])]).microsoft().free(3),
        case("LpNormalization", [make.f(&x)]).int("axis", 1).free(3),
        case("LRN", [make.f(&[n, g * c, h, 2])]).int("size", 3).free(3),
        case("MeanVarianceNormalization", [make.f(&[n, c, h, 3])]).free(4),
        case("Softmax", [make.f(&x)]).int("axis", 1).free(3),
        case("Softmax", [make.f(&x)]).opset(11).int("axis", 1).free(3),
        case("LogSoftmax", [make.f(&x)]).free(3),
        case("Hardmax", [make.f(&x)]).free(2),
    ];
    for op in REDUCTIONS {
        cases.push(case(op, [make.positive(&x), ints(&[1])]).int("keepdims", 0).free(3));
        cases.push(case(op, [make.positive(&x), ints(&[0, -1])]).free(3));
        cases.push(case(op, [make.positive(&x)]).opset(11).ints("axes", &[2]).free(3));
    }
    cases
}

/// Operators that look at positions along some axes.
fn positions(make: &mut Make<'_>) -> Vec<Case> {
    let [n, c, d, k] = make.any();
    let x = [n, c, d];
    let regions = Tensor::new([k, 4], [0f32, 0.0, 2.0, 2.0].repeat(k)).unwrap();
    let numbered = Tensor::new([k, 5], [0f32, 0.0, 0.0, 1.0, 1.0].repeat(k)).unwrap();
    let lengths = Tensor::new([c], vec![1i64; c]).unwrap();
    let (images, batch) = (make.index(&[k], n), n);
    vec![
        case("Gather", [make.f(&x), make.index(&[k, 2], c)]).int("axis", 1).free(3),
        case("Gather", [make.f(&x), Tensor::scalar(1i64)]).free(2),
        case("GatherElements", [make.f(&x), make.index(&[n, k, d], c)]).int("axis", 1).free(2),
        case("GatherElements", [make.f(&x), make.index(&[1, k, d], c)]).int("axis", 1).free(1),
        case("GatherND", [make.f(&x), make.index(&[k, 1], 2)]).free(3),
        case("GatherND", [make.f(&x), make.index(&[n, k, 1], 2)]).int("batch_dims", 1).free(3),
        // How much is left is not known before it runs.
        case("Compress", [make.f(&x), make.bools(&[c])]).int("axis", 1).free(0),
        case("Scatter", [make.f(&x), make.index(&[n, 1, d], c), make.f(&[n, 1, d])])
            .opset(10)
            .int("axis", 1)
            .free(2),
        case("ScatterElements", [make.f(&x), make.index(&[n, k, d], c), make.f(&[n, k, d])])
            .int("axis", 1)
            .free(2),
        case("ScatterND", [make.f(&x), make.index(&[k, 1], n), make.f(&[k, c, d])]).free(2),
        case("ScatterND", [make.f(&x), make.index(&[k, 1], n), make.f(&[k, c, d])])
            .text("reduction", "add")
            .free(0),
        case("ScatterElements", [make.f(&x), make.index(&[n, k, d], c), make.f(&[n, k, d])])
            .int("axis", 1)
            .text("reduction", "add")
            .free(0),
        case("ArgMax", [make.f(&x)]).int("axis", 1).free(2),
        case("ArgMin", [make.f(&x)]).int("axis", 1).int("keepdims", 0).free(2),
        case("TopK", [make.f(&x), ints(&[2])]).int("axis", 1).outputs(2).free(2),
        case("Trilu", [make.f(&x)]).free(1),
        case("OneHot", [make.index(&[n, c], 3), Tensor::scalar(3i64), Tensor::vector(vec![0f32, 1.0])])
            .int("axis", 1)
            .free(2),
        case("ReverseSequence", [make.f(&[d, c, k]), lengths]).free(2),
        case("CumSum", [make.f(&x), Tensor::scalar(1i64)]).free(2),
        case("CumSum", [make.f(&x), Tensor::scalar(2i64)]).int("exclusive", 1).int("reverse", 1).free(0),
        case("CumProd", [make.f(&x), Tensor::scalar(1i64)]).opset(26).free(2),
        case("RoiAlign", [make.f(&[batch, c, 4, 4]), regions, images])
            .int("output_height", 2)
            .int("output_width", 2)
            .free(2),
        case("MaxRoiPool", [make.f(&[batch, c, 4, 4]), numbered]).ints("pooled_shape", &[2, 2]).free(2),
        case("GridSample", [make.f(&[n, c, 4, 4]), make.f(&[n, d, k, 2])]).free(4),
    ]
}

fn quantised(make: &mut Make<'_>) -> Vec<Case> {
    let [n, c, d, o] = make.any();
    let byte = || Tensor::scalar(3u8);
    let pair = |make: &mut Make<'_>, shape: &[usize]| [make.bytes(shape), scalar(0.25), byte()];
    let per = |count: usize| Tensor::new([count], vec![2u8; count]).unwrap();
    let mut cases = vec![
        case("QuantizeLinear", [make.f(&[n, c, d]), make.positive(&[c]), per(c)]).free(3),
        case("QuantizeLinear", [make.f(&[n, c]), scalar(0.25), byte()]).free(2),
        case("DequantizeLinear", [make.bytes(&[n, c, d]), make.positive(&[c]), per(c)]).free(3),
        case("DequantizeLinear", [make.bytes(&[n, 2 * c]), make.positive(&[n, c])])
            .int("axis", 1)
            .int("block_size", 2)
            .free(3),
        case("DynamicQuantizeLinear", [make.f(&[n, c])]).outputs(3).free(2),
        case("ConvInteger", [make.bytes(&[n, c, d + 2]), make.bytes(&[o, c, 2]), byte(), byte()]).free(3),
        case("MatMulInteger", [make.bytes(&[n, c]), make.bytes(&[c, o]), byte(), byte()]).free(3),
    ];
    let operands = |make: &mut Make<'_>, x: &[usize], w: &[usize], scales: usize| {
        let x = pair(make, x);
        let w = [make.bytes(w), make.positive(&[scales]), per(scales)];
        x.into_iter().chain(w).chain([scalar(8.0), byte()]).collect::<Vec<_>>()
    };
    let mut conv = operands(make, &[n, c, d + 2], &[o, c, 2], o);
    conv.push(Tensor::new([o], vec![5i32; o]).unwrap());
    cases.push(case("QLinearConv", conv).free(3));
    cases.push(case("QLinearMatMul", operands(make, &[n, c], &[c, o], o)).free(3));
    let gemm: Vec<Option<Tensor>> = pair(make, &[n, c])
        .into_iter()
        .chain([make.bytes(&[c, o]), make.positive(&[o]), per(o)])
        .chain([Tensor::new([o], vec![5i32; o]).unwrap(), scalar(8.0), byte()])
        .map(Some)
        .collect();
    cases.push(of("QGemm", gemm).microsoft().free(3));
    for op in ["QLinearAdd", "QLinearMul"] {
        let both = pair(make, &[n, c]).into_iter().chain(pair(make, &[c]));
        cases.push(case(op, both.chain([scalar(0.5), byte()])).microsoft().free(2));
    }
    for op in ["QLinearSigmoid", "QLinearLeakyRelu"] {
        cases
            .push(case(op, pair(make, &[n, c]).into_iter().chain([scalar(0.5), byte()])).microsoft().free(2));
    }
    let map = |make: &mut Make<'_>, op| {
        case(op, pair(make, &[n, c, d, d]).into_iter().chain([scalar(0.25), byte()])).microsoft().free(2)
    };
    cases.push(map(make, "QLinearAveragePool").ints("kernel_shape", &[2, 2]));
    cases.push(map(make, "QLinearGlobalAveragePool"));
    cases
}
