//! Which weights stay zero while others change.

use std::collections::BTreeMap;
use std::sync::Arc;

use secateur_model::prunable::{Entry, ReasonKind};
use secateur_model::{Result, TensorId};

use super::units::Units;
use super::{ChannelAxis, Mask, MaskMap, Subject};

/// The masks that hold in training: those that are given; of other weights that train, what is zero; and of biases and
/// batch-norms, what is zero in output channels without weights. A table of constants has no mask of its zeros.
///
/// # Errors
/// Where a tensor cannot be read.
pub fn held(subject: &Subject<'_>, given: &MaskMap, variables: &[TensorId]) -> Result<MaskMap> {
    let model = subject.model;
    let mut masks = given.clone();
    let is_table = |entry: &&Entry| entry.reason().is_some_and(|reason| reason.kind == ReasonKind::Table);
    let weights = subject.entries()?.iter().filter(|entry| !is_table(entry)).filter_map(Entry::view);
    let mut companions: BTreeMap<TensorId, Mask> = BTreeMap::new();
    for view in weights.filter(|view| variables.contains(&view.tensor)) {
        let stored = model.tensor(view.tensor);
        let mask = match masks.get(&view.tensor) {
            Some(given) => given.clone(),
            None => {
                let values = stored.load()?.to_f32s()?;
                if !values.contains(&0.0) {
                    continue;
                }
                let zeros = Arc::new(Mask::from_fn(values.len(), |i| values[i] != 0.0));
                masks.insert(view.tensor, zeros.clone());
                zeros
            }
        };
        // Channels that cannot be told apart were not pruned as such.
        let Ok(units) = ChannelAxis::Out.units(view, &stored.shape) else { continue };
        let Some(channels) = emptied(&units, &mask) else { continue };
        for companion in view.bias.iter().chain(&view.followers).filter(|companion| companion.exclusive) {
            let id = companion.tensor;
            let values = model.tensor(id).load()?.to_f32s()?;
            if variables.contains(&id) && values.len() == channels.len() {
                let mask = Mask::from_fn(values.len(), |i| channels.keeps(i) || values[i] != 0.0);
                let mask = companions.get(&id).map_or(Ok(mask.clone()), |known| known.and(&mask))?;
                companions.insert(id, mask);
            }
        }
    }
    for (id, mask) in companions.into_iter().filter(|(_, mask)| mask.pruned() > 0) {
        let both = masks.get(&id).map_or(Ok(mask.clone()), |given| given.and(&mask))?;
        masks.insert(id, Arc::new(both));
    }
    Ok(masks)
}

/// The mask of the channels that have weights left; `None` where all have.
fn emptied(units: &Units, weights: &Mask) -> Option<Mask> {
    let mut kept = vec![false; units.count()];
    units.for_each_run(|start, len, first, step| {
        (0..len).filter(|i| weights.keeps(start + i)).for_each(|i| kept[first + i * step] = true);
    });
    kept.contains(&false).then(|| Mask::from_fn(kept.len(), |i| kept[i]))
}
