"""The pages of `docs/`, made from the package's tables and docstrings: a file a page."""
