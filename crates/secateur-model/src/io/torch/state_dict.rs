//! Where the tensors of a checkpoint are: in the dictionary of the model's weights, or elsewhere.

use std::collections::HashSet;

use super::tensors::is_tensor;
use super::value::{Id, Value, Values};
use crate::{Error, Result};

/// Keys under which training scripts store the weights, those that say it most plainly first.
const KEYS: &[&str] = &[
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "params",
    "weights",
    "params_ema",
    "model_ema",
    "ema",
];

/// The deepest that values may be nested.
pub(super) const DEEPEST: usize = 100;

/// The most text that the ways to all tensors may take together, in bytes.
const MOST_TEXT: usize = 1 << 28;

/// The tensors of a checkpoint.
pub(super) struct Found {
    /// The dictionary of the weights and the way to it; `None` where no dictionary is one.
    pub(super) state_dict: Option<(Id, String)>,
    /// The tensors, those of the state dict first.
    pub(super) tensors: Vec<FoundTensor>,
    /// How many stand in the state dict.
    pub(super) inside: usize,
}

/// A tensor and the way to it.
pub(super) struct FoundTensor {
    /// From the state dict, or from the top for those outside of it.
    pub(super) way: String,
    pub(super) value: Id,
    /// The dictionary it is a value of, and which of its entries.
    pub(super) holder: Option<(Id, usize)>,
}

/// Finds the state dict and all tensors.
///
/// # Errors
/// `Input` where values are nested too deep, or the ways to them take more text than a checkpoint's.
pub(super) fn find(values: &Values, root: Id) -> Result<Found> {
    let mut survey = Walk::new(values);
    survey.visit(root, "", None, 0)?;
    let state_dict = choose(values, root, &survey.dicts);
    let mut walk = Walk::new(values);
    if let Some((id, _)) = &state_dict {
        walk.visit(*id, "", None, 0)?;
    }
    let inside = walk.tensors.len();
    walk.visit(root, "", None, 0)?;
    Ok(Found { state_dict, inside, tensors: walk.tensors })
}

/// The full way to a tensor of the state dict.
pub(super) fn join(way: &str, key: &str) -> String {
    match way {
        "" => key.to_string(),
        way => format!("{way}.{key}"),
    }
}

fn choose(values: &Values, root: Id, dicts: &[Dict]) -> Option<(Id, String)> {
    let weights = |id| dicts.iter().find(|dict| dict.id == id && dict.is_mostly_tensors());
    let mut under = Some(root);
    while let Some(id) = under {
        if let Some(dict) = weights(id) {
            return Some((id, dict.way.clone()));
        }
        let entries = values.entries(id).unwrap_or_default();
        let child = |key| entries.iter().find(|(k, _)| values.text(*k) == Some(key)).map(|&(_, v)| v);
        let children = || KEYS.iter().filter_map(|&key| child(key));
        // A child is the dictionary itself, or has it under such a key again; children come later in the
        // list of dictionaries, so that what contains itself is not followed forever.
        let place = |id| dicts.iter().position(|dict| dict.id == id);
        under = children()
            .find(|&child| weights(child).is_some())
            .or_else(|| children().find(|&child| place(child) > place(id)));
    }
    // The first of those with most tensors.
    let largest =
        dicts.iter().filter(|dict| dict.is_mostly_tensors()).rev().max_by_key(|dict| dict.tensors)?;
    Some((largest.id, largest.way.clone()))
}

/// A dictionary.
struct Dict {
    id: Id,
    way: String,
    entries: usize,
    tensors: usize,
}

impl Dict {
    fn is_mostly_tensors(&self) -> bool {
        self.tensors > 0 && self.tensors * 2 >= self.entries
    }
}

/// A walk over all values; each that contains others is entered once, by the first way to it.
struct Walk<'a> {
    values: &'a Values,
    seen: HashSet<Id>,
    text: usize,
    dicts: Vec<Dict>,
    tensors: Vec<FoundTensor>,
}

impl<'a> Walk<'a> {
    fn new(values: &'a Values) -> Self {
        Self { values, seen: HashSet::new(), text: 0, dicts: Vec::new(), tensors: Vec::new() }
    }

