//! What can be pruned, on small graphs that each show one thing.

mod common;

use std::sync::Arc;

use common::build::{Build, status};
use secateur_model::graph::Value;
use secateur_model::model::Storage;
use secateur_model::ops::AxisRole::{self, Batch, Direction, GateOut, In, Out, Spatial};
use secateur_model::prunable::{CompanionKind, PrunableView, ReasonKind, Status, leave_outputs_dense, view};
use secateur_model::{Attr, DType, Data, StoredTensor, Tensor, ValueId};

fn roles(view: &PrunableView) -> &[AxisRole] {
    &view.roles
}

#[test]
fn roles_of_each_operator() {
    let conv =
        Build::default().weight("w", &[8, 2, 3, 3]).node_with("Conv x w -> y", [("group", Attr::Int(4))]);
    let conv = conv.prunable("w");
    assert_eq!((roles(&conv), conv.groups), (&[Out, In, Spatial, Spatial][..], 4));
    assert_eq!(conv.group_axis, Some(0));
    let up = Build::default().weight("w", &[8, 2, 3, 3]).node("ConvTranspose x w -> y").prunable("w");
    assert_eq!(roles(&up), [In, Out, Spatial, Spatial]);
    let gemm = |trans| {
        let build = Build::default().weight("w", &[4, 5]);
        build.node_with("Gemm x w -> y", [("transB", Attr::Int(trans))]).prunable("w").roles
    };
    assert_eq!((gemm(0), gemm(1)), (vec![In, Out], vec![Out, In]));
    let left = Build::default().weight("w", &[4, 5]).node_with("Gemm w x -> y", [("transA", Attr::Int(1))]);
    assert_eq!(left.prunable("w").roles, [In, Out]);
    let stack = Build::default().weight("w", &[3, 4, 5]).node("MatMul x w -> y").prunable("w");
    assert_eq!(roles(&stack), [Batch, In, Out]);
    let left = Build::default().weight("w", &[4, 5]).node("MatMul w x -> y").prunable("w");
    assert_eq!(roles(&left), [Out, In]);
    let lstm = Build::default()
        .weight("w", &[2, 12, 5])
        .weight("r", &[2, 12, 3])
        .node_with("LSTM x w r -> y", [("hidden_size", Attr::Int(3))])
        .prunable("r");
    assert_eq!((roles(&lstm), lstm.gates), (&[Direction, GateOut, In][..], 4));
}

#[test]
fn roles_are_those_of_the_stored_axes() {
    let view = Build::default()
        .weight("w", &[5, 4])
        .node("Identity w -> v")
        .node_with("Transpose v -> t", [("perm", Attr::Ints(vec![1, 0]))])
        .node_with("Cast t -> c", [("to", Attr::Int(1))])
        .node("MatMul x c -> y")
        .prunable("w");
    assert_eq!(roles(&view), [Out, In]);
    assert_eq!(view.via, ["Identity `n0`", "Transpose `n1`", "Cast `n2`"]);
    // The last axis of the product's operand is the stored tensor's first.
    let view = Build::default()
        .weight("w", &[6, 2, 5])
        .node_with("Transpose w -> t", [("perm", Attr::Ints(vec![1, 2, 0]))])
        .node("MatMul x t -> y")
        .prunable("w");
    assert_eq!(roles(&view), [Out, Batch, In]);
    // A depthwise weight stored as [kh, kw, out, 1]: its groups lie along the third axis.
    let view = Build::default()
        .weight("w", &[3, 3, 8, 1])
        .weight("b", &[8])
        .node_with("Transpose w -> t", [("perm", Attr::Ints(vec![2, 3, 0, 1]))])
        .node_with("Conv x t b -> y", [("group", Attr::Int(8))])
        .prunable("w");
    assert_eq!((roles(&view), view.group_axis), (&[Spatial, Spatial, Out, In][..], Some(2)));
    assert!(view.bias.is_some());
}

