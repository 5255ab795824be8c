//! Sessions that are observed, updated and run in part, on random networks.

#[allow(dead_code)] // packing, loops
mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Chain, node_of};
use secateur_model::graph::Value;
use secateur_model::{Attr, Error, ErrorKind, Graph, Model, Node, Patch, Tensor, TensorId, ValueId};
use secateur_runtime::{Kernels, Session};

/// Random numbers, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// Of a hundred weights, so many that are not zero: few for sparse kernels, all for dense ones.
const KEPT: [u64; 3] = [8, 12, 100];

/// A network of convolutions, batch-norms, activations, residuals, poolings and nodes that only run on tensors. Each of
/// its values has a name.
fn network(seed: u64, batch: usize) -> Model {
    let mut random = Random(seed);
    let (channels, size) = (32, 12);
    let mut chain = Chain::new(&[batch, channels, size, size]);
    for _ in 0..6 {
        let kernel = [1, 3][random.below(2)];
        let weight = chain.random(&[channels, channels, kernel, kernel], KEPT[random.below(3)]);
        let w = chain.constant(weight);
        chain.node("Conv", &[w], &[("pads", Attr::Ints(vec![kernel as i64 / 2; 4]))]);
        if random.below(2) == 0 {
            let parameters = [1.0, 0.1, 0.2, 0.7].map(|v| {
                let values = (0..channels).map(|c| v + c as f32 / 100.0).collect();
                chain.constant(Tensor::new([channels], values).unwrap())
            });
            chain.node("BatchNormalization", &parameters, &[]);
        }
        match random.below(4) {
            0 => {}
            1 => chain.node("Sin", &[], &[]),
            2 => chain.node("MaxPool", &[], &pooling()),
            _ => chain.node("Relu", &[], &[]),
        }
    }
    chain.node("GlobalAveragePool", &[], &[]);
    chain.node("Flatten", &[], &[]);
    let weight = chain.random(&[16, channels], KEPT[random.below(3)]);
    let w = chain.constant(weight);
    chain.node("Gemm", &[w], &[("transB", Attr::Int(1))]);
    let mut model = chain.model();
    let graph = model.graph.as_mut().unwrap();
    // Residuals between maps, all of which have one shape.
    let maps = graph.nodes.len() - 3;
    let mut at = 2;
    while at < maps {
        let earlier = graph.nodes[random.below(at)].outputs[0].unwrap();
        let node = &graph.nodes[at];
        let out = node.outputs[0].unwrap();
        let (add, sum) = node_of(graph, "Add", &[out, earlier], &[]);
        for node in &mut graph.nodes[at + 1..] {
            node.inputs.iter_mut().filter(|input| **input == Some(out)).for_each(|input| *input = Some(sum));
        }
        graph.nodes.insert(at + 1, add);
        at += 3 + random.below(3);
        if at >= maps {
            break;
        }
    }
    for (i, value) in graph.values.iter_mut().enumerate().filter(|(_, value)| value.name.is_empty()) {
        value.name = format!("v{i}");
    }
    for (i, node) in graph.nodes.iter_mut().enumerate() {
        node.name = format!("node{i}");
    }
    model
}

fn pooling() -> Vec<(&'static str, Attr)> {
    vec![("kernel_shape", Attr::Ints(vec![3; 2])), ("pads", Attr::Ints(vec![1; 4]))]
}

fn input(model: &Model, batch: usize) -> Vec<(String, Tensor)> {
    let shape = [batch, 32, 12, 12];
    let name = model.graph().unwrap().value_name(ValueId(0)).to_string();
    vec![(name, Chain::new(&[1]).random(&shape, 100))]
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.values::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
}

