//! The gradient of `Attention`.

use secateur_kernels::AttentionSpec;
use secateur_kernels::gradient::{AttentionOperands, attention_gradient};
use secateur_model::ops::attention::Heads;
use secateur_model::ops::len_of;
use secateur_model::{Result, Tensor};

use super::{Stage, plain, supported, viewed};
use crate::kernels::summed::summed_to;
use crate::kernels::{Backward, Build, Differentiated, GradientFn, Reads, Training};

pub(in crate::kernels) const GRADIENTS: &[(&str, GradientFn)] = &[("Attention", gradient)];

fn gradient(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    // Keys and values of earlier steps are a matter of inference.
    let past = [4, 5].iter().any(|&i| build.inputs.get(i).is_some());
    if past || !training.wants_any() || !supported(build) || build.node.outputs.len() != 1 {
        return Ok(None);
    }
    let mut forward = if build.views.is_plain() { plain(build)? } else { viewed(build)? };
    forward.scores_out = Some(Stage::Softmaxed);
    let (softcap, lays, out) = (forward.softcap, [forward.q, forward.k, forward.v], forward.out);
    let Heads { batch, q_heads, kv_heads, queries, keys, width, value_width, .. } = forward.heads;
    let spec = AttentionSpec {
        samples: batch,
        heads: q_heads,
        key_heads: kv_heads,
        queries,
        keys,
        width,
        value_width,
        scale: forward.scale,
    };
    let scores = forward.heads.scores();
    let shapes = (0..3).map(|i| Ok(build.shape(i)?.to_vec())).collect::<Result<Vec<_>>>()?;
    let mask = build.inputs.shape(3).map(<[usize]>::to_vec).filter(|_| training.wants(3));
    if mask.as_ref().is_some_and(|mask| mask.last() != Some(&keys)) {
        return Ok(None);
    }
    let reads = Reads { inputs: vec![0, 1, 2], outputs: vec![1] };
    let backward = Differentiated::of(reads, move |at: &mut Backward<'_>| {
        let dy = at.take_gradient()?;
        let operands = AttentionOperands {
            q: (at.input(0)?, lays[0]),
            k: (at.input(1)?, lays[1]),
            v: (at.input(2)?, lays[2]),
            weights: at.output(1)?,
            dy: (dy.values()?, out),
            softcap,
        };
        let [mut dq, mut dk, mut dv] = [
            at.pool.take(operands.q.0.len())?,
            at.pool.take(operands.k.0.len())?,
            at.pool.take(operands.v.0.len())?,
        ];
        let mut ds = match &mask {
            Some(_) => Some(at.pool.take(len_of(&scores)?)?),
            None => None,
        };
        attention_gradient(&spec, &operands, [&mut dq, &mut dk, &mut dv], ds.as_deref_mut());
        at.pool.reclaim(dy);
        let mut found = Vec::with_capacity(4);
        for (gradient, shape) in [dq, dk, dv].into_iter().zip(&shapes) {
            found.push(Some(Tensor::new(shape.clone(), gradient)?));
        }
        if let (Some(mask), Some(ds)) = (&mask, ds) {
            found.push(Some(summed_to(Tensor::new(scores, ds)?, mask, at.pool)?));
        }
        Ok(found)
    });
    Ok(Some(backward.forward(1, Some(Box::new(forward)))))
}
