//! Which tensors take part: by operator, name and module.

use globset::{GlobBuilder, GlobSet};
use secateur_model::ops::AxisRole;
use secateur_model::prunable::{CompanionKind, Entry, PrunableView};
use secateur_model::text::{counted, listed};
use secateur_model::{Error, Model, Result};
use serde::{Deserialize, Serialize};

use crate::near::did_you_mean;

/// Which tensors take part. Empty lists do not restrict.
///
/// A glob (`*`, `?`, `[…]`, `{…,…}`; `*` also matches dots and slashes) is compared with the
/// tensor's path, the node's label and the module's path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selector {
    /// Operators that own the weights, such as `Conv`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ops: Vec<String>,
    /// Globs of which one must match. One that matches nothing but weights that stay dense by default
    /// ([`LeftDense`](secateur_model::prunable::Status::LeftDense)) brings them in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Globs of which none may match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Modules, of which the tensor must be in one: a path that also holds for everything below it
    /// (`encoder`), or a glob (`encoder.layer[12]`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
    /// Weights or biases.
    #[serde(skip_serializing_if = "Part::is_weights")]
    pub part: Part,
}

/// Which of an operator's tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The weights.
    #[default]
    Weights,
    /// The biases of weights that could be pruned.
    Biases,
}

impl Part {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's form
    fn is_weights(&self) -> bool {
        *self == Part::Weights
    }
}

impl Selector {
    /// The selected tensors, in the model's order.
    ///
    /// # Errors
    /// `Usage` where an operator owns no weights, a glob matches nothing, or the selection is empty.
    pub fn select(&self, model: &Model, entries: &[Entry]) -> Result<Vec<PrunableView>> {
        let globs = self.include.len() + self.exclude.len() + self.modules.len();
        if globs > GLOBS {
            return Err(Error::usage(format!("{globs} globs select tensors, {GLOBS} at most are read")));
        }
        let mut candidates: Vec<PrunableView> = match self.part {
            Part::Weights => entries.iter().filter_map(Entry::prunable).cloned().collect(),
            Part::Biases => biases(model, entries),
        };
        let left: Vec<&PrunableView> = match self.part {
            Part::Weights => {
                entries.iter().filter(|e| e.prunable().is_none()).filter_map(Entry::view).collect()
            }
            Part::Biases => Vec::new(),
        };
        let mut wanted = Vec::new();
        for text in &self.include {
            let glob = NameGlob::named(text, candidates.iter().chain(left.iter().copied()), model)?;
            if !candidates.iter().any(|view| glob.matches(view, model)) {
                wanted.extend(left.iter().filter(|view| glob.matches(view, model)).map(|&view| view.clone()));
            }
        }
        candidates.extend(wanted);
        candidates.sort_by_key(|view| view.tensor);
        candidates.dedup_by_key(|view| view.tensor);
        if candidates.is_empty() {
            return Err(nothing_prunable(model, entries, self.part));
        }
        for op in &self.ops {
            if !candidates.iter().any(|v| v.op_type == *op) {
                let ops = candidates.iter().map(|v| v.op_type.as_str());
                let near = did_you_mean(op, ops);
                return Err(Error::usage(format!("no operator `{op}` owns prunable tensors here{near}")));
            }
        }
        let globs = |texts: &[String], views: &[PrunableView]| -> Result<Vec<NameGlob>> {
            texts.iter().map(|text| NameGlob::new(text, views, model, entries)).collect()
        };
        let include = globs(&self.include, &candidates)?;
        // What stays dense by default may be left out once more.
        let all: Vec<PrunableView> = candidates.iter().chain(left).cloned().collect();
        let exclude = globs(&self.exclude, &all)?;
        let modules: Vec<GlobSet> =
            self.modules.iter().map(|text| module_glob(text, &candidates)).collect::<Result<_>>()?;
        type Condition<'a> = (&'a str, bool, Box<dyn Fn(&PrunableView) -> bool + 'a>);
        let conditions: [Condition<'_>; 4] = [
            ("ops", self.ops.is_empty(), Box::new(|view| self.ops.contains(&view.op_type))),
            ("include", include.is_empty(), Box::new(|view| include.iter().any(|g| g.matches(view, model)))),
            ("exclude", exclude.is_empty(), Box::new(|view| !exclude.iter().any(|g| g.matches(view, model)))),
            (
                "modules",
                modules.is_empty(),
                Box::new(|view| modules.iter().any(|g| in_module(g, &view.module))),
            ),
        ];
        let lets_through = |(_, unset, holds): &Condition<'_>, view: &PrunableView| *unset || holds(view);
        let is_selected = |view: &&PrunableView| conditions.iter().all(|c| lets_through(c, view));
        let selected: Vec<PrunableView> = candidates.iter().filter(is_selected).cloned().collect();
        if selected.is_empty() {
            let left = conditions.iter().filter(|(_, unset, _)| !unset).map(|condition| {
                let left = candidates.iter().filter(|view| lets_through(condition, view)).count();
                format!("option `{}` leaves {left}", condition.0)
            });
            return Err(Error::usage(format!(
                "the selection is empty: of {} that can be pruned, {}, and none is left by all",
                counted(candidates.len(), "tensor"),
                listed(left.collect::<Vec<_>>())
            )));
        }
        Ok(selected)
    }
}

