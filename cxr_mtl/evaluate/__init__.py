"""A bundle measured on films it has not learned from: results.json, predictions.parquet, figures, report.html."""
