"""`oodattack completion`."""

import click

EXAMPLE = "Example: oodattack completion bash"
VARIABLE = "_OODATTACK_COMPLETE"  # by which the shell asks


@click.command(epilog=EXAMPLE)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print shell code that completes commands, options and names.

    \b
    bash    eval "$(oodattack completion bash)"    in ~/.bashrc
    zsh     eval "$(oodattack completion zsh)"     in ~/.zshrc, after compinit
    fish    oodattack completion fish > ~/.config/fish/completions/oodattack.fish
    """  # noqa: D301  (\b keeps lines apart)
    from oodattack.cli.shells import SHELLS

    root = click.get_current_context().find_root().command
    click.echo(SHELLS[shell](root, {}, "oodattack", VARIABLE).source(), nl=False)
