"""What is no number is told from what is large, odd or a count."""

from __future__ import annotations

import pytest
import torch

from cxr_mtl.engine.distributed import ranks
from cxr_mtl.engine.engine import DIVERGED, check_finite
from cxr_mtl.errors import EngineError


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_one_that_is_no_number_is_one_line_of_all_ranks(wrong: float) -> None:
    good = [torch.full((3,), 1e15), torch.zeros(2, 2), torch.tensor(7)]
    with ranks():
        check_finite("A weight", good, 4)
        with pytest.raises(EngineError) as caught:
            check_finite("A weight", [*good, torch.tensor([1.0, wrong])], 4)
    assert str(caught.value) == f"A weight is no longer a number (step 4). {DIVERGED}"
    assert caught.value.shared
