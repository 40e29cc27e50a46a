"""The attacks of torchattacks, arXiv:2010.01950: how each is called, what it asks for, and which are refused."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from oodattack.lookup import unknown
from oodattack.threat import OUTSIDE

BATCH = "its random numbers depend on the batch size"
NEAREST = "stops at the threshold: looks for the nearest input that gains what eps promises to first order"
ONE_STEP = "one step, whatever the budget"
NOISY = f"attacks the score under heavy noise; {BATCH}"
TRANSFER = "made to transfer"
STOPS = "stops at a threshold of its own"  # what a search lacks
STEPS_ONCE = "takes a single step"
BLURRED = "follows the score under heavy noise"
FOR_OTHERS = "is made to transfer to other scores"
SMOOTHED = dict(noise_batch_size=5, batch_max=10**9)  # one batch, whatever its size: rows keep their places
ELASTIC = dict(binary_search_steps=3, abort_early=False)


class Foreign(NamedTuple):
    """How to call one attack of the library, and what it asks of the detector.

    Attributes:
        norms: balls that it respects.
        share: default step size as a share of eps, after the library's own defaults; None: it has none to set.
        per_step: queries a step; 0 for attacks of a single step.
        once: queries beside the steps.
        copies: order of a batch that holds each row k times: "tile" 0 1 0 1, "interleave" 0 0 1 1; "single": it loops
            over rows, and gets them one at a time.
        fixed: constructor arguments that differ from the library's defaults.
        channels: number that it insists on; 0: any.
        side: least height and width of an image.
        nearest: it looks for the nearest crossing of a threshold, which is put at this share of the first-order gain;
            None: it follows the loss.
        white_box: takes gradients.
        ahead: asks ahead of its iterate, beyond the ball: how far it has come inside is known at its end alone.
        lacks: why what it leaves of a score is no evidence, after "the search"; None where it is.
        remark: what a reader of its numbers must know.
    """

    norms: tuple[str, ...] = ("linf",)
    share: float | None = 0.25
    per_step: int = 1
    once: int = 0
    copies: str = "tile"
    fixed: Mapping[str, Any] = MappingProxyType({})
    channels: int = 0
    side: int = 1
    nearest: float | None = None
    white_box: bool = True
    ahead: bool = False
    lacks: str | None = None
    remark: str | None = BATCH


ATTACKS = {
    "APGD": Foreign(("linf", "l2"), None, once=2),
    "APGDT": Foreign(
        ("linf", "l2"), None, once=3, remark=f"{BATCH}; for l2 the first row's step size serves all of the batch"
    ),
    "BIM": Foreign(remark=None),
    "CW": Foreign(
        ("l2",),
        None,
        nearest=1,
        lacks=STOPS,
        remark=f"{NEAREST}, or when the batch stalls; pixels at 0 or 1 never move",
    ),
    "DIFGSM": Foreign(lacks=FOR_OTHERS, remark=f"{TRANSFER}: resizes images at random; {BATCH}"),
    "DeepFool": Foreign(("l2",), None, copies="single", nearest=1, lacks=STOPS, remark=NEAREST),
    "EADEN": Foreign(("l2",), None, 6, 1, fixed=ELASTIC, nearest=1, lacks=STOPS, remark=NEAREST),
    "EADL1": Foreign(("l1",), None, 6, 1, fixed=ELASTIC, nearest=1, lacks=STOPS, remark=NEAREST),
    "EOTPGD": Foreign(per_step=2),
    "FAB": Foreign(
        ("linf", "l2"), None, 2, 3, nearest=0.95, lacks=STOPS, remark=f"{NEAREST}; restarts repeat the first"
    ),
    "FFGSM": Foreign(share=1.25, per_step=0, once=1, lacks=STEPS_ONCE, remark=f"{ONE_STEP}; {BATCH}"),
    "FGSM": Foreign(share=None, per_step=0, once=1, lacks=STEPS_ONCE, remark=ONE_STEP),
    "Jitter": Foreign(fixed=dict(scale=1)),  # else its noise outweighs so small a margin
    "MIFGSM": Foreign(remark=None),
    "NIFGSM": Foreign(ahead=True, remark=None),
    "PGD": Foreign(),
    "PGDL2": Foreign(("l2",), 0.2),
    "PGDRS": Foreign(per_step=5, copies="interleave", fixed=SMOOTHED, lacks=BLURRED, remark=NOISY),
    "PGDRSL2": Foreign(("l2",), 0.2, 5, copies="interleave", fixed=SMOOTHED, lacks=BLURRED, remark=NOISY),
    "PIFGSM": Foreign(share=None, channels=3, remark=None),
    "PIFGSMPP": Foreign(share=None, channels=3, lacks=FOR_OTHERS, remark=f"{TRANSFER}: blurs the gradient"),
    "RFGSM": Foreign(),
    "SINIFGSM": Foreign(per_step=5, lacks=FOR_OTHERS, remark=f"{TRANSFER}: follows gradients at darkened copies"),
    "SPSA": Foreign(per_step=16, fixed=dict(nb_sample=8), white_box=False),
    "Square": Foreign(("linf", "l2"), None, once=3, side=5, white_box=False),
    "TIFGSM": Foreign(channels=3, lacks=FOR_OTHERS, remark=f"{TRANSFER}: blurs the gradient; {BATCH}"),
    "UPGD": Foreign(),
    "VMIFGSM": Foreign(per_step=6),
    "VNIFGSM": Foreign(per_step=6, ahead=True),
}
FEW_PIXELS = "limits how many pixels change, not how much. Use torchattacks:EADL1 with norm = l1"
REFUSED = {
    "AutoAttack": "is four attacks with budgets of their own. Make APGD, APGDT, FAB and Square members of a suite",
    "GN": "is noise of any size. Use random-search",
    "JSMA": FEW_PIXELS,
    "LGV": "trains the network it attacks. Use torchattacks:PGD",
    "MultiAttack": "is a list of attacks. Make them members of a suite",
    "OnePixel": FEW_PIXELS,
    "Pixle": FEW_PIXELS,
    "SparseFool": FEW_PIXELS,
    "TPGD": "drives the score away from the clean one in either direction. Use torchattacks:PGD",
    "VANILA": "changes nothing. Use torchattacks:PGD",
}


def find_foreign(name: str) -> Foreign:
    """The row of an attack.

    Raises:
        ValueError: torchattacks has no such attack, or it fits no score.
    """
    if name in REFUSED:
        raise ValueError(
            f"`attack` must fit a score within a ball, got torchattacks:{name}, which {REFUSED[name]}. Pick another."
        )
    if name not in ATTACKS:
        raise unknown("attack", OUTSIDE + name, [OUTSIDE + known for known in ATTACKS])
    return ATTACKS[name]
