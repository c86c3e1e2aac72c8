"""How good a model is: scores, figures, and the folder they go to."""
