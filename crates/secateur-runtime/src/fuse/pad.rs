//! Padding with zeros before a convolution becomes the convolution's own.

use secateur_model::{Attr, Node};

use super::FusionGraph;

pub(super) fn fuse(graph: &mut FusionGraph<'_>, index: usize) {
    let Some((data, pads)) = graph.items[index].as_ref().and_then(|item| padded(graph, &item.node)) else {
        return;
    };
    let Some(mut item) = graph.remove(index) else { return };
    item.node.inputs[0] = Some(data);
    item.node.attrs.shift_remove("auto_pad");
    item.node.attrs.insert("pads".into(), Attr::Ints(pads));
    graph.place(index, item);
}

/// What a convolution's input is before its padding with zeros, and both paddings together.
fn padded(graph: &FusionGraph<'_>, node: &Node) -> Option<(secateur_model::ValueId, Vec<i64>)> {
    let takes = node.op_type == "Conv" && node.domain.is_empty();
    if !takes || !matches!(node.str_or("auto_pad", "NOTSET").ok()?, "NOTSET" | "VALID") {
        return None;
    }
    let (_, pad) = graph.producer(node.inputs.first().copied().flatten()?, "Pad")?;
    let data = pad.inputs.first().copied().flatten()?;
    let rank = graph.shape(data)?.len();
    if pad.str_or("mode", "constant").ok()? != "constant" {
        return None;
    }
    let given = |i: usize| pad.inputs.get(i).copied().flatten();
    let (amounts, value) = match given(1) {
        // Before opset 11 both are attributes.
        None => (
            pad.ints("pads").ok()?.or(pad.ints("paddings").ok()?)?.to_vec(),
            pad.float_or("value", 0.0).ok()?,
        ),
        Some(amounts) => (
            graph.constant(amounts)?.to_i64s().ok()?,
            match given(2) {
                None => 0.0,
                Some(value) => graph.scalar(value)?,
            },
        ),
    };
    // With axes given, the pads are of these axes alone.
    let all_axes = given(3).is_none() && amounts.len() == 2 * rank;
    if !all_axes || value != 0.0 || amounts.iter().any(|&p| p < 0) {
        return None;
    }
    let (before, after) = amounts.split_at(rank);
    if before[..2] != [0, 0] || after[..2] != [0, 0] {
        return None;
    }
    let spatial = rank - 2;
    let own = match node.ints("pads").ok()? {
        Some(own) if own.len() == 2 * spatial && node.str_or("auto_pad", "NOTSET").ok()? == "NOTSET" => {
            own.to_vec()
        }
        Some(_) if node.str_or("auto_pad", "NOTSET").ok()? == "NOTSET" => return None,
        _ => vec![0; 2 * spatial],
    };
    let added = before[2..].iter().chain(&after[2..]);
    let sums: Option<Vec<i64>> = own.iter().zip(added).map(|(a, b)| a.checked_add(*b)).collect();
    Some((data, sums?))
}
