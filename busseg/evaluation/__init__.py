"""Evaluation of a model: scores, figures, reports, and the folder that holds them."""
