//! What operators say of their axes is true: a dimension that may be permuted, permuted everywhere it occurs, leaves
//! the outputs as they are, but for their own order; one that loses elements leaves a model whose shapes follow from
//! the extents that nodes write down.

#[path = "../common/build.rs"]
mod build;
mod cases;
mod graphs;
mod roles;
#[path = "../common/suite.rs"]
mod suite;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use secateur_model::axes::{Axis, GraphAxes, Slot};
use secateur_model::graph::{Dim, Value};
use secateur_model::infer::{Binding, Inference};
use secateur_model::{Attr, Model, NodeId, Patch, Tensor, TensorId, ValueId, io, ops, with_elements};
use secateur_runtime::Session;

use build::stored;
pub(crate) use build::{Build, Random};

fn at<T: Clone>(elements: &[T], offsets: &[usize]) -> Vec<T> {
    offsets.iter().map(|&offset| elements[offset].clone()).collect()
}

/// A tensor with only these positions of each axis, in this order.
fn taken(tensor: &Tensor, positions: &[Vec<usize>]) -> Tensor {
    let mut strides = vec![1; positions.len()];
    for axis in (1..positions.len()).rev() {
        strides[axis - 1] = strides[axis] * tensor.shape()[axis];
    }
    let mut offsets = vec![0];
    for (positions, stride) in positions.iter().zip(&strides) {
        offsets = offsets.iter().flat_map(|o| positions.iter().map(move |p| o + p * stride)).collect();
    }
    let shape: Vec<usize> = positions.iter().map(Vec::len).collect();
    with_elements!(
        tensor,
        |v| Tensor::new(shape, at(v, &offsets)).unwrap(),
        else panic!("elements of {} are not rearranged here", tensor.dtype())
    )
}

/// Whether the elements have whole bytes.
fn is_rearrangeable(tensor: &Tensor) -> bool {
    with_elements!(tensor, |_v| true, else false)
}

/// The model and what is given to it with some positions of each dimension, in some order.
fn rearranged(
    model: &Model,
    given: &[(ValueId, Tensor)],
    axes: &GraphAxes,
    chosen: &HashMap<Axis, Vec<usize>>,
) -> (Model, Vec<(ValueId, Tensor)>) {
    let take = |value: ValueId, tensor: &Tensor| {
        let of_value = axes.value(value).expect("shapes are known");
        let positions: Vec<_> = of_value.iter().map(|&axis| axes.space().select(axis, chosen)).collect();
        taken(tensor, &positions)
    };
    let mut changed = model.clone();
    for (&value, &id) in &model.graph().unwrap().constants {
        let tensor = model.tensor(id).load().unwrap();
        changed.tensors[id.0 as usize] = stored(model.tensor(id).path.clone(), take(value, &tensor));
    }
    let given: Vec<_> = given.iter().map(|(value, tensor)| (*value, take(*value, tensor))).collect();
    for (value, tensor) in &given {
        let dims = tensor.shape().iter().map(|&d| Dim::Known(d)).collect();
        changed.graph.as_mut().unwrap().values[value.index()].shape = Some(dims);
    }
    (changed, given)
}

fn run(model: &Model, given: &[(ValueId, Tensor)]) -> secateur_model::Result<Vec<Tensor>> {
    let graph = model.graph()?;
    let named = given.iter().map(|(v, t)| (graph.value_name(*v).to_string(), t.clone())).collect();
    Session::new(Arc::new(model.clone()), Patch::new())?.run(named)
}

/// Permutes all dimensions that may be, and gives how many there were; `None` where the model does not run.
fn permute(model: &Model, given: &[(ValueId, Tensor)], random: &mut Random) -> Result<Option<usize>, String> {
    let Ok(before) = run(model, given) else { return Ok(None) };
    let inference = Inference::of(model, &Binding::default()).map_err(|e| e.to_string())?;
    let axes = GraphAxes::stated(model, &inference).map_err(|e| e.to_string())?;
    let free = |axis: &Axis| axes.space().fixed(*axis).is_none() && axes.space().extent(*axis) > 1;
    let dims: Vec<Axis> = axes.occurrences().into_keys().filter(free).collect();
    let chosen: HashMap<Axis, Vec<usize>> =
        dims.iter().map(|&dim| (dim, random.permutation(axes.space().extent(dim)))).collect();
    let (permuted, given) = rearranged(model, given, &axes, &chosen);
    let after = run(&permuted, &given).map_err(|e| format!("permuted, it does not run: {e}"))?;
    let graph = model.graph().unwrap();
    for ((&value, before), after) in graph.outputs.iter().zip(&before).zip(&after) {
        let Some(of_value) = axes.value(value) else { continue };
        let positions: Vec<_> = of_value.iter().map(|&axis| axes.space().select(axis, &chosen)).collect();
        suite::close(after, &taken(before, &positions))
            .map_err(|why| format!("output {}: {why}", graph.value_name(value)))?;
    }
    Ok(Some(dims.len()))
}

