"""Commands that GitHub workflows call."""
