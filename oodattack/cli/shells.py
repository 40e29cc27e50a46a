"""What click lacks for names such as ensemble@ce,gq: bash splits words at @ and :, click's code for fish at commas."""

import os

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

BREAKS = ("@", ":")


def glued(words: list[str], at: int) -> tuple[list[str], str, str]:
    """Words as they were typed, from those that bash split: "energy", "@", "gr" were "energy@gr".

    Args:
        words: as bash has them, the command first.
        at: index of the one that is completed; it may not exist yet.

    Returns:
        The complete words, the one to complete, and the part of it that bash leaves alone: that before an @, which it
        takes for the beginning of a host, and that up to a colon.
    """
    whole: list[str] = []
    kept = ""
    for i, word in enumerate([*words[:at], "".join(words[at : at + 1])]):
        if not whole or not (word in BREAKS or words[i - 1] in BREAKS):
            kept = ""
            whole.append(word)
            continue
        if word in BREAKS:
            kept = whole[-1] if word == "@" else whole[-1] + word
        whole[-1] += word
    return whole[:-1], whole[-1], kept


class BashWords(BashComplete):
    """click's own completion, between words as the user typed them."""

    kept = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """What precedes, without the command, and the word to complete."""
        words = split_arg_string(os.environ["COMP_WORDS"])
        before, incomplete, self.kept = glued(words, int(os.environ["COMP_CWORD"]))
        return [word for word in before[1:] if word != "="], incomplete  # --detector=energy is three words

    def format_completion(self, item: "CompletionItem[str]") -> str:
        """The type and the part of the value that bash inserts."""
        return f"{item.type},{item.value.removeprefix(self.kept)}"


class FishAnswers(FishComplete):
    """click's own completion; an answer is split at its first comma only, behind the type."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')


SHELLS: dict[str, type[ShellComplete]] = {"bash": BashWords, "zsh": ZshComplete, "fish": FishAnswers}

for shell in SHELLS.values():
    add_completion_class(shell)  # in place of click's own
