"""Training: the loop, runs, optimisers and precision; pretraining, fine-tuning, and the models that SSAST is compared with."""
