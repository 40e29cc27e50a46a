"""Page: what there is to read."""

from docs.pages.markdown import link, page, table

INTRODUCTION = """# Documentation

The [README](../README.md) says what `oodattack` is for, how to run it and how to read what it prints, and has
[guides](../README.md#guides), each for one job. These pages are for looking things up. They are made from the tables
and docstrings of the package, and a test keeps them true."""
PAGES = {
    "detectors": "every score, with formula, paper, arguments, and what differs from the paper",
    "attacks": "every search, and those of torchattacks",
    "threat-models": "the fields of a threat file, and all that ship, with their sources",
    "bounds": "what no attack can beat: detectors that have bounds, and how to ask for them",
    "objectives": "training losses, samplers of outliers, recipes",
    "datasets": "data sets, groups, protocols, start pictures",
    "networks": "architectures by name",
    "python": "what `import oodattack` offers, and the pytest fixture",
    "command-line": "every command and option, exit codes",
    "report": "the fields of report.json",
}


def text() -> str:
    """The page."""
    rows = [(link(name.replace("-", " "), f"{name}.md"), words) for name, words in PAGES.items()]
    return page(INTRODUCTION, table(["page", "what is there"], rows), home=False)
