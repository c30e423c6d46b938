"""How fast this machine trains, beside other implementations in the same run where they are at hand.

Every figure is a ratio of steps measured in turn (ours, theirs, ours, theirs, ...), pair by pair, since machines drift. A step
is: log-mel features in, masks drawn, forward, joint loss, backward, optimiser.
"""

import contextlib
import importlib
import io
import json
import platform
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from ssast_lab import audio, data, files, masking, objectives
from ssast_lab.config import MaskConfig, RunConfig, model_config, pretrain_config
from ssast_lab.learning.precision import fast_bf16
from ssast_lab.learning.pretrain import draw_masks, pretrain
from ssast_lab.model import SSAST

Step = Callable[[Tensor], Tensor]


def bench(
    model: str = "tiny-patch",
    batch: int = 8,
    masks: int = 400,
    repeats: int = 5,
    official: Path | None = None,
    timm: Path | None = None,
    audyn: bool = False,
    official_batch: int | None = None,
    feed: Path | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure training steps on this machine and print a table.

    Args:
        model: the preset whose joint training step is measured.
        batch: clips of 10.24 s in a step.
        masks: patches hidden in each clip.
        repeats: steps of each contestant that count.
        official: a copy of the official repository (YuanGongND/ssast), to measure against.
        timm: where timm 0.4.5, which the official code demands, is installed, if not in this environment.
        audyn: measure against Audyn (pip install audyn), which must be in this environment.
        official_batch: clips in the other implementations' step, where they cannot hold as many.
        feed: a folder of sound: also measure training fed from its files against training fed from memory.
        out: a JSON file to write all figures to.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    figures: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.processor() or platform.machine()} CPU",
        "threads": torch.get_num_threads(), "torch": torch.__version__, "model": model, "batch": batch, "masks": masks,
    }  # fmt: skip
    fbank = torch.randn(batch, 1024, 128, device=device) * 0.5
    theirs = torch.randn(official_batch or batch, 1024, 128, device=device) * 0.5
    contestants: dict[str, tuple[Callable[[], Step], Tensor]] = {
        "ours, fp32": (partial(_ours, model, masks, device, bf16=False), fbank)
    }
    if fast_bf16(device):
        contestants["ours, bf16"] = (partial(_ours, model, masks, device, bf16=True), fbank)
        if device.type == "cuda":
            contestants["ours, bf16, compiled"] = (
                partial(_ours, model, masks, device, bf16=True, compiled=True),
                fbank,
            )
    if official:
        published = partial(_official, official, timm, model, masks, device)
        contestants["official, fp32 as published"] = (published, theirs)
        if device.type == "cuda":
            contestants["official, TF32"] = (partial(published, tf32=True), theirs)
            contestants["official, bf16 autocast"] = (partial(published, bf16=True), theirs)
    if audyn:
        contestants["Audyn, fp32"] = (partial(_audyn, model, masks, device), theirs)
        if fast_bf16(device):
            contestants["Audyn, bf16 autocast"] = (partial(_audyn, model, masks, device, bf16=True), theirs)

    seconds, peaks = _take_turns(contestants, repeats, device)
    figures["steps"] = {}
    print(f"{model}, batch {batch}, {masks} of 512 patches hidden, {figures['machine']}, torch {torch.__version__}\n")
    best = "ours, bf16, compiled" if "ours, bf16, compiled" in seconds else list(seconds)[min(1, fast_bf16(device))]
    for name, times in seconds.items():
        clips = len(contestants[name][1])
        rate = clips / statistics.median(times)
        ratios = [len(fbank) / a / (clips / b) for a, b in zip(seconds[best], times, strict=True)]
        row = {"clips_per_second": rate, f"{best} is faster by": statistics.median(ratios),
               "least": min(ratios), "most": max(ratios)}  # fmt: skip
        text = f"  {name:28} {rate:9.2f} clips/s   {best} is {row[f'{best} is faster by']:5.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        if peaks[name]:
            row["clips_per_GB"] = clips / (peaks[name] / 1e9)
            text += f"   {row['clips_per_GB']:6.2f} clips per GB of memory"
        figures["steps"][name] = row
        print(text)

    operations = count_operations(model, masks)
    matrix = matrix_rate(device, torch.bfloat16 if fast_bf16(device) else torch.float32)
    reached = operations * figures["steps"][best]["clips_per_second"]
    figures |= {"operations_per_clip": operations, "matrix_rate": matrix, "share_of_matrix_rate": reached / matrix}
    print(f"\n  a clip's step takes {operations / 1e9:.1f} GFLOP (counted: matrix products of forward and backward); {best} does "
          f"{reached / 1e12:.3f} TFLOP/s,\n  {reached / matrix:.1%} of the {matrix / 1e12:.2f} TFLOP/s of one large matrix product")  # fmt: skip
    figures["parts"] = _parts(masks, device, repeats)
    if feed:
        figures["feed"] = _feed(model, masks, batch, feed)
    if out:
        files.write(out, json.dumps(figures, indent=1) + "\n")
    return figures


