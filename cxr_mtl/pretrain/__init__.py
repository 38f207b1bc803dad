"""Learning from films without labels. ``loop.py`` is the file to read first."""
