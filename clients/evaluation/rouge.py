"""Compares texts with the ones that people wrote: ROUGE-L, by the package rouge-score.

ROUGE-L (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section 3.1) of two
texts is the F1 of precision and recall of the longest common subsequence of their words. A word, to
the package, is a run of Latin letters without accents and of digits, in lower case; words are not
stemmed here, which is the package's default too.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence

from userdp.sim.common.errors import ConfigurationError

_LIBRARY = "rouge_score"
_WORD = re.compile(r"[a-z0-9]")


def check() -> None:
    """Check that the package is there.

    Raises:
        ConfigurationError: it is not installed.
    """
    if importlib.util.find_spec(_LIBRARY) is None:
        raise ConfigurationError(
            "rouge.records: rouge-score is not installed; install userdp with its extra, pip "
            "install 'userdp[rouge]', or set rouge.records=0."
        )


def has_words(text: str) -> bool:
    """Whether the package sees a word in this text: else its score is 0, whatever is compared.

    >>> has_words("Yes!"), has_words("Да!")
    (True, False)
    """
    return _WORD.search(text.lower()) is not None


def mean_f1(references: Sequence[str], texts: Sequence[str]) -> float:
    """Mean over the pairs of the F1 of ROUGE-L, from 0 to 1.

    Args:
        references: what people wrote; at least one.
        texts: what is compared with them, in the same order.
    """
    from rouge_score.rouge_scorer import RougeScorer  # an optional extra

    scorer = RougeScorer(["rougeL"])
    scores = [
        scorer.score(reference, text)["rougeL"].fmeasure
        for reference, text in zip(references, texts, strict=True)
    ]
    return float(sum(scores)) / len(scores)
