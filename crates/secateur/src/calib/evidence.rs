//! Gathers what criteria know of layers from data.

use std::collections::BTreeMap;
use std::sync::Arc;

use secateur_model::model::Storage;
use secateur_model::prunable::PrunableView;
use secateur_model::{DType, Data, Model, Result, StoredTensor, TensorId};

use super::activations::activations;
use super::gradients::{Wanted, gradients};
use super::{CalibrateOptions, Channels};
use crate::masters::Masters;
use crate::progress::Progress;
use crate::prune::evidence::{
    EvidenceSet, GRADIENT_SQUARES, GRADIENTS, Need, OUTPUT_MAGNITUDES, OUTPUT_ZEROS, SALIENCY,
};
use crate::prune::{ChannelAxis, MaskMap, Method, Pattern, PruneOptions, Subject};

/// What is gathered from activations: the need, and the statistic that meets it.
const OF_ACTIVATIONS: &[(&Need, fn(&Channels) -> Vec<f64>)] =
    &[(&OUTPUT_MAGNITUDES, Channels::magnitudes), (&OUTPUT_ZEROS, Channels::zeros)];

/// Whether a method needs data to calibrate on.
pub fn needs_data(method: &Method) -> bool {
    let of_gradients = [&GRADIENTS, &GRADIENT_SQUARES, &SALIENCY];
    of_gradients
        .into_iter()
        .chain(OF_ACTIVATIONS.iter().map(|(need, _)| *need))
        .any(|need| method.needs(need))
}

/// Gathers once what the methods of all these options need: of files, and where `data` are given of a model over them. Masks
/// hold in it. What is missing is left out; asking for it later is an error that says how to give it.
///
/// # Errors
/// Where files or data cannot be read or do not fit, data have no labels that a criterion needs, or gradients do not go
/// through a node.
pub fn evidence<'o>(
    model: &Arc<Model>,
    masks: &MaskMap,
    options: impl IntoIterator<Item = &'o PruneOptions>,
    data: Option<&CalibrateOptions>,
    progress: &dyn Progress,
) -> Result<EvidenceSet> {
    let options: Vec<&PruneOptions> = options.into_iter().collect();
    let mut set = EvidenceSet::gather(options.iter().copied())?;
    let Some(data) = data.filter(|_| options.iter().any(|options| needs_data(&options.method))) else {
        return Ok(set);
    };
    let masters = Masters::of(model, masks)?;
    let model = masters.in_f32();
    let subject = Subject::of(model);
    let selected = |need: &Need| -> Result<Vec<PrunableView>> {
        let mut found: BTreeMap<TensorId, PrunableView> = BTreeMap::new();
        for options in options.iter().filter(|options| options.method.needs(need)) {
            let views = options.selector.select(model, options.entries(&subject)?)?;
            found.extend(views.into_iter().map(|view| (view.tensor, view)));
        }
        Ok(found.into_values().collect())
    };
    let mut patterns: Vec<Pattern> = Vec::new();
    for options in options.iter().filter(|options| options.method.needs(&SALIENCY)) {
        let pattern = match options.method.pattern {
            Pattern::Nm(_) => Pattern::Unstructured,
            other => other,
        };
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
    }
    let needs = |need: &Need| options.iter().any(|options| options.method.needs(need));
    let wanted = Wanted { sums: needs(&GRADIENTS), squares: needs(&GRADIENT_SQUARES), saliency: patterns };
    if !wanted.is_empty() {
        let mut views: BTreeMap<TensorId, PrunableView> = BTreeMap::new();
        for need in [&GRADIENTS, &GRADIENT_SQUARES, &SALIENCY] {
            views.extend(selected(need)?.into_iter().map(|view| (view.tensor, view)));
        }
        let views: Vec<&PrunableView> = views.values().collect();
        for layer in gradients(model, &views, &wanted, data, progress)? {
            let stored = model.tensor(layer.tensor);
            let weights = [(&GRADIENTS, layer.sums), (&GRADIENT_SQUARES, layer.squares)];
            for (need, found) in weights {
                set.insert(need, found.map(|values| numbers(stored, stored.shape.clone(), values)));
            }
            for saliency in layer.saliency {
                let shape = match saliency.pattern {
                    Pattern::Unstructured => stored.shape.clone(),
                    _ => vec![saliency.sums.len()],
                };
                set.insert_for(&SALIENCY, saliency.pattern, [numbers(stored, shape, saliency.sums)]);
            }
        }
    }
    let mut views: BTreeMap<TensorId, PrunableView> = BTreeMap::new();
    for (need, _) in OF_ACTIVATIONS {
        views.extend(selected(need)?.into_iter().map(|view| (view.tensor, view)));
    }
    if !views.is_empty() {
        let views: Vec<&PrunableView> = views.values().collect();
        let found = activations(model, &views, data, progress)?;
        for (need, statistic) in OF_ACTIVATIONS.iter().filter(|(need, _)| needs(need)) {
            let tensors = views.iter().zip(&found).map(|(view, channels)| {
                numbers(model.tensor(view.tensor), vec![channels.len()], statistic(channels))
            });
            set.insert_for(need, Pattern::Channel(ChannelAxis::Out), tensors);
        }
    }
    Ok(set)
}

/// Numbers as evidence about a tensor.
pub(super) fn numbers(of: &StoredTensor, shape: Vec<usize>, values: Vec<f64>) -> (String, StoredTensor) {
    let storage = Storage::Data(Arc::new(Data::F64(values)));
    (of.path.clone(), StoredTensor { path: of.path.clone(), dtype: DType::F64, shape, storage })
}
