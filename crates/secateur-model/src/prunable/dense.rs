//! Weights that stay dense unless they are asked for by name: tables of constants in the place of a
//! weight, the output projection of language models, routers of mixtures of experts.
//!
//! Pruning them costs far more than it gains. A table (the 0…15 by which YOLOv8 turns a distribution
//! into a distance) was never learned; output projections and routers are left out by Wanda
//! (arXiv:2306.11695), SparseGPT (arXiv:2301.00774) and llm-compressor's recipes.

use std::collections::{HashMap, HashSet};

use half::{bf16, f16};

use super::{Entry, PrunableView, Reason, ReasonKind, Status};
use crate::model::Storage;
use crate::{DType, Data, Graph, Model, Node, StoredTensor, TensorId, ValueId, ops};

/// The fewest elements of a table: any two numbers are an arithmetic sequence.
const SHORTEST: usize = 4;

/// The same for types of 16 bits, whose rounding hides more.
const SHORTEST_HALF: usize = 8;

/// Elements up to which a packed tensor is expanded to look at it.
const EXPANDED: usize = 1 << 16;

/// Elements whose values are counted to tell a table from a weight.
const COUNTED: usize = 1 << 16;

/// What language models call the layer from hidden states to logits. Other networks have layers of
/// these names too: one counts where it has the shape of the token embedding. `lm_head` says it alone.
const OUTPUT_PROJECTIONS: &[&str] = &[
    "embed_out",
    "output",
    "output_layer",
    "output_projection",
    "unembed",
    "decoder",
    "head",
    "logits",
    "to_logits",
    "generator",
    "proj_out",
];

/// What models call a router where experts stand beside it; a `gate_proj` is half of a gated perceptron.
const GATES: &[&str] = &["gate", "shared_expert_gate"];

/// Leaves those weights dense that are to stay so. `products` has, for a tensor that is only multiplied
/// with other stored tensors, the first of those, and whether it is the product's left operand.
pub(super) fn leave_dense(
    model: &Model,
    entries: &mut [Entry],
    products: &HashMap<TensorId, (TensorId, bool)>,
) {
    let surroundings = Surroundings::of(model, entries);
    for entry in entries {
        let Status::Prunable(view) = &entry.status else { continue };
        let stored = model.tensor(entry.tensor);
        let product = products.get(&entry.tensor).and_then(|&(other, left)| {
            let other = model.tensor(other);
            is_input(stored, other, left).then(|| {
                format!("a constant that is multiplied with the weight `{}`: no weight itself", other.path)
            })
        });
        let table = || table(stored).map(|what| format!("a table of constants ({what})"));
        let found = product
            .or_else(table)
            .map(|text| (ReasonKind::Table, text))
            .or_else(|| surroundings.named(&view.module, stored));
        if let Some((kind, text)) = found {
            entry.status = Status::LeftDense(view.clone(), Reason { kind, text });
        }
    }
}

/// Leaves those layers dense whose output channels are the model's outputs, for who prunes output channels: each is
/// an answer, such as a class, and where its channel is zero the model never gives it. Between such a layer and the
/// output stands no other layer, and no sum with what another layer gives.
///
/// Where all layers are such, none stays dense: nothing else could be pruned. Nor where there is no graph.
pub fn leave_outputs_dense(model: &Model, entries: &mut [Entry]) {
    let Some(graph) = &model.graph else { return };
    let giving = Flow::of(graph).layers_before_outputs();
    let output = |view: &PrunableView| {
        let others = view.shared.iter().map(|(node, _)| node.as_str());
        others.chain([view.node.as_str()]).find_map(|node| giving.get(node).copied())
    };
    if entries.iter().filter_map(Entry::prunable).all(|view| output(view).is_some()) {
        return;
    }
    for entry in entries {
        let Status::Prunable(view) = &entry.status else { continue };
        if let Some(name) = output(view) {
            let text = format!("the layer whose output channels are the model's output `{name}`");
            entry.status = Status::LeftDense(view.clone(), Reason { kind: ReasonKind::Output, text });
        }
    }
}

