//! The model-local functions by which any runtime expands packed weights: their names, and their bodies of
//! standard operators as they are since opset 11.
//!
//! Bodies use only what ONNX Runtime folds while it loads a model: `NonZero`, the obvious way from bits to places,
//! would run at each inference, so a bitmask's values are gathered by the running count of its bits.

use bytes::Bytes;
use prost::Message;

use super::proto::{AttributeProto, FunctionProto, NodeProto, decode};
use super::read::normal_domain;
use super::wire::{put_bytes, put_int};
use crate::packed::{GroupLayout, Layout, Part, Spec};
use crate::{DType, Result};

/// The domain of the functions.
pub(super) const DOMAIN: &str = "ai.secateur";
/// The version of the domain.
pub(super) const VERSION: i64 = 1;
/// The attribute of a call that says the dense tensor's element type.
pub(super) const TO: &str = "to";
/// The oldest operator set that has all operators of the bodies.
pub(super) const OLDEST_OPSET: u32 = 11;
/// The oldest IR version that knows functions.
pub(super) const OLDEST_IR: i64 = 8;

/// A function that expands a packed tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unpacker {
    Bitmask,
    BitmaskScaled,
    Groups,
    GroupsScaled,
}

impl Unpacker {
    const ALL: [Unpacker; 4] =
        [Unpacker::Bitmask, Unpacker::BitmaskScaled, Unpacker::Groups, Unpacker::GroupsScaled];

    /// The function for a packed tensor.
    pub(super) fn of(spec: &Spec) -> Self {
        match (spec.layout, &spec.scales) {
            (Layout::Bitmask { .. }, None) => Unpacker::Bitmask,
            (Layout::Bitmask { .. }, Some(_)) => Unpacker::BitmaskScaled,
            (Layout::Groups(_), None) => Unpacker::Groups,
            (Layout::Groups(_), Some(_)) => Unpacker::GroupsScaled,
        }
    }

    /// The function with a name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Unpacker::Bitmask => "UnpackBitmask",
            Unpacker::BitmaskScaled => "UnpackBitmaskScaled",
            Unpacker::Groups => "UnpackNM",
            Unpacker::GroupsScaled => "UnpackNMScaled",
        }
    }

    /// The inputs, in their order; each is named as its part.
    pub(super) fn inputs(self) -> &'static [Part] {
        match self {
            Unpacker::Bitmask => &[Part::Compressed, Part::Bitmask, Part::Shape],
            Unpacker::BitmaskScaled => &[Part::Compressed, Part::Bitmask, Part::Scales, Part::Shape],
            Unpacker::Groups => &[Part::Compressed, Part::Indices, Part::Pattern, Part::Shape],
            Unpacker::GroupsScaled => {
                &[Part::Compressed, Part::Indices, Part::Pattern, Part::Scales, Part::Shape]
            }
        }
    }

    fn scaled(self) -> bool {
        self.inputs().contains(&Part::Scales)
    }

    /// The `FunctionProto` for a model of an operator set.
    pub(super) fn function(self, opset: u32) -> Vec<u8> {
        let groups = self.inputs().contains(&Part::Indices);
        let (values, scale): (&[Line], &[Line]) = match self.scaled() {
            true => (SCALED_VALUES, SCALE),
            false => (VALUES, &[]),
        };
        let body = [values, if groups { GROUPS } else { BITMASK }, scale].concat();
        let output = body.last().map_or("", |line| line.0);
        let mut out = Vec::new();
        put_bytes(&mut out, 1, self.name().as_bytes());
        self.inputs().iter().for_each(|part| put_bytes(&mut out, 4, part.name().as_bytes()));
        put_bytes(&mut out, 5, output.as_bytes());
        put_bytes(&mut out, 6, TO.as_bytes());
        let used = |name: &str| body.iter().any(|line| line.2.split(' ').any(|input| input == name));
        for (name, dtype, dims, bytes) in constants().into_iter().filter(|c| used(c.0)) {
            put_bytes(&mut out, 7, &constant(name, dtype, dims, &bytes));
        }
        body.iter().for_each(|line| put_bytes(&mut out, 7, &node(line)));
        put_bytes(&mut out, 8, self.about().as_bytes());
        let mut import = Vec::new();
        put_bytes(&mut import, 1, b"");
        put_int(&mut import, 2, opset.into());
        put_bytes(&mut out, 9, &import);
        put_bytes(&mut out, 10, DOMAIN.as_bytes());
        out
    }

    /// Whether a function of a file does what the one written here does: node by node the same, whatever node names,
    /// doc strings and field order. Where it does not, other runtimes get other weights.
    pub(super) fn is(self, found: &FunctionProto) -> bool {
        let opset =
            found.opset_import.iter().find(|import| import.domain.as_deref().unwrap_or_default().is_empty());
        let opset = opset.and_then(|import| u32::try_from(import.version?).ok());
        let own = opset.map(|opset| FunctionProto::decode(Bytes::from(self.function(opset))));
        let Some(Ok(own)) = own else { return false };
        let same_head = found.input == own.input
            && found.output == own.output
            && found.attribute == own.attribute
            && found.attribute_proto.is_empty();
        same_head
            && found.node.len() == own.node.len()
            && found.node.iter().zip(&own.node).all(|(found, own)| match (meaning(found), meaning(own)) {
                (Ok(found), Ok(own)) => found == own,
                _ => false,
            })
    }

    /// What a reader of the file is told.
    fn about(self) -> String {
        let places = match self.inputs()[1] {
            Part::Indices => {
                "of each group of M elements along an axis N stand at `indices`, of \
                              ceil(log2 M) bits each, the lowest first; `pattern` is N, M and the axis"
            }
            _ => {
                "a value stands where a bit of `bitmask` is set, the lowest first; each row of the mask \
                  begins with a byte of its own"
            }
        };
        let scale = if self.scaled() { "; weight = value * scale" } else { "" };
        format!("A dense tensor of `shape` and element type `to` from its packed form: {places}{scale}.")
    }
}

