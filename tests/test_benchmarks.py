"""The definitions that benchmarks rest on, with tiny random networks and no files of data."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import oodattack as oa
from benchmarks import (
    attack_strength,
    cifar_data,
    cifar_networks,
    early_rows,
    json_lines,
    one_attack,
    paper_attacked,
    step_cost,
    tables,
)
from benchmarks.peers import NORMS, PEERS, Ball, TwoLogits, has_gradient
from oodattack.metrics import auroc

LINF = Ball("linf", 8 / 255)
LIBRARY = {"torchattacks": "torchattacks", "foolbox": "foolbox", "advlib": "adv_lib"}


def test_weights_load_whatever_wraps_them(tmp_path):
    known = cifar_networks.NETWORKS["resnet20"]
    network = oa.models.build(known.model, channels=3, classes=10)
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / known.file)
    loaded = cifar_networks.load("resnet20", tmp_path)
    assert not loaded.training
    assert torch.equal(loaded.network.linear.weight, network.linear.weight)
    assert loaded.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_sets_are_disjoint_and_grow_with_n(tmp_path):
    images = np.arange(10_000, dtype=np.int64)[:, None, None, None] + np.zeros((1, 2, 2, 3), dtype=np.int64)
    images = np.stack([images[..., 0] // 256, images[..., 1] % 256, images[..., 2] % 7], axis=-1).astype(np.uint8)
    np.savez(tmp_path / "cifar10_test.npz", images=images, labels=np.arange(10_000) % 10)
    few, many = (cifar_data.id_images(tmp_path, n=n, seed=0) for n in (5, 50))
    assert few.x.shape == (5, 3, 2, 2) and few.x.max() <= 1
    assert torch.equal(few.x, many.x[:5]) and torch.equal(few.y, many.y[:5])
    rows = [tuple((255 * row[:2, 0, 0]).round().long().tolist()) for row in torch.cat([many.x, many.targets])]
    assert len(set(rows)) == 100
    assert not torch.equal(few.x, cifar_data.id_images(tmp_path, n=5, seed=1).x)
    with pytest.raises(ValueError, match="`n` must be <= 10000 here, got 12000"):
        cifar_data.id_images(tmp_path, n=6000, seed=0)


def tiny() -> oa.Classifier:
    """A random network, counted; its energy score is far from saturation."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return one_attack.Counted(nn.Sequential(*layers, nn.Linear(4, 3)).eval())


def sides(detector: nn.Module) -> one_attack.Sides:
    """ID rows score a little lower than OOD rows: those of a random network, sorted by score."""
    x = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x = x[one_attack.scores(detector, x).argsort()]
    return one_attack.Sides(x[:8], x[8:], one_attack.scores(detector, x[:8]), one_attack.scores(detector, x[8:]))


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_lowers_the_score_inside_the_ball_and_is_counted(name):
    pytest.importorskip(LIBRARY[name.split("-")[0]])
    detector = oa.detectors.Energy(tiny())
    side = sides(detector)
    for ball in (LINF, Ball("l2", 0.5)):
        found = one_attack.run_peer(detector, "detector", side, name, ball, passes=10, seed=0)
        assert found["auroc_clean"] == 1
        assert found["auroc"] < 0.9, ball
        assert found["passes"] == {"advlib-apgd": 101}.get(name, 10) or name == "torchattacks-apgd"  # it skips rows
        assert found["forwards"] >= found["passes"] + 1


def test_a_score_without_a_gradient_stays_clean_and_its_surrogate_does_not():
    detector = oa.detectors.GaiaZ(tiny())
    side = sides(detector)
    names = {"on": "detector", "side": side, "name": "torchattacks-pgd", "ball": LINF, "passes": 10, "seed": 0}
    stuck = one_attack.run_peer(detector, **names)
    assert stuck["auroc"] == stuck["auroc_clean"] and stuck["passes"] == 0 and "no gradient" in stuck["note"]
    assert one_attack.run_peer(detector, **names | {"on": "surrogate"})["passes"] == 10
    assert not has_gradient(detector, side.x) and has_gradient(detector.surrogate.score, side.x)


def test_two_logits_put_ood_first_and_count():
    model = TwoLogits(lambda x: x.flatten(1).sum(1), 2.0, inside=nn.Identity(), pad=-9.0)
    # sums 0 and 3: margins -2 and 1
    assert model(torch.tensor([[0.0, 0.0], [1.0, 2.0]])).tolist() == [[-2.0, 2.0, -9.0], [1.0, -1.0, -9.0]]
    assert model.passes == 2


