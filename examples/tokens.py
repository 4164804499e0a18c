"""Compare losses on tokens: sequences of different length, a rare tag, padding that counts nowhere.

    steelyard compare examples/tokens.py

Made-up sentences of twenty words. A word's tag is 1 after "the", 2 if it stands between two equal
words, which is rare, and else 0. The collate function pads; the network returns `.logits` of shape
(B, T, C), as those of Hugging Face do.
"""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from steelyard import compare

PADDING = -100
TAGS = ("other", "after the", "between equals")


class Sentences(Dataset):
    """Words and tags of each sentence, as a dict."""

    def __init__(self, number: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.words = [torch.tensor(rng.integers(0, 20, rng.integers(5, 20))) for _ in range(number)]

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        words = self.words[row]
        before, after = words.roll(1), words.roll(-1)
        labels = (before == 0).long()
        labels[before == after] = 2
        return {"words": words, "labels": labels}


def padded(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        "words": pad_sequence([s["words"] for s in samples], batch_first=True),
        "labels": pad_sequence([s["labels"] for s in samples], True, padding_value=PADDING),
    }


class Tagger(nn.Module):
    """Embeds words, mixes neighbours, and gives logits of three tags for each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.mix = nn.Conv1d(16, 64, 3, padding=1)
        self.head = nn.Linear(64, len(TAGS))

    def forward(self, words: Tensor) -> SimpleNamespace:
        """Logits (B, T, 3) of words (B, T)."""
        mixed = self.mix(self.embed(words).mT).relu().mT  # (B, T, 64)
        return SimpleNamespace(logits=self.head(mixed))


def main() -> None:
    study = compare.networks(
        Tagger,
        train=Sentences(300, seed=0),
        test=Sentences(200, seed=1),
        losses=["focal", "balanced-softmax"],
        select="macro_f1",
        collate=padded,
        classes=TAGS,
        epochs=15,
        batch_size=32,
        draws=3,
        seeds=5,
        name="made-up sentences",
        out="tokens-study",
    )
    print(study)


if __name__ == "__main__":
    main()
