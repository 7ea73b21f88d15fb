"""Oracle: SQuAD's official evaluation scripts, 1.1 and 2.0, written down again by themselves.

After evaluate-v1.1.py and evaluate-v2.0.py (Rajpurkar et al. 2016, 2018), step for step, on plain
lists in place of their files. Scores are in percent, as theirs.
"""

import collections
import re
import string


def normalize_answer(s):
    def remove_articles(text):
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def white_space_fix(text):
        return " ".join(text.split())

    def remove_punc(text):
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    return white_space_fix(remove_articles(remove_punc(s.lower())))


# --- 1.1 ------------------------------------------------------------------------------------------


def f1_v1(prediction, ground_truth):
    prediction_tokens = normalize_answer(prediction).split()
    ground_truth_tokens = normalize_answer(ground_truth).split()
    common = collections.Counter(prediction_tokens) & collections.Counter(ground_truth_tokens)
    num_same = sum(common.values())
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(prediction_tokens)
    recall = 1.0 * num_same / len(ground_truth_tokens)
    return (2 * precision * recall) / (precision + recall)


def evaluate_v1(golds, predictions):
    f1 = exact_match = 0
    for ground_truths, prediction in zip(golds, predictions, strict=True):
        exact_match += max(
            normalize_answer(prediction) == normalize_answer(truth) for truth in ground_truths
        )
        f1 += max(f1_v1(prediction, truth) for truth in ground_truths)
    total = len(golds)
    return {"exact_match": 100.0 * exact_match / total, "f1": 100.0 * f1 / total}


# --- 2.0 ------------------------------------------------------------------------------------------


def get_tokens(s):
    if not s:
        return []
    return normalize_answer(s).split()


def compute_exact(a_gold, a_pred):
    return int(normalize_answer(a_gold) == normalize_answer(a_pred))


def compute_f1(a_gold, a_pred):
    gold_toks = get_tokens(a_gold)
    pred_toks = get_tokens(a_pred)
    common = collections.Counter(gold_toks) & collections.Counter(pred_toks)
    num_same = sum(common.values())
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        return int(gold_toks == pred_toks)
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(pred_toks)
    recall = 1.0 * num_same / len(gold_toks)
    return (2 * precision * recall) / (precision + recall)


def raw_scores(golds, predictions):
    exact, f1 = [], []
    for answers, a_pred in zip(golds, predictions, strict=True):
        gold_answers = [a for a in answers if normalize_answer(a)]
        if not gold_answers:
            gold_answers = [""]
        exact.append(max(compute_exact(a, a_pred) for a in gold_answers))
        f1.append(max(compute_f1(a, a_pred) for a in gold_answers))
    return exact, f1


def evaluate_v2(golds, predictions):
    exact, f1 = raw_scores(golds, predictions)
    has = [i for i, answers in enumerate(golds) if answers]
    no = [i for i, answers in enumerate(golds) if not answers]

    def mean(scores, qids):
        return 100.0 * sum(scores[i] for i in qids) / len(qids)

    every = range(len(golds))
    out = {"exact": mean(exact, every), "f1": mean(f1, every)}
    if has:
        out |= {"HasAns_exact": mean(exact, has), "HasAns_f1": mean(f1, has)}
    if no:
        out |= {"NoAns_exact": mean(exact, no), "NoAns_f1": mean(f1, no)}
    return out


def find_best_thresh(golds, preds, na_probs):
    _, scores = raw_scores(golds, preds)
    cur_score = best_score = sum(1 for answers in golds if not answers)
    best_thresh = None  # theirs is 0.0, below all probabilities
    for qid in sorted(range(len(golds)), key=lambda k: na_probs[k]):
        # An answer counts by its score; a wrong answer where there is none costs what was counted.
        diff = scores[qid] if golds[qid] else (-1 if preds[qid] else 0)
        cur_score += diff
        if cur_score > best_score:
            best_score = cur_score
            best_thresh = na_probs[qid]
    return 100.0 * best_score / len(golds), best_thresh
