//! What is in a model: layers, shapes, costs, zeros, and what can be pruned.

mod pattern;

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;
use secateur_model::infer::{Binding, Inference};
use secateur_model::io::Source;
use secateur_model::io::onnx::OnnxSource;
use secateur_model::io::safetensors::SafetensorsSource;
use secateur_model::prunable::{self, Entry, Status, parameters};
use secateur_model::{Error, ErrorKind, Graph, Model, Patch, Result, ResultExt, TensorId, ValueId};
use serde::Serialize;

use crate::files::pack;
use crate::files::size;
use crate::measure::{Bytes, Count, Histogram, layer_macs, remaining_macs};
use crate::names;
use crate::prune::coverage::reason_name;
use crate::prune::masks::Masks;
use crate::prune::weights::Weights;

pub use pattern::{PatternFound, pattern_found};

/// Zeros are counted and histograms drawn by default up to this many weights: more would mean reading gigabytes.
pub const SCAN_LIMIT: usize = 1 << 28;

/// Histograms are drawn for up to this many layers; more would take most of the memory.
pub const DRAWN_LIMIT: usize = 10_000;

/// A summary of a model.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// File name.
    pub model: String,
    /// The kind of file: for ONNX with IR version and operator sets.
    pub format: String,
    /// Who wrote the file.
    pub producer: String,
    /// Inputs with their shapes as bound for costs.
    pub inputs: Vec<ValueInfo>,
    /// Outputs.
    pub outputs: Vec<ValueInfo>,
    /// Nodes by operator, most frequent first.
    pub operators: Vec<(String, usize)>,
    /// Operators that the runtime cannot run.
    pub unknown_operators: Vec<String>,
    /// Tensors in the file's order.
    pub tensors: Vec<TensorInfo>,
    /// Parameters of any element type: what a quantised tensor stands for counts, what lies beside a
    /// checkpoint's state dict does not.
    pub parameters: Count,
    /// Parameters that can be pruned.
    pub prunable: Count,
    /// Multiply–accumulates for one sample; `None` where shapes are open.
    pub macs: Option<u64>,
    /// Those with a weight that is not zero; `None` where shapes are open or zeros were not counted.
    pub effective_macs: Option<u64>,
    /// Bytes that the tensors take as stored.
    pub tensor_bytes: u64,
    /// The sizes of the file, where they were asked for.
    pub bytes: Option<Bytes>,
    /// What shape inference could not resolve.
    pub problems: Vec<String>,
    /// Metadata of the file.
    pub metadata: Vec<(String, String)>,
    /// Whether zeros were left uncounted because there are too many weights.
    pub unscanned: bool,
    /// Nodes that contradict their operators whatever the binding: where an open extent is assumed, a contradiction
    /// may come from that.
    #[serde(skip)]
    pub contradictions: Vec<String>,
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
    /// What tables call it ([`crate::layer_names()`]); empty where it cannot be pruned.
    #[serde(skip)]
    pub name: String,
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
    /// The same in a word or two.
    pub reason_kind: Option<String>,
    /// The distribution of its weights, where it can be pruned and there are at most [`DRAWN_LIMIT`] such.
    pub histogram: Option<Histogram>,
    /// Which patterns its zeros form, where it can be pruned and has any.
    pub pattern: Option<PatternFound>,
    /// What it takes by itself, where it can be pruned and sizes were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
}

impl Inspection {
    /// Whether the file says how tensors are used: a checkpoint does not.
    pub fn has_graph(&self) -> bool {
        !self.operators.is_empty()
    }

    /// Checks that no node contradicts its operator.
    ///
    /// # Errors
    /// `Input`, with the first such node.
    pub fn check(&self) -> Result<()> {
        match &self.contradictions[..] {
            [] => Ok(()),
            [only] => Err(Error::input(only.clone())),
            [first, more @ ..] => Err(Error::input(format!("{first}; and {} more such nodes", more.len()))),
        }
    }

    /// The tensors that can be pruned.
    pub fn layers(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.iter().filter(|t| t.reason.is_none())
    }
}

