//! Kinds of damage to the structure of a model. The bytes stay a valid message; what they say is absurd.

mod attr;
mod case;
mod chain;
mod graph;
mod tensor;

use secateur_model::{DType, Tensor};

pub use self::case::{Case, inputs, single};

use self::attr::damage_attr;
use self::chain::chain;
use self::graph::{damage_info, damage_node, names};
use self::tensor::damage_tensor;
use super::Numbers;
use super::wire::{Kind, Msg, Value};

/// A damaged model, and what was done to it.
#[derive(Clone, Debug)]
pub struct Damaged {
    pub model: Vec<u8>,
    pub inputs: Vec<(String, Tensor)>,
    pub damage: Vec<String>,
}

/// Integers that shape arithmetic stumbles over.
pub fn absurd(numbers: &mut Numbers) -> i64 {
    match numbers.below(8) {
        0 => 0,
        1 => -1,
        2 => *numbers.pick(&[1, 2, 3, 4, 5, 7, 16, 64, 65, 255, 1000, -2, -3, -4, -17]),
        3 => {
            let power = 1i64 << (31 + numbers.below(3));
            power + *numbers.pick(&[-1, 0, 1])
        }
        4 | 5 => {
            let power = 1i64 << (58 + numbers.below(5));
            power.wrapping_add(*numbers.pick(&[-1, 0, 0, 1, 3])) * *numbers.pick(&[1, 1, 1, -1])
        }
        6 => *numbers.pick(&[i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1]),
        _ => (1 << (8 + numbers.below(22))) + *numbers.pick(&[-1, 0, 7]),
    }
}

fn absurd_float(numbers: &mut Numbers) -> f32 {
    let list = [
        0.0,
        -0.0,
        -1.0,
        1e-38,
        1e-45,
        0.5,
        2.0,
        1e9,
        3e38,
        -3e38,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
    ];
    *numbers.pick(&list)
}

/// One damage; empty where it found nothing to damage.
fn once(case: &mut Case, numbers: &mut Numbers) -> String {
    let model = &mut case.model;
    match numbers.below(24) {
        0..=6 => {
            let count = model.count(Kind::Attr);
            match model.nth(Kind::Attr, &mut numbers.below(count)) {
                Some(attr) => damage_attr(attr, numbers),
                None => String::new(),
            }
        }
        7..=11 => {
            let count = model.count(Kind::Tensor);
            match model.nth(Kind::Tensor, &mut numbers.below(count)) {
                Some(tensor) => damage_tensor(tensor, numbers),
                None => String::new(),
            }
        }
        12..=16 => {
            let known = model.msgs(7).next().map(names).unwrap_or_default();
            let count = model.count(Kind::Node);
            match model.nth(Kind::Node, &mut numbers.below(count)) {
                Some(node) => damage_node(node, &known, numbers),
                None => String::new(),
            }
        }
        17 => {
            // An attribute less.
            let count = model.count(Kind::Node);
            let Some(node) = model.nth(Kind::Node, &mut numbers.below(count)) else { return String::new() };
            let attrs: Vec<usize> = (0..node.fields.len()).filter(|&i| node.fields[i].0 == 5).collect();
            if attrs.is_empty() {
                return String::new();
            }
            let (_, gone) = node.fields.remove(*numbers.pick(&attrs));
            match gone {
                Value::Msg(attr) => format!("{}: attribute {} left out", node.text(4), attr.text(1)),
                _ => String::new(),
            }
        }
        18 | 19 => damage_info(model, numbers),
        20 => {
            let version =
                *numbers.pick(&[1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 23, 27]);
            if let Some(opset) = model.msgs_mut(8).next() {
                opset.set_int(2, version);
            }
            format!("opset {version}")
        }
        21 => {
            // Another value as output.
            let Some(graph) = model.msgs_mut(7).next() else { return String::new() };
            let known = names(graph);
            let mut info = Msg::new(Kind::Info);
            let name: &String = numbers.pick(&known);
            info.set_text(1, name);
            let name = info.text(1);
            graph.push(12, info);
            format!("output {name} added")
        }
        22 => chain(model, numbers),
        _ => match case.inputs.len() {
            0 => String::new(),
            count => format!("given {}", damage_tensor(&mut case.inputs[numbers.below(count)], numbers)),
        },
    }
}

/// Makes initializers of some of the inputs, so that what kernels do with constants is met.
fn bake(case: &mut Case, numbers: &mut Numbers) -> Vec<String> {
    let mut baked = Vec::new();
    let inputs = std::mem::take(&mut case.inputs);
    let spare = numbers.below(inputs.len() + 1);
    for (i, tensor) in inputs.into_iter().enumerate() {
        let name = tensor.text(8);
        let Some(graph) = case.model.msgs_mut(7).next() else { break };
        if i == spare || numbers.one_in(3) || !graph.msgs(11).any(|info| info.text(1) == name) {
            case.inputs.push(tensor);
            continue;
        }
        graph.fields.retain(|(field, value)| match value {
            Value::Msg(info) if *field == 11 => info.text(1) != name,
            _ => true,
        });
        baked.push(format!("{name} is a constant"));
        graph.push(5, tensor);
    }
    baked
}

/// A case damaged as a seed says: the same seed, the same damage.
pub fn damage(case: &Case, seed: u64) -> Damaged {
    let mut numbers = Numbers(seed);
    let mut case = case.clone();
    let mut said = match numbers.below(4) {
        0 => Vec::new(),
        _ => bake(&mut case, &mut numbers),
    };
    let count = *numbers.pick(&[1, 1, 1, 2, 2, 3]);
    let mut done = 0;
    for _ in 0..10 * count {
        let one = once(&mut case, &mut numbers);
        if !one.is_empty() {
            said.push(one);
            done += 1;
        }
        if done == count {
            break;
        }
    }
    let inputs = inputs(&case);
    Damaged { model: case.model.write(), inputs, damage: said }
}

/// Whether a type's elements can be given to ONNX Runtime and compared.
pub fn is_plain(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64 | DType::I64 | DType::I32 | DType::U8 | DType::I8 | DType::Bool)
}
