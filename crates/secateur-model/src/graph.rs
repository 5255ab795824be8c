//! The graph of a model: values, nodes in topological order, nested graphs.

use std::collections::{BTreeMap, HashSet};

use indexmap::IndexMap;

use crate::{DType, Error, Result, Tensor, TensorId};

/// Index of a value in its graph's [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Index of a node in its graph's [`Graph::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl ValueId {
    /// The index as `usize`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One dimension of a declared shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A fixed extent.
    Known(usize),
    /// A named extent, such as `batch`.
    Symbol(String),
    /// Nothing is known.
    Unknown,
}

/// What the file declares about a value.
#[derive(Clone, Debug, Default)]
pub struct Value {
    /// The value's name, unique in its graph; empty for values the file leaves out.
    pub name: String,
    /// The declared element type.
    pub dtype: Option<DType>,
    /// The declared shape.
    pub shape: Option<Vec<Dim>>,
}

/// A graph: the main one, or the body of a control-flow node.
///
/// `Constant` nodes of the file appear as constants here, calls of model-local functions are expanded, and
/// so are operators of ONNX Runtime that stand for several of ONNX's; the file itself keeps them all, since
/// the writer splices into its bytes.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The graph's name.
    pub name: String,
    /// All values; [`ValueId`] is the index.
    pub values: Vec<Value>,
    /// Inputs a caller gives (initializers listed as inputs are constants instead).
    pub inputs: Vec<ValueId>,
    /// Outputs.
    pub outputs: Vec<ValueId>,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// Values that are constant tensors of the model.
    pub constants: BTreeMap<ValueId, TensorId>,
    /// Values taken by name from the enclosing graph (only in nested graphs).
    pub captures: Vec<ValueId>,
}

impl Graph {
    /// The value's name.
    pub fn value_name(&self, id: ValueId) -> &str {
        &self.values[id.index()].name
    }

    /// The node that produces each value, by value index.
    pub fn producers(&self) -> Vec<Option<NodeId>> {
        let mut producers = vec![None; self.values.len()];
        for (n, node) in self.nodes.iter().enumerate() {
            for output in node.outputs.iter().flatten() {
                producers[output.index()] = Some(NodeId(n as u32));
            }
        }
        producers
    }

    /// The nodes and input positions that use each value, by value index.
    pub fn consumers(&self) -> Vec<Vec<(NodeId, usize)>> {
        let mut consumers = vec![Vec::new(); self.values.len()];
        for (n, node) in self.nodes.iter().enumerate() {
            for (i, input) in node.inputs.iter().enumerate() {
                if let Some(input) = input {
                    consumers[input.index()].push((NodeId(n as u32), i));
                }
            }
        }
        consumers
    }
}

impl Graph {
    /// The names of all values, those of nested graphs too.
    pub fn names(&self) -> HashSet<String> {
        fn collect(graph: &Graph, names: &mut HashSet<String>) {
            names.extend(graph.values.iter().map(|value| value.name.clone()));
            graph.nodes.iter().flat_map(Node::graphs).for_each(|(_, nested)| collect(nested, names));
        }
        let mut names = HashSet::new();
        collect(self, &mut names);
        names
    }

    /// The version of a domain's operator set that nodes of this graph are of; `None` where there are none.
    pub fn opset(&self, domain: &str) -> Option<u32> {
        self.nodes.iter().find(|node| node.domain == domain).map(|node| node.opset)
    }
}

/// One operator in a graph.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// The node's name; may be empty.
    pub name: String,
    /// The operator, such as `Conv`.
    pub op_type: String,
    /// The operator's domain; `ai.onnx` is written as the empty string.
    pub domain: String,
    /// The version of the operator's domain that holds for this node.
    pub opset: u32,
    /// Inputs; `None` where an optional one is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs; `None` where an optional one is left out.
    pub outputs: Vec<Option<ValueId>>,
    /// Attributes by name.
    pub attrs: IndexMap<String, Attr>,
    /// The path of modules the exporter recorded for the node (`encoder.layer1.0.conv1`); may be empty.
    pub module: String,
    /// What to call the node where it has no name: its first output.
    pub fallback_label: String,
}

