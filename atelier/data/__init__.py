"""Data models: recipes, policies, releases, declarations, manifests and their names."""
