//! Which element of its operands an element of a result is, for nodes that only move elements.

use super::{FOLD_LIMIT, Fact, Facts, infer};
use crate::{DType, Node, Tensor};

/// Numbers that stand for the elements of an operand begin here, in two trials. All are exact in f32.
const LABELS: [i64; 2] = [1 << 20, 3 << 20];

/// The input and the place in it from which a node takes element `place` of an output: a small vector of numbers, such as
/// a shape. `None` where the element is computed.
///
/// Each input in turn gets other numbers for elements. What comes out is one of them, in both trials that of the same
/// place, where the node moves it.
pub(crate) fn moved_from(
    node: &Node,
    inputs: Facts<'_>,
    output: usize,
    place: usize,
) -> Option<(usize, usize)> {
    (0..inputs.0.len()).find_map(|input| {
        let given = inputs.value(input).filter(|value| value.len() <= FOLD_LIMIT)?;
        let find = |first: i64| -> Option<usize> {
            let mut facts = inputs.0.to_vec();
            facts[input] = Some(Fact::from(labelled(given, first)?));
            let found = infer(node, Facts(&facts)).ok()?.into_iter().nth(output)?.value?;
            let number = match found.dtype() {
                DType::F32 => *found.to_f32s().ok()?.get(place)? as i64,
                _ => *found.to_i64s().ok()?.get(place)?,
            };
            usize::try_from(number - first).ok().filter(|&at| at < given.len())
        };
        let [one, two] = LABELS.map(find);
        one.filter(|_| one == two).map(|at| (input, at))
    })
}

/// A tensor of the same type and shape that counts from `first` on.
fn labelled(tensor: &Tensor, first: i64) -> Option<Tensor> {
    let numbers = first..first + tensor.len() as i64;
    let shape = tensor.shape();
    match tensor.dtype() {
        DType::I64 => Tensor::new(shape, numbers.collect()),
        DType::I32 => Tensor::new(shape, numbers.map(|n| n as i32).collect()),
        DType::F32 => Tensor::new(shape, numbers.map(|n| n as f32).collect()),
        _ => return None,
    }
    .ok()
}

#[cfg(test)]
mod tests {
    use super::super::testing::node;
    use super::*;

    fn trace(op: &str, inputs: &[Tensor], place: usize) -> Option<(usize, usize)> {
        let facts: Vec<Option<Fact>> = inputs.iter().map(|tensor| Some(tensor.clone().into())).collect();
        let mut node = node(op, 21);
        if op == "Concat" {
            node.attrs.insert("axis".into(), crate::Attr::Int(0));
        }
        moved_from(&node, Facts(&facts), 0, place)
    }

    #[test]
    fn elements_are_found_where_they_come_from() {
        let ints = |values: &[i64]| Tensor::vector(values.to_vec());
        assert_eq!(trace("Concat", &[ints(&[3, 4]), ints(&[5])], 2), Some((1, 0)));
        assert_eq!(trace("Gather", &[ints(&[3, 4, 4]), ints(&[2, 0])], 0), Some((0, 2)));
        let backwards = [ints(&[7, 8, 9]), ints(&[-1]), ints(&[-4]), ints(&[0]), ints(&[-1])];
        assert_eq!(trace("Slice", &backwards, 0), Some((0, 2)));
        assert_eq!(trace("Reshape", &[ints(&[1, 2, 3, 4]), ints(&[2, 2])], 3), Some((0, 3)));
        // Computed, and made of as many elements as a number says.
        assert_eq!(trace("Mul", &[ints(&[3]), ints(&[4])], 0), None);
        assert_eq!(trace("ConstantOfShape", &[ints(&[3])], 0), None);
    }
}
