//! What a model computes over data: statistics of its values, and the gradients of its loss. Everything is streamed: of a
//! batch nothing is kept but sums.
//!
//! [`observe`] runs a model over data and hands the values asked for to [`Statistic`]s: a further one is a file with its
//! `add`. [`evidence`] gathers what criteria need ([`crate::prune::evidence::Need`]).

mod activations;
mod channels;
mod evidence;
mod flow;
mod gradients;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use secateur_model::{Error, Model, Node, Result, ResultExt, Tensor};
use secateur_runtime::{Limits, Session};
use serde::{Deserialize, Serialize};

pub(crate) use self::activations::{along, node_of};
pub use self::channels::{Along, Channels};
pub use self::evidence::{check_data, evidence, needs_data};
pub use self::plan::plan;
use crate::data::{Batches, InputSpec, LossOptions, TrainData};
use crate::progress::Progress;

/// What a model is observed on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CalibrateOptions {
    /// The data.
    pub data: TrainData,
    /// The loss whose gradients are taken.
    pub loss: LossOptions,
    /// The output that the loss is computed from; the first by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// What a run of the model may take; [`Limits::of_machine`] by default.
    #[serde(skip)]
    pub limits: Option<Limits>,
}

/// Batches of data for a model's inputs.
///
/// # Errors
/// Where data cannot be read or do not fit the inputs.
pub fn batches(model: &Model, data: &TrainData) -> Result<Batches> {
    let inputs = InputSpec::of(model.graph()?)?;
    Batches::new(data.data.open()?, data.preprocess.clone(), inputs, &data.sampling)
}

/// A session of a model that runs within limits.
pub(crate) fn session(model: &Arc<Model>, limits: Option<Limits>) -> Result<Session> {
    let session = Session::new(model.clone(), secateur_model::Patch::new())?;
    Ok(session.within(limits.unwrap_or_else(Limits::of_machine)))
}

/// A node that gives its first input instead.
fn identity(node: &Node) -> Node {
    let mut identity = node.clone();
    identity.op_type = "Identity".into();
    identity.domain.clear();
    identity.inputs.truncate(1);
    identity.outputs.truncate(1);
    identity.attrs.clear();
    identity
}

/// Rows of a value: without padding, the samples along the first axis.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The elements in row-major order.
    pub values: &'a [f32],
    /// The shape, rows first.
    pub shape: &'a [usize],
}

/// Something that is summed up over the rows of a value.
pub trait Statistic {
    /// Adds rows. Each sum is taken in the order of the rows, so that neither threads nor the way in which rows are
    /// divided over calls change it.
    ///
    /// # Errors
    /// Where the shape is another one than that of the rows before.
    fn add(&mut self, rows: Rows<'_>) -> Result<()>;
}

/// Runs a model over data and adds values inside it to statistics: each value by its name, or by that of its node. Rows
/// that pad a last batch are left out. One step of progress is a batch.
///
/// # Errors
/// `Usage` where there is no such value, `Unsupported` where it is not f32 or has no rows for each sample; those of runs.
pub fn observe(
    session: &Session,
    batches: &Batches,
    wanted: &mut [(&str, &mut dyn Statistic)],
    progress: &dyn Progress,
) -> Result<()> {
    let names: BTreeSet<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let names: Vec<&str> = names.into_iter().collect();
    for batch in batches {
        let batch = batch?;
        let (rows, samples) = (batch.rows(), batch.indices.len());
        session.observe(batch.inputs, &names, &mut |seen| {
            for (name, statistic) in wanted.iter_mut().filter(|(name, _)| *name == seen.name) {
                add(&mut **statistic, seen.tensor, seen.offset, [rows, samples])
                    .at(|| format!("value `{name}`"))?;
            }
            Ok(())
        })?;
        progress.advance(1);
    }
    Ok(())
}

/// Adds those rows of a piece of a value that belong to samples.
fn add(
    statistic: &mut dyn Statistic,
    tensor: &Tensor,
    offset: usize,
    [rows, samples]: [usize; 2],
) -> Result<()> {
    let values = tensor
        .values::<f32>()
        .map_err(|_| Error::unsupported(format!("expected f32 to observe, found {}", tensor.dtype())))?;
    let Some(&own) = tensor.shape().first().filter(|&&own| own > 0) else {
        return Err(Error::unsupported("has no axis of samples to observe"));
    };
    // A value may have several rows a sample, such as one for each position; it comes whole then.
    let of_sample = if offset == 0 && own > rows { own / rows } else { 1 };
    if offset == 0 && own > rows && own % rows != 0 {
        let shape = tensor.shape();
        return Err(Error::unsupported(format!(
            "its shape {shape:?} has no rows for each of {rows} samples"
        )));
    }
    let kept = own.min((samples * of_sample).saturating_sub(offset));
    let mut shape = tensor.shape().to_vec();
    shape[0] = kept;
    statistic.add(Rows { values: &values[..values.len() / own * kept], shape: &shape })
}
