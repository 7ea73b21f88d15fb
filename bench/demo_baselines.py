"""Print three simple baselines on the demo data.

1. Always the more frequent label.
2. Surface features only (length, punctuation, capitals, greeting, ...): how much of the
   label can be guessed without reading the words. It should stay close to 50 %.
3. A bag of words (TF-IDF of word unigrams and bigrams): what a classical model learns
   from the training rows.

All are trained on ``train.csv`` and scored on ``test.csv``: 2 and 3 as logistic regressions, 2 also
as a random forest and cross-validated over both files together. Needs scikit-learn.
Run: ``python bench/demo_baselines.py`` (``--errors`` also lists what the bag of words gets wrong)
"""

import csv
import re
import sys
from pathlib import Path

from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

GREETING = re.compile(r"^(hi|hey|hello|dear|good (morning|afternoon|evening)|to whom)\b", re.I)
DATA = Path(__file__).resolve().parents[1] / "ptune" / "demo"


def read_split(name):
    """Texts and labels of one of the two files."""
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def surface_features(text):
    """Numbers that say how a message looks and nothing about what it means."""
    words = text.split()
    letters = [char for char in text if char.isalpha()]
    return [
        len(text),
        len(words),
        len(text) / len(words),
        text.count("!"),
        text.count("?"),
        text.count(","),
        text.count("."),
        text.count("'"),
        text.endswith("."),
        sum(char.isdigit() for char in text),
        sum(char.isupper() for char in letters) / max(1, len(letters)),
        text[0].islower(),
        text.isupper(),
        any(ord(char) > 0x2000 for char in text),
        bool(GREETING.match(text)),
    ]


def main():
    """Print the sizes of the two files and the accuracies of the baselines."""
    train_texts, train_labels = read_split("train")
    test_texts, test_labels = read_split("test")
    for name, labels in (("train", train_labels), ("test", test_labels)):
        science = labels.count("science")
        print(f"{name}: {len(labels)} rows, {science / len(labels):.1%} science")
    majority = max(sorted(set(train_labels)), key=train_labels.count)
    share = test_labels.count(majority) / len(test_labels)
    print(f"always {majority}: {share:.1%} on test")

    train_surface = [surface_features(text) for text in train_texts]
    test_surface = [surface_features(text) for text in test_texts]
    both_surface, both_labels = train_surface + test_surface, train_labels + test_labels
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    forest = RandomForestClassifier(300, min_samples_leaf=3, random_state=0)
    for name, model in (("logistic regression", linear), ("random forest", forest)):
        held_out = model.fit(train_surface, train_labels).score(test_surface, test_labels)
        crossed = cross_val_score(model, both_surface, both_labels, cv=folds).mean()
        print(
            f"surface features, {name}: {held_out:.1%} on test, "
            f"{crossed:.1%} in 10-fold cross-validation over all rows"
        )

    words = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    accuracy = words.fit(train_texts, train_labels).score(test_texts, test_labels)
    print(f"TF-IDF words and word pairs, logistic regression: {accuracy:.1%} on test")
    if "--errors" in sys.argv:
        guesses = words.predict(test_texts)
        for text, true, guess in zip(test_texts, test_labels, guesses, strict=True):
            if true != guess:
                print(f"  {true:7s} | {text}")


if __name__ == "__main__":
    main()
