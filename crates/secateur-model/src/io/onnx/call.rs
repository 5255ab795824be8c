//! Model-local functions: a call becomes the nodes of the function's body.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;

use super::FieldPath;
use super::build::{Builder, Context, Scope, check_depth, value_of};
use super::proto::{AttributeProto, FunctionProto, NodeProto, ValueInfoProto, decode};
use super::read::{Opsets, normal_domain, opset_imports};
use super::unpackers::DOMAIN;
use crate::{Attr, Error, Node, Result, ResultExt, ValueId};

/// A function of the file.
pub(super) struct Function {
    pub(super) proto: FunctionProto,
    opsets: Opsets,
    place: FieldPath,
}

/// The functions of the file by domain, name and overload.
#[derive(Default)]
pub(super) struct Functions {
    by_name: HashMap<(String, String, String), Arc<Function>>,
}

impl Functions {
    pub(super) fn new(messages: &[Bytes]) -> Result<Self> {
        let mut by_name = HashMap::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let proto: FunctionProto = decode(message).at(|| format!("function {index}"))?;
            let domain = normal_domain(proto.domain.as_deref().unwrap_or_default()).to_string();
            let name = proto.name.clone().unwrap_or_default();
            let key = (domain, name.clone(), proto.overload.clone().unwrap_or_default());
            let opsets = opset_imports(&proto.opset_import).at(|| format!("function `{name}`"))?;
            let function = Function { proto, opsets, place: FieldPath(vec![(25, index as u32)]) };
            if by_name.insert(key, Arc::new(function)).is_some() {
                return Err(Error::input(format!("two functions are named `{name}`")));
            }
        }
        let functions = Functions { by_name };
        for function in functions.by_name.values() {
            let name = function.proto.name.as_deref().unwrap_or_default();
            super::body::check(&function.proto, &function.opsets).at(|| format!("function `{name}`"))?;
        }
        Ok(functions)
    }

    pub(super) fn find(&self, domain: &str, name: &str, overload: &str) -> Option<Arc<Function>> {
        if self.by_name.is_empty() {
            return None;
        }
        self.by_name.get(&(domain.to_string(), name.to_string(), overload.to_string())).cloned()
    }
}

impl Builder {
    /// Expands a call into the function's nodes.
    #[allow(clippy::too_many_arguments)] // the call's parts and what surrounds it
    pub(super) fn call(
        &mut self,
        function: &Function,
        call: &NodeProto,
        inputs: &[Option<ValueId>],
        mut attrs: IndexMap<String, Attr>,
        label: &str,
        declared: &HashMap<String, ValueInfoProto>,
        context: &Context<'_>,
    ) -> Result<()> {
        let Function { proto, opsets, place } = function;
        self.expands_unpackers |= proto.domain.as_deref() == Some(DOMAIN);
        let prefix = self.path(context, &format!("{label}::"))?;
        for (j, message) in proto.attribute_proto.iter().enumerate() {
            let default: AttributeProto = decode(message)?;
            let name = default.name.clone().unwrap_or_default();
            if !attrs.contains_key(&name) {
                self.charge(message.len())?;
                let attr = self.attr(default, &place.then(11, j), (label, &name), context);
                attrs.insert(name.clone(), attr.at(|| format!("attribute `{name}`"))?);
            }
        }
        let mut scope = Scope::default();
        for (k, name) in proto.input.iter().enumerate() {
            match inputs.get(k) {
                Some(Some(id)) => drop(scope.values.insert(name.clone(), *id)),
                _ => drop(scope.missing.insert(name.clone())),
            }
        }
        let inner = Context {
            opsets: if opsets.is_empty() { context.opsets } else { opsets },
            attrs: Some(&attrs),
            depth: context.depth + 1,
            prefix: &prefix,
        };
        check_depth(&inner)?;
        let first_new = self.frame().graph.values.len();
        self.frame().scopes.push(scope);
        self.nodes(&proto.node, &HashMap::new(), place, 7, &inner)?;
        let scope = self.frame().scopes.pop().expect("pushed above");

        let mut named = HashSet::new();
        for (k, name) in proto.output.iter().enumerate() {
            let Some(actual) = call.output.get(k).filter(|n| !n.is_empty()) else { continue };
            let &id = scope.values.get(name).ok_or_else(|| {
                Error::input(format!("the function's output `{name}` is produced by no node of it"))
            })?;
            let constant = self.frame().graph.constants.contains_key(&id);
            if id.index() >= first_new && !constant && !named.contains(&id) {
                // A value of the body's own gets the name that it has outside.
                self.check_unbound(actual)?;
                let shown = self.value_name(actual, context)?;
                let outside = declared.get(actual).map(|info| value_of(info, String::new()));
                let value = &mut self.frame().graph.values[id.index()];
                value.name = shown;
                if let Some(outside) = outside {
                    value.dtype = value.dtype.or(outside.dtype);
                    value.shape = value.shape.take().or(outside.shape);
                }
                self.bind(actual, id);
                named.insert(id);
            } else {
                // An input, a constant or another output passed through: both names must stay.
                let output = self.output(actual, declared, context)?;
                let identity = Node {
                    op_type: "Identity".to_string(),
                    opset: inner.opsets.get("").copied().unwrap_or(1),
                    inputs: vec![Some(id)],
                    outputs: vec![Some(output)],
                    fallback_label: actual.clone(),
                    ..Node::default()
                };
                self.frame().graph.nodes.push(identity);
            }
        }
        Ok(())
    }
}
