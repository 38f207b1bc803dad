"""A fitted gate that answers.  N films, H hidden numbers; numpy alone.

Is it a frontal chest film? One hidden layer over the picture's forms; its score is the log odds of a film against a
picture that is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.data.gate.thumbs import FORMS, Floats, forms
from cxr_mtl.data.gate.usual import check_arrays


@dataclass(frozen=True)
class Gate:
    """What was fitted.

    Attributes:
        centre: (FORMS,) taken off the forms.
        spread: (FORMS,) they are divided by.
        hidden: (FORMS, H) weights.
        hidden_bias: (H,).
        last: (H,) weights.
        last_bias: (1,).
        cut: (1,) scores below it are no chest films.
    """

    centre: Floats
    spread: Floats
    hidden: Floats
    hidden_bias: Floats
    last: Floats
    last_bias: Floats
    cut: Floats

    def scores(self, thumbs: NDArray[np.uint8]) -> Floats:
        """(N,) log odds that (N, SIDE, SIDE) thumbnails are of frontal chest films."""
        seen = (forms(thumbs) - self.centre) / self.spread
        return np.asarray(np.maximum(seen @ self.hidden + self.hidden_bias, 0) @ self.last + self.last_bias)

    def passes(self, thumbs: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """(N,) whether thumbnails are taken for frontal chest films."""
        return np.asarray(self.scores(thumbs) >= self.cut)

    def to_arrays(self) -> dict[str, Floats]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Floats]) -> Self:
        """Raises KeyError or ValueError where the arrays are not what ``to_arrays`` makes."""
        gate = cls(**{field.name: np.asarray(arrays[field.name], np.float64) for field in fields(cls)})
        hidden = gate.hidden.shape[-1]
        wanted = {"centre": (FORMS,), "spread": (FORMS,), "hidden": (FORMS, hidden), "hidden_bias": (hidden,)}
        check_arrays(gate.to_arrays(), wanted | {"last": (hidden,), "last_bias": (1,), "cut": (1,)})
        return gate