/// A glob over the names of a tensor.
pub(crate) struct NameGlob(GlobSet);

impl NameGlob {
    /// # Errors
    /// `Usage` where the glob is malformed or matches none of the tensors.
    pub(crate) fn new(
        text: &str,
        views: &[PrunableView],
        model: &Model,
        entries: &[Entry],
    ) -> Result<NameGlob> {
        let glob = NameGlob::named(text, views.iter(), model)?;
        if views.iter().any(|view| glob.matches(view, model)) {
            return Ok(glob);
        }
        let matched = entries.iter().find_map(|entry| {
            let path = &model.tensor(entry.tensor).path;
            let named = glob.0.is_match(path) || entry.view().is_some_and(|view| glob.matches(view, model));
            Some((entry, path, entry.reason().filter(|_| named)?))
        });
        Err(Error::usage(match matched {
            Some((entry, path, reason)) if entry.view().is_some() => {
                format!(
                    "`{text}` matches nothing that takes part: `{path}` is {}, which stays dense by default \
                     (option `include={path}` prunes it)",
                    reason.text
                )
            }
            Some((_, path, reason)) => {
                format!("`{text}` matches nothing that can be pruned: `{path}` is {}", reason.text)
            }
            None => {
                let paths = views.iter().map(|view| model.tensor(view.tensor).path.as_str());
                let below = format!("{text}.*");
                let inside = compile(&globset::escape(text)).is_ok_and(|glob| {
                    views.iter().any(|view| {
                        in_module(&glob, &view.module) || in_module(&glob, &model.tensor(view.tensor).path)
                    })
                });
                let near = match inside {
                    true => format!("; did you mean `{below}`, all that is in it?"),
                    false => did_you_mean(text, paths),
                };
                format!("`{text}` matches no tensor, node or module{near}")
            }
        }))
    }

    /// The glob of a text: an exact name matches literally, and `…` in a name that a table shortened matches anything.
    fn named<'a>(
        text: &str,
        mut views: impl Iterator<Item = &'a PrunableView>,
        model: &Model,
    ) -> Result<NameGlob> {
        let named = |view: &PrunableView| {
            [&model.tensor(view.tensor).path, &view.node, &view.module].into_iter().any(|name| name == text)
        };
        Ok(NameGlob(compile(&match views.any(named) {
            true => globset::escape(text),
            false => text.replace('…', "*"),
        })?))
    }

    pub(crate) fn matches(&self, view: &PrunableView, model: &Model) -> bool {
        let path = &model.tensor(view.tensor).path;
        [path, &view.node, &view.module].into_iter().any(|name| self.0.is_match(name))
    }
}

/// The longest glob in bytes, the deepest nesting of its braces, and how many globs a selection may have: a
/// recipe may be untrusted, and globs are compiled and matched against every name.
const GLOB_BYTES: usize = 4096;
const GLOB_DEPTH: usize = 8;
const GLOBS: usize = 4096;

/// Tells whether one of some globs matches a name.
///
/// # Errors
/// `Usage` where a glob is malformed or beyond the bounds.
pub fn any_of(globs: &[String]) -> Result<impl Fn(&str) -> bool + use<>> {
    let sets = globs.iter().map(|glob| compile(glob)).collect::<Result<Vec<_>>>()?;
    Ok(move |name: &str| sets.iter().any(|set| set.is_match(name)))
}