/// What to inspect.
#[derive(Clone, Debug)]
pub struct InspectOptions {
    /// How dynamic extents are bound for shapes and costs.
    pub binding: Binding,
    /// Count zeros and draw histograms whatever the size.
    pub scan: bool,
    /// Measure the sizes of the file too, compressed and not: that takes far longer than everything else, and
    /// is left out where zeros are not counted.
    pub sizes: bool,
}

/// Inspects a model.
///
/// Zeros are counted as the masks leave the weights.
///
/// # Errors
/// Where a tensor cannot be decoded.
pub fn inspect(model: &Model, masks: &Masks, options: &InspectOptions) -> Result<Inspection> {
    let nothing = Graph::default();
    let graph = model.graph.as_ref().unwrap_or(&nothing);
    let inference = match &model.graph {
        Some(_) => Some(Inference::of(model, &options.binding)?),
        None => None,
    };
    let entries = prunable::view(model)?;
    let weights: usize = entries.iter().map(|e| model.tensor(e.tensor).len()).sum();
    let scan = options.scan || weights <= SCAN_LIMIT;
    let view = View {
        model,
        masks,
        effective: masks.effective(model),
        macs: inference.as_ref().map(|found| layer_macs(graph, &entries, found)).unwrap_or_default(),
        names: names::names(model, &entries),
        scan,
        draw: scan && entries.iter().filter_map(Entry::prunable).count() <= DRAWN_LIMIT,
    };
    let mut tensors = entries.iter().map(|entry| view.tensor(entry)).collect::<Result<Vec<_>>>()?;
    let (mut all_parameters, mut prunable) = (Count::default(), Count::default());
    for (info, held) in tensors.iter().zip(parameters(model, &entries)) {
        if held > 0 {
            all_parameters.nonzero += held - (info.count.total - info.count.nonzero);
            all_parameters.total += held;
        }
        if info.reason.is_none() {
            prunable.nonzero += info.count.nonzero;
            prunable.total += info.count.total;
        }
    }
    let stored = entries.iter().map(|entry| model.tensor(entry.tensor));
    let tensor_bytes = stored.filter(|stored| stored.parts().is_empty()).map(|s| s.byte_len() as u64).sum();
    let (operators, unknown_operators) = operators(graph);
    let (format, producer) = describe(&model.source);
    let all_macs = inference.as_ref().and_then(Inference::total_macs);
    let layers = || tensors.iter().filter_map(|t| Some((t.macs?, t.count)));
    let effective_macs = all_macs.filter(|_| scan).map(|all| remaining_macs(all, layers()));
    let bytes = if options.sizes && scan {
        Some(sizes(model, &view.effective, &entries, &mut tensors)?)
    } else {
        None
    };
    let info = |&id: &ValueId| Some(value_info(graph, id, inference.as_ref()?));
    Ok(Inspection {
        model: names::file_name(model),
        format,
        producer,
        inputs: graph.inputs.iter().filter_map(info).collect(),
        outputs: graph.outputs.iter().filter_map(info).collect(),
        operators,
        unknown_operators,
        tensors,
        parameters: all_parameters,
        prunable,
        macs: all_macs,
        effective_macs,
        tensor_bytes,
        bytes,
        problems: inference.iter().flat_map(|i| &i.problems).map(|p| p.text.clone()).collect(),
        metadata: model.source.metadata().to_vec(),
        unscanned: !scan,
        contradictions: inference.iter().filter(|i| !i.assumed).flat_map(contradictions).collect(),
    })
}

/// What the inspection of every tensor uses.
struct View<'m> {
    model: &'m Model,
    masks: &'m Masks,
    /// The model with its masks applied.
    effective: Patch,
    macs: BTreeMap<TensorId, Option<u64>>,
    names: HashMap<TensorId, String>,
    /// Whether zeros are counted.
    scan: bool,
    /// Whether histograms are drawn.
    draw: bool,
}