/// Where the values of a graph come from.
struct Flow<'a> {
    graph: &'a Graph,
    producers: Vec<Option<crate::NodeId>>,
    /// Of each value, the layers that it comes from without another one in between.
    sources: Vec<Origin>,
}

/// Layers that a value comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    None,
    /// The node of this place.
    One(usize),
    Several,
}

impl Origin {
    fn and(self, other: Origin) -> Origin {
        match (self, other) {
            (one, Origin::None) | (Origin::None, one) => one,
            (one, other) if one == other => one,
            _ => Origin::Several,
        }
    }
}

impl<'a> Flow<'a> {
    fn of(graph: &'a Graph) -> Self {
        let mut sources = vec![Origin::None; graph.values.len()];
        for (place, node) in graph.nodes.iter().enumerate() {
            let inputs = node.inputs.iter().flatten().map(|input| sources[input.index()]);
            let source =
                if is_layer(node) { Origin::One(place) } else { inputs.fold(Origin::None, Origin::and) };
            node.outputs.iter().flatten().for_each(|output| sources[output.index()] = source);
        }
        Flow { graph, producers: graph.producers(), sources }
    }

    /// The layers from which outputs come, by the labels of their nodes, each with the name of one of its outputs.
    fn layers_before_outputs(&self) -> HashMap<&'a str, &'a str> {
        let mut found = HashMap::new();
        let mut seen = HashSet::new();
        for &output in &self.graph.outputs {
            let name = self.graph.value_name(output);
            let mut left: Vec<ValueId> = vec![output];
            while let Some(value) = left.pop() {
                let Some(producer) = self.producers[value.index()].filter(|_| seen.insert(value)) else {
                    continue;
                };
                let node = &self.graph.nodes[producer.0 as usize];
                let sum = ops::find(node).is_some_and(|op| op.sums);
                if is_layer(node) {
                    found.entry(node.label()).or_insert(name);
                } else if !(sum && self.sources[value.index()] == Origin::Several) {
                    left.extend(node.inputs.iter().flatten());
                }
            }
        }
        found
    }
}

/// Whether a node's operator takes weights.
fn is_layer(node: &Node) -> bool {
    ops::find(node).is_some_and(|op| op.weights.is_some())
}

/// What stands beside a layer and says what its name means.
struct Surroundings<'a> {
    /// The shapes of embeddings.
    embeddings: HashSet<&'a [usize]>,
    /// The modules that have experts.
    experts: HashSet<String>,
}

impl<'a> Surroundings<'a> {
    fn of(model: &'a Model, entries: &[Entry]) -> Self {
        let is_embedding =
            |e: &&Entry| matches!(&e.status, Status::Fixed(r) if r.kind == ReasonKind::Embedding);
        let embeddings = entries.iter().filter(is_embedding).map(|e| &*model.tensor(e.tensor).shape);
        let paths = model.tensors.keys().map(String::as_str);
        let modules = entries.iter().filter_map(|e| Some(e.prunable()?.module.as_str()));
        let mut experts = HashSet::new();
        for path in paths.chain(modules) {
            if let Some(at) = path.find(".experts") {
                experts.insert(path[..at].to_string());
            }
        }
        Surroundings { embeddings: embeddings.collect(), experts }
    }

    /// Why a layer stays dense for what its module is called.
    fn named(&self, module: &str, stored: &StoredTensor) -> Option<(ReasonKind, String)> {
        if stored.shape.len() != 2 {
            return None;
        }
        let own = stored.path.rsplit_once('.').map_or("", |(module, _)| module);
        [module, own].into_iter().find_map(|module| {
            let name = module.rsplit('.').next().unwrap_or_default();
            if name == "lm_head" || (OUTPUT_PROJECTIONS.contains(&name) && self.is_vocabulary(stored)) {
                return Some((ReasonKind::OutputProjection, "a language model's output projection".into()));
            }
            self.is_router(module)
                .then(|| (ReasonKind::Router, "the router of a mixture of experts".to_string()))
        })
    }

