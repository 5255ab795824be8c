//! Attention over heads.

use super::axes::{Axis, Slot, Statement};
use super::{Fact, Facts, Op, broadcast, count_of, len_of};
use crate::{Error, Node, Result};

pub(super) const OPS: &[Op] =
    &[Op::new("Attention", 23, infer).types(&[&[0, 1, 4], &[2, 5]]).axes(axes).macs(macs)];

/// The extents of an `Attention` node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Samples.
    pub batch: usize,
    /// Heads of the queries.
    pub q_heads: usize,
    /// Heads of keys and values; divides the queries' heads, neighbours share one.
    pub kv_heads: usize,
    /// Queries.
    pub queries: usize,
    /// Keys and values that come in.
    pub keys: usize,
    /// Keys and values that were there before.
    pub past: usize,
    /// Elements of a query and a key.
    pub width: usize,
    /// Elements of a value.
    pub value_width: usize,
    /// Whether the operands are `[batch, sequence, heads · width]` instead of
    /// `[batch, heads, sequence, width]`.
    pub packed: bool,
}

impl Heads {
    /// The extents for operands of the given shapes; `past` is the shape of the earlier keys.
    ///
    /// # Errors
    /// Where shapes and attributes do not fit each other.
    pub fn new(node: &Node, q: &[usize], k: &[usize], v: &[usize], past: Option<&[usize]>) -> Result<Self> {
        let wrong =
            || Error::input(format!("queries {q:?}, keys {k:?} and values {v:?} do not fit each other"));
        let attribute = |name: &str| -> Result<usize> {
            let count =
                node.int(name)?.ok_or_else(|| Error::input(format!("attribute `{name}` is missing")))?;
            usize::try_from(count).ok().filter(|&n| n > 0).ok_or_else(|| {
                Error::input(format!("attribute `{name}` is {count}, expected a positive number"))
            })
        };
        // Heads, sequence and width of an operand.
        let split = |shape: &[usize], name: &str| -> Result<[usize; 3]> {
            match *shape {
                [_, heads, sequence, width] => Ok([heads, sequence, width]),
                [_, sequence, hidden] => {
                    let heads = attribute(name)?;
                    if hidden % heads != 0 {
                        return Err(Error::input(format!("{heads} heads do not divide the width {hidden}")));
                    }
                    Ok([heads, sequence, hidden / heads])
                }
                _ => Err(wrong()),
            }
        };
        let [q_heads, queries, width] = split(q, "q_num_heads")?;
        let [kv_heads, keys, k_width] = split(k, "kv_num_heads")?;
        let [v_heads, values, value_width] = split(v, "kv_num_heads")?;
        let past = match past {
            None => 0,
            Some(&[b, heads, length, w]) if b == q[0] && heads == kv_heads && w == width => length,
            Some(other) => return Err(Error::input(format!("earlier keys {other:?} do not fit keys {k:?}"))),
        };
        let heads = Heads {
            batch: q[0],
            q_heads,
            kv_heads,
            queries,
            keys,
            past,
            width,
            value_width,
            packed: q.len() == 3,
        };
        let fits = q.len() == k.len()
            && k.len() == v.len()
            && k[0] == q[0]
            && v[0] == q[0]
            && k_width == width
            && v_heads == kv_heads
            && values == keys
            && kv_heads > 0
            && q_heads % kv_heads == 0;
        if !fits {
            return Err(wrong());
        }
        len_of(&[heads.batch, q_heads, queries, value_width])?;
        len_of(&heads.scores())?;
        Ok(heads)
    }

    /// All keys, earlier ones included.
    pub fn total(&self) -> usize {
        self.past + self.keys
    }

    /// The shape of the scores.
    pub fn scores(&self) -> [usize; 4] {
        [self.batch, self.q_heads, self.queries, self.total()]
    }

    /// The shape of the result.
    pub fn output(&self) -> Vec<usize> {
        if self.packed {
            vec![self.batch, self.queries, self.q_heads * self.value_width]
        } else {
            vec![self.batch, self.q_heads, self.queries, self.value_width]
        }
    }
}

fn heads(node: &Node, inputs: Facts<'_>) -> Result<Option<Heads>> {
    let (Some(q), Some(k), Some(v)) =
        (inputs.need(0)?.shape(), inputs.need(1)?.shape(), inputs.need(2)?.shape())
    else {
        return Ok(None);
    };
    if inputs.get(4).is_some() && inputs.shape(4).is_none() {
        return Ok(None);
    }
    Heads::new(node, q, k, v, inputs.shape(4)).map(Some)
}

