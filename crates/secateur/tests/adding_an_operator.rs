//! The steps of docs/adding-an-operator.md, taken from outside: one operator, added in one line, is inferred,
//! counted, pruned and run like any other.

#[allow(dead_code)]
mod common;

use std::sync::Arc;

use common::{model, stored};
use secateur::axes::{Fixed, GraphAxes};
use secateur::infer::{Binding, Inference};
use secateur::ops::axes::Statement;
use secateur::ops::{self, AxisRole, Fact, Facts, Inputs, Op, WeightUse};
use secateur::prune::{PruneOptions, plan};
use secateur::{Amount, Model, Patch, Result, Session, Tensor};
use secateur_model::graph::Dim;
use secateur_model::{Data, Node};

const DOMAIN: &str = "org.example";

/// Step 1: the meaning. `y = |x| Wᵀ`.
static ABS_LINEAR: Op =
    Op::new("AbsLinear", 1, infer).domain(DOMAIN).eval(eval).weights(weights).axes(axes).macs(macs);

fn infer(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let (Some([batch, _]), Some([out, _])) = (inputs.shape(0), inputs.shape(1)) else {
        return Ok(vec![Fact::unknown(inputs.dtype(0))]);
    };
    let dtype = inputs.dtype(0);
    Ok(vec![Fact { shape: Some(vec![*batch, *out]), ..Fact::unknown(dtype) }])
}

fn eval(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (x, w) = (inputs.need(0)?, inputs.need(1)?);
    let (rows, k, out) = (x.shape()[0], x.shape()[1], w.shape()[0]);
    let (x, w) = (x.values::<f32>()?, w.values::<f32>()?);
    let y = (0..rows * out)
        .map(|i| (0..k).map(|j| x[i / out * k + j].abs() * w[i % out * k + j]).sum())
        .collect::<Vec<f32>>();
    Ok(vec![Tensor::new([rows, out], y)?])
}

fn weights(_: &Node, _: Facts<'_>) -> Result<Vec<WeightUse>> {
    let roles = vec![AxisRole::Out, AxisRole::In];
    let (out_axis, out_from_last) = (Some(1), Some(0));
    Ok(vec![WeightUse { input: 1, roles, groups: 1, bias: None, out_axis, out_from_last, gates: 1 }])
}

fn axes(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, w, y) = (axes.need(0, 2)?, axes.need(1, 2)?, axes.need_output(0, 2)?);
    axes.same(x[1], w[1]);
    axes.same_all(&[x[0], w[0]], &y);
    Ok(())
}

fn macs(_: &Node, inputs: Facts<'_>, outputs: &[Fact]) -> Result<u64> {
    let (Some(y), Some(w)) = (outputs[0].shape(), inputs.shape(1)) else { return Ok(0) };
    Ok((y[0] * y[1] * w[1]) as u64)
}

fn example() -> Model {
    let weight = stored("w", &[2, 3], Data::F32(vec![1.0, -2.0, 3.0, 0.5, 4.0, -0.25]));
    let mut model = model(vec![weight], &[1]);
    let graph = model.graph.as_mut().unwrap();
    let node = &mut graph.nodes[0];
    (node.op_type, node.domain, node.opset) = ("AbsLinear".into(), DOMAIN.into(), 1);
    let input = graph.inputs[0];
    graph.values[input.0 as usize].dtype = Some(secateur::DType::F32);
    graph.values[input.0 as usize].shape = Some(vec![Dim::Known(2), Dim::Known(3)]);
    model
}

#[test]
fn an_operator_is_added_in_one_line() {
    // Without it, the weight belongs to nothing that is known.
    assert!(plan(&example(), &PruneOptions::new("l1".parse().unwrap(), Amount::Sparsity(0.5))).is_err());

    // Step 2: the line that registers it.
    ops::add(&ABS_LINEAR).unwrap();
    assert!(ops::add(&ABS_LINEAR).unwrap_err().to_string().contains("already known"));

    // Step 3: what holds of it.
    let model = example();
    let inference = Inference::of(&model, &Binding::default()).unwrap();
    assert_eq!(inference.known_macs(), 2 * 2 * 3);
    let axes = GraphAxes::of(&model, &inference).unwrap();
    let graph = model.graph().unwrap();
    let of = |value| axes.value(value).unwrap().to_vec();
    let (input, weight, output) =
        (graph.inputs[0], *graph.constants.keys().next().unwrap(), graph.outputs[0]);
    assert_eq!(axes.space().find(of(input)[1]), axes.space().find(of(weight)[1]));
    assert_eq!(axes.space().fixed(of(weight)[0]), Some(Fixed::Output(output)));
    let pruning = plan(&model, &PruneOptions::new("l1@row".parse().unwrap(), Amount::Count(1))).unwrap();
    assert_eq!(pruning.layers[0].op_type, "AbsLinear");
    let run = |patch: Patch| {
        let session = Session::new(Arc::new(model.clone()), patch).unwrap();
        let x = Tensor::new([2, 3], vec![1.0f32, -1.0, 2.0, 0.0, 1.0, 0.0]).unwrap();
        session.run(vec![("x0".into(), x)]).unwrap()[0].to_f32s().unwrap()
    };
    assert_eq!(run(Patch::new()), [5.0, 4.0, -2.0, 4.0]);
    assert_eq!(run(pruning.patch(&model)), [4.0, 4.5, -2.0, 4.0]);
}