#[test]
fn a_reshape_may_merge_axes_but_not_split_them() {
    let reshaped = |shape: &[usize], to: Vec<i64>| {
        Build::default()
            .weight("w", shape)
            .stored("s", Tensor::vector(to))
            .node("Reshape w s -> v")
            .node("MatMul x v -> y")
    };
    let view = reshaped(&[4, 2, 2, 10], vec![16, 10]).prunable("w");
    assert_eq!(roles(&view), [In, In, In, Out]);
    let view = reshaped(&[1, 16, 10], vec![-1, 10]).prunable("w");
    assert_eq!(roles(&view), [In, In, Out]);
    assert!(reshaped(&[160], vec![16, 10]).fixed("w").text.contains("Reshape that splits"));
    assert_eq!(reshaped(&[160], vec![16, 10]).fixed("s").kind, ReasonKind::Integer);
}

#[test]
fn companions_of_output_channels() {
    let view = Build::default()
        .weight("w", &[6, 3, 1, 1])
        .weight("b", &[6])
        .weight("gamma", &[6])
        .weight("beta", &[6])
        .weight("mean", &[6])
        .weight("var", &[6])
        .node("Conv x w b -> a")
        .node("Identity a -> i")
        .node("BatchNormalization i gamma beta mean var -> y")
        .output("y");
    let model = view.model();
    let Status::Prunable(view) = status(&model, "w") else { panic!() };
    let bias = view.bias.unwrap();
    assert_eq!((model.tensor(bias.tensor).path.as_str(), bias.exclusive), ("b", true));
    let followers: Vec<_> =
        view.followers.iter().map(|f| (model.tensor(f.tensor).path.as_str(), f.kind, f.exclusive)).collect();
    assert_eq!(
        followers,
        [("gamma", CompanionKind::NormScale, true), ("beta", CompanionKind::NormBias, true)]
    );
    let kind = |name: &str| match status(&model, name) {
        Status::Fixed(reason) => reason.kind,
        Status::Prunable(_) | Status::LeftDense(..) => panic!("{name}"),
    };
    assert_eq!(kind("b"), ReasonKind::Bias);
    assert_eq!(kind("gamma"), ReasonKind::Normalisation);
    assert_eq!(kind("var"), ReasonKind::Normalisation);
}

#[test]
fn a_batch_norm_belongs_to_a_weight_only_where_nothing_else_reads_between() {
    let conv = || {
        Build::default()
            .weight("w", &[6, 3, 1, 1])
            .weight("gamma", &[6])
            .weight("beta", &[6])
            .weight("stat", &[6])
            .node("Conv x w -> a")
            .node("BatchNormalization a gamma beta stat stat -> y")
    };
    assert_eq!(conv().prunable("w").followers.len(), 2);
    assert_eq!(conv().output("a").prunable("w").followers.len(), 0);
    assert_eq!(conv().node("Relu a -> r").prunable("w").followers.len(), 0);
    // Another normalisation shares the factor: it cannot change with this weight alone.
    let shared = conv().node("BatchNormalization z gamma beta stat stat -> q").prunable("w");
    assert!(shared.followers.iter().all(|f| !f.exclusive));
    // Outputs of a product over three axes are not the channels of a batch-norm.
    let product = Build::default()
        .weight("w", &[3, 6])
        .weight("gamma", &[6])
        .shape("x", 3)
        .node("MatMul x w -> a")
        .node("BatchNormalization a gamma gamma gamma gamma -> y");
    assert_eq!(product.prunable("w").followers.len(), 0);
}

#[test]
fn the_addend_behind_a_product_is_its_bias() {
    let added = |shape: &[usize]| {
        Build::default().weight("w", &[4, 6]).weight("b", shape).node("MatMul x w -> a").node("Add b a -> y")
    };
    assert!(added(&[6]).prunable("w").bias.unwrap().exclusive);
    assert!(added(&[1, 6]).prunable("w").bias.is_some());
    assert_eq!(added(&[6]).fixed("b").text, "bias of MatMul `n0`");
    // A constant that differs by position, or one number for all, is no bias.
    assert_eq!(added(&[5, 6]).prunable("w").bias, None);
    assert_eq!(added(&[1]).prunable("w").bias, None);
    let conv = Build::default()
        .weight("w", &[6, 4, 1, 1])
        .weight("b", &[6, 1, 1])
        .node("Conv x w -> a")
        .node("Add a b -> y");
    assert!(conv.prunable("w").bias.is_some());
}

