//! What an operator says of its weights agrees with what it says of its axes: outputs are what the result has and
//! the data lack, inputs what the data have and the result lacks, kernel positions what neither has.

use std::collections::BTreeSet;

use secateur_model::axes::{Axis, GraphAxes, Space};
use secateur_model::infer::{Binding, Inference};
use secateur_model::ops::{self, AxisRole, Facts, WeightUse};
use secateur_model::{Model, ValueId};

/// The extents of one axis by where its dimensions occur.
struct Shares {
    /// In the result alone, in the data alone, in both, in neither.
    result: usize,
    data: usize,
    both: usize,
    neither: usize,
}

impl Shares {
    fn of(space: &Space, axis: Axis, result: &BTreeSet<Axis>, data: &BTreeSet<Axis>) -> Self {
        let mut shares = Shares { result: 1, data: 1, both: 1, neither: 1 };
        for dim in space.dims(axis) {
            *match (result.contains(&dim), data.contains(&dim)) {
                (true, false) => &mut shares.result,
                (false, true) => &mut shares.data,
                (true, true) => &mut shares.both,
                (false, false) => &mut shares.neither,
            } *= space.extent(dim);
        }
        shares
    }

    /// Whether an axis of this role may have these shares. A recurrent operator's data are also its own results; an operator of
    /// nothing but the weight sums over its inputs.
    fn fit(&self, role: AxisRole, recurrent: bool, alone: bool) -> bool {
        match role {
            AxisRole::Out => self.data == 1 && self.neither == 1,
            AxisRole::In => (self.neither == 1 || alone) && (self.result == 1 || recurrent),
            AxisRole::Spatial => self.result == 1 && self.data == 1 && self.both == 1,
            AxisRole::GateOut => self.data == 1 && self.neither == 1 && self.result > 1,
            AxisRole::Direction | AxisRole::Batch => self.data == 1 && self.neither == 1,
        }
    }
}

/// Checks the weights of the only node; gives how many axes it checked.
pub(crate) fn check(model: &Model) -> Result<usize, String> {
    let inference = Inference::of(model, &Binding::default()).map_err(|e| e.to_string())?;
    let axes = GraphAxes::stated(model, &inference).map_err(|e| e.to_string())?;
    let node = &model.graph().unwrap().nodes[0];
    let Some(weights) = ops::find(node).and_then(|op| op.weights) else { return Ok(0) };
    let operands = inference.operands(node);
    let mut checked = 0;
    for weight in weights(node, Facts(&operands)).map_err(|e| e.to_string())? {
        // All operands of an Einsum are data; behind the second one of other operators are biases and scales.
        let data = if node.op_type == "Einsum" { node.inputs.len() } else { 2 };
        checked += of_weight(&weight, (&node.inputs, data), node.outputs[0], &axes)
            .map_err(|why| format!("input {} with the roles {:?}: {why}", weight.input, weight.roles))?;
    }
    Ok(checked)
}

fn of_weight(
    weight: &WeightUse,
    (inputs, data): (&[Option<ValueId>], usize),
    output: Option<ValueId>,
    axes: &GraphAxes,
) -> Result<usize, String> {
    let space = axes.space();
    let of = |value: Option<ValueId>| value.and_then(|value| axes.value(value)).unwrap_or_default();
    let dims = |value: Option<ValueId>| of(value).iter().flat_map(|&axis| space.dims(axis));
    let result: BTreeSet<Axis> = dims(output).collect();
    // Of several weights, such as a recurrent operator's, the data are the first input.
    let recurrent = weight.roles.contains(&AxisRole::GateOut);
    let is_data = |input: usize| match recurrent {
        true => input == 0,
        false => input != weight.input && Some(input) != weight.bias && input < data,
    };
    let alone = inputs.len() == 1;
    let data: BTreeSet<Axis> =
        (0..inputs.len()).filter(|&input| is_data(input)).flat_map(|input| dims(inputs[input])).collect();
    let own = of(inputs[weight.input]);
    if own.len() != weight.roles.len() {
        return Err(format!("{} axes", own.len()));
    }
    let (mut checked, mut groups) = (0, 1);
    for (place, (&axis, &role)) in own.iter().zip(&weight.roles).enumerate() {
        let shares = Shares::of(space, axis, &result, &data);
        if !shares.fit(role, recurrent, alone) {
            let Shares { result, data, both, neither } = shares;
            return Err(format!(
                "axis {place} is {role:?}, but of it the result has {result}, the data {data}, both {both}, neither {neither}"
            ));
        }
        if matches!(role, AxisRole::Out | AxisRole::In) && !recurrent {
            groups *= shares.both;
        }
        if role == AxisRole::Out
            && let Some(place) = weight.out_axis
        {
            let there = of(output).get(place).map_or(Vec::new(), |&axis| space.dims(axis));
            if !space.dims(axis).iter().all(|dim| there.contains(dim)) {
                return Err(format!("its outputs are not axis {place} of the result"));
            }
        }
        checked += usize::from(space.extent(axis) > 1);
    }
    if groups != weight.groups {
        return Err(format!("{} groups, but data and result share {groups}", weight.groups));
    }
    if let (Some(out), Some(from_last)) = (weight.out_axis, weight.out_from_last)
        && of(output).len() != out + from_last + 1
    {
        return Err(format!("its outputs are axis {out} and axis {from_last} from the last"));
    }
    Ok(checked)
}
