//! What is in a model: layers, shapes, costs, zeros, and what can be pruned.

use secateur_model::infer::{Binding, Inference};
use secateur_model::prunable::{self, ReasonKind, Status};
use secateur_model::{Data, Model, Result, StoredTensor, TensorId};
use serde::Serialize;

use crate::report::{Count, Histogram};

/// Weights up to which zeros are counted and histograms drawn by default: more would mean reading
/// gigabytes to answer a glance.
pub const SCAN_LIMIT: usize = 1 << 28;

/// A model at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// File name.
    pub model: String,
    /// `ONNX`, with IR version and operator sets.
    pub format: String,
    /// Who wrote the file.
    pub producer: String,
    /// Inputs with their shapes as bound for costs.
    pub inputs: Vec<ValueInfo>,
    /// Outputs.
    pub outputs: Vec<ValueInfo>,
    /// Nodes by operator, most first.
    pub operators: Vec<(String, usize)>,
    /// Operators that the table does not know, so that the runtime cannot run them.
    pub unknown_operators: Vec<String>,
    /// Tensors in the file's order.
    pub tensors: Vec<TensorInfo>,
    /// Parameters: elements of float tensors that are not folded from shapes.
    pub parameters: Count,
    /// Parameters that can be pruned.
    pub prunable: Count,
    /// Multiply–accumulates for one sample; `None` where shapes are open.
    pub macs: Option<u64>,
    /// Bytes that the tensors take as stored.
    pub tensor_bytes: u64,
    /// What inference stumbled over.
    pub problems: Vec<String>,
    /// Metadata of the file.
    pub metadata: Vec<(String, String)>,
    /// Whether zeros were left uncounted because there are too many weights.
    pub unscanned: bool,
}

/// An input or output.
#[derive(Clone, Debug, Serialize)]
pub struct ValueInfo {
    /// The name.
    pub name: String,
    /// The element type.
    pub dtype: String,
    /// The shape as declared, extents that are open by their names.
    pub declared: String,
    /// The shape for the given binding.
    pub shape: Option<Vec<usize>>,
}

/// A tensor of the model.
#[derive(Clone, Debug, Serialize)]
pub struct TensorInfo {
    /// The path.
    pub path: String,
    /// The operator that owns it, where it can be pruned.
    pub op: Option<String>,
    /// The node that owns it.
    pub node: Option<String>,
    /// The module path.
    pub module: Option<String>,
    /// The shape.
    pub shape: Vec<usize>,
    /// The element type.
    pub dtype: String,
    /// Elements that are not zero, of all; `nonzero` equals `total` where they were not counted.
    pub count: Count,
    /// Multiply–accumulates of the node for one sample.
    pub macs: Option<u64>,
    /// Why it cannot be pruned.
    pub reason: Option<String>,
    /// That in a word or two.
    pub reason_kind: Option<String>,
    /// The distribution of its weights, where it can be pruned.
    pub histogram: Option<Histogram>,
}

/// How to look at a model.
#[derive(Clone, Debug)]
pub struct InspectOptions {
    /// How open extents are bound for shapes and costs.
    pub binding: Binding,
    /// Count zeros and draw histograms whatever the size.
    pub scan: bool,
}

/// Looks at a model.
///
/// # Errors
/// Where the model has no graph, or a tensor cannot be decoded.
pub fn inspect(model: &Model, options: &InspectOptions) -> Result<Inspection> {
    let graph = model.graph()?;
    let inference = Inference::of(model, &options.binding)?;
    let entries = prunable::view(model)?;
    let weights: usize = entries.iter().map(|e| model.tensor(e.tensor).len()).sum();
    let scan = options.scan || weights <= SCAN_LIMIT;
    let macs = layer_macs(model, &inference);
    let mut tensors = Vec::with_capacity(entries.len());
    let (mut parameters, mut prunable) = (Count::default(), Count::default());
    let mut tensor_bytes = 0;
    for entry in &entries {
        let stored = model.tensor(entry.tensor);
        tensor_bytes += stored.byte_len() as u64;
        let total = stored.len() as u64;
        let mut info = TensorInfo {
            path: stored.path.clone(),
            op: None,
            node: None,
            module: None,
            shape: stored.shape.clone(),
            dtype: stored.dtype.to_string(),
            count: Count { nonzero: total, total },
            macs: None,
            reason: None,
            reason_kind: None,
            histogram: None,
        };
        let float = stored.dtype.is_prunable();
        if float && scan {
            info.count.nonzero = nonzeros(stored)?;
        }
        if float {
            parameters.nonzero += info.count.nonzero;
            parameters.total += total;
        }
        match &entry.status {
            Status::Prunable(view) => {
                info.op = Some(view.op_type.clone());
                info.node = Some(view.node.clone());
                info.module = Some(view.module.clone());
                info.macs = macs.iter().find(|(t, _)| *t == entry.tensor).and_then(|(_, m)| *m);
                if scan {
                    info.histogram = Some(Histogram::of(&stored.load()?.to_f32s()?, Histogram::BINS));
                }
                prunable.nonzero += info.count.nonzero;
                prunable.total += total;
            }
            Status::Fixed(reason) => {
                info.reason = Some(reason.text.clone());
                info.reason_kind = Some(reason_name(reason.kind).to_string());
            }
        }
        tensors.push(info);
    }
    let mut operators: Vec<(String, usize)> = Vec::new();
    let mut unknown_operators = Vec::new();
    for node in &graph.nodes {
        let name = if node.domain.is_empty() {
            node.op_type.clone()
        } else {
            format!("{}.{}", node.domain, node.op_type)
        };
        if secateur_model::ops::find(node).is_none()
            && node.graphs().next().is_none()
            && !unknown_operators.contains(&name)
        {
            unknown_operators.push(name.clone());
        }
        match operators.iter_mut().find(|(n, _)| *n == name) {
            Some((_, count)) => *count += 1,
            None => operators.push((name, 1)),
        }
    }
    operators.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let (format, producer, metadata) = match &model.source {
        secateur_model::io::Source::Onnx(source) => {
            let opsets: Vec<String> = source
                .opsets
                .iter()
                .map(|(d, v)| format!("{} {v}", if d.is_empty() { "ai.onnx" } else { d }))
                .collect();
            let format =
                format!("ONNX, IR version {}, operator sets {}", source.ir_version, opsets.join(", "));
            (format, source.producer.clone(), source.metadata.clone())
        }
        _ => ("in memory".to_string(), String::new(), Vec::new()),
    };
    let open = inference.macs.iter().any(Option::is_none);
    Ok(Inspection {
        model: crate::file_name(model),
        format,
        producer,
        inputs: graph.inputs.iter().map(|&id| value_info(graph, id, &inference)).collect(),
        outputs: graph.outputs.iter().map(|&id| value_info(graph, id, &inference)).collect(),
        operators,
        unknown_operators,
        tensors,
        parameters,
        prunable,
        macs: (!open).then(|| inference.macs.iter().flatten().sum()),
        tensor_bytes,
        problems: inference.problems.iter().map(|(_, p)| p.clone()).collect(),
        metadata,
        unscanned: !scan,
    })
}

