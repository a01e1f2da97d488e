"""The ways in which a value is copied, sent to another process, or kept in a file."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def by_cloudpickle(value: Any) -> Any:
    cloudpickle = pytest.importorskip("cloudpickle")
    return cloudpickle.loads(cloudpickle.dumps(value))


def saved(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled, by_cloudpickle, saved])
