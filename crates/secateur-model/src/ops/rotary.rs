//! Rotary position embedding (Su et al., RoFormer, arXiv:2104.09864).

use super::axes::{Slot, Statement};
use super::number::{Float, with_float};
use super::unary::infer_same;
use super::{Inputs, Op};
use crate::{Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] =
    &[Op::new("RotaryEmbedding", 23, infer_same).types(&[&[0, 1, 2]]).axes(axes).eval(eval_rotary)];

/// Where the heads of each token lie in the input.
struct Layout {
    batch: usize,
    heads: usize,
    sequence: usize,
    head: usize,
    /// Batch, heads, sequence, head; otherwise batch, sequence, heads, head (joined).
    heads_first: bool,
}

impl Layout {
    fn of(node: &Node, shape: &[usize]) -> Result<Self> {
        match *shape {
            [batch, heads, sequence, head] => Ok(Layout { batch, heads, sequence, head, heads_first: true }),
            [batch, sequence, hidden] => {
                let heads = usize::try_from(node.int_or("num_heads", 0)?).unwrap_or(0);
                if heads == 0 || !hidden.is_multiple_of(heads) {
                    return Err(Error::input(format!(
                        "num_heads is {heads}, expected a divisor of the hidden size {hidden}"
                    )));
                }
                Ok(Layout { batch, heads, sequence, head: hidden / heads, heads_first: false })
            }
            _ => Err(Error::input(format!("expected an input of 3 or 4 axes, found the shape {shape:?}"))),
        }
    }

    fn offset(&self, batch: usize, position: usize, head: usize) -> usize {
        let row = if self.heads_first {
            (batch * self.heads + head) * self.sequence + position
        } else {
            (batch * self.sequence + position) * self.heads + head
        };
        row * self.head
    }
}

/// Rotates pairs of the first `rotary_embedding_dim` elements of each head (all by default) by the
/// angles of the token's position. Pairs are neighbours where `interleaved`, else i and i + half.
/// The caches' rows are those at `position_ids`, or one for each token.
fn eval_rotary(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (x, cos, sin) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
    let layout = Layout::of(node, x.shape())?;
    let interleaved = node.int_or("interleaved", 0)? != 0;
    let rotated = match usize::try_from(node.int_or("rotary_embedding_dim", 0)?) {
        Ok(0) => layout.head,
        Ok(dim) if dim <= layout.head => dim,
        _ => {
            return Err(Error::input(format!("rotary_embedding_dim is above the head size {}", layout.head)));
        }
    };
    let half = rotated / 2;
    let tokens = layout.batch * layout.sequence;
    let rows = match inputs.get(3) {
        Some(ids) => ids.to_i64s()?.into_iter().map(|id| usize::try_from(id).unwrap_or(usize::MAX)).collect(),
        None => (0..tokens).collect::<Vec<usize>>(),
    };
    if rows.len() != tokens {
        return Err(Error::input(format!("{} position ids, expected {tokens}", rows.len())));
    }
    for cache in [cos, sin] {
        let available = cache.len() / half.max(1);
        if !rotated.is_multiple_of(2) || cache.shape().last() != Some(&half) {
            return Err(Error::input(format!(
                "a cache of shape {:?}, expected rows of half the {rotated} rotated elements",
                cache.shape()
            )));
        }
        if rows.iter().any(|&row| row >= available) {
            return Err(Error::input(format!("a position is outside the {available} rows of a cache")));
        }
    }
    with_float!(x.dtype(), F => {
        let (cos, sin) = (F::load(cos)?, F::load(sin)?);
        let mut values = F::load(x)?.into_owned();
        for (token, &row) in rows.iter().enumerate() {
            let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
            for head in 0..layout.heads {
                let at = layout.offset(token / layout.sequence, token % layout.sequence, head);
                let head = &mut values[at..at + rotated];
                for (i, (&c, &s)) in cos.iter().zip(sin).enumerate() {
                    let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                    (head[a], head[b]) = (c * head[a] - s * head[b], s * head[a] + c * head[b]);
                }
            }
        }
        Ok(vec![F::store(values, x.dtype(), x.shape())?])
    })
}

/// Pairs of elements of a head are rotated by the angle of their position.
fn axes(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged();
    let x = axes.need(0, 3)?;
    let layout = Layout::of(node, &axes.shape(0))?;
    let [head, element] = [layout.heads, layout.head].map(|extent| axes.dim(extent));
    axes.fix(element);
    let (positions, last) = match layout.heads_first {
        true => (x[2], element),
        false => (x[1], axes.product(&[head, element])),
    };
    axes.same(x[x.len() - 1], last);
    if !layout.heads_first {
        axes.write(Slot::Attr("num_heads"), head);
    }
    axes.fix(positions);
    // Without positions the caches have a row for each token.
    for cache in [axes.input(1), axes.input(2)] {
        axes.fix_all(&cache);
    }
    if axes.has_input(3) {
        axes.meet_all(&axes.input(3), &[x[0], positions]);
    } else {
        axes.fix(x[0]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::ops::testing::{close, eval, node, with_attr};

    #[test]
    fn a_quarter_turn() {
        // One head of two tokens: the first stands still, the second turns by 90 degrees.
        let x = Tensor::new([1, 1, 2, 4], vec![1f32, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]).unwrap();
        let cos = Tensor::new([2, 2], vec![1f32, 1.0, 0.0, 0.0]).unwrap();
        let sin = Tensor::new([2, 2], vec![0f32, 0.0, 1.0, 1.0]).unwrap();
        let ids = Tensor::new([1, 2], vec![0i64, 1]).unwrap();
        let op = node("RotaryEmbedding", 23);
        let y = eval(&op, &[&x, &cos, &sin, &ids]).unwrap();
        close(&y[0], &[1.0, 2.0, 3.0, 4.0, -3.0, -4.0, 1.0, 2.0], 0.0);
        let pairs = with_attr(op.clone(), "interleaved", Attr::Int(1));
        let y = eval(&pairs, &[&x, &cos, &sin, &ids]).unwrap();
        close(&y[0], &[1.0, 2.0, 3.0, 4.0, -2.0, 1.0, -4.0, 3.0], 0.0);
        let outside = Tensor::new([1, 2], vec![0i64, 2]).unwrap();
        assert!(eval(&op, &[&x, &cos, &sin, &outside]).is_err());
        let negative = Tensor::new([1, 2], vec![0i64, -1]).unwrap();
        assert!(eval(&op, &[&x, &cos, &sin, &negative]).is_err());
    }
}