/// Takes the last position out of one dimension after the other: nodes are told of the extents that they write down,
/// and the model has the shapes that the axes say.
fn shrink(model: &Model, given: &[(ValueId, Tensor)]) -> Result<usize, String> {
    let inference = Inference::of(model, &Binding::default()).map_err(|e| e.to_string())?;
    let axes = GraphAxes::stated(model, &inference).map_err(|e| e.to_string())?;
    let free = |axis: &Axis| axes.space().fixed(*axis).is_none() && axes.space().extent(*axis) > 1;
    let dims: Vec<Axis> = axes.occurrences().into_keys().filter(free).collect();
    for &dim in &dims {
        let chosen = HashMap::from([(dim, (0..axes.space().extent(dim) - 1).collect())]);
        let extent = |axis: Axis| axes.space().select(axis, &chosen).len();
        let (mut smaller, given) = rearranged(model, given, &axes, &chosen);
        write(&mut smaller, &axes, extent);
        let after = Inference::of(&smaller, &Binding::default()).map_err(|e| e.to_string())?;
        if let Some(problem) = after.problems.first() {
            return Err(format!("smaller, {}", problem.text));
        }
        for (index, fact) in after.facts.iter().take(inference.facts.len()).enumerate() {
            let value = ValueId(index as u32);
            let (Some(fact), Some(of_value)) = (fact, axes.value(value)) else { continue };
            let expected: Vec<usize> = of_value.iter().map(|&axis| extent(axis)).collect();
            if fact.shape() != Some(&expected[..]) {
                let name = &model.graph().unwrap().values[index].name;
                return Err(format!("smaller, {name} has the shape {:?}, expected {expected:?}", fact.shape));
            }
        }
        run(&smaller, &given).map_err(|e| format!("smaller, it does not run: {e}"))?;
    }
    Ok(dims.len())
}

/// Tells nodes of the extents that they write down.
fn write(model: &mut Model, axes: &GraphAxes, extent: impl Fn(Axis) -> usize) {
    let mut inputs: BTreeMap<(NodeId, usize), Vec<(usize, i64)>> = BTreeMap::new();
    for written in axes.written() {
        let number = extent(written.axis) as i64;
        let node = &mut model.graph.as_mut().unwrap().nodes[written.node.0 as usize];
        match &written.slot {
            Slot::Attr(name) => {
                node.attrs.insert((*name).into(), Attr::Int(number));
            }
            Slot::AttrAt(name, place) => {
                let list = node.attrs.entry((*name).into()).or_insert(Attr::Ints(Vec::new()));
                let Attr::Ints(list) = list else { panic!("{name} is no list") };
                list.resize(list.len().max(place + 1), 0);
                list[*place] = number;
            }
            Slot::Input(input, place) => {
                inputs.entry((written.node, *input)).or_default().push((*place, number));
            }
        }
    }
    for ((node, input), numbers) in inputs {
        let graph = model.graph.as_mut().unwrap();
        let given = graph.nodes[node.0 as usize].inputs.get(input).copied().flatten();
        let own = given.and_then(|value| graph.constants.get(&value));
        let mut list =
            own.map_or(Vec::new(), |&id| model.tensors[id.0 as usize].load().unwrap().to_i64s().unwrap());
        for (place, number) in numbers {
            list.resize(list.len().max(place + 1), 0);
            list[place] = number;
        }
        let (id, path) = (ValueId(graph.values.len() as u32), format!("extents {} {input}", node.0));
        graph.values.push(Value { name: path.clone(), ..Value::default() });
        graph.constants.insert(id, TensorId(model.tensors.len() as u32));
        let inputs = &mut graph.nodes[node.0 as usize].inputs;
        inputs.resize(inputs.len().max(input + 1), None);
        inputs[input] = Some(id);
        model.tensors.insert(path.clone(), stored(path, Tensor::vector(list)));
    }
}

