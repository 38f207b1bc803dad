"""The model card: what a bundle is, in a page of Markdown. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cxr_mtl.bundle import Description
from cxr_mtl.bundle.fit import RULES
from cxr_mtl.types import DISCLAIMER


def model_card(description: Description, train: Mapping[str, Any]) -> str:
    """Write the card of a freshly trained bundle.

    Args:
        description: of the bundle.
        train: what it learned from: dataset, number of films and patients, split hash.
    """
    ontology = description.ontology
    untrained = [f.name for f in ontology.findings if not f.group and f.name not in description.trained]
    return f"""# {description.name} {description.version}

**{DISCLAIMER}**

One network with three heads: findings, boxes and a tree of findings. Input: one frontal chest film, resized to
{description.model.image_size} px with its shape kept. Encoder: `{description.model.encoder}`.

## Learned from
{_list(train)}
- uncertain labels: {_said(description, "uncertain", "ignore")}
- blank labels: {_said(description, "blank", "unknown")}

## Answers
- Ontology `{ontology.name}`, {len(ontology.names)} nodes, {len(description.trained)} of them trained.
- Boxes for: {", ".join(description.box_findings) or "none"}.
- Never trained, so answered with `not_trained`: {", ".join(untrained) or "none"}.

{_calibration(description)}## Limits
- A probability is calibrated for films like those it was fitted on. At another site, with another share of sick
  patients, it is off.
- Labels mined from reports are wrong at times; the model learned their errors too.
- A score for a box is not a probability. No box does not mean no finding.
{_gate(description)}

Numbers with intervals: `results.json`, once `cxr-mtl evaluate` has run.
"""


def recalibrated_card(card: str, description: Description) -> str:
    """The card of a bundle that was calibrated anew: new are its title and what it says of calibration."""
    section = re.compile(rf"^{_HEADING}$.*?(?=^## )", re.DOTALL | re.MULTILINE)
    titled = re.sub(r"\A# .*", lambda _: f"# {description.name} {description.version}", card)
    return section.sub(lambda _: _calibration(description), titled)


_HEADING = "## Calibration and thresholds"


def _calibration(description: Description) -> str:
    fitted = dict(description.fitted_on)
    before = fitted.pop("before", None)
    earlier = (
        f"\nBefore that they were fitted on:\n{_list({k: v for k, v in before.items() if k != 'before'})}\n"
        if before
        else ""
    )
    return f"""{_HEADING}
Fitted on films that the weights were not trained on:
{_list(fitted)}
{earlier}
| operating point | rule |
|---|---|
{chr(10).join(f"| {name} | {rule} |" for name, rule in RULES.items())}

"""


def _gate(description: Description) -> str:
    gate = description.gate
    if "none" in gate:
        return f"""- It has no gate ({gate["none"]}):
  lateral films, children's films and pictures of other parts of the body are answered as if they were frontal films of
  an adult chest."""
    films = (
        f"{gate['train_films']} training films and passed {gate['validation_films_passed']:.1%} of {gate['val_films']}"
    )
    return f"""- Pictures that do not look like a frontal chest film are refused. The gate was fitted on {films}
  validation films. It has met no lateral film and does not tell children from adults: what it lets pass is answered as
  if it were a frontal film of an adult chest."""


def _said(description: Description, key: str, default: str) -> str:
    """What the run made of uncertain or blank labels."""
    choice = description.config.get("data", {}).get("labels", {}).get(key, default)
    return choice if isinstance(choice, str) else ", ".join(f"{name} {word}" for name, word in choice.items())


def _list(items: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in items.items())