/// The values, put together where they come sample by sample; and in how many pieces they came.
fn observed(
    session: &Session,
    given: Vec<(String, Tensor)>,
    names: &[&str],
) -> (BTreeMap<String, Tensor>, usize) {
    let mut pieces: BTreeMap<String, Vec<(usize, Tensor)>> = BTreeMap::new();
    let mut count = 0;
    let mut observer = |seen: secateur_runtime::Observed<'_>| {
        pieces.entry(seen.name.to_string()).or_default().push((seen.offset, seen.tensor.clone()));
        count += 1;
        Ok(())
    };
    session.observe(given, names, &mut observer).unwrap();
    let whole = pieces.into_iter().map(|(name, pieces)| {
        let rows = |tensor: &Tensor| tensor.shape()[0];
        let mut shape = pieces[0].1.shape().to_vec();
        let (mut values, mut next) = (Vec::new(), 0);
        for (offset, tensor) in pieces {
            assert_eq!(offset, next, "{name}");
            next += rows(&tensor);
            values.extend_from_slice(tensor.values::<f32>().unwrap());
        }
        shape[0] = next;
        (name, Tensor::new(shape, values).unwrap())
    });
    (whole.collect(), count)
}

#[test]
fn observed_values_are_those_of_outputs() {
    let mut pieces = 0;
    for seed in 0..24 {
        for batch in [1, 3] {
            let model = network(seed, batch);
            let given = input(&model, batch);
            let graph = model.graph().unwrap();
            let mut random = Random(seed + 100);
            let mut ids: Vec<ValueId> = graph.nodes.iter().filter_map(|node| node.outputs[0]).collect();
            ids.retain(|_| random.below(3) == 0);
            let names: Vec<&str> = ids.iter().map(|&id| graph.value_name(id)).collect();
            let mut with_outputs = model.clone();
            let outputs = &mut with_outputs.graph.as_mut().unwrap().outputs;
            *outputs = [&ids[..], outputs].concat();
            let expected = Session::new(Arc::new(with_outputs), Patch::new()).unwrap().run(given.clone());
            let session = Session::new(Arc::new(model.clone()), Patch::new()).unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            let (found, count) = pool.install(|| observed(&session, given, &names));
            pieces += count - names.len();
            for (name, expected) in names.iter().zip(expected.unwrap()) {
                assert_eq!(found[*name].shape(), expected.shape(), "{name} of network {seed}");
                assert_eq!(bits(&found[*name]), bits(&expected), "{name} of network {seed}");
            }
        }
    }
    assert!(pieces > 0, "nothing came sample by sample");
}

#[test]
fn values_are_observed_by_names_of_nodes_and_whatever_they_are() {
    let model = network(3, 2);
    let given = input(&model, 2);
    let session = Session::new(Arc::new(model.clone()), Patch::new()).unwrap();
    let node = &model.graph().unwrap().nodes[0];
    let of_value = model.graph().unwrap().value_name(node.outputs[0].unwrap()).to_string();
    // A node's name, its output's, an input, a constant and an output of the model.
    let last = session.outputs()[0].clone();
    let (found, _) = observed(&session, given.clone(), &["node0", &of_value, "x", "w0", &last]);
    assert_eq!(found["node0"], found[&of_value]);
    assert_eq!(found["x"], given[0].1);
    assert_eq!(found["w0"], model.tensor(TensorId(0)).load().unwrap());
    assert!(near(&found[&last], &session.run(given.clone()).unwrap()[0]));
    let failed = |names: &[&str]| {
        session.observe(given.clone(), names, &mut |_| Err(Error::usage("enough"))).unwrap_err().to_string()
    };
    assert!(failed(&["x"]).contains("enough"));
    assert!(failed(&["nowhere"]).contains("no value or node `nowhere`"));
}