#[test]
fn every_statement_holds_for_its_operator_alone() {
    let mut random = Random(1);
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for round in 0..4 {
        for case in cases::all(&mut random) {
            let name = format!("{} {:?} (round {round})", case.label(), case.shapes());
            seen.insert(case.op);
            let (model, given) = case.model();
            match permute(&model, &given, &mut random) {
                Ok(Some(dims)) if dims >= case.free => {}
                Ok(Some(dims)) => {
                    wrong.push(format!("{name}: {dims} dimensions, at least {} expected", case.free))
                }
                Ok(None) => wrong.push(format!("{name} does not run: {:?}", run(&model, &given).err())),
                Err(why) => wrong.push(format!("{name}: {why}")),
            }
            if let Err(why) = shrink(&model, &given) {
                wrong.push(format!("{name}: {why}"));
            }
        }
    }
    let stated = ops::all().filter(|op| op.axes.is_some()).map(|op| op.name);
    let without: BTreeSet<&str> = stated.filter(|name| !seen.contains(name)).collect();
    assert!(without.is_empty(), "no case for {without:?}");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn roles_of_weights_are_those_that_axes_have() {
    let mut random = Random(2);
    let (mut checked, mut wrong) = (BTreeMap::new(), Vec::new());
    for case in (0..4).flat_map(|_| cases::all(&mut random)) {
        match roles::check(&case.model().0) {
            Ok(count) => *checked.entry(case.op).or_insert(0) += count,
            Err(why) => wrong.push(format!("{} {:?}: {why}", case.label(), case.shapes())),
        }
    }
    let with_weights = ops::all().filter(|op| op.weights.is_some()).map(|op| op.name);
    let without: Vec<&str> = with_weights.filter(|name| checked.get(name).is_none_or(|&n| n == 0)).collect();
    assert!(without.is_empty(), "nothing was checked of {without:?}");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn statements_hold_together_in_random_graphs() {
    let mut dims = 0;
    for seed in 0..200 {
        let mut random = Random(seed);
        let (model, given, story) = graphs::random(&mut random);
        let found =
            permute(&model, &given, &mut random).unwrap_or_else(|why| panic!("seed {seed}: {why}\n{story}"));
        let found = found.unwrap_or_else(|| panic!("seed {seed}: {:?}\n{story}", run(&model, &given).err()));
        shrink(&model, &given).unwrap_or_else(|why| panic!("seed {seed}: {why}\n{story}"));
        dims += found;
    }
    assert!(dims > 400, "{dims} dimensions in all: graphs are too much fixed to show anything");
}

#[test]
fn statements_hold_for_the_cases_of_onnx() {
    let Some(cases) = suite::cases() else { return };
    let (mut permuted, mut wrong) = (0, Vec::new());
    for (name, files) in &cases {
        let Some(bytes) = files.get("model.onnx") else { continue };
        let Ok(mut model) = io::onnx::from_bytes(bytes.clone().into(), Path::new(".")) else { continue };
        let Ok(inputs) = suite::tensors(files, "test_data_set_0", "input") else { continue };
        let Some(graph) = &mut model.graph else { continue };
        let nested = graph.nodes.iter().any(|node| node.graphs().next().is_some());
        if inputs.len() != graph.inputs.len() || nested || !inputs.iter().all(is_rearrangeable) {
            continue;
        }
        // What says how the node works is constant, as it is in models.
        let mut given = Vec::new();
        for (place, (value, tensor)) in std::mem::take(&mut graph.inputs).into_iter().zip(inputs).enumerate()
        {
            if place == 0 {
                let declared = &mut graph.values[value.index()];
                declared.shape = Some(tensor.shape().iter().map(|&d| Dim::Known(d)).collect());
                graph.inputs.push(value);
                given.push((value, tensor));
                continue;
            }
            let path = graph.value_name(value).to_string();
            graph.constants.insert(value, TensorId(model.tensors.len() as u32));
            model.tensors.insert(path.clone(), stored(path, tensor));
        }
        // Random operators give something else each time.
        let twice = (run(&model, &given), run(&model, &given));
        let (Ok(a), Ok(b)) = &twice else { continue };
        if !a.iter().all(is_rearrangeable) || a.iter().zip(b).any(|(a, b)| suite::close(a, b).is_err()) {
            continue;
        }
        match permute(&model, &given, &mut Random(7)) {
            Ok(Some(dims)) if dims > 0 => permuted += 1,
            Ok(_) => {}
            Err(why) => wrong.push(format!("{name}: {why}")),
        }
    }
    println!("{permuted} cases had dimensions to permute");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(permuted > 400, "{permuted} cases");
}
