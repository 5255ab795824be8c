use super::*;
use crate::testing::{Rng, assert_sums, in_pool};

fn random_spec(rng: &mut Rng) -> ConvSpec {
    let axes = 1 + rng.below(3);
    let groups = 1 + rng.below(3);
    let mut of =
        |from: usize, to: usize| -> Vec<usize> { (0..axes).map(|_| from + rng.below(to - from)).collect() };
    let (kernel, stride, dilation) = (of(1, 4), of(1, 4), of(1, 3));
    let pads = [of(0, 4), of(0, 4)].concat();
    let extra = of(0, 8);
    let in_size = (0..axes).map(|d| (kernel[d] - 1) * dilation[d] + 1 + extra[d]).collect();
    let (a, b) = (1 + rng.below(5), 1 + rng.below(40));
    ConvSpec {
        in_channels: groups * a,
        out_channels: groups * b,
        groups,
        in_size,
        kernel,
        stride,
        dilation,
        pads,
    }
}

/// A convolution that keeps the size of its input.
fn same_spec(rng: &mut Rng) -> ConvSpec {
    let axes = 1 + rng.below(3);
    let kernel: Vec<usize> = (0..axes).map(|_| [1, 3, 5][rng.below(3)]).collect();
    let pads = [&kernel[..], &kernel[..]].concat().iter().map(|k| k / 2).collect();
    let size: Vec<usize> = (0..axes).map(|_| 1 + rng.below(11)).collect();
    let groups = 1 + rng.below(3);
    let (a, b) = (1 + rng.below(12), 1 + rng.below(40));
    ConvSpec { groups, pads, ..ConvSpec::new(groups * a, groups * b, &size, &kernel) }
}

/// Calls `f(output, input, weight)` for each product of the convolution of one sample.
fn each_product(spec: &ConvSpec, mut f: impl FnMut(usize, usize, usize)) {
    let axes = spec.geometry().axes;
    let (rows, channels) = (spec.out_channels / spec.groups, spec.in_channels / spec.groups);
    for o in 0..spec.out_channels {
        for c in 0..channels {
            let channel = o / rows * channels + c;
            for (p, out) in points(axes.map(|a| a.out)).enumerate() {
                for (t, tap) in points(axes.map(|a| a.kernel)).enumerate() {
                    let at: Option<Vec<usize>> = (0..3).map(|d| axes[d].input(out[d], tap[d])).collect();
                    let Some(at) = at else { continue };
                    let place = (at[0] * axes[1].size + at[1]) * axes[2].size + at[2];
                    let outputs: usize = axes.iter().map(|a| a.out).product();
                    let inputs: usize = axes.iter().map(|a| a.size).product();
                    let taps: usize = axes.iter().map(|a| a.kernel).product();
                    f(o * outputs + p, channel * inputs + place, (o * channels + c) * taps + t);
                }
            }
        }
    }
}

fn points(extents: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    let [_, b, c] = extents;
    (0..extents.iter().product()).map(move |i: usize| [i / (b * c), i / c % b, i % c])
}

/// Sums in double precision with the magnitudes of their products.
struct Sums(Vec<f64>, Vec<f64>);

impl Sums {
    fn zeros(len: usize) -> Sums {
        Sums(vec![0.0; len], vec![0.0; len])
    }

    fn add(&mut self, at: usize, product: f64) {
        self.0[at] += product;
        self.1[at] += product.abs();
    }
}

/// Planes in which output and, where it has the same size, input lie; or tensors.
fn layouts(rng: &mut Rng, spec: &ConvSpec, batch: usize) -> [Planes; 2] {
    let out = spec.out_size();
    let mut extents = TrainedConv::extents(spec);
    extents.iter_mut().for_each(|extent| *extent += rng.below(2));
    let padded = |size: &[usize]| Planes::padded(batch, size, extents, TrainedConv::reach(spec, extents));
    let y = if rng.below(4) == 0 { Planes::plain(batch, &out) } else { padded(&out) };
    let x = match rng.below(3) {
        0 => Planes::plain(batch, &spec.in_size),
        1 => {
            let mut own = [1; 3];
            own[3 - spec.in_size.len()..].copy_from_slice(&spec.in_size);
            own[2] += rng.below(3);
            Planes::padded(batch, &spec.in_size, own, rng.below(30))
        }
        _ if out == spec.in_size => padded(&spec.in_size),
        _ => Planes::plain(batch, &spec.in_size),
    };
    [x, y]
}

