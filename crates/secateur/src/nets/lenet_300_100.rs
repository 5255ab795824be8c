//! LeNet-300-100: two hidden layers, for images of 28 × 28.

use secateur_model::Result;

use super::builder::Builder;
use super::{Init, Net};

pub(super) const NET: Net = Net {
    name: "lenet-300-100",
    summary: "fully connected layers of 300, 100 and 10 outputs, for 1 × 28 × 28 images: 266,610 parameters",
    source: "LeCun et al. 1998",
    init: Init::Glorot,
    build,
};

fn build(net: &mut Builder) -> Result<()> {
    let mut value = net.input([1, 28, 28]);
    value = net.flatten(value);
    for (layer, inputs, outputs) in [(1, 784, 300), (2, 300, 100)] {
        value = net.linear(&format!("fc{layer}"), value, inputs, outputs);
        value = net.relu(&format!("relu{layer}"), value);
    }
    value = net.linear("fc3", value, 100, 10);
    net.output(value, 10);
    Ok(())
}