#[test]
fn a_tensor_of_several_nodes_is_one_entry() {
    let view = Build::default()
        .weight("w", &[6, 3, 1, 1])
        .weight("b", &[6])
        .node("Conv x w b -> y")
        .node("Conv z w b -> q")
        .prunable("w");
    assert_eq!(view.shared, [("n1".to_string(), "Conv".to_string())]);
    assert!(view.bias.unwrap().exclusive);
    let tied = Build::default()
        .weight("e", &[100, 8])
        .node("Gather e ids -> x")
        .node("Transpose e -> t")
        .node("MatMul x t -> y")
        .fixed("e");
    assert_eq!(tied.kind, ReasonKind::Embedding);
    assert_eq!(tied.text, "embedding (Gather `n0`), tied to the weights of MatMul `n2`");
}

#[test]
fn reasons() {
    let quantised = || {
        Build::default()
            .stored("q", Tensor::new([4, 5], vec![1i8; 20]).unwrap())
            .weight("scale", &[1])
            .node("DequantizeLinear q scale -> w")
            .node("MatMul x w -> y")
    };
    assert_eq!(quantised().fixed("q").kind, ReasonKind::Quantised);
    assert_eq!(quantised().fixed("scale").kind, ReasonKind::Scale);
    let unknown = Build::default().weight("w", &[4, 5]).node("Frobnicate x w -> y").fixed("w");
    assert_eq!(unknown.kind, ReasonKind::UnknownOperator);
    assert!(unknown.text.contains("Frobnicate"));
    assert_eq!(Build::default().weight("w", &[4]).fixed("w").kind, ReasonKind::Unused);
    let integers = Build::default().stored("w", Tensor::new([2, 2], vec![1i32; 4]).unwrap());
    assert_eq!(integers.node("MatMul x w -> y").fixed("w").kind, ReasonKind::Dtype);
    let narrow = StoredTensor {
        path: "w".into(),
        dtype: DType::F8E5M2,
        shape: vec![2, 2],
        storage: Storage::Data(Arc::new(Data::Raw(DType::F8E5M2, vec![0; 4]))),
    };
    let mut build = Build::default().weight("w", &[2, 2]).node("MatMul x w -> y");
    build.tensors[0] = narrow;
    assert_eq!(build.fixed("w").kind, ReasonKind::Dtype);
}

#[test]
fn weights_of_nested_graphs_and_those_they_take_from_outside() {
    let mut body = Build::default();
    body.graph.values.push(Value { name: "t".into(), ..Value::default() });
    body.graph.captures.push(ValueId(0));
    let body = body.node("MatMul z t -> q");
    let view = Build::default()
        .weight("w", &[4, 5])
        .node("Transpose w -> t")
        .node_with("If c -> y", [("then_branch", Attr::Graph(Box::new(body.graph)))])
        .prunable("w");
    assert_eq!(roles(&view), [Out, In]);
    assert_eq!(view.via, ["Transpose `n0`"]);
}

