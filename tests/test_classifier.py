import math
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import oodattack as oa
from oodattack.classifier import Classifier, channel_mean
from oodattack.classifier.copies import searching
from oodattack.models.small import SmallResNet


def flat(*, inputs=2, classes=3):
    """Linear network on flattened images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes)).double()


def small():
    return SmallResNet(1, 3, width=4).double().eval()


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Ends(nn.Module):
    """A network around `last`, a function of the features."""

    def __init__(self, last):
        super().__init__()
        self.norm, self.fc, self.spare, self.last = nn.BatchNorm2d(1), nn.Linear(4, 2), nn.Linear(4, 2), last

    def forward(self, x):
        return self.last(self, self.norm(x).flatten(1))


def ends(last):
    return Ends(last).double().eval()


def test_mean_and_std_are_applied_per_channel():
    # ((0.75 - 0.5) / 0.25, (0.5 - 0.25) / 0.5) = (1, 0.5)
    network = flat()
    x = torch.tensor([0.75, 0.5], dtype=torch.float64).view(1, 2, 1, 1)
    net = Classifier(network, mean=[0.5, 0.25], std=[0.25, 0.5])
    assert net.features(x).tolist() == [[1.0, 0.5]]
    torch.testing.assert_close(net(x), network(torch.tensor([[1.0, 0.5]], dtype=torch.float64)))
    assert torch.equal(net.logits(x), net(x)) and torch.equal(net.run(x).logits, net(x))
    assert Classifier(network).features(x).tolist() == [[0.75, 0.5]]
    assert net.state_dict().keys() == {f"network.{key}" for key in network.state_dict()}  # no more than the weights


def test_mean_and_std_are_checked():
    for mean, std in (([0.5], None), (None, [0.5]), ([0.5], [0.5, 0.5])):
        with pytest.raises(ValueError, match=r"`mean` and `std` must have one number a channel each"):
            Classifier(flat(), mean=mean, std=std)
    for mean, std in ((0.5, 0.5), ([], []), (np.zeros((1, 3)), np.ones((1, 3))), ("a", "b")):
        with pytest.raises(ValueError, match=r"`mean` and `std` must have one number a channel each"):
            Classifier(flat(), mean=mean, std=std)
    with pytest.raises(ValueError, match=r"`std` must be > 0, got \[0.5, 0.0\]"):
        Classifier(flat(), mean=[0, 0], std=[0.5, 0.0])
    with pytest.raises(ValueError, match=r"`std` must be > 0, got \[nan\]"):
        Classifier(flat(), mean=[0], std=[float("nan")])
    with pytest.raises(ValueError, match=r"`mean` must be finite, got \[inf\]"):
        Classifier(flat(), mean=[float("inf")], std=[1])
    for kind in (np.array, torch.tensor, tuple):
        assert Classifier(flat(inputs=12), mean=kind([0.5, 0.4, 0.3]), std=kind([1.0, 1.0, 1.0])).mean.numel() == 3
    net = Classifier(flat(inputs=12), mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(ValueError, match=r"`x` must have 3 channels as `mean` has, got 1"):
        net(images(2, 1, 2, 2))  # would be spread over three channels
    assert Classifier(flat(inputs=12), mean=[0.5], std=[0.5])(images(2, 3, 2, 2)).shape == (2, 3)  # one for all
    with pytest.raises(
        ValueError, match=r"`mean` must be in \[0, 1\], as images are, got \[123\.0\]\. Divide it by 255"
    ):
        Classifier(flat(), mean=[123.0], std=[58.0])
    with pytest.raises(ValueError, match=r"`mean` must be in \[0, 1\].* Take that of the training images"):
        Classifier(flat(), mean=[-0.5], std=[0.5])
    Classifier(flat(), mean=[0.0], std=[1 / 255])  # for a network that sees bytes


def test_mode_follows_the_network():
    assert Classifier(small().train()).training
    assert not Classifier(small()).training
    network = small().train()
    network.layer1.eval()  # frozen
    net = Classifier(network)
    assert net.training and not network.layer1.bn1.training and network.layer2.bn1.training
    assert not net.eval().network.training


def test_features_are_the_input_of_the_head():
    network, x = small(), images(4, 1, 32, 32)
    z = Classifier(network).features(x)
    assert z.shape == (4, network.head.in_features)
    torch.testing.assert_close(network.head(z), network(x))
    body = network.layer3(network.layer2(network.layer1(network.stem(x))))
    torch.testing.assert_close(z, body.mean((2, 3)))


def test_head_is_the_last_linear_or_the_one_named():
    parts = OrderedDict(flat=nn.Flatten(), first=nn.Linear(2, 4), act=nn.ReLU(), second=nn.Linear(4, 3))
    network, x = nn.Sequential(parts).double(), images(5, 2, 1, 1)
    assert Classifier(network).head == "second"
    assert torch.equal(Classifier(network, head="first").features(x), x.flatten(1))
    assert Classifier(network, head="second").features(x).shape == (5, 4)
    with pytest.raises(ValueError, match=r"`head` must be the name of a module of the network, got 'third'"):
        Classifier(network, head="third")


def test_head_may_be_a_convolution():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 3, 1), nn.Flatten()).double()
    with pytest.raises(ValueError, match=r"must have an `nn.Linear` head, got none. Name the last layer with"):
        Classifier(network)
    net, x = Classifier(network, head="1"), images(4, 2, 5, 5)
    clean = net.run(x)
    torch.testing.assert_close(clean.features, x.mean((2, 3)))
    assert torch.equal(net.run(x, head_input=clean.features).logits, clean.logits)


def test_only_logits_of_two_dimensions_are_accepted():
    for last, found in (
        (lambda m, z: (m.fc(z), z), "tuple"),
        (lambda m, z: {"logits": m.fc(z)}, "dict"),
        (lambda m, z: m.fc(z)[:, 0], r"\(3,\)"),
    ):
        with pytest.raises(ValueError, match=rf"the network must return logits of shape \(B, K\), got {found}"):
            Classifier(ends(last), head="fc")(images(3, 1, 2, 2))


def test_logits_may_be_an_attribute_of_what_the_network_returns():
    net, x = Classifier(ends(lambda m, z: SimpleNamespace(logits=m.fc(z), loss=None)), head="fc"), images(3, 1, 2, 2)
    plain = Classifier(ends(lambda m, z: m.fc(z)), head="fc")
    plain.load_state_dict(net.state_dict())
    assert torch.equal(net(x), plain(x)) and torch.equal(net.run(x).features, plain.run(x).features)
    with searching(object()):
        torch.testing.assert_close(net.logits(x), plain(x))


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 2, 2), nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), nn.BatchNorm2d(1)])
def test_images_in_another_precision_than_the_network_are_refused(layer):
    network = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3)).eval()
    network(torch.rand(1, 1, 2, 2))
    net = Classifier(network.double())
    with pytest.raises(ValueError, match=r"must have the precision of the network, torch.float64, got torch.float32"):
        oa.detectors.fit_knn(net, torch.rand(4, 1, 2, 2), k=1)


def test_watched_outputs_and_their_gradients():
    net, x = Classifier(small()), images(2, 1, 32, 32).requires_grad_()
    seen = net.run(x, watch=["layer1.bn1", "layer2"])
    assert list(seen.outputs) == ["layer1.bn1", "layer2"]
    ahead = net.network.layer1.bn1(net.network.layer1.conv1(net.network.stem(x)))
    torch.testing.assert_close(seen.outputs["layer1.bn1"], ahead)
    for g in torch.autograd.grad(seen.logits.sum(), list(seen.outputs.values())):
        assert g.abs().sum() > 0


def test_logits_are_a_function_of_the_replaced_output():
    # head(mean over positions of z), whatever the image
    net, z = Classifier(small()), images(2, 16, 1, 1)
    for x in (images(2, 1, 32, 32), torch.zeros(2, 1, 32, 32).double()):
        logits = net.run(x, replace={"pool": z}).logits
        torch.testing.assert_close(logits, net.network.head(z.flatten(1)))


def test_unknown_layers_are_refused_before_the_pass():
    net = Classifier(small())
    for given in ({"watch": ["layer9"]}, {"replace": {"layer9": images(1)}}):
        with pytest.raises(ValueError, match=r"layers must name modules of the network, got 'layer9'. See"):
            net.run(images(1, 1, 32, 32), **given)


def test_layers_called_twice_or_never_are_refused():
    x = images(3, 1, 2, 2)
    twice = Classifier(ends(lambda m, z: m.fc(m.norm(z.view(3, 1, 2, 2)).flatten(1))), head="fc")
    with pytest.raises(ValueError, match=r"layer 'norm' must be called once in a forward pass. Name another layer."):
        twice.run(x, watch=["norm"])
    never = Classifier(ends(lambda m, z: m.fc(z)), head="fc")
    with pytest.raises(ValueError, match=r"layer 'spare' must be called in a forward pass, but it was not"):
        never.run(x, watch=["spare"])
    with pytest.raises(ValueError, match=r"`head` must be called once in a forward pass, got 0 calls"):
        Classifier(never.network, head="spare").features(x)
    with pytest.raises(ValueError, match=r"`head` must be called once in a forward pass, got 2 calls"):
        Classifier(ends(lambda m, z: m.fc(z) + m.fc(-z)), head="fc").features(x)


def test_a_layer_that_puts_out_a_tuple_is_refused():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    network = nn.Sequential(OrderedDict(pair=Pair(), first=First(), flat=nn.Flatten(), head=nn.Linear(4, 2)))
    net = Classifier(network.double().eval())
    assert net(images(3, 1, 2, 2)).shape == (3, 2)
    with pytest.raises(ValueError, match=r"layer 'pair' must put out a tensor, got tuple. Name another layer."):
        net.run(images(3, 1, 2, 2), watch=["pair"])


class First(nn.Module):
    def forward(self, pair):
        return pair[0]


def test_norm_layers_late_ones_and_stages_of_the_small_network():
    net = Classifier(small())
    norms = [name for name, module in net.network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert net.norm_layers() == norms and "layer2.shortcut.1" in norms
    assert net.late_norm_layers() == [name for name in norms if name.startswith(("layer2.", "layer3."))]
    assert net.stages() == ["stem", "layer1", "layer2", "layer3"]


def test_all_kinds_of_norm_layers_are_found():
    kinds = [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm2d(4), nn.BatchNorm1d(4)]
    net = Classifier(nn.Sequential(nn.Conv2d(1, 4, 1), *kinds, nn.Linear(4, 2)))
    assert net.norm_layers() == ["1", "2", "3", "4", "5"]
    assert net.late_norm_layers() == ["3", "4", "5"]  # no stages: the second half


def test_networks_without_norms_or_stages_say_so():
    net = Classifier(flat())
    for ask in (net.norm_layers, net.late_norm_layers):
        with pytest.raises(ValueError, match=r"must have normalisation layers for this detector, got none"):
            ask()
    with pytest.raises(ValueError, match=r"no modules named like `layer1`. Give `layers` explicitly"):
        net.stages()


def test_blocks_inside_stages_are_no_stages():
    # named layer1.block1, layer1.block2, layer2.block1: the last two stages are layer1 and layer2
    def stage(blocks):
        return nn.Sequential(OrderedDict((f"block{i + 1}", nn.BatchNorm2d(1)) for i in range(blocks)))

    parts = OrderedDict(layer0=stage(1), layer1=stage(2), layer2=stage(1), flat=nn.Flatten(), head=nn.Linear(4, 2))
    net = Classifier(nn.Sequential(parts))
    assert net.stages() == ["layer0", "layer1", "layer2"]
    assert net.late_norm_layers() == ["layer1.block1", "layer1.block2", "layer2.block1"]


@pytest.mark.parametrize(("name", "stem"), [("stages", "stem"), ("blocks", "bn1")])
@pytest.mark.parametrize("wrapped", [False, True])
def test_numbered_stages_are_found_where_they_hold_convolutions(name, stem, wrapped):
    def network(layer):
        stages = nn.Sequential(*(nn.Sequential(OrderedDict(blocks=nn.Sequential(layer(), layer()))) for _ in range(3)))
        parts = OrderedDict({stem: nn.BatchNorm2d(1), name: stages, "flat": nn.Flatten(), "head": nn.Linear(4, 2)})
        return nn.Sequential(OrderedDict(body=nn.Sequential(parts))) if wrapped else nn.Sequential(parts)

    net = Classifier(network(lambda: nn.Conv2d(1, 1, 1)))
    prefix = "body." if wrapped else ""
    assert net.stages() == [*([] if wrapped else [stem]), *(f"{prefix}{name}.{i}" for i in range(3))]
    assert net.late_norm_layers() == [f"{prefix}{stem}"]  # as before: the second half of all norms
    with pytest.raises(ValueError, match="Give `layers` explicitly, or take another detector"):
        Classifier(network(lambda: nn.Linear(4, 4))).stages()  # tokens


def test_stages_named_s1_s2_as_in_regnet_are_found():
    parts = OrderedDict((f"s{i}", nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))) for i in (1, 2, 3))
    network = nn.Sequential(OrderedDict(stem=nn.BatchNorm2d(1), **parts, flat=nn.Flatten(), head=nn.Linear(4, 2)))
    assert Classifier(network).stages() == ["stem", "s1", "s2", "s3"]


def test_stages_of_a_wrapped_network_are_found():
    parts = OrderedDict((f"layer{i}", nn.BatchNorm2d(1)) for i in (1, 2, 3))
    network = nn.Sequential(OrderedDict(body=nn.Sequential(parts), flat=nn.Flatten(), head=nn.Linear(4, 2)))
    assert Classifier(network).stages() == ["body.layer1", "body.layer2", "body.layer3"]


@pytest.mark.parametrize("how", ["wrapped", "in place", "inside"])
def test_a_compiled_network_is_looked_into_as_the_plain_one(how):
    network, x = small().float(), images(4, 1, 32, 32).float()
    wanted = Classifier(network).run(x, watch=["layer1"])
    if how == "in place":
        network.compile(backend="eager")
    compiled = network if how == "in place" else torch.compile(network, backend="eager")
    net = Classifier(nn.Sequential(compiled).eval() if how == "inside" else compiled)
    with torch.no_grad():
        assert torch.equal(net.logits(x), wanted.logits)  # what runs first is compiled without hooks
        layer = next(name for name, _ in net.network.named_modules() if name.endswith("layer1"))
        found = net.run(x, watch=[layer])
    assert torch.equal(found.features, wanted.features) and torch.equal(found.logits, wanted.logits)
    assert torch.equal(found.outputs[layer], wanted.outputs["layer1"])


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_has_no_inside():
    network, x = small().float(), images(4, 1, 32, 32).float()
    plain = Classifier(network)
    for made in (torch.jit.script(network), torch.jit.trace(network, x)):
        net = Classifier(made, head="head")
        torch.testing.assert_close(net.logits(x), plain.logits(x))
        for ask in (
            lambda made=made: Classifier(made),
            lambda made=made: Classifier(made, head="fc"),
            lambda net=net: net.features(x),
            net.norm_layers,
            lambda net=net: oa.detectors.DICE(net, torch.ones(3, 16)),
            lambda net=net: oa.detectors.fit_gram(net, x),
        ):
            with pytest.raises(
                ValueError, match=r"must be a plain nn.Module to look inside, got a TorchScript one. Give"
            ):
                ask()


def test_channel_mean_by_hand():
    h = torch.tensor([[[[1.0, 3.0]], [[5.0, 9.0]]]])
    assert channel_mean(h).tolist() == [[2, 7]]
    assert channel_mean(h[:, :, 0]).tolist() == [[2, 7]]
    assert torch.equal(channel_mean(h[:, :, 0, 0]), h[:, :, 0, 0])
    assert math.isclose(channel_mean(images(1, 1, 3, 3)).item(), images(1, 1, 3, 3).mean().item())


@pytest.mark.parametrize("kind", ["msp", "odin", "energy", "mahalanobis"])
def test_a_network_in_bfloat16_does_not_round_the_score(kind):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5))
    net = oa.Classifier(network.eval())
    x = torch.rand(32, 1, 8, 8)
    detector = {
        "msp": lambda: oa.detectors.MSP(net),
        "odin": lambda: oa.detectors.ODIN(net),
        "energy": lambda: oa.detectors.Energy(net),
        "mahalanobis": lambda: oa.detectors.fit_mahalanobis(net, x, torch.arange(32) % 5),
    }[kind]()
    score = getattr(getattr(detector, "surrogate", None), "score", detector)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = score(x)
    assert found.dtype == x.dtype and len(found.unique()) >= 24
    assert torch.corrcoef(torch.stack([found, score(x)]))[0, 1] > 0.9


def test_a_network_without_values_leaves_the_normalisation_where_it_can_be_used():
    made = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3, device="meta")), mean=[0.5], std=[0.25])
    made.network.load_state_dict({"1.weight": torch.ones(3, 4), "1.bias": torch.zeros(3)}, assign=True)
    assert torch.equal(made(torch.full((1, 1, 2, 2), 0.75)), torch.full((1, 3), 4.0))
