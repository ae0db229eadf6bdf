"""Compares our export of RecTools' vectors with its own method `recommend`; runs in the environment of RecTools.

rectools_recommend.py FOLDER MODEL DATA: FOLDER holds rectools_training.py, DATA is what it reads. Trains for an epoch,
asks RecTools for all items of each target's user at the target's time, and prints as JSON the largest difference of a
score from the product of our vectors, and the number of scores compared.
"""

import json
import sys

import numpy as np
import pandas as pd
import torch

sys.path.append(sys.argv[1])
import rectools_training as training
from rectools import Columns
from rectools.dataset import Dataset


def main(name: str, file: str) -> None:
    options = ["--data", file, "--model", name, "--width", "8", "--window", "4", "--loss", "softmax", "--times"]
    sys.argv = ["rectools_training.py", *options, "--report", "unused"]
    args = training.arguments()
    torch.manual_seed(0)
    with np.load(file) as arrays:
        data = dict(arrays)
    model = training.build(args, training.Recorder(lambda _: None))
    model.fit(training.training_set(data))
    query, item = training.embed(training.trained(model, data), data)
    user_of = np.searchsorted(data["offsets"], data["targets"], side="right") - 1
    rows = np.concatenate([np.arange(data["offsets"][u], t) for u, t in zip(user_of, data["targets"], strict=True)])
    moments = data["timestamp"].astype("datetime64[ms]").astype("datetime64[ns]")
    columns = {
        Columns.User: np.searchsorted(data["offsets"], rows, side="right") - 1,
        Columns.Item: data["item"][rows],
        Columns.Weight: 1.0,
        Columns.Datetime: moments[rows],
    }
    context = pd.DataFrame({Columns.User: user_of, Columns.Weight: 0.0, Columns.Datetime: moments[data["targets"]]})
    everything = int(data["items"])
    asked = np.flatnonzero(~np.isnan(query[:, 0]))
    history = Dataset.construct(pd.DataFrame(columns))
    more = {"context": context} if name == "hstu" else {}
    found = model.recommend(user_of[asked], history, everything, filter_viewed=False, **more)
    request = {user: number for number, user in enumerate(user_of)}
    ours = [query[request[u]] @ item[i] for u, i in zip(found[Columns.User], found[Columns.Item], strict=True)]
    print(json.dumps({"difference": float(np.abs(ours - found[Columns.Score]).max()), "compared": len(ours)}))


if __name__ == "__main__":
    main(*sys.argv[2:])
