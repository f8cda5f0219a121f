"""Compares runs on one page: recipes, curves, pictures, scores and the scatter of trainings."""
