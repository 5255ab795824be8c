//! The gradient of `Attention`.

use secateur_kernels::AttentionSpec;
use secateur_kernels::gradient::{AttentionGradient, AttentionOperands};
use secateur_model::ops::attention::Heads;
use secateur_model::ops::len_of;
use secateur_model::{Error, Result, Tensor};

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
    let starts = forward.starts;
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
    // Operands that are parts of one tensor have one gradient, unless they have elements in common.
    let ids = &build.node.inputs;
    let joined = [0, 1, 2].map(|i| (0..i).find(|&first| ids[first] == ids[i]).unwrap_or(i));
    let pass = |homes: [usize; 3]| {
        let owners: Vec<usize> = (0..3).filter(|&i| homes[i] == i).collect();
        let buffer = |i: usize| owners.iter().position(|&owner| owner == homes[i]).unwrap_or(i);
        let lens = owners.iter().map(|&i| len_of(&shapes[i])).collect::<Result<Vec<_>>>()?;
        let places = [0, 1, 2].map(|i| (buffer(i), starts[i], lays[i]));
        Ok(AttentionGradient::new(&spec, places, &lens).map(|pass| (owners, pass)))
    };
    let found = match pass(joined)? {
        None => pass([0, 1, 2])?,
        found => found,
    };
    let (owners, pass) = found.ok_or_else(|| Error::internal("elements of an operand overlap"))?;
    let reads = Reads { inputs: vec![0, 1, 2], outputs: vec![1] };
    let backward = Differentiated::of(reads, move |at: &mut Backward<'_>| {
        let dy = at.take_gradient()?;
        let operands = AttentionOperands {
            q: (&at.input(0)?[starts[0]..], lays[0]),
            k: (&at.input(1)?[starts[1]..], lays[1]),
            v: (&at.input(2)?[starts[2]..], lays[2]),
            weights: at.output(1)?,
            dy: (dy.values()?, out),
            softcap,
        };
        let gradients = owners.iter().map(|&i| at.pool.take(shapes[i].iter().product()));
        let mut gradients = gradients.collect::<Result<Vec<_>>>()?;
        let mut ds = match &mask {
            Some(_) => Some(at.pool.take(len_of(&scores)?)?),
            None => None,
        };
        let mut buffers: Vec<&mut [f32]> = gradients.iter_mut().map(Vec::as_mut_slice).collect();
        pass.run(&operands, &mut buffers, ds.as_deref_mut());
        at.pool.reclaim(dy);
        let mut found = vec![None; 3];
        for (&i, gradient) in owners.iter().zip(gradients) {
            found[i] = Some(Tensor::new(shapes[i].clone(), gradient)?);
        }
        if let (Some(mask), Some(ds)) = (&mask, ds) {
            found.push(Some(summed_to(Tensor::new(scores, ds)?, mask, at.pool)?));
        }
        Ok(found)
    });
    Ok(Some(backward.forward(1, Some(Box::new(forward)))))
}
