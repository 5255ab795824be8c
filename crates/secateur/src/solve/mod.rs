//! Repair of pruned models without training: statistics over data, layer by layer.
//!
//! A [`Repairer`] goes through a model in graph order. Each layer is observed with everything in front of it repaired, so
//! that no layer makes up for an error that another one has made up for. One method is a file: `norms` re-estimates the
//! running statistics of batch-norms, `bias` corrects biases.

mod bias;
mod norms;
mod sites;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use secateur_model::text::listed;
use secateur_model::{Error, Model, Patch, Result, ResultExt, Tensor, TensorId};
use secateur_runtime::{Kernels, Limits, Session};
use serde::{Deserialize, Serialize};

use self::sites::{Site, Sites};
use crate::calib::{self, Channels, Statistic};
use crate::data::{Batches, TrainData};
use crate::masters::Masters;
use crate::progress::Progress;
use crate::prune::{Mask, MaskMap, Subject, held};

/// A way to repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Re-estimates the running statistics of batch-norms.
    Norms,
    /// Corrects biases, and the addends of batch-norms, by the means of the dense model.
    Bias,
}

impl Method {
    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Method::Norms => "norms",
            Method::Bias => "bias",
        }
    }
}

/// How a model is repaired.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepairOptions {
    /// The methods; none stands for each that applies.
    pub methods: Vec<Method>,
    /// The data; labels are not looked at.
    pub data: TrainData,
    /// What a run may take; [`Limits::of_machine`] by default.
    #[serde(skip)]
    pub limits: Option<Limits>,
}

/// What repairing did to a layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// The label of the batch-norm or layer.
    pub name: String,
    /// What was changed.
    pub methods: Vec<Method>,
    /// How many of its channels stay zero, since they are pruned.
    pub held: usize,
    /// The error of its mean outputs before and after, where there is a dense model: `√(Σ(E[y] − E[y_dense])² ÷ ΣVar[y_dense])`
    /// over the channels.
    pub error: Option<[f64; 2]>,
}

/// A repaired model.
#[derive(Clone)]
pub struct Repaired {
    /// The changes: statistics and biases, in the tensors' own types.
    pub patch: Patch,
    /// The layers, in graph order.
    pub layers: Vec<Layer>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// The statistics of the outputs of layers, by the values' names.
type Outputs = BTreeMap<String, Channels>;

/// The masks that hold, by the tensors' paths.
type HeldByPath = BTreeMap<String, Arc<Mask>>;

/// Repairs versions of one model.
pub struct Repairer {
    batches: Batches,
    norms: bool,
    bias: bool,
    /// Whether a method was asked for by name.
    asked: bool,
    /// Of the dense model.
    reference: Option<Outputs>,
    limits: Option<Limits>,
}

impl Repairer {
    /// Prepares the data for `model`. Biases are corrected by the means of the `reference`, the dense model with masks of
    /// its own.
    ///
    /// # Errors
    /// `Usage` where biases are to be corrected without a reference; where data cannot be read or do not fit.
    pub fn new(
        model: &Model,
        reference: Option<(&Arc<Model>, &MaskMap)>,
        options: &RepairOptions,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let asked = !options.methods.is_empty();
        let wants = |method| options.methods.contains(&method);
        let bias = wants(Method::Bias) || (!asked && reference.is_some());
        if bias && reference.is_none() {
            return Err(Error::usage(
                "biases are corrected by the means of the dense model: name it with option `reference`",
            ));
        }
        let batches = calib::batches(model, &options.data)?;
        let mut repairer = Repairer {
            batches,
            norms: wants(Method::Norms) || !asked,
            bias,
            asked,
            reference: None,
            limits: options.limits,
        };
        if let Some((reference, masks)) = reference {
            let masters = Masters::of(reference, masks).at(|| "the reference")?;
            let sites = Sites::of(&Subject::of(masters.in_f32()))?;
            progress.begin("observing the dense model", repairer.batches.len() as u64);
            let session = calib::session(masters.in_f32(), repairer.limits)?;
            let found = repairer.outputs(&session, &sites.all, progress).at(|| "the reference")?;
            repairer.reference = Some(found);
        }
        Ok(repairer)
    }

