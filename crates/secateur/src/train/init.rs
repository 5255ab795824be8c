//! The weights that a training begins with.

use std::collections::BTreeMap;

use secateur_model::ops::AxisRole;
use secateur_model::prunable::{CompanionKind, PrunableView, ReasonKind};
use secateur_model::text::listed;
use secateur_model::{Patch, Result, Tensor, TensorId};
use serde::{Deserialize, Serialize};

use super::{Masters, Variables};
use crate::prune::Subject;
use crate::random::Stream;

/// Where the weights come from that a training begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// Normal with the variance 2 / (fan-in + fan-out) (Glorot and Bengio 2010).
    Glorot,
    /// Normal with the variance 2 / fan-in, for layers with ReLU (He et al. 2015).
    #[default]
    Kaiming,
    /// The weights of the model's file.
    File,
}

/// Inputs that an output of a layer adds up, and outputs that an input goes into, as PyTorch counts them: channels times
/// the positions of the kernel.
struct Fans {
    inputs: f64,
    outputs: f64,
}

impl Fans {
    fn of(view: &PrunableView, shape: &[usize]) -> Self {
        let of = |role: AxisRole| {
            let axes = view.roles.iter().zip(shape).filter(|(own, _)| **own == role);
            axes.map(|(_, &extent)| extent as f64).product::<f64>()
        };
        let positions = of(AxisRole::Spatial);
        Fans { inputs: of(AxisRole::In) * positions, outputs: of(AxisRole::Out) * positions }
    }
}

/// What a tensor begins with.
enum Fill {
    /// Normal draws with this standard deviation.
    Normal(f64),
    /// One number.
    Number(f32),
}

/// What comes of an initialisation.
pub struct Initialised {
    /// The initial values, in the tensors' own types and forms.
    pub patch: Patch,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

impl Init {
    /// The standard deviation of a layer's weights; `None` where they are those of the file.
    fn deviation(self, fans: &Fans) -> Option<f64> {
        match self {
            Init::Glorot => Some((2.0 / (fans.inputs + fans.outputs)).sqrt()),
            Init::Kaiming => Some((2.0 / fans.inputs).sqrt()),
            Init::File => None,
        }
    }

    /// The initial values of what trains, and of running statistics. Weights are drawn by seed, tensor and position: neither
    /// the order of tensors nor what else is drawn changes them. Biases and the addends of normalisations are 0, their
    /// factors 1, running means 0 and variances 1, slopes of PRelu 0.25.
    ///
    /// # Errors
    /// Where the model's tensors cannot be analysed.
    pub fn apply(self, masters: &Masters, variables: &Variables, seed: u64) -> Result<Initialised> {
        let mut patch = Patch::by("initialisation");
        let mut notes = Vec::new();
        if self == Init::File {
            return Ok(Initialised { patch, notes });
        }
        let model = masters.in_f32();
        let fills = self.fills(&Subject::of(model))?;
        let statistics = secateur_runtime::running_statistics(model.graph()?);
        for &id in variables.tensors.iter().chain(&statistics) {
            let (Some(fill), stored) = (fills.get(&id), model.tensor(id)) else { continue };
            let values = match fill {
                Fill::Number(value) => vec![*value; stored.len()],
                Fill::Normal(deviation) => {
                    let stream = Stream::new(seed, &stored.path);
                    (0..stored.len() as u64).map(|i| (stream.normal(i) * deviation) as f32).collect()
                }
            };
            masters.store(id, &Tensor::new(stored.shape.clone(), values)?, &mut patch)?;
        }
        let kept = variables.tensors.iter().filter(|id| !fills.contains_key(id));
        let kept: Vec<&str> = kept.map(|&id| model.tensor(id).path.as_str()).collect();
        if !kept.is_empty() {
            notes.push(format!(
                "no initialisation is known for these: they begin with the values of the file: {}",
                listed(&kept)
            ));
        }
        patch.spread(masters.model());
        Ok(Initialised { patch, notes })
    }

