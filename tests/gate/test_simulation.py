"""The simulation of the gate: what it draws, and what its results say."""

import numpy as np
import pytest

from benchmarks import gate_simulation, json_lines
from benchmarks.gate_simulation import N_ID, N_OOD, NOISES, RESULTS, TIMES, Noise, both, markdown, shift, simulate
from oodattack.gate.delong import placed

LINES = json_lines.read(RESULTS)


def test_scores_have_the_auroc_and_the_correlations_asked_for():
    random = np.random.default_rng(0)
    (id_old, id_new), (ood_old, _) = (both(random, 3, 40_000, Noise(0.9)) for _ in range(2))
    assert placed(id_old, ood_old + shift(np.array([0.5, 0.7, 0.9]))).auroc == pytest.approx([0.5, 0.7, 0.9], abs=0.01)
    assert np.corrcoef(id_old[0], id_new[0])[0, 1] == pytest.approx(0.9, abs=0.01)
    assert np.corrcoef(id_old[0], id_old[1])[0, 1] == pytest.approx(0.5, abs=0.02)
    old, new = both(random, 2, 40_000, Noise(1.0, redrawn=0.1))
    assert (old != new).mean() == pytest.approx(0.1, abs=0.01) and new.var() == pytest.approx(1, abs=0.03)


def test_a_drop_is_caught_where_noise_is_small_and_missed_where_it_is_not():
    good, bad = (simulate(2, Noise(rho), times=20, seed=0) for rho in (0.99, 0.0))
    assert good["caught"] == 1 and bad["caught"] < 0.5
    assert good["false_alarms"] == 0
    assert markdown([good, bad]).splitlines()[2].startswith("| correlation 0.99 | 0.00")


def test_every_setting_was_simulated():
    assert (N_ID, N_OOD) == (325, 200)  # the default of `oodattack run`
    found = {(line["cells"], *(line[field] for field in Noise._fields)): line["builds"] for line in LINES}
    assert found == {(cells, *noise): times for cells, times in TIMES.items() for noise in NOISES}


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line['cells']}-{line['correlation']}-{line['redrawn']}")
def test_both_goals_are_met_for_scores_of_the_same_network(line):
    assert line["false_alarms"] < 0.01
    if line["paired"] and line["correlation"] >= 0.99 and not line["redrawn"]:
        assert line["caught"] > 0.95 and min(line["caught_by_auroc"].values()) > 0.95


def test_the_simulation_asks_what_the_gate_asks():
    assert (gate_simulation.MARGIN, gate_simulation.ALPHA) == (0.02, 0.01)
