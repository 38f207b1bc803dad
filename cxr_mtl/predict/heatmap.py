"""Where a finding's score is sensitive: Grad-CAM on the maps that the findings head sees.  H W of the finer map.

The encoder gives NCHW maps for every family, so the map of a Swin is as right as that of a ConvNeXt; tests hold both to
captum's LayerGradCam. No hooks: the maps are detached, the findings head runs again on them, and their gradient is
asked for.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cxr_mtl.data.geometry import Letterbox
from cxr_mtl.model.classify import ClassifyHead

MAX_SIDE = 512  # of the PNG; the map has some ten cells a side, so more pixels would only be interpolation


def grad_cam(head: ClassifyHead, maps: Sequence[Tensor], finding: int) -> Tensor:
    """Class activation map of one finding (Selvaraju et al., Grad-CAM, 2017), summed over the head's maps.

    Args:
        head: the findings head.
        maps: one film's, (1, F, H, W) and coarser.
        finding: index into C.

    Returns:
        (H, W), at least 0, in units of the logit; all 0 where nothing speaks for the finding.
    """
    with torch.enable_grad():
        leaves = [m.detach().requires_grad_() for m in head.normed(maps)]
        gradients = torch.autograd.grad(head.judge(leaves)[0, finding], leaves)
    cams = [
        (gradient.mean((2, 3), keepdim=True) * leaf.detach()).sum(1, keepdim=True).clamp(min=0)
        for leaf, gradient in zip(leaves, gradients, strict=True)
    ]
    size = cams[0].shape[2:]
    # A place of a coarser map is several of the finest: its share is spread over them, not repeated.
    finer = [
        F.interpolate(cam, size, mode="bilinear", align_corners=False) * (cam[0, 0].numel() / size.numel())
        for cam in cams
    ]
    return torch.stack(finer).sum(0)[0, 0]


def strength(cam: Tensor, probability: float, threshold: float) -> Tensor:
    """Map to 0..1 for showing: its highest point is 1 for a called finding, less the further below the threshold.

    A map stretched to its own maximum would glow as much for a finding that is not there. The median is taken off
    first: what is the same over half the film points nowhere.
    """
    cam = (cam - cam.median()).clamp(min=0)
    peak = cam.max()
    if peak <= 0:
        return torch.zeros_like(cam)
    return cam / peak * min(1.0, probability / max(threshold, 1e-6))


def to_film(heat: Tensor, box: Letterbox) -> NDArray[np.uint8]:
    """Enlarge a map of the input square and cut the submitted film out of it.

    Args:
        heat: (H, W) 0 to 1 over the input square.
        box: where the film lies in the square.

    Returns:
        (h, w) uint8 with the film's shape, longest side at most ``MAX_SIDE``.
    """
    square = F.interpolate(heat[None, None].float(), (box.size, box.size), mode="bicubic", align_corners=False)
    corners = box.to_input(np.array([[0, 0, box.width, box.height]], dtype=np.float64))[0]
    x1, y1, x2, y2 = (int(v) for v in np.round(corners))
    film = square[:, :, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
    scale = min(1.0, MAX_SIDE / max(box.width, box.height))
    shape = (max(1, round(box.height * scale)), max(1, round(box.width * scale)))
    film = F.interpolate(film, shape, mode="bilinear", align_corners=False).clamp(0, 1)
    return np.asarray((film[0, 0] * 255).round().to(torch.uint8).cpu().numpy())


def to_png(heat: NDArray[np.uint8]) -> str:
    """Grey PNG as base64 text."""
    stream = io.BytesIO()
    Image.fromarray(heat).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
