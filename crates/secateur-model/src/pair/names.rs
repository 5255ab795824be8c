//! How the names of a graph and the paths of a checkpoint correspond.

use std::collections::{BTreeSet, HashMap};

use indexmap::IndexMap;

use crate::TensorId;

/// Modules that wrap others and so add a part to the paths within: `DataParallel`,
/// `torch.compile`, FSDP and checkpointing.
const WRAPPERS: &[&str] = &["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// A name as the module that owns the parameter has it: without the way through functions, without
/// wrappers, without the `_orig` that a mask brings. peft keeps what it trains as a whole under
/// `modules_to_save.<adapter>`.
fn plain(name: &str) -> String {
    let name = name.rsplit("::").next().unwrap_or(name);
    let name = name.strip_suffix("_orig").unwrap_or(name);
    let mut parts = Vec::new();
    let mut all = name.split('.');
    while let Some(part) = all.next() {
        match part {
            "modules_to_save" => drop(all.next()),
            wrapper if WRAPPERS.contains(&wrapper) => {}
            part => parts.push(part),
        }
    }
    parts.join(".")
}

/// The paths of a checkpoint, found by the names of a graph. Where one of the two is part of a larger
/// network, all its names begin with the way to that part: the two beginnings are those that bring
/// most names together.
pub(super) struct Paths {
    tensors: HashMap<String, TensorId>,
    /// What the checkpoint's paths begin with, where the graph's names begin with `graph`.
    checkpoint: String,
    graph: String,
}

impl Paths {
    pub(super) fn new<'a>(
        paths: impl Iterator<Item = (TensorId, &'a str)>,
        names: &BTreeSet<String>,
    ) -> Self {
        let mut tensors = HashMap::new();
        let mut beginnings: HashMap<String, Vec<String>> = HashMap::new();
        for (id, path) in paths {
            let path = plain(path);
            for (front, back) in splits(&path) {
                beginnings.entry(back.to_string()).or_default().push(front.to_string());
            }
            tensors.entry(path).or_insert(id);
        }
        let mut votes: IndexMap<(String, String), usize> = IndexMap::new();
        for name in names.iter().map(|name| plain(name)) {
            for (graph, back) in splits(&name) {
                for checkpoint in beginnings.get(back).into_iter().flatten() {
                    // One part alone, such as `weight`, says nothing.
                    let tells = back.contains('.') || graph.is_empty() || checkpoint.is_empty();
                    if tells && (graph.is_empty() || last(graph) != last(checkpoint)) {
                        *votes.entry((checkpoint.clone(), graph.to_string())).or_default() += 1;
                    }
                }
            }
        }
        let best = votes.into_iter().max_by_key(|((c, g), n)| (*n, std::cmp::Reverse(c.len() + g.len())));
        let (checkpoint, graph) = best.map(|(beginnings, _)| beginnings).unwrap_or_default();
        Paths { tensors, checkpoint, graph }
    }

    /// The tensor of the checkpoint that a name of the graph means.
    pub(super) fn find(&self, name: &str) -> Option<TensorId> {
        let name = plain(name);
        let rest = match self.graph.as_str() {
            "" => Some(name.as_str()),
            graph => name.strip_prefix(graph).and_then(|rest| rest.strip_prefix('.')),
        };
        let found = rest.and_then(|rest| match self.checkpoint.as_str() {
            "" => self.tensors.get(rest),
            checkpoint => self.tensors.get(&format!("{checkpoint}.{rest}")),
        });
        found.or_else(|| self.tensors.get(&name)).copied()
    }

    /// The tensor that a module of the graph calls by a name.
    pub(super) fn of_module(&self, module: &str, name: &str) -> Option<TensorId> {
        match module {
            "" => None,
            module => self.find(&format!("{module}.{name}")),
        }
    }
}

/// A path cut before each of its parts.
fn splits(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let inner = path.match_indices('.').map(|(i, _)| (&path[..i], &path[i + 1..]));
    std::iter::once(("", path)).chain(inner)
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(checkpoint: &[&'static str], graph: &[&'static str]) -> Paths {
        let names = graph.iter().map(|name| name.to_string()).collect();
        Paths::new((0..).map(TensorId).zip(checkpoint.iter().copied()), &names)
    }

    #[test]
    fn beginnings_are_told_by_what_they_bring_together() {
        for (checkpoint, graph) in [
            (
                ["module.conv1.weight", "module.layer.0.conv1.weight"],
                ["conv1.weight", "layer.0.conv1.weight"],
            ),
            (["conv1.weight_orig", "layer.0.conv1.weight"], ["conv1.weight", "layer.0.conv1.weight"]),
            (
                ["net.conv1.weight", "net.layer.0.conv1.weight"],
                ["m.n.conv1.weight", "m.n.layer.0.conv1.weight"],
            ),
            (
                ["conv1.weight", "layer.0.conv1.weight"],
                ["_orig_mod.conv1.weight", "layer.module.0.conv1.weight"],
            ),
            (["a.conv1.weight", "a.b.conv1.weight"], ["b.a.conv1.weight", "b.a.b.conv1.weight"]),
        ] {
            let paths = paths(&checkpoint, &graph);
            for (at, name) in graph.into_iter().enumerate() {
                assert_eq!(paths.find(name), Some(TensorId(at as u32)), "{name} in {checkpoint:?}");
            }
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let paths =
            paths(&["a.fc.weight", "ema.a.fc.weight", "weight"], &["a.fc.weight", "f::g::a.fc.weight"]);
        assert_eq!(paths.find("a.fc.weight"), Some(TensorId(0)));
        assert_eq!(paths.find("f::g::a.fc.weight"), Some(TensorId(0)));
        assert_eq!(paths.find("b.fc.weight"), None);
        assert_eq!(paths.of_module("a.fc", "weight"), Some(TensorId(0)));
        assert_eq!(paths.of_module("", "weight"), None);
    }
}
