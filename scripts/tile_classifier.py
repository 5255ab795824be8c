"""Exports a classifier of image tiles (ResNeXt-50 encoder, a head with Mish), with random weights.

    python tile_classifier.py tiles.onnx
    python tile_classifier.py tiles.onnx --dynamo --batch 1

Tiles of a large image pass through one ResNeXt-50 32x4d encoder, their feature maps are concatenated vertically, and a
head computes six scores. Parameters of the encoder are named `enc.…`, those of the head `head.…`.
"""

import torch
import torchvision
from torch import nn

import exporting


class AdaptiveConcatPool2d(nn.Module):
    def __init__(self):
        super().__init__()
        self.average = nn.AdaptiveAvgPool2d(1)
        self.maximum = nn.AdaptiveMaxPool2d(1)

    def forward(self, x):
        return torch.cat([self.average(x), self.maximum(x)], 1)


class TileClassifier(nn.Module):
    """[batch, tiles, 3, height, width] to [batch, 6]."""

    def __init__(self):
        super().__init__()
        resnext = torchvision.models.resnext50_32x4d(weights=None)
        self.enc = nn.Sequential(*list(resnext.children())[:-2])
        self.head = nn.Sequential(
            AdaptiveConcatPool2d(),
            nn.Flatten(),
            nn.Linear(2 * 2048, 512),
            nn.Mish(),
            nn.BatchNorm1d(512),
            nn.Dropout(0.5),
            nn.Linear(512, 6),
        )

    def forward(self, tiles):
        n, c, h, w = tiles.shape[1:]
        x = self.enc(tiles.view(-1, c, h, w))
        c, h, w = x.shape[1:]
        x = x.view(-1, n, c, h, w).permute(0, 2, 1, 3, 4).contiguous().view(-1, c, h * n, w)
        return self.head(x)


def main():
    parser = exporting.arguments(__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--tiles", type=int, default=12)
    parser.add_argument("--size", type=int, default=128, help="height and width of a tile")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    shape = (options.tiles, 3, options.size, options.size)
    model = exporting.settle(TileClassifier(), (torch.randn(4, *shape),))
    dynamic = {} if options.batch else {"tiles": {0: "batch"}, "scores": {0: "batch"}}
    inputs = (torch.randn(options.batch or 2, *shape),)
    exporting.export(model, inputs, options.out, options, ["tiles"], ["scores"], dynamic)


if __name__ == "__main__":
    main()