    /// What each tensor begins with.
    fn fills(self, subject: &Subject<'_>) -> Result<BTreeMap<TensorId, Fill>> {
        let mut fills = BTreeMap::new();
        for entry in subject.entries()? {
            let is_table = entry.reason().is_some_and(|reason| reason.kind == ReasonKind::Table);
            let Some(view) = entry.view().filter(|_| !is_table) else { continue };
            let fans = Fans::of(view, &subject.model.tensor(entry.tensor).shape);
            fills.extend(self.deviation(&fans).map(|deviation| (entry.tensor, Fill::Normal(deviation))));
            for companion in view.bias.iter().chain(&view.followers) {
                let value = if companion.kind == CompanionKind::NormScale { 1.0 } else { 0.0 };
                fills.entry(companion.tensor).or_insert(Fill::Number(value));
            }
        }
        let graph = subject.model.graph()?;
        for node in graph.nodes.iter().filter(|node| node.domain.is_empty()) {
            let of_inputs: &[(usize, f32)] = match node.op_type.as_str() {
                "BatchNormalization" => &[(1, 1.0), (2, 0.0), (3, 0.0), (4, 1.0)],
                "InstanceNormalization" | "GroupNormalization" | "LayerNormalization" => {
                    &[(1, 1.0), (2, 0.0)]
                }
                "RMSNormalization" => &[(1, 1.0)],
                "Conv" | "ConvTranspose" | "Gemm" => &[(2, 0.0)],
                "PRelu" => &[(1, 0.25)],
                _ => &[],
            };
            for &(input, value) in of_inputs {
                let constant = node.inputs.get(input).copied().flatten();
                if let Some(&id) = constant.and_then(|value| graph.constants.get(&value)) {
                    fills.entry(id).or_insert(Fill::Number(value));
                }
            }
        }
        Ok(fills)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::Net;
    use crate::train::Masks;

    fn initial(net: &str, init: Init, seed: u64) -> (Masters, Patch) {
        let model = Net::named(net).unwrap().model().unwrap();
        let masters = Masters::of(&model, &Masks::new()).unwrap();
        let variables = Variables::of(&Subject::of(masters.in_f32()), &[], &[]).unwrap();
        let found = init.apply(&masters, &variables, seed).unwrap();
        assert_eq!(found.notes, [] as [String; 0]);
        (masters, found.patch)
    }

    fn values((masters, patch): &(Masters, Patch), path: &str) -> Vec<f64> {
        let id = masters.model().tensor_id(path).unwrap();
        let loaded = patch.load(masters.model(), id).unwrap().to_f32s().unwrap();
        loaded.into_iter().map(f64::from).collect()
    }

    fn variance(values: &[f64]) -> f64 {
        values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64
    }

    #[test]
    fn variances_follow_the_fans() {
        for (init, net, path, expected) in [
            (Init::Glorot, "lenet-300-100", "fc1.weight", 2.0 / (784.0 + 300.0)),
            (Init::Glorot, "conv-2", "conv2.weight", 2.0 / (9.0 * 64.0 + 9.0 * 64.0)),
            (Init::Kaiming, "lenet-300-100", "fc2.weight", 2.0 / 300.0),
            (Init::Kaiming, "resnet-20", "layer3.0.conv1.weight", 2.0 / (9.0 * 32.0)),
        ] {
            let drawn = values(&initial(net, init, 3), path);
            // The variance of so many draws has the relative standard error √(2 / n).
            let error = (2.0 / drawn.len() as f64).sqrt();
            let found = variance(&drawn) / expected;
            assert!((found - 1.0).abs() < 4.0 * error, "{init:?} {path}: {found}");
        }
    }

    #[test]
    fn all_but_weights_begin_with_a_number() {
        let net = initial("resnet-20", Init::Kaiming, 1);
        for (part, expected) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)]
        {
            assert_eq!(values(&net, &format!("layer2.1.bn1.{part}")), vec![expected; 32], "{part}");
        }
        assert_eq!(values(&net, "fc.bias"), vec![0.0; 10]);
    }

    #[test]
    fn draws_depend_on_the_seed_and_the_name_alone() {
        let of = |seed, path| values(&initial("resnet-20", Init::Kaiming, seed), path);
        let [one, other] = ["layer1.0.conv1.weight", "layer1.0.conv2.weight"];
        assert_eq!(of(1, one), of(1, one));
        assert_ne!(of(1, one), of(2, one));
        assert_ne!(of(1, one), of(1, other));
    }
}