    fn visit(&mut self, id: Id, way: &str, holder: Option<(Id, usize)>, depth: usize) -> Result<()> {
        let value = self.values.get(id);
        let plain = match value {
            Value::Tuple(items) | Value::FrozenSet(items) => items.is_empty(),
            Value::List(_) | Value::Set(_) | Value::Dict(_) | Value::Object(_) => false,
            _ => true,
        };
        if plain {
            return Ok(());
        }
        self.text += way.len();
        if depth > DEEPEST || self.text > MOST_TEXT {
            return Err(Error::input(format!(
                "nests values deeper than {DEEPEST} levels, or names them by more text than any model"
            )));
        }
        if is_tensor(self.values, id) {
            self.tensors.push(FoundTensor { way: way.to_string(), value: id, holder });
            return Ok(());
        }
        if !self.seen.insert(id) {
            return Ok(());
        }
        if let Some(entries) = self.values.entries(id) {
            return self.dict(id, &entries, way, depth);
        }
        match value {
            Value::List(items) | Value::Set(items) => self.list(items, way, depth),
            Value::Tuple(items) | Value::FrozenSet(items) => self.list(items, way, depth),
            Value::Object(object) => {
                self.visit(object.args, way, None, depth + 1)?;
                self.list(&object.items, way, depth)?;
                for &(_, value) in &object.pairs {
                    self.visit(value, way, None, depth + 1)?;
                }
                object.state.map_or(Ok(()), |state| self.visit(state, way, None, depth + 1))
            }
            _ => Ok(()),
        }
    }

    fn dict(&mut self, id: Id, entries: &[(Id, Id)], way: &str, depth: usize) -> Result<()> {
        let tensors = entries.iter().filter(|(_, value)| is_tensor(self.values, *value)).count();
        self.dicts.push(Dict { id, way: way.to_string(), entries: entries.len(), tensors });
        for (index, &(key, value)) in entries.iter().enumerate() {
            let name = match self.values.get(key) {
                Value::Str(text) => text.to_string(),
                Value::Int(number) => number.to_string(),
                _ => format!("#{index}"),
            };
            self.visit(value, &join(way, &name), Some((id, index)), depth + 1)?;
        }
        Ok(())
    }

    fn list(&mut self, items: &[Id], way: &str, depth: usize) -> Result<()> {
        for (index, &item) in items.iter().enumerate() {
            self.visit(item, &join(way, &index.to_string()), None, depth + 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::torch::value::Object;

    fn tensor(values: &mut Values) -> Id {
        let call = values.push(Value::Global(Box::new(("torch._utils".into(), "_rebuild_tensor_v2".into()))));
        let args = values.push(Value::Tuple([].into()));
        let (items, pairs) = (Vec::new(), Vec::new());
        values.push(Value::Object(Box::new(Object { call, args, new: false, items, pairs, state: None })))
    }

    fn dict(values: &mut Values, entries: &[(&str, Id)]) -> Id {
        let pairs =
            entries.iter().map(|&(key, value)| (values.push(Value::Str(key.into())), value)).collect();
        values.push(Value::Dict(pairs))
    }

    /// A dictionary of as many tensors.
    fn weights(values: &mut Values, count: usize) -> Id {
        let names: Vec<String> = (0..count).map(|i| format!("layer{i}.weight")).collect();
        let entries: Vec<(&str, Id)> = names.iter().map(|name| (name.as_str(), tensor(values))).collect();
        dict(values, &entries)
    }

    fn way(values: &Values, root: Id) -> Option<String> {
        find(values, root).unwrap().state_dict.map(|(_, way)| way)
    }

    #[test]
    fn the_top_or_the_plainest_key_or_the_largest() {
        let values = &mut Values::default();
        let (small, large) = (weights(values, 2), weights(values, 5));
        let number = values.push(Value::Int(3));
        assert_eq!(way(values, small).as_deref(), Some(""));
        for (entries, expected) in [
            (&[("optimizer", large), ("state_dict", small)][..], "state_dict"),
            (&[("ema", large), ("model", small), ("epoch", number)], "model"),
            (&[("generator", large), ("discriminator", small)], "generator"),
            (&[("params_ema", small), ("params", large)], "params"),
        ] {
            let root = dict(values, entries);
            assert_eq!(way(values, root).as_deref(), Some(expected));
            // One level further down.
            let model = dict(values, &[("model", root), ("optimizer", large)]);
            assert_eq!(way(values, model).map(|way| way.starts_with("model")), Some(true));
        }
    }

    #[test]
    fn without_a_dictionary_of_tensors_there_is_none() {
        let values = &mut Values::default();
        let tensors = [tensor(values), tensor(values)];
        let list = values.push(Value::List(tensors.to_vec()));
        assert_eq!(way(values, list), None);
        let found = find(values, list).unwrap();
        let ways: Vec<&str> = found.tensors.iter().map(|tensor| tensor.way.as_str()).collect();
        assert_eq!((ways, found.inside), (vec!["0", "1"], 0));
        let lone = find(values, tensors[0]).unwrap();
        assert_eq!(lone.tensors.len(), 1);
    }
}