def _take_turns(contestants: dict[str, tuple[Callable[[], Step], Tensor]], repeats: int, device: torch.device
                ) -> tuple[dict[str, list[float]], dict[str, int]]:  # fmt: skip
    """(seconds of each step, most bytes of GPU memory that a step took: with its own weights, gradients and optimiser, and
    without the other contestants')"""

    def allocated() -> int:
        return torch.cuda.memory_allocated() if device.type == "cuda" else 0

    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    peaks: dict[str, int] = {}
    steps: dict[str, Step] = {}
    own: dict[str, int] = {}  # bytes that a contestant holds between its steps
    for name, (build, fbank) in contestants.items():
        before = allocated()
        steps[name] = build()
        steps[name](fbank).item()  # the optimiser's state is made in the first step
        own[name] = allocated() - before
    for turn in range(repeats + 1):  # one more to warm up
        for name, (_, fbank) in contestants.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            others = allocated() - own[name]
            begin = time.perf_counter()
            steps[name](fbank).item()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
            peaks[name] = torch.cuda.max_memory_allocated() - others if device.type == "cuda" else 0
    return seconds, peaks


def _ours(name: str, masks: int, device: torch.device, bf16: bool, compiled: bool = False) -> Step:
    model = SSAST(model_config(name)).to(device)
    if compiled:
        for block in model.encoder.blocks:
            block.compile()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    mask = MaskConfig(masks, (3, 5) if name.endswith("patch") else None)
    turn = iter(range(1_000_000))

    def step(fbank: Tensor) -> Tensor:
        hidden = draw_masks(model.grid, mask, len(fbank), 0, next(turn))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            guess = model(fbank, hidden)
        losses = objectives.joint(guess, model.targets(fbank, hidden))
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        optimizer.step()
        return losses.total.detach()

    return step


def _official(repository: Path, timm: Path | None, name: str, masks: int, device: torch.device, tf32: bool = False,
              bf16: bool = False) -> Step:  # fmt: skip
    """The step of the official ``src/traintest_mask.py``: two forwards, each with masks of its own."""
    size, kind = name.split("-")
    shape = (16, 16) if kind == "patch" else (128, 2)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        official = _official_module(repository, timm).ASTModel(
            fshape=shape[0], tshape=shape[1], fstride=shape[0], tstride=shape[1], input_fdim=128, input_tdim=1024,
            model_size=size, pretrain_stage=True,
        )  # fmt: skip
    model = nn.DataParallel(official, device_ids=[0] if device.type == "cuda" else None).to(device)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, 1e-4, weight_decay=5e-7, betas=(0.95, 0.999))

    def step(fbank: Tensor) -> Tensor:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            _, nce = model(fbank, "pretrain_mpc", mask_patch=masks, cluster=kind == "patch")
            mse = model(fbank, "pretrain_mpg", mask_patch=masks, cluster=kind == "patch")
        loss = nce.mean() + 10 * mse.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        return loss.detach()

    return step


def _official_module(repository: Path, timm: Path | None) -> Any:
    """The official model file, with what it imports but a current PyTorch no longer has."""
    import collections.abc

    six = types.ModuleType("torch._six")
    vars(six).update(container_abcs=collections.abc, int_classes=int, string_classes=str, inf=float("inf"))
    sys.modules.setdefault("torch._six", six)
    sys.modules.setdefault("matplotlib", types.ModuleType("matplotlib"))
    sys.modules.setdefault("matplotlib.pyplot", types.ModuleType("matplotlib.pyplot"))
    sys.modules["matplotlib"].pyplot = sys.modules["matplotlib.pyplot"]  # type: ignore[attr-defined]
    for folder in (timm, repository / "src" / "models"):
        if folder and str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.import_module("ast_models")


