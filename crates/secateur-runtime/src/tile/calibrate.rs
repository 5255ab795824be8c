//! Costs measured on the machine that runs.

use std::time::{Duration, Instant};

use secateur_kernels::ValueType;
use secateur_kernels::decode::RowWeights;
use secateur_kernels::sparse::{Form, SparseConv};
use secateur_kernels::tiled::{TiledPool, Tiling};
use secateur_kernels::{
    Activation, Buffer, ConvSpec, Gemm, MatRef, PackedConv, PackedMatrix, PoolOp, PoolSpec,
};
use secateur_model::{Error, Result};

use super::conv;
use super::linear;
use super::pooling;
use crate::costs::{Costs, Counts};

/// How long the cases take turns. At the end each has run a few dozen times, and its fastest run counts: what
/// else the machine does only ever adds to a time.
const LASTING: Duration = Duration::from_millis(900);
/// Rounds that there are at least, on whatever machine.
const LEAST_ROUNDS: usize = 5;
/// Descents along each figure until the fit doesn't change any more.
const SWEEPS: usize = 4000;

/// A layer: channels, size of the map, kernel, stride, groups.
type Layer = ([usize; 2], usize, usize, usize, usize);

/// Layers as networks for images have them.
const LAYERS: [Layer; 22] = [
    ([64, 64], 56, 1, 1, 1),
    ([256, 64], 28, 1, 1, 1),
    ([128, 512], 14, 1, 1, 1),
    ([512, 256], 7, 1, 1, 1),
    ([16, 96], 56, 1, 1, 1),
    ([96, 24], 56, 1, 1, 1),
    ([64, 64], 28, 3, 1, 1),
    ([128, 128], 14, 3, 1, 1),
    ([256, 256], 7, 3, 1, 1),
    ([32, 32], 16, 3, 1, 1),
    ([64, 128], 28, 3, 2, 1),
    ([3, 32], 112, 3, 2, 1),
    ([128, 256], 28, 1, 2, 1),
    ([256, 512], 14, 1, 2, 1),
    ([16, 16], 32, 3, 1, 1),
    ([128, 128], 56, 3, 1, 32),
    ([256, 256], 28, 3, 2, 32),
    ([512, 512], 14, 3, 1, 32),
    ([96, 96], 56, 3, 1, 96),
    ([384, 384], 14, 3, 1, 384),
    ([240, 240], 28, 5, 2, 240),
    ([576, 576], 7, 5, 1, 576),
];

impl Costs {
    /// Measures the costs of this machine on one thread, in about a second: layers run in turn, dense and sparse,
    /// and the figures are fitted to their times.
    ///
    /// # Errors
    /// `Internal` where no thread can be started.
    pub fn measure() -> Result<Costs> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.map_err(|e| Error::internal(e.to_string()))?;
        Ok(pool.install(|| {
            let mut cases = cases();
            let start = Instant::now();
            let mut round = 0;
            while round < LEAST_ROUNDS || start.elapsed() < LASTING {
                cases.iter_mut().for_each(|case| {
                    case.time();
                });
                round += 1;
            }
            fit(&cases)
        }))
    }
}

/// Layers of [`LAYERS`] that a [`Probe`] runs.
const PROBED: [usize; 4] = [0, 3, 6, 8];

/// A few kernels, dense and sparse, that are run now and again beside what is measured, to tell how fast the machine
/// is at the moment.
pub struct Probe(Vec<Case>);

impl Probe {
    /// Prepares the kernels.
    pub fn new() -> Probe {
        let mut cases = Vec::new();
        PROBED.iter().for_each(|&layer| convolutions(&spec_of(LAYERS[layer]), &mut cases));
        Probe(cases)
    }

    /// Runs each kernel once; their times in seconds.
    pub fn run(&mut self) -> Vec<f64> {
        self.0.iter_mut().map(|case| case.time() / 1e9).collect()
    }

    /// What costs say of each kernel on one thread, in seconds.
    pub fn estimates(&self, costs: &Costs) -> Vec<f64> {
        self.0.iter().map(|case| costs.time(&case.counts) / 1e9).collect()
    }
}

impl Default for Probe {
    fn default() -> Self {
        Probe::new()
    }
}

/// What a case runs on its input, into its output.
type Run = Box<dyn Fn(&[f32], &mut [f32]) + Send>;

/// Something that kernels do.
struct Case {
    counts: Counts,
    input: Buffer,
    output: Buffer,
    run: Run,
    /// The fastest run's time in nanoseconds.
    best: f64,
}

impl Case {
    fn new(
        counts: Counts,
        input: &[f32],
        output: usize,
        run: impl Fn(&[f32], &mut [f32]) + Send + 'static,
    ) -> Case {
        let (mut values, output) = (Buffer::zeroed(input.len()), Buffer::zeroed(output));
        values.as_mut_slice()[..input.len()].copy_from_slice(input);
        Case { counts, input: values, output, run: Box::new(run), best: f64::INFINITY }
    }

