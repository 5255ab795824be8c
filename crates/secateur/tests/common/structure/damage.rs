//! Kinds of damage to the structure of a model. The bytes stay a valid message; what they say is absurd.

use secateur_model::io::onnx::read_tensor;
use secateur_model::{DType, Tensor, ops};

use super::Numbers;
use super::wire::{Kind, Msg, Value};

/// A model with values for inputs.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub model: Msg,
    /// `TensorProto` messages named after the inputs.
    pub inputs: Vec<Msg>,
}

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

/// Names of attributes that operators read, with whether they are lists.
const ATTRS: &[(&str, bool)] = &[
    ("axis", false),
    ("axes", true),
    ("pads", true),
    ("strides", true),
    ("dilations", true),
    ("kernel_shape", true),
    ("group", false),
    ("output_padding", true),
    ("output_shape", true),
    ("ceil_mode", false),
    ("p", false),
    ("count_include_pad", false),
    ("storage_order", false),
    ("perm", true),
    ("starts", true),
    ("ends", true),
    ("split", true),
    ("num_outputs", false),
    ("keepdims", false),
    ("noop_with_empty_axes", false),
    ("to", false),
    ("hidden_size", false),
    ("num_heads", false),
    ("q_num_heads", false),
    ("kv_num_heads", false),
    ("blocksize", false),
    ("block_size", false),
    ("batch_dims", false),
    ("k", false),
    ("largest", false),
    ("sorted", false),
    ("allowzero", false),
    ("shape", true),
    ("repeats", true),
    ("tiles", false),
    ("scales", true),
    ("start", false),
    ("end", false),
    ("exclusive", false),
    ("reverse", false),
    ("upper", false),
    ("transA", false),
    ("transB", false),
    ("select_last_index", false),
    ("onesided", false),
    ("inverse", false),
    ("layout", false),
    ("input_forget", false),
    ("num_scan_inputs", false),
    ("scan_input_axes", true),
    ("scan_output_axes", true),
    ("stash_type", false),
    ("num_groups", false),
    ("size", false),
    ("time_axis", false),
    ("batch_axis", false),
    ("sampling_ratio", false),
    ("output_height", false),
    ("output_width", false),
    ("offset_group", false),
    ("interleaved", false),
    ("rotary_embedding_dim", false),
    ("is_causal", false),
    ("unidirectional", false),
    ("detect_positive", false),
    ("training_mode", false),
    ("center_point_box", false),
    ("new_axis", false),
    ("dtype", false),
    ("bits", false),
    ("value_int", false),
    ("value_ints", true),
    ("quantization_axis", false),
    ("accuracy_level", false),
    ("N", false),
    ("K", false),
    ("keep_aspect_ratio_policy", false),
    ("antialias", false),
    ("exclude_outside", false),
];

const TEXTS: &[&str] = &[
    "",
    "SAME_UPPER",
    "SAME_LOWER",
    "VALID",
    "NOTSET",
    "linear",
    "cubic",
    "nearest",
    "bilinear",
    "reflect",
    "edge",
    "wrap",
    "constant",
    "align_corners",
    "tf_crop_and_resize",
    "pytorch_half_pixel",
    "ceil",
    "round_prefer_floor",
    "not_larger",
    "not_smaller",
    "mean",
    "sum",
    "none",
    "forward",
    "reverse",
    "bidirectional",
    "DCR",
    "CRD",
    "add",
    "mul",
    "max",
    "border",
    "zeros",
    "Relu",
    "Tanh",
    "ij,jk->ik",
    "...",
    "->",
    "ii->i",
    "ij->",
    "i,i,i->i",
    "é,é->é",
    "output_half_pixel",
    "half_pixel",
    "avg",
    "tanh",
    "LEFT",
];

/// Bits of an element by ONNX's code of its type; `None` for strings and unknown codes.
fn bits(code: i64) -> Option<usize> {
    Some(match code {
        1 | 6 | 12 => 32,
        2 | 3 | 9 | 17..=20 | 24 => 8,
        4 | 5 | 10 | 16 => 16,
        7 | 11 | 13 | 14 => 64,
        15 => 128,
        21..=23 => 4,
        25 | 26 => 2,
        _ => return None,
    })
}

