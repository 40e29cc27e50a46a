"""Saliency maps against captum and by hand, the nine aggregates, and what SalAgg makes of them."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from oodattack.classifier import Classifier
from oodattack.detectors.sal_agg import SalAgg, SalAggMLS, fit_sal_agg, fit_sal_agg_mls
from oodattack.detectors.saliency import SALIENCIES
from oodattack.detectors.saliency_aggregates import AGGREGATES
from oodattack.detectors.saliency_gradcam import grad_cam
from oodattack.detectors.saliency_guided import guided_backprop
from oodattack.detectors.saliency_integrated import integrated_gradients
from oodattack.detectors.saliency_lime import draw_masks, lime, regression
from oodattack.detectors.saliency_occlusion import occlusion
from oodattack.models.small import SmallResNet

ROOT2 = math.sqrt(2)
MEAN, STD = [0.5, 0.45, 0.4], [0.25, 0.2, 0.3]


def images(rows=3, *, channels=3, size=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, channels, size, size, generator=generator, dtype=torch.float64)


def residual(bias=True):
    """A network whose ReLUs are modules, as captum wants them; 2 x 2 positions after the last stage at 32 pixels."""
    torch.manual_seed(0)
    network = SmallResNet(3, 4, width=4).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            nn.init.normal_(module.bias, 0, 0.2)
    nn.init.normal_(network.head.weight)
    nn.init.normal_(network.head.bias) if bias else nn.init.zeros_(network.head.bias)
    return network


def classifier(network=None):
    return Classifier(network or residual(), mean=MEAN, std=STD).double()


def seen(net, x):
    """What the network sees of x, and the class that it predicts: captum's input and target."""
    return (x - net.mean) / net.std, net(x).argmax(1)


class Clamp(nn.Module):
    """Images as they should be."""

    def forward(self, x):
        return x.clamp(0, 1)


class Functional(nn.Module):
    """The same small network with ReLUs as a module, function, method, in place, or clamp."""

    def __init__(self, relu):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 4)
        self.one, self.two = (relu, relu) if not isinstance(relu, type) else (relu(), relu())
        nn.init.normal_(self.head.weight)

    def forward(self, x):
        return self.head(self.two(self.second(self.one(self.first(x)))).mean((2, 3)))


RELUS = {
    "function": functional.relu,
    "torch": torch.relu,
    "method": lambda z: z.relu(),
    "in place": lambda z: functional.relu(z, inplace=True),
    "underscore": lambda z: z.relu_(),
    "clamp": lambda z: z.clamp(min=0),
    "clamp in place": lambda z: z.clamp_(min=0),
    "maximum": lambda z: torch.maximum(torch.zeros_like(z), z),
    "threshold": lambda z: functional.threshold(z, 0.0, 0.0),
    "threshold in place": nn.Threshold(0, 0, inplace=True),
}

# --- against captum -----------------------------------------------------------------------------------------------