    /// Runs once, as within a network: the input has just been written, and weights may have left the caches,
    /// since all other cases have run meanwhile. Returns the time in nanoseconds.
    fn time(&mut self) -> f64 {
        self.output.as_mut_slice().fill(0.0);
        let same = std::hint::black_box(1.0);
        self.input.as_mut_slice().iter_mut().for_each(|x| *x *= same);
        let start = Instant::now();
        (self.run)(self.input.as_slice(), self.output.as_mut_slice());
        let time = start.elapsed().as_nanos() as f64;
        self.best = self.best.min(time);
        time
    }
}

/// What is timed: every figure of the table is counted by some.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    LAYERS.iter().for_each(|&layer| convolutions(&spec_of(layer), &mut cases));
    poolings(&mut cases);
    linears(&mut cases);
    rows(&mut cases);
    ends(&mut cases);
    turns(&mut cases);
    cases
}

fn spec_of(([input, output], size, kernel, stride, groups): Layer) -> ConvSpec {
    ConvSpec {
        stride: vec![stride; 2],
        pads: vec![kernel / 2; 4],
        groups,
        ..ConvSpec::new(input, output, &[size; 2], &[kernel; 2])
    }
}

/// A convolution, dense and with zeros, output by output and in panels where a group has outputs for them.
fn convolutions(spec: &ConvSpec, cases: &mut Vec<Case>) {
    let weights = noise(spec.macs() as usize / spec.out_size().iter().product::<usize>(), 1);
    let tiling = Tiling::new(spec.in_channels, spec.in_size[0], spec.in_size[1]);
    let values = noise(spec.in_channels * tiling.size().iter().product::<usize>(), 2);
    let mut tiles = vec![0.0; tiling.len(1)];
    tiling.from_nchw(1, &values, &mut tiles);
    let outputs = spec.out_channels * spec.out_size().iter().product::<usize>();

    let dense = PackedConv::new(spec.clone(), &weights, None);
    let run = move |x: &[f32], out: &mut [f32]| dense.run(1, x, out, None, Activation::Relu);
    cases.push(Case::new(conv::on_tensors(spec), &values, outputs, run));
    let rows = [0.5, 0.8, 0.95].map(|sparsity| (Form::Rows, sparsity));
    let panels = [0.0, 0.5, 0.8].map(|sparsity| (Form::Panels, sparsity));
    let panels = panels.into_iter().filter(|_| spec.out_channels > spec.groups);
    for (form, sparsity) in rows.into_iter().chain(panels) {
        let weights = thinned(&weights, sparsity);
        let packed = SparseConv::new(form, &weights, None, spec, &tiling);
        let (counts, outputs) = (conv::on_tiles(spec, &weights, form), packed.output().len(1));
        let run = move |x: &[f32], out: &mut [f32]| packed.run(1, x, None, Activation::Relu, out);
        cases.push(Case::new(counts, &tiles, outputs, run));
    }
}

/// Weights some of which are zero.
fn thinned(weights: &[f32], sparsity: f32) -> Vec<f32> {
    let zeros = noise(weights.len(), 3);
    weights.iter().zip(zeros).map(|(&w, x)| if x + 0.5 < sparsity { 0.0 } else { w }).collect()
}

/// Dense linear layers on the tokens of a text.
fn linears(cases: &mut Vec<Case>) {
    const TOKENS: usize = 128;
    for [inputs, outputs] in [[384, 1536], [1536, 384], [768, 768]] {
        let (x, weights) = (noise(TOKENS * inputs, 11), noise(inputs * outputs, 12));
        let packed = PackedMatrix::right(inputs, outputs, MatRef::row_major(&weights, outputs));
        let run = move |x: &[f32], out: &mut [f32]| {
            Gemm::new([TOKENS, outputs, inputs], MatRef::row_major(x, inputs), &packed).run(out);
        };
        cases.push(Case::new(linear::on_tensors(TOKENS, inputs, outputs), &x, TOKENS * outputs, run));
    }
}

/// Linear layers on one row.
fn rows(cases: &mut Vec<Case>) {
    for [inputs, outputs] in [[2048, 1024], [768, 768]] {
        let (x, weights) = (noise(inputs, 6), noise(inputs * outputs, 7));
        for sparsity in [0.0, 0.5, 0.9] {
            let packed = RowWeights::new(inputs, &thinned(&weights, sparsity), None, ValueType::F32);
            let counts = Counts { fetch: packed.bytes(), ..Counts::default() };
            let run = move |x: &[f32], out: &mut [f32]| packed.run(x, None, Activation::Relu, out);
            cases.push(Case::new(counts, &x, outputs, run));
        }
    }
}