def test_forwards_are_counted_once_whatever_calls_what():
    net, x = tiny(), torch.rand(5, 3, 8, 8)
    for call in (net, net.logits, net.features):
        before = net.rows
        call(x)
        assert net.rows - before == 5


def test_ours_runs_through_evaluate():
    detector = oa.detectors.Energy(tiny())
    side = sides(detector)
    id = cifar_data.Id(side.id_x, torch.zeros(8), side.id_x.flip(3))
    threat = one_attack.limits(LINF, queries=12, step_size=0.25)
    found = one_attack.run_ours(detector, id, side.x, threat, seed=0)
    assert found["auroc_clean"] == 1 and found["auroc"] < 0.9
    assert 0 < found["passes"] <= 12 < found["forwards"]


def test_a_cut_run_goes_on_and_failures_are_tried_again(tmp_path):
    path = tmp_path / "lines.jsonl"
    key = {"detector": "energy", "attack": "a"}
    assert json_lines.find(json_lines.read(path), key) is None
    json_lines.append(path, key | {"failed": "ValueError: no"})
    assert json_lines.find(json_lines.read(path), key) is None
    json_lines.append(path, key | {"auroc": 0.5})
    assert json_lines.find(json_lines.read(path), key)["auroc"] == 0.5


def test_peers_go_again_when_ours_turns_out_to_spend_more(tmp_path, monkeypatch):
    calls = []
    ours = {"auroc_clean": 1.0, "auroc": 0.5, "passes": 7.2, "forwards": 9.5, "seconds": 1.0}
    monkeypatch.setattr(attack_strength, "read_threat", lambda name: name)
    monkeypatch.setattr(attack_strength, "run_ours", lambda *args, **options: ours)
    monkeypatch.setattr(attack_strength, "run_peer", lambda *args, passes, **options: calls.append(passes) or ours)
    detector = oa.detectors.Energy(tiny())
    id = cifar_data.Id(torch.rand(2, 3, 8, 8), torch.zeros(2), torch.rand(2, 3, 8, 8))
    where = {"network": "r", "detector": "energy", "ood": "noise", "threat": "linf-8-255", "n": 2, "seed": 0}
    always = ["--data", ".", "--seed", "0", "--out", str(tmp_path / "lines.jsonl"), "--passes", "3", "--suite", "s"]
    for more in ([], ["ood-aa"], ["ood-aa"], ["ood-aa", "--equal", "forwards"]):
        attacks = ["--attacks", ",".join([*more[:1], "foolbox-pgd"]), *more[1:]]
        attack_strength.cell(detector, id, id.targets, where, attack_strength.options().parse_args(always + attacks))
    # alone: what was asked for; beside ours 7.2, rounded up; again: nothing new; then the forwards
    assert calls == [3, 8, 10]


def test_a_suite_can_have_another_budget():
    always = ["--data", ".", "--seed", "0", "--out", "lines.jsonl", "--suite", "ood-aa"]
    own, less = (
        attack_strength.suite(attack_strength.options().parse_args([*always, *more]))
        for more in ([], ["--queries", "90"])
    )
    assert (own.name, own.queries, less.name, less.queries) == ("ood-aa", 500, "ood-aa-90", 90)
    assert [m.queries for m in less.members] == [min(m.queries, 90) for m in own.members]


def test_every_contestant_takes_its_steps_inside_the_ball():
    detector = oa.detectors.Energy(tiny())
    x = torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        clean = detector(x)
    for name, attack in step_cost.contestants().items():
        torch.manual_seed(0)
        x_adv = attack(detector, clean.min().item() - 1, x, 8).detach()  # nothing crosses: adv-lib's PGD stays
        assert (x_adv - x).abs().max() <= LINF.eps + 1e-6, name
        if name != "advlib-pgd":
            assert (detector(x_adv).detach() < clean).all(), name


def test_cost_is_a_ratio_within_a_round():
    lines = step_cost.cost_lines({"bare": [1.0, 2.0, 4.0], "a": [2.0, 2.0, 6.0]}, {"steps": 10})
    # ratios 2, 1, 1.5; median second count 2.0 over 10 steps
    assert (lines[1]["ratio"], lines[1]["ratio_min"], lines[1]["ratio_max"]) == (1.5, 1.0, 2.0)
    assert lines[1]["ms_per_step"] == 200


