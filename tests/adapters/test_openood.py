"""OpenOOD v1.5 by stand-ins that keep its contract: `postprocess(net, data) -> (pred, conf)`, and what it asks of nets.

The library itself is in no package index. Each stand-in cuts its graph as the postprocessor of that name does.
"""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import oodattack as oa
from oodattack.adapters import OpenOOD, openood
from oodattack.keep_graph import NAME
from oodattack.metrics import auroc, rank_correlation

MEAN, STD = [0.5, 0.4], [0.25, 0.2]
SIZE, CLASSES = 12, 3


class Net(nn.Module):
    """What OpenOOD asks of a network."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(200, 12))
        self.fc = nn.Linear(12, CLASSES)

    def forward(self, x, return_feature=False, return_feature_list=False):
        feature = self.body(x).relu()
        logits = self.fc(feature)
        if return_feature:
            return logits, feature
        return (logits, [feature]) if return_feature_list else logits

    def forward_threshold(self, x, threshold):
        return self.fc(self.body(x).relu().clip(max=threshold))

    def get_fc(self):
        return self.fc.weight.cpu().detach().numpy(), self.fc.bias.cpu().detach().numpy()


def network(scale=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net().eval()
        with torch.no_grad():
            net.fc.weight.mul_(4 * scale)
    return net


def library(kind):
    """As if it came from the library."""
    kind.__module__ = f"openood.postprocessors.{kind.__name__.lower()}"
    return kind


@library
class BasePostprocessor:
    def __init__(self, **args):
        self.args = SimpleNamespace(**args)

    def setup(self, net, id_loader_dict, ood_loader_dict):
        pass

    @torch.no_grad()
    def postprocess(self, net, data):
        conf, pred = net(data).softmax(1).max(1)
        return pred, conf

    def features(self, net, id_loader_dict):
        with torch.no_grad():
            return torch.cat([net(batch["data"], return_feature=True)[1] for batch in id_loader_dict["train"]])


@library
class EBOPostprocessor(BasePostprocessor):
    @torch.no_grad()
    def postprocess(self, net, data):
        output = net(data)
        return output.argmax(1), self.args.temperature * torch.logsumexp(output / self.args.temperature, dim=1)


@library
class ReactPostprocessor(BasePostprocessor):
    def setup(self, net, id_loader_dict, ood_loader_dict):
        self.activation_log = self.features(net, id_loader_dict).data.cpu().numpy()

    @torch.no_grad()
    def postprocess(self, net, data):
        output = net.forward_threshold(data, np.percentile(self.activation_log.flatten(), self.args.percentile))
        return output.argmax(1), torch.logsumexp(output.data.cpu(), dim=1)


@library
class ODINPostprocessor(BasePostprocessor):
    def postprocess(self, net, data):
        data.requires_grad = True
        output = net(data)
        nn.functional.cross_entropy(output / self.args.temperature, output.detach().argmax(1)).backward()
        step = (torch.ge(data.grad.detach(), 0).float() - 0.5) * 2
        output = net(torch.add(data.detach(), step, alpha=-self.args.noise)) / self.args.temperature
        output = output.detach()
        conf, pred = (output - output.max(dim=1, keepdim=True).values).softmax(1).max(1)
        return pred, conf


@library
class DICEPostprocessor(BasePostprocessor):
    masked_w = None

    def setup(self, net, id_loader_dict, ood_loader_dict):
        self.mean_act = self.features(net, id_loader_dict).numpy().mean(0)

    @torch.no_grad()
    def postprocess(self, net, data):
        if self.masked_w is None:
            contribution = self.mean_act[None] * net.fc.weight.data.cpu().numpy()
            self.masked_w = net.fc.weight * torch.tensor(contribution > np.percentile(contribution, self.args.p))
        _, feature = net(data, return_feature=True)
        output = (feature[:, None] * self.masked_w).sum(2) + net.fc.bias
        return output.argmax(1), torch.logsumexp(output.data.cpu(), dim=1)


@library
class GRAMPostprocessor(BasePostprocessor):
    """A column of conf, not a vector."""

    @torch.no_grad()
    def postprocess(self, net, data):
        _, feature = net(data, return_feature=True)
        return net(data).argmax(1), -((feature.detach() ** 2).sum(1, keepdim=True) ** (1 / 2))


@library
class MDSPostprocessor(BasePostprocessor):
    """Features of a `Variable`: no graph leads back to the images."""

    def postprocess(self, net, data):
        logits, feature = net(torch.autograd.Variable(data, requires_grad=True), return_feature=True)
        return logits.argmax(1), -feature.square().sum(1)


@library
class KNNPostprocessor(BasePostprocessor):
    def setup(self, net, id_loader_dict, ood_loader_dict):
        self.activation_log = self.normed(self.features(net, id_loader_dict).numpy())
        self.K = self.args.K

    def normed(self, x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10

    @torch.no_grad()
    def postprocess(self, net, data):
        output, feature = net(data, return_feature=True)
        off = self.normed(feature.data.cpu().numpy())[:, None] - self.activation_log
        nearest = np.sort((off**2).sum(-1), axis=1)[:, : self.K]
        return output.argmax(1), torch.from_numpy(-nearest[:, -1])


@library
class VIMPostprocessor(BasePostprocessor):
    def setup(self, net, id_loader_dict, ood_loader_dict):
        self.w, self.b = net.get_fc()
        z = self.features(net, id_loader_dict).numpy()
        self.u = -np.linalg.pinv(self.w) @ self.b
        _, vectors = np.linalg.eigh((z - self.u).T @ (z - self.u))
        self.NS = np.ascontiguousarray(vectors[:, : -self.args.dim])
        self.alpha = (z @ self.w.T + self.b).max(-1).mean() / np.linalg.norm((z - self.u) @ self.NS, axis=-1).mean()

    @torch.no_grad()
    def postprocess(self, net, data):
        _, feature = net.forward(data, return_feature=True)
        logit = feature.cpu() @ torch.from_numpy(self.w).T + torch.from_numpy(self.b)
        virtual = np.linalg.norm(np.matmul(feature.numpy() - self.u, self.NS), axis=-1) * self.alpha
        return logit.argmax(1), torch.from_numpy(-virtual + np.log(np.exp(logit.numpy()).sum(-1)))


def images(n, *, ood=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 2, SIZE, SIZE, generator=generator) * 0.5
    return x + (0.4 if ood else 0.1)


POSTPROCESSORS = {  # what attacks follow; False: nothing, a black box
    "msp": (BasePostprocessor(), "log-odds of the largest softmax"),
    "ebo": (EBOPostprocessor(temperature=1.0), NAME),
    "react": (ReactPostprocessor(percentile=90), NAME),
    "odin": (ODINPostprocessor(temperature=1000.0, noise=0.0014), NAME),
    "dice": (DICEPostprocessor(p=50), NAME),
    "gram": (GRAMPostprocessor(), NAME),
    "mds": (MDSPostprocessor(), None),
    "knn": (KNNPostprocessor(K=5), "own score in torch, sloped by the mean of the k nearest"),
    "vim": (VIMPostprocessor(dim=4), "own score in torch"),
}


def built(name, net):
    """A postprocessor that has been set up on a network."""
    postprocessor = copy.copy(POSTPROCESSORS[name][0])
    x = (images(60, seed=1) - torch.tensor(MEAN).view(1, -1, 1, 1)) / torch.tensor(STD).view(1, -1, 1, 1)
    postprocessor.setup(net, {"train": [{"data": x, "label": torch.arange(60) % 3}]}, {})
    return postprocessor


def conf(postprocessor, net, x):
    """What the library would say of normalised images."""
    data = (x - torch.tensor(MEAN).view(1, -1, 1, 1)) / torch.tensor(STD).view(1, -1, 1, 1)
    return postprocessor.postprocess(net, data)[1].detach().reshape(len(x)).double()


SHORT = oa.read_threat("linf-8-255").model_copy(update={"queries": 15, "name": "short"})


@pytest.mark.parametrize("name", POSTPROCESSORS)
def test_every_postprocessor_works_as_it_is(name):
    net, seen = network(), []
    postprocessor = built(name, net)
    detector, x_id, x_ood = openood(postprocessor, net, mean=MEAN, std=STD), images(20), images(8, ood=True, seed=2)
    flags = [p.requires_grad for p in net.parameters()]
    torch.testing.assert_close(detector(x_ood).double(), -conf(postprocessor, net, x_ood), rtol=0, atol=0)
    net.zero_grad()
    report = oa.evaluate(detector, id=x_id, ood={"ood": x_ood}, threats=[SHORT], seed=0, watch=seen.append)
    result, followed = report.results[0], POSTPROCESSORS[name][1]
    clean = auroc(-conf(postprocessor, net, x_id), -conf(postprocessor, net, x_ood))
    assert result.clean.auroc == pytest.approx(clean, abs=1e-12)
    assert (result.surrogate, result.indicators["white_box"]) == (followed, followed is not None)
    attacked = conf(postprocessor, net, seen[0].x_adv).mean()
    generator = torch.Generator().manual_seed(0)
    signs = [2.0 * torch.randint(2, x_ood.shape, generator=generator) - 1 for _ in range(8)]
    noisy = torch.stack([conf(postprocessor, net, (x_ood + 8 / 255 * s).clamp(0, 1)) for s in signs]).mean()
    assert attacked > max(noisy, conf(postprocessor, net, x_ood).mean())
    net.zero_grad()
    report = oa.evaluate(detector, id=x_id, ood={"ood": x_ood}, threats=[SHORT], seed=0)
    assert all(p.grad is None for p in net.parameters())
    assert [p.requires_grad for p in net.parameters()] == flags == [True] * len(flags)
    assert not any(m.training for m in net.modules())
    assert report.results[0].attacked == result.attacked


@pytest.mark.parametrize("name", ["msp", "knn", "vim"])
def test_twins_order_images_as_the_library_does(name):
    net = network()
    detector, x = openood(built(name, net), net, mean=MEAN, std=STD), images(40, seed=5)
    found, wanted = detector.surrogate.score(x).detach(), detector(x)
    assert rank_correlation(found, wanted) > 0.999
    if name != "msp":
        torch.testing.assert_close(found, wanted.to(found), rtol=1e-3, atol=1e-5)


def test_the_twin_of_knn_follows_a_search_over_k():
    net = network()
    fitted, x = built("knn", net), images(20, seed=5)
    detector = openood(fitted, net, mean=MEAN, std=STD)
    before = detector.surrogate.score(x).detach()
    fitted.K = 2  # what `set_hyperparam` does
    found = detector.surrogate.score(x).detach()
    assert (found < before).any()
    torch.testing.assert_close(found, detector(x).to(found), rtol=1e-3, atol=1e-5)


def test_the_slope_of_knn_is_the_mean_over_its_k_neighbours():
    net = network()
    fitted, x = built("knn", net), images(6, seed=5).requires_grad_()
    twin = openood(fitted, net, mean=MEAN, std=STD).surrogate.score
    (found,) = torch.autograd.grad(twin(x).sum(), x)
    each = []
    for k in (1, 2, 3, 4, 5):
        fitted.K = k
        each.append(k * torch.autograd.grad(twin(x).sum(), x)[0])  # of the sum over the k nearest
    torch.testing.assert_close(found, each[-1] / 5)
    assert not torch.allclose(found, each[-1] - each[-2], rtol=0.1)  # the fifth alone


def test_a_saturated_softmax_hides_no_gradient():
    net = network(scale=100.0)
    detector = openood(built("msp", net), net, mean=MEAN, std=STD)
    x_id, x_ood = images(20), images(8, ood=True, seed=2)
    result = oa.evaluate(detector, id=x_id, ood={"ood": x_ood}, threats=[SHORT], seed=0).results[0]
    assert result.indicators["zero_gradient_share"] == 0


def test_a_subclass_has_no_twin_of_its_parent():
    class Own(BasePostprocessor):
        """The user's, with a score of its own."""

    net = network()
    assert Own.__module__ == __name__.rpartition(".")[2] or not Own.__module__.startswith("openood")
    assert openood(Own(), net).surrogate is None


