//! ResNet-20 for images of 32 × 32, with a convolution in the shortcuts that change the shape, as in open_lth.

use secateur_model::Result;

use super::builder::Builder;
use super::{Init, Net};

pub(super) const NET: Net = Net {
    name: "resnet-20",
    summary: "nine residual blocks of 16, 32 and 64 channels, for 3 × 32 × 32 images: 0.27 million parameters",
    source: "He et al. 2016; shortcuts that change the shape are convolutions",
    init: Init::Kaiming,
    build,
};

fn build(net: &mut Builder) -> Result<()> {
    let input = net.input([3, 32, 32]);
    let mut value = net.conv("conv1", input, [3, 16], [3, 1], false);
    value = net.batch_norm("bn1", value, 16);
    value = net.relu("relu1", value);
    let mut inputs = 16;
    for (stage, outputs) in [(1, 16), (2, 32), (3, 64)] {
        for block in 0..3 {
            let name = |part: &str| format!("layer{stage}.{block}.{part}");
            let stride = if stage > 1 && block == 0 { 2 } else { 1 };
            let mut inner = net.conv(&name("conv1"), value, [inputs, outputs], [3, stride], false);
            inner = net.batch_norm(&name("bn1"), inner, outputs);
            inner = net.relu(&name("relu1"), inner);
            inner = net.conv(&name("conv2"), inner, [outputs, outputs], [3, 1], false);
            inner = net.batch_norm(&name("bn2"), inner, outputs);
            if inputs != outputs {
                value = net.conv(&name("shortcut.conv"), value, [inputs, outputs], [1, stride], false);
                value = net.batch_norm(&name("shortcut.bn"), value, outputs);
            }
            value = net.add(&name("add"), inner, value);
            value = net.relu(&name("relu2"), value);
            inputs = outputs;
        }
    }
    value = net.global_pool("pool", value);
    value = net.flatten(value);
    value = net.linear("fc", value, 64, 10);
    net.output(value, 10);
    Ok(())
}
