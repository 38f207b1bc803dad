"""The reject gate: is this a frontal chest film at all, and is it like those that the model learned from?

``thumbs`` is what is looked at; ``gate`` and ``usual`` answer the two questions, with numpy alone; ``fit`` fits the
first against the ``negatives`` that it draws, with scikit-learn and only while training.
"""