    /// Whether a matrix has the shape of an embedding, stored either way round.
    fn is_vocabulary(&self, stored: &StoredTensor) -> bool {
        let &[rows, columns] = &stored.shape[..] else { return false };
        self.embeddings.contains(&[rows, columns][..]) || self.embeddings.contains(&[columns, rows][..])
    }

    fn is_router(&self, module: &str) -> bool {
        let mut parts = module.rsplit('.');
        let (last, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if last == "router" || second == "router" {
            return true;
        }
        let gate = match last {
            "wg" => module.strip_suffix(".wg").filter(|_| second == "gate"),
            _ => Some(module).filter(|_| GATES.contains(&last)),
        };
        let block = gate.and_then(|gate| gate.rsplit_once('.')).map(|(block, _)| block);
        block.is_some_and(|block| self.experts.contains(block))
    }
}

/// Whether a factor of a product of two constants is its input and the other one its weight. A table
/// has few values; a learned weight nearly as many as elements. Where that does not tell, the left
/// operand is the input, as frameworks write linear layers, unless its name says weight.
fn is_input(stored: &StoredTensor, other: &StoredTensor, left: bool) -> bool {
    match (repeats(stored), repeats(other)) {
        (true, false) => true,
        (false, true) => false,
        _ => {
            let name = stored.path.rsplit('.').next().unwrap_or_default();
            left && !name.contains("weight") && !stored.path.contains("lora")
        }
    }
}

/// Values that a table of two-byte elements has at most.
const TABLE_VALUES: usize = 256;

/// Whether a tensor is a table, or holds each of its values other than 0 four times on average. Of two bytes there
/// are so few values that learned weights repeat theirs too: a table has far fewer.
fn repeats(stored: &StoredTensor) -> bool {
    let Some(elements) = Elements::of(stored) else { return false };
    let mut values = HashSet::new();
    let mut count = 0;
    for value in (0..stored.len().min(COUNTED)).map(|i| elements.at(i)).filter(|&v| v != 0.0) {
        values.insert(value.to_bits());
        count += 1;
    }
    let few = stored.dtype.bits() > 16 || values.len() <= TABLE_VALUES;
    (count >= SHORTEST && values.len() * 4 <= count && few) || table(stored).is_some()
}

/// What a tensor is a table of; `None` for weights. Stops at the first element that no table has, so that
/// of a large weight only the beginning is read.
pub(super) fn table(stored: &StoredTensor) -> Option<String> {
    let elements = Elements::of(stored)?;
    if stored.len() < SHORTEST {
        return None;
    }
    zeros_and_ones(&elements, stored).or_else(|| sequence(&elements, stored))
}

/// Zeros and at least one 1, which is no value that learning ends at.
fn zeros_and_ones(elements: &Elements<'_>, stored: &StoredTensor) -> Option<String> {
    let mut ones = 0usize;
    for value in (0..elements.len).map(|i| elements.at(i)) {
        match value {
            0.0 => {}
            1.0 => ones += 1,
            _ => return None,
        }
    }
    if ones == 0 {
        return None;
    }
    let identity = || match stored.shape[..] {
        [rows, columns] if rows == columns && ones == rows && elements.len == stored.len() => {
            (0..rows).all(|i| elements.at(i * rows + i) == 1.0)
        }
        _ => false,
    };
    let others = if identity() { "an identity matrix" } else { "zeros and ones" };
    Some(if ones == stored.len() { "ones" } else { others }.to_string())
}

/// Steps of one size along an axis, in every line along it.
fn sequence(elements: &Elements<'_>, stored: &StoredTensor) -> Option<String> {
    let (shortest, tolerance) = match stored.dtype {
        DType::F64 => (SHORTEST, 4.0 * f64::EPSILON),
        DType::F32 => (SHORTEST, 4.0 * f64::from(f32::EPSILON)),
        DType::F16 => (SHORTEST_HALF, f16::EPSILON.to_f64()),
        _ => (SHORTEST_HALF, bf16::EPSILON.to_f64()),
    };
    if elements.len != stored.len() {
        return None;
    }
    let mut inner = stored.len();
    for (axis, &extent) in stored.shape.iter().enumerate() {
        inner /= extent;
        if extent < shortest {
            continue;
        }
        let line = |start: usize| (0..extent).map(move |i| elements.at(start + i * inner));
        let mut steps = false;
        let mut starts = (0..stored.len() / (extent * inner))
            .flat_map(|outer| (0..inner).map(move |i| outer * extent * inner + i));
        let all = starts.all(|start| {
            let (first, last) = (elements.at(start), elements.at(start + (extent - 1) * inner));
            let step = (last - first) / (extent - 1) as f64;
            steps |= step != 0.0;
            let near = tolerance * first.abs().max(last.abs());
            step.is_finite()
                && (0u32..).zip(line(start)).all(|(i, v)| (v - (first + f64::from(i) * step)).abs() <= near)
        });
        if all && steps {
            let (first, second) = (elements.at(0), elements.at(inner));
            let last = elements.at((extent - 1) * inner);
            return Some(format!("{first}, {second}, … {last} along axis {axis}"));
        }
    }
    None
}

/// The elements of a stored float tensor, decoded where they stand.
struct Elements<'a> {
    dtype: DType,
    source: Held<'a>,
    /// How many there are: of a large packed tensor those that are stored.
    len: usize,
}

