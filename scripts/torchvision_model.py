"""Exports any of torchvision's image models with random weights.

    python torchvision_model.py resnet50 resnet50.onnx
    python torchvision_model.py mobilenet_v3_small out.onnx --batch 1 --dynamo
"""

import inspect

import torch
import torchvision

import exporting


def first_tensor(model):
    """Models that give a dictionary (segmentation): its first entry only."""

    class First(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, image):
            return next(iter(self.model(image).values()))

    return First()


def main():
    parser = exporting.arguments(__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="resnet50", help="as torchvision.models.list_models() gives it")
    parser.add_argument("out")
    parser.add_argument("--size", type=int, default=224, help="height and width of the image")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    builder = torchvision.models.get_model_builder(options.name)
    # Segmentation models fetch their backbone's weights unless told not to.
    names = {"weights", "weights_backbone"} & set(inspect.signature(builder).parameters)
    model = builder(**dict.fromkeys(names)).eval()
    image = torch.randn(options.batch or 2, 3, options.size, options.size)
    with torch.no_grad():
        if isinstance(model(image), dict):
            model = first_tensor(model)
    exporting.settle(model, (torch.randn(8, 3, options.size, options.size),))
    dynamic = {} if options.batch else {"image": {0: "batch"}, "logits": {0: "batch"}}
    exporting.export(model, (image,), options.out, options, ["image"], ["logits"], dynamic)


if __name__ == "__main__":
    main()
