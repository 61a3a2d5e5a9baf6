"""All sizes that depend on the scale, in one table: chapter -> scale -> name -> value.

A notebook writes `size = cl.sizes("41")` once and then `size.reviews`, `size.epochs`; the same cells run everywhere.
"""

from __future__ import annotations

from types import SimpleNamespace

from course_lib.runtime import CourseError, scale

SIZES: dict[str, dict[str, dict[str, object]]] = {
    "00": {
        "laptop": {"words": 8, "reviews": 64, "test": 48, "batch": 8, "learning_rate": 0.1},
        "gpu": {"words": 25, "reviews": 1600, "test": 500, "batch": 16, "learning_rate": 0.03},
    },
    "11": {"laptop": {"train": 100_000, "places": 200}, "gpu": {"train": 100_000, "places": 2000}},
    "12": {
        "laptop": {"batch": 32, "validation": 24, "test": 48, "draws": 3},
        "gpu": {"batch": 128, "validation": 60, "test": 150, "draws": 5},
    },
    "21": {
        "laptop": {"reviews": 4, "tokens": 24, "lengths": (512, 1024, 2048, 4096), "new_tokens": 24},
        "gpu": {"reviews": 16, "tokens": 24, "lengths": (512, 1024, 2048, 4096, 8192), "new_tokens": 64},
    },
    "22": {"laptop": {"reviews": 5}, "gpu": {"reviews": 30}},
    "31": {
        "laptop": {
            "old_articles": 1200, "new_articles": 200, "paragraphs": 1000, "bpe_articles": 200, "merges": 2000,
            "mixed_articles": 100, "mixed_reviews": 500, "mixed_functions": 400, "messages": 8, "sentences": 14,
            "minhash_texts": 400, "leak_splits": ("test",),
        },
        "gpu": {
            "old_articles": 2841, "new_articles": 569, "paragraphs": 2850, "bpe_articles": 1000, "merges": 8000,
            "mixed_articles": 500, "mixed_reviews": 4000, "mixed_functions": 2000, "messages": 100, "sentences": 100,
            "minhash_texts": 1000, "leak_splits": ("train", "validation", "test"),
        },
    },
    "32": {
        "laptop": {
            "train_texts": 480, "held_texts": 4, "width": 64, "layers": 2, "heads": 4, "context": 64, "batch": 8,
            "rate": 6e-3, "epochs": 1, "watch": 40, "samples_at": (0, 80, 240), "compiled": False, "samples": 20,
            "sample_tokens": 40,
        },
        "gpu": {
            "train_texts": 2906, "held_texts": 16, "width": 768, "layers": 12, "heads": 12, "context": 256, "batch": 64,
            "rate": 6e-4, "epochs": 4, "watch": 50, "samples_at": (0, 50, 200), "compiled": True, "samples": 40,
            "sample_tokens": 100,
        },
    },
    "33": {
        "laptop": {
            "conversations": 400, "windows": 16000, "copy_steps": 450, "symbols": 200_000, "mask_steps": 350,
            "test_words": 10_000, "head_rows": 1000, "head_test_rows": 300, "span_steps": 80,
        },
        "gpu": {
            "conversations": 2900, "windows": 200_000, "copy_steps": 1000, "symbols": 2_000_000, "mask_steps": 3000,
            "test_words": 50_000, "head_rows": 5000, "head_test_rows": 1000, "span_steps": 1000,
        },
    },
    "41": {
        "laptop": {
            "words": 20, "rows": 256, "test_rows": 256, "adapter_epochs": 2, "full_epochs": 2, "probe_epochs": 10,
            "prompt_rows": 24, "prompt_test_rows": 36, "curve_rows": 40,
        },
        "gpu": {
            "words": 1000, "rows": 2000, "test_rows": 1569, "adapter_epochs": 2, "full_epochs": 3, "probe_epochs": 10,
            "prompt_rows": 64, "prompt_test_rows": 128, "curve_rows": 256,
        },
    },
    "42": {
        "laptop": {
            "words": 10, "rows": 400, "test_rows": 292, "epochs": 2, "seeds": 3, "widths": (1, 4, 64),
            "stds": (0.1, 0.3), "ablation_rows": 200, "source_rows": 240, "source_epochs": 3, "few_rows": 100,
            "few_epochs": 8,
        },
        "gpu": {
            "words": 1000, "rows": 2000, "test_rows": 1569, "epochs": 3, "seeds": 5, "widths": (1, 2, 4, 32, 64, 256),
            "stds": (0.0001, 0.1, 0.3), "ablation_rows": 800, "source_rows": 2000, "source_epochs": 3,
            "few_rows": 100, "few_epochs": 8,
        },
    },
    "43": {
        "laptop": {
            "words": 8, "train_rows": 40, "test_rows": 40, "sentences": 6, "skill_steps": 160, "skill_rate": 6e-3,
            "steps": 60, "sweep_seeds": 2,
        },
        "gpu": {
            "words": 20, "train_rows": 800, "test_rows": 300, "sentences": 100, "skill_steps": 400, "skill_rate": 6e-3,
            "steps": 60, "sweep_seeds": 5,
        },
    },
    "44": {
        "laptop": {
            "words": 9, "rows": 160, "test": 256, "epochs": 3, "ladder_epochs": 5, "spam": 64, "memory_rows": 2,
            "memory_tokens": 32, "news": 6, "news_tokens": 20,
        },
        "gpu": {
            "words": 1000, "rows": 2000, "test": 1569, "epochs": 3, "ladder_epochs": 5, "spam": 256, "memory_rows": 8,
            "memory_tokens": 128, "news": 32, "news_tokens": 64,
        },
    },
    "45": {
        "laptop": {"words": 12, "rows": 256, "test_rows": 256, "epochs": 3, "lora_rate": 2e-3, "term_rate": 8e-3},
        "gpu": {"words": 1000, "rows": 2000, "test_rows": 1569, "epochs": 3, "lora_rate": 2e-3, "term_rate": 8e-3},
    },
    "46": {
        "laptop": {"tokens": 16, "rate": 4e-3, "high": 0.1, "low": 1e-3, "sgd": (0.1, 1.0)},
        "gpu": {"tokens": 32, "rate": 4e-3, "high": 0.1, "low": 1e-3, "sgd": (0.1, 1.0)},
    },
    "47": {
        "laptop": {
            "words": 10, "rows": 240, "test_rows": 150, "epochs": 4, "seeds": 3, "headlines": 400, "gpt_epochs": 2,
            "images": 1200, "image_epochs": 2,
        },
        "gpu": {
            "words": 1000, "rows": 2000, "test_rows": 400, "epochs": 3, "seeds": 5, "headlines": 4000, "gpt_epochs": 2,
            "images": 1200, "image_epochs": 4,
        },
    },
    "52": {
        "laptop": {
            "words": 6000, "test_words": 80, "steps": 60, "entries": 40, "new_tokens": 20, "shown": 16, "marked": 16,
            "beam_entries": 16, "both": 32, "contrast": 1000, "contrast_steps": 300,
        },
        "gpu": {
            "words": 40_000, "test_words": 1000, "steps": 400, "entries": 150, "new_tokens": 40, "shown": 30,
            "marked": 24, "beam_entries": 150, "both": 200, "contrast": 1700, "contrast_steps": 1000,
        },
    },
    "54": {
        "laptop": {"intents": 700, "slot_epochs": 3, "epochs": 4, "zh_train": 300, "zh_test": 150, "zh_minilm": 120},
        "gpu": {"intents": 3200, "slot_epochs": 4, "epochs": 6, "zh_train": 4000, "zh_test": 1000, "zh_minilm": 2000},
    },
    "55": {
        "laptop": {
            "places": 50, "factor_epochs": 15, "film_epochs": 6, "customers": 1000, "mall_epochs": 8,
            "cold_customers": 2000, "cold_epochs": 8,
        },
        "gpu": {
            "places": 50, "factor_epochs": 30, "film_epochs": 40, "customers": 5000, "mall_epochs": 20,
            "cold_customers": 10000, "cold_epochs": 15,
        },
    },
    "56": {
        "laptop": {
            "epochs": 60, "users": 4, "user_tokens": 3840, "user_test": 1920, "counted": 500, "messages": 32,
            "slow_messages": 4, "functions": 1000, "coded": 8, "code_tokens": 24,
        },
        "gpu": {
            "epochs": 60, "users": 4, "user_tokens": 25_600, "user_test": 5120, "counted": 2900, "messages": 300,
            "slow_messages": 100, "functions": 11_000, "coded": 200, "code_tokens": 128,
        },
    },
    "57": {
        "laptop": {
            "spam": 300, "spam_test": 400, "reviews": 240, "reviews_test": 250, "shop": 200, "shop_test": 250,
            "additions": 16, "requests": 96,
        },
        "gpu": {
            "spam": 3000, "spam_test": 600, "reviews": 2000, "reviews_test": 500, "shop": 4000, "shop_test": 1000,
            "additions": 64, "requests": 2000,
        },
    },
}


def sizes(chapter: str) -> SimpleNamespace:
    """The sizes of a chapter ("41") at the present scale, as attributes."""
    if chapter not in SIZES:
        raise CourseError(f"There are no sizes for chapter {chapter!r}; the table has {', '.join(SIZES)}.")
    return SimpleNamespace(**SIZES[chapter][scale()])
