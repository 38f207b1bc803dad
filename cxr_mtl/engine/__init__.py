"""DeepSpeed behind a small face: start, step, checkpoint, resume."""
