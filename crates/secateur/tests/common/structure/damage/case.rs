//! What is damaged: models with values for their inputs.

use secateur_model::io::onnx::read_tensor;
use secateur_model::{Tensor, ops};

use super::super::Numbers;
use super::super::wire::{Kind, Msg};
use super::attr::new_attr;
use super::graph::node;
use super::tensor::raw_tensor;

/// A model with values for inputs.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub model: Msg,
    /// `TensorProto` messages named after the inputs.
    pub inputs: Vec<Msg>,
}

/// Values for an input as it is declared, or none where it is open or large.
fn made(info: &Msg, numbers: &mut Numbers) -> Option<Msg> {
    let tensor_type = info.msgs(2).next()?.msgs(1).next()?;
    let code = tensor_type.int(1)?;
    let dims: Vec<i64> = match tensor_type.msgs(2).next() {
        Some(shape) => shape.msgs(1).map(|dim| dim.int(1).unwrap_or(2)).collect(),
        None => vec![2, 3],
    };
    let elements = dims.iter().try_fold(1i64, |n, &d| n.checked_mul(d))?;
    if !(0..=1 << 20).contains(&elements) {
        return None;
    }
    let values: Vec<u8> = match code {
        1 => (0..64).flat_map(|_| (numbers.below(2001) as f32 / 1000.0 - 1.0).to_le_bytes()).collect(),
        11 => (0..64).flat_map(|_| (numbers.below(2001) as f64 / 1000.0 - 1.0).to_le_bytes()).collect(),
        6 => (0..16).flat_map(|_| (numbers.below(4) as i32).to_le_bytes()).collect(),
        7 => (0..16).flat_map(|_| (numbers.below(4) as i64).to_le_bytes()).collect(),
        9 => vec![1, 0, 1],
        _ => (0..64).map(|_| numbers.below(60) as u8).collect(),
    };
    Some(raw_tensor(&info.text(1), code, &dims, &values))
}

/// Values for a case's inputs: its own, or some of the declared type and shape.
pub fn inputs(case: &Case) -> Vec<(String, Tensor)> {
    let mut inputs = Vec::new();
    let mut numbers = Numbers(0);
    for info in case.model.msgs(7).flat_map(|graph| graph.msgs(11)) {
        let name = info.text(1);
        let given = case.inputs.iter().find(|t| t.text(8) == name).cloned();
        let tensor = given.or_else(|| made(info, &mut numbers));
        if let Some(tensor) = tensor.and_then(|t| read_tensor(t.write().into()).ok()) {
            inputs.push((name, tensor));
        }
    }
    inputs
}

/// A model of one node, its inputs of shapes that many operators take.
pub fn single(op: &ops::Op, seed: u64) -> Case {
    let mut numbers = Numbers(seed);
    let mut graph = Msg::new(Kind::Graph);
    graph.set_text(2, "g");
    let shapes: [&[i64]; 6] = [&[1, 2, 4, 4], &[2, 3], &[4], &[2, 3, 4], &[1, 4, 6], &[]];
    let shape = *numbers.pick(&shapes);
    let mut inputs = Vec::new();
    let mut names = Vec::new();
    for i in 0..1 + numbers.below(6) {
        let code =
            if i == 0 { *numbers.pick(&[1, 1, 1, 7, 2, 9]) } else { *numbers.pick(&[1, 1, 7, 6, 2, 9]) };
        let mut own = shape.to_vec();
        if i > 0 && numbers.one_in(3) {
            own = numbers
                .pick(&[vec![], vec![1], vec![2], vec![4], vec![2, 2], vec![4, 4], vec![2, 2, 1, 1]])
                .clone();
        }
        let name = format!("i{i}");
        let values: Vec<u8> = match code {
            1 => (0..64).flat_map(|_| (numbers.below(2001) as f32 / 1000.0 - 1.0).to_le_bytes()).collect(),
            7 => (0..16).flat_map(|_| (numbers.below(3) as i64).to_le_bytes()).collect(),
            6 => (0..16).flat_map(|_| (numbers.below(3) as i32).to_le_bytes()).collect(),
            _ => (0..64).map(|_| numbers.below(2) as u8).collect(),
        };
        inputs.push(raw_tensor(&name, code, &own, &values));
        let mut dims = Msg::new(Kind::Shape);
        for d in &own {
            let mut dim = Msg::new(Kind::Dim);
            dim.set_int(1, *d);
            dims.push(1, dim);
        }
        let mut tensor_type = Msg::new(Kind::TensorType);
        tensor_type.set_int(1, code);
        tensor_type.push(2, dims);
        let mut of = Msg::new(Kind::Type);
        of.push(1, tensor_type);
        let mut info = Msg::new(Kind::Info);
        info.set_text(1, &name);
        info.push(2, of);
        graph.push(11, info);
        names.push(name);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let outputs: Vec<String> = (0..1 + numbers.below(3)).map(|i| format!("o{i}")).collect();
    let mut one = node(op.name, &names, &outputs.iter().map(String::as_str).collect::<Vec<_>>());
    one.set_text(7, op.domain);
    for _ in 0..numbers.below(4) {
        let (mut attr, _) = new_attr(&mut numbers);
        // Mostly small numbers: what is absurd is left to the damage.
        if numbers.one_in(2) {
            let small: Vec<i64> = (0..numbers.below(5)).map(|_| numbers.below(4) as i64).collect();
            match attr.int(20) {
                Some(7) => attr.set_ints(8, &small),
                _ => attr.set_int(3, numbers.below(4) as i64),
            }
        }
        one.push(5, attr);
    }
    graph.push(1, one);
    for output in &outputs {
        let mut info = Msg::new(Kind::Info);
        info.set_text(1, output);
        graph.push(12, info);
    }
    let mut model = Msg::new(Kind::Model);
    model.set_int(1, 10);
    model.push(7, graph);
    for (domain, version) in [("", ops::NEWEST_OPSET as i64), (ops::MICROSOFT, 1)] {
        let mut opset = Msg::new(Kind::Opset);
        opset.set_text(1, domain);
        opset.set_int(2, version);
        model.push(8, opset);
    }
    Case { name: format!("single {}", op.name), model, inputs }
}
