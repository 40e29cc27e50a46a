"""All commands under one name."""

import click

from oodattack.cli.check import check
from oodattack.cli.completion import completion
from oodattack.cli.gallery import gallery
from oodattack.cli.listing import list_
from oodattack.cli.run import run
from oodattack.cli.train import train
from oodattack.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="oodattack")
def cli() -> None:
    """How much of its AUROC is left when somebody works against your out-of-distribution detector?

    \b
    oodattack run                     the embedded default: digits, nine detectors, four threats
    oodattack list threats            what there is to choose from
    """  # noqa: D301  (\b keeps lines apart)


for command in (run, list_, train, verify, check, gallery, completion):
    cli.add_command(command)