def test_integrated_gradients_are_captums():
    attr = pytest.importorskip("captum.attr")
    net, x = classifier(), images()
    u, target = seen(net, x)
    theirs = attr.IntegratedGradients(net.network).attribute(u, baselines=0, target=target)
    single = {"rtol": 1e-5, "atol": 1e-8}  # captum's nodes are in float32
    torch.testing.assert_close(integrated_gradients(net, x), theirs.flatten(1), **single)
    few = attr.IntegratedGradients(net.network).attribute(u, target=target, n_steps=7)
    torch.testing.assert_close(integrated_gradients(net, x, steps=7), few.flatten(1), **single)
    assert (few - theirs).abs().max() > 1e-4  # the number of steps matters


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_guided_backpropagation_is_captums():
    attr = pytest.importorskip("captum.attr")
    net, x = classifier(), images()
    u, target = seen(net, x)
    theirs = attr.GuidedBackprop(net.network).attribute(u, target=target)
    torch.testing.assert_close(guided_backprop(net, x), theirs.flatten(1), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(
        guided_backprop(net, x, sum_channels=True), theirs.sum(1).flatten(1), rtol=1e-9, atol=1e-11
    )
    plain = attr.Saliency(net.network).attribute(u, target=target, abs=False)
    assert (plain - theirs).abs().max() > 0.01  # guiding matters


def test_grad_cam_without_its_relu_is_captums():
    attr = pytest.importorskip("captum.attr")
    net, x = classifier(), images(size=32)
    u, target = seen(net, x)
    for layer in ("layer3", "layer2"):  # behind layer2 lie ReLUs
        cam = attr.LayerGradCam(net.network, getattr(net.network, layer))
        theirs = cam.attribute(u, target=target, relu_attributions=False).flatten(1)
        torch.testing.assert_close(grad_cam(net, x, layer=layer), theirs, rtol=1e-9, atol=1e-11)
    assert (theirs < 0).any()  # so that a ReLU would show
    assert torch.equal(grad_cam(net, x), grad_cam(net, x, layer="layer3"))


def test_occlusion_is_captums_where_the_grid_divides_the_image():
    attr = pytest.importorskip("captum.attr")
    net, x = classifier(), images(size=16)
    u, target = seen(net, x)
    window = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4), "baselines": 0}
    theirs = attr.Occlusion(net.network).attribute(u, target=target, **window)
    assert torch.equal(theirs[:, 0], theirs[:, 2])  # one value a cell, repeated for every channel and pixel
    # captum keeps its sums in float32
    torch.testing.assert_close(occlusion(net, x), theirs[:, 0, ::4, ::4].flatten(1).double(), rtol=1e-5, atol=1e-6)


def test_lime_is_captums_on_the_same_masks():
    attr = pytest.importorskip("captum.attr")
    from captum._utils.models.linear_model import SkLearnLinearRegression

    net, x, masks = classifier(), images(), draw_masks(seed=0, grid=4, count=60)
    u, target = seen(net, x)

    def similarity(_original, _shown, cells, **_):
        cosine = (cells.mean() / cells.square().mean().sqrt()).nan_to_num(0.0)  # of the mask and ones
        return ((-((1 - cosine) ** 2) / 0.25**2).exp()).sqrt()

    for i in range(len(x)):
        turn = iter(masks.flatten(1).double())  # one a call, in place of random ones
        explain = attr.LimeBase(
            net.network,
            SkLearnLinearRegression(),
            similarity,
            lambda _, turn=turn, **__: next(turn)[None],
            perturb_interpretable_space=True,
            from_interp_rep_transform=lambda cells, original, **_: (
                original * cells.view(1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
            ),
            to_interp_rep_transform=None,
        )
        theirs = explain.attribute(u[i : i + 1], target=int(target[i]), n_samples=60)
        # their data set for the regression is in float32
        torch.testing.assert_close(lime(net, x, masks=masks)[i], theirs[0].double(), rtol=1e-3, atol=1e-4)


def test_lime_solves_the_weighted_regression():
    from sklearn.linear_model import LinearRegression

    masks = draw_masks(seed=3, grid=3, count=40)
    masks[0] = False  # nothing is shown: cos = 0
    values = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = masks.flatten(1).double().mean(1)
    weight = torch.exp(-((1 - share.sqrt()) ** 2) / 0.25**2).sqrt()  # cos(m, 1) = k / sqrt(9 k) = sqrt(k / 9)
    fitted = LinearRegression().fit(masks.flatten(1).numpy(), values.numpy(), sample_weight=weight.numpy())
    found = regression(masks) @ values
    assert found.tolist() == pytest.approx(fitted.coef_.tolist(), rel=1e-8)


# --- guided backpropagation and how ReLUs are written -------------------------------------------------------------


@pytest.mark.parametrize("kind", RELUS)
def test_guiding_does_not_depend_on_how_a_relu_is_written(kind):
    x = images()
    modules, functions = (classifier(Functional(r).double().eval()) for r in (nn.ReLU, RELUS[kind]))
    u = ((x - functions.mean) / functions.std).requires_grad_()
    (plain,) = torch.autograd.grad(functions.network(u).amax(1).sum(), u)
    found = guided_backprop(functions, x)
    torch.testing.assert_close(found, guided_backprop(modules, x), rtol=1e-12, atol=0)
    assert (found - plain.flatten(1)).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_captum_alone_would_give_plain_gradients_of_functions():
    # why its values are compared with on networks of modules only
    attr = pytest.importorskip("captum.attr")
    net, x = classifier(Functional(functional.relu).double().eval()), images()
    u, target = seen(net, x)
    theirs = attr.GuidedBackprop(net.network).attribute(u, target=target)
    assert torch.equal(theirs, attr.Saliency(net.network).attribute(u, target=target, abs=False))


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ReLU6, nn.RReLU])
def test_activations_without_a_rule_are_refused(activation):
    net = classifier(Functional(activation).double().eval())
    with pytest.raises(ValueError, match="guided backpropagation must have ReLUs as activations, got"):
        guided_backprop(net, images())