/// A `TensorProto` of raw bytes, repeated or cut to what the shape asks for.
pub fn raw_tensor(name: &str, code: i64, dims: &[i64], bytes: &[u8]) -> Msg {
    let elements = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?));
    let wanted = elements.zip(bits(code)).and_then(|(n, bits)| Some(n.checked_mul(bits)?.div_ceil(8)));
    let data: Vec<u8> = match wanted {
        Some(wanted) if wanted <= 1 << 20 => {
            let source: &[u8] = if bytes.is_empty() { &[0] } else { bytes };
            source.iter().copied().cycle().take(wanted).collect()
        }
        _ => bytes.to_vec(),
    };
    let mut msg = Msg::new(Kind::Tensor);
    msg.set_ints(1, dims);
    msg.set_int(2, code);
    msg.set_text(8, name);
    msg.set(9, [Value::Bytes(data)]);
    msg
}

/// A tensor's elements as raw bytes, however it holds them.
fn raw_bytes(tensor: &Msg) -> Option<Vec<u8>> {
    let read = read_tensor(tensor.write().into()).ok()?;
    secateur_model::model::encode(read.data()).ok()
}

/// Damages a tensor: its shape, its type, its elements.
fn damage_tensor(tensor: &mut Msg, numbers: &mut Numbers) -> String {
    let name = tensor.text(8);
    let code = tensor.int(2).unwrap_or(1);
    let dims = tensor.ints(1);
    let Some(mut bytes) = raw_bytes(tensor) else {
        let wrong = [absurd(numbers)];
        tensor.set_ints(1, &wrong);
        return format!("constant {name}: dims {wrong:?}");
    };
    match numbers.below(8) {
        // Another shape, filled.
        0..=3 => {
            let mut dims = dims;
            let small =
                |numbers: &mut Numbers| *numbers.pick(&[0, 0, 1, 1, 2, 3, 4, 5, 7, 8, 16, 33, 64, 300]);
            match numbers.below(7) {
                0 => dims.push(small(numbers)),
                1 => dims.insert(0, 1),
                2 => drop(dims.pop()),
                3 => dims = vec![],
                4 => dims = vec![small(numbers)],
                5 if !dims.is_empty() => {
                    let other = numbers.below(dims.len());
                    dims.swap(0, other);
                }
                _ => {
                    let at = numbers.below(dims.len());
                    match dims.get_mut(at) {
                        Some(dim) => *dim = if numbers.one_in(2) { *dim + 1 } else { small(numbers) },
                        None => dims = vec![small(numbers), small(numbers)],
                    }
                }
            }
            *tensor = raw_tensor(&name, code, &dims, &bytes);
            format!("constant {name}: dims {dims:?}")
        }
        // A shape that is not what it holds.
        4 => {
            let mut wrong = dims;
            match wrong.len() {
                0 => wrong.push(absurd(numbers)),
                len => wrong[numbers.below(len)] = absurd(numbers),
            }
            tensor.set_ints(1, &wrong);
            format!("constant {name}: claims dims {wrong:?}")
        }
        // Another type.
        5 => {
            let other = *numbers.pick(&[1, 1, 6, 7, 7, 9, 10, 11, 16, 2, 3, 8, 12, 13, 14, 17, 21, 22]);
            *tensor = raw_tensor(&name, other, &dims, &bytes);
            format!("constant {name}: type {other}")
        }
        // Other elements.
        _ => {
            let all = numbers.one_in(3);
            let each = bits(code).unwrap_or(8).max(8) / 8;
            let count = bytes.len() / each;
            let at = numbers.below(count);
            let mut said = String::new();
            for i in (0..count).filter(|&i| all || i == at) {
                let value: Vec<u8> = match code {
                    1 => absurd_float(numbers).to_le_bytes().to_vec(),
                    7 | 13 => absurd(numbers).to_le_bytes().to_vec(),
                    6 | 12 => (absurd(numbers) as i32).to_le_bytes().to_vec(),
                    11 => f64::from(absurd_float(numbers)).to_le_bytes().to_vec(),
                    _ => numbers.next().to_le_bytes().iter().copied().cycle().take(each).collect(),
                };
                bytes[i * each..(i + 1) * each].copy_from_slice(&value);
                if said.len() < 60 {
                    said += &match code {
                        7 => format!(" {}", i64::from_le_bytes(value.try_into().unwrap_or_default())),
                        1 => format!(" {}", f32::from_le_bytes(value.try_into().unwrap_or_default())),
                        _ => format!(" {value:?}"),
                    };
                }
            }
            *tensor = raw_tensor(&name, code, &dims, &bytes);
            format!("constant {name}: {} elements:{said}", if all { count } else { 1 })
        }
    }
}

