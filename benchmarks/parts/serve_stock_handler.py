"""TorchServe's image_classifier with grey transforms, its only change: its own fail on a picture of one channel."""

from __future__ import annotations

from pathlib import Path

from torchvision import transforms
from ts.torch_handler.image_classifier import ImageClassifier

from cxr_mtl.bundle import load_description
from cxr_mtl.model.multitask import MEAN, SPREAD

SIDE = load_description(Path(__file__).parent).model.image_size


class GreyClassifier(ImageClassifier):
    image_processing = transforms.Compose(
        [
            transforms.Resize(SIDE),
            transforms.CenterCrop(SIDE),
            transforms.ToTensor(),
            transforms.Normalize(mean=[MEAN], std=[SPREAD]),
        ]
    )
