//! Damage to what a graph holds: the edges of its nodes, and what it declares of its inputs and outputs.

use secateur_model::ops;

use super::super::Numbers;
use super::super::wire::{Kind, Msg};
use super::absurd;
use super::attr::new_attr;

/// Names of all values that a graph's nodes could use.
pub(super) fn names(graph: &Msg) -> Vec<String> {
    let mut names: Vec<String> = graph.msgs(1).flat_map(|node| node.texts(2)).collect();
    names.extend(graph.msgs(11).map(|info| info.text(1)));
    names.extend(graph.msgs(5).map(|tensor| tensor.text(8)));
    names
}

/// Damages the edges of a node: its inputs, outputs, operator.
pub(super) fn damage_node(node: &mut Msg, names: &[String], numbers: &mut Numbers) -> String {
    let op = node.text(4);
    let mut inputs = node.texts(1);
    let mut outputs = node.texts(2);
    let at = numbers.below(inputs.len());
    let some = |numbers: &mut Numbers| match names.is_empty() {
        true => String::new(),
        false => numbers.pick(names).clone(),
    };
    let said = match numbers.below(12) {
        0 | 1 if !inputs.is_empty() => {
            inputs[at] = String::new();
            format!("{op}: input {at} left out")
        }
        2 if !inputs.is_empty() => {
            inputs.remove(at);
            format!("{op}: input {at} removed")
        }
        3 if !inputs.is_empty() => {
            let to = numbers.below(inputs.len());
            inputs.swap(at, to);
            format!("{op}: inputs {at} and {to} exchanged")
        }
        4 if !inputs.is_empty() => {
            let from = numbers.below(inputs.len());
            inputs[at] = inputs[from].clone();
            format!("{op}: input {at} is input {from}")
        }
        5 if !inputs.is_empty() => {
            inputs[at] = some(numbers);
            format!("{op}: input {at} is {}", inputs[at])
        }
        6 => {
            let more = 1 + numbers.below(3);
            for _ in 0..more {
                inputs.push(if numbers.one_in(2) {
                    inputs.last().cloned().unwrap_or_default()
                } else {
                    some(numbers)
                });
            }
            format!("{op}: {more} more inputs")
        }
        7 => {
            let more = *numbers.pick(&[1, 1, 2, 3, 10]);
            outputs.extend((0..more).map(|i| format!("more{i}_{}", numbers.below(1000))));
            format!("{op}: {more} more outputs")
        }
        8 if outputs.len() > 1 => {
            let at = numbers.below(outputs.len());
            outputs[at] = String::new();
            format!("{op}: output {at} left out")
        }
        9 if !inputs.is_empty() && !outputs.is_empty() => {
            inputs[at] = outputs[0].clone();
            format!("{op}: input {at} is its own output")
        }
        10 => {
            let table: Vec<&ops::Op> = ops::all().collect();
            let other = numbers.pick(&table);
            node.set_text(4, other.name);
            node.set_text(7, other.domain);
            format!("{op} becomes {}", other.name)
        }
        _ => {
            let (attr, said) = new_attr(numbers);
            node.push(5, attr);
            format!("{op}: {said}")
        }
    };
    node.set_texts(1, &inputs);
    node.set_texts(2, &outputs);
    said
}

/// Damages what a graph declares of its inputs and outputs.
pub(super) fn damage_info(model: &mut Msg, numbers: &mut Numbers) -> String {
    let count = model.count(Kind::TensorType);
    let Some(tensor_type) = model.nth(Kind::TensorType, &mut numbers.below(count)) else {
        return String::new();
    };
    match numbers.below(4) {
        0 => {
            let code = *numbers.pick(&[0, 1, 6, 7, 9, 10, 11, 16, 8, 99]);
            tensor_type.set_int(1, code);
            format!("declared type {code}")
        }
        1 => {
            tensor_type.set(2, []);
            "declared without shape".to_string()
        }
        _ => {
            let Some(shape) = tensor_type.msgs_mut(2).next() else { return String::new() };
            let mut dim = Msg::new(Kind::Dim);
            let value =
                if numbers.one_in(2) { *numbers.pick(&[0, 1, 2, 3, 4, 5, 8, 33]) } else { absurd(numbers) };
            match numbers.below(4) {
                0 => dim.set_text(2, "n"),
                _ => dim.set_int(1, value),
            }
            let rank = shape.msgs(1).count();
            let at = numbers.below(rank + 1);
            match numbers.below(6) {
                0 => drop(shape.fields.pop()),
                1 => shape.push(1, dim),
                _ if rank > 0 => *shape.msgs_mut(1).nth(at.min(rank - 1)).expect("a dim") = dim,
                _ => shape.push(1, dim),
            }
            format!("declared extent {at}: {value}")
        }
    }
}

pub(super) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Msg {
    let mut node = Msg::new(Kind::Node);
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    node.set_texts(1, &texts(inputs));
    node.set_texts(2, &texts(outputs));
    node.set_text(4, op);
    node
}