#[test]
fn parts_of_a_weight_and_parts_that_make_one() {
    // One weight that a Split divides among two layers; each has a bias of its own.
    let split = || {
        Build::default()
            .weight("w", &[4, 6])
            .weight("b", &[3])
            .node_with("Split w -> u v", [("axis", Attr::Int(1))])
            .node("Gemm x u b -> y")
            .node("MatMul x v -> z")
    };
    let view = split().prunable("w");
    assert_eq!((roles(&view), &view.bias), (&[In, Out][..], &None));
    assert_eq!(view.shared, [("n2".to_string(), "MatMul".to_string())]);
    assert_eq!(split().fixed("b").text, "bias of Gemm `n1`");
    let i64s = |values: &[i64]| Tensor::vector(values.to_vec());
    let sliced = Build::default()
        .weight("w", &[6, 4])
        .stored("from", i64s(&[2]))
        .stored("to", i64s(&[4]))
        .node("Slice w from to -> v")
        .node("Transpose v -> t")
        .node("MatMul x t -> y");
    assert_eq!(roles(&sliced.prunable("w")), [Out, In]);
    // Two weights that make one, and their biases.
    let joined = || {
        Build::default()
            .weight("a", &[4, 2])
            .weight("b", &[4, 3])
            .weight("c", &[2])
            .weight("d", &[3])
            .node_with("Concat a b -> w", [("axis", Attr::Int(1))])
            .node_with("Concat c d -> e", [("axis", Attr::Int(0))])
            .node("Gemm x w e -> y")
    };
    for name in ["a", "b"] {
        let view = joined().prunable(name);
        assert_eq!((roles(&view), &view.bias), (&[In, Out][..], &None), "{name}");
        assert_eq!(view.via, ["Concat `n0`"]);
    }
    assert_eq!(joined().fixed("d").kind, ReasonKind::Bias);
    // A computed part makes the whole no weight.
    let computed = Build::default()
        .weight("a", &[4, 2])
        .node_with("Concat a k -> w", [("axis", Attr::Int(1))])
        .node("MatMul x w -> y");
    assert_eq!(computed.fixed("a").text, "operand 0 of Concat `n0`");
    // Cut through groups.
    let grouped = Build::default()
        .weight("w", &[8, 2, 1, 1])
        .node_with("Split w -> u v", [("axis", Attr::Int(0))])
        .node_with("Conv x u -> y", [("group", Attr::Int(2))]);
    assert!(grouped.fixed("w").text.contains("through groups or gates"));
}

#[test]
fn weights_of_products_with_more_operands() {
    let einsum = |equation: &str| {
        Build::default()
            .weight("w", &[7, 4, 5])
            .node_with("Einsum x w z -> y", [("equation", Attr::String(equation.as_bytes().to_vec()))])
    };
    assert_eq!(roles(&einsum("bi,oij,bj->bo").prunable("w")), [Out, In, In]);
    // Whether an ellipsis has axes that are those of the weight is not known before the ranks are.
    assert_eq!(einsum("...i,oij,...j->...o").fixed("w").kind, ReasonKind::Operand);
    let ranked = einsum("...i,oij,...j->...o").shape("x", 3).shape("z", 3);
    assert_eq!(roles(&ranked.prunable("w")), [Out, In, In]);
}

#[test]
fn floats_that_are_quantised_on_the_way_keep_their_zeros() {
    let fake = |zero: &str| {
        Build::default()
            .weight("w", &[4, 5])
            .weight("scale", &[])
            .stored("zero", Tensor::scalar(3u8))
            .stored("same", Tensor::scalar(3u8))
            .stored("other", Tensor::scalar(4u8))
            .stored("none", Tensor::scalar(0u8))
            .node("QuantizeLinear w scale zero -> q")
            .node(&format!("DequantizeLinear q scale {zero} -> v"))
            .node("MatMul x v -> y")
    };
    for zero in ["zero", "same"] {
        let view = fake(zero).prunable("w");
        assert_eq!(roles(&view), [In, Out]);
        assert_eq!(view.via, ["QuantizeLinear `n0`", "DequantizeLinear `n1`"]);
    }
    for zero in ["other", "none", "_", "computed"] {
        let reason = fake(zero).fixed("w");
        assert_eq!(reason.kind, ReasonKind::Quantised, "{zero}");
        assert!(reason.text.contains("zeros would not stay zeros"), "{}", reason.text);
    }
    let symmetric = Build::default()
        .weight("w", &[4, 5])
        .weight("scale", &[])
        .stored("none", Tensor::scalar(0u8))
        .node("QuantizeLinear w scale -> q")
        .node("DequantizeLinear q scale none -> v")
        .node("MatMul x v -> y");
    assert_eq!(roles(&symmetric.prunable("w")), [In, Out]);
}

