"""Several radiologists read one film: their marks and boxes to one answer."""
