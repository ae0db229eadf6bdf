"""The Amazon review releases: the publishers' URLs and the names of all categories.

2014 and 2018 are from J. McAuley's lab (https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html and
https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/), 2023 is from https://amazon-reviews-2023.github.io. Of 2014 and
2018, the ratings-only files are used: they have the user, item, rating and time of every review, but no text. Their
5-core sets exist only as reviews. 2023 exists only as reviews, and its 5-core set as ratings of the benchmark, from the
Hugging Face hub, which gives each file's checksum.
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
    """Where to download a release, and its categories."""

    name: str
    address: str
    """URL of a category's file, with `{}` in place of the category."""
    categories: tuple[str, ...]

    def url(self, category: str) -> str:
        """Return the URL of a category's file.

        Raises:
            TapestryError: there is no such category; the message names similar ones.
        """
        if category not in self.categories:
            similar = difflib.get_close_matches(category, self.categories, n=3, cutoff=0.5) or self.categories
            raise TapestryError(
                f"source.domains: {self.name} has no category {category!r}; it has {', '.join(similar)}"
                + ("" if len(similar) == len(self.categories) else f" and {len(self.categories) - len(similar)} more")
            )
        return self.address.format(category)


def _categories(names: str, without: str = "") -> tuple[str, ...]:
    return tuple(name for name in names.split() if name not in without.split())


RELEASES = {
    release.name: release
    for release in (
        Release("amazon-2014", f"{_SNAP}/ratings_{{}}.csv", _categories(_2014)),
        Release("amazon-2014-5core", f"{_SNAP}/reviews_{{}}_5.json.gz", _categories(_2014)),
        Release("amazon-2018", f"{_UCSD}/amazon_v2/categoryFilesSmall/{{}}.csv", _categories(_2018)),
        Release("amazon-2018-5core", f"{_UCSD}/amazon_v2/categoryFilesSmall/{{}}_5.json.gz", _categories(_2018)),
        Release("amazon-2023", f"{_UCSD}/amazon_2023/raw/review_categories/{{}}.jsonl.gz", _categories(_2023)),
        Release(
            "amazon-2023-5core", f"{_HUB}/benchmark/5core/rating_only/{{}}.csv", _categories(_2023, _2023_WITHOUT_5CORE)
        ),
    )
}
