"""Chest X-ray findings, boxes and a tree of findings from one model. Research use only. Not for clinical use."""

__version__ = "0.1.0"
