"""Which places of a film a finding's score rests on, by four methods.  S input side, H W of a map.

All four explain the same number, the one that becomes the answer's probability: the findings head's logit, the mean of
the model's looks. All give a map over the input square, at least 0, of what speaks *for* the finding:

``grad_cam``: the encoder's maps, each channel weighing as much as the logit rises with it. Coarse and quick.
``attention``: how probable each place is to show the finding, which is what a head of pooling ``attention`` weighs its
places by. No estimate: it is how the logit came about.
``integrated_gradients``: what each pixel adds to the logit on the way from the film, blurred until nothing can be seen
in it, to the film. They add up to the logit's difference between the two.
``occlusion``: by how much the logit falls where a patch of the film is covered. Slow; takes no gradient on trust.

The encoder gives NCHW maps for every family, so the map of a Swin is as right as that of a ConvNeXt. No hooks. captum
is imported by the two methods that need it, when they are asked for: a server starts without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cxr_mtl.model.classify import LEVELS, ClassifyHead
from cxr_mtl.model.multitask import ZOOMS, MultiTaskModel, looks, zoomed
from cxr_mtl.predict.watch import check_end

STEPS = 16  # of the way to the film
PATCH, STRIDE = 8, 16  # a covered patch is an eighth of the side, and moves by a sixteenth: 225 films a map
CELLS = 16  # a side, to which pixels are added up: single pixels are noise
TOGETHER = 16  # films of 224 px in one pass; fewer of larger ones, for memory's sake

Score = Callable[[Tensor], Tensor]  # (B, 1, S, S) films, 0 to 255, to (B,) logits
OfMaps = Callable[[ClassifyHead, Sequence[Tensor], int], Tensor]


def explain(
    method: str,
    model: MultiTaskModel,
    image: Tensor,
    maps: Sequence[Tensor],
    findings: Sequence[int],
    views: int = 1,
    end: float = math.inf,
) -> list[Tensor]:
    """The maps of one film's findings. Each look is seen once for all of them.

    Args:
        method: one of ``types.EXPLANATIONS``.
        model: in evaluation mode.
        image: (1, 1, S, S), 0 to 255.
        maps: the encoder's last of that film, as the findings head gets them; they were computed for the answer.
        findings: indices into C.
        views: looks at the film whose mean is answered.
        end: of ``time.monotonic``, after which no pass through the encoder and no map begins.

    Returns:
        Of each finding (H, W) over the input square, at least 0; all 0 where nothing speaks for the finding.

    Raises:
        ImageError: code ``busy``: the end came first.
    """
    if method in _OF_PIXELS:
        of_pixels = _OF_PIXELS[method]
        return [of_pixels(make_score(model, finding, views, end), image.float()) for finding in findings]
    with torch.no_grad():
        others = [_see(model, look, end) for look in looks(image, views)[1:]]
    return [_laid_over(_OF_MAPS[method], model.findings, maps, others, finding, end) for finding in findings]


def make_score(model: MultiTaskModel, finding: int, views: int = 1, end: float = math.inf) -> Score:
    """The answered logit of one finding as a function of films; ``end`` as of ``explain``."""

    def score(films: Tensor) -> Tensor:
        logits = [model.findings(_see(model, look, end))[:, finding] for look in looks(films, views)]
        return torch.stack(logits).mean(0)

    return score


def _see(model: MultiTaskModel, look: Tensor, end: float) -> list[Tensor]:
    check_end(end)
    maps: list[Tensor] = model.encoder(look)[-LEVELS:]
    return maps


def _laid_over(
    of_maps: OfMaps,
    head: ClassifyHead,
    first: Sequence[Tensor],
    others: Sequence[Sequence[Tensor]],
    finding: int,
    end: float,
) -> Tensor:
    """(H, W) mean over the looks, each laid back over the film."""
    check_end(end)
    heats = [of_maps(head, first, finding)]
    for zoom, maps in zip(ZOOMS, others, strict=False):
        heats.append(zoomed(of_maps(head, maps, finding)[None, None], 1 / zoom)[0, 0])
    return torch.stack(heats).mean(0)


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


@torch.no_grad()
def attention(head: ClassifyHead, maps: Sequence[Tensor], finding: int) -> Tensor:
    """(H, W) probability of the finding at each place; of pooling ``attention``. Arguments as of ``grad_cam``."""
    return head.places(head.normed(maps))[0, finding].sigmoid()


def integrated_gradients(score: Score, image: Tensor, start: Tensor) -> Tensor:
    """(S, S) what each pixel adds to the logit on the way from ``start`` to the film (Sundararajan et al., 2017).

    The sum is the film's logit less that of ``start``, to captum's ``compute_convergence_delta``.
    """
    from captum.attr import IntegratedGradients

    attributed: Tensor = IntegratedGradients(score).attribute(
        image, start, n_steps=STEPS, internal_batch_size=_together(image)
    )
    return attributed[0, 0]


def occlusion(score: Score, image: Tensor, cover: Tensor) -> Tensor:
    """(S, S) by how much the logit falls where a patch shows ``cover``; the mean over the patches at each pixel."""
    from captum.attr import Occlusion

    patch, stride = image.shape[-1] // PATCH, image.shape[-1] // STRIDE
    attributed: Tensor = Occlusion(score).attribute(
        image,
        sliding_window_shapes=(1, patch, patch),
        strides=(1, stride, stride),
        baselines=cover,
        perturbations_per_eval=_together(image),
    )
    return attributed[0, 0]


def blurred(image: Tensor) -> Tensor:
    """The film without anything smaller than some eighth of its side: what it would be with nothing to see in it."""
    return F.interpolate(F.adaptive_avg_pool2d(image, 8), image.shape[2:], mode="bilinear", align_corners=False)


def added_up(pixels: Tensor) -> Tensor:
    """(CELLS, CELLS) sums of (S, S), where above 0: what speaks for and against within a cell cancels first."""
    cell = pixels.shape[-1] // CELLS
    return (F.avg_pool2d(pixels[None, None], cell)[0, 0] * cell * cell).clamp(min=0)


def _together(image: Tensor) -> int:
    return max(1, TOGETHER * 224**2 // image[0, 0].numel())


_OF_MAPS: dict[str, OfMaps] = {"grad_cam": grad_cam, "attention": attention}
_OF_PIXELS: dict[str, Callable[[Score, Tensor], Tensor]] = {
    "integrated_gradients": lambda score, image: added_up(integrated_gradients(score, image, blurred(image))),
    "occlusion": lambda score, image: added_up(occlusion(score, image, torch.zeros_like(image))),
}