/// Outputs: the result, keys and values with the earlier ones before them, and the scores.
fn infer(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let dtype = inputs.dtype(0);
    let Some(heads) = heads(node, inputs)? else { return Ok(vec![Fact::unknown(dtype); 4]) };
    if let Some(mask) = inputs.shape(3) {
        // A mask may be shorter than the keys.
        let shorter = mask.last().is_none_or(|&n| n <= heads.total());
        let rows = &mask[..mask.len().saturating_sub(1)];
        if !shorter || broadcast(&[&heads.scores()[..3], rows])? != heads.scores()[..3] {
            return Err(Error::input(format!("a mask {mask:?} for scores {:?}", heads.scores())));
        }
    }
    let Heads { batch, kv_heads, past, value_width, .. } = heads;
    inputs.expect(5, "the earlier values", &[&[batch, kv_heads, past, value_width]])?;
    inputs.expect(6, "the numbers of keys that are no padding", &[&[batch]])?;
    let cache = |width: usize| vec![heads.batch, heads.kv_heads, heads.total(), width];
    let fact = |shape: Vec<usize>| Fact { dtype, shape: Some(shape), ..Fact::default() };
    Ok(vec![
        fact(heads.output()),
        fact(cache(heads.width)),
        Fact { dtype: inputs.dtype(2), ..fact(cache(heads.value_width)) },
        fact(heads.scores().to_vec()),
    ])
}

fn macs(node: &Node, inputs: Facts<'_>, _: &[Fact]) -> Result<u64> {
    let Some(heads) = heads(node, inputs)? else { return Ok(0) };
    count_of(heads.scores().iter().chain(&[heads.width + heads.value_width]))
}

/// Queries and keys share the elements of a head, keys and values the positions; each head of keys and values serves
/// several of the queries. Positions count where there is a mask, a past or a causal order.
fn axes(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let past_shape = axes.shape(4);
    let past = axes.has_input(4).then_some(&past_shape[..]);
    let heads = Heads::new(node, &axes.shape(0), &axes.shape(1), &axes.shape(2), past)?;
    let [batch, queries, keys] = [heads.batch, heads.queries, heads.keys].map(|extent| axes.dim(extent));
    let [kv, shared] = [heads.kv_heads, heads.q_heads / heads.kv_heads].map(|extent| axes.dim(extent));
    let [width, value_width] = [heads.width, heads.value_width].map(|extent| axes.dim(extent));
    let q_heads = axes.product(&[kv, shared]);
    let operand = |axes: &mut Statement<'_>, own: &[Axis], heads: Axis, positions: Axis, width: Axis| {
        if own.len() == 3 {
            let hidden = axes.product(&[heads, width]);
            axes.same_all(own, &[batch, positions, hidden]);
        } else {
            axes.same_all(own, &[batch, heads, positions, width]);
        }
    };
    for (own, heads, positions, width) in [
        (axes.input(0), q_heads, queries, width),
        (axes.input(1), kv, keys, width),
        (axes.input(2), kv, keys, value_width),
        (axes.output(0), q_heads, queries, value_width),
    ] {
        operand(axes, &own, heads, positions, width);
    }
    axes.fix_all(&[queries, keys]);
    let past = axes.dim(heads.past);
    axes.fix(past);
    let all = axes.concat(&[past, keys]);
    for (own, positions, width) in [
        (axes.input(4), past, width),
        (axes.input(5), past, value_width),
        (axes.output(1), all, width),
        (axes.output(2), all, value_width),
    ] {
        axes.same_all(&own, &[batch, kv, positions, width]);
    }
    let scores = [batch, q_heads, queries, all];
    axes.same_all(&axes.output(3), &scores);
    axes.meet_all(&axes.input(3), &scores);
    axes.input(3).last().into_iter().for_each(|&axis| axes.fix(axis));
    axes.along(6, batch);
    if heads.packed {
        axes.write(Slot::Attr("q_num_heads"), q_heads);
        axes.write(Slot::Attr("kv_num_heads"), kv);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;

    #[test]
    fn packed_heads_are_unpacked() {
        let mut node = Node::default();
        node.attrs.insert("q_num_heads".into(), Attr::Int(4));
        node.attrs.insert("kv_num_heads".into(), Attr::Int(2));
        let heads = Heads::new(&node, &[1, 5, 32], &[1, 7, 16], &[1, 7, 6], None).unwrap();
        assert_eq!((heads.width, heads.value_width, heads.total()), (8, 3, 7));
        assert_eq!(heads.output(), [1, 5, 12]);
        assert!(Heads::new(&node, &[1, 5, 30], &[1, 7, 16], &[1, 7, 6], None).is_err());
    }

    #[test]
    fn heads_that_do_not_divide_are_refused() {
        let node = Node::default();
        assert!(Heads::new(&node, &[1, 3, 5, 8], &[1, 2, 7, 8], &[1, 2, 7, 8], None).is_err());
        assert!(Heads::new(&node, &[1, 4, 5, 8], &[1, 2, 7, 8], &[1, 2, 6, 8], None).is_err());
    }
}
