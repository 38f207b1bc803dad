"""Who is filmed, how, and what is seen on the film; no pixels.

Everything of a patient follows from ``(seed, patient)``, so the first films of a longer set are those of a shorter one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

BOX_FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
)
"""The eight that NIH drew boxes for."""

FINDINGS = (*BOX_FINDINGS, "Edema", "Emphysema", "Pleural_Thickening")
"""What can be drawn, by NIH's names."""

CHRONIC = frozenset({"Cardiomegaly", "Emphysema", "Mass", "Nodule", "Pleural_Thickening"})
"""What a follow-up film of the same patient still shows, in the same place."""

# Clinical pictures and their weights. What lasts of a picture is contained in a picture again, so that a follow-up can
# always be drawn; findings that hide one another (a large heart in emphysema) share none.
CASES: tuple[tuple[frozenset[str], float], ...] = tuple(
    (frozenset(findings), weight)
    for weight, *findings in (
        (3.0, "Cardiomegaly"),
        (3.0, "Cardiomegaly", "Effusion"),
        (2.0, "Cardiomegaly", "Edema"),
        (2.5, "Cardiomegaly", "Edema", "Effusion"),
        (2.0, "Cardiomegaly", "Infiltration"),
        (2.0, "Effusion"),
        (3.5, "Effusion", "Atelectasis"),
        (3.0, "Effusion", "Pneumonia"),
        (2.0, "Effusion", "Mass"),
        (1.5, "Effusion", "Atelectasis", "Nodule"),
        (4.0, "Atelectasis"),
        (3.5, "Atelectasis", "Infiltration"),
        (3.5, "Atelectasis", "Pneumonia"),
        (3.0, "Edema"),
        (3.0, "Edema", "Infiltration"),
        (2.0, "Emphysema"),
        (1.0, "Emphysema", "Nodule"),
        (4.0, "Emphysema", "Pneumothorax"),
        (3.0, "Emphysema", "Pneumonia"),
        (4.5, "Infiltration"),
        (3.0, "Infiltration", "Nodule"),
        (2.5, "Mass"),
        (1.0, "Mass", "Nodule"),
        (3.0, "Mass", "Pneumothorax"),
        (2.0, "Nodule"),
        (3.0, "Nodule", "Pneumonia"),
        (1.5, "Pleural_Thickening"),
        (1.0, "Pleural_Thickening", "Mass"),
        (3.0, "Pleural_Thickening", "Atelectasis"),
        (4.5, "Pneumonia"),
        (5.5, "Pneumothorax"),
        (3.5, "Pneumothorax", "Pleural_Thickening"),
    )
)

_NORMAL_SHARE = 0.36  # of those without a lasting finding; about 0.3 of all films
_BOXED_SHARE = 0.7
_FOLLOW_UP_SHARE = 0.3  # chance of one more film: about 1.4 films a patient, 7 at most
_MAX_FILMS = 7
_PATIENT, _FILM = 0, 1  # streams of random numbers


@dataclass(frozen=True, slots=True)
class FilmPlan:
    """One film before it is drawn.

    Attributes:
        seed: of the whole study set.
        patient: counts from 1.
        follow_up: counts from 0 within the patient.
        age: years.
        sex: ``M`` or ``F``.
        view: ``PA`` or ``AP``.
        findings: what is seen, in the order of ``FINDINGS``; empty on a normal film.
        boxed: whether the reader drew boxes on this film.
        test: whether the patient is one of the test list.
    """

    seed: int
    patient: int
    follow_up: int
    age: int
    sex: str
    view: str
    findings: tuple[str, ...]
    boxed: bool
    test: bool

    @property
    def name(self) -> str:
        """The file's name, as NIH forms it."""
        return f"{self.patient:08d}_{self.follow_up:03d}.png"


def plan_films(num_images: int, seed: int) -> list[FilmPlan]:
    """The first ``num_images`` films of the study set that ``seed`` names, by patient and follow-up."""
    return list(islice(_films(seed), num_images))


def _films(seed: int) -> Iterator[FilmPlan]:
    patient = 0
    while True:
        patient += 1
        yield from _patient_films(seed, patient)


def _patient_films(seed: int, patient: int) -> Iterator[FilmPlan]:
    rng = np.random.default_rng([seed, _PATIENT, patient])
    num_films = min(int(rng.geometric(1.0 - _FOLLOW_UP_SHARE)), _MAX_FILMS)
    sex = "M" if rng.random() < 0.56 else "F"
    case = _draw_case(rng, frozenset())
    mean_age = 62 if case & {"Cardiomegaly", "Emphysema", "Edema"} else 48
    age = int(np.clip(rng.normal(mean_age, 15), 18, 92))
    for follow_up in range(num_films):
        if follow_up:
            age = min(age + int(rng.random() < 0.4), 95)
            case = _draw_case(rng, case & CHRONIC)
        # The sick are filmed in bed, from the front.
        ap_share = 0.55 if case & {"Edema", "Effusion", "Pneumothorax", "Atelectasis"} else 0.3
        yield FilmPlan(
            seed=seed,
            patient=patient,
            follow_up=follow_up,
            age=age,
            sex=sex,
            view="AP" if rng.random() < ap_share else "PA",
            findings=tuple(f for f in FINDINGS if f in case),
            boxed=bool(case) and bool(rng.random() < _BOXED_SHARE),
            # Every fifth patient from the second on: about 20 % in a set of any length, and never none of two patients.
            test=patient % 5 == 2,
        )


def _draw_case(rng: np.random.Generator, lasting: frozenset[str]) -> frozenset[str]:
    """A clinical picture that contains what lasts; no finding at all in ``_NORMAL_SHARE`` of those who have none."""
    normal = rng.random() < _NORMAL_SHARE
    if normal and not lasting:
        return frozenset()
    fitting = [(case, weight) for case, weight in CASES if lasting <= case]
    weights = np.array([weight for _, weight in fitting])
    return fitting[int(rng.choice(len(fitting), p=weights / weights.sum()))][0]


def film_rng(plan: FilmPlan, *stream: int) -> np.random.Generator:
    """Random numbers of this film alone; ``stream`` keeps its uses apart."""
    return np.random.default_rng([plan.seed, _FILM, plan.patient, plan.follow_up, *stream])


def patient_rng(plan: FilmPlan, *stream: int) -> np.random.Generator:
    """Random numbers that all films of the patient share."""
    return np.random.default_rng([plan.seed, _PATIENT, plan.patient, 1, *stream])


def finding_rng(plan: FilmPlan, finding: str) -> np.random.Generator:
    """Random numbers of one finding: the patient's where it lasts, the film's where it comes and goes."""
    stream = 10 + FINDINGS.index(finding)
    return patient_rng(plan, stream) if finding in CHRONIC else film_rng(plan, stream)