/// A sparse convolution with all that may follow it. Its input stands for a residual too, which a network has
/// written shortly before as well.
fn ends(cases: &mut Vec<Case>) {
    let spec = ConvSpec::new(128, 128, &[28; 2], &[1; 2]);
    let weights = thinned(&noise(128 * 128, 8), 0.9);
    let tiling = Tiling::new(128, 28, 28);
    let values = noise(tiling.len(1), 9);
    for (residual, act) in [
        (false, Activation::Relu),
        (true, Activation::Relu),
        (false, Activation::Gelu),
        (false, Activation::Silu),
    ] {
        let packed = SparseConv::new(Form::Rows, &weights, None, &spec, &tiling);
        let len = packed.output().len(1);
        let mut counts = conv::on_tiles(&spec, &weights, Form::Rows);
        let end = Counts::at_end(128 * 28 * 28, residual, act);
        (counts.residual, counts.exponential) = (end.residual, end.exponential);
        let run = move |x: &[f32], out: &mut [f32]| packed.run(1, x, residual.then_some(x), act, out);
        cases.push(Case::new(counts, &values, len, run));
    }
}

/// Poolings on tensors and on tiles.
fn poolings(cases: &mut Vec<Case>) {
    let average = PoolOp::Average { count_include_pad: false };
    for (op, channels, size, stride) in
        [(PoolOp::Max, 64, 56, 2), (PoolOp::Max, 128, 28, 1), (average, 64, 28, 2)]
    {
        let spec = PoolSpec {
            in_size: vec![size; 2],
            out_size: vec![size / stride; 2],
            kernel: vec![3; 2],
            stride: vec![stride; 2],
            dilation: vec![1; 2],
            pads: vec![1; 4],
        };
        let tiling = Tiling::new(channels, size, size);
        let (values, tiles) = (noise(channels * size * size, 5), vec![0.0; tiling.len(1)]);
        let outputs = channels * spec.out_size.iter().product::<usize>();
        let on_tensors = spec.clone();
        let run = move |x: &[f32], out: &mut [f32]| secateur_kernels::pool(op, &on_tensors, channels, x, out);
        cases.push(Case::new(pooling::on_tensors(&spec, channels), &values, outputs, run));
        let Some(tiled) = TiledPool::new(op, &spec, &tiling) else { continue };
        let (counts, outputs) = (pooling::on_tiles(&spec, &tiled, channels), tiled.output().len(1));
        cases.push(Case::new(counts, &tiles, outputs, move |x, out| tiled.run(1, x, out)));
    }
}

/// Tensors turned into tiles, and back.
fn turns(cases: &mut Vec<Case>) {
    for (channels, size) in [(64, 56), (256, 14), (16, 112)] {
        let tiling = Tiling::new(channels, size, size);
        let values = noise(channels * size * size, 4);
        let counts = Counts { turn: values.len(), ..Counts::default() };
        let to = tiling.clone();
        let run = move |x: &[f32], out: &mut [f32]| to.from_nchw(1, x, out);
        cases.push(Case::new(counts, &values, tiling.len(1), run));
        let tiles = vec![0.0; tiling.len(1)];
        let run = move |x: &[f32], out: &mut [f32]| tiling.to_nchw(1, x, out);
        cases.push(Case::new(counts, &tiles, values.len(), run));
    }
}

/// Values between −0.5 and 0.5, the same in every run.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

/// The figures, none negative, by which the squares of the relative errors of all cases are the least in sum.
///
/// They're found by descending along one figure at a time, from the shipped ones on.
fn fit(cases: &[Case]) -> Costs {
    const N: usize = Costs::NAMES.len();
    // Each case is a row of shares whose product with the figures should be 1.
    let mut products = [[0.0; N]; N];
    let mut goals = [0.0; N];
    for case in cases {
        let row = case.counts.figures().map(|count| count / case.best);
        for (i, a) in row.iter().enumerate() {
            goals[i] += a;
            products[i].iter_mut().zip(row).for_each(|(sum, b)| *sum += a * b);
        }
    }
    let mut figures = Costs::SHIPPED.figures();
    for _ in 0..SWEEPS {
        for i in 0..N {
            let others: f64 = (0..N).filter(|&j| j != i).map(|j| products[i][j] * figures[j]).sum();
            if products[i][i] > 0.0 {
                figures[i] = ((goals[i] - others) / products[i][i]).max(0.0);
            }
        }
    }
    Costs::from_figures(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_again() {
        let mut cases = cases();
        let costs = Costs::from_figures(Costs::SHIPPED.figures().map(|figure| 1.7 * figure + 0.01));
        for case in &mut cases {
            case.best = costs.time(&case.counts);
        }
        for ((name, found), wanted) in Costs::NAMES.iter().zip(fit(&cases).figures()).zip(costs.figures()) {
            assert!((found / wanted - 1.0).abs() < 0.01, "{name}: {found} for {wanted}");
        }
    }

    #[test]
    fn probes_tell_times_beside_what_costs_say() {
        let mut probe = Probe::new();
        let (times, estimates) = (probe.run(), probe.estimates(&Costs::SHIPPED));
        assert_eq!(times.len(), estimates.len());
        assert!(times.iter().chain(&estimates).all(|&time| time > 0.0), "{times:?} {estimates:?}");
    }

    #[test]
    fn what_is_measured_has_sense() {
        let costs = Costs::measure().unwrap();
        let sum: f64 = costs.figures().iter().sum();
        assert!(sum.is_finite() && costs.product > 0.0 && costs.sparse > 0.0, "{costs:?}");
    }
}
