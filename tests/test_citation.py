"""CITATION.cff is what citation tools can read, and cites this version."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
REQUIRED = {"cff-version", "message", "title", "authors"}  # by the Citation File Format 1.2.0
KNOWN = REQUIRED | {
    "abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license", "license-url",
    "preferred-citation", "references", "repository", "repository-artifact", "repository-code", "type", "url",
    "version",
}  # fmt: skip


def test_citation_file():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert REQUIRED <= set(cited) <= KNOWN
    assert (cited["cff-version"], cited["type"], cited["title"]) == ("1.2.0", "software", project["name"])
    assert cited["authors"] == [{"name": "The oodattack authors"}]
    assert (str(cited["version"]), cited["license"]) == (project["version"], project["license"])
    assert cited["abstract"] == project["description"]
    assert cited["keywords"] == project["keywords"]
