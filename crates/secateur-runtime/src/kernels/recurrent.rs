//! `RNN`, `GRU` and `LSTM` (ONNX's formulas).

use std::sync::Arc;

use secateur_kernels::{Activation, Epilogue, Gemm, MatRef, PackedMatrix, activate};
use secateur_model::ops::len_of;
use secateur_model::{DType, Error, Node, Result, Tensor};

use super::{Build, BuildFn, Kernel};
use crate::buffers::Pool;
use crate::packed::{Bits, PackedCache};
use crate::weights::Weights;

pub(super) const KERNELS: &[(&str, BuildFn)] = &[("RNN", build), ("GRU", build), ("LSTM", build)];

#[derive(Clone, Copy, PartialEq)]
enum Cell {
    Rnn,
    Gru { linear_before_reset: bool },
    Lstm { input_forget: bool },
}

impl Cell {
    fn gates(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Gru { .. } => 3,
            Cell::Lstm { .. } => 4,
        }
    }

    /// Activations of a direction, by default.
    fn defaults(self) -> &'static [&'static str] {
        match self {
            Cell::Rnn => &["Tanh"],
            Cell::Gru { .. } => &["Sigmoid", "Tanh"],
            Cell::Lstm { .. } => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// An activation of a gate; those that are not [`Activation`]s are here.
#[derive(Clone, Copy)]
enum Gate {
    Act(Activation),
    Affine(f32, f32),
    ThresholdedRelu(f32),
    ScaledTanh(f32, f32),
}

impl Gate {
    fn parse(name: &str, alpha: Option<f32>, beta: Option<f32>) -> Result<Gate> {
        let a = |default| alpha.unwrap_or(default);
        Ok(match name.to_ascii_lowercase().as_str() {
            "relu" => Gate::Act(Activation::Relu),
            "tanh" => Gate::Act(Activation::Tanh),
            "sigmoid" => Gate::Act(Activation::Sigmoid),
            "softplus" => Gate::Act(Activation::Softplus),
            "softsign" => Gate::Act(Activation::Softsign),
            "leakyrelu" => Gate::Act(Activation::LeakyRelu(a(0.01))),
            "elu" => Gate::Act(Activation::Elu(a(1.0))),
            "hardsigmoid" => Gate::Act(Activation::HardSigmoid { alpha: a(0.2), beta: beta.unwrap_or(0.5) }),
            "affine" => Gate::Affine(a(1.0), beta.unwrap_or(0.0)),
            "thresholdedrelu" => Gate::ThresholdedRelu(a(1.0)),
            "scaledtanh" => Gate::ScaledTanh(a(1.0), beta.unwrap_or(1.0)),
            _ => return Err(Error::unsupported(format!("activation `{name}` is not known"))),
        })
    }

    fn apply(self, values: &mut [f32]) {
        match self {
            Gate::Act(act) => activate(act, values),
            Gate::Affine(a, b) => values.iter_mut().for_each(|v| *v = a * *v + b),
            Gate::ThresholdedRelu(a) => values.iter_mut().for_each(|v| *v = if *v > a { *v } else { 0.0 }),
            Gate::ScaledTanh(a, b) => {
                values.iter_mut().for_each(|v| *v *= b);
                activate(Activation::Tanh, values);
                values.iter_mut().for_each(|v| *v *= a);
            }
        }
    }
}

/// One direction with its weights packed.
struct Direction {
    reverse: bool,
    input: Arc<PackedMatrix>,
    recurrent: Arc<PackedMatrix>,
    /// Biases of the input's product, those of the recurrence added where they always are.
    bias: Vec<f32>,
    /// Bias of the recurrence's product; for GRU's hidden gate it is inside the reset.
    recurrent_bias: Vec<f32>,
    /// Peephole weights of LSTM: input, output, forget gate.
    peephole: Option<Vec<f32>>,
    gates: Vec<Gate>,
}

struct Recurrent {
    cell: Cell,
    seq: usize,
    batch: usize,
    features: usize,
    hidden: usize,
    batch_first: bool,
    clip: Option<f32>,
    directions: Vec<Direction>,
}

fn build(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    recurrent(build, Some(&build.weights.packed))
}

/// The kernel, which shares its packed weights where they are constants.
fn recurrent(build: &Build<'_>, shared: Option<&PackedCache>) -> Result<Option<Box<dyn Kernel>>> {
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let node = build.node;
    let cell = match node.op_type.as_str() {
        "RNN" => Cell::Rnn,
        "GRU" => Cell::Gru { linear_before_reset: node.int_or("linear_before_reset", 0)? != 0 },
        _ => Cell::Lstm { input_forget: node.int_or("input_forget", 0)? != 0 },
    };
    let constant = |index: usize| -> Result<Option<&[f32]>> {
        match build.inputs.get(index) {
            None => Ok(None),
            Some(fact) => match &fact.value {
                Some(value) => value.values::<f32>().map(Some),
                None => Err(Error::unsupported(format!(
                    "input {index} is computed by the graph, expected a constant"
                ))),
            },
        }
    };
    // Weights given as graph inputs are packed when they are known.
    if [1, 2, 3, 7].iter().any(|&i| build.inputs.get(i).is_some_and(|f| f.value.is_none())) {
        return Ok(Some(Box::new(Unpacked { node: node.clone(), weights: build.weights.clone() })));
    }
    let (x, w, r) = (build.shape(0)?, build.shape(1)?, build.shape(2)?);
    let batch_first = node.int_or("layout", 0)? != 0;
    let (seq, batch) = if batch_first { (x[1], x[0]) } else { (x[0], x[1]) };
    let (features, hidden, gates) = (x[2], r[2], cell.gates());
    let rows = gates * hidden;
    let names = match node.str_or("direction", "forward")? {
        "forward" => vec![false],
        "reverse" => vec![true],
        "bidirectional" => vec![false, true],
        other => return Err(Error::input(format!("attribute `direction` is `{other}`"))),
    };
    let n = names.len();
    if w != [n, rows, features] || r != [n, rows, hidden] {
        return Err(Error::input(format!(
            "weights {w:?} and {r:?}, expected [{n}, {rows}, {features}] and [{n}, {rows}, {hidden}]"
        )));
    }
    let (Some(weights), Some(recurrence)) = (constant(1)?, constant(2)?) else {
        return Err(Error::input("the weights are left out"));
    };
    let bias = constant(3)?;
    let peephole = if matches!(cell, Cell::Lstm { .. }) { constant(7)? } else { None };
    let constants = Constants { cell, features, hidden, weights, recurrence, bias, peephole };
    let gates = activations(node, cell, n)?;
    let gates = gates.chunks(cell.defaults().len());
    let directions = names
        .into_iter()
        .zip(gates)
        .enumerate()
        .map(|(d, (reverse, gates))| constants.pack(d, reverse, gates.to_vec(), shared))
        .collect::<Result<_>>()?;
    Ok(Some(Box::new(Recurrent {
        cell,
        seq,
        batch,
        features,
        hidden,
        batch_first,
        clip: node.float("clip")?,
        directions,
    })))
}

/// The constants of all directions, as ONNX lays them out.
struct Constants<'a> {
    cell: Cell,
    features: usize,
    hidden: usize,
    /// `[directions, gates · hidden, features]`.
    weights: &'a [f32],
    /// `[directions, gates · hidden, hidden]`.
    recurrence: &'a [f32],
    /// `[directions, 2 · gates · hidden]`: of the input's product, then of the recurrence's.
    bias: Option<&'a [f32]>,
    /// `[directions, 3 · hidden]`.
    peephole: Option<&'a [f32]>,
}

impl Constants<'_> {
    /// Packs the weights of direction `d`.
    fn pack(
        &self,
        d: usize,
        reverse: bool,
        gates: Vec<Gate>,
        shared: Option<&PackedCache>,
    ) -> Result<Direction> {
        let (hidden, rows) = (self.hidden, self.cell.gates() * self.hidden);
        let part = |all: &[f32], size: usize| all[d * size..(d + 1) * size].to_vec();
        let matrix = |all: &[f32], k: usize| {
            let data = &all[d * rows * k..(d + 1) * rows * k];
            let packed = || PackedMatrix::right(k, rows, MatRef::row_major(data, k).transposed());
            match shared {
                Some(cache) => cache.share(&(k, rows, Bits(data)), None, || Ok(packed())),
                None => Ok(Arc::new(packed())),
            }
        };
        let (mut bias, mut recurrent_bias) = match self.bias.map(|b| part(b, 2 * rows)) {
            Some(b) => (b[..rows].to_vec(), b[rows..].to_vec()),
            None => (vec![0.0; rows], vec![0.0; rows]),
        };
        let inside = match self.cell {
            Cell::Gru { linear_before_reset: true } => 2 * hidden,
            _ => rows,
        };
        for (b, r) in bias.iter_mut().zip(&mut recurrent_bias).take(inside) {
            *b += std::mem::take(r);
        }
        Ok(Direction {
            reverse,
            input: matrix(self.weights, self.features)?,
            recurrent: matrix(self.recurrence, hidden)?,
            bias,
            recurrent_bias,
            peephole: self.peephole.map(|p| part(p, 3 * hidden)),
            gates,
        })
    }
}

