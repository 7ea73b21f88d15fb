"""The loss of label words behind a soft prompt, by plain torch on the model itself.

One row at a time, without a batch, a mask or a part of ptune.
"""

import torch
from torch.nn import functional


def word_loss(model, tokenizer, rows, prompt, labels):
    """Mean cross-entropy of `labels` at the end of "<prompt> text answer :"."""
    words = tokenizer.convert_tokens_to_ids(labels)
    losses = []
    for row in rows:
        ids = torch.tensor(tokenizer(f"{row['text']} answer :")["input_ids"])
        inputs = torch.cat([prompt, model.get_input_embeddings()(ids)])
        logits = model(inputs_embeds=inputs[None]).logits[0, -1, words]
        right = torch.tensor([labels.index(row["label"])])
        losses.append(functional.cross_entropy(logits[None], right))
    return torch.stack(losses).mean()