/// The value of an attribute.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // the variants are ONNX's attribute types
#[non_exhaustive]
pub enum Attr {
    Int(i64),
    Float(f32),
    String(Vec<u8>),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strings(Vec<Vec<u8>>),
    Tensor(Tensor),
    Tensors(Vec<Tensor>),
    Graph(Box<Graph>),
    Graphs(Vec<Graph>),
    /// An attribute type that nothing here reads; its name for messages.
    Other(&'static str),
}

impl Attr {
    /// The nested graphs that it holds.
    pub fn graphs(&self) -> &[Graph] {
        match self {
            Attr::Graph(graph) => std::slice::from_ref(&**graph),
            Attr::Graphs(graphs) => graphs,
            _ => &[],
        }
    }

    /// The nested graphs that it holds.
    pub fn graphs_mut(&mut self) -> &mut [Graph] {
        match self {
            Attr::Graph(graph) => std::slice::from_mut(&mut **graph),
            Attr::Graphs(graphs) => graphs,
            _ => &mut [],
        }
    }
}

impl Node {
    /// The node's name, or its first output where it has none.
    pub fn label(&self) -> &str {
        if self.name.is_empty() { &self.fallback_label } else { &self.name }
    }

    fn wrong(&self, name: &str, expected: &str) -> Error {
        Error::input(format!("attribute `{name}` is not {expected}"))
    }

    /// An integer attribute.
    ///
    /// # Errors
    /// Where the attribute is there with another type.
    pub fn int(&self, name: &str) -> Result<Option<i64>> {
        match self.attrs.get(name) {
            None => Ok(None),
            Some(Attr::Int(v)) => Ok(Some(*v)),
            Some(_) => Err(self.wrong(name, "an integer")),
        }
    }

    /// An integer attribute with its default.
    ///
    /// # Errors
    /// Where the attribute is there with another type.
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// A float attribute.
    ///
    /// # Errors
    /// Where the attribute is there with another type.
    pub fn float(&self, name: &str) -> Result<Option<f32>> {
        match self.attrs.get(name) {
            None => Ok(None),
            Some(Attr::Float(v)) => Ok(Some(*v)),
            Some(_) => Err(self.wrong(name, "a float")),
        }
    }

    /// A float attribute with its default.
    ///
    /// # Errors
    /// Where the attribute is there with another type.
    pub fn float_or(&self, name: &str, default: f32) -> Result<f32> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    /// A list of integers.
    ///
    /// # Errors
    /// Where the attribute is there with another type.
    pub fn ints(&self, name: &str) -> Result<Option<&[i64]>> {
        match self.attrs.get(name) {
            None => Ok(None),
            Some(Attr::Ints(v)) => Ok(Some(v)),
            Some(_) => Err(self.wrong(name, "a list of integers")),
        }
    }

    /// A list of floats.
    ///
    /// # Errors
    /// Where the attribute is there with another type.
    pub fn floats(&self, name: &str) -> Result<Option<&[f32]>> {
        match self.attrs.get(name) {
            None => Ok(None),
            Some(Attr::Floats(v)) => Ok(Some(v)),
            Some(_) => Err(self.wrong(name, "a list of floats")),
        }
    }

    /// A text attribute.
    ///
    /// # Errors
    /// Where the attribute is there with another type or not UTF-8.
    pub fn str(&self, name: &str) -> Result<Option<&str>> {
        match self.attrs.get(name) {
            None => Ok(None),
            Some(Attr::String(v)) => {
                std::str::from_utf8(v).map(Some).map_err(|_| self.wrong(name, "UTF-8 text"))
            }
            Some(_) => Err(self.wrong(name, "a text")),
        }
    }

    /// A text attribute with its default.
    ///
    /// # Errors
    /// Where the attribute is there with another type or not UTF-8.
    pub fn str_or<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str> {
        Ok(self.str(name)?.unwrap_or(default))
    }

    /// A nested graph.
    ///
    /// # Errors
    /// Where the attribute is missing or has another type.
    pub fn graph(&self, name: &str) -> Result<&Graph> {
        match self.attrs.get(name) {
            Some(Attr::Graph(graph)) => Ok(graph),
            _ => Err(self.wrong(name, "a graph")),
        }
    }

    /// The names of the values around it that its nested graphs use, constants among them.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.graphs().flat_map(|(_, graph)| {
            let constants = graph.constants.keys();
            graph.captures.iter().chain(constants).map(|&value| graph.value_name(value))
        })
    }

    /// The nested graphs of all attributes, with the attributes' names.
    pub fn graphs(&self) -> impl Iterator<Item = (&str, &Graph)> {
        self.attrs.iter().flat_map(|(name, attr)| attr.graphs().iter().map(move |g| (name.as_str(), g)))
    }
}
