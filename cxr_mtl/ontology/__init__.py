"""Findings, what each implies, and every dataset's own names for them. ``tree.py`` is the file to read first."""

from cxr_mtl.ontology.merge import merge_ontologies
from cxr_mtl.ontology.tree import Finding, Ontology, list_ontologies, load_ontology

__all__ = ["Finding", "Ontology", "list_ontologies", "load_ontology", "merge_ontologies"]
