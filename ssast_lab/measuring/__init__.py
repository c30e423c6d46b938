"""What models are worth: embeddings, evaluation, probes, comparisons, studies, and how fast they train.

evaluation.py  how well a model does on sounds that it never met, beside baselines that need no model
upstreams.py   any model as what turns sound into embeddings
embedding.py   those of many clips, cached by content
probe.py       the linear probe on them
compare/       many models on many tasks in one table
studies/       the questions that the paper leaves open
bench.py       how fast this machine trains
"""
