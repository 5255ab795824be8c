//! Our messages against the official schema, as the onnx package describes it in `descriptor.json`
//! (written by `scripts/onnx_descriptor.py`).

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::elements;
use super::splice::{Kind, METADATA_PROPS, tensor_field};
use crate::DType;

fn schema() -> Value {
    serde_json::from_str(include_str!("descriptor.json")).unwrap()
}

/// The schema's name of one of our structs.
fn message_name(ours: &str) -> &str {
    match ours {
        "TensorTypeProto" => "TypeProto.Tensor",
        "DimensionProto" => "TensorShapeProto.Dimension",
        same => same,
    }
}

#[test]
fn the_fields_we_read_are_the_schemas() {
    let schema = schema();
    let (mut message, mut attribute, mut checked) = (String::new(), String::new(), 0);
    for line in include_str!("proto.rs").lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("pub(super) struct ") {
            message = message_name(rest.split(' ').next().unwrap()).to_string();
        } else if let Some(rest) = line.strip_prefix("#[prost(") {
            attribute = rest.trim_end_matches(")]").to_string();
        } else if let (Some(rest), false) = (line.strip_prefix("pub(super) "), attribute.is_empty()) {
            let Some((name, rust_type)) = rest.split_once(": ") else { continue };
            let parts: Vec<&str> = attribute.split(", ").collect();
            let (kind, label, tag) = (parts[0], parts[1], parts[2]);
            let fields = schema["messages"][&message].as_array().unwrap_or_else(|| panic!("no {message}"));
            let name = name.trim_start_matches("r#");
            let field =
                fields.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("{message}.{name}"));
            let at = format!("{message}.{name}");
            assert_eq!(tag, format!("tag = \"{}\"", field["number"]), "{at}");
            let expected = field["type"].as_str().unwrap();
            match kind {
                // Messages that stay bytes until they are walked; singular ones as lists of at most one.
                "bytes = \"bytes\"" if expected == "message" => assert_eq!(label, "repeated", "{at}"),
                "bytes = \"bytes\"" => {
                    assert_eq!((expected, label), ("bytes", field["label"].as_str().unwrap()), "{at}")
                }
                "message" => {
                    let inner = rust_type.split_once('<').unwrap().1.trim_end_matches(['>', ',']);
                    assert_eq!(field["message"], message_name(inner), "{at}");
                    assert_eq!(field["label"], label, "{at}");
                }
                scalar => {
                    let scalar = if expected == "enum" { "enum" } else { scalar };
                    assert_eq!((expected, field["label"].as_str().unwrap()), (scalar, label), "{at}");
                }
            }
            checked += 1;
            attribute.clear();
        }
    }
    assert!(checked > 60, "{checked} fields");
}

#[test]
fn the_writer_walks_every_message_that_can_hold_a_tensor() {
    let schema = schema();
    let messages = schema["messages"].as_object().unwrap();
    let children = |name: &str| -> Vec<(u32, String)> {
        let fields = messages[name].as_array().unwrap().iter();
        let submessages =
            fields.filter_map(|f| Some((f["number"].as_u64()? as u32, f["message"].as_str()?.to_string())));
        submessages.collect()
    };
    let mut reach: HashSet<String> = HashSet::from(["TensorProto".to_string()]);
    loop {
        let before = reach.len();
        let found = messages.keys().filter(|name| children(name).iter().any(|(_, m)| reach.contains(m)));
        reach.extend(found.cloned().collect::<Vec<_>>());
        if reach.len() == before {
            break;
        }
    }
    let kinds: HashMap<&str, Kind> = HashMap::from([
        ("ModelProto", Kind::Model),
        ("TrainingInfoProto", Kind::Training),
        ("FunctionProto", Kind::Function),
        ("GraphProto", Kind::Graph),
        ("NodeProto", Kind::Node),
        ("AttributeProto", Kind::Attribute),
        ("SparseTensorProto", Kind::Sparse),
        ("TensorProto", Kind::Tensor),
    ]);
    for name in &reach {
        let kind = kinds.get(name.as_str()).unwrap_or_else(|| panic!("{name} can hold a tensor"));
        for (number, child) in children(name) {
            let expected = kinds.get(child.as_str()).copied().filter(|_| reach.contains(&child));
            assert_eq!(kind.child(number), expected, "{name}: field {number} ({child})");
        }
    }
}

#[test]
fn numbers_of_fields_and_types_are_the_schemas() {
    let schema = schema();
    let number = |message: &str, name: &str| {
        let fields = schema["messages"][message].as_array().unwrap();
        fields.iter().find(|f| f["name"] == name).unwrap()["number"].as_u64().unwrap() as u32
    };
    assert_eq!(METADATA_PROPS, number("ModelProto", "metadata_props"));
    for (ours, name) in [
        (elements::FLOAT_DATA, "float_data"),
        (elements::INT32_DATA, "int32_data"),
        (elements::STRING_DATA, "string_data"),
        (elements::INT64_DATA, "int64_data"),
        (elements::DOUBLE_DATA, "double_data"),
        (elements::UINT64_DATA, "uint64_data"),
        (tensor_field::RAW_DATA, "raw_data"),
        (tensor_field::EXTERNAL_DATA, "external_data"),
        (tensor_field::DATA_LOCATION, "data_location"),
    ] {
        assert_eq!(ours, number("TensorProto", name), "{name}");
    }
    let types = schema["enums"]["TensorProto.DataType"].as_object().unwrap();
    for (name, number) in types.iter().filter(|(name, _)| *name != "UNDEFINED") {
        assert!(DType::from_onnx(number.as_i64().unwrap() as i32).is_some(), "{name}");
    }
    assert_eq!(types.len() - 1, DType::ALL.len());
    // Kinds of attributes, which are read by number.
    let kinds = schema["enums"]["AttributeProto.AttributeType"].as_object().unwrap();
    let named =
        ["FLOAT", "INT", "STRING", "TENSOR", "GRAPH", "FLOATS", "INTS", "STRINGS", "TENSORS", "GRAPHS"];
    for (number, name) in (1..).zip(named) {
        assert_eq!(kinds[name], number, "{name}");
    }
    assert_eq!(kinds.len(), 15);
}
