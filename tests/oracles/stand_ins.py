"""A deep prompt on models that make their own scores: a few tokens stand in for it.

DeBERTa (1, 2, 3) and MPNet, by the model's own code. Shares no code with ptune.
"""

import torch


class StandIns:
    """The row with more tokens behind it, whose keys and values are the prompt's.

    The untouched model computes it; hooks on its projections put the prompt in, and what it adds
    to the scores for distances is made zero there. (What these tokens ask themselves is not read.)
    """

    def __init__(self, body, sites, deep, names, bias_name):
        self.body, self.sites, self.deep = body, sites, deep
        self.names, self.bias_name = names, bias_name
        self.slots, self.length = len(deep[0][0]), 0

    def states(self, ids):
        undo = []
        self.length = len(ids)
        for site, name in enumerate(self.sites):
            undo += self.put(self.body.get_submodule(name), *self.deep[site])
        holder = self.holder()
        own = getattr(type(holder), self.bias_name, None)
        if own is not None:
            setattr(type(holder), self.bias_name, self.without_distances(own, self.slots))
        try:
            row = torch.tensor([[*ids, *[7] * self.slots]])
            with torch.no_grad():
                return self.body(input_ids=row).last_hidden_state[0, : len(ids)]
        finally:
            for handle in undo:
                handle.remove()
            if own is not None:
                setattr(type(holder), self.bias_name, own)

    def holder(self):
        return next(m for m in self.body.modules() if hasattr(type(m), self.bias_name))

    def put(self, module, keys, values):
        def hook(tensor):
            def replaced(inner, args, output):
                # (The same projections make the tables of distances: those have other lengths.)
                if output.shape[1] != self.length + self.slots:
                    return None
                output = output.clone()
                output[0, -self.slots :] = tensor.flatten(1)
                return output

            return replaced

        key, value = (getattr(module, name) for name in self.names)
        return [
            key.register_forward_hook(hook(keys)),
            value.register_forward_hook(hook(values)),
        ]

    @staticmethod
    def without_distances(own, slots):
        def made(*args, **kwargs):
            bias = own(*args, **kwargs).clone()
            bias[..., -slots:] = 0
            return bias

        return made


class FusedStandIns(StandIns):
    """The same for one projection that makes queries, keys and values of each head in turn."""

    def put(self, module, keys, values):
        def replaced(inner, args, output):
            heads = output.clone().view(1, output.shape[1], module.num_attention_heads, -1)
            width = heads.shape[-1] // 3
            heads[0, -self.slots :, :, width : 2 * width] = keys
            heads[0, -self.slots :, :, 2 * width :] = values - module.v_bias.view(1, -1, width)
            return heads.flatten(2)

        return [module.in_proj.register_forward_hook(replaced)]
