"""Where each method of `course_lib.additive` acts in a block: one drawing a method."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..runtime import CourseError
from .drawing import draw_block
from .style import Picture

if TYPE_CHECKING:
    from ..additive import Method


class Drawing(NamedTuple):
    """What is drawn of a method: a title, its sites with their labels, and what of the model itself trains."""

    title: str
    sites: dict[str, str]
    own: tuple[str, ...] = ()


def where_it_adds(method: Method | type[Method] | str) -> Picture:
    """A pre-norm block with a method's additions at their places; a class or a name stands for its defaults.

    Raises CourseError for a name that is no method, a method that has no drawing, and a bare Sum, which has no parts.
    """
    from ..additive import METHODS

    if isinstance(method, str):
        if method not in METHODS:
            raise CourseError(f"{method!r} is not a method of course_lib.additive; methods are: {', '.join(METHODS)}.")
        method = METHODS[method]
    if method is METHODS["Sum"]:
        raise CourseError("A Sum is drawn with its parts: where_it_adds(Sum(PromptTuning(), ParallelAdapter())).")
    drawings = [drawing(part) for part in getattr(method, "methods", (method,))]
    sites: dict[str, str] = {}
    for one in drawings:
        for site, label in one.sites.items():
            sites[site] = f"{sites[site]}, {label}" if site in sites else label
    title = "; ".join(one.title for one in drawings)
    return draw_block(
        sites, own=dict.fromkeys(kind for one in drawings for kind in one.own), title=title[0].upper() + title[1:],
        note=method.formula.replace("<-", "←"),
    )


def drawing(method: Method | type[Method]) -> Drawing:
    """The drawing of one method, a class standing for its defaults."""
    name = method.__name__ if isinstance(method, type) else type(method).__name__
    if name in DRAWINGS:
        return DRAWINGS[name]
    match name:
        case "BottleneckAdapter" if method.placement == "pfeiffer":
            return Drawing("one adapter a block, on the stream", {"stream": "adapter"})
        case "BottleneckAdapter":
            title, own = "adapters after attention and after the FFN", () if method.compat else ("norms",)
            return Drawing(title, {"after-attention": "adapter", "after-ffn": "adapter"}, own)
        case "ParallelAdapter":
            beside = {"ffn": "the FFN"}.get(method.where, method.where)
            return Drawing(f"a term beside {beside}", {f"beside-{method.where}": "s f(x)"})
        case "PTuning":
            return Drawing("a computed prompt before the text", {"embedding": f"{method.encoder.upper()}(P')"})
        case "LoRA":
            inside = [LETTERS[role] for role in LETTERS if role in method.targets]
            sites = {"attention": f"B A x on {', '.join(inside)}"} if inside else {}
            if {"ffn_in", "ffn_out"} & set(method.targets):
                sites["ffn"] = "B A x"
            return Drawing("low-rank terms inside the weights", sites)
    raise CourseError(f"There is no drawing of {name}. Draw it by its sites: draw_block({{'beside-ffn': 'f(x)'}}).")


LETTERS = {"query": "q", "key": "k", "value": "v", "query_key_value": "q, k, v", "output": "output"}
DRAWINGS = {
    "AdapterFusion": Drawing("a mixture of frozen adapters, on the stream", {"stream": "fusion"}),
    "BitFit": Drawing("the biases train and nothing is added", {}, ("biases",)),
    "Compacter": Drawing(
        "adapters of Kronecker products after both sublayers", {"after-attention": "adapter", "after-ffn": "adapter"}
    ),
    "FullFineTuning": Drawing("all weights train and nothing is added", {}, ("weights",)),
    "IA3": Drawing("vectors that scale keys, values and the FFN", {"attention": "times l_k, l_v", "ffn": "times l_ff"}),
    "LadderSideTuning": Drawing("a ladder of small blocks beside the model", {"ladder": "side block"}),
    "LayerNormTuning": Drawing("the layer norms train and nothing is added", {}, ("norms",)),
    "LinearProbe": Drawing("a head outside and nothing inside", {"head": "head"}),
    "LlamaAdapter": Drawing("a gated prompt inside attention", {"attention": "tanh(g) prompt P"}),
    "LoReFT": Drawing("an edit of the stream, at some positions", {"stream": "edit"}),
    "MixAndMatch": Drawing(
        "a prefix in attention and a term beside the FFN",
        {"attention": "prefix (keys, values)", "beside-ffn": "s f(x)"},
    ),
    "PrefixTuning": Drawing("keys and values of its own in attention", {"attention": "prefix (keys, values)"}),
    "PromptTuning": Drawing("vectors before the text", {"embedding": "prompt P"}),
    "SideTuning": Drawing("a small network beside the model", {"side": "small network S(x)"}),
    "UniPELT": Drawing("three additions, each behind a gate", {"attention": "gated prefix, LoRA", "stream": "G f(h)"}),
    "VocabularyBias": Drawing("a vector on the logits", {"logits": "vocabulary bias"}),
}
