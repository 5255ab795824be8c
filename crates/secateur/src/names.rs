//! Names of models and layers in tables, usable as globs of a [`Selector`](crate::prune::select::Selector).

use std::collections::HashMap;

use secateur_model::prunable::{self, Entry, PrunableView};
use secateur_model::{Model, Result, TensorId};

/// The name of the file a model was read from.
pub(crate) fn file_name(model: &Model) -> String {
    let name = model.path.as_deref().and_then(std::path::Path::file_name);
    name.map_or_else(|| "model".to_string(), |n| n.to_string_lossy().into_owned())
}

/// The prefixes that exporters put before the number of a weight without a name.
const GENERATED: [&str; 4] = ["onnx::", "const_fold_opt__", "val_", "_v_"];

/// What tables call the tensors that can be pruned, by their paths: unique among them.
///
/// # Errors
/// Where the model's graph cannot be followed.
pub fn layer_names(model: &Model) -> Result<HashMap<String, String>> {
    let names = names(model, &prunable::view(model)?);
    Ok(names.into_iter().map(|(tensor, name)| (model.tensor(tensor).path.clone(), name)).collect())
}

/// The name of each tensor that can be pruned: its path, or, where the exporter lost that, the path of its module or
/// the label of its node, if that is no other's.
pub(crate) fn names(model: &Model, entries: &[Entry]) -> HashMap<TensorId, String> {
    let views: Vec<&PrunableView> = entries.iter().filter_map(Entry::view).collect();
    let mut times: HashMap<&str, usize> = HashMap::new();
    for view in &views {
        let path = model.tensor(view.tensor).path.as_str();
        let mut names = vec![path, &view.module, &view.node];
        names.sort_unstable();
        names.dedup();
        names.into_iter().for_each(|name| *times.entry(name).or_default() += 1);
    }
    let name = |view: &&PrunableView| {
        let path = model.tensor(view.tensor).path.as_str();
        let own = |name: &&str| !name.is_empty() && times[name] == 1;
        let better = [view.module.as_str(), view.node.as_str()].into_iter().find(own);
        let name = better.filter(|_| is_generated(path)).unwrap_or(path);
        (view.tensor, name.to_string())
    };
    views.iter().map(name).collect()
}

/// Whether a name is only a number, such as `123` or `onnx::Conv_123`.
fn is_generated(path: &str) -> bool {
    let Some(rest) = GENERATED.iter().find_map(|prefix| path.strip_prefix(prefix)) else {
        return path.bytes().all(|b| b.is_ascii_digit());
    };
    rest.rsplit('_').next().is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::is_generated;

    #[test]
    fn numbers_are_no_names() {
        for path in ["onnx::Conv_123", "onnx::MatMul_4", "17", "const_fold_opt__8", "val_3"] {
            assert!(is_generated(path), "{path}");
        }
        for path in ["conv1.weight", "layer1.0.conv1.weight", "conv2d_0.w_0", "onnx::name", "valve.weight"] {
            assert!(!is_generated(path), "{path}");
        }
    }
}