def test_easy_rows_can_be_hidden_and_hard_rows_halfway():
    detector = oa.detectors.Energy(oa.Classifier(early_rows.Darkness(0).eval()))
    threat = one_attack.limits(LINF)
    far = early_rows.reach(threat)
    assert far == pytest.approx(8 / 255)
    id = early_rows.images(20, 0.01 * far * torch.linspace(-1, 1, 20), 1)
    x = early_rows.ood_rows(20, far, easy=0.9, seed=2)
    darkest = (x - LINF.eps).clamp(0, 1)
    on_id, before, after = (one_attack.scores(detector, images) for images in (id, x, darkest))
    assert auroc(on_id, before) == 1
    assert (after[:18] < on_id.min()).all()
    assert (after[18:] > on_id.quantile(0.25)).all() and (after[18:] < on_id.quantile(0.75)).all()


def test_cells_stand_in_order_and_the_table_says_where_a_rival_left_less():
    def lines(network, threat, **left):
        cell = {"network": network, "detector": "energy", "ood": "noise", "threat": threat, "n": 9, "seed": 0}
        line = {"benchmark": "attack_strength", "on": None, "auroc_clean": 0.9, "passes": 7} | cell
        return [line | {"attack": name.replace("_", "-"), "auroc": auroc} for name, auroc in left.items()]

    some = lines("r", "t", ood_aa=0.25, x=0.5) + lines("r", "u", ood_aa=0.25, x=0.25)
    some += lines("s", "t", ood_aa=0.5, x=0.25) + lines("s", "u", ood_aa=0.5)
    some += [line | {"queries": 100} for line in lines("s", "u", ood_aa=0.75)]
    table = tables.strength(some)
    names = ["energy@r, noise, t", "energy@s, noise, t", "energy@r, noise, u", "energy@s, noise, u"]
    names.append("energy@s, noise, u, 100 queries")
    assert re.findall(r"^\| (energy@.*?) \|", table, re.M) == names
    told = "leaves least, or as little, in 2 of the 3 that have rivals; less is left by x 0.25000 (energy@s, noise, t)."
    assert told in table


def test_a_detector_under_attack_stands_beside_its_whole_box_and_verdict():
    x = torch.rand(2, 12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    threats = ["linf-8-255", "sanity-full-box"]
    report = oa.evaluate({"msp": oa.detectors.MSP(tiny())}, id=x[0], ood={"noise": x[1]}, threats=threats, seed=0)
    found = paper_attacked.numbers(*report.results)
    ours, whole = report.results
    cells = f"{ours.clean.auroc:.3f} | {ours.attacked.auroc:.3f} | {whole.attacked.auroc:.3f} | {ours.queries:.0f}"
    where = {"detector": "msp", "network": "r", "ood": "noise", "n": 12}
    table = tables.paper_attacked([found | where])
    assert f"| msp, noise | {cells} | {ours.verdict} | log-odds of the largest softmax |" in table
    assert "log-odds of the largest softmax (0.500) |" in tables.paper_attacked(
        [found | where | {"rank_correlation": 0.5}]
    )
    assert "| its score |" in tables.paper_attacked([found | where | {"surrogate": None}])


def test_memory_growth_is_told_in_images():
    sizes = [{"n": n, "images_mib": n / 100, "peak_mib": 200 + 3 * n / 100} for n in (500, 2000, 8000)]
    assert early_rows.copies(sizes)["image_copies"] == 3


def test_tables_go_between_their_markers():
    cell = {"network": "r", "detector": "energy", "ood": "noise", "threat": "t", "n": 9, "seed": 0, "auroc_clean": 0.9}
    line = {"benchmark": "attack_strength", "on": None, "auroc": 0.5, "passes": 7.4} | cell
    lines = [line | {"attack": "x"}, line | {"attack": "y", "auroc": 0.25}, line | {"attack": "y", "auroc": 0.125}]
    lines.append(line | {"attack": "y", "on": "surrogate", "auroc": 0.375})  # the lower of the two counts
    lines.append(cell | {"benchmark": "attack_strength", "attack": "z", "on": "surrogate", "failed": "ValueError: no"})
    found = tables.tables(json_lines.parse("\n".join(json.dumps(one) for one in lines)))
    assert list(found) == ["attack_strength"]
    assert "| energy@r, noise, t | 0.900 | 0.5000 (7) | **0.1250** (7) |" in found["attack_strength"]
    assert "z on the surrogate, energy@r: ValueError: no" in found["attack_strength"]
    page = (Path(tables.__file__).parent / "README.md").read_text(encoding="utf-8")
    for name in tables.TABLES:
        assert "| a |" in tables.insert(page, name, "| a |")
    with pytest.raises(ValueError, match="markers of 'memory' once, got 0"):
        tables.insert("nothing", "memory", "")


def test_norms_of_peers_are_those_of_the_balls():
    assert NORMS == {"linf": float("inf"), "l2": 2}
