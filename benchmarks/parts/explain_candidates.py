"""Other ways to make a heat map, beside which those of cxr_mtl/predict/explain.py were chosen.

Each takes what `explain` takes and gives the same: a map over the input square, at least 0.  S input side.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from captum.attr import GradientShap, GuidedGradCam, NoiseTunnel, Saliency
from torch import Tensor, nn

from cxr_mtl.model.classify import LEVELS
from cxr_mtl.model.multitask import MultiTaskModel, normalise
from cxr_mtl.predict.explain import STEPS, TOGETHER, added_up, blurred, integrated_gradients, make_score, occlusion

Candidate = Callable[[MultiTaskModel, Tensor, Sequence[Tensor], int], Tensor]
NOISE = 0.1 * 255  # spread of SmoothGrad's noise, grey values


class OneLogit(nn.Module):
    """What GuidedGradCam needs: a module from normalised films to (B, C) logits."""

    def __init__(self, model: MultiTaskModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, films: Tensor) -> Tensor:
        return self.model.findings(self.model.encoder(films)[-LEVELS:])


def hires_cam(model: MultiTaskModel, image: Tensor, maps: Sequence[Tensor], finding: int) -> Tensor:
    """Gradient times activation at each place, not averaged first (Draelos and Carin, HiResCAM, 2020)."""
    head = model.findings
    leaves = [m.detach().requires_grad_() for m in head.normed(maps)]
    gradients = torch.autograd.grad(head.judge(leaves)[0, finding], leaves)
    cams = [(g * m.detach()).sum(1, keepdim=True) for m, g in zip(leaves, gradients, strict=True)]
    size = cams[0].shape[2:]
    finer = [F.interpolate(c, size, mode="bilinear") * (c[0, 0].numel() / size.numel()) for c in cams]
    return torch.stack(finer).sum(0)[0, 0].clamp(min=0)


def one_map_cam(level: int) -> Candidate:
    """Grad-CAM on one of the head's two maps alone."""

    def cam(model: MultiTaskModel, image: Tensor, maps: Sequence[Tensor], finding: int) -> Tensor:
        leaves = [m.detach().requires_grad_() for m in model.findings.normed(maps)]
        gradients = torch.autograd.grad(model.findings.judge(leaves)[0, finding], leaves)
        return (gradients[level].mean((2, 3), keepdim=True) * leaves[level].detach()).sum(1)[0].clamp(min=0)

    return cam


def path_from(start: Callable[[Tensor], Tensor]) -> Candidate:
    """Integrated gradients from another start."""

    def attribute(model: MultiTaskModel, image: Tensor, maps: Sequence[Tensor], finding: int) -> Tensor:
        film = image.float()
        return added_up(integrated_gradients(make_score(model, finding), film, start(film)))

    return attribute


def sizes_of_pixels(model: MultiTaskModel, image: Tensor, maps: Sequence[Tensor], finding: int) -> Tensor:
    """Integrated gradients whose pixels are added up by size, for and against alike."""
    return added_up(integrated_gradients(make_score(model, finding), image.float(), blurred(image.float())).abs())


def smooth_grad(model: MultiTaskModel, image: Tensor, maps: Sequence[Tensor], finding: int) -> Tensor:
    """Squared gradients, the mean over noisy films (Smilkov et al., SmoothGrad, 2017; Hooker et al., 2019)."""
    method = NoiseTunnel(Saliency(make_score(model, finding)))
    torch.manual_seed(0)
    noisy = method.attribute(
        image.float(),
        nt_type="smoothgrad_sq",
        nt_samples=STEPS,
        nt_samples_batch_size=TOGETHER,
        stdevs=NOISE,
        abs=False,
    )
    return added_up(noisy[0, 0])


def gradient_shap(starts: Tensor) -> Candidate:
    """Expected gradients on the way from other films (Erion et al., 2021); ``starts`` (N, 1, S, S)."""

    def attribute(model: MultiTaskModel, image: Tensor, maps: Sequence[Tensor], finding: int) -> Tensor:
        torch.manual_seed(0)
        method = GradientShap(make_score(model, finding))
        return added_up(method.attribute(image.float(), starts, n_samples=STEPS, stdevs=0.0)[0, 0])

    return attribute


def guided_grad_cam(model: MultiTaskModel, image: Tensor, maps: Sequence[Tensor], finding: int) -> Tensor:
    """Grad-CAM of the finer map times guided backpropagation, which guides nothing where activations are GELU."""
    film = normalise(image.float()).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets hooks
        found = GuidedGradCam(OneLogit(model), model.findings.norms[0]).attribute(film, finding)
    return added_up(found[0, 0].detach())


def covered_by(cover: Callable[[Tensor], Tensor]) -> Candidate:
    """Occlusion by another cover."""

    def attribute(model: MultiTaskModel, image: Tensor, maps: Sequence[Tensor], finding: int) -> Tensor:
        film = image.float()
        return added_up(occlusion(make_score(model, finding), film, cover(film)))

    return attribute


def grey(film: Tensor) -> Tensor:
    return torch.full_like(film, float(film.mean()))


def make_candidates(starts: Tensor) -> dict[str, Candidate]:
    """By the name they have in the table."""
    return {
        "HiResCAM": hires_cam,
        "Grad-CAM, stride 16 alone": one_map_cam(0),
        "Grad-CAM, stride 32 alone": one_map_cam(1),
        "integrated gradients from grey": path_from(grey),
        "integrated gradients from black": path_from(torch.zeros_like),
        "integrated gradients, sizes": sizes_of_pixels,
        "SmoothGrad, squared": smooth_grad,
        "GradientShap from other films": gradient_shap(starts),
        "Guided Grad-CAM": guided_grad_cam,
        "occlusion by the film blurred": covered_by(blurred),
    }
