//! Networks of the literature, to train from scratch: written as ONNX, then read like any file.
//!
//! One network per file, one line in [`NETS`].

mod builder;
mod conv_2;
mod lenet_300_100;
mod resnet_20;

use std::sync::Arc;

use secateur_model::{Error, Model, Patch, Result, io};

use crate::near::did_you_mean;
use crate::train::Init;
use builder::Builder;

/// A network.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    /// Its name.
    pub name: &'static str,
    /// What it is, and for which images.
    pub summary: &'static str,
    /// Where it is defined.
    pub source: &'static str,
    /// The initialisation that goes with it.
    pub init: Init,
    build: fn(&mut Builder) -> Result<()>,
}

/// All networks.
pub const NETS: &[Net] = &[lenet_300_100::NET, conv_2::NET, resnet_20::NET];

impl Net {
    /// The network of a name.
    ///
    /// # Errors
    /// `Usage` where there is none.
    pub fn named(name: &str) -> Result<&'static Net> {
        NETS.iter().find(|net| net.name == name).ok_or_else(|| {
            let near = did_you_mean(name, NETS.iter().map(|net| net.name));
            let known: Vec<&str> = NETS.iter().map(|net| net.name).collect();
            Error::usage(format!("there is no net `{name}`{near}; there are {}", known.join(", ")))
        })
    }

    /// The network as the bytes of an ONNX file. Its weights are zeros, its output are logits, its batch is open.
    ///
    /// # Errors
    /// None: the networks can be written.
    pub fn onnx(&self) -> Result<Vec<u8>> {
        let mut builder = Builder::new();
        (self.build)(&mut builder)?;
        let mut bytes = Vec::new();
        io::convert_stream(&builder.finish(self.name), &Patch::new(), &[], &io::ONNX, &mut bytes)?;
        Ok(bytes)
    }

    /// The network, read from its file.
    ///
    /// # Errors
    /// As [`Net::onnx`].
    pub fn model(&self) -> Result<Arc<Model>> {
        Ok(Arc::new(io::read_bytes(self.onnx()?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune::Subject;
    use crate::train::{Masks, Masters, Variables};

    fn trained(model: &Arc<Model>) -> usize {
        let masters = Masters::of(model, &Masks::new()).unwrap();
        let variables = Variables::of(&Subject::of(masters.in_f32()), &[], &[]).unwrap();
        assert_eq!(variables.notes, [] as [String; 0]);
        variables.tensors.iter().map(|id| model.tensor(*id).len()).sum()
    }

    /// LeNet-300-100: (784 + 1) · 300 + 301 · 100 + 101 · 10. Conv-2 and ResNet-20 as the papers round them: 4.3 million
    /// and 0.27 million.
    #[test]
    fn parameters_are_as_many_as_published() {
        for (name, parameters) in [("lenet-300-100", 266_610), ("conv-2", 4_301_642), ("resnet-20", 272_474)]
        {
            assert_eq!(trained(&Net::named(name).unwrap().model().unwrap()), parameters, "{name}");
        }
        let message = Net::named("lenet-300").unwrap_err().to_string();
        assert!(message.contains("did you mean `lenet-300-100`"), "{message}");
    }

    #[test]
    fn outputs_are_ten_logits_for_each_sample() {
        for net in NETS {
            let model = net.model().unwrap();
            let session = secateur_runtime::Session::new(model, Patch::new()).unwrap();
            let shape = match net.name {
                "lenet-300-100" => [3, 1, 28, 28],
                _ => [3, 3, 32, 32],
            };
            let input = secateur_model::Tensor::new(shape, vec![0.5f32; shape.iter().product()]).unwrap();
            let outputs = session.run(vec![("input".into(), input)]).unwrap();
            assert_eq!(outputs[0].shape(), [3, 10], "{}", net.name);
        }
    }

    #[test]
    fn a_net_is_the_same_file_each_time() {
        for net in NETS {
            assert_eq!(net.onnx().unwrap(), net.onnx().unwrap());
        }
    }
}
