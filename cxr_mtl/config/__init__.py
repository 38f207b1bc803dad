"""A run is one YAML file: data, model, losses, augmentation, training. ``load_config`` checks it, says what is wrong.

DeepSpeed's own settings are derived from ``train`` (see engine/settings.py), so that the batch size has one home.
"""

from cxr_mtl.config.data import CurateConfig, CurationRule, DataConfig, LabelsConfig
from cxr_mtl.config.learn import AugmentConfig, LossConfig, SamplingConfig, TrainConfig
from cxr_mtl.config.load import load_config, parse_config, save_config
from cxr_mtl.config.model import ModelConfig
from cxr_mtl.config.pretrain import CropsConfig, PretrainConfig
from cxr_mtl.config.run import RunConfig

__all__ = [
    "AugmentConfig",
    "CropsConfig",
    "CurateConfig",
    "CurationRule",
    "DataConfig",
    "LabelsConfig",
    "LossConfig",
    "ModelConfig",
    "PretrainConfig",
    "RunConfig",
    "SamplingConfig",
    "TrainConfig",
    "load_config",
    "parse_config",
    "save_config",
]