UNRULED = {
    "threshold": lambda z: functional.threshold(z, 0.1, 0.0),
    "threshold_": lambda z: functional.threshold_(z * 1, 0.0, -1.0),
    "rrelu": functional.rrelu,
    "glu": lambda z: functional.glu(torch.cat([z, z], dim=1), dim=1),
    "clamp": lambda z: z.clamp(0, 6),
    "clip": lambda z: torch.clip(z, min=0, max=2.5),
}


@pytest.mark.parametrize("name", UNRULED)
def test_one_relu_does_not_hide_an_activation_without_a_rule(name):
    network = Functional(functional.relu).double().eval()
    network.two = UNRULED[name]
    with pytest.raises(ValueError, match=f"guided backpropagation must have ReLUs as activations, got '{name}'"):
        guided_backprop(classifier(network), images())


def test_clamped_images_are_no_activation():
    network = Functional(nn.ReLU).double().eval()
    clamped = nn.Sequential(Clamp(), network)
    net, x = Classifier(clamped), images()
    torch.testing.assert_close(guided_backprop(net, x), guided_backprop(Classifier(network), x))


def test_a_network_without_relus_is_refused():
    net = classifier(Functional(nn.Identity).double().eval())
    with pytest.raises(ValueError, match="guided backpropagation must have ReLUs to guide, got a network that calls"):
        guided_backprop(net, images())


# --- by hand ------------------------------------------------------------------------------------------------------