/// A node without what means nothing, and its attributes.
fn meaning(message: &Bytes) -> Result<(NodeProto, Vec<AttributeProto>)> {
    let mut node: NodeProto = decode(message)?;
    let attributes = std::mem::take(&mut node.attribute).iter().map(decode).collect::<Result<_>>()?;
    let domain = node.domain.take().filter(|domain| !normal_domain(domain).is_empty());
    Ok((NodeProto { name: None, metadata_props: Vec::new(), domain, ..node }, attributes))
}

/// An attribute of a body's node.
#[derive(Clone, Copy)]
enum Set {
    No,
    Axis(i64),
    Perm(&'static [i64]),
    To(DType),
    /// The call's `to`.
    ToGiven,
}

/// A node: its output, the operator, the inputs and an attribute.
type Line = (&'static str, &'static str, &'static str, Set);

const VALUES: &[Line] =
    &[("elements", "Cast", "compressed", Set::ToGiven), ("nought", "Cast", "zero", Set::ToGiven)];

const SCALED_VALUES: &[Line] = &[
    ("elements", "Cast", "compressed", Set::To(DType::F32)),
    ("nought", "Cast", "zero", Set::To(DType::F32)),
];

const SCALE: &[Line] =
    &[("scaled", "Mul", "filled scales", Set::No), ("dense", "Cast", "scaled", Set::ToGiven)];

/// The bits of all bytes, as many of each row as it has elements; where a bit is set, the count of bits up to
/// there is the number of its value behind a zero, which the others get.
const BITMASK: &[Line] = &[
    ("bytes", "Cast", "bitmask", Set::To(DType::I32)),
    ("bits", "Gather", "table bytes", Set::No),
    ("padded", "Flatten", "bits", Set::Axis(1)),
    ("len", "ReduceProd", "shape", Set::No),
    ("mask_shape", "Shape", "bitmask", Set::No),
    ("rows", "Slice", "mask_shape zero one", Set::No),
    ("cols", "Div", "len rows", Set::No),
    ("mask", "Slice", "padded zero cols one", Set::No),
    ("flat", "Reshape", "mask minus_one", Set::No),
    ("ones", "Cast", "flat", Set::To(DType::I32)),
    ("counts", "CumSum", "ones first", Set::No),
    ("numbers", "Mul", "counts ones", Set::No),
    ("behind_zero", "Concat", "nought elements", Set::Axis(0)),
    ("spread", "Gather", "behind_zero numbers", Set::No),
    ("filled", "Reshape", "spread shape", Set::No),
];

/// The digits of all indices by which their bits are weighted; the values scattered into their groups, which
/// follow each other as [outer, inner, A], and transposed to [outer, A, inner].
const GROUPS: &[Line] = &[
    ("n", "Slice", "pattern zero one", Set::No),
    ("m", "Slice", "pattern one two", Set::No),
    ("axis", "Slice", "pattern two three", Set::No),
    ("width", "Gather", "widths m", Set::No),
    ("weights", "Slice", "powers zero width", Set::No),
    ("count", "Shape", "compressed", Set::No),
    ("bytes", "Cast", "indices", Set::To(DType::I32)),
    ("bits", "Gather", "table bytes", Set::No),
    ("flat", "Reshape", "bits minus_one", Set::No),
    ("used", "Mul", "count width", Set::No),
    ("all_digits", "Slice", "flat zero used", Set::No),
    ("by_index", "Concat", "count width", Set::Axis(0)),
    ("by_rows", "Reshape", "all_digits by_index", Set::No),
    ("digits", "Cast", "by_rows", Set::To(DType::F32)),
    ("numbers", "MatMul", "digits weights", Set::No),
    ("within", "Cast", "numbers", Set::To(DType::I64)),
    ("by_group", "Concat", "minus_one n", Set::Axis(0)),
    ("places", "Reshape", "within by_group", Set::No),
    ("updates", "Reshape", "elements by_group", Set::No),
    ("groups", "Div", "count n", Set::No),
    ("extents", "Concat", "groups m", Set::Axis(0)),
    ("zeros", "Expand", "nought extents", Set::No),
    ("scattered", "ScatterElements", "zeros places updates", Set::Axis(1)),
    ("extent", "Gather", "shape axis", Set::No),
    ("behind", "Add", "axis one", Set::No),
    ("rest", "Slice", "shape behind end", Set::No),
    ("factors", "Concat", "one rest", Set::Axis(0)),
    ("inner", "ReduceProd", "factors", Set::No),
    ("ordered", "Concat", "minus_one inner extent", Set::Axis(0)),
    ("lanes", "Reshape", "scattered ordered", Set::No),
    ("turned", "Transpose", "lanes", Set::Perm(&[0, 2, 1])),
    ("filled", "Reshape", "turned shape", Set::No),
];

/// A constant: its name, type, dims and little-endian elements.
type Constant = (&'static str, DType, &'static [i64], Vec<u8>);

/// The constants that bodies use. Bits are bytes as long as they can be, since a runtime may hold all steps of all
/// tensors while it folds them. The digits of indices become floats for the sake of the matrix product, which for
/// integers not all runtimes have; numbers below 32 are exact.
fn constants() -> Vec<Constant> {
    let ints = |values: &[i64]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let bits = (0..=u8::MAX).flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1));
    let width = |m| GroupLayout { n: 1, m, axis: 0 }.index_bits() as i64;
    let widths: Vec<i64> = (0..=GroupLayout::LARGEST).map(width).collect();
    vec![
        ("table", DType::U8, &[256, 8], bits.collect()),
        ("zero", DType::I64, &[1], ints(&[0])),
        ("one", DType::I64, &[1], ints(&[1])),
        ("two", DType::I64, &[1], ints(&[2])),
        ("three", DType::I64, &[1], ints(&[3])),
        ("minus_one", DType::I64, &[1], ints(&[-1])),
        ("end", DType::I64, &[1], ints(&[i32::MAX.into()])),
        ("first", DType::I64, &[], ints(&[0])),
        ("widths", DType::I64, &[GroupLayout::LARGEST as i64 + 1], ints(&widths)),
        ("powers", DType::F32, &[5], floats(&[1.0, 2.0, 4.0, 8.0, 16.0])),
    ]
}