enum Held<'a> {
    Bytes(&'a [u8]),
    Data(&'a Data),
    Owned(Data),
}

impl<'a> Elements<'a> {
    /// `None` where the tensor is damaged, or packed in another type and large.
    fn of(stored: &'a StoredTensor) -> Option<Self> {
        let dtype = stored.dtype;
        if !dtype.is_prunable() {
            return None;
        }
        let len = crate::tensor::checked_len(&stored.shape)?;
        match &stored.storage {
            Storage::Bytes(bytes) => (dtype.bytes_for(len) == Some(bytes.len())).then_some(Elements {
                dtype,
                source: Held::Bytes(bytes),
                len,
            }),
            Storage::Data(data) | Storage::Computed(data, _) => (data.len() == len && data.dtype() == dtype)
                .then_some(Elements { dtype, source: Held::Data(data), len }),
            Storage::Lazy(_) => {
                let (_, data) = stored.load().ok()?.into_parts();
                Some(Elements { dtype, source: Held::Owned(data), len })
            }
            Storage::Packed(packed) if len <= EXPANDED => {
                Some(Elements { dtype, source: Held::Owned(packed.unpack()), len })
            }
            Storage::Packed(packed) => (packed.value_type() == dtype).then(|| Elements {
                dtype,
                source: Held::Bytes(packed.values()),
                len: packed.stored(),
            }),
        }
    }

    fn at(&self, index: usize) -> f64 {
        let of_data = |data: &Data| match data {
            Data::F32(v) => v[index].into(),
            Data::F64(v) => v[index],
            Data::F16(v) => v[index].into(),
            Data::BF16(v) => v[index].into(),
            _ => f64::NAN,
        };
        match &self.source {
            Held::Data(data) => of_data(data),
            Held::Owned(data) => of_data(data),
            Held::Bytes(bytes) => {
                fn cut<const N: usize>(bytes: &[u8], index: usize) -> [u8; N] {
                    bytes.as_chunks::<N>().0[index]
                }
                match self.dtype {
                    DType::F64 => f64::from_le_bytes(cut(bytes, index)),
                    DType::F16 => f16::from_le_bytes(cut(bytes, index)).into(),
                    DType::BF16 => bf16::from_le_bytes(cut(bytes, index)).into(),
                    _ => f32::from_le_bytes(cut(bytes, index)).into(),
                }
            }
        }
    }
}
