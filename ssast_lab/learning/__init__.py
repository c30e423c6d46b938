"""Training: the loop, runs, optimisers and precision; pretraining, fine-tuning, and the models that SSAST is compared with.

precision.py  where bfloat16 is worth it
muon.py       the optimiser of the quick recipes
run.py        the folder of a training run
training.py   the loop of everything that is trained: processes, checkpoints, resume
pretrain.py   the masked pretext task: ``for step in pretrain(config)``
classify.py   fine-tuning: ``for step in fine_tune(config)``
forecast.py   the training of APC and wav2vec
"""
