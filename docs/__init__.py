"""Documentation made from the package's tables and docstrings: `python -m docs.build` writes it."""