    /// Repairs a pruned model in which masks hold: entries of biases and addends that they prune stay zero, and so do those
    /// that are zero in channels without weights. Where `adds` says so, a layer without a bias gets one.
    ///
    /// # Errors
    /// `Usage` where nothing can be repaired, or the reference is another network; those of runs.
    pub fn repair(
        &self,
        model: &Arc<Model>,
        masks: &MaskMap,
        adds: bool,
        progress: &dyn Progress,
    ) -> Result<Repaired> {
        let masters = Masters::of(model, masks)?;
        let subject = Subject::of(masters.in_f32());
        let mut sites = Sites::of(&subject)?;
        let added = if self.bias { sites.give_biases(&masters, adds)? } else { Patch::new() };
        let mut notes = self.notes(&sites);
        if !sites.all.iter().any(|site| self.changes(site)) {
            let why = notes.pop().map_or_else(String::new, |note| format!(": {note}"));
            return Err(Error::usage(format!("nothing can be repaired{why}")));
        }
        let biases: Vec<TensorId> =
            sites.all.iter().filter_map(|site| site.bias_of(masters.in_f32())).collect();
        let weights = sites.weights.iter().copied().chain(biases);
        let held = held(&subject, masks, &weights.collect::<Vec<_>>())?;
        // By path, since a model with further biases may number its tensors otherwise.
        let path = |(id, mask): (TensorId, Arc<Mask>)| (subject.model.tensor(id).path.clone(), mask);
        let held: HeldByPath = held.into_iter().map(path).collect();
        let current = Arc::new(added.apply(masters.in_f32())?);
        let mut session = calib::session(&current, self.limits)?;
        let levels = sites.all.iter().map(|site| site.level + 1).max().unwrap_or(0);
        let checks = if self.reference.is_some() { 2 } else { 0 };
        progress.begin("repairing", ((levels + checks) * self.batches.len()) as u64);
        let before = self.checked(&session, &sites.all, progress)?;
        let mut state = State { model: &current, patch: Patch::by("repair") };
        let mut done: Vec<(Vec<Method>, usize)> = vec![(Vec::new(), 0); sites.all.len()];
        for level in 0..levels {
            let here: Vec<usize> = (0..sites.all.len()).filter(|&i| sites.all[i].level == level).collect();
            let changing: Vec<&Site> =
                here.iter().map(|&i| &sites.all[i]).filter(|site| self.changes(site)).collect();
            if changing.is_empty() {
                progress.advance(self.batches.len() as u64);
                continue;
            }
            session.update(state.patch.clone(), Kernels::Keep)?;
            let names: Vec<&str> = changing.iter().map(|site| site.observed.as_str()).collect();
            let inputs: Vec<&str> = session.inputs().iter().map(|info| info.name.as_str()).collect();
            let part = session.extract(&inputs, &names)?;
            let found = self.observe(&part, &names, &changing, progress)?;
            for i in here.into_iter().filter(|&i| self.changes(&sites.all[i])) {
                let site = &sites.all[i];
                done[i] = self
                    .repair_site(site, &found[&site.observed], &held, &mut state)
                    .at(|| site.name.clone())?;
            }
        }
        session.update(state.patch.clone(), Kernels::Keep)?;
        let after = self.checked(&session, &sites.all, progress)?;
        let errors =
            before.zip(after).map(|(before, after)| before.into_iter().zip(after).map(|(b, a)| [b, a]));
        let errors: Vec<[f64; 2]> = errors.into_iter().flatten().collect();
        let layers = sites.all.iter().zip(done).enumerate().map(|(i, (site, (methods, held)))| Layer {
            name: site.name.clone(),
            methods,
            held,
            error: errors.get(i).copied(),
        });
        let layers: Vec<Layer> = layers.collect();
        let kept: usize = layers.iter().map(|layer| layer.held).sum();
        if kept > 0 {
            notes.push(format!(
                "zero biases of pruned channels stay zero ({kept}): the masks hold, and the channels can still be removed"
            ));
        }
        Ok(Repaired { patch: sites.patch(&masters, &state.patch, &current)?, layers, notes })
    }

    /// Whether something about a site is to change.
    fn changes(&self, site: &Site) -> bool {
        (self.norms && site.norm.is_some()) || (self.bias && site.bias.is_some())
    }