fn activations(node: &Node, cell: Cell, directions: usize) -> Result<Vec<Gate>> {
    let names: Vec<String> = match node.attrs.get("activations") {
        Some(secateur_model::Attr::Strings(names)) => {
            names.iter().map(|n| String::from_utf8_lossy(n).into_owned()).collect()
        }
        _ => cell
            .defaults()
            .iter()
            .map(|n| (*n).to_string())
            .cycle()
            .take(cell.defaults().len() * directions)
            .collect(),
    };
    if names.len() != cell.defaults().len() * directions {
        return Err(Error::input(format!("{} activations for {directions} directions", names.len())));
    }
    let (alphas, betas) = (node.floats("activation_alpha")?, node.floats("activation_beta")?);
    let get = |list: Option<&[f32]>, i: usize| list.and_then(|l| l.get(i).copied());
    names.iter().enumerate().map(|(i, name)| Gate::parse(name, get(alphas, i), get(betas, i))).collect()
}

/// Packs weights that the graph computes at each run.
struct Unpacked {
    node: Node,
    weights: Arc<Weights>,
}

impl Kernel for Unpacked {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let facts: Vec<_> = inputs.iter().map(|t| t.clone().map(secateur_model::ops::Fact::from)).collect();
        let build = Build {
            node: &self.node,
            inputs: secateur_model::ops::Facts(&facts),
            outputs: &[],
            epilogue: &super::Epilogue::default(),
            views: &super::Views::default(),
            weights: &self.weights,
            kept: None,
        };
        let kernel = recurrent(&build, None)?;
        kernel.ok_or_else(|| Error::internal("expected a recurrent kernel"))?.run(inputs, pool)
    }
}

