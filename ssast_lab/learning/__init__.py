"""Training: the loop, runs, optimisers and precision; pretraining, fine-tuning, and the models that SSAST is compared with.

precision.py   on which hardware bfloat16 is faster
muon.py        the optimiser of the quick recipes
schedule.py    the learning rate of each step
heard.py       which clips a run was started with, and whether they are still the same
provenance.py  the machine, versions and command of each start, and what training has said
run.py         the folder of a training run
interrupts.py  what ends a run, kept until its step is done
task.py        what can be trained, and what training says about each step
trainer.py     one process's part of a step: forward, backward, clipping, update, evaluation
processes.py   the processes that train together: how their group begins, and how it ends
safeguards.py  what a run writes as it goes on, and what ends it early
training.py    the loop of everything that is trained
augment.py     clips mixed, louder, faster and brighter, where pretraining is asked for it
unlabelled.py  what all tasks that learn from sound without labels have in common
pretrain.py    the masked pretext task: ``for step in pretrain(config)``
diagnosis.py   what the curves of a run say
forecast.py    the training of APC and wav2vec
variation.py   clips of fine-tuning varied: mixup, SpecAugment, noise
classify.py    fine-tuning: ``for step in fine_tune(config)``
"""
