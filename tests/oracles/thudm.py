"""The prompt encoders of P-tuning and P-tuning v2, written anew from the papers and their code.

Module names are those of the published code, so that a state dict has its keys. Shares no code
with ptune.
"""

from inspect import signature

import torch
from torch import nn


class LamaPromptEncoder(nn.Module):
    """P-tuning on LAMA: half-width LSTM in both directions, two layers, then an MLP."""

    def __init__(self, slots, width):
        super().__init__()
        self.slots = slots
        self.embedding = nn.Embedding(slots, width)
        self.lstm_head = nn.LSTM(
            width, width // 2, num_layers=2, dropout=0.0, bidirectional=True, batch_first=True
        )
        self.mlp_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self):
        embedded = self.embedding(torch.arange(self.slots)).unsqueeze(0)
        return self.mlp_head(self.lstm_head(embedded)[0]).squeeze(0)


class FewShotPrompt(nn.Module):
    """P-tuning on few-shot SuperGLUE: whole-width LSTM and an MLP, or an MLP alone."""

    def __init__(self, slots, width, kind):
        super().__init__()
        self.slots = slots
        self.prompt_embeddings = nn.Embedding(slots, width)
        if kind == "lstm":
            self.lstm_head = nn.LSTM(
                width, width, num_layers=2, bidirectional=True, batch_first=True
            )
            self.mlp_head = nn.Sequential(
                nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width)
            )
        else:
            self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self):
        embedded = self.prompt_embeddings(torch.arange(self.slots))
        if hasattr(self, "mlp"):
            return self.mlp(embedded)
        return self.mlp_head(self.lstm_head(embedded.unsqueeze(0))[0]).squeeze(0)

    def saved(self):
        return {name: module.state_dict() for name, module in self.named_children()}


class PrefixEncoder(nn.Module):
    """P-tuning v2: a table, or a table and a network."""

    def __init__(self, slots, layers, width, projection=None):
        super().__init__()
        self.slots = slots
        floats = layers * 2 * width
        self.embedding = nn.Embedding(slots, floats if projection is None else width)
        if projection is not None:
            self.trans = nn.Sequential(
                nn.Linear(width, projection), nn.Tanh(), nn.Linear(projection, floats)
            )

    def forward(self, rows):
        embedded = self.embedding(torch.arange(self.slots)[None].expand(rows, -1))
        return self.trans(embedded) if hasattr(self, "trans") else embedded


class _BertWithPrefix(nn.Module):
    """P-tuning v2's models: prefix as `past_key_values`, and a head of their own name."""

    def __init__(self, bert, slots, projection=None):
        super().__init__()
        config = bert.config
        self.heads, self.width = config.num_attention_heads, config.hidden_size
        self.layers, self.slots = config.num_hidden_layers, slots
        self.bert = bert
        self.prefix_encoder = PrefixEncoder(slots, self.layers, self.width, projection)

    def run(self, ids, **more):
        from transformers import DynamicCache

        past = self.prefix_encoder(len(ids)).view(
            len(ids), self.slots, self.layers * 2, self.heads, self.width // self.heads
        )
        past = past.permute([2, 0, 3, 1, 4]).split(2)
        mask = torch.ones(len(ids), self.slots + ids.shape[1])
        cache = DynamicCache(past)
        takes = signature(self.bert.forward).parameters
        name = "cache" if "cache" in takes else "past_key_values"  # before transformers 5.24
        return self.bert(ids, attention_mask=mask, **{name: cache}, **more)


class BertPrefixForSequenceClassification(_BertWithPrefix):
    """Pooler, classifier."""

    def __init__(self, bert, slots, labels, projection=None):
        super().__init__(bert, slots, projection)
        self.classifier = nn.Linear(self.width, labels)

    def forward(self, ids):
        return self.classifier(self.run(ids).pooler_output)


class BertPrefixForTokenClassification(_BertWithPrefix):
    """A classifier of every token."""

    def __init__(self, bert, slots, labels, projection=None):
        super().__init__(bert, slots, projection)
        self.classifier = nn.Linear(self.width, labels)

    def forward(self, ids, **more):
        return self.classifier(self.run(ids, **more).last_hidden_state)


class BertPrefixModelForQuestionAnswering(_BertWithPrefix):
    """Where an answer starts and ends."""

    def __init__(self, bert, slots, projection=None):
        super().__init__(bert, slots, projection)
        self.qa_outputs = nn.Linear(self.width, 2)

    def forward(self, ids, **more):
        return self.qa_outputs(self.run(ids, **more).last_hidden_state)