impl Recurrent {
    /// Runs one direction. `x` is `[seq, batch, features]`; `y` gets row `(t, b)` at `y[place(t, b)]`.
    #[allow(clippy::too_many_arguments)]
    fn direction(
        &self,
        direction: &Direction,
        x: &[f32],
        lengths: &[usize],
        h: &mut [f32],
        c: &mut [f32],
        y: &mut [f32],
        place: impl Fn(usize, usize) -> usize,
        pool: &mut Pool,
    ) -> Result<()> {
        let (hidden, batch, rows) = (self.hidden, self.batch, self.cell.gates() * self.hidden);
        let mut inputs = pool.take(len_of(&[self.seq, batch, rows])?)?;
        let epilogue = Epilogue { col_bias: Some(&direction.bias), ..Epilogue::default() };
        let (m, k) = (self.seq * batch, self.features);
        if m > 0 && k > 0 {
            let product = Gemm::new([m, rows, k], MatRef::row_major(x, k), &*direction.input);
            Gemm { epilogue, ..product }.run(&mut inputs);
        } else {
            inputs.fill(0.0);
        }
        let mut recurrent = pool.take(batch * rows)?;
        let mut full = pool.take(batch * rows)?;
        let recur = |state: &[f32], out: &mut [f32]| {
            let epilogue = Epilogue { col_bias: Some(&direction.recurrent_bias), ..Epilogue::default() };
            let left = MatRef::row_major(state, hidden);
            Gemm { epilogue, ..Gemm::new([batch, rows, hidden], left, &*direction.recurrent) }.run(out);
        };
        let mut hidden_part = pool.take(batch * hidden)?;
        hidden_part.fill(0.0);
        for step in 0..self.seq {
            recur(h, &mut recurrent);
            let linear_before = self.cell == Cell::Gru { linear_before_reset: true };
            if let (Cell::Gru { .. }, false) = (self.cell, linear_before) {
                // The reset acts on the state before its product with the hidden gate's weights.
                self.reset_states(direction, step, &inputs, &recurrent, lengths, h, &mut hidden_part);
                recur(&hidden_part, &mut full);
                for (r, f) in recurrent.chunks_exact_mut(rows).zip(full.chunks_exact(rows)) {
                    r[2 * hidden..].copy_from_slice(&f[2 * hidden..]);
                }
            }
            for b in 0..batch {
                if step >= lengths[b] {
                    continue;
                }
                let t = if direction.reverse { lengths[b] - 1 - step } else { step };
                let input = &mut inputs[(t * batch + b) * rows..][..rows];
                let state = &mut h[b * hidden..][..hidden];
                let memory = c.get_mut(b * hidden..(b + 1) * hidden).unwrap_or_default();
                self.cell_step(direction, input, &recurrent[b * rows..][..rows], state, memory);
                y[place(t, b)..][..hidden].copy_from_slice(state);
            }
        }
        [inputs, recurrent, full, hidden_part].into_iter().for_each(|scratch| pool.give(scratch));
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn reset_states(
        &self,
        direction: &Direction,
        step: usize,
        inputs: &[f32],
        recurrent: &[f32],
        lengths: &[usize],
        h: &[f32],
        out: &mut [f32],
    ) {
        let (hidden, rows) = (self.hidden, 3 * self.hidden);
        for b in 0..self.batch {
            if step >= lengths[b] {
                continue;
            }
            let t = if direction.reverse { lengths[b] - 1 - step } else { step };
            let input = &inputs[(t * self.batch + b) * rows..][hidden..2 * hidden];
            let product = &recurrent[b * rows..][hidden..2 * hidden];
            let out = &mut out[b * hidden..][..hidden];
            out.iter_mut().zip(input).zip(product).for_each(|((o, i), r)| *o = self.clipped(i + r));
            direction.gates[0].apply(out);
            out.iter_mut().zip(&h[b * hidden..][..hidden]).for_each(|(o, h)| *o *= h);
        }
    }

    fn clipped(&self, v: f32) -> f32 {
        self.clip.map_or(v, |c| v.clamp(-c.abs(), c.abs()))
    }

    fn gate(&self, gate: Gate, values: &mut [f32]) {
        values.iter_mut().for_each(|v| *v = self.clipped(*v));
        gate.apply(values);
    }

    /// One step of one sample: `input` holds x·W + biases and is overwritten.
    fn cell_step(
        &self,
        direction: &Direction,
        input: &mut [f32],
        recurrent: &[f32],
        h: &mut [f32],
        c: &mut [f32],
    ) {
        let n = self.hidden;
        let gates = &direction.gates;
        match self.cell {
            Cell::Rnn => {
                input.iter_mut().zip(recurrent).for_each(|(i, r)| *i += r);
                self.gate(gates[0], input);
                h.copy_from_slice(input);
            }
            Cell::Gru { linear_before_reset } => {
                let (update_reset, hidden) = input.split_at_mut(2 * n);
                update_reset.iter_mut().zip(recurrent).for_each(|(i, r)| *i += r);
                self.gate(gates[0], update_reset);
                let (z, reset) = update_reset.split_at(n);
                let product = &recurrent[2 * n..];
                for (j, v) in hidden.iter_mut().enumerate() {
                    *v += if linear_before_reset { reset[j] * product[j] } else { product[j] };
                }
                self.gate(gates[1], hidden);
                h.iter_mut()
                    .zip(z)
                    .zip(hidden.iter())
                    .for_each(|((h, z), new)| *h = (1.0 - z) * new + z * *h);
            }
            Cell::Lstm { input_forget } => {
                // Gates in the order input, output, forget, cell.
                input.iter_mut().zip(recurrent).for_each(|(i, r)| *i += r);
                let (i, rest) = input.split_at_mut(n);
                let (o, rest) = rest.split_at_mut(n);
                let (f, g) = rest.split_at_mut(n);
                let peephole = direction.peephole.as_deref();
                let peep = |values: &mut [f32], at: usize, c: &[f32]| {
                    if let Some(p) = peephole {
                        values.iter_mut().zip(&p[at * n..]).zip(c).for_each(|((v, p), c)| *v += p * c);
                    }
                };
                peep(i, 0, c);
                peep(f, 2, c);
                self.gate(gates[0], i);
                if input_forget {
                    f.iter_mut().zip(i.iter()).for_each(|(f, i)| *f = 1.0 - i);
                } else {
                    self.gate(gates[0], f);
                }
                self.gate(gates[1], g);
                for (j, c) in c.iter_mut().enumerate() {
                    *c = f[j] * *c + i[j] * g[j];
                }
                peep(o, 1, c);
                self.gate(gates[0], o);
                h.copy_from_slice(c);
                gates[2].apply(h);
                h.iter_mut().zip(o.iter()).for_each(|(h, o)| *h *= o);
            }
        }
    }
}

/// Transposes the first two axes of `[a, b, inner]`.
fn swap_axes(values: &[f32], a: usize, b: usize, pool: &mut Pool) -> Result<Vec<f32>> {
    let inner = values.len() / (a * b).max(1);
    let mut out = pool.take(values.len())?;
    out.clear();
    for j in 0..b {
        for i in 0..a {
            out.extend_from_slice(&values[(i * b + j) * inner..][..inner]);
        }
    }
    Ok(out)
}

impl Kernel for Recurrent {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let given = |i: usize| inputs.get(i).and_then(Option::as_ref);
        let (seq, batch, hidden, count) = (self.seq, self.batch, self.hidden, self.directions.len());
        let x = given(0).ok_or_else(|| Error::input("input 0 is missing"))?.values::<f32>()?;
        let swapped = if self.batch_first { Some(swap_axes(x, batch, seq, pool)?) } else { None };
        let x = swapped.as_deref().unwrap_or(x);
        let lengths = match given(4) {
            None => vec![seq; batch],
            Some(t) => t.to_i64s()?.iter().map(|&n| n.clamp(0, seq as i64) as usize).collect(),
        };
        if lengths.len() != batch {
            return Err(Error::input(format!("{} sequence lengths for a batch of {batch}", lengths.len())));
        }
        // States `[directions, batch, hidden]`, whatever the layout.
        let state = |index: usize, pool: &mut Pool| -> Result<Vec<f32>> {
            match given(index) {
                None => pool.filled(len_of(&[count, batch, hidden])?, 0.0),
                Some(t) if t.len() != count * batch * hidden => {
                    Err(Error::input(format!("state of shape {:?}", t.shape())))
                }
                Some(t) if self.batch_first => swap_axes(t.values()?, batch, count, pool),
                Some(t) => Ok(t.values::<f32>()?.to_vec()),
            }
        };
        let lstm = matches!(self.cell, Cell::Lstm { .. });
        let mut h = state(5, pool)?;
        let mut c = if lstm { state(6, pool)? } else { Vec::new() };
        let mut y = pool.take(seq * count * batch * hidden)?;
        y.fill(0.0);
        // Without hidden elements there is nothing to compute.
        let directions = self.directions.iter().enumerate().filter(|_| hidden > 0);
        for (d, direction) in directions {
            let range = d * batch * hidden..(d + 1) * batch * hidden;
            let place = |t: usize, b: usize| {
                let row =
                    if self.batch_first { (b * seq + t) * count + d } else { (t * count + d) * batch + b };
                row * hidden
            };
            let memory = c.get_mut(range.clone()).unwrap_or_default();
            self.direction(direction, x, &lengths, &mut h[range], memory, &mut y, place, pool)?;
        }
        let last = |values: Vec<f32>, pool: &mut Pool| {
            if self.batch_first {
                Tensor::new([batch, count, hidden], swap_axes(&values, count, batch, pool)?)
            } else {
                Tensor::new([count, batch, hidden], values)
            }
        };
        let shape = if self.batch_first { [batch, seq, count, hidden] } else { [seq, count, batch, hidden] };
        swapped.into_iter().for_each(|scratch| pool.give(scratch));
        let mut outputs = vec![Tensor::new(shape, y)?, last(h, pool)?];
        if lstm {
            outputs.push(last(c, pool)?);
        }
        Ok(outputs)
    }

    fn prepacked_inputs(&self) -> &[usize] {
        if matches!(self.cell, Cell::Lstm { .. }) { &[1, 2, 3, 7] } else { &[1, 2, 3] }
    }
}