    fn notes(&self, sites: &Sites) -> Vec<String> {
        let mut notes = Vec::new();
        let no_norms = sites.all.iter().all(|site| site.norm.is_none());
        if self.norms && no_norms {
            notes.push(
                "the model has no batch-norms to re-estimate: an exporter may have folded them".to_string(),
            );
        }
        if !self.bias && !self.asked {
            notes.push("biases stay: correcting them takes the dense model (option `reference`)".to_string());
        }
        if self.bias {
            let without: Vec<&str> =
                sites.all.iter().filter(|site| site.bias.is_none()).map(|site| site.name.as_str()).collect();
            if !without.is_empty() {
                notes.push(format!("layers without a bias that could be corrected: {}", listed(&without)));
            }
        }
        notes.extend(sites.notes.iter().cloned());
        notes
    }

    /// Changes what belongs to a site; gives the methods that did, and the number of entries that are held.
    fn repair_site(
        &self,
        site: &Site,
        seen: &Channels,
        held: &HeldByPath,
        state: &mut State<'_>,
    ) -> Result<(Vec<Method>, usize)> {
        let mut methods = Vec::new();
        if let Some(norm) = site.norm.as_ref().filter(|_| self.norms) {
            norms::reestimate(norm, seen, state)?;
            methods.push(Method::Norms);
        }
        let mut kept = 0;
        if self.bias
            && let Some(bias) = &site.bias
            && let Some(reference) = &self.reference
        {
            let dense = reference.get(&site.output).ok_or_else(|| {
                let output = &site.output;
                Error::usage(format!(
                    "the reference has no layer with the output `{output}`: expected the same network before pruning"
                ))
            })?;
            let means = match &site.norm {
                Some(norm) => norms::output_means(norm, seen, state)?,
                None => seen.means(),
            };
            let mask = held.get(bias).map(|mask| &**mask);
            if bias::correct(bias, &means, dense, mask, state)? {
                methods.push(Method::Bias);
            }
            kept = mask.map_or(0, Mask::pruned);
        }
        Ok((methods, kept))
    }

    /// The statistics of the values that sites are observed at.
    fn observe(
        &self,
        part: &Session,
        names: &[&str],
        sites: &[&Site],
        progress: &dyn Progress,
    ) -> Result<Outputs> {
        let mut found: Vec<(&str, Channels)> =
            names.iter().zip(sites).map(|(name, site)| (*name, Channels::new(site.along))).collect();
        found.sort_by_key(|(name, _)| *name);
        found.dedup_by_key(|(name, _)| *name);
        let mut wanted: Vec<(&str, &mut dyn Statistic)> =
            found.iter_mut().map(|(name, channels)| (*name, channels as &mut dyn Statistic)).collect();
        calib::observe(part, &self.batches, &mut wanted, progress)?;
        Ok(found.into_iter().map(|(name, channels)| (name.to_string(), channels)).collect())
    }

    fn outputs(&self, session: &Session, sites: &[Site], progress: &dyn Progress) -> Result<Outputs> {
        let names: Vec<&str> = sites.iter().map(|site| site.output.as_str()).collect();
        self.observe(session, &names, &sites.iter().collect::<Vec<_>>(), progress)
    }

    /// The errors of the sites' mean outputs; `None` without a dense model.
    fn checked(
        &self,
        session: &Session,
        sites: &[Site],
        progress: &dyn Progress,
    ) -> Result<Option<Vec<f64>>> {
        let Some(reference) = &self.reference else { return Ok(None) };
        let found = self.outputs(session, sites, progress)?;
        let errors = sites.iter().map(|site| match reference.get(&site.output) {
            Some(dense) => bias::error(&found[&site.output].means(), dense).at(|| site.name.clone()),
            None => Ok(f64::NAN),
        });
        errors.collect::<Result<Vec<_>>>().map(Some)
    }
}

/// The model as it is so far.
struct State<'m> {
    model: &'m Model,
    patch: Patch,
}

impl State<'_> {
    fn id(&self, path: &str) -> Result<TensorId> {
        self.model.tensor_id(path).ok_or_else(|| Error::internal(format!("no tensor `{path}`")))
    }

    /// A tensor's values.
    fn values(&self, path: &str) -> Result<Vec<f32>> {
        self.patch.load(self.model, self.id(path)?)?.to_f32s()
    }

    fn set(&mut self, path: &str, values: &[f64]) -> Result<()> {
        let id = self.id(path)?;
        let shape = self.model.tensor(id).shape.clone();
        let values = values.iter().map(|&value| value as f32).collect();
        self.patch.set(id, Tensor::new(shape, values)?);
        Ok(())
    }
}