def test_suites_find_its_logits_and_features():
    net = network()
    detector = openood(built("knn", net), net, mean=MEAN, std=STD)
    x = images(3)
    assert torch.equal(detector.net.logits(x), net(detector.normalised(x)))
    assert torch.equal(detector.net.features(x), net(detector.normalised(x), return_feature=True)[1])


def test_names():
    net = network()
    assert openood(built("react", net), net).__name__ == "React"
    report = oa.evaluate(
        openood(built("react", net), net), id=images(4), ood={"o": images(4, ood=True)}, threats=[SHORT], seed=0
    )
    assert report.results[0].detector == "react"
    assert report.spec.networks["react"] != ""


def test_it_moves_with_its_network():
    net = network()
    detector = openood(built("msp", net), net, mean=MEAN, std=STD)
    assert isinstance(detector, OpenOOD)
    assert detector.to(torch.device("cpu"), torch.float64)(images(3).double()).dtype == torch.float64


class Broken(BasePostprocessor):
    def __init__(self, answer):
        self.answer = answer

    def postprocess(self, net, data):
        return self.answer(data)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x, r"must return \(pred, conf\), got Tensor\. Is it a postprocessor\?"),
        (lambda x: (x[:, 0, 0, 0], x), r"must return one conf a row, \(3,\), got \(3, 2, 12, 12\)\. Set it up first\."),
    ],
)
def test_wrong_answers(answer, message):
    with pytest.raises(ValueError, match=message):
        openood(Broken(answer), network())(images(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"postprocessor": object()}, "`postprocessor` must have a method `postprocess`, got object"),
        ({"postprocessor": Broken}, r"must be an object, got the class Broken. Make one of it: Broken\(...\)"),
        ({"net": object()}, "`net` must be a network, got object"),
        ({"mean": [0.5]}, "`mean` and `std` must have one number a channel each"),
        ({"mean": [0.5], "std": [0.0]}, "`std` must be > 0"),
        ({"net": Net()}, "'BasePostprocessor' must be in eval mode, got training mode in 'body.1'"),
    ],
)
def test_wrong_use(arguments, message):
    given = {"postprocessor": BasePostprocessor(), "net": network()} | arguments
    with pytest.raises(ValueError, match=message):
        openood(given.pop("postprocessor"), given.pop("net"), **given)


def test_images_with_other_channels_than_the_mean_are_refused():
    net = network()
    detector = openood(built("msp", net), net, mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(ValueError, match="`x` must have 3 channels as `mean` has, got 2"):
        detector(images(2))