impl View<'_> {
    /// What is known of a tensor.
    fn tensor(&self, entry: &Entry) -> Result<TensorInfo> {
        let stored = self.model.tensor(entry.tensor);
        let total = stored.len() as u64;
        let mut info = TensorInfo {
            path: stored.path.clone(),
            name: self.names.get(&entry.tensor).cloned().unwrap_or_default(),
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
            pattern: None,
            bytes: None,
        };
        if self.scan && stored.dtype.is_prunable() {
            let dense = stored.dense();
            let weights = Weights::of(&dense)?;
            let weights = match self.masks.masks.get(&entry.tensor) {
                Some(mask) => weights.masked_by(mask).at_tensor(&stored.path)?,
                None => weights,
            };
            info.count.nonzero = (weights.len() - weights.zeros()) as u64;
            if let Some(view) = entry.prunable().filter(|_| info.count.nonzero < total) {
                info.pattern = Some(pattern_found(&weights, view, &stored.shape));
            }
        }
        match &entry.status {
            Status::Prunable(view) => {
                info.op = Some(view.op_type.clone());
                info.node = Some(view.node.clone());
                info.module = Some(view.module.clone());
                info.macs = self.macs.get(&entry.tensor).copied().flatten();
                if self.draw {
                    let weights = self.effective.load(self.model, entry.tensor)?.to_f32s()?;
                    info.histogram = Some(Histogram::of(&weights, Histogram::BINS));
                }
            }
            Status::LeftDense(_, reason) | Status::Fixed(reason) => {
                info.reason = Some(reason.text.clone());
                info.reason_kind = Some(reason_name(reason.kind).to_string());
            }
        }
        Ok(info)
    }
}

/// The operators of a graph with how many nodes each has, most first, and those that the table does not know.
fn operators(graph: &Graph) -> (Vec<(String, usize)>, Vec<String>) {
    let mut operators: Vec<(String, usize)> = Vec::new();
    let mut unknown = Vec::new();
    for node in &graph.nodes {
        let name = if node.domain.is_empty() {
            node.op_type.clone()
        } else {
            format!("{}.{}", node.domain, node.op_type)
        };
        let is_known = secateur_model::ops::find(node).is_some() || node.graphs().next().is_some();
        if !is_known && !unknown.contains(&name) {
            unknown.push(name.clone());
        }
        match operators.iter_mut().find(|(n, _)| *n == name) {
            Some((_, count)) => *count += 1,
            None => operators.push((name, 1)),
        }
    }
    operators.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    (operators, unknown)
}

fn contradictions(inference: &Inference) -> impl Iterator<Item = String> {
    let wrong = inference.problems.iter().filter(|p| p.kind == ErrorKind::Input);
    wrong.map(|p| p.text.clone())
}

/// The sizes of the file as it is, and in the infos those of each tensor that can be pruned, as masks leave it.
fn sizes(model: &Model, effective: &Patch, entries: &[Entry], infos: &mut [TensorInfo]) -> Result<Bytes> {
    let saved = pack::saved(model, effective)?.tensors;
    let layers: Vec<(&Entry, &mut TensorInfo)> =
        entries.iter().zip(infos.iter_mut()).filter(|(_, info)| info.reason.is_none()).collect();
    let counts: Vec<(TensorId, Count)> =
        layers.iter().map(|(entry, info)| (entry.tensor, info.count)).collect();
    layers.into_par_iter().try_for_each(|(entry, info)| {
        let packed = pack::written_len(model, effective, entry.tensor)
            - saved.get(&entry.tensor).copied().unwrap_or(0);
        info.bytes = Some(size::tensor_bytes(model, effective, entry.tensor, info.count, packed)?);
        Ok::<_, secateur_model::Error>(())
    })?;
    size::bytes(model, &Patch::new(), &[], counts.into_iter())
}

/// The kind of a file, and who wrote it.
fn describe(source: &Source) -> (String, String) {
    if let Some(source) = source.downcast::<OnnxSource>() {
        let opsets = source.opsets.iter();
        let opsets = opsets.map(|(d, v)| format!("{} {v}", if d.is_empty() { "ai.onnx" } else { d }));
        let opsets = opsets.collect::<Vec<_>>().join(", ");
        let format = format!("ONNX, IR version {}, operator sets {opsets}", source.ir_version);
        return (format, source.producer.clone());
    }
    if let Some(source) = source.downcast::<SafetensorsSource>().filter(|source| source.folder.is_some()) {
        let files = source.shards.len();
        let plural = if files == 1 { "" } else { "s" };
        return (format!("safetensors, a folder of {files} file{plural}"), String::new());
    }
    (source.format().map_or("in memory", |format| format.name).to_string(), String::new())
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