fn constant(name: &str, dtype: DType, dims: &[i64], bytes: &[u8]) -> Vec<u8> {
    let mut tensor = Vec::new();
    dims.iter().for_each(|&d| put_int(&mut tensor, 1, d));
    put_int(&mut tensor, 2, dtype.to_onnx().into());
    put_bytes(&mut tensor, 9, bytes);
    let mut attribute = Vec::new();
    put_bytes(&mut attribute, 1, b"value");
    put_bytes(&mut attribute, 5, &tensor);
    put_int(&mut attribute, 20, 4);
    let mut node = Vec::new();
    put_bytes(&mut node, 2, name.as_bytes());
    put_bytes(&mut node, 4, b"Constant");
    put_bytes(&mut node, 5, &attribute);
    node
}

fn node(&(output, op, inputs, set): &Line) -> Vec<u8> {
    let mut node = Vec::new();
    inputs.split(' ').for_each(|input| put_bytes(&mut node, 1, input.as_bytes()));
    put_bytes(&mut node, 2, output.as_bytes());
    put_bytes(&mut node, 4, op.as_bytes());
    let mut attribute = Vec::new();
    match set {
        Set::No => return node,
        Set::Axis(axis) => int_attribute(&mut attribute, "axis", axis),
        Set::To(dtype) => int_attribute(&mut attribute, TO, dtype.to_onnx().into()),
        Set::Perm(perm) => {
            put_bytes(&mut attribute, 1, b"perm");
            perm.iter().for_each(|&p| put_int(&mut attribute, 8, p));
            put_int(&mut attribute, 20, 7);
        }
        Set::ToGiven => {
            put_bytes(&mut attribute, 1, TO.as_bytes());
            put_int(&mut attribute, 20, 2);
            put_bytes(&mut attribute, 21, TO.as_bytes());
        }
    }
    put_bytes(&mut node, 5, &attribute);
    node
}

fn int_attribute(out: &mut Vec<u8>, name: &str, value: i64) {
    put_bytes(out, 1, name.as_bytes());
    put_int(out, 3, value);
    put_int(out, 20, 2);
}

/// The `NodeProto` that expands the tensor `path`, whose parts are named by [`part_name`].
pub(super) fn call(path: &str, spec: &Spec) -> Vec<u8> {
    let unpacker = Unpacker::of(spec);
    let mut node = Vec::new();
    unpacker.inputs().iter().for_each(|&part| put_bytes(&mut node, 1, part_name(path, part).as_bytes()));
    put_bytes(&mut node, 2, path.as_bytes());
    put_bytes(&mut node, 3, format!("{path}.unpack").as_bytes());
    put_bytes(&mut node, 4, unpacker.name().as_bytes());
    let mut to = Vec::new();
    int_attribute(&mut to, TO, spec.dtype.to_onnx().into());
    put_bytes(&mut node, 5, &to);
    put_bytes(&mut node, 7, DOMAIN.as_bytes());
    node
}

/// The name of the initializer that holds a part of a tensor.
pub(super) fn part_name(path: &str, part: Part) -> String {
    format!("{path}.{}", part.name())
}
