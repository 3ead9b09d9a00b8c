"""Gate families: how a logit a[t, k] becomes a gate z[t, k] in [0, 1].

A family is a small stateless object. `sample` draws the gates of a training step, `deterministic` gives
those of evaluation, `prob_open` the probability (or its stand-in) that a gate is not zero, which is what the
sparsity control counts. A new family is one class in a file of its own plus an entry in `GATE_FAMILIES`
(`graftwork.gates.registry`), one in `graftwork.gates.names.GATES`, and one in
`graftwork.sparsity.registry.CONTROLS` if neither the penalty nor the Lagrangian fits it.

All tasks share the noise of an adapter: with one uniform draw u[k] per adapter, an adapter of the shared
pool is stored with probability exactly `max_t P(z[t, k] != 0)`, which
`graftwork.sparsity` relies on.
"""
