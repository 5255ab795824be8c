"""Exports a checkpoint of a CIFAR-10 ResNet to ONNX:  python export.py resnet56.th resnet56.onnx"""

import sys

import resnet

resnet.export(resnet.load(sys.argv[1]), sys.argv[2])
