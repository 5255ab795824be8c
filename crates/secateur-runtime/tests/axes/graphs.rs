//! Random graphs of operators that meet in models: convolutions with branches, groups and shortcuts, and attention.

use secateur_model::{Attr, Model, Node, Tensor, ValueId, ops};

use super::{Build, Random};

struct Graph<'a> {
    build: Build,
    random: &'a mut Random,
    story: String,
}

/// A random graph, what is given to it, and its nodes in words.
pub(crate) fn random(random: &mut Random) -> (Model, Vec<(ValueId, Tensor)>, String) {
    let maps = random.below(2) == 0;
    let mut graph = Graph { build: Build::new(), random, story: String::new() };
    let out = if maps { graph.maps() } else { graph.tokens() };
    graph.build.output(out);
    let story = graph.story;
    let (model, given) = graph.build.finish();
    (model, given, story)
}

impl Graph<'_> {
    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let len = shape.iter().product();
        Tensor::new(shape, (0..len).map(|_| self.random.number()).collect()).unwrap()
    }

    fn weight(&mut self, shape: &[usize]) -> ValueId {
        let tensor = self.tensor(shape);
        self.build.constant(tensor)
    }

    fn ints(&mut self, values: &[i64]) -> ValueId {
        self.build.constant(Tensor::vector(values.to_vec()))
    }

    fn many(&mut self, op: &str, inputs: &[ValueId], attrs: &[(&str, Attr)], outputs: usize) -> Vec<ValueId> {
        let inputs: Vec<_> = inputs.iter().map(|&v| Some(v)).collect();
        let attrs = attrs.iter().map(|(name, attr)| ((*name).to_string(), attr.clone())).collect();
        let found = ops::all().find(|o| o.name == op && o.domain.is_empty()).expect("in the table");
        let made =
            self.build.node(found, 22, Node { inputs: inputs.clone(), attrs, ..Node::default() }, outputs);
        self.story += &format!("{op} {inputs:?} -> {made:?}\n");
        made
    }

    fn node(&mut self, op: &str, inputs: &[ValueId], attrs: &[(&str, Attr)]) -> ValueId {
        self.many(op, inputs, attrs, 1)[0]
    }

    fn conv(&mut self, x: ValueId, from: usize, to: usize, groups: usize) -> ValueId {
        let (w, b) = (self.weight(&[to, from / groups, 3, 3]), self.weight(&[to]));
        let attrs = [("group", Attr::Int(groups as i64)), ("pads", Attr::Ints(vec![1; 4]))];
        self.node("Conv", &[x, w, b], &attrs)
    }

    fn reshape(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        let shape = self.ints(&shape.iter().map(|&d| d as i64).collect::<Vec<_>>());
        self.node("Reshape", &[x, shape], &[])
    }

    fn norm(&mut self, x: ValueId, channels: usize) -> ValueId {
        let [scale, bias, mean] = [(); 3].map(|()| self.weight(&[channels]));
        let variance = Tensor::new([channels], (0..channels).map(|i| 1.0 + i as f32).collect()).unwrap();
        let variance = self.build.constant(variance);
        self.node("BatchNormalization", &[x, scale, bias, mean, variance], &[])
    }

    /// Feature maps of 2·m channels, a few blocks deep, and a classifier behind them.
    fn maps(&mut self) -> ValueId {
        let (n, side) = (2, 4);
        let mut channels = 4 * (1 + self.random.below(3));
        let input = self.tensor(&[n, 3, side, side]);
        let mut x = self.build.input(input);
        x = self.conv(x, 3, channels, 1);
        for _ in 0..2 + self.random.below(3) {
            (x, channels) = self.block(x, n, channels, side);
        }
        let features = match self.random.below(3) {
            0 => self.node("GlobalAveragePool", &[x], &[]),
            1 => {
                let axes = self.ints(&[2, 3]);
                self.node("ReduceMean", &[x, axes], &[])
            }
            _ => x,
        };
        let places = if features == x { side * side } else { 1 };
        let flat = self.node("Flatten", &[features], &[]);
        let (w, b) = (self.weight(&[5, channels * places]), self.weight(&[5]));
        self.node("Gemm", &[flat, w, b], &[("transB", Attr::Int(1))])
    }

    fn block(&mut self, x: ValueId, n: usize, c: usize, side: usize) -> (ValueId, usize) {
        match self.random.below(10) {
            0 => {
                let y = self.conv(x, c, c, 1);
                let y = self.norm(y, c);
                let y = self.node("Relu", &[y], &[]);
                (self.node("Add", &[x, y], &[]), c)
            }
            1 => (self.conv(x, c, c, c), c),
            2 => (self.conv(x, c, c, 2), c),
            3 => {
                let y = self.conv(x, c, 4, 1);
                (self.node("Concat", &[x, y, x], &[("axis", Attr::Int(1))]), 2 * c + 4)
            }
            4 => {
                // The halves cross over.
                let halves =
                    self.many("Split", &[x], &[("axis", Attr::Int(1)), ("num_outputs", Attr::Int(2))], 2);
                let y = self.conv(halves[0], c / 2, c / 2, 1);
                (self.node("Concat", &[halves[1], y], &[("axis", Attr::Int(1))]), c)
            }
            5 => {
                // Channels are shuffled, as ShuffleNet does.
                let y = self.reshape(x, &[n, 2, c / 2, side, side]);
                let y = self.node("Transpose", &[y], &[("perm", Attr::Ints(vec![0, 2, 1, 3, 4]))]);
                (self.reshape(y, &[n, c, side, side]), c)
            }
            6 => {
                // A shortcut that is padded with channels of zeros.
                let pads = self.ints(&[0, 2, 0, 0, 0, 2, 0, 0]);
                let shortcut = self.node("Pad", &[x, pads], &[]);
                let y = self.conv(x, c, c + 4, 1);
                (self.node("Add", &[shortcut, y], &[]), c + 4)
            }
            7 => {
                // Squeeze and excitation.
                let pooled = self.node("GlobalAveragePool", &[x], &[]);
                let (down, up) = (self.weight(&[2, c, 1, 1]), self.weight(&[c, 2, 1, 1]));
                let y = self.node("Conv", &[pooled, down], &[]);
                let y = self.node("Conv", &[y, up], &[]);
                let y = self.node("Sigmoid", &[y], &[]);
                (self.node("Mul", &[x, y], &[]), c)
            }
            8 => {
                let [start, end, axis] = [2, c as i64, 1].map(|v| self.ints(&[v]));
                let cut = self.node("Slice", &[x, start, end, axis], &[]);
                let [scale, bias] = [(); 2].map(|()| self.weight(&[c - 2]));
                let groups = ("num_groups", Attr::Int((c as i64 - 2) / 2));
                let y = self.node("GroupNormalization", &[cut, scale, bias], &[groups]);
                (self.conv(y, c - 2, c, 1), c)
            }
            _ => {
                let y = self.conv(x, c, 4 * c, 1);
                let up = self.node("DepthToSpace", &[y], &[("blocksize", Attr::Int(2))]);
                let two = || Attr::Ints(vec![2, 2]);
                (self.node("MaxPool", &[up], &[("kernel_shape", two()), ("strides", two())]), c)
            }
        }
    }

    fn linear(&mut self, x: ValueId, from: usize, to: usize) -> ValueId {
        let (w, b) = (self.weight(&[from, to]), self.weight(&[to]));
        let y = self.node("MatMul", &[x, w], &[]);
        self.node("Add", &[y, b], &[])
    }

    /// An encoder of a few blocks over embedded tokens.
    fn tokens(&mut self) -> ValueId {
        let (n, t, heads) = (2, 3, 2);
        let width = 2 * (1 + self.random.below(2));
        let hidden = heads * width;
        let tokens = Tensor::new([n, t], (0..n * t).map(|i| (i % 7) as i64).collect()).unwrap();
        let ids = self.build.input(tokens);
        let (table, places) = (self.weight(&[7, hidden]), self.weight(&[1, t, hidden]));
        let x = self.node("Gather", &[table, ids], &[]);
        let mut x = self.node("Add", &[x, places], &[]);
        for _ in 0..1 + self.random.below(2) {
            let y = if self.random.below(2) == 0 {
                self.attention(x, [n, t, heads, width])
            } else {
                self.packed_attention(x, [n, t, heads, width])
            };
            let y = self.linear(y, hidden, hidden);
            let sum = self.node("Add", &[x, y], &[]);
            let scale = self.weight(&[hidden]);
            let normed = self.node("LayerNormalization", &[sum, scale], &[]);
            // A gated perceptron.
            let (gate, up) = (self.linear(normed, hidden, 6), self.linear(normed, hidden, 6));
            let gate = self.node("Gelu", &[gate], &[]);
            let both = self.node("Mul", &[gate, up], &[]);
            let down = self.linear(both, 6, hidden);
            x = self.node("Add", &[sum, down], &[]);
        }
        self.linear(x, hidden, 5)
    }

    fn heads(&mut self, x: ValueId, [n, t, heads, width]: [usize; 4], perm: [i64; 4]) -> ValueId {
        let split = self.reshape(x, &[n, t, heads, width]);
        self.node("Transpose", &[split], &[("perm", Attr::Ints(perm.to_vec()))])
    }

    fn scores(&mut self, [q, k, v]: [ValueId; 3], [n, t, heads, width]: [usize; 4]) -> ValueId {
        let scores = self.node("MatMul", &[q, k], &[]);
        let shares = self.node("Softmax", &[scores], &[]);
        let y = self.node("MatMul", &[shares, v], &[]);
        let y = self.node("Transpose", &[y], &[("perm", Attr::Ints(vec![0, 2, 1, 3]))]);
        self.reshape(y, &[n, t, heads * width])
    }

    fn attention(&mut self, x: ValueId, shape: [usize; 4]) -> ValueId {
        let hidden = shape[2] * shape[3];
        let [q, k, v] = [(); 3].map(|()| self.linear(x, hidden, hidden));
        let (q, v) = (self.heads(q, shape, [0, 2, 1, 3]), self.heads(v, shape, [0, 2, 1, 3]));
        let k = self.heads(k, shape, [0, 2, 3, 1]);
        self.scores([q, k, v], shape)
    }

    /// One projection of [q | k | v], seen as three stacks of heads.
    fn packed_attention(&mut self, x: ValueId, shape: [usize; 4]) -> ValueId {
        let [n, t, heads, width] = shape;
        let packed = self.linear(x, heads * width, 3 * heads * width);
        let split = self.reshape(packed, &[n, t, 3, heads, width]);
        let split = self.node("Transpose", &[split], &[("perm", Attr::Ints(vec![2, 0, 3, 1, 4]))]);
        let parts = self.many("Split", &[split], &[("axis", Attr::Int(0)), ("num_outputs", Attr::Int(3))], 3);
        let zero = self.ints(&[0]);
        let [q, k, v] = [0, 1, 2].map(|i| self.node("Squeeze", &[parts[i], zero], &[]));
        let k = self.node("Transpose", &[k], &[("perm", Attr::Ints(vec![0, 1, 3, 2]))]);
        self.scores([q, k, v], shape)
    }
}