/// # Errors
/// `Usage` where the glob is malformed or beyond the bounds.
fn compile(text: &str) -> Result<GlobSet> {
    let refuse = |why: String| {
        let shown: String = text.chars().take(80).collect();
        let dots = if shown.len() < text.len() { "…" } else { "" };
        Error::usage(format!("`{shown}{dots}` is not a glob: {why}"))
    };
    if text.len() > GLOB_BYTES {
        return Err(refuse(format!("it has {} bytes, {GLOB_BYTES} at most are read", text.len())));
    }
    let mut open = 0usize;
    let mut before = b' ';
    for byte in text.bytes() {
        match (before, byte) {
            // Escaped: `[{]` or `\{`.
            (b'[' | b'\\', _) => {}
            (_, b'{') => open += 1,
            (_, b'}') => open = open.saturating_sub(1),
            _ => {}
        }
        // An escaped backslash escapes nothing.
        before = if (before, byte) == (b'\\', b'\\') { b' ' } else { byte };
        if open > GLOB_DEPTH {
            return Err(refuse(format!("braces are nested more than {GLOB_DEPTH} deep")));
        }
    }
    let glob = GlobBuilder::new(text).literal_separator(false).build();
    // A set of one, since a single matcher panics where the glob becomes too large when compiled.
    let set = glob.and_then(|glob| GlobSet::builder().add(glob).build());
    set.map_err(|e| refuse(e.kind().to_string()))
}

fn module_glob(text: &str, views: &[PrunableView]) -> Result<GlobSet> {
    let glob = compile(text)?;
    if views.iter().any(|view| in_module(&glob, &view.module)) {
        return Ok(glob);
    }
    let modules = views.iter().flat_map(|v| prefixes(&v.module)).filter(|m| !m.is_empty());
    let near = match did_you_mean(text, modules) {
        near if near.is_empty() => {
            "; the file records no modules: select by name with option `include`".to_string()
        }
        near => near,
    };
    Err(Error::usage(format!("no prunable tensor is in a module `{text}`{near}")))
}

/// Whether a glob matches a module or one that it is in.
fn in_module(glob: &GlobSet, module: &str) -> bool {
    prefixes(module).any(|prefix| glob.is_match(prefix))
}

/// The module and all it is in, outermost first.
fn prefixes(module: &str) -> impl Iterator<Item = &str> {
    module.match_indices('.').map(|(i, _)| &module[..i]).chain([module])
}

/// The biases of all prunable weights, each once, in the model's order.
fn biases(model: &Model, entries: &[Entry]) -> Vec<PrunableView> {
    let mut views: Vec<PrunableView> = Vec::new();
    for weight in entries.iter().filter_map(Entry::prunable) {
        let all = weight.bias.iter().chain(&weight.followers);
        for bias in all.filter(|c| c.kind == CompanionKind::Bias) {
            let stored = model.tensor(bias.tensor);
            if !stored.dtype.is_prunable() || views.iter().any(|v| v.tensor == bias.tensor) {
                continue;
            }
            let roles = stored.shape.iter().map(|&d| match d {
                1 if stored.len() > 1 => AxisRole::Spatial,
                _ => AxisRole::Out,
            });
            views.push(PrunableView {
                tensor: bias.tensor,
                roles: roles.collect(),
                groups: 1,
                group_axis: None,
                gates: 1,
                via: Vec::new(),
                bias: None,
                followers: Vec::new(),
                mask: None,
                ..weight.clone()
            });
        }
    }
    views.sort_by_key(|view| view.tensor);
    views
}

fn nothing_prunable(model: &Model, entries: &[Entry], part: Part) -> Error {
    let what = if part == Part::Biases { "bias of a prunable weight" } else { "prunable weight" };
    let largest = entries.iter().max_by_key(|entry| model.tensor(entry.tensor).len());
    let example = largest.and_then(|entry| {
        let path = &model.tensor(entry.tensor).path;
        let asked = match (entry.view(), part) {
            (Some(_), Part::Weights) => {
                format!(", which stays dense by default (option `include={path}` prunes it)")
            }
            _ => String::new(),
        };
        Some(format!("; the largest tensor, `{path}`, is: {}{asked}", entry.reason()?.text))
    });
    Error::usage(format!("the model holds no {what}{}", example.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::compile;

    #[test]
    fn globs_are_bounded() {
        let nested = |depth: usize| format!("{}a{}", "{".repeat(depth), "}".repeat(depth));
        assert!(compile(&nested(8)).unwrap().is_match("a"));
        let braces = "{".repeat(20);
        assert!(compile(&globset::escape(&braces)).unwrap().is_match(&braces));
        let long = "[!a-z]".repeat(600);
        let absurd = [
            (nested(9), "nested"),
            (nested(300), "nested"),
            ("{".repeat(100_000), "bytes"),
            ("*".repeat(5000), "bytes"),
            ("{".to_string(), "is not a glob"),
        ];
        for (text, why) in absurd {
            let error = compile(&text).unwrap_err().to_string();
            assert!(error.contains(why) && error.len() < 300, "{error}");
        }
        // Whether it compiles is left to the library; it does not panic.
        let _ = compile(&long);
        let _ = compile(&"{é,ü}[!\u{80}-\u{10ffff}]".repeat(180));
    }
}
