"""A run that is killed, again and again, ends as if nobody had."""

import random

from benchmarks.kill_test import RESUME, WORDS, finish, kill, result


def test_sigkill_at_random_moments_changes_no_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    seconds = finish(WORDS, whole)
    draw = random.Random()
    moments, kept = [draw.uniform(0, 0.5 * seconds) for _ in range(20)], []
    for i, after in enumerate(moments):
        kept.append(kill(RESUME if i else WORDS, killed, after=after))
    assert kept[0] is not None  # killed before its end
    finish(RESUME, killed)
    assert result(killed) == result(whole), (moments, kept)
    assert not (killed / "run" / "journal").exists()