def linear_net():
    """f_0 = sum of w u over a 4 x 4 image, u = (x - 1/2) / 0.25, f_1 = 0; weights 1, 2, ..., 16 over 16."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False)).double().eval()
    network[1].weight.data = torch.stack([torch.arange(1.0, 17.0) / 16, torch.zeros(16)]).double()
    return Classifier(network, mean=[0.5], std=[0.25]).double()


def test_maps_of_a_linear_network_are_its_terms():
    net, x = linear_net(), 0.4 + 0.6 * images(2, channels=1, size=4)
    terms = (torch.arange(1.0, 17.0).double() / 16 * ((x - 0.5) / 0.25).flatten(1)).view(2, 4, 4)
    assert (terms.sum((1, 2)) > 0).all()  # class 0 is predicted
    cells = torch.stack([terms[:, i : i + 2, j : j + 2].sum((1, 2)) for i in (0, 2) for j in (0, 2)], dim=1)
    close = {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(integrated_gradients(net, x), terms.flatten(1), **close)
    torch.testing.assert_close(occlusion(net, x, grid=2), cells, **close)
    torch.testing.assert_close(lime(net, x, masks=draw_masks(seed=0, grid=2, count=20)), cells, **close)


def test_guided_backpropagation_by_hand():
    # u -> relu(2 u), relu(3 u) -> f_0 = 5 r_1 - r_2, f_1 = 0. At u = 1: f_0 = 10 - 3; the gradients (5, -1) at the
    # ReLUs are guided to (5, 0), and 5 * 2 = 10 arrives; without guiding 10 - 3 = 7. At u = -1 both are shut
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)).double()
    network[1].weight.data = torch.tensor([[2.0], [3.0]]).double()
    network[3].weight.data = torch.tensor([[5.0, -1.0], [0.0, 0.0]]).double()
    net = Classifier(network.eval(), mean=[0.5], std=[0.5]).double()
    found = guided_backprop(net, torch.tensor([1.0, 0.0]).double().view(2, 1, 1, 1))
    assert found.flatten().tolist() == [10.0, 0.0]


def test_integrated_gradients_sum_to_the_difference_from_the_mean_image():
    net, x = classifier(), images()
    top = net(x).argmax(1)
    blank = net(net.mean.expand_as(x)).gather(1, top[:, None])[:, 0]
    assert integrated_gradients(net, x, steps=2000).sum(1).tolist() == pytest.approx(
        (net(x).amax(1) - blank).tolist(), abs=5e-4
    )


# aggregate -> its value of (3, -1, 4, 2, 0) and of (1, 2, 3, 6)
BY_HAND = {
    "mean": (8 / 5, 3),
    "median": (2, 2),  # of 2 and 3 the lower one
    "norm": (math.sqrt(9 + 1 + 16 + 4), math.sqrt(1 + 4 + 9 + 36)),
    "range": (5, 5),
    "max": (4, 6),
    # sorted -1 0 2 3 4: position 3/4 * 4 = 3; and 1 2 3 6: position 3/4 * 3 = 2.25
    "q3": (3, 3 + 0.25 * 3),
    # squares of (1.4, -2.6, 2.4, 0.4, -1.6) sum to 17.2; of (-2, -1, 0, 3) to 14
    "cv": (math.sqrt(17.2 / 4) / 1.6, math.sqrt(14 / 3) / 3),
    # shifted to 0 1 3 4 5, sum 13: (-4 * 0 - 2 * 1 + 0 * 3 + 2 * 4 + 4 * 5) / (5 * 13) = 26 / 65, twice that;
    # mean absolute difference over the mean of the other: pairs 1 2 5 1 4 3 make 2 * 16 / 16 = 2, over 3
    "rmd": (0.8, 2 / 3),
    # quartiles 0 and 3: 3 / 3; position 3/4: 1 + 0.75, so (3.75 - 1.75) / (3.75 + 1.75)
    "qcd": (1, 2 / 5.5),
}


def test_every_aggregate_has_a_value_by_hand():
    assert set(BY_HAND) == set(AGGREGATES)


@pytest.mark.parametrize("name", BY_HAND)
def test_aggregates_by_hand(name):
    first, second = torch.tensor([[3.0, -1, 4, 2, 0]]).double(), torch.tensor([[1.0, 2, 3, 6]]).double()
    expected = BY_HAND[name]
    assert AGGREGATES[name](first).tolist() == pytest.approx([expected[0]], rel=1e-6)
    assert AGGREGATES[name](second).tolist() == pytest.approx([expected[1]], rel=1e-6)
    both = torch.cat([second, second.flip(1) + 1])  # rows apart, and in any order
    assert AGGREGATES[name](both)[0].item() == pytest.approx(expected[1], rel=1e-6)


@pytest.mark.parametrize("name", AGGREGATES)
def test_the_last_three_aggregates_do_not_depend_on_the_scale_and_the_others_grow_with_it(name):
    v = images(4).flatten(1) - 0.4
    ratio = AGGREGATES[name](3 * v) / AGGREGATES[name](v)
    expected = 1.0 if name in ("cv", "rmd", "qcd") else 3.0
    assert ratio.tolist() == pytest.approx([expected] * 4, rel=1e-4)


def test_quotients_by_zero_stay_finite():
    balanced, nothing = torch.tensor([[-1.0, 1.0, -1.0, 1.0]]).double(), torch.zeros(1, 4).double()
    for name in ("cv", "rmd", "qcd"):
        for v in (balanced, nothing):
            assert AGGREGATES[name](v).isfinite().all()
    with pytest.raises(ValueError, match="saliency maps must have 2 values or more for `cv`, got 1"):
        AGGREGATES["cv"](torch.ones(1, 1))


@pytest.mark.parametrize("size", [32, 48])
def test_theorem_1(size):
    # mean of the map = max logit / (N M) exactly for a head without bias; else less the bias of the class
    for bias in (False, True):
        net, x = classifier(residual(bias=bias)), images(5, size=size)
        usual = net.features(x).mean(0).detach()
        head = net.network.head.weight.data  # without its part along the mean features the classes take turns
        head.copy_(100 * (head - torch.outer(head @ usual, usual) / usual.square().sum()))
        map_ = grad_cam(net, x)
        top, label = net(x).max(1)
        assert map_.shape[1] == (size // 16) ** 2 and len(label.unique()) > 1
        part = (top - net.network.head.bias[label]) / map_.shape[1]
        torch.testing.assert_close(AGGREGATES["mean"](map_), part, rtol=1e-12, atol=1e-14)
        assert torch.equal(net.network.head.bias != 0, torch.full((4,), bias))


# --- SalAgg -------------------------------------------------------------------------------------------------------


def pair_net():
    """Two channels by two positions [[a, b], [c, d]] behind a stage; logits (5 (a + d), 0).

    Grad-CAM: a_k = (5 + 0) / 2 for both channels, so the map is 2.5 (a + c, b + d).
    """
    network = nn.Sequential()
    network.add_module("layer1", nn.Identity())
    network.add_module("flat", nn.Flatten())
    network.add_module("head", nn.Linear(4, 2, bias=False))
    network.head.weight.data = torch.tensor([[5.0, 0, 0, 5], [0, 0, 0, 0]])
    return Classifier(network.double().eval()).double()


def diagonal(*pairs):
    """Images [[a, 0], [0, d]]: largest logit 5 (a + d), norm of the map 2.5 sqrt(a^2 + d^2)."""
    return torch.tensor([[[[a, 0]], [[0, d]]] for a, d in pairs], dtype=torch.float64)


ID = diagonal((0.6, 0.8), (0.3, 0.4))  # logits 7, 3.5; norms 2.5, 1.25: mean 1.875
SMALL, LARGE = diagonal((0.0, 0.1), (0.1, 0.0)), diagonal((1, 1), (1, 0.9))  # norms 0.25; 3.5 and 3.4


@pytest.mark.parametrize(("ood", "sign"), [(SMALL, 1), (LARGE, -1)])
def test_sign_and_deviations_come_from_the_validation_images(ood, sign):
    alone = fit_sal_agg(pair_net(), ID, ood)
    both = fit_sal_agg_mls(pair_net(), ID, ood, method="grad-cam")
    assert alone.sign == both.sign == sign
    assert alone(ID).tolist() == pytest.approx([-sign * 2.5, -sign * 1.25])
    # unbiased deviation of two values: their difference over sqrt 2
    assert both.sigma_mls == pytest.approx(3.5 / ROOT2) and both.sigma_agg == pytest.approx(1.25 / ROOT2)


def test_deviations_are_of_the_id_images_alone_and_all_of_them():
    pairs = [(0.6, 0.8), (0.3, 0.4), (0.0, 0.5)]
    found = fit_sal_agg_mls(pair_net(), diagonal(*pairs), LARGE, method="grad-cam", batch_size=2)
    logits = torch.tensor([5 * (a + d) for a, d in pairs])
    norms = torch.tensor([2.5 * math.hypot(a, d) for a, d in pairs])
    assert found.sigma_mls == pytest.approx(logits.std().item()) and found.sigma_agg == pytest.approx(
        norms.std().item()
    )


@pytest.mark.parametrize(("ood", "expected"), [(SMALL, -4 * ROOT2), (LARGE, 0.0)])
def test_equation_6_by_hand(ood, expected):
    # 7 / (3.5 / sqrt 2) = 2 sqrt 2 and 2.5 / (1.25 / sqrt 2) = 2 sqrt 2, added or taken away, and turned OOD high
    detector = fit_sal_agg_mls(pair_net(), ID, ood, method="grad-cam")
    assert detector(ID[:1]).item() == pytest.approx(expected, abs=1e-12)
    assert detector.latent(ID[:1])[0].tolist() == pytest.approx([7.0, 2.5])


def test_defaults_are_the_papers_best_pairs():
    net, x = classifier(), images(6)
    alone, both = fit_sal_agg(net, x, x.sqrt()), fit_sal_agg_mls(net, x, x.sqrt())
    assert (alone.method, alone.aggregate) == ("grad-cam", "norm")
    assert (both.method, both.aggregate) == ("guided-backprop", "norm")
    assert torch.equal(both.aggregated(x), guided_backprop(net, x).norm(dim=1))


def test_slope_against_the_largest_logit_is_that_of_least_squares():
    # of A = 2.5 sqrt(a^2 + d^2) on f = 5 (a + d) over images with d = 0 of either side: A = f / 2
    found = fit_sal_agg(pair_net(), diagonal((0.2, 0), (0.9, 0)), diagonal((0.5, 0), (0.1, 0)))
    assert found.logit_slope == pytest.approx(0.5)


def refuse(match, **changed):
    given = {"id_val": ID, "ood_val": SMALL} | changed
    with pytest.raises(ValueError, match=match):
        fit_sal_agg(pair_net(), **given)


def test_what_cannot_be_fitted():
    refuse("`ood_val` must be OOD validation images, which tell the sign, got None", ood_val=None)
    refuse("`id_val` must have images of which logits and aggregates vary, got .* over 1 images", id_val=ID[:1])
    refuse("`id_val` must have images of which logits and aggregates vary", id_val=ID[[0, 0]])
    refuse("method", method="deep-lift")
    refuse("aggregate", aggregate="mode")
    refuse("option of grad-cam", options={"steps": 3})
    refuse("`seed` must be a number for 'lime'", method="lime")
    with pytest.raises(ValueError, match="`sign` must be 1 or -1, got 0"):
        SalAgg(pair_net(), method="grad-cam", aggregate="norm", sign=0)
    with pytest.raises(ValueError, match=r"`sigma_agg` must be > 0, got 0\.0"):
        SalAggMLS(pair_net(), method="grad-cam", aggregate="norm", sign=1, sigma_mls=1.0, sigma_agg=0.0)


CHEAP = {"integrated-gradients": {"steps": 12}, "occlusion": {"grid": 2}, "lime": {"grid": 2, "count": 10}}


@pytest.mark.parametrize("aggregate", ["norm", "cv"])
@pytest.mark.parametrize("method", SALIENCIES)
def test_every_map_has_a_surrogate_of_the_same_values_with_a_gradient(method, aggregate):
    net, x = classifier(), images(4, size=32)
    settings = {"method": method, "aggregate": aggregate, "options": CHEAP.get(method), "seed": 0}
    detector = SalAgg(net, sign=-1, logit_slope=0.5, **settings)
    stand_in, z = detector.surrogate, x.clone().requires_grad_()
    soft = stand_in.score(z)
    (gradient,) = torch.autograd.grad(soft.sum(), z)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    assert stand_in.exact == (method != "integrated-gradients")  # which takes fewer nodes
    if stand_in.exact:
        torch.testing.assert_close(soft.detach(), detector(x), rtol=1e-12, atol=0)
    single = torch.cat([detector(row[None]) for row in x])
    torch.testing.assert_close(single, detector(x), rtol=1e-9, atol=1e-9)
    assert torch.equal(detector(x), detector(x)) and detector(x).unique().numel() == 4


def test_an_ordinary_map_is_differentiated_as_it_is():
    # occlusion is recomputed in the backward pass, block by block; its gradient is that of finite differences
    net, x = classifier(), images(1, size=8)
    f = lambda z: occlusion(net, z, grid=2).square().sum()
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(z), z)
    direction, h = images(1, size=8, seed=9) - 0.5, 1e-6
    slope = (f(x + h * direction) - f(x - h * direction)) / (2 * h)
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4)


def test_masks_of_lime_come_from_the_seed():
    build = lambda seed: SalAgg(classifier(), method="lime", aggregate="norm", sign=1, seed=seed)
    x = images()
    assert torch.equal(build(0)(x), build(0)(x)) and not torch.equal(build(0)(x), build(1)(x))
