"""What the answers are worth: numpy in, numpy out.

Presence is 1 present, 0 absent; anything else (nan unknown, -1 uncertain) is left out, never counted as absent.
A number that is not defined, such as the AUROC of a finding with one class only, is nan, never 0 or 0.5.
"""
