"""Train with the Trainer of Hugging Face transformers on a Dataset that is purified once.

python hugging_face.py photos    # a folder of images, a folder for each class
"""

import sys

import datasets
import numpy as np
import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import eclipse

photos = datasets.load_dataset("imagefolder", data_dir=sys.argv[1], split="train")
purified = eclipse.purify(photos)  # a Dataset, too; purified.push_to_hub(...) would share it
compensate = eclipse.Compensate()


def prepared(batch):
    """Squares of 64 pixels, compensated anew whenever they are asked for, and normalized."""
    images = [np.asarray(image.convert("RGB").resize((64, 64))) for image in batch["image"]]
    pixels = compensate(torch.from_numpy(np.stack(images)).movedim(-1, 1) / 255)
    return {"pixel_values": (pixels - 0.5) / 0.5, "labels": batch["label"]}


config = ViTConfig(image_size=64, patch_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
config.intermediate_size, config.num_labels = 64, photos.features["label"].num_classes
arguments = TrainingArguments(
    "trained", num_train_epochs=1, per_device_train_batch_size=8, remove_unused_columns=False, report_to="none"
)
Trainer(ViTForImageClassification(config), arguments, train_dataset=purified.with_transform(prepared)).train()
