//! Gathers what criteria know of layers from data.

use std::collections::BTreeMap;
use std::sync::Arc;

use secateur_model::model::Storage;
use secateur_model::prunable::PrunableView;
use secateur_model::{DType, Data, Error, Model, Result, ResultExt, StoredTensor, TensorId};

use super::activations::activations;
use super::gradients::{Wanted, check_labels, gradients};
use super::{CalibrateOptions, Channels, batches};
use crate::masters::Masters;
use crate::progress::Progress;
use crate::prune::evidence::{
    EvidenceSet, GRADIENT_SQUARES, GRADIENTS, Need, OUTPUT_MAGNITUDES, OUTPUT_ZEROS, SALIENCY,
};
use crate::prune::{ChannelAxis, MaskMap, Method, Pattern, PruneOptions, Subject};

/// What is gathered from gradients.
const OF_GRADIENTS: &[&Need] = &[&GRADIENTS, &GRADIENT_SQUARES, &SALIENCY];

/// A number of each channel.
type OfChannels = fn(&Channels) -> Vec<f64>;

/// What is gathered from activations: the need, and the statistic that meets it.
const OF_ACTIVATIONS: &[(&Need, OfChannels)] =
    &[(&OUTPUT_MAGNITUDES, Channels::magnitudes), (&OUTPUT_ZEROS, Channels::zeros)];

/// Whether a method needs data to calibrate on.
pub fn needs_data(method: &Method) -> bool {
    let of_activations = OF_ACTIVATIONS.iter().map(|(need, _)| *need);
    OF_GRADIENTS.iter().copied().chain(of_activations).any(|need| method.needs(need))
}

/// Checks, before long work, that a method has the data that it needs for a model.
///
/// # Errors
/// `Usage` where no data are given, or they have no labels that it needs; those of opening them.
pub fn check_data(model: &Model, method: &Method, data: Option<&CalibrateOptions>) -> Result<()> {
    if !needs_data(method) {
        return Ok(());
    }
    let data = data.ok_or_else(|| {
        Error::usage("looks at data: pass option `calibrate`").at(format!("method `{method}`"))
    })?;
    let batches = batches(model, &data.data).at(|| "the calibration data")?;
    match OF_GRADIENTS.iter().any(|need| method.needs(need)) {
        true => check_labels(&batches),
        false => Ok(()),
    }
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
    // The layers that methods select which need one of these.
    let selected = |needs: &[&Need]| -> Result<Vec<PrunableView>> {
        let mut found: BTreeMap<TensorId, PrunableView> = BTreeMap::new();
        for options in options.iter().filter(|options| needs.iter().any(|need| options.method.needs(need))) {
            let views = options.selector.select(model, options.entries(&subject)?)?;
            found.extend(views.into_iter().map(|view| (view.tensor, view)));
        }
        Ok(found.into_values().collect())
    };
    let needs = |need: &Need| options.iter().any(|options| options.method.needs(need));
    let wanted = Wanted {
        sums: needs(&GRADIENTS),
        squares: needs(&GRADIENT_SQUARES),
        saliency: patterns(options.iter().map(|options| options.method).filter(|m| m.needs(&SALIENCY))),
    };
    if !wanted.is_empty() {
        let views = selected(OF_GRADIENTS)?;
        for layer in gradients(model, &views, &wanted, data, progress)? {
            let stored = model.tensor(layer.tensor);
            for (need, found) in [(&GRADIENTS, layer.sums), (&GRADIENT_SQUARES, layer.squares)] {
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
    let of_activations: Vec<&Need> = OF_ACTIVATIONS.iter().map(|(need, _)| *need).collect();
    let views = selected(&of_activations)?;
    if !views.is_empty() {
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

/// What methods rank, each once: of single weights it is the same in groups.
fn patterns(methods: impl Iterator<Item = Method>) -> Vec<Pattern> {
    let mut found = Vec::new();
    for method in methods {
        let pattern = match method.pattern {
            Pattern::Nm(_) => Pattern::Unstructured,
            other => other,
        };
        if !found.contains(&pattern) {
            found.push(pattern);
        }
    }
    found
}

/// Numbers as evidence about a tensor.
pub(super) fn numbers(of: &StoredTensor, shape: Vec<usize>, values: Vec<f64>) -> (String, StoredTensor) {
    let storage = Storage::Data(Arc::new(Data::F64(values)));
    (of.path.clone(), StoredTensor { path: of.path.clone(), dtype: DType::F64, shape, storage })
}
