//! Damage to what follows what: chains of nodes, graphs in graphs, functions that call functions.

use super::super::Numbers;
use super::super::wire::{Kind, Msg, Value};
use super::graph::node;
use super::tensor::raw_tensor;

/// Bytes of the copies of a node, about.
const LARGEST: usize = 1_000_000;

/// References that are long, deep, or lead back: chains of nodes, of nested graphs, of functions.
pub(super) fn chain(model: &mut Msg, numbers: &mut Numbers) -> String {
    let length = *numbers.pick(&[3, 50, 65, 1000, 20_000]);
    let kind = numbers.below(6);
    let Some(graph) = model.msgs_mut(7).next() else { return String::new() };
    // In front of what a node takes.
    let count = graph.msgs(1).count();
    let at = numbers.below(count);
    let Some(first) = graph.msgs(1).nth(at).cloned() else { return String::new() };
    let mut inputs = first.texts(1);
    let place = numbers.below(inputs.len());
    let Some(source) = inputs.get(place).cloned() else { return String::new() };
    match kind {
        0..=2 => {
            let op = *numbers.pick(&[
                "Identity",
                "Identity",
                "Relu",
                "Cast",
                "Transpose",
                "DequantizeLinear",
                "Reshape",
            ]);
            let names: Vec<String> = (0..length).map(|i| format!("chain{i}")).collect();
            let mut last = source.as_str();
            let mut nodes = Vec::with_capacity(length);
            for name in &names {
                let mut one = node(op, &[last], &[name]);
                if op == "Cast" {
                    let mut attr = Msg::new(Kind::Attr);
                    attr.set_text(1, "to");
                    attr.set_int(20, 2);
                    attr.set_int(3, 1);
                    one.push(5, attr);
                }
                nodes.push((1, Value::Msg(one)));
                last = name;
            }
            inputs[place] = last.to_string();
            graph.msgs_mut(1).nth(at).expect("the node").set_texts(1, &inputs);
            graph.fields.splice(0..0, nodes);
            format!("{length} times {op} before input {place} of {}", first.text(4))
        }
        3 => {
            // Graphs in graphs.
            let depth = length.min(1000);
            let mut inner = Msg::new(Kind::Graph);
            inner.push(1, node("Identity", &[&source], &["deep"]));
            let mut out = Msg::new(Kind::Info);
            out.set_text(1, "deep");
            inner.push(12, out.clone());
            for _ in 0..depth {
                let mut branch = node("If", &["cond_of_chain"], &["deep"]);
                for name in ["then_branch", "else_branch"] {
                    let mut attr = Msg::new(Kind::Attr);
                    attr.set_text(1, name);
                    attr.set_int(20, 5);
                    let body = match name {
                        "then_branch" => std::mem::replace(&mut inner, Msg::new(Kind::Graph)),
                        _ => {
                            let mut body = Msg::new(Kind::Graph);
                            body.push(1, node("Identity", &[&source], &["deep"]));
                            body.push(12, out.clone());
                            body
                        }
                    };
                    attr.push(6, body);
                    branch.push(5, attr);
                }
                inner = Msg::new(Kind::Graph);
                inner.push(1, branch);
                inner.push(12, out.clone());
            }
            inputs[place] = "deep".to_string();
            graph.msgs_mut(1).nth(at).expect("the node").set_texts(1, &inputs);
            graph.push(5, raw_tensor("cond_of_chain", 9, &[], &[1]));
            let nodes: Vec<_> = inner.msgs(1).map(|n| (1, Value::Msg(n.clone()))).collect();
            graph.fields.splice(0..0, nodes);
            format!("{depth} nested graphs before input {place} of {}", first.text(4))
        }
        4 => {
            // Functions that call the next one, the last perhaps the first.
            let depth = length.min(1000);
            let circle = numbers.one_in(4);
            inputs[place] = "called".to_string();
            graph.msgs_mut(1).nth(at).expect("the node").set_texts(1, &inputs);
            let mut call = node("F0", &[&source], &["called"]);
            call.set_text(7, "chain");
            graph.fields.insert(0, (1, Value::Msg(call)));
            let mut import = Msg::new(Kind::Opset);
            import.set_text(1, "chain");
            import.set_int(2, 1);
            model.push(8, import.clone());
            for i in 0..depth {
                let mut function = Msg::new(Kind::Function);
                function.set_text(1, &format!("F{i}"));
                function.set_text(4, "a");
                function.set_text(5, "b");
                let last = i + 1 == depth;
                let mut body = match (last, circle) {
                    (true, false) => node("Identity", &["a"], &["b"]),
                    (true, true) => node("F0", &["a"], &["b"]),
                    _ => node(&format!("F{}", i + 1), &["a"], &["b"]),
                };
                if !last || circle {
                    body.set_text(7, "chain");
                }
                function.push(7, body);
                function.push(9, import.clone());
                let mut onnx = import.clone();
                onnx.set_text(1, "");
                onnx.set_int(2, 17);
                function.push(9, onnx);
                function.set_text(10, "chain");
                model.push(25, function);
            }
            format!("{depth} functions, circle {circle}")
        }
        _ => {
            // A node again and again, each on the result of the one before.
            let length = length.min(LARGEST / first.write().len().max(1000)).max(1);
            let outputs = first.texts(2);
            let Some(out) = outputs.first().cloned() else { return String::new() };
            let mut last = out.clone();
            for i in 0..length {
                let mut again = first.clone();
                inputs[place] = last;
                last = format!("{out}_{i}");
                again.set_texts(1, &inputs);
                again.set_texts(2, std::slice::from_ref(&last));
                graph.push(1, again);
            }
            if let Some(info) = graph.msgs_mut(12).find(|info| info.text(1) == out) {
                info.set_text(1, &last);
            }
            format!("{} repeated {length} times", first.text(4))
        }
    }
}
