//! Which patterns the zeros of a tensor form.

use secateur_model::Result;
use secateur_model::prunable::PrunableView;
use serde::Serialize;

use crate::format::percent;
use crate::measure::Count;
use crate::prune::criteria::norm::unit_nonzeros;
use crate::prune::units::Units;
use crate::prune::weights::Weights;
use crate::prune::{Block, ChannelAxis};

/// The patterns N:M that are looked for, as far as an earlier one does not hold: what hardware knows, and what
/// it implies.
const N_OF_M: [(usize, usize); 2] = [(2, 4), (4, 8)];
/// Output × input channels of the blocks that are counted.
const BLOCK: (usize, usize) = (4, 4);

/// Which patterns the zeros of a tensor form. `None` where the tensor has no such units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PatternFound {
    /// Output channels; those that are all zero are the zeros of this count.
    pub output_channels: Option<Count>,
    /// Input channels.
    pub input_channels: Option<Count>,
    /// N and M where at most N of each M consecutive input channels are not zero: 2:4, or else 4:8.
    pub n_of_m: Option<(usize, usize)>,
    /// Blocks of 4 output × 4 input channels at one position.
    pub blocks: Option<Count>,
}

/// Finds the patterns that the zeros of a tensor form.
pub fn pattern_found(weights: &Weights<'_>, view: &PrunableView, shape: &[usize]) -> PatternFound {
    let count = |units: Result<Units>| {
        let nonzeros = unit_nonzeros(weights, &units.ok()?);
        let nonzero = nonzeros.iter().filter(|&&n| n > 0).count() as u64;
        Some(Count { nonzero, total: nonzeros.len() as u64 })
    };
    let block = |(rows, columns): (usize, usize)| Block::new(rows, columns)?.units(view, shape);
    // A group of N:M is a block of one output.
    let holds = |&(n, m): &(usize, usize)| {
        block((1, m)).is_ok_and(|groups| {
            groups.size() == m && unit_nonzeros(weights, &groups).iter().all(|&nonzero| nonzero as usize <= n)
        })
    };
    PatternFound {
        output_channels: count(ChannelAxis::Out.units(view, shape)),
        input_channels: count(ChannelAxis::In.units(view, shape)),
        n_of_m: N_OF_M.into_iter().find(holds),
        blocks: count(block(BLOCK)),
    }
}

impl PatternFound {
    /// The patterns in brief, such as `2:4`, `4x4 30 %`, `out 12/64` or `in 3/16`: which N:M holds, the share of
    /// 4x4 blocks that are all zero, how many output and input channels are. Blocks are named where more than half
    /// of the tensor's zeros, whose share of it is `sparsity`, stand in them and not in whole channels anyway.
    /// Nothing where zeros stand singly.
    pub fn brief(&self, sparsity: f64) -> Vec<String> {
        let most = |count: Option<Count>| count.is_some_and(|c| c.sparsity() > 0.5 * sparsity);
        let some = |count: Option<Count>| count.filter(|c| c.nonzero < c.total);
        let channels = |what: &str, count: Option<Count>| {
            some(count).map(|c| format!("{what} {}/{}", c.total - c.nonzero, c.total))
        };
        let (rows, columns) = BLOCK;
        let in_blocks = most(self.blocks) && !most(self.output_channels) && !most(self.input_channels);
        let parts = [
            self.n_of_m.map(|(n, m)| format!("{n}:{m}")),
            some(self.blocks.filter(|_| in_blocks))
                .map(|c| format!("{rows}x{columns} {}", percent(c.sparsity()))),
            channels("out", self.output_channels),
            channels("in", self.input_channels),
        ];
        parts.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use secateur_model::model::Storage;
    use secateur_model::ops::AxisRole::{self, In, Out, Spatial};
    use secateur_model::{DType, Data, StoredTensor, TensorId};

    use super::*;

    /// What is found in a weight that is zero where `zero` says so of its index.
    fn found(shape: &[usize], roles: &[AxisRole], zero: impl Fn(&[usize]) -> bool) -> PatternFound {
        let strides = secateur_model::tensor::strides(shape);
        let values = (0..shape.iter().product()).map(|at: usize| {
            let index: Vec<usize> = strides.iter().zip(shape).map(|(s, extent)| at / s % extent).collect();
            if zero(&index) { 0.0 } else { 1.0 }
        });
        let data = Data::F32(values.collect());
        let storage = Storage::Data(Arc::new(data));
        let stored = StoredTensor { path: "w".into(), dtype: DType::F32, shape: shape.to_vec(), storage };
        let view = PrunableView {
            tensor: TensorId(0),
            node: "n".into(),
            op_type: "Conv".into(),
            module: String::new(),
            input: 1,
            roles: roles.to_vec(),
            groups: 1,
            group_axis: None,
            gates: 1,
            via: Vec::new(),
            bias: None,
            followers: Vec::new(),
            shared: Vec::new(),
            mask: None,
        };
        pattern_found(&Weights::of(&stored).unwrap(), &view, shape)
    }

    const CONV: [AxisRole; 4] = [Out, In, Spatial, Spatial];

    #[test]
    fn channels_are_found_whichever_axis_they_are() {
        let conv = found(&[8, 6, 3, 3], &CONV, |i| i[0] < 3 || i[1] == 5);
        assert_eq!(conv.output_channels, Some(Count { nonzero: 5, total: 8 }));
        assert_eq!(conv.input_channels, Some(Count { nonzero: 5, total: 6 }));
        assert_eq!(conv.n_of_m, None);
        assert_eq!(conv.brief(0.4), ["out 3/8", "in 1/6"]);
        // Stored as [in, out], as MatMul does.
        let matrix = found(&[6, 8], &[In, Out], |i| i[1] < 3);
        assert_eq!(matrix.output_channels, Some(Count { nonzero: 5, total: 8 }));
        assert_eq!(matrix.brief(0.375), ["out 3/8"]);
    }

    #[test]
    fn n_of_m_goes_along_the_input_channels_at_each_position() {
        let two_of_four = found(&[3, 8, 3, 3], &CONV, |i| (i[1] + i[2] + i[3]) % 4 < 2);
        assert_eq!(two_of_four.n_of_m, Some((2, 4)));
        assert_eq!(two_of_four.brief(0.5), ["2:4"]);
        let four_of_eight = found(&[16, 5], &[In, Out], |i| i[0] % 8 < 4);
        assert_eq!(four_of_eight.n_of_m, Some((4, 8)));
        let neither = found(&[3, 8, 3, 3], &CONV, |i| i[1] < 3);
        assert_eq!(neither.n_of_m, None);
        // Two input channels are no group of four.
        assert_eq!(found(&[8, 2], &[Out, In], |i| i[0] == 0).n_of_m, None);
    }

    #[test]
    fn blocks_are_counted_at_each_position() {
        let blocks = found(&[8, 8, 1, 2], &CONV, |i| i[0] / 4 == i[1] / 4 && i[3] == 1);
        assert_eq!(blocks.blocks, Some(Count { nonzero: 6, total: 8 }));
        assert_eq!(blocks.brief(0.25), ["4x4 25 %"]);
        assert!(blocks.brief(0.6).is_empty());
        // Whole channels are blocks too, but better named.
        let channels = found(&[8, 8], &[Out, In], |i| i[0] < 4);
        assert_eq!(channels.blocks, Some(Count { nonzero: 2, total: 4 }));
        assert_eq!(channels.brief(0.5), ["out 4/8"]);
        let dense = found(&[8, 8, 1, 1], &CONV, |_| false);
        assert!(dense.brief(0.0).is_empty());
    }
}
