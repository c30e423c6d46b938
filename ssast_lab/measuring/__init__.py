"""What models are worth: embeddings, evaluation, probes, comparisons, studies, and how fast they train."""
