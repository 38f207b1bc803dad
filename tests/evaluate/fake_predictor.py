"""A predictor that knows the truth and spoils it a little: what it is worth is known before it is measured."""

from __future__ import annotations

import hashlib

import numpy as np

from cxr_mtl.bundle import load_bundle
from cxr_mtl.data.geometry import rescale_boxes
from cxr_mtl.metrics.hierarchy import compose
from cxr_mtl.types import Answer, ScoredBox


def truth(labels, findings):
    """1, 0 or nan for each finding of one film: presence handed up by the names of parents, then absence down.

    Written out here, for how evaluation reads labels is part of what is tested with it.
    """
    known = {name: value for name, value in labels.items() if value in (0, 1)}
    for finding in reversed(findings):
        if known.get(finding.name) == 1:
            known |= dict.fromkeys(finding.parents, 1)
    for finding in findings:
        if finding.name not in labels | known and any(known.get(parent) == 0 for parent in finding.parents):
            known[finding.name] = 0
    return [known.get(finding.name, np.nan) for finding in findings]


class FakePredictor:
    """Answers from the manifest. ``skill`` is the gap of the logits of present and absent, in standard deviations."""

    def __init__(self, folder, manifest, *, skill=1.5, jitter=0.05, seed=0):
        self.bundle = load_bundle(folder)
        self.manifest = manifest
        self.skill, self.jitter = skill, jitter
        findings = self.bundle.ontology.findings
        self.presence = np.array([truth(manifest.record(i).labels, findings) for i in range(len(manifest))])
        self.row = {hashlib.sha256(manifest.path(i).read_bytes()).hexdigest(): i for i in range(len(manifest))}
        self.trained = np.array([name in self.bundle.trained for name in self.bundle.ontology.names])
        self.seed = seed
        self.batches = []

    def edges(self):
        return self.bundle.ontology.edges

    def answer(self, films):
        self.batches.append(len(films))
        return [self._one(film) for film in films]

    def _one(self, film):
        i = self.row[film.sha256]
        rng = np.random.default_rng([self.seed, i])
        present = np.nan_to_num(self.presence[i], nan=0.3)
        logit = self.skill * (present - 0.5) + rng.normal(size=(2, len(present)))
        flat, conditional = np.where(self.trained, 1 / (1 + np.exp(-logit)), np.nan)
        tree = compose(conditional[None], self.bundle.ontology.parents)[0]
        return Answer(flat, tree, conditional, tuple(self._boxes(film, i, rng)))

    def _boxes(self, film, i, rng):
        """The readers' boxes in the file's own pixels, moved a little, and a second, less sure one elsewhere."""
        record = self.manifest.record(i)
        drawn = {b.finding: b.xyxy for b in record.boxes}
        for name in self.bundle.box_findings:
            if name in drawn:
                frame = (record.width, record.height)
                (xyxy,) = rescale_boxes([drawn[name]], frame, (film.width, film.height))
                side = xyxy[2:] - xyxy[:2]
                yield ScoredBox(
                    name, 0.6 + 0.3 * rng.random(), tuple(xyxy + np.tile(rng.normal(0, self.jitter, 2) * side, 2))
                )
            x, y = rng.random(2) * [film.width * 0.7, film.height * 0.7]
            yield ScoredBox(name, 0.5 * rng.random(), (x, y, x + film.width * 0.3, y + film.height * 0.3))