#[test]
fn values_in_nested_graphs_are_named_with_their_node() {
    let mut chain = Chain::new(&[2]);
    let inner = Graph {
        values: vec![
            Value { name: "x".into(), ..Value::default() },
            Value { name: "inside".into(), ..Value::default() },
        ],
        outputs: vec![ValueId(1)],
        nodes: vec![Node {
            op_type: "Abs".into(),
            opset: 20,
            inputs: vec![Some(ValueId(0))],
            outputs: vec![Some(ValueId(1))],
            ..Node::default()
        }],
        captures: vec![ValueId(0)],
        ..Graph::default()
    };
    let yes = chain.constant(Tensor::scalar(true));
    let mut model = {
        let branches =
            ["then_branch", "else_branch"].map(|name| (name, Attr::Graph(Box::new(inner.clone()))));
        let out = chain.side("If", &[yes], &branches);
        let mut model = chain.model();
        model.graph.as_mut().unwrap().outputs = vec![out];
        model
    };
    model.graph.as_mut().unwrap().nodes[0].name = "choice".into();
    let session = Session::new(Arc::new(model), Patch::new()).unwrap();
    let given = vec![("x".to_string(), Tensor::vector(vec![-1f32, 2.0]))];
    let error = session.observe(given.clone(), &["inside"], &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("inside node `choice` (If)"), "{error}");
    // The node's captures are among the inputs of a part that it belongs to.
    let part = session.extract(&["x"], &["choice"]).unwrap();
    assert_eq!(part.run(given).unwrap()[0].values::<f32>().unwrap(), [1.0, 2.0]);
    assert!(session.extract(&[], &["choice"]).err().unwrap().to_string().contains("`x`"));
}

fn near(found: &Tensor, expected: &Tensor) -> bool {
    let (a, b) = (found.values::<f32>().unwrap(), expected.values::<f32>().unwrap());
    let largest = b.iter().fold(0f32, |most, v| most.max(v.abs()));
    found.shape() == expected.shape() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-4 * largest)
}

