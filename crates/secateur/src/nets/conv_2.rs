//! Conv-2: the smallest of the convolutional networks of the lottery-ticket paper, for images of 32 × 32.

use secateur_model::Result;

use super::builder::Builder;
use super::{Init, Net};

pub(super) const NET: Net = Net {
    name: "conv-2",
    summary: "two convolutions of 64 channels, a pool, and layers of 256, 256 and 10 outputs, for 3 × 32 × 32 images: \
              4.3 million parameters",
    source: "Frankle and Carbin 2019, figure 2",
    init: Init::Glorot,
    build,
};

fn build(net: &mut Builder) -> Result<()> {
    let mut value = net.input([3, 32, 32]);
    for (layer, inputs) in [(1, 3), (2, 64)] {
        value = net.conv(&format!("conv{layer}"), value, [inputs, 64], [3, 1], true);
        value = net.relu(&format!("relu{layer}"), value);
    }
    value = net.max_pool("pool", value);
    value = net.flatten(value);
    for (layer, inputs) in [(1, 64 * 16 * 16), (2, 256)] {
        value = net.linear(&format!("fc{layer}"), value, inputs, 256);
        value = net.relu(&format!("relu{}", layer + 2), value);
    }
    value = net.linear("fc3", value, 256, 10);
    net.output(value, 10);
    Ok(())
}
