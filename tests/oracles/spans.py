"""Entities counted slowly: every span of a sentence is looked at, from the rules of BIO alone."""


def spans(tags):
    """(type, start, stop) of well written BIO tags."""
    found = set()
    for start in range(len(tags)):
        for stop in range(start + 1, len(tags) + 1):
            kind = tags[start][2:]
            begins = tags[start] == f"B-{kind}"
            goes_on = all(tag == f"I-{kind}" for tag in tags[start + 1 : stop])
            ends = stop == len(tags) or tags[stop] != f"I-{kind}"
            if begins and goes_on and ends:
                found.add((kind, start, stop))
    return found


def three(truth, predicted, kind=None):
    """F1, precision and recall over all sentences; of one type, or of all."""

    def every(sentences):
        return {
            (number, *span)
            for number, tags in enumerate(sentences)
            for span in spans(tags)
            if kind in (None, span[0])
        }

    true, said = every(truth), every(predicted)
    right = len(true & said)
    precision = right / len(said) if said else 0.0
    recall = right / len(true) if true else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return f1, precision, recall
