"""A simulated mall: products with names, customers with tastes, and the true chance of every next purchase.

Nothing here is real. The names were written for the course; the purchases are drawn by a random number generator from
the model below, which the text of chapter 55 says wherever it shows one. Because the chances are known, so is the best
score that any recommender can reach on average.

At each purchase, in week w of the year, a customer
    with chance FOLLOW  looks for what goes with the last purchase: an aisle that follows the last one's,
    else                shops by taste: an aisle by the customer's own taste times the season of the aisle;
and within the aisle takes a product that she does not own yet, by popularity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..runtime import CourseError

AISLES = {
    "tea and coffee": (
        "green tea", "Earl Grey", "espresso beans", "cafetiere", "milk frother", "teapot with infuser", "matcha powder",
        "drip kettle", "oolong leaves", "mocha pot", "instant cappuccino", "coffee grinder", "chai spices",
        "porcelain teacup", "cold brew bottle", "rooibos",
    ),
    "baking": (
        "bread flour", "rolling pin", "muffin tin", "vanilla extract", "cake stand", "icing nozzles", "dried yeast",
        "cookie cutters", "springform pan", "cocoa powder", "dough scraper", "pastry brush", "food colouring",
        "proofing basket", "whisk", "marzipan",
    ),
    "camping": (
        "two-person tent", "sleeping bag", "camping stove", "head torch", "hiking poles", "water filter", "hammock",
        "inflatable mattress", "trekking boots", "rucksack cover", "tent pegs", "mosquito net", "fire starter",
        "folding camp chair", "compass", "survival blanket",
    ),
    "cycling": (
        "bicycle helmet", "inner tube", "pannier bags", "chain oil", "bike lock", "padded cycling shorts", "tyre pump",
        "bell for handlebars", "saddle", "pedals", "rear light for bikes", "puncture kit", "bottle cage", "mudguard",
        "cycling gloves", "derailleur",
    ),
    "garden": (
        "tomato seeds", "watering can", "pruning shears", "potting soil", "lawn mower", "rose bush", "garden hose",
        "plant pots", "compost bin", "spade", "bird feeder", "tulip bulbs", "weed fork", "raised bed", "trellis",
        "slug barrier",
    ),
    "pets": (
        "dog lead", "cat litter", "hamster wheel", "aquarium pump", "chew bone", "scratching post", "rabbit hay",
        "puppy bed", "bird cage", "fish flakes", "catnip mouse", "flea collar", "dog biscuits", "terrarium",
        "grooming brush for cats", "kitten food",
    ),
    "babies": (
        "nappies", "baby bottle", "pram", "dummy", "baby monitor", "wet wipes", "high chair", "cot mobile", "rattle",
        "teething ring", "romper suit", "bottle steriliser", "baby carrier", "changing mat", "bib", "infant car seat",
    ),
    "toys": (
        "building bricks", "doll's house", "jigsaw puzzle", "board game", "remote-control car", "teddy bear",
        "train set", "kite", "modelling clay", "marbles", "skipping rope", "puppets", "toy kitchen", "card game",
        "spinning top", "magic kit for children",
    ),
    "music": (
        "guitar strings", "drumsticks", "ukulele", "metronome", "sheet music stand", "violin rosin", "keyboard piano",
        "harmonica", "microphone", "capo", "amplifier", "tambourine", "trumpet mute", "bass guitar", "recorder flute",
        "tuning fork",
    ),
    "office": (
        "ballpoint pens", "stapler", "printer paper", "desk lamp", "ring binder", "sticky notes", "toner cartridge",
        "paper shredder", "whiteboard", "envelopes", "desk chair", "hole punch", "calculator", "highlighters",
        "filing cabinet", "wall planner",
    ),
    "computers": (
        "laptop stand", "USB cable", "wireless mouse", "mechanical keyboard", "monitor", "webcam", "hard disk",
        "graphics card", "Wi-Fi router", "memory stick", "docking station", "headset", "laptop sleeve", "cooling fan",
        "network switch", "power bank",
    ),
    "skincare": (
        "sun cream", "hand lotion", "lip balm", "night cream", "facial cleanser", "bath salts", "shaving foam",
        "clay mask", "body scrub", "eye serum", "deodorant", "cotton pads", "nail file", "aftershave", "shower oil",
        "face toner",
    ),
}  # fmt: skip
FOLLOWS = {  # what goes with what: where one looks after a purchase
    "tea and coffee": "baking", "baking": "tea and coffee", "camping": "skincare", "cycling": "camping",
    "garden": "pets", "pets": "garden", "babies": "toys", "toys": "music", "music": "computers",
    "office": "computers", "computers": "office", "skincare": "babies",
}  # fmt: skip
PEAKS = {  # the week of the year in which an aisle sells most
    "tea and coffee": 2, "baking": 49, "camping": 27, "cycling": 20, "garden": 15, "pets": 40, "babies": 8,
    "toys": 50, "music": 44, "office": 1, "computers": 36, "skincare": 30,
}  # fmt: skip
FOLLOW, SAME_AISLE = 0.6, 0.5  # a follow-up stays in its aisle or goes to the aisle that follows
SEASON = 1.5  # at its peak an aisle sells e^1.5 = 4.5 times what it sells in between
ZIPF = 0.8  # within an aisle the k-th product sells k^-0.8 times the first
WEEKS = 52


@dataclass(frozen=True)
class Mall:
    """A simulated year of the mall; products are numbered from 1, week from 0."""

    names: list[str]  # of the products, names[0] is padding's
    aisle: np.ndarray  # (V,) the aisle of each product, -1 for padding
    popularity: np.ndarray  # (V,) weight within the aisle
    tastes: np.ndarray  # (U, A) each customer's chances of the aisles, season aside
    purchases: list[dict]  # user, item, timestamp (seconds from the new year), in the order of time

    def chances(self, user: int, history: list[int], week: int) -> np.ndarray:
        """(V,) the true chance of each product to be what this customer takes next: the oracle."""
        return _chances(self.tastes[user], history, week, self.aisle, self.popularity)


def seasons(week: int) -> np.ndarray:
    """(A,) how much each aisle sells in a week, 1 on a neutral one."""
    peaks = np.array([PEAKS[name] for name in AISLES])
    return np.exp(SEASON * np.cos(2 * np.pi * (week - peaks) / WEEKS))


def _chances(taste: np.ndarray, history: list[int], week: int, aisle: np.ndarray, popularity: np.ndarray) -> np.ndarray:
    by_taste = taste * seasons(week)
    by_aisle = by_taste / by_taste.sum()
    if history:
        names = list(AISLES)
        last = aisle[history[-1]]
        follow_up = np.zeros(len(names))
        follow_up[last] += SAME_AISLE
        follow_up[names.index(FOLLOWS[names[last]])] += 1 - SAME_AISLE
        by_aisle = FOLLOW * follow_up + (1 - FOLLOW) * by_aisle
    weight = popularity.copy()
    weight[history] = 0  # nobody buys a thing twice here
    total = np.bincount(aisle[1:], weights=weight[1:], minlength=len(by_aisle))
    by_aisle = np.where(total > 0, by_aisle, 0)
    chances = np.zeros(len(aisle))
    chances[1:] = (by_aisle / by_aisle.sum() / np.where(total > 0, total, 1))[aisle[1:]] * weight[1:]
    return chances


def simulate(users: int = 1000, fewest: int = 6, most: int = 30, seed: int = 0) -> Mall:
    """Draw a year of purchases; the same seed gives the same mall on every machine.

    Each customer buys between `fewest` and `most` products at times spread over the year.
    """
    if users < 1 or not 1 <= fewest <= most <= 60:
        raise CourseError(f"A mall has customers with 1 to 60 purchases each; {users}, {fewest}, {most} were given.")
    rng = np.random.default_rng(seed)
    names = ["", *(name for products in AISLES.values() for name in products)]
    aisle = np.array([-1, *(number for number, products in enumerate(AISLES.values()) for _ in products)])
    popularity = np.zeros(len(names))
    for number, products in enumerate(AISLES.values()):
        popularity[aisle == number] = rng.permutation(np.arange(1, len(products) + 1)) ** -ZIPF
    tastes = rng.dirichlet(np.full(len(AISLES), 0.3), size=users)
    tastes = 0.9 * tastes + 0.1 / len(AISLES)
    purchases = []
    for user in range(users):
        count = rng.integers(fewest, most + 1)
        times = np.sort(rng.integers(0, WEEKS * 7 * 86400, size=count))
        history: list[int] = []
        for time in times.tolist():
            chances = _chances(tastes[user], history, week_of(time), aisle, popularity)
            item = int(np.searchsorted(chances.cumsum(), rng.random() * chances.sum(), side="right"))
            history.append(item)
            purchases.append({"user": user, "item": item, "timestamp": time})
    return Mall(names, aisle, popularity, tastes, sorted(purchases, key=lambda row: row["timestamp"]))


def week_of(timestamp: int) -> int:
    """The week of the year of a purchase, 0 to 51."""
    return int(timestamp // (7 * 86400)) % WEEKS
