"""The Amazon review releases: their publishers' own addresses, and every category by its published name.

2014 and 2018 are of J. McAuley's lab (https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html and
https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/), 2023 of https://amazon-reviews-2023.github.io. Of 2014 and
2018 the ratings-only files are taken, which hold every review's user, item, rating and time and no text; the 5-core
sets come as reviews. 2023 comes as reviews, and its 5-core set as the benchmark's ratings, from the dataset hub, which
tells each file's checksum.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from tapestry.core.errors import TapestryError

_2014 = """
    Amazon_Instant_Video Apps_for_Android Automotive Baby Beauty Books CDs_and_Vinyl Cell_Phones_and_Accessories
    Clothing_Shoes_and_Jewelry Digital_Music Electronics Grocery_and_Gourmet_Food Health_and_Personal_Care
    Home_and_Kitchen Kindle_Store Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden
    Pet_Supplies Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games Video_Games
"""
_2018 = """
    AMAZON_FASHION All_Beauty Appliances Arts_Crafts_and_Sewing Automotive Books CDs_and_Vinyl
    Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music Electronics Gift_Cards
    Grocery_and_Gourmet_Food Home_and_Kitchen Industrial_and_Scientific Kindle_Store Luxury_Beauty
    Magazine_Subscriptions Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden Pet_Supplies
    Prime_Pantry Software Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games Video_Games
"""
_2023 = """
    All_Beauty Amazon_Fashion Appliances Arts_Crafts_and_Sewing Automotive Baby_Products
    Beauty_and_Personal_Care Books CDs_and_Vinyl Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry
    Digital_Music Electronics Gift_Cards Grocery_and_Gourmet_Food Handmade_Products Health_and_Household
    Health_and_Personal_Care Home_and_Kitchen Industrial_and_Scientific Kindle_Store Magazine_Subscriptions
    Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden Pet_Supplies Software
    Sports_and_Outdoors Subscription_Boxes Tools_and_Home_Improvement Toys_and_Games Unknown Video_Games
"""
_2023_WITHOUT_5CORE = """
    Amazon_Fashion Appliances Digital_Music Handmade_Products Health_and_Personal_Care Subscription_Boxes
"""
_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"
_HUB = "https://huggingface.co/datasets/McAuley-Lab/Amazon-Reviews-2023/resolve/main"


@dataclass(frozen=True)
class Release:
    """A release's address for a category, which stands for `{}`, and its categories."""

    name: str
    address: str
    categories: tuple[str, ...]

    def url(self, category: str) -> str:
        """Where the publisher has the file of a category.

        Raises:
            TapestryError: no such category; names those that are like it.
        """
        if category not in self.categories:
            like = difflib.get_close_matches(category, self.categories, n=3, cutoff=0.5) or self.categories
            raise TapestryError(
                f"source.domains: {self.name} has no category {category!r}; it has {', '.join(like)}"
                + ("" if len(like) == len(self.categories) else f" and {len(self.categories) - len(like)} more")
            )
        return self.address.format(category)


def _named(names: str, without: str = "") -> tuple[str, ...]:
    return tuple(name for name in names.split() if name not in without.split())


RELEASES = {
    release.name: release
    for release in (
        Release("amazon-2014", f"{_SNAP}/ratings_{{}}.csv", _named(_2014)),
        Release("amazon-2014-5core", f"{_SNAP}/reviews_{{}}_5.json.gz", _named(_2014)),
        Release("amazon-2018", f"{_UCSD}/amazon_v2/categoryFilesSmall/{{}}.csv", _named(_2018)),
        Release("amazon-2018-5core", f"{_UCSD}/amazon_v2/categoryFilesSmall/{{}}_5.json.gz", _named(_2018)),
        Release("amazon-2023", f"{_UCSD}/amazon_2023/raw/review_categories/{{}}.jsonl.gz", _named(_2023)),
        Release(
            "amazon-2023-5core", f"{_HUB}/benchmark/5core/rating_only/{{}}.csv", _named(_2023, _2023_WITHOUT_5CORE)
        ),
    )
}
