"""Layers of a Mahalanobis detector weighted by logistic regression: Lee et al., NeurIPS 2018, arXiv:1807.03888."""

import warnings

import torch

from oodattack.detectors.batches import BATCH_SIZE, Images, over_batches
from oodattack.detectors.mahalanobis_layers import MahalanobisLayers

FOLDS = 5


def fit_layer_weights(
    detector: MahalanobisLayers, id_val: Images, ood_val: Images, *, batch_size: int = BATCH_SIZE
) -> MahalanobisLayers:
    """The same detector with the score sum_l w_l d_l(x_l), w from a logistic regression of OOD against ID images.

    The strength of its l2 penalty is chosen by cross-validation with 5 folds. Distances are scaled to unit variance for
    the penalty, and the weights scaled back. Weights may be negative: where one is, an image far from all classes in
    that layer counts as known. The intercept is left out, as it shifts all scores alike.

    Args:
        detector: of `fit_mahalanobis_layers`; its layers, Gaussians and magnitude are kept.
        id_val: ID validation images in [0, 1], a tensor or batches; see `batches`. At least 5.
        ood_val: OOD validation images, at least 5.
        batch_size: images per forward pass.

    Returns:
        A detector with `weights`, shape (layers,).

    Raises:
        ValueError: fewer than 5 images on a side.

    Differs from the authors' code: they do not scale the distances, and choose the magnitude on the same images; here
    it is that of `detector`.
    """
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.preprocessing import StandardScaler

    known, strange = (
        over_batches(detector.distances, x, net=detector.net, batch_size=batch_size).double().cpu()
        for x in (id_val, ood_val)
    )
    for name, found in (("id_val", known), ("ood_val", strange)):
        if len(found) < FOLDS:
            raise ValueError(f"`{name}` must have at least {FOLDS} images, one a fold, got {len(found)}. Add images.")
    scaler = StandardScaler().fit(torch.cat([known, strange]).numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # on defaults that differ between versions, in names only
        regression = LogisticRegressionCV(cv=FOLDS, scoring="accuracy", max_iter=1000).fit(
            scaler.transform(torch.cat([known, strange]).numpy()), [0] * len(known) + [1] * len(strange)
        )
    weights = torch.as_tensor(regression.coef_[0] / scaler.scale_)
    device = detector.get_buffer("means0").device
    return MahalanobisLayers(
        detector.net,
        detector.layers,
        detector.gaussians,
        magnitude=detector.magnitude,
        weights=weights.to(device),
    )
