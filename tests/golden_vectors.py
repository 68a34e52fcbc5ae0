"""The golden vectors' networks: their weights are drawn from a seed, and known by a hash."""

import hashlib
import json
import math

import numpy as np
import torch

from tests.places import GOLDEN

# Tables are drawn wider than a layer's weights, whose variance is one over the numbers that a sum
# takes in.
TABLES = {"label_emb.weight": 0.5, "out.2.positional_embedding": 1 / math.sqrt(32)}


def golden_weights(name, model):
    """Return the weights of a golden network, key -> tensor, with the names and shapes of `model`.

    They are drawn in the order of their names, rounded to multiples of 1/256, and equal those that
    the golden outputs were computed with: AssertionError where their SHA-256 differs.
    """
    table = json.loads((GOLDEN / "weights.json").read_text())[name]
    normal = np.random.RandomState(table["seed"]).standard_normal
    digest = hashlib.sha256()
    weights = {}

    for key, parameter in sorted(model.state_dict().items()):
        values = _spread(key, normal(tuple(parameter.shape)))
        values = (np.rint(values * 256) / 256).astype(np.float32)
        digest.update(values.tobytes())
        weights[key] = torch.from_numpy(values)

    assert digest.hexdigest() == table["sha256"], f"{name} is not the network of the golden vectors"
    return weights


def _spread(key, normal):
    if key in TABLES:
        return normal * TABLES[key]
    if normal.ndim > 1:
        return normal / math.sqrt(np.prod(normal.shape[1:]))
    if key.endswith("weight"):  # of a normalization
        return 1 + 0.2 * normal
    return 0.1 * normal