/// A reason in a word or two.
fn reason_name(kind: ReasonKind) -> &'static str {
    match kind {
        ReasonKind::Bias => "bias",
        ReasonKind::Embedding => "embedding",
        ReasonKind::Normalisation => "normalisation",
        ReasonKind::Integer => "integers (shapes, axes, indices)",
        ReasonKind::Quantised => "quantised: not prunable yet",
        ReasonKind::Dtype => "element type that cannot be scored",
        ReasonKind::UnknownOperator => "used by an operator that is not known",
        ReasonKind::Unused => "used by nothing",
        ReasonKind::Mask => "mask of another tensor",
        ReasonKind::Tied => "the same elements as another tensor",
        ReasonKind::Operand => "other operand",
    }
}

/// Multiply–accumulates for one sample of the nodes that use each prunable tensor.
pub(crate) fn layer_macs(model: &Model, inference: &Inference) -> Vec<(TensorId, Option<u64>)> {
    let Some(graph) = &model.graph else { return Vec::new() };
    let Ok(entries) = prunable::view(model) else { return Vec::new() };
    entries
        .iter()
        .filter_map(|e| {
            let view = e.prunable()?;
            let cost = |label: &str| -> Option<u64> {
                let at = graph.nodes.iter().position(|n| n.label() == label)?;
                inference.macs.get(at).copied().flatten()
            };
            let own = cost(&view.node);
            let shared: u64 = view.shared.iter().filter_map(|(label, _)| cost(label)).sum();
            Some((e.tensor, own.map(|m| m + shared)))
        })
        .collect()
}

/// Elements that are not zero.
pub(crate) fn nonzeros(stored: &StoredTensor) -> Result<u64> {
    Ok(count_nonzero(stored.load()?.data()))
}

/// Elements of float data that are not zero; all elements of other data.
pub(crate) fn count_nonzero(data: &Data) -> u64 {
    match data {
        Data::F32(v) => v.iter().filter(|x| **x != 0.0).count() as u64,
        Data::F64(v) => v.iter().filter(|x| **x != 0.0).count() as u64,
        Data::F16(v) => v.iter().filter(|x| x.to_bits() & 0x7fff != 0).count() as u64,
        Data::BF16(v) => v.iter().filter(|x| x.to_bits() & 0x7fff != 0).count() as u64,
        other => other.len() as u64,
    }
}

fn value_info(
    graph: &secateur_model::Graph,
    id: secateur_model::ValueId,
    inference: &Inference,
) -> ValueInfo {
    use secateur_model::graph::Dim;
    let value = &graph.values[id.index()];
    let declared = value.shape.as_ref().map_or_else(
        || "?".to_string(),
        |dims| {
            let names: Vec<String> = dims
                .iter()
                .map(|d| match d {
                    Dim::Known(n) => n.to_string(),
                    Dim::Symbol(s) => s.clone(),
                    Dim::Unknown => "?".to_string(),
                })
                .collect();
            format!("[{}]", names.join(", "))
        },
    );
    let fact = inference.facts[id.index()].as_ref();
    ValueInfo {
        name: value.name.clone(),
        dtype: value.dtype.or(fact.and_then(|f| f.dtype)).map_or("?", |d| d.name()).to_string(),
        declared,
        shape: fact.and_then(|f| f.shape.clone()),
    }
}
