"""Chapter 56: how many HumanEval problems does SmolLM2 solve, and how many does a constant?"""

from __future__ import annotations

import re
import time

from course_lib.experiments.registry import experiment

CONSTANTS = ("return True", "return False", "return 0", "return []", "return ''", "return None", "return FIRST")
WRITERS = [
    {"writer": "canonical", "temperature": 0.0, "samples": 1, "seed": 0},
    *({"writer": body, "temperature": 0.0, "samples": 1, "seed": 0} for body in CONSTANTS),
    {"writer": "smollm2", "temperature": 0.0, "samples": 1, "seed": 0},
    *({"writer": "smollm2", "temperature": t, "samples": 10, "seed": 0} for t in (0.8, 0.2)),
]


@experiment(
    "56-humaneval",
    about="HumanEval's 164 problems, run in the sandbox: the reference solutions, functions that always answer the "
    "same (FIRST is the first argument), and SmolLM2-135M-Instruct, greedy (temperature 0) and with ten samples of 128 "
    "tokens a problem. pass_k is the unbiased estimate, naive_k 1 - (1 - c/n)^k; the interval is a bootstrap over "
    "problems.",
    grid=WRITERS,
    minutes=45,
)
def humaneval(writer: str, temperature: float, samples: int, seed: int, problems: int = 164) -> dict[str, float]:
    """pass_1 with its interval, pass_k and naive_k for k = 2, 5, 10 where there are ten samples, how runs ended."""
    import course_lib as cl
    from course_lib.tasks import programs

    rows = list(cl.load_data("human-eval")["test"])[:problems]
    begun = time.process_time()
    written = answers_of(writer, rows, temperature, samples, seed)
    seconds = time.process_time() - begun
    ended = [[programs.try_program(row, text).status for text in texts] for row, texts in zip(rows, written)]
    right = [statuses.count("ok") for statuses in ended]
    measured = {"problems": len(rows), "writing_seconds": round(seconds, 1), "solved": sum(c > 0 for c in right)}
    share = cl.evaluation.bootstrap([c / samples for c in right])
    measured |= {"pass_1": share.value, "pass_1_low": share.low, "pass_1_high": share.high}
    for k in (2, 5, 10):
        if k <= samples:
            measured[f"pass_{k}"] = mean(programs.pass_at_k(samples, c, k) for c in right)
            measured[f"naive_{k}"] = mean(1 - (1 - c / samples) ** k for c in right)
    every = [status for statuses in ended for status in statuses]
    return measured | {f"ended_{name}": every.count(name) for name in ("ok", "error", "timeout", "memory", "killed")}


def answers_of(writer: str, rows: list[dict], temperature: float, samples: int, seed: int) -> list[list[str]]:
    """The completions of one writer, `samples` for each problem."""
    import course_lib as cl
    from course_lib.tasks import programs

    if writer == "canonical":
        return [[row["canonical_solution"]] for row in rows]
    if writer.startswith("return"):
        return [["    " + writer.replace("FIRST", first_argument(row["prompt"], row["entry_point"]))] for row in rows]
    prompts = [row["prompt"].rstrip("\n") for row in rows]  # a prompt that ends in a new line splits "\n    " in two
    return programs.complete(cl.load_base(writer), prompts, samples=samples, temperature=temperature, seed=seed)


def first_argument(prompt: str, name: str) -> str:
    """The name of the first argument of a function."""
    found = re.search(rf"def {name}\(\s*(\w+)", prompt)
    return found.group(1) if found else "None"


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)
