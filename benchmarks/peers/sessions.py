"""Interactions to sequences in pandas or Polars, as Tapestry's sessionize defines them.

sessions.py LIBRARY FOLDER DOMAIN…: an item belongs to the domain with most of its interactions; users with at least 5
interactions in 2 domains and items with at least 5 are kept, until nothing changes; a user's last 512 in the order of
time, ties by a hash; the last is the test's, the one before it validation's; ids are contiguous. Prints seconds, peak
memory in MiB and the rows kept as JSON.
"""

import json
import sys
import time
from pathlib import Path

COLUMNS = ["user_id", "item_id", "timestamp"]
LONGEST = 512


def with_pandas(folder: Path, domains: list[str]) -> int:
    import numpy as np
    import pandas as pd

    parts = [pd.read_parquet(folder / f"{name}.parquet", columns=COLUMNS) for name in domains]
    sizes = [len(part) for part in parts]
    table = pd.concat(parts, ignore_index=True)
    table["domain"] = np.repeat(np.arange(len(domains), dtype=np.int16), sizes)
    user_text, item_text = {}, {}
    for key, text in (("user", user_text), ("item", item_text)):
        table[key], text["text"] = pd.factorize(table.pop(f"{key}_id"), sort=True)
    claims = table.groupby(["item", "domain"]).size().rename("rows").reset_index()
    owners = claims.sort_values(["item", "rows", "domain"], ascending=[True, False, True]).drop_duplicates("item")
    table = table[table["domain"].to_numpy() == owners.set_index("item")["domain"].reindex(table["item"]).to_numpy()]
    before = -1
    while before != len(table):
        before = len(table)
        users = table.groupby("user").agg(rows=("item", "size"), domains=("domain", "nunique"))
        good = users.index[(users["rows"] >= 5) & (users["domains"] >= 2)]
        table = table[table["user"].isin(good)]
        items = table["item"].value_counts()
        table = table[table["item"].isin(items.index[items >= 5])]
    table = table.assign(tie=pd.util.hash_array((table["user"] * 2**31 + table["item"]).to_numpy()))
    table = table.sort_values(["user", "timestamp", "tie"])
    length = table.groupby("user")["item"].transform("size")
    place = table.groupby("user").cumcount()
    table = table.assign(position=place - np.maximum(0, length - LONGEST), split=np.maximum(0, place + 3 - length))
    table = table[place >= length - LONGEST]
    items = table.groupby(["domain", "item"]).agg(train_count=("split", lambda split: (split == 0).sum())).reset_index()
    items["number"] = np.arange(len(items))
    users = table.groupby("user").size().rename("length").reset_index()
    table = table.assign(user=table["user"].rank(method="dense").astype(np.int32) - 1)
    table["item"] = items.set_index("item")["number"].reindex(table["item"]).to_numpy()
    table[["user", "position", "item", "domain", "timestamp", "split"]].to_parquet(folder / "pandas.parquet")
    items.assign(item_id=item_text["text"][items["item"]]).to_parquet(folder / "pandas.items.parquet")
    users.assign(user_id=user_text["text"][users["user"]]).to_parquet(folder / "pandas.users.parquet")
    return len(table)


def with_polars(folder: Path, domains: list[str]) -> int:
    import polars as pl

    def collected(frame: pl.LazyFrame) -> pl.DataFrame:
        return frame.collect(engine="streaming")

    loaded = pl.concat(
        [
            pl.scan_parquet(folder / f"{name}.parquet")
            .select(COLUMNS)
            .with_columns(domain=pl.lit(index, dtype=pl.Int16))
            for index, name in enumerate(domains)
        ]
    )
    texts = {
        key: collected(loaded.select(f"{key}_id").unique().sort(f"{key}_id")).with_row_index(key)
        for key in ("user", "item")
    }
    rows = (
        loaded.join(texts["user"].lazy(), on="user_id")
        .join(texts["item"].lazy(), on="item_id")
        .select("user", "item", "domain", "timestamp")
    )
    table = collected(rows)
    owners = (
        table.lazy()
        .group_by("item", "domain")
        .len()
        .sort(["item", "len", "domain"], descending=[False, True, False])
        .unique("item", keep="first", maintain_order=True)
    )
    table = collected(table.lazy().join(owners, on=["item", "domain"], how="semi"))
    before = -1
    while before != len(table):
        before = len(table)
        users = (
            table.lazy()
            .group_by("user")
            .agg(pl.len(), domains=pl.col("domain").n_unique())
            .filter((pl.col("len") >= 5) & (pl.col("domains") >= 2))
        )
        table = collected(table.lazy().join(users, on="user", how="semi"))
        items = table.lazy().group_by("item").len().filter(pl.col("len") >= 5)
        table = collected(table.lazy().join(items, on="item", how="semi"))
    place, length = pl.int_range(pl.len()).over("user"), pl.len().over("user").cast(pl.Int64)
    placed = (
        table.lazy()
        .with_columns(tie=pl.struct("user", "item").hash())
        .sort("user", "timestamp", "tie")
        .with_columns(place=place, length=length)
        .filter(pl.col("place") >= pl.col("length") - LONGEST)
        .with_columns(
            position=pl.col("place") - pl.max_horizontal(0, pl.col("length") - LONGEST),
            split=pl.max_horizontal(0, pl.col("place") + 3 - pl.col("length")),
        )
    )
    table = collected(placed)
    items = collected(
        table.lazy().group_by("domain", "item").agg(train_count=(pl.col("split") == 0).sum()).sort("domain", "item")
    ).with_row_index("number")
    users = collected(table.lazy().group_by("user").len().sort("user")).with_row_index("number")
    numbered = (
        table.lazy()
        .join(items.lazy().select("item", item_number="number"), on="item", maintain_order="left")
        .join(users.lazy().select("user", user_number="number"), on="user", maintain_order="left")
        .select("user_number", "position", "item_number", "domain", "timestamp", "split")
    )
    collected(numbered).write_parquet(folder / "polars.parquet")
    items.join(texts["item"], on="item").write_parquet(folder / "polars.items.parquet")
    users.join(texts["user"], on="user").write_parquet(folder / "polars.users.parquet")
    return len(table)


def main() -> None:
    library, folder, *domains = sys.argv[1:]
    run = {"pandas": with_pandas, "polars": with_polars}[library]
    __import__(library)
    started = time.perf_counter()
    kept = run(Path(folder), domains)
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024  # getrusage's is no less than its parent's was
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "kept": kept}))


if __name__ == "__main__":
    main()