#[test]
fn passes_agree_with_the_definition_wherever_values_lie_and_on_any_threads() {
    let mut rng = Rng::new(21);
    for round in 0..160 {
        let spec = if round % 2 == 0 { random_spec(&mut rng) } else { same_spec(&mut rng) };
        let batch = 1 + rng.below(12);
        let inputs = spec.in_channels * spec.in_size.iter().product::<usize>();
        let outputs = spec.out_channels * spec.out_size().iter().product::<usize>();
        let (x, dy) = (rng.values(batch * inputs), rng.values(batch * outputs));
        let masked = rng.below(2) == 0;
        let weights = rng.sparse(spec.out_channels * spec.depth(), if masked { 0.7 } else { 0.0 });
        let bias = rng.values(spec.out_channels);
        let bias = (rng.below(2) == 0).then_some(&bias[..]);
        let kept = masked.then(|| Kept::new(spec.depth(), weights.len(), |i| weights[i] != 0.0));
        let (mut y, mut dw, mut dx) =
            (Sums::zeros(dy.len()), Sums::zeros(weights.len()), Sums::zeros(x.len()));
        for n in 0..batch {
            let plane = outputs / spec.out_channels;
            for o in 0..outputs {
                y.add(n * outputs + o, bias.map_or(0.0, |bias| bias[o / plane].into()));
            }
            each_product(&spec, |o, i, w| {
                let (value, d) = (f64::from(x[n * inputs + i]), f64::from(dy[n * outputs + o]));
                let weight = f64::from(weights[w]);
                y.add(n * outputs + o, value * weight);
                dx.add(n * inputs + i, d * weight);
                dw.add(w, if masked && weight == 0.0 { 0.0 } else { value * d });
            });
        }
        let [of_x, of_y] = layouts(&mut rng, &spec, batch);
        let packed = |planes: &Planes, channels: usize, values: &[f32]| {
            let mut out = vec![f32::NAN; planes.len(channels)];
            planes.pack(channels, values, &mut out);
            out
        };
        let (x_planes, dy_planes) =
            (packed(&of_x, spec.in_channels, &x), packed(&of_y, spec.out_channels, &dy));
        for isa in Isa::available() {
            let conv = TrainedConv::with(isa, spec.clone(), of_x.clone(), of_y.clone(), kept.clone());
            let run = |threads| {
                let mut found = [
                    vec![f32::NAN; dy_planes.len()],
                    vec![f32::NAN; x_planes.len()],
                    vec![f32::NAN; weights.len()],
                ];
                let [y, dx, dw] = &mut found;
                in_pool(threads, || {
                    conv.run(&weights, bias, &x_planes, y);
                    conv.input(&weights, &dy_planes, dx);
                    conv.weights(&x_planes, &dy_planes, dw);
                });
                found
            };
            let found = run(1);
            assert_eq!(found, run(3), "{spec:?}");
            let unpacked = |planes: &Planes, channels: usize, values: &[f32], len: usize| {
                let mut out = vec![f32::NAN; len];
                planes.unpack(channels, values, &mut out);
                // Around the maps there are zeros.
                assert_eq!(packed(planes, channels, &out), values, "{isa:?} {spec:?} in {planes:?}");
                out
            };
            let terms = batch * outputs;
            let of = |which: &str| format!("{which} {isa:?} {spec:?} from {of_x:?} to {of_y:?}");
            let got = unpacked(&of_y, spec.out_channels, &found[0], dy.len());
            assert_sums(&got, &y.0, &y.1, spec.depth() + 1, &of("result"));
            let got = unpacked(&of_x, spec.in_channels, &found[1], x.len());
            assert_sums(&got, &dx.0, &dx.1, spec.out_channels * spec.depth(), &of("input"));
            assert_sums(&found[2], &dw.0, &dw.1, terms, &of("weights"));
        }
    }
}

#[test]
fn many_weights_are_summed_by_outputs() {
    let mut rng = Rng::new(22);
    let spec = ConvSpec { stride: vec![2, 2], pads: vec![1; 4], ..ConvSpec::new(300, 250, &[3, 3], &[3, 3]) };
    assert!(spec.out_channels * spec.depth() * 8 > PART_BYTES);
    let (x, dy) = (rng.values(2 * 300 * 9), rng.values(2 * 250 * 4));
    let planes = [Planes::plain(2, &[3, 3]), Planes::plain(2, &[2, 2])];
    let conv = TrainedConv::new(spec.clone(), planes[0].clone(), planes[1].clone(), None);
    let of_weights = |threads| {
        let mut got = vec![f32::NAN; 250 * 2700];
        in_pool(threads, || conv.weights(&x, &dy, &mut got));
        got
    };
    let got = of_weights(1);
    assert_eq!(got, of_weights(3));
    let mut want = Sums::zeros(got.len());
    for n in 0..2 {
        each_product(&spec, |o, i, w| want.add(w, f64::from(x[n * 2700 + i]) * f64::from(dy[n * 1000 + o])));
    }
    assert_sums(&got, &want.0, &want.1, 8, &"many weights");
}
