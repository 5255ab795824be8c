//! The module paths that exporters record.

use super::proto::NodeProto;

/// The module a node comes from, such as `encoder.layer1.0.conv1`: PyTorch's newer exporter records
/// it as metadata, the older one in the node's name. Empty where neither does.
pub(super) fn module_path(proto: &NodeProto) -> String {
    let scopes = proto
        .metadata_props
        .iter()
        .find(|e| e.key.as_deref() == Some("pkg.torch.onnx.name_scopes"))
        .and_then(|e| e.value.as_deref());
    match scopes {
        Some(scopes) => innermost(scopes).to_string(),
        None => from_name(proto.name.as_deref().unwrap_or_default()),
    }
}

/// The innermost module of a Python list of strings, whose last is the operator:
/// `['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'convolution']`.
fn innermost(scopes: &str) -> &str {
    let quoted: Vec<&str> = scopes.split('\'').skip(1).step_by(2).collect();
    quoted.iter().rev().nth(1).copied().unwrap_or_default()
}

/// The modules of a name such as `/layer1/layer1.0/conv1/Conv`: a child of a container repeats the
/// container's name.
fn from_name(name: &str) -> String {
    let Some((scope, _)) = name.strip_prefix('/').and_then(|n| n.rsplit_once('/')) else {
        return String::new();
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in scope.split('/') {
        let repeats = |parent: &&str| part.strip_prefix(*parent).is_some_and(|rest| rest.starts_with('.'));
        if parts.last().is_some_and(repeats) {
            parts.pop();
        }
        parts.push(part);
    }
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_exporters_are_understood() {
        let scopes = "['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'convolution']";
        assert_eq!(innermost(scopes), "layer1.0.conv1");
        assert_eq!(innermost("['']"), "");
        for (name, module) in [
            ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
            ("/conv1/Conv", "conv1"),
            ("/Flatten", ""),
            ("/encoder/layer.0/attention/self/query/MatMul", "encoder.layer.0.attention.self.query"),
            ("/backbone/features/features.0/features.0.0/Conv", "backbone.features.0.0"),
            ("Conv_12", ""),
            ("", ""),
        ] {
            assert_eq!(from_name(name), module, "{name}");
        }
    }
}
