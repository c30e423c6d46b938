"""What models give and how good they are: embeddings, predictions, evaluation, probes, comparisons, studies; and how fast they train.

evaluation.py   a pretext model on unseen sounds, beside baselines that need no model
linear.py       linear layers on a CPU by oneDNN
upstreams.py    models behind one interface: sound in, embeddings out
embedding.py    the embeddings of many clips, cached by content
windows.py      windows of sounds
points.py       windows of many sounds as points in the plane
listener.py     a model that is led through sounds of any length, window by window
embedder.py     any sound, file or array in; embeddings of clips, windows, time steps and patches out
timesteps.py    time steps as benches ask for them
hear.py         the API of HEAR 2021
xares.py        an encoder for X-ARES
transformer.py  embeddings in a pipeline of scikit-learn
prediction.py   what classifiers and heads say of any sound
library.py      the windows of a folder of sounds in one file, made in parts, and searched
index.py        an index of such a file, for millions of windows
probe.py        the linear probe on frozen embeddings
compare/        many models on many tasks in one table
studies/        the questions that the paper leaves open
bench.py        how fast this machine trains
"""