/// What names the way to a weight does not grow with the square of a chain's length, nor parts with a power of two.
#[test]
fn ways_of_any_length_are_followed() {
    let mut build = Build::default().weight("w", &[4, 4]);
    let mut last = "w".to_string();
    for i in 0..20_000 {
        build = build.node(&format!("Identity {last} -> v{i}"));
        last = format!("v{i}");
    }
    let view = build.node(&format!("MatMul x {last} -> y")).prunable("w");
    assert_eq!((roles(&view), view.via.len()), (&[In, Out][..], 65));
    let mut build = Build::default().weight("w", &[2, 2]);
    let mut last = "w".to_string();
    for i in 0..40 {
        build = build.node_with(&format!("Concat {last} {last} -> v{i}"), [("axis", Attr::Int(0))]);
        last = format!("v{i}");
    }
    let model = build.node(&format!("MatMul x {last} -> y")).model();
    assert_eq!(secateur_model::prunable::view(&model).unwrap().len(), 1);
}

/// `values` as a 1x1 convolution with one output, as the weight of a linear layer `x·w`, or both.
fn weight(shape: &[usize], values: Vec<f32>) -> Build {
    let tensor = Tensor::new(shape, values).unwrap();
    let op = if shape.len() == 4 { "Conv x w -> y" } else { "MatMul x w -> y" };
    Build::default().stored("w", tensor).node(op)
}

#[test]
fn tables_of_constants_stay_dense_by_default() {
    let ramp = |n: usize, scale: f32| (0..n).map(|i| i as f32 * scale - 1.5 * scale).collect::<Vec<_>>();
    let eye = |n: usize| (0..n * n).map(|i| f32::from(u8::from(i % (n + 1) == 0))).collect::<Vec<_>>();
    // Of a grid of coordinates each line along one axis is a sequence, along the other one constant.
    let grid: Vec<f32> = (0..30).flat_map(|i| [(i / 6) as f32, (i % 6) as f32]).collect();
    for (shape, values, text) in [
        (&[1, 16, 1, 1][..], (0..16).map(|i| i as f32).collect(), "0, 1, … 15 along axis 1"),
        (&[1, 7, 1, 1], ramp(7, 0.1), "along axis 1"),
        (&[4, 8], ramp(32, 0.5), "along axis 0"),
        (&[5, 6, 2], grid, "along axis 0"),
        (&[6, 6], eye(6), "an identity matrix"),
        (&[2, 3], vec![0., 1., 0., 0., 0., 1.], "zeros and ones"),
        (&[2, 2], vec![1.; 4], "ones"),
    ] {
        let reason = weight(shape, values).left_dense("w");
        assert_eq!(reason.kind, ReasonKind::Table);
        assert!(reason.text.contains(text), "{}", reason.text);
    }
}

#[test]
fn what_is_learned_is_no_table() {
    let learned = |n: usize| (0..n).map(|i| (i as f32 * 12.9898).sin()).collect::<Vec<f32>>();
    let mut sparse = vec![0.0; 64];
    sparse[9] = 0.25;
    let mut channels = learned(64);
    channels[..48].fill(0.0);
    let signs = learned(64).iter().map(|v| v.signum()).collect();
    let ternary = learned(64).iter().map(|v| (v * 1.4).round() * 0.1).collect();
    for values in [vec![0.0; 64], vec![0.5; 64], learned(64), sparse, channels, signs, ternary] {
        weight(&[8, 8], values).prunable("w");
    }
    // Any two numbers are a sequence, and rounding to 16 bits makes more of them one.
    weight(&[1, 3, 1, 1], vec![1., 2., 3.]).prunable("w");
    let halves = [1.0, 1.26, 1.5, 1.74].map(half::bf16::from_f32).to_vec();
    let build = Build::default().stored("w", Tensor::new([1, 4], halves).unwrap());
    build.node_with("Gemm x w -> y", [("transB", Attr::Int(1))]).prunable("w");
}

