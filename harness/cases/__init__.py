"""The cases that a candidate is judged on: recipes, the space of recipes, and the tensors that a recipe stands for."""
