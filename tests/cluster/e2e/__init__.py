"""The product on a real cluster: installed by Helm, asked as its users ask it."""