fn damage_attr(attr: &mut Msg, numbers: &mut Numbers) -> String {
    let name = attr.text(1);
    let (int, ints, floats) = (attr.int(3), attr.ints(8), attr.fields.iter().any(|(f, _)| *f == 7));
    let kind = attr.int(20).unwrap_or(0);
    if numbers.one_in(12) {
        let other = *numbers.pick(&[1, 2, 3, 4, 6, 7, 8]);
        attr.set_int(20, other);
        return format!("attribute {name}: type {other}");
    }
    match kind {
        2 => {
            let value = absurd(numbers);
            attr.set_int(3, value);
            format!("attribute {name}: {int:?} → {value}")
        }
        7 => {
            let mut values = ints;
            match numbers.below(6) {
                0 => values.push(absurd(numbers)),
                1 => drop(values.pop()),
                2 => values.clear(),
                3 => values.iter_mut().for_each(|value| *value = absurd(numbers)),
                _ if values.is_empty() => values.push(absurd(numbers)),
                _ => {
                    let at = numbers.below(values.len());
                    values[at] = absurd(numbers);
                }
            }
            attr.set_ints(8, &values);
            format!("attribute {name}: {values:?}")
        }
        1 => {
            let value = absurd_float(numbers);
            attr.set(2, [Value::Fixed32(value.to_le_bytes())]);
            format!("attribute {name}: {value}")
        }
        6 if floats => {
            let count = numbers.below(5);
            let values: Vec<f32> = (0..count).map(|_| absurd_float(numbers)).collect();
            attr.set(7, values.iter().map(|value| Value::Fixed32(value.to_le_bytes())));
            format!("attribute {name}: {values:?}")
        }
        3 => {
            let value = *numbers.pick(TEXTS);
            attr.set_text(4, value);
            format!("attribute {name}: {value:?}")
        }
        _ => match attr.msgs_mut(5).next() {
            Some(tensor) => format!("attribute {name}: {}", damage_tensor(tensor, numbers)),
            None => String::new(),
        },
    }
}

fn new_attr(numbers: &mut Numbers) -> (Msg, String) {
    let &(name, list) = numbers.pick(ATTRS);
    let mut attr = Msg::new(Kind::Attr);
    attr.set_text(1, name);
    let values: Vec<i64> = (0..if list { numbers.below(6) } else { 1 }).map(|_| absurd(numbers)).collect();
    attr.set_int(20, if list { 7 } else { 2 });
    attr.set_ints(if list { 8 } else { 3 }, &values);
    let said = format!("attribute {name} added: {values:?}");
    (attr, said)
}

/// Names of all values that a graph's nodes could use.
fn names(graph: &Msg) -> Vec<String> {
    let mut names: Vec<String> = graph.msgs(1).flat_map(|node| node.texts(2)).collect();
    names.extend(graph.msgs(11).map(|info| info.text(1)));
    names.extend(graph.msgs(5).map(|tensor| tensor.text(8)));
    names
}

/// Damages the edges of a node: its inputs, outputs, operator.
fn damage_node(node: &mut Msg, names: &[String], numbers: &mut Numbers) -> String {
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
fn damage_info(model: &mut Msg, numbers: &mut Numbers) -> String {
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

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Msg {
    let mut node = Msg::new(Kind::Node);
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    node.set_texts(1, &texts(inputs));
    node.set_texts(2, &texts(outputs));
    node.set_text(4, op);
    node
}

/// References that are long, deep, or lead back: chains of nodes, of nested graphs, of functions.
fn chain(model: &mut Msg, numbers: &mut Numbers) -> String {
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
            let length = length.min(1000);
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

/// Whether a type's elements can be given to ONNX Runtime and compared.
pub fn is_plain(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64 | DType::I64 | DType::I32 | DType::U8 | DType::I8 | DType::Bool)
}
