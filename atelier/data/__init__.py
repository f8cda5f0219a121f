"""Plain data: recipes, policies, releases, declarations, manifests and the names in them."""
