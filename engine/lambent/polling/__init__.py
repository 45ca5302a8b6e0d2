"""The two loops and who runs them: mappings wanted against mappings running."""
