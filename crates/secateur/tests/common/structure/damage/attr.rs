//! Damage to the attributes of nodes.

use super::super::Numbers;
use super::super::wire::{Kind, Msg, Value};
use super::tensor::damage_tensor;
use super::{absurd, absurd_float};

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

pub(super) fn damage_attr(attr: &mut Msg, numbers: &mut Numbers) -> String {
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

pub(super) fn new_attr(numbers: &mut Numbers) -> (Msg, String) {
    let &(name, list) = numbers.pick(ATTRS);
    let mut attr = Msg::new(Kind::Attr);
    attr.set_text(1, name);
    let values: Vec<i64> = (0..if list { numbers.below(6) } else { 1 }).map(|_| absurd(numbers)).collect();
    attr.set_int(20, if list { 7 } else { 2 });
    attr.set_ints(if list { 8 } else { 3 }, &values);
    let said = format!("attribute {name} added: {values:?}");
    (attr, said)
}
