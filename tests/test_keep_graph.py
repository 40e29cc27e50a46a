"""Scores that cut their graph, and what it takes to be trusted with the gradient that appears when they do not."""

import pytest
import torch
from torch import nn

from oodattack.keep_graph import NAME, ROUNDING, Kept, keeping_graph, reaches, straight_through
from oodattack.keep_graph.mode import deaf_inference_mode

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(16, 2, 6, 6, generator=GENERATOR, dtype=torch.float64)
WEIGHT = nn.Parameter(torch.randn(2, 6, 6, generator=GENERATOR, dtype=torch.float64))  # trainable, as weights are
REST = nn.Sequential(nn.Conv2d(2, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(64, 3)).double()
for part in REST.parameters():
    part.data.copy_(torch.randn(part.shape, generator=GENERATOR, dtype=torch.float64) / 4)


def score(x):
    return (WEIGHT * x).flatten(1).sum(1) - REST(x).logsumexp(1)


def within(context):
    def cut(x):
        with context():
            return score(x)

    return cut


def switched(x):
    torch.set_grad_enabled(False)
    try:
        return score(x)
    finally:
        torch.set_grad_enabled(True)


def twice(x):
    with torch.no_grad(), torch.no_grad():
        return score(x.detach())


def detached_in_place(x):
    return score((x * 1).detach_())


def on_a_copy(x):
    z = x.detach().clone()
    z -= 0.5  # in place: the caller's images must not move
    return score(z + 0.5)


def through_numpy_weights(x):
    weight = torch.from_numpy(WEIGHT.cpu().detach().numpy())
    with torch.no_grad():
        return (weight * x).flatten(1).sum(1) - REST(x).logsumexp(1)


def through_numpy_of_computed_weights(x):
    weight = torch.from_numpy((WEIGHT * 1).detach().numpy())
    with torch.no_grad():
        return (weight * x).flatten(1).sum(1) - REST(x).logsumexp(1)


def used_up_by_its_own_gradient(x):
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = score(leaf)
        torch.autograd.grad(value.sum(), leaf)
    return value.detach()


CUT = {
    "decorated": torch.no_grad()(score),
    "no_grad": within(torch.no_grad),
    "inference mode": within(torch.inference_mode),
    "decorated with inference mode": torch.inference_mode()(score),
    "switched off": switched,
    "twice": twice,
    "detach": lambda x: score(x.detach()),
    "detach_": detached_in_place,
    "torch.detach": lambda x: torch.detach(score(x)),
    "data": lambda x: score(x.data),
    "data of the score": lambda x: score(x).data,
    "torch.tensor": lambda x: score(torch.tensor(x)),
    "flag": lambda x: score((x * 1).requires_grad_(False)),
    "a copy changed in place": on_a_copy,
    "weights from NumPy": through_numpy_weights,
    "used up": used_up_by_its_own_gradient,
    "computed weights from NumPy": through_numpy_of_computed_weights,
}


def gradient(f, x=X):
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(f(leaf).sum(), leaf)
    return grad


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_every_way_to_cut_a_graph_is_undone(cut):
    before = X.clone()
    if cut is not CUT["flag"]:  # which is an error outside
        assert not reaches(cut, X)
        assert torch.equal(Kept(cut)(X), cut(X))
        found = keeping_graph(cut, X, seed=0)
        assert found is not None and (found.name, found.score, found.exact) == (NAME, Kept(cut), True)
    torch.testing.assert_close(gradient(Kept(cut)), gradient(score), rtol=1e-12, atol=1e-14)
    assert torch.equal(X, before)
    assert WEIGHT.requires_grad and WEIGHT.grad is None
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def preprocessed(x):
    """As ODIN is written: flag, backward pass, sign of the gradient, another pass without a graph."""
    x.requires_grad = True
    x.retain_grad()
    score(x).sum().backward()
    moved = x.data - 0.01 * x.grad.data.sign()
    with torch.no_grad():
        return score(moved)


def test_a_backward_pass_inside_a_score():
    def by_hand(x):
        return score(x - 0.01 * gradient(score).sign())  # the step is constant almost everywhere

    leaf = X.clone()
    stock = preprocessed(leaf)
    torch.testing.assert_close(Kept(lambda x: preprocessed(x * 1))(X.clone().requires_grad_()), stock)
    torch.testing.assert_close(gradient(Kept(lambda x: preprocessed(x * 1))), gradient(by_hand))
    for part in [WEIGHT, *REST.parameters()]:
        part.grad = None


@pytest.mark.parametrize("grad_mode", [True, False])
def test_modes_are_restored_whatever_happens(grad_mode):
    def fails(x):
        with torch.inference_mode(), torch.no_grad():
            raise ArithmeticError

    enter = torch.inference_mode.__enter__
    with torch.set_grad_enabled(grad_mode), pytest.raises(ArithmeticError):
        Kept(fails)(X.clone().requires_grad_())
    assert torch.is_grad_enabled() and torch.inference_mode.__enter__ is enter
    with torch.inference_mode():
        assert torch.is_inference_mode_enabled()


def test_inference_mode_hears_again_in_whatever_order_threads_leave():
    first, second = deaf_inference_mode(), deaf_inference_mode()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with torch.inference_mode():
        assert not torch.is_inference_mode_enabled()
    second.__exit__(None, None, None)
    with torch.inference_mode():
        assert torch.is_inference_mode_enabled()


def test_inference_mode_of_another_thread_is_left_whatever_is_deaf_meanwhile():
    enter, leave = lambda context: context.__enter__(), lambda context: context.__exit__(None, None, None)
    before, deaf, inside = torch.inference_mode(), deaf_inference_mode(), torch.inference_mode()
    for step, context in ((enter, before), (enter, deaf), (leave, before)):
        step(context)
    assert not torch.is_inference_mode_enabled()
    for step, context in ((enter, inside), (leave, deaf), (leave, inside)):
        step(context)
        assert not torch.is_inference_mode_enabled()


def test_without_a_gradient_nothing_is_changed():
    seen = []
    Kept(lambda x: seen.append((x, torch.is_grad_enabled())) or score(x))(X)
    with torch.no_grad():
        Kept(lambda x: seen.append((x, torch.is_grad_enabled())) or score(x))(X.clone().requires_grad_())
    assert seen[0][0] is X
    assert [mode for _, mode in seen] == [True, False]


SLOPES = {  # value of f at (0, 4) and derivatives there: 0 in place of infinity, then by hand
    "power": (lambda z: z**0.25, (0, 2**0.5), (0, 0.25 * 4**-0.75)),
    "pow": (lambda z: torch.pow(z, 0.5), (0, 2), (0, 0.25)),
    "sqrt": (lambda z: z.sqrt(), (0, 2), (0, 0.25)),
    "torch.sqrt": (torch.sqrt, (0, 2), (0, 0.25)),
    "square": (lambda z: z**2, (0, 16), (0, 8)),
    "inverse": (lambda z: (z + 1) ** -0.5, (1, 5**-0.5), (-0.5, -0.5 * 5**-1.5)),
}


@pytest.mark.parametrize(("f", "values", "slopes"), SLOPES.values(), ids=SLOPES)
def test_infinite_slopes_at_0(f, values, slopes):
    z = torch.tensor([0.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(Kept(f)(z.clone().requires_grad_()).detach(), torch.tensor(values).double())
    assert torch.equal(Kept(f)(z.clone().requires_grad_()).detach(), f(z))
    torch.testing.assert_close(gradient(Kept(f), z), torch.tensor(slopes).double())


class Flipped(torch.autograd.Function):
    """The identity, with minus one for its derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


@torch.no_grad()
def knows_when_it_is_looked_at(x):
    return score(x) * (2 if x.requires_grad else 1)


REFUSED = {
    "in NumPy": lambda x: torch.from_numpy(x.detach().numpy().sum((1, 2, 3))),
    "rounded": torch.no_grad()(lambda x: score(x).round()),
    "flipped": torch.no_grad()(lambda x: score(Flipped.apply(x))),
    "of its batch": torch.no_grad()(lambda x: score(x) - 0.5 * score(x).mean()),
    "another value": knows_when_it_is_looked_at,
    "fails with a graph": lambda x: score(x.detach()) if not x.requires_grad else 1 / 0,
    "partly in NumPy": lambda x: 0.01 * score(x.detach()) + torch.from_numpy(x.detach().numpy()[:, 0, 0, 0] * 30),
}


@pytest.mark.parametrize("cut", REFUSED.values(), ids=REFUSED)
def test_a_gradient_that_is_not_that_of_the_score_is_refused(cut):
    assert keeping_graph(cut, X, seed=0) is None


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_want_of_memory_says_nothing_of_a_gradient(error):
    def large(x):
        raise error

    with pytest.raises(error):
        reaches(large, X)


@torch.no_grad()
def noisy(x):
    return score(x) + torch.randn(len(x), dtype=x.dtype)


def test_a_score_that_draws_is_looked_at_with_the_same_draws():
    before = torch.get_rng_state()
    found = keeping_graph(noisy, X, seed=0)
    assert found is not None and found.score == Kept(noisy)  # the search sees other draws at every call
    torch.set_rng_state(before)
    first = found.score(X)
    assert not torch.equal(first, found.score(X))
    assert keeping_graph(lambda x: score(x) + torch.randn(len(x), dtype=x.dtype), X, seed=0) is None  # has its own


def test_seeded_draws_leave_the_stream_alone():
    before = torch.get_rng_state()
    assert torch.equal(Kept(noisy, seed=3)(X), Kept(noisy, seed=3)(X))
    assert torch.equal(torch.get_rng_state(), before)


class WithLatent:
    """Score and latent without a graph."""

    @torch.no_grad()
    def latent(self, x):
        return REST(x)

    @torch.no_grad()
    def __call__(self, x):
        return -REST(x).logsumexp(1)


def test_a_latent_comes_along():
    detector = WithLatent()
    found = keeping_graph(detector, X, seed=0)
    assert found is not None and found.latent is not None and reaches(found.latent, X)
    assert torch.equal(found.latent(X), detector.latent(X))
    detector.latent = REST
    assert keeping_graph(detector, X, seed=0).latent is None  # it has a gradient of its own


ROUNDED = {
    "score": lambda x: (8 * score(x)).round() / 8,
    "floor, without a graph": torch.no_grad()(lambda x: (8 * score(x)).floor() / 8),
    "images of 8 bits": lambda x: score((255 * x).to(torch.uint8).to(x.dtype) / 255),
    "images of 8 bits with a sign": lambda x: score((255 * x - 128).char().to(x.dtype) / 255),
    "images of 4 bits": lambda x: score(torch.round(15 * x) / 15),
    "integers": lambda x: (100 * score(x)).long(),
}


@pytest.mark.parametrize("rounded", ROUNDED.values(), ids=ROUNDED)
def test_a_score_that_rounds_is_passed_straight_through(rounded):
    found = straight_through(rounded, X, seed=0)
    kept = Kept(rounded, rounding=True)
    assert found is not None and (found.name, found.score, found.exact) == (ROUNDING, kept, True)
    assert torch.equal(found.score(X), rounded(X))
    leaf = X.clone().requires_grad_()
    torch.testing.assert_close(found.score(leaf).detach(), rounded(X).to(X.dtype), rtol=0, atol=1e-12)


def test_the_slope_through_rounding_is_that_of_what_is_rounded():
    # d/dx of round(15 x)/15 is taken for 1
    leaf = torch.tensor([0.31, 0.77], dtype=torch.float64, requires_grad=True)
    value = Kept(lambda x: (torch.round(15 * x) / 15).square(), rounding=True)(leaf)
    assert torch.equal(value.detach(), torch.tensor([5 / 15, 12 / 15], dtype=torch.float64).square())
    value.sum().backward()
    torch.testing.assert_close(leaf.grad, 2 * torch.tensor([5 / 15, 12 / 15], dtype=torch.float64))


NOT_THROUGH = {
    "in NumPy": REFUSED["in NumPy"],
    "a table": lambda x: torch.arange(1000.0)[(100 * score(x)).abs().long()],
    "flipped": lambda x: (8 * score(Flipped.apply(x))).round() / 8,
    "constant": lambda x: (1e-9 * score(x)).round(),
}


@pytest.mark.parametrize("rounded", NOT_THROUGH.values(), ids=NOT_THROUGH)
def test_a_slope_along_which_the_score_does_not_rise_is_refused(rounded):
    assert straight_through(rounded, X, seed=0) is None
