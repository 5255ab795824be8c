//! Models whose attributes or constants are absurd are refused, with the node named, before a kernel runs.

#[allow(dead_code)] // each test uses its part
mod common;

use std::sync::Arc;

use common::Chain;
use secateur_model::error::ErrorKind;
use secateur_model::{Attr, Model, Patch, Tensor};
use secateur_runtime::Session;

/// A node on an input, with constants of these shapes after it.
struct Case {
    op: &'static str,
    input: &'static [usize],
    constants: Vec<Vec<usize>>,
    attrs: Vec<(&'static str, Attr)>,
}

fn case(
    op: &'static str,
    input: &'static [usize],
    constants: &[&[usize]],
    attrs: &[(&'static str, Attr)],
) -> Case {
    let constants = constants.iter().map(|shape| shape.to_vec()).collect();
    Case { op, input, constants, attrs: attrs.to_vec() }
}

fn ints(values: &[i64]) -> Attr {
    Attr::Ints(values.to_vec())
}

impl Case {
    fn model(&self) -> Model {
        let mut chain = Chain::new(self.input);
        let constants: Vec<_> = self
            .constants
            .iter()
            .map(|shape| {
                let tensor = chain.random(shape, 100);
                chain.constant(tensor)
            })
            .collect();
        chain.node(self.op, &constants, &self.attrs);
        let mut model = chain.model();
        for node in &mut model.graph.as_mut().unwrap().nodes {
            (node.name, node.opset) = ("layer".into(), secateur_model::ops::NEWEST_OPSET);
        }
        model
    }

    fn input(&self) -> Tensor {
        Tensor::new(self.input, vec![0.5f32; self.input.iter().product()]).unwrap()
    }

    /// That the model is refused, fused or not, with the operator named.
    fn is_refused(&self) {
        let Case { op, constants, attrs, .. } = self;
        let about = format!("{op} {constants:?} {attrs:?}");
        let model = Arc::new(self.model());
        for make in [Session::new, Session::without_fusion] {
            let session = make(model.clone(), Patch::new()).unwrap();
            let error = session.run(vec![("x".into(), self.input())]).expect_err(&about);
            assert!(matches!(error.kind(), ErrorKind::Input | ErrorKind::Unsupported), "{about}: {error:?}");
            assert!(error.to_string().contains(&format!("node `layer` ({op})")), "{about}: {error}");
        }
        let inference = secateur_model::infer::Inference::of(&model, &Default::default()).unwrap();
        assert_eq!(inference.problems.len(), 1, "{about}: inspect does not name it");
    }
}

/// Pads, strides and dilations whose sums and products do not fit 64 bits, or wrap to something small.
#[test]
fn windows_that_no_memory_holds() {
    const HALF: i64 = 1 << 62;
    const IMAGE: &[usize] = &[1, 2, 4, 4];
    let convolutions: [(&[usize], i64); 4] = [
        (&[3, 2, 1, 1], 1),
        (&[3, 2, 3, 3], 1),
        // Depthwise, and with more outputs than one task takes.
        (&[2, 1, 3, 3], 2),
        (&[40, 2, 3, 3], 1),
    ];
    let pads: [&[i64]; 8] = [
        &[0, 0, HALF, 0],
        &[HALF, 0, 0, 0],
        &[HALF, HALF, HALF, HALF],
        &[i64::MAX, 0, i64::MAX, 0],
        // Output extents whose product is 0, 2³² and 2⁶⁴ in 64 bits.
        &[1 << 31, 1 << 31, 1 << 31, 1 << 31],
        &[0, 0, (1 << 32) - 4, (1 << 32) - 4],
        &[0, 0, (1 << 58) - 4, 60],
        &[0, 0, (1 << 47) - 4, 0],
    ];
    for pads in pads {
        for (weight, group) in convolutions {
            let attrs = [("pads", ints(pads)), ("group", Attr::Int(group))];
            case("Conv", IMAGE, &[weight], &attrs).is_refused();
        }
        for op in ["MaxPool", "AveragePool", "LpPool"] {
            case(op, IMAGE, &[], &[("kernel_shape", ints(&[2, 2])), ("pads", ints(pads))]).is_refused();
        }
    }
    for op in ["MaxPool", "AveragePool"] {
        // A window of padding alone but for a corner.
        let attrs = [("kernel_shape", ints(&[1 << 22, 1])), ("pads", ints(&[1 << 22, 0, 0, 0]))];
        case(op, IMAGE, &[], &attrs).is_refused();
    }
    for dilations in [[i64::MAX, 1], [HALF, HALF], [1 << 46, 1]] {
        case("Conv", IMAGE, &[&[3, 2, 3, 3]], &[("dilations", ints(&dilations))]).is_refused();
    }
    let transposed = |attrs: &[(&'static str, Attr)]| {
        case("ConvTranspose", IMAGE, &[&[2, 3, 3, 3]], attrs).is_refused();
    };
    for many in [HALF, i64::MAX, 1 << 47] {
        transposed(&[("strides", ints(&[many, 1]))]);
        transposed(&[("dilations", ints(&[1, many]))]);
        transposed(&[("output_padding", ints(&[many, 0]))]);
        transposed(&[("output_shape", ints(&[many, 4]))]);
        transposed(&[("pads", ints(&[many, 0, many, 0]))]);
        transposed(&[("group", Attr::Int(many))]);
    }
    transposed(&[("strides", ints(&[1 << 40, 1 << 40])), ("auto_pad", Attr::String("SAME_UPPER".into()))]);
}

/// Windows far apart are legal: a stride beyond the input leaves one output.
#[test]
fn a_stride_beyond_the_input_leaves_one_output() {
    for op in ["Conv", "MaxPool"] {
        let constants: &[&[usize]] = if op == "Conv" { &[&[3, 2, 2, 2]] } else { &[] };
        let attrs = [("kernel_shape", ints(&[2, 2])), ("strides", ints(&[1 << 40, 1 << 45]))];
        let far = case(op, &[1, 2, 4, 4], constants, &attrs);
        let session = Session::new(Arc::new(far.model()), Patch::new()).unwrap();
        let out = session.run(vec![("x".into(), far.input())]).unwrap();
        assert_eq!(out[0].shape()[2..], [1, 1]);
    }
}

/// Constants whose shapes do not fit those of the other operands.
#[test]
fn constants_that_do_not_fit() {
    let lstm = |shapes: [&[usize]; 7]| {
        // Input 4, the sequences' lengths, is of integers and stays as it is.
        let mut given = case("LSTM", &[3, 2, 5], &shapes[..3], &[("hidden_size", Attr::Int(4))]);
        if !shapes[3].is_empty() {
            given.constants.extend(shapes[3..].iter().map(|shape| shape.to_vec()));
        }
        given
    };
    let (w, r, b): (&[usize], &[usize], &[usize]) = (&[1, 16, 5], &[1, 16, 4], &[1, 32]);
    let cases = [
        case("Conv", &[1, 2, 4, 4], &[&[3, 2, 3, 3], &[2]], &[]),
        case("Conv", &[1, 2, 4, 4], &[&[3, 2, 3, 3], &[4]], &[]),
        case("Conv", &[1, 2, 4, 4], &[&[3, 2, 3, 3], &[1]], &[]),
        case("Conv", &[1, 2, 4, 4], &[&[3, 2, 3, 3], &[3, 1]], &[]),
        case("Conv", &[1, 2, 4, 4], &[&[3, 2, 3, 3], &[]], &[]),
        case("Conv", &[1, 2, 4, 4], &[&[3, 2, 3]], &[]),
        case("ConvTranspose", &[1, 2, 4, 4], &[&[2, 3, 3, 3], &[2]], &[]),
        case("ConvTranspose", &[1, 2, 4, 4], &[&[2, 3, 3, 3], &[6]], &[]),
        case("DeformConv", &[1, 2, 4, 4], &[&[3, 2, 3, 3], &[1, 18, 2, 2], &[2]], &[]),
        case("DeformConv", &[1, 2, 4, 4], &[&[3, 2, 3, 3], &[1, 18, 2, 1], &[3]], &[]),
        case("DeformConv", &[1, 2, 4, 4], &[&[3, 2, 3, 3], &[1, 18, 2, 2], &[3], &[1, 8, 2, 2]], &[]),
        case(
            "DeformConv",
            &[1, 2, 4, 4],
            &[&[3, 2, 3, 3], &[1, 18, 2, 2]],
            &[("offset_group", Attr::Int(i64::MAX))],
        ),
        case("BatchNormalization", &[1, 2, 4], &[&[2], &[2], &[2], &[3]], &[]),
        case("BatchNormalization", &[1, 2, 4], &[&[1], &[2], &[2], &[2]], &[]),
        case("InstanceNormalization", &[1, 2, 4], &[&[3], &[2]], &[]),
        case("GroupNormalization", &[1, 4, 3], &[&[4], &[3]], &[("num_groups", Attr::Int(2))]),
        case("GroupNormalization", &[1, 4, 3], &[&[4], &[4]], &[("num_groups", Attr::Int(3))]),
        case("LayerNormalization", &[2, 4], &[&[3], &[4]], &[]),
        case("LayerNormalization", &[2, 4], &[&[4], &[5, 2, 4]], &[]),
        case("RMSNormalization", &[2, 4], &[&[8]], &[]),
        case("Gemm", &[2, 4], &[&[4, 3], &[4]], &[]),
        case("Gemm", &[2, 4], &[&[4, 3], &[1, 2, 3]], &[]),
        case("MatMul", &[2, 4], &[&[5, 3]], &[]),
        case("PRelu", &[2, 4], &[&[3]], &[]),
        case("RNN", &[3, 2, 5], &[&[1, 4, 5], &[1, 4, 4], &[1, 7]], &[]),
        case("RNN", &[3, 2, 5], &[&[1, 4, 5], &[1, 4, 4], &[8]], &[]),
        case("GRU", &[3, 2, 5], &[&[1, 12, 4], &[1, 12, 4]], &[]),
        case("GRU", &[3, 2, 5], &[&[1, 12, 5], &[1, 8, 4]], &[]),
        case("GRU", &[3, 2, 5], &[&[1, 12, 5], &[2, 12, 4]], &[]),
        case("GRU", &[3, 2, 5], &[&[1, 12, 5], &[1, 12, 4], &[1, 12]], &[]),
        lstm([w, r, &[1, 31], &[], &[], &[], &[]]),
        lstm([w, r, &[2, 32], &[], &[], &[], &[]]),
        lstm([w, r, b, &[3], &[1, 2, 4], &[1, 2, 4], &[1, 12]]),
        lstm([w, r, b, &[2], &[1, 2, 3], &[1, 2, 4], &[1, 12]]),
        lstm([w, r, b, &[2], &[1, 2, 4], &[2, 4], &[1, 12]]),
        lstm([w, r, b, &[2], &[1, 2, 4], &[1, 2, 4], &[1, 11]]),
        lstm([w, r, b, &[2], &[1, 2, 4], &[1, 2, 4], &[12]]),
        case("Attention", &[1, 2, 3, 4], &[&[1, 2, 5, 4], &[1, 2, 5, 6], &[4, 5]], &[]),
        case("Attention", &[1, 2, 3, 4], &[&[1, 2, 5, 4], &[1, 2, 5, 6], &[3, 6]], &[]),
        case("Attention", &[1, 2, 3, 4], &[&[1, 2, 5, 4], &[1, 2, 5, 6], &[1, 1, 1, 3, 5]], &[]),
        case("Attention", &[1, 2, 3, 4], &[&[1, 2, 5, 4], &[1, 2, 4, 6]], &[]),
        case("Attention", &[1, 2, 3, 4], &[&[1, 0, 5, 4], &[1, 0, 5, 6]], &[]),
        case(
            "Attention",
            &[1, 2, 3, 4],
            &[&[1, 2, 5, 4], &[1, 2, 5, 6], &[3, 7], &[1, 2, 2, 4], &[1, 2, 1, 6]],
            &[],
        ),
    ];
    cases.iter().for_each(Case::is_refused);
}

/// Queries far behind the last key see none of them.
#[test]
fn a_window_of_attention_beyond_the_keys_is_empty() {
    for window in [0, 1, i64::MAX] {
        let attrs = [("left_window_size", Attr::Int(window)), ("is_causal", Attr::Int(0))];
        let far = case("Attention", &[1, 1, 6, 4], &[&[1, 1, 2, 4], &[1, 1, 2, 3]], &attrs);
        let session = Session::new(Arc::new(far.model()), Patch::new()).unwrap();
        let out = session.run(vec![("x".into(), far.input())]).unwrap();
        let last = &out[0].to_f32s().unwrap()[15..];
        assert_eq!(last.iter().all(|v| *v == 0.0), window < 4, "{last:?}");
    }
}

/// Extents of 0 hide neither what is beside them nor stop what can be computed.
#[test]
fn nothing_is_computed_of_nothing() {
    let cases = [
        case("Attention", &[1, 2, 0, 4], &[&[1, 2, 5, 4], &[1, 2, 5, 6]], &[]),
        case("Attention", &[0, 2, 3, 4], &[&[0, 2, 5, 4], &[0, 2, 5, 6]], &[]),
        case("RNN", &[3, 2, 5], &[&[1, 0, 5], &[1, 0, 0]], &[]),
        case("GRU", &[0, 2, 5], &[&[1, 12, 5], &[1, 12, 4]], &[]),
        case("MatMul", &[1 << 40, 0, 3], &[&[3, 0]], &[]),
        case("GlobalAveragePool", &[2, 0, 3], &[], &[]),
        case("LayerNormalization", &[3, 0], &[&[0], &[0]], &[]),
    ];
    for case in &cases {
        let session = Session::new(Arc::new(case.model()), Patch::new()).unwrap();
        let out = session.run(vec![("x".into(), case.input())]).unwrap();
        assert!(out[0].is_empty(), "{}: {:?}", case.op, out[0].shape());
    }
}
