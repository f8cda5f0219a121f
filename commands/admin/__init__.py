"""Commands for operators: keys, models and compiled engines."""
