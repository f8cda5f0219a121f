"""Commands that serve adapters and generate images."""