def _audyn(name: str, masks: int, device: torch.device, bf16: bool = False) -> Step:
    """Audyn's multi-task model and losses, with its fast masker; it too runs two forwards."""
    ssast = importlib.import_module("audyn.models.ssast")
    criterion = importlib.import_module("audyn.criterion.ssast")
    config = model_config(name)
    embedding = ssast.PositionalPatchEmbedding(
        config.width, kernel_size=config.patch, stride=config.patch, insert_cls_token=True, insert_dist_token=True,
        n_bins=128, n_frames=1024,
    )  # fmt: skip
    layer = nn.TransformerEncoderLayer(
        config.width, config.heads, 4 * config.width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    backbone = nn.TransformerEncoder(layer, config.depth, nn.LayerNorm(config.width), enable_nested_tensor=False)
    cluster = dict(min_cluster=3) if name.endswith("patch") else dict(min_cluster=1, max_cluster=2)
    masker = ssast.FastMasker(config.width, num_masks=masks, sample_wise=True, **cluster)
    values = config.grid.values
    model = ssast.MultiTaskSSASTMPM(
        embedding, masker, backbone, ssast.MLP(config.width, values), ssast.MLP(config.width, values)
    ).to(device)
    reconstruct, classify = criterion.ReconstructionLoss(), criterion.ClassificationLoss()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, weight_decay=5e-7, betas=(0.95, 0.999))

    def step(fbank: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            drawn, picked = model(fbank.transpose(1, 2))
            loss = 10 * reconstruct(*drawn) + classify(*picked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def count_operations(name: str, masks: int) -> int:
    """Floating-point operations (two for each multiply-add) in the matrix products of one clip's forward and backward."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = SSAST(model_config(name))
    fbank, mask = torch.zeros(1, 1024, 128), draw_masks(model.grid, MaskConfig(masks, None), 1, 0, 0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # not every fused kernel is counted
        objectives.joint(model(fbank, mask), model.targets(fbank, mask)).total.backward()
    return counter.get_total_flops()


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 2.0) -> float:
    """FLOP/s of a large square matrix product: the median of what fits into ``seconds``."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        begin = time.perf_counter()
        (a @ b)[0, 0].item()
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / statistics.median(times)


def _parts(masks: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Features and masks against the loops that they replace: seconds of each, and the ratios."""
    import torchaudio

    grid, generator = model_config("tiny-patch").grid, torch.Generator().manual_seed(0)
    waveforms = torch.randn(64, 10 * audio.SAMPLE_RATE, device=device) * 0.1

    def kaldi_loop() -> None:
        for waveform in waveforms:
            torchaudio.compliance.kaldi.fbank(
                waveform[None], htk_compat=True, sample_frequency=16000, use_energy=False, window_type="hanning",
                num_mel_bins=128, dither=0.0, frame_shift=10,
            )  # fmt: skip

    def published_masks() -> None:
        for _ in range(256):
            _published_mask(grid.columns, grid.count, masks)

    tasks: dict[str, Callable[[], Any]] = {
        "64 clips of 10 s to log-mel": lambda: audio.kaldi_fbank(waveforms),
        "the same, torchaudio clip by clip": kaldi_loop,
        "256 cluster masks": lambda: masking.cluster_mask(grid, masks, generator=generator, batch=256),
        "the same, the published loop": published_masks,
    }
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats + 1):
        for name, task in tasks.items():
            begin = time.perf_counter()
            task()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                times[name].append(time.perf_counter() - begin)
    found = {name: statistics.median(values) for name, values in times.items()}
    names = list(found)
    print()
    for ours, theirs in ((names[0], names[1]), (names[2], names[3])):
        ratio = statistics.median(b / a for a, b in zip(times[ours], times[theirs], strict=True))
        found[f"{ours}: ratio"] = ratio
        print(f"  {ours}: {found[ours] * 1e3:.1f} ms; {theirs}: {found[theirs] * 1e3:.1f} ms; {ratio:.1f}x")
    return found


def _published_mask(columns: int, count: int, hidden: int) -> Tensor:
    """One mask as the official code draws it: blocks, one after the other, until there are too many."""
    import random

    size, found = random.randrange(3) + 3, list[int]()
    while len(set(found)) <= hidden:  # it counts anew after every block
        start = random.randrange(count)
        block = [start + columns * down + right for down in range(size) for right in range(size)]
        found = found + [patch for patch in block if 0 < patch < count]
    return torch.tensor(list(set(found))[:hidden])


def _feed(name: str, masks: int, batch: int, folder: Path) -> dict[str, float]:
    """Clips per second of the real training loop, fed from files and fed from memory, in turn.

    They come in bursts, from all workers at once, and the first have been read ahead: what counts is the time of many steps
    together, after those.
    """
    recipe = pretrain_config(f"modern-{name}-{masks}", train=str(folder), held_out_clips=2)
    workers = max(torch.get_num_threads(), 2)
    ahead = data.AHEAD * workers
    steps = 3 * ahead
    recipe = replace(
        recipe, training=replace(recipe.training, steps=steps, batch=batch, warmup=1, evaluate_every=steps)
    )
    rates: dict[str, list[float]] = {"memory": [], "files": []}
    with TemporaryDirectory() as place:
        for turn in range(3):
            for kind in rates:
                run = RunConfig(
                    f"{place}/{turn}-{kind}", in_memory=kind == "memory", workers=workers, checkpoint_every=steps
                )
                at = [step.seconds for step in pretrain(recipe, run)]
                rates[kind].append(batch * (steps - ahead) / (at[-1] - at[ahead - 1]))
    found = {kind: statistics.median(values) for kind, values in rates.items()}
    found["files / memory"] = statistics.median(f / m for f, m in zip(rates["files"], rates["memory"], strict=True))
    print(
        f"\n  fed from memory {found['memory']:.1f} clips/s, from files {found['files']:.1f}: {found['files / memory']:.1%}"
    )
    return found