#[test]
fn of_two_constants_that_are_multiplied_one_is_the_weight() {
    let coordinates: Vec<f32> =
        (0..98).map(|i| ((i / 14 * (1 - i % 2) + i / 2 % 7 * (i % 2)) as f32 * 0.7).ln_1p()).collect();
    let learned = |n: usize| (0..n).map(|i| (i as f32 * 12.9898).sin()).collect::<Vec<f32>>();
    let product = |left: Vec<f32>, name: &str| {
        Build::default()
            .stored(name, Tensor::new([1, 7, 7, 2], left).unwrap())
            .stored("w", Tensor::new([2, 5], learned(10)).unwrap())
            .node(&format!("MatMul {name} w -> y"))
    };
    for values in [coordinates, learned(98)] {
        let reason = product(values.clone(), "positions").left_dense("positions");
        assert!(reason.text.contains("multiplied with the weight `w`"), "{}", reason.text);
        product(values, "positions").prunable("w");
    }
    // Two learned factors of one weight, as LoRA has them.
    product(learned(98), "a.weight").prunable("a.weight");
    product(learned(98), "a.weight").prunable("w");
}

#[test]
fn layers_whose_channels_are_the_outputs_are_left_dense_on_request() {
    let left = |model: &secateur_model::Model| -> Vec<String> {
        let mut entries = view(model).unwrap();
        leave_outputs_dense(model, &mut entries);
        let is_left = |status: &Status| matches!(status, Status::LeftDense(_, reason) if reason.kind == ReasonKind::Output);
        entries.iter().filter(|e| is_left(&e.status)).map(|e| model.tensor(e.tensor).path.clone()).collect()
    };
    let network = || {
        Build::default()
            .weight("a", &[3, 4])
            .weight("b", &[4, 4])
            .weight("c", &[4, 2])
            .weight("d", &[4, 2])
            .node("MatMul x a -> h")
            .node("Relu h -> r")
            .node("MatMul r b -> s")
            .node("Add r s -> sum")
            .node("MatMul sum c -> classes")
            .node("Softmax classes -> y")
            .node("MatMul sum d -> boxes")
    };
    assert_eq!(left(&network().output("y").model()), ["c"]);
    assert_eq!(left(&network().output("y").output("boxes").model()), ["c", "d"]);
    // A channel of a sum is not one layer's alone.
    assert_eq!(left(&network().output("sum").model()), [""; 0]);
    let alone = Build::default().weight("a", &[3, 4]).node("MatMul x a -> y").output("y");
    assert_eq!(left(&alone.model()), [""; 0]);
}

#[test]
fn the_shared_tables() {
    let Some(folder) = common::shared() else { return };
    let dense = |file: &str| -> Vec<(String, ReasonKind)> {
        let model = secateur_model::io::read(folder.join("cases").join(file)).unwrap();
        let entries = view(&model).unwrap();
        let left = entries.iter().filter_map(|e| match &e.status {
            Status::LeftDense(_, reason) => Some((model.tensor(e.tensor).path.clone(), reason.kind)),
            _ => None,
        });
        left.collect()
    };
    let yolo = dense("yolo8_ts.onnx");
    assert!(yolo.iter().all(|(path, kind)| path.contains("dfl") && *kind == ReasonKind::Table), "{yolo:?}");
    assert_eq!(yolo.len(), 1);
    let swin = dense("swinv2_ts.onnx");
    assert!(swin.iter().all(|(path, _)| path.ends_with("relative_coords_table")), "{swin:?}");
    assert!(!swin.is_empty());
}

/// A value of many parts may be passed on many times: what is followed is bounded in all.
#[test]
fn parts_in_long_chains_are_bounded() {
    let names: Vec<String> = (0..1000).map(|i| format!("w{i}")).collect();
    let build = names.iter().fold(Build::default(), |build, name| build.weight(name, &[1, 2]));
    let mut build = build.node_with(&format!("Concat {} -> v0", names.join(" ")), [("axis", Attr::Int(0))]);
    for i in 0..1000 {
        build = build.node(&format!("Identity v{i} -> v{}", i + 1));
    }
    let error = secateur_model::prunable::view(&build.node("MatMul x v1000 -> y").model()).unwrap_err();
    assert!(error.to_string().contains("parts"), "{error}");
}
