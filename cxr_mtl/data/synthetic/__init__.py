"""Drawn chests in NIH's layout: the study set that quickstart and the tests train on. No patient is in it.

``cases`` says who is filmed and what is seen, ``anatomy`` and ``findings`` draw it, ``film`` exposes it, ``layout``
writes the folder. Body units: the film spans -1 to 1, u to the viewer's right (the patient's left), v down.
"""

from cxr_mtl.data.synthetic.cases import BOX_FINDINGS, FINDINGS, FilmPlan, plan_films
from cxr_mtl.data.synthetic.film import Film, draw_film
from cxr_mtl.data.synthetic.layout import write_study_set

__all__ = ["BOX_FINDINGS", "FINDINGS", "Film", "FilmPlan", "draw_film", "plan_films", "write_study_set"]