#[test]
fn parts_compute_what_the_whole_does() {
    for seed in 0..12 {
        let model = network(seed, 2);
        let given = input(&model, 2);
        let graph = model.graph().unwrap();
        let session = Session::new(Arc::new(model.clone()), Patch::new()).unwrap();
        let outputs = session.run(given.clone()).unwrap();
        let last = session.outputs()[0].as_str();
        // Before the first node, in the middle and before the last: all values that are needed behind the cut.
        for cut in [1, graph.nodes.len() / 2, graph.nodes.len() - 1] {
            let made = |id: &ValueId| graph.nodes[..cut].iter().any(|node| node.outputs.contains(&Some(*id)));
            let mut ids: Vec<ValueId> =
                graph.nodes[cut..].iter().flat_map(|node| node.inputs.iter().flatten().copied()).collect();
            ids.retain(|id| made(id) || graph.inputs.contains(id));
            ids.sort_unstable();
            ids.dedup();
            let names: Vec<&str> = ids.iter().map(|&id| graph.value_name(id)).collect();
            let (values, _) = observed(&session, given.clone(), &names);
            let head = session.extract(&["x"], &names).unwrap().run(given.clone()).unwrap();
            assert!(
                names.iter().zip(&head).all(|(name, found)| near(found, &values[*name])),
                "network {seed}"
            );
            let tail = session.extract(&names, &[last]).unwrap();
            assert_eq!(tail.inputs().len(), names.len());
            let found = tail.run(values.into_iter().collect()).unwrap();
            assert!(near(&found[0], &outputs[0]), "network {seed} from {names:?}");
        }
        let middle = graph.value_name(graph.nodes[2].outputs[0].unwrap());
        let failed = |inputs: &[&str], outputs: &[&str]| {
            session.extract(inputs, outputs).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(failed(&[], &[middle]).contains("depend on `x`"));
        assert!(failed(&[middle, middle], &[last]).contains("named twice"));
        assert!(failed(&["x"], &["v9999"]).contains("`v9999`") && failed(&["x"], &[]).contains("no outputs"));
    }
}

/// Other values in the places of a model's weights: as many zeros, or more.
fn changed(model: &Model, seed: u64, more_zeros: bool) -> Patch {
    let mut random = Random(seed);
    let mut patch = Patch::new();
    for id in (0..model.tensors.len() as u32).map(TensorId) {
        let stored = model.tensor(id);
        if stored.shape.len() < 2 {
            continue;
        }
        let mut other = |v: f32| {
            let dropped = more_zeros && random.below(10) > 0;
            if dropped { 0.0 } else { v * (0.5 + random.below(100) as f32 / 100.0) }
        };
        let values = stored.load().unwrap().to_f32s().unwrap().into_iter().map(&mut other).collect();
        patch.set(id, Tensor::new(stored.shape.clone(), values).unwrap());
    }
    patch
}

fn kinds(session: &Session, given: &[(String, Tensor)]) -> Vec<String> {
    session.nodes(given.to_vec()).unwrap().into_iter().map(|node| node.kind).collect()
}

#[test]
fn updated_sessions_equal_new_ones() {
    let mut kept_dense = 0;
    for seed in 0..16 {
        let model = Arc::new(network(seed, 2));
        let given = input(&model, 2);
        let fresh = |patch: &Patch| Session::new(model.clone(), patch.clone()).unwrap();
        let run = |session: &Session| bits(&session.run(given.clone()).unwrap()[0]);
        let (same, sparser) = (changed(&model, seed, false), changed(&model, seed, true));
        let mut session = fresh(&Patch::new());
        let before = (run(&session), kinds(&session, &given));

        // The zeros are where they were, so that a new session has the same kernels.
        for kernels in [Kernels::Keep, Kernels::Choose] {
            session.update(same.clone(), kernels).unwrap();
            assert_eq!(run(&session), run(&fresh(&same)), "network {seed}, {kernels:?}");
        }
        session.update(sparser.clone(), Kernels::Choose).unwrap();
        assert_eq!(run(&session), run(&fresh(&sparser)), "network {seed} with more zeros");
        assert_eq!(kinds(&session, &given), kinds(&fresh(&sparser), &given));
        let chosen = kinds(&session, &given);

        // Back to the first weights, then more zeros without other kernels: where layers are dense they stay so.
        session.update(Patch::new(), Kernels::Choose).unwrap();
        assert_eq!(run(&session), before.0);
        session.update(sparser.clone(), Kernels::Keep).unwrap();
        let dense = |kinds: &[String]| kinds.iter().filter(|kind| !kind.contains("(")).count();
        let kept = kinds(&session, &given);
        assert_eq!(kept.len(), before.1.len());
        assert_eq!(dense(&kept), dense(&before.1), "{kept:?} was {:?}", before.1);
        kept_dense += usize::from(kept != chosen);
        let found = session.run(given.clone()).unwrap();
        assert!(near(&found[0], &fresh(&sparser).run(given.clone()).unwrap()[0]), "network {seed}");
        // The kernels are those of the first weights, whatever came between.
        let mut other = fresh(&Patch::new());
        other.run(given.clone()).unwrap();
        for patch in [&same, &sparser] {
            other.update(patch.clone(), Kernels::Keep).unwrap();
        }
        assert_eq!(run(&other), bits(&found[0]));
    }
    assert!(kept_dense > 0, "other kernels were never better");
}

/// A classifier's head on one row has a layout of its own for each share of zeros.
#[test]
fn few_rows_keep_their_layout() {
    let mut chain = Chain::new(&[1, 256]);
    let weight = chain.random(&[256, 128], 100);
    let w = chain.constant(weight);
    chain.node("MatMul", &[w], &[]);
    let input = chain.random(&[1, 256], 100);
    let model = Arc::new(chain.model());
    let given = vec![("x".to_string(), input)];
    let sparser = changed(&model, 1, true);
    let mut session = Session::new(model.clone(), Patch::new()).unwrap();
    let before = kinds(&session, &given);
    session.update(sparser.clone(), Kernels::Keep).unwrap();
    assert_eq!(kinds(&session, &given), before);
    session.update(sparser.clone(), Kernels::Choose).unwrap();
    assert_eq!(kinds(&session, &given), ["MatMul (sparse)"]);
    session.update(Patch::new(), Kernels::Keep).unwrap();
    assert_eq!(kinds(&session, &given), ["MatMul (sparse)"]);
    let mut other = Patch::new();
    other.replace(TensorId(0), Tensor::new([256, 64], vec![0f32; 256 * 64]).unwrap());
    let error = session.update(other, Kernels::Keep).unwrap_err();
    assert!(error.to_string().contains("start a new one"), "{error}");
    let expected = Session::new(model, Patch::new()).unwrap().run(given.clone()).unwrap();
    assert!(near(&session.run(given).unwrap()[0], &expected[0]));
}
